"""A second reader's sheet as a page: the images alone, and what they may be called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medclf.dataset.corrections import NONE, POOR, UNSURE
from medclf.files import write_text
from medclf.web.templates import fill


def write_sheet_page(
    path: str | Path,
    items: Sequence[tuple[str, str]],
    vocab: Sequence[str],
    *,
    sheet: str,
    file: str,
    multi_label: bool = False,
    title: str = "Second read",
) -> Path:
    """Write the page; it opens from disk, asks the network for nothing, and downloads the sheet filled in.

    Args:
        path: of the page.
        items: (item, picture) in the order to read them; pictures are data URIs.
        vocab: what an image may be called.
        sheet: its id, under which the browser keeps the answers.
        file: what the download is called.
        multi_label: whether an image may have several labels.
        title: of the page.

    Returns:
        The path of the page.

    Raises:
        OutputError: it cannot be written.
    """
    view = {
        "items": items,
        "vocab": list(vocab),
        "sheet": sheet,
        "file": file,
        "multi_label": multi_label,
        "title": title,
        "no_finding": NONE,
        "marks": ["", UNSURE, POOR],
    }
    write_text(path, fill("sheet.html", view, scripts=["sheet.js"]))
    return Path(path)
