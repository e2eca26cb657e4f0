"""The one boundary between medclf and the decoders: what they raise becomes a ReadError."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medclf.errors import MedclfError, ReadError, TooLarge, by_road
from medclf.images.frame_names import file_of
from medclf.parallel import ForkSafeLock

MAX_MEGAPIXELS = 300.0
Source = str | Path | bytes

_FILTERS = ForkSafeLock()


@contextlib.contextmanager
def reading(path: str | Path, doing: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a ReadError that says what was being done.

    The foreign message is left out, since pydicom and Pillow quote values of the file, which can name
    a patient; so is the chained exception, which a traceback would print.

    Args:
        path: the file, as the user named it.
        doing: what failed if anything is raised, such as "the header cannot be read".

    Raises:
        ReadError: for everything but medclf's own errors and a stop asked for by the user.
    """
    try:
        yield
    except (MedclfError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the documented boundary; Rust panics are no Exception
        raise ReadError(path, f"{doing} ({_cause(error)})") from None


def _cause(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    short = isinstance(error, EOFError) or "truncated" in str(error)
    return "truncated" if short else type(error).__name__


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence warnings while a header is parsed: pydicom's and Pillow's quote values of the file.

    pydicom logs its warnings too. Filters and loggers are the whole process's, so they are changed for
    headers only, which take a millisecond, and by one thread of ours at a time.
    """
    logger = logging.getLogger("pydicom")
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        was, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = was


def check_size(path: str | Path, shape: tuple[int, ...], max_megapixels: float) -> None:
    """Refuse a declared size before anything is decoded.

    Args:
        path: the file, for the message.
        shape: rows, columns and, where there are several, frames and samples.
        max_megapixels: the largest product, in millions.

    Raises:
        TooLarge: the product is larger.
        ReadError: a side is zero or negative.

    Example:
        >>> check_size("a.dcm", (65535, 65535), 300)
        Traceback (most recent call last):
        medclf.errors.TooLarge: a.dcm: declares 65535 x 65535 = 4295 megapixels, the limit is 300
        if the file is what it says, raise the limit with max_megapixels=
    """
    product = 1
    for side in shape:
        product *= side
    declared = " x ".join(str(side) for side in shape)
    if min(shape) < 1:
        raise ReadError(path, f"declares an empty image of {declared}")
    if product > max_megapixels * 1e6:
        raise TooLarge(
            path,
            f"declares {declared} = {product / 1e6:.0f} megapixels, the limit is {max_megapixels:g}",
            by_road(
                "if the file is what it says, raise the limit with max_megapixels=",
                "if the file is what it says, make it smaller",
            ),
        )


def check_expansion(path: str | Path, declared: int, stored: int, ratio: int, free: int = 1 << 20) -> None:
    """Refuse a small file that declares far more than its encoding can hold, before memory is given to it.

    Args:
        path: the file, for the message.
        declared: bytes or samples the header declares.
        stored: compressed bytes that are there.
        ratio: the most that one stored byte can stand for.
        free: what may be declared in any case.

    Raises:
        TooLarge: `declared` is more than that.
    """
    if declared > free + ratio * stored:
        raise TooLarge(path, f"declares {declared / 1e6:.1f} megabytes of pixels in {stored} bytes")


def named(source: Source) -> str | Path:
    """How messages call a source: its path, never its bytes."""
    return "the given bytes" if isinstance(source, bytes) else source


def opened(source: Source) -> BinaryIO:
    """A path, a frame's name, or bytes that are in memory already, as a file to read.

    Raises:
        ReadError: the path cannot be opened.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    with reading(source, "cannot be opened"):
        return file_of(source).open("rb")


def exactly(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes or raise EOFError."""
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size - len(data)} bytes are missing")
    return data
