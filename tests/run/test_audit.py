"""`medclf audit`."""

import pytest
from PIL import Image

from medclf.errors import MedclfWarning
from medclf.run.audit import audit_run


def test_an_audit_says_what_a_scan_says_of_the_pixels(make_images):
    """Images that are all black, masks and files of few levels were told by every command but this one."""
    root = make_images("a/1.png", "b/2.png")
    Image.new("RGB", (40, 30)).save(root / "a" / "black.png")
    with pytest.warns(MedclfWarning, match=r"all black \(a/black.png\)"):
        assert audit_run(root, near=False, embed=False, progress=False)
