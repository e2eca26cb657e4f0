import pytest


@pytest.fixture
def csv_of(tmp_path):
    def write(text: str, encoding: str = "utf-8"):
        file = tmp_path / "t.csv"
        file.write_bytes(text.encode(encoding))
        return file

    return write
