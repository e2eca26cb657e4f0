"""The pictures of a report: which are kept when not all fit, and how they get into the page or beside it."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from medclf.errors import DataError, OutputError, ReadError, argument
from medclf.files import writing
from medclf.images.heatmap import png_uri
from medclf.images.phi import Pictures, Reader, Withheld
from medclf.parallel import map_ahead, n_cores
from medclf.progress import watch
from medclf.reporting.cases import Cases

SMALL, LARGE_BESIDE = 128, 768  # longer side in pixels
LARGE = ((768, 140_000), (512, 70_000), (384, 40_000))  # and the bytes that one takes in the page, about
SMALL_BYTES = 6_000
DEEP, MOST_DEEP = 512, 40  # longer side of the pictures of 16 bits, and how many images have one
ALL_LARGE = 300  # up to so many images are all kept large; above, errors and top losses are
_PICTURE = re.compile(r"\d{6,}-(small|large)\.jpg|other-\d{6,}\.jpg")  # as `fill_folder` names them


@dataclass
class Album:
    """The pictures that a page has.

    Args:
        small: {row: source of the thumbnail}, a data URI or an address relative to the page.
        large: the same for the larger picture.
        deep: {row: (source of a 16-bit picture as `encode_deep` makes it, the value shown black, the one shown white)}.
        outside: {path: thumbnail} of images that are in no row (twins, neighbours).
        outside_missing: {path: words} of those that have no thumbnail.
        unreadable: {row: why it could not be read}.
        withheld: {row: why its reader gave no picture}, "" where it did not say.
        left_out: how many rows have no picture because not all fit.
        errors_left_out: how many of these are errors.
    """

    small: dict[int, str] = field(default_factory=dict)
    large: dict[int, str] = field(default_factory=dict)
    deep: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    outside_missing: dict[str, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    withheld: dict[int, str] = field(default_factory=dict)
    left_out: int = 0
    errors_left_out: int = 0

    def best(self, row: int) -> str:
        """The larger picture of a row, else its thumbnail, else ""."""
        return self.large.get(row) or self.small.get(row) or ""

    def absence(self, row: int) -> str:
        """Why a row has no picture, in words.

        Example:
            >>> album = Album(withheld={2: "ultrasound"})
            >>> album.absence(2), album.absence(5)
            ('Picture withheld: ultrasound', 'Picture not kept')
        """
        return _absence(row in self.withheld, self.withheld.get(row, ""), row in self.unreadable)


def _absence(withheld: bool, reason: str, unreadable: bool) -> str:
    if withheld:
        return f"Picture withheld: {reason}" if reason else "Picture withheld"
    return "Cannot be read" if unreadable else "Picture not kept"


def choose(cases: Cases, max_thumbnails: int, first: Sequence[int] = (), wanted: np.ndarray | None = None) -> list[int]:
    """The rows to show, the most telling first: all errors, then right ones of every partition and label.

    Errors come by falling loss and are never left out. The other places go to the right ones in
    proportion to the (partition, label) they are of, at least one each, evenly over their confidence;
    they are mixed, so that what is left where room runs out is such a sample too.

    Args:
        cases: the rows.
        max_thumbnails: how many, unless there are more errors.
        first: rows that stand before all others, errors or not.
        wanted: (n,) bool, of the right ones those that are shown at all; None for all.

    Example:
        >>> import pandas as pd
        >>> from medclf.reporting.cases import read_cases
        >>> table = pd.DataFrame({"path": list("abcd"), "label": list("xxxy"), "pred": list("xxxx"),
        ...                       "prob_x": [0.9, 0.8, 0.7, 0.6], "prob_y": [0.1, 0.2, 0.3, 0.4]})
        >>> choose(read_cases(table, ["x", "y"], multi_label=False, partition="valid"), 2)
        [3, 0]
    """
    wrong, confidence = cases.wrong, cases.confidence
    by_loss = np.argsort(-np.where(np.isfinite(cases.loss), cases.loss, confidence), kind="stable")
    errors = list(dict.fromkeys([*first, *(int(i) for i in by_loss if wrong[i])]))
    taken, strata = set(errors), dict[tuple[str, str], list[int]]()
    for row in map(int, np.argsort(-confidence, kind="stable")):
        if row not in taken and (wanted is None or wanted[row]):
            strata.setdefault((str(cases.partition[row]), cases.name(row)), []).append(row)
    sizes = [len(rows) for rows in strata.values()]
    places = min(sum(sizes), max(0, max_thumbnails - len(errors)))
    kept: list[tuple[float, int]] = []
    for rows, share in zip(strata.values(), _share_out(sizes, places), strict=True):
        spread = np.linspace(0, len(rows) - 1, share).round().astype(int)
        mixed = np.random.default_rng(0).permutation(spread)
        kept += [((place + 0.5) / share, rows[int(i)]) for place, i in enumerate(mixed)]
    return errors + [row for _, row in sorted(kept)]


def _share_out(sizes: Sequence[int], places: int) -> list[int]:
    """`places` in proportion to `sizes`, one each first, the largest remainders rounded up."""
    if places < len(sizes):
        largest = sorted(range(len(sizes)), key=lambda i: -sizes[i])[:places]
        return [int(i in largest) for i in range(len(sizes))]
    free, total = places - len(sizes), sum(sizes) - len(sizes)
    exact = [free * (size - 1) / total if total else 0.0 for size in sizes]
    shares = [1 + int(x) for x in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: int(exact[i]) - exact[i])
    for index in by_remainder[: places - sum(shares)]:
        shares[index] += 1
    return shares


def encode(pixels: np.ndarray, size: int, quality: int = 80) -> bytes:
    """An image as JPEG, its longer side at most `size` pixels; nothing but pixels goes in.

    Args:
        pixels: (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16.
        size: of the longer side.
        quality: of the JPEG.

    Raises:
        DataError: another type or shape.
    """
    array = np.asarray(pixels)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise DataError(
            f"a picture of type {array.dtype} and shape {array.shape} cannot be shown",
            "read must give uint8 of shape (H, W) or (H, W, 3)",
        )
    image = Image.fromarray(np.ascontiguousarray(array))
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_deep(deep: np.ndarray, shown: np.ndarray, size: int) -> tuple[str, int, int]:
    """Grey of 16 bits as a picture that any browser decodes whole: red is the high byte of a value, green the low one.

    Args:
        deep: (H, W) uint16.
        shown: (H, W) or (H, W, 1) uint8, the same image through the window that it is usually seen in.
        size: of the longer side.

    Returns:
        The data URI of a PNG, and the values that are black and white in `shown`.

    Example:
        >>> deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256
        >>> encode_deep(deep, (deep >> 8).astype(np.uint8), 16)[1:]
        (0, 65280)
    """
    image = Image.fromarray(deep.astype(np.float32))
    image.thumbnail((size, size), Image.Resampling.BILINEAR)
    values = np.asarray(image).round().clip(0, 65535).astype(np.uint16)
    split = np.stack([values >> 8, values & 255, np.zeros_like(values)], axis=-1).astype(np.uint8)
    step = 1 + max(deep.shape) // 500
    grey, bits = shown.reshape(deep.shape)[::step, ::step], deep[::step, ::step]
    inside = (grey > 0) & (grey < 255)
    slope, black = np.polyfit(grey[inside], bits[inside], 1) if len(np.unique(grey[inside])) > 1 else (0.0, 0.0)
    if slope <= 0:  # a picture of one grey, or one that a table of the file turned round
        return png_uri(split), int(deep.min()), int(deep.max())
    return png_uri(split), round(black), round(black + 255 * slope)


def data_uri(jpeg: bytes) -> str:
    """A JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


@dataclass(frozen=True)
class _Shot:
    small: bytes = b""
    large: bytes = b""
    deep: tuple[str, int, int] | None = None
    problem: str = ""
    withheld: str = ""

    @property
    def absence(self) -> str:
        return _absence(not (self.small or self.problem), self.withheld, bool(self.problem))


def _shoot(read: Reader, row: Mapping[str, Any], large: int, deep: bool = False) -> _Shot:
    """One image read and made small; a file that cannot be read becomes its reason."""
    try:
        pixels = read(row)
        if pixels is None:
            return _Shot()
        bits = read.all_bits(row) if deep and isinstance(read, Pictures) else None
        kept = None if bits is None or pixels.size != bits.size else encode_deep(bits, pixels, DEEP)
        return _Shot(encode(pixels, SMALL, 78), encode(pixels, large, 82) if large else b"", kept)
    except Withheld as error:
        return _Shot(withheld=error.reason)
    except ReadError as error:
        return _Shot(problem=error.reason)


def _shots(read: Reader, jobs: Sequence[tuple[Any, ...]], text: str, progress: bool) -> Iterator[_Shot]:
    """`jobs` are a row, the longer side of its larger picture (0: none), and whether to keep more than 8 bits of it."""
    shots = map_ahead(lambda job: _shoot(read, *job), jobs, threads=n_cores(4))
    yield from watch(shots, len(jobs), text, progress=progress)


def fill_album(
    cases: Cases,
    order: Sequence[int],
    first: Sequence[int],
    budget: int,
    *,
    records: Sequence[Mapping[str, Any]],
    read: Reader,
    extra: Sequence[str] = (),
    progress: bool = False,
) -> Album:
    """Read the images of `order` and keep them as data URIs within `budget` bytes.

    Room goes first to the thumbnails of errors, then to `first` in large, to the other thumbnails, to the errors in
    large, and last to the 16 bits of those.

    Args:
        cases: the rows.
        order: rows to show, the most telling first.
        first: rows that are shown large before all others.
        budget: bytes.
        records: every row as a dict, for `read`.
        read: a row -> uint8 pixels, or None to show nothing.
        extra: paths of images that are in no row.
        progress: show a bar.
    """
    album, wrong, top = Album(), cases.wrong, set(first)
    telling = [row for row in order if wrong[row] or row in top]
    worth = list(order) if len(order) <= ALL_LARGE else telling
    side, cost = large_size(len(worth), budget)
    room = max(0, budget - len(order) * SMALL_BYTES) // cost
    big = {*first, *worth[:room]}
    deep = {row for row in telling[:MOST_DEEP] if row in big}
    jobs = [(records[row], side if row in big else 0, row in deep) for row in order]
    shots = dict(zip(order, _shots(read, jobs, "Pictures", progress), strict=True))
    _note_missing(album, shots)
    others = [row for row in order if row not in set(telling)]
    claims = [(album.small, "small", row) for row in telling]
    claims += [(album.large, "large", row) for row in first if row in shots]
    claims += [(album.small, "small", row) for row in others]
    claims += [(album.large, "large", row) for row in worth if row not in top]
    for place, kind, row in claims:
        jpeg = getattr(shots[row], kind)
        if jpeg and (cost := _cost(jpeg)) <= budget:
            place[row] = data_uri(jpeg)
            budget -= cost
    for row in telling:
        kept = shots[row].deep
        if kept and row in album.large and len(kept[0]) <= budget:
            album.deep[row] = kept
            budget -= len(kept[0])
    near = _shots(read, [({"path": path}, 0) for path in extra], "Neighbours", progress)
    for path, shot in zip(extra, near, strict=True):
        if shot.small and (cost := _cost(shot.small)) <= budget:
            album.outside[path] = data_uri(shot.small)
            budget -= cost
        else:
            album.outside_missing[path] = shot.absence
    _count_left_out(album, cases)
    return album


def large_size(n: int, budget: int) -> tuple[int, int]:
    """The longer side of the larger pictures, and the bytes of one: as large as a quarter of the room allows.

    Example:
        >>> large_size(50, 60_000_000), large_size(200, 60_000_000), large_size(3000, 60_000_000)
        ((768, 140000), (512, 70000), (384, 40000))
    """
    return next((size for size in LARGE if n * size[1] <= budget // 4), LARGE[-1])


def _cost(jpeg: bytes) -> int:
    """What a JPEG takes in the page."""
    return len(jpeg) * 4 // 3 + 40


def check_folder(folder: str | Path, page: Path, *, overwrite: bool = False) -> None:
    """See that `fill_folder` replaces no pictures but those of the page that stood at `page` before.

    Raises:
        OutputError: the folder holds others of such names, or other files, such as the images of a class.
    """
    if overwrite or not Path(folder).is_dir():
        return
    files = [
        file for file in sorted(Path(folder).iterdir()) if file.name[0] != "." and file.resolve() != page.resolve()
    ]
    if files and not (page.is_file() and f"{_address(Path(folder), page)}/".encode() in page.read_bytes()):
        text = f"{files[0]} is none of the pictures of {page}, which would replace it or lie beside it"
        raise OutputError(text, f"give another {argument('assets', 'FOLDER')}, or {argument('overwrite', True)}")


def _address(folder: Path, page: Path) -> str:
    """Of a folder, as its page names it."""
    return quote(Path(os.path.relpath(folder.resolve(), page.resolve().parent)).as_posix())


def fill_folder(
    cases: Cases,
    folder: Path,
    page: Path,
    *,
    records: Sequence[Mapping[str, Any]],
    read: Reader,
    extra: Sequence[str] = (),
    progress: bool = False,
) -> Album:
    """Read all images and write their pictures into `folder`, beside the page; nothing is left out.

    Pictures that the page no longer shows go: they may be of images that are withheld now.

    Raises:
        OutputError: the folder cannot be written to.
    """
    album = Album()
    base = _address(folder, page)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        before = {file for file in folder.iterdir() if _PICTURE.fullmatch(file.name)}
        jobs = [(record, LARGE_BESIDE) for record in records]
        for row, shot in enumerate(_shots(read, jobs, "Pictures", progress)):
            _note_missing(album, {row: shot})
            if shot.small:
                for kind, place in (("small", album.small), ("large", album.large)):
                    _write(folder / f"{row + 1:06}-{kind}.jpg", getattr(shot, kind))
                    place[row] = f"{base}/{row + 1:06}-{kind}.jpg"
        others = _shots(read, [({"path": path}, 0) for path in extra], "Neighbours", progress)
        for number, (path, shot) in enumerate(zip(extra, others, strict=True)):
            if shot.small:
                _write(folder / f"other-{number + 1:06}.jpg", shot.small)
                album.outside[path] = f"{base}/other-{number + 1:06}.jpg"
            else:
                album.outside_missing[path] = shot.absence
        shown = {*album.small.values(), *album.large.values(), *album.outside.values()}
        for file in before:
            if f"{base}/{file.name}" not in shown:
                file.unlink()
    _count_left_out(album, cases)
    return album


def _write(path: Path, jpeg: bytes) -> None:
    """Write one of thousands of pictures: not synced as other files are, but none is left half."""
    try:
        path.write_bytes(jpeg)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _note_missing(album: Album, shots: Mapping[int, _Shot]) -> None:
    for row, shot in shots.items():
        if shot.problem:
            album.unreadable[row] = shot.problem
        elif not shot.small:
            album.withheld[row] = shot.withheld


def _count_left_out(album: Album, cases: Cases) -> None:
    there = {*album.small, *album.unreadable, *album.withheld}
    missing = [row for row, judge in enumerate(cases.judge) if row not in there and not judge]
    album.left_out = len(missing)
    album.errors_left_out = int(cases.wrong[missing].sum()) if missing else 0
