import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from medclf.dataset.public_data import CATALOG, DataSet, describe, fetch, fetch_into, unpack
from medclf.errors import DataError, OutputError


def zip_of(**members: bytes) -> bytes:
    """A zip file of the members, "__" in a name standing for "/"."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


NOISE = np.random.default_rng(0).bytes(400_000)
SMALL = zip_of(wrapped__a__1="one", wrapped__a__2="two", wrapped__b__3="three")


@dataclass
class Host:
    """What the server on loopback sends, and what it was asked."""

    url: str
    content: bytes = SMALL
    status: int = 200
    cut_after: int | None = None  # bytes until the line breaks
    location: str = ""
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        host: Host = self.server.host  # type: ignore[attr-defined]
        host.asked.append(self.path)
        self.send_response(host.status)
        self.send_header("Content-Length", str(len(host.content)))
        if host.location:
            self.send_header("Location", host.location)
        self.end_headers()
        self.wfile.write(host.content[: host.cut_after])
        self.close_connection = True


@pytest.fixture
def host() -> Iterator[Host]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.host = Host(url=f"http://127.0.0.1:{server.server_port}/set.zip")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server.host  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture
def small(host) -> DataSet:
    return DataSet("small", host.url, "three files", "do as you like", "A. Nobody 1999", max_unpacked=1000)


# ---- fetch


def test_fetch_once(host, small, tmp_path, capsys):
    folder = fetch_into(small, tmp_path, progress=False)
    assert folder == tmp_path / "small" / "wrapped"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    shown = capsys.readouterr().err
    assert "Licence: do as you like" in shown and "A. Nobody 1999" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert fetch_into(small, tmp_path, progress=False) == folder
    assert len(host.asked) == 1 and capsys.readouterr().err == ""


def test_a_known_checksum_is_compared(host, small, tmp_path):
    known = replace(small, sha256=sha256(SMALL).hexdigest())
    host.content = SMALL.replace(b"three", b"eerht")
    with pytest.raises(DataError, match=r"cannot be fetched: .*SHA256"):
        fetch_into(known, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    host.content = SMALL
    assert fetch_into(known, tmp_path, progress=False).is_dir()


@pytest.mark.parametrize("trouble, reason", [({"cut_after": 100}, "cannot be fetched"), ({"status": 404}, "404")])
def test_what_did_not_come_whole_is_not_kept(host, small, tmp_path, trouble, reason):
    vars(host).update(trouble)
    with pytest.raises(DataError, match=reason):
        fetch_into(small, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    host.status, host.cut_after = 200, None
    assert fetch_into(small, tmp_path, progress=False).is_dir()


def test_no_server_no_folder(host, small, tmp_path):
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch_into(replace(small, url="http://127.0.0.1:9/x"), tmp_path, progress=False)
    (tmp_path / "no").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        fetch_into(small, tmp_path / "no", progress=False)


def test_https_does_not_become_http(host, small, tmp_path, monkeypatch):
    """A redirect to an unprotected address is refused before a byte of it is kept."""
    import requests

    host.status, host.location = 302, "http://127.0.0.1:9/other.zip"
    real = requests.Session.send

    def send(session, request, **options):  # the server speaks http; the answer says https
        request.url = host.url
        dispatch, request.hooks["response"] = request.hooks["response"], []
        answer = real(session, request, **(options | {"allow_redirects": False}))
        answer.url = "https://example.org/x.zip"
        for hook in dispatch:
            hook(answer)
        return answer

    monkeypatch.setattr(requests.Session, "send", send)
    with pytest.raises(DataError, match="unprotected"):
        fetch_into(replace(small, url="https://example.org/x.zip"), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_hostile_archive_is_not_kept(host, small, tmp_path):
    host.content = odd_member("../evil.png")
    with pytest.raises(DataError, match="do not trust"):
        fetch_into(small, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_two_at_once(small, tmp_path):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_into(small, tmp_path, False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "small" / "wrapped"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_by_name(small, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "small", small)
    assert fetch("small", tmp_path, progress=False).is_dir()
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    assert fetch("small", progress=False) == tmp_path / "cache/datasets/small/wrapped"
    with pytest.raises(DataError, match=r"no data set is named 'imagenet'\n.*kvasir-v2"):
        fetch("imagenet")


def test_the_catalog():
    assert set(CATALOG) == {"kvasir-v1", "kvasir-v2", "hello-world"}
    for data_set in CATALOG.values():
        assert data_set.url.startswith("https://") and data_set.url.endswith(".zip")
        assert data_set.licence and data_set.citation and describe(data_set.name) is data_set


# ---- unpack


def archive_at(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_unpack(tmp_path):
    archive = archive_at(tmp_path / "a.zip", zip_of(set__a__1="one", set__b__2="two"))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/set/a/._1", "leftovers")
    unpack(archive, tmp_path / "out", max_bytes=100)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"set/a/1", "set/b/2"}
    assert (tmp_path / "out/set/a/1").read_text() == "one"


def odd_member(name: str, mode: int = 0, flags: int = 0) -> bytes:
    """A zip file whose one member has this very name, mode and flags."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("x" * len(name))
        info.external_attr = mode << 16
        info.create_system = 3
        archive.writestr(info, "/etc/passwd")
        archive.writestr("fine.png", "fine")
    content = file.getvalue().replace(b"x" * len(name), name.encode())
    if flags:
        place = content.index(b"PK\x01\x02") + 8
        content = content[:place] + bytes([content[place] | flags]) + content[place + 1 :]
    return content


@pytest.mark.parametrize(
    "content, reason",
    [
        (odd_member("../evil.png"), "outside the folder"),
        (odd_member("a/../../evil.png"), "outside the folder"),
        (odd_member("/tmp/evil.png"), "outside the folder"),
        (odd_member("C:/evil.png"), "outside the folder"),
        (odd_member("..\\evil.png"), "outside the folder"),
        (odd_member("ok.png\0/../evil"), "outside the folder"),
        (odd_member("link.png", stat.S_IFLNK | 0o777), "link or a device"),
        (odd_member("device.png", stat.S_IFCHR), "link or a device"),
        (odd_member("secret.png", flags=1), "encrypted"),
        (zip_of(big=bytes(2_000_000)), "holds more than"),
        (b"no zip file at all", "is damaged"),
        (zip_of(a=NOISE)[:-1000], "is damaged"),
        (zip_of(a=NOISE).replace(NOISE[:100], bytes(100)), "is damaged"),
    ],
)
def test_hostile_archives_leave_nothing(tmp_path, content, reason):
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = archive_at(inner / "a.zip", content)
    with pytest.raises(DataError, match=reason):
        unpack(archive, inner / "out", max_bytes=1_000_000)
    assert list(inner.iterdir()) == [archive] and list(tmp_path.iterdir()) == [inner]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", "one")
        archive.writestr("a.png", "two")
    with pytest.raises(DataError, match="it is there twice"):
        unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=100)


def test_a_member_larger_than_it_says_stops(tmp_path):
    """The central directory declares 10 bytes of a megabyte of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1_000_000))
    content = file.getvalue().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(DataError, match="is damaged"):
        unpack(archive_at(tmp_path / "a.zip", content), tmp_path / "out", max_bytes=1000)
    assert not (tmp_path / "out").exists()
