"""What an object says of itself: lines of text in a terminal, a small table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_LABELS = 8  # told by name
_EMBEDDED = 8_000_000  # bytes of a page that a notebook is to hold


class Shown:
    """An object that shows what it holds, quickly: `_shown` gives a title, facts, and a table or None."""

    def _shown(self) -> tuple[str, Mapping[str, Any], pd.DataFrame | None]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, facts, _ = self._shown()
        return "\n".join([title, *(f"  {name}: {value}" for name, value in facts.items())])

    def _repr_html_(self) -> str:
        title, facts, table = self._shown()
        rows = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
            for name, value in facts.items()
        )
        below = "" if table is None else table.to_html(border=0, na_rep="")
        return f"<div><strong>{html.escape(title)}</strong><table>{rows}</table>{below}</div>"


class Page(type(Path())):  # type: ignore[misc]
    """The path of a page, which a notebook shows."""

    def _repr_html_(self) -> str | None:
        if self.suffix != ".html" or not self.is_file():
            return None
        link = f'<a href="{html.escape(self.as_posix())}" target="_blank">{html.escape(str(self))}</a>'
        if self.stat().st_size > _EMBEDDED:
            return f"<p>{link}</p>"
        page = html.escape(self.read_text(encoding="utf-8"))
        frame = (
            'sandbox="allow-scripts allow-downloads allow-popups" style="width:100%;height:42em;border:1px solid #ccc"'
        )
        return f'<p>{link}</p><iframe {frame} srcdoc="{page}"></iframe>'


def listed(labels: Any) -> str:
    """Labels as a text, the first few by name.

    Example:
        >>> listed(["cat", "dog"]), listed(range(20))
        ('cat, dog', '0, 1, 2, 3, 4, 5, 6, 7 and 12 more')
    """
    names = [str(label) for label in labels]
    more = f" and {len(names) - _LABELS} more" if len(names) > _LABELS else ""
    return ", ".join(names[:_LABELS]) + more
