"""FILE#NUMBER: one frame, page or slice of a file of several, named as if it were a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAMED = re.compile(r"(.+)#(\d{1,7})", re.DOTALL)


def frame_name(path: str, number: int, n_frames: int) -> str:
    """The name of a frame; the numbers of one file are equally long, so that names sort in its order.

    Example:
        >>> frame_name("a.dcm", 3, 12)
        'a.dcm#03'
    """
    return f"{path}#{number:0{len(str(n_frames - 1))}}"


def file_and_frame(path: str | Path) -> tuple[Path, int | None]:
    """The file, and the number of the frame that is meant; None where the path is a file's own name.

    Example:
        >>> name, number = file_and_frame("scans/a.dcm#03")
        >>> name.as_posix(), number, file_and_frame("b.png")[1]
        ('scans/a.dcm', 3, None)
    """
    found = _NAMED.fullmatch(os.fspath(path)) if "#" in os.fspath(path) else None
    if found is None or os.path.lexists(path):
        return Path(path), None
    return Path(found[1]), int(found[2])


def file_of(path: str | Path) -> Path:
    """The file that a path, or a frame's name, is of."""
    return file_and_frame(path)[0]
