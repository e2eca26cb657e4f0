"""A progress bar for work that lasts: shown on a terminal's error stream, never in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE_S = 1.5  # shorter work shows nothing


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(text, total=total)
    begun = time.monotonic()
    started = False
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not started and time.monotonic() - begun > PATIENCE_S:
                bar.start()
                started = True
    finally:
        if started:
            bar.stop()
