"""`medclf audit`."""

import pytest
from PIL import Image

from medclf.errors import MedclfWarning, OutputError
from medclf.run.audit import audit_run


def test_an_audit_says_what_a_scan_says_of_the_pixels(make_images):
    """Images that are all black, masks and files of few levels were told by every command but this one."""
    root = make_images("a/1.png", "b/2.png")
    Image.new("RGB", (40, 30)).save(root / "a" / "black.png")
    with pytest.warns(MedclfWarning, match=r"all black \(a/black.png\)"):
        assert audit_run(root, near=False, embed=False, progress=False)


@pytest.mark.parametrize("kept", ["run.json", "table.csv"])
def test_an_audit_replaces_an_audit_alone(make_images, tmp_path, kept):
    root, out = make_images("a/1.png", "b/2.png"), tmp_path / "out"
    plain = {"out": out, "near": False, "embed": False, "progress": False}
    out.mkdir()
    (out / kept).write_text("kept")
    with pytest.raises(OutputError, match=kept):
        audit_run(root, **plain, overwrite=True)
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(kept, "kept")]
    (out / kept).unlink()
    audit_run(root, **plain)
    with pytest.raises(OutputError, match="holds an audit already"):
        audit_run(root, **plain)
    audit_run(root, **plain, overwrite=True)
