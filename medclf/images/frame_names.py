"""FILE#NUMBER: one frame, page or slice of a file of several, named as if it were a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_NAMED_FILES = 5  # in a sentence
_NAMED = re.compile(r"(.+)#(\d{1,7})", re.DOTALL)


def frame_name(path: str, number: int, n_frames: int) -> str:
    """The name of a frame; the numbers of one file are equally long, so that names sort in its order.

    Example:
        >>> frame_name("a.dcm", 3, 12)
        'a.dcm#03'
    """
    return f"{path}#{number:0{len(str(n_frames - 1))}}"


def named_frame(frame: str | int) -> str:
    """How a sentence calls the frame that is chosen.

    Example:
        >>> named_frame("middle"), named_frame(3)
        ('the middle one', 'number 3')
    """
    return f"the {frame} one" if isinstance(frame, str) else f"number {frame}"


def one_of_several(frames: Mapping[str, int], frame: str | int) -> str:
    """How many files hold several frames of which one is used; "" where none does.

    Args:
        frames: how many the file of each image has, by path; 1 where the path names one of them itself.
        frame: which one is used, as `read_pixels` takes it.

    Example:
        >>> one_of_several({"a.tif": 5, "b.png": 1}, "last")
        '1 of 2 files holds several frames, pages or slices (a.tif): the last one of each is used, the other 4 are not'
    """
    several = {path: n for path, n in frames.items() if n > 1}
    if not several:
        return ""
    holds = "holds" if len(several) == 1 else "hold"
    more = f" and {len(several) - _NAMED_FILES} more" if len(several) > _NAMED_FILES else ""
    return (
        f"{len(several)} of {len(frames)} files {holds} several frames, pages or slices "
        f"({', '.join([*several][:_NAMED_FILES])}{more}): {named_frame(frame)} of each is used, "
        f"the other {sum(several.values()) - len(several)} are not"
    )


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
