"""A progress bar for work that lasts: shown on a terminal's error stream, never in a log."""

from __future__ import annotations

import html
import importlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

PATIENCE_S = 1.5  # shorter work shows nothing
_REDRAWN_S = 0.2


def has_screen(*, stderr: bool = True) -> bool:
    """Whether bars can be drawn there: on a terminal or in a notebook, not in a file or a pipe.

    Args:
        stderr: the error stream; else the output.
    """
    from rich.console import Console

    console = Console(stderr=stderr)
    return console.is_terminal or console.is_jupyter


def watch(items: Iterable[Item], total: int | None, text: str, *, progress: bool = True) -> Iterator[Item]:
    """Pass `items` on; once that has lasted a while, show how far it is.

    Args:
        items: what is worked through, one at a time.
        total: how many there are; None where nobody knows.
        text: what is being done.
        progress: False shows nothing at all.

    Returns:
        An iterator over the same items.

    Example:
        >>> list(watch([1, 2, 3], 3, "counting"))
        [1, 2, 3]
    """
    if not progress:
        yield from items
        return
    if not has_screen():
        yield from items
        return
    bar = _bar(total, text)
    begun = time.monotonic()
    started = False
    try:
        for item in items:
            yield item
            bar.advance()
            if not started and time.monotonic() - begun > PATIENCE_S:
                bar.start()
                started = True
    finally:
        if started:
            bar.stop()


def _bar(total: int | None, text: str) -> NotebookBar | _TerminalBar:
    from rich.console import Console

    return NotebookBar(total, text) if Console(stderr=True).is_jupyter else _TerminalBar(total, text)


class _TerminalBar:
    def __init__(self, total: int | None, text: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(text, total=total)
        self.start, self.stop = self._bar.start, self._bar.stop

    def advance(self) -> None:
        self._bar.advance(self._task)


class NotebookBar:
    """A bar of HTML as fastai's are, and no widget, which pages made of a notebook cannot show; it goes with its work.

    Args:
        total, text: see `watch`.
    """

    def __init__(self, total: int | None, text: str) -> None:
        self.total, self.text, self.done = total, text, 0
        self._drawn = 0.0
        self._screen: Any = None
        self._shown: Any = None

    def html(self) -> str:
        """The bar as it stands.

        Example:
            >>> NotebookBar(8, "reading").html()
            '<progress value="0" max="8"></progress> reading 0/8'
        """
        of = "" if self.total is None else f' value="{self.done}" max="{self.total}"'
        return f"<progress{of}></progress> {html.escape(self.text)} {self.done}/{self.total or '?'}"

    def start(self) -> None:
        """Show it."""
        self._screen = importlib.import_module("IPython.display")
        self._shown = self._screen.display(self._screen.HTML(self.html()), display_id=True)

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        if self._shown is not None and time.monotonic() - self._drawn > _REDRAWN_S:
            self._drawn = time.monotonic()
            self._shown.update(self._screen.HTML(self.html()))

    def stop(self) -> None:
        """Take it away."""
        self._shown.update(self._screen.HTML(""))
