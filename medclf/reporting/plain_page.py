"""Plain pages in the report's style: sections of facts, tables, charts and pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medclf.errors import OutputError, by_road
from medclf.files import check_writable, write_text
from medclf.metrics.prevalence import shift_in
from medclf.reporting.tables import Block
from medclf.results.record import RECORD
from medclf.results.run_folder import PAGE
from medclf.web.templates import fill

_OURS = b'<p class="brand">medclf</p>'  # in every page


@dataclass(frozen=True)
class Shot:
    """A picture, as a data URI, with the words below it."""

    source: str
    caption: str


@dataclass(frozen=True)
class Exhibit:
    """Pictures that belong together, such as before and after, what they are of, and what there is to say."""

    name: str
    shots: Sequence[Shot]
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; `count` is told beside its name in the navigation."""

    heading: str
    blocks: Sequence[Block] = ()
    exhibits: Sequence[Exhibit] = field(default_factory=list)
    note: str = ""
    count: int | None = None


def about_of(results: Mapping[str, Any], data_set: str, day: str) -> dict[str, str]:
    """What the head of a page says, as far as it is known: data set, model, date, version, another prevalence."""
    model, version = (results.get("settings") or {}).get("arch"), (results.get("versions") or {}).get("medclf")
    shift = shift_in((results.get("calibration") or {}).get("prevalence"))
    return {
        "Data set": data_set,
        "Model": str(model or ""),
        "Date": day,
        "Version": f"medclf {version}" if version else "",
        "Probabilities": f"for a prevalence of {shift}" if shift else "",
    }


def in_head(about: Mapping[str, str], title: str, *, hide: bool) -> list[tuple[str, str]]:
    """What stands below the title: what is known and not in it; where names are hidden, not the data set's.

    Example:
        >>> in_head({"Data set": "kvasir", "Model": "resnet50", "Date": ""}, "kvasir", hide=False)
        [('Model', 'resnet50')]
    """
    shown = {name: value for name, value in about.items() if value and not (hide and name == "Data set")}
    return [(name, value) for name, value in shown.items() if value != title]


def check_page(path: str | Path, *, overwrite: bool = False) -> None:
    """See that a page may be written there: in place of an earlier page of medclf's at most, and not of a RUN's report.

    Args:
        path: of the page.
        overwrite: whether a page that medclf did not write may be replaced, too.

    Raises:
        OutputError: it is no name of a page, the report of a RUN, a page of somebody else's, or cannot be written.
    """
    path, remedy = Path(path), by_road("give the page another path", "choose another page: --out page.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{path} does not end in .html", remedy)
    check_writable(path)
    if path.name == PAGE and (path.parent / RECORD).exists():
        raise OutputError(f"{path} is the report of a run", remedy)
    if path.is_file() and not overwrite and _OURS not in path.read_bytes():
        raise OutputError(f"{path} exists already, and medclf did not write it", remedy)


def write_page(
    path: str | Path,
    title: str,
    summary: str,
    sections: Sequence[Section],
    cautions: Sequence[str] = (),
    *,
    leaf: bool = False,
    about: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a page that opens from disk and asks the network for nothing.

    Args:
        path: of the page.
        title: its heading.
        summary: what it comes to, in a sentence.
        sections: what it shows; those that hold nothing are left out.
        cautions: what to know before believing it.
        leaf: show one section at a time, whose exhibits a reader enlarges one after the other; else no script runs.
        about: what stands below the title; see `in_head`.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written.

    Example:
        >>> import tempfile
        >>> page = write_page(Path(tempfile.mkdtemp()) / "page.html", "A < B", "Nothing to see.", [])
        >>> "<h1>A &lt; B</h1>" in page.read_text()
        True
    """
    shown = [section for section in sections if section.blocks or section.exhibits or section.note]
    view = {"title": title, "summary": summary, "cautions": cautions, "sections": shown, "about": about}
    write_text(path, fill("page.html", view, scripts=("leaf.js",) if leaf else ()))
    return Path(path)
