"""Pages without a script, in the report's style: sections of facts, tables, charts and pictures side by side."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medclf.files import write_text
from medclf.reporting.tables import Block

STYLE = "report.css"


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
    """A heading with what stands below it."""

    heading: str
    blocks: Sequence[Block] = ()
    exhibits: Sequence[Exhibit] = field(default_factory=list)
    note: str = ""


def write_page(
    path: str | Path, title: str, summary: str, sections: Sequence[Section], cautions: Sequence[str] = ()
) -> Path:
    """Write a page that opens from disk, asks the network for nothing and runs no script.

    Args:
        path: of the page.
        title: its heading.
        summary: what it comes to, in a sentence.
        sections: what it shows; those that hold nothing are left out.
        cautions: what to know before believing it.

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
    templates = environment()
    style = source_of(templates, STYLE)
    html = templates.get_template("page.html").render(
        policy=f"default-src 'none'; img-src data:; style-src '{hash_of(style)}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        title=title,
        summary=summary,
        cautions=cautions,
        sections=[section for section in sections if section.blocks or section.exhibits or section.note],
    )
    write_text(path, html)
    return Path(path)


def environment() -> Environment:
    """The templates of all pages; every value is escaped."""
    return Environment(
        loader=PackageLoader("medclf.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def source_of(templates: Environment, name: str) -> str:
    """A template's own text, not rendered: a style sheet or a script."""
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def hash_of(text: str) -> str:
    """What a content security policy calls a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
