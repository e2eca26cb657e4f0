"""Boxes of findings, checked against the images that they were drawn on: one table, in the files' pixels."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd

from medclf.dataset.box_files import read_box_file
from medclf.dataset.box_writing import check_writing
from medclf.dataset.given_boxes import Corners, GivenBox, GivenImage
from medclf.dataset.label_warnings import several_in_one
from medclf.dataset.labels import label_set, usable
from medclf.dataset.matching import spelling, spelt_alike
from medclf.dataset.scan import listing
from medclf.errors import DataError, MedclfWarning, argument
from medclf.images.box_places import SIDES, iou
from medclf.images.reading import probe

COLUMNS = ("path", "label", *SIDES)
N_BOXES = "n_boxes"
Unlisted = Literal["negative", "skip"]
_NO_BOX, _SKIPPED = " without a box", "not listed by the file of boxes"
_NEGATIVE = "count as images without a finding"
_OFTEN = 0.1  # of the images with boxes: a label that so many of them have tells of findings
_SAME = 0.5  # of two boxes of one label: an IoU from which they may be two readers' of one finding


@dataclass(frozen=True)
class Boxes:
    """The boxes of a set of images.

    Args:
        table: a row a box: path (as the images' table has it), label, x_min, y_min, x_max, y_max in pixels of the file;
            x_max and y_max are the first that are not in.
        listed: paths of the images that the file speaks of, with boxes or without.
        left_out: path -> why none of the image's boxes can be used; such an image is not trained on, since a finding
            in it would be learned as background.
        clipped: boxes that reached beyond the image and were cut.
        duplicates: boxes that stood there twice and count once.
        strange: names of images that the file speaks of and that are not among the images.
        unusable: listed images that the scan could not use; their boxes are in no table.
        notes: what else is to be known of them, in sentences.

    Example:
        >>> images = pd.DataFrame({"path": ["a.png"], "width": [40], "height": [30], "problem": [""]})
        >>> boxes = boxes_of([GivenImage("a", boxes=[GivenBox("polyp", (2, 3, 50, 20))])], images)
        >>> boxes.table["x_max"].tolist(), boxes.clipped
        ([40.0], 1)
    """

    table: pd.DataFrame
    listed: frozenset[str] = frozenset()
    left_out: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    duplicates: int = 0
    strange: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def vocab(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted(set(self.table["label"])))

    def of(self, path: str) -> pd.DataFrame:
        """The boxes of one image."""
        return self.table[self.table["path"] == path]

    def sentences(self, hide_names: bool = False, limited: bool = False) -> Iterator[str]:
        """What was found, for the terminal and the page.

        Args:
            hide_names: leave out the names of images that are not in the table.
            limited: the table holds some of the images alone.
        """
        labels = ", ".join(f"{label} {n}" for label, n in sorted(Counter(self.table["label"]).items()))
        images = self.table["path"].nunique()
        without = len(self.listed) - images - len(self.left_out) - len(self.unusable)
        yield f"{len(self.table)} boxes on {images} images: {labels}; {without} listed images without a finding"
        for same in spelt_alike(self.vocab):
            yield f"labels {', '.join(map(repr, same))} differ only in spelling, and are learned as different findings"
        for _, joined in several_in_one(self.vocab):
            text = f"label '{joined[0]}' looks like several labels in one ({len(joined)} such), and is learned as one"
            yield f"{text}: give each of them a box of its own"
        if self.clipped:
            yield f"{self.clipped} boxes reached beyond the image and were cut at its edge"
        if self.duplicates:
            yield f"{self.duplicates} boxes stood there twice and count once"
        yield from self.notes
        if self.unusable:
            yield f"{len(self.unusable)} listed images cannot be used, nor can their boxes: {_few(self.unusable)}"
        if self.strange:
            shown = "" if hide_names else f": {_few(self.strange)}"
            kept = f" that {argument('limit')} kept" if limited else ""
            yield f"{len(self.strange)} images that the boxes name are not among the images{kept}{shown}"
        if self.left_out:
            counts = Counter(why.partition(":")[0] for why in self.left_out.values())
            kinds = ", ".join(f"{kind} {n}" for kind, n in counts.most_common())
            bad = pd.DataFrame({"path": list(self.left_out), "problem": list(self.left_out.values())})
            yield f"{len(bad)} images are left out for their boxes ({kinds}): {listing(bad, 3)}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def read_boxes(file: str | Path, table: pd.DataFrame) -> Boxes:
    """Read a file of boxes and check it against the images.

    A box whose centre lies outside the image, that is empty, has its corners swapped, or was drawn at another size is
    refused, and its image left out. A box that reaches beyond the edge is cut there.

    Args:
        file: see `medclf.dataset.box_files.read_box_file`.
        table: of the images, as `scan` returns it. Images are found by path, else by name, else by name without ending.

    Returns:
        The boxes, with what was wrong.

    Raises:
        DataError: the file cannot be read, no image of it is in the table, or no box can be used.
    """
    given = read_box_file(file)
    _check_pixels(given, file)
    found = boxes_of(given, table)
    if not found.listed:
        raise DataError(
            f"{file}: none of its {len(found.strange)} images is among the {len(table)} images",
            f"it names, for example, {found.strange[0]!r}; the images have {table['path'].iloc[0]!r}"
            if found.strange and len(table)
            else "it names no image",
        )
    if found.table.empty:
        why = next(iter(found.left_out.values()), "its images cannot be used" if found.unusable else "it holds none")
        raise DataError(f"{file}: no box can be used: {why}", "correct the boxes")
    return found


def _check_pixels(given: list[GivenImage], file: str | Path) -> None:
    """Raise DataError where numbers that should be pixels are shares of the image."""
    corners = [side for image in given if not image.in_shares for box in image.boxes for side in box.corners]
    if corners and max(map(abs, corners)) < 2:  # shares may be a little above 1
        text = f"{file}: no box reaches beyond the second pixel, so its numbers look like shares of the image"
        raise DataError(text, "multiply them by width and height, or save them as YOLO, which counts in shares")


def boxes_of(given: list[GivenImage], table: pd.DataFrame) -> Boxes:
    """The boxes of images that a table has, checked; see `read_boxes`."""
    paths = _Paths(list(table["path"]))
    sizes = {row.path: (row.width, row.height) for row in usable(table).itertuples()}
    rows: list[tuple[Any, ...]] = []
    left_out: dict[str, str] = {}
    found: dict[str, GivenImage] = {}
    strange: list[str] = []
    unusable: list[str] = []
    clipped = duplicates = 0
    for image in given:
        path = paths.of(image)
        if path is None:
            strange.append(image.name)
            continue
        if path in found:
            text = f"{found[path].name!r} and {image.name!r} are both {path}"
            raise DataError(text, "name the images by their paths")
        found[path] = image
        if path not in sizes:  # the scan has said why
            unusable.append(path)
            continue
        try:
            own = [(box.label, *_checked(box, image, sizes[path])) for box in image.boxes if box.is_finding]
        except DataError as error:
            left_out[path] = error.message
            continue
        clipped += sum(was_cut for *_, was_cut in own)
        distinct = dict.fromkeys((path, label, *corners) for label, corners, _ in own)
        duplicates += len(own) - len(distinct)
        rows += distinct
    check_writing([(image, sizes[path]) for path, image in found.items() if path in sizes])
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kept = set(frame["path"])
    used = {path: image for path, image in found.items() if path in kept}
    notes = (*_of_readers(used.values(), frame), *_turned(used, table))
    if n := sum(_elsewhere(image.name, Path(table.attrs.get("root", "")) / path) for path, image in found.items()):
        notes += (f"{n} images were found by file name alone: the file of boxes names another folder for them",)
    if n := sum(box.is_background for image in found.values() for box in image.boxes):
        notes += (f"{n} boxes are called background, which is no finding: they are left out",)
    return Boxes(frame, frozenset(found), left_out, clipped, duplicates, tuple(strange), tuple(unusable), notes)


def _elsewhere(name: str, path: Path) -> bool:
    """Whether a file of boxes names another folder than the one that holds the image."""
    folder = PurePosixPath(name.replace("\\", "/")).parent.name
    return bool(folder) and folder != path.parent.name


def _of_readers(used: Iterable[GivenImage], boxes: pd.DataFrame) -> Iterator[str]:
    """What the boxes' readers left open: findings drawn twice, called doubtful, or denied by another."""
    if n := sum(any(box.is_none for box in image.boxes) for image in used):
        yield f"{n} images have boxes and are called without a finding as well: the boxes count"
    if n := sum(box.doubtful for image in used for box in image.boxes):
        yield f"{n} boxes are marked as difficult or to be ignored, and count as the others do"
    groups = [own[list(SIDES)].to_numpy(float) for _, own in boxes.groupby(["path", "label"])]
    if n := sum(int((np.triu(iou(own, own), 1) >= _SAME).any(0).sum()) for own in groups):
        told = f"{n} boxes cover half or more of another of their label, as several readers' boxes of one finding do"
        yield f"{told}: each counts as a finding of its own"


def _turned(used: Mapping[str, GivenImage], table: pd.DataFrame) -> Iterator[str]:
    """How many images are stored turned, where no size says whether their boxes were drawn on them upright."""
    unsure = [path for path, image in used.items() if image.size is None or image.size[0] == image.size[1]]
    if "root" in table.attrs and (n := sum(probe(Path(table.attrs["root"]) / path).turned for path in unsure)):
        yield f"{n} images with boxes are stored turned (EXIF): their boxes are taken as drawn on the upright image"


def _checked(box: GivenBox, image: GivenImage, size: tuple[int, int]) -> tuple[Corners, bool]:
    """Corners within the image of (width, height) pixels, and whether they were cut.

    Raises:
        DataError: the box cannot be used.
    """
    width, height = size
    place = f" ({box.where})" if box.where else ""
    if box.problem:
        raise DataError(f"{box.problem}{place}")
    if image.size is not None and image.size != (width, height):
        drawn = f"{image.size[0]:g} x {image.size[1]:g}"
        turned = ", read upright" if image.size == (height, width) else ""
        raise DataError(f"other size: boxes drawn at {drawn} pixels, and the file has {width} x {height}{turned}")
    scale = (width, height, width, height) if image.in_shares else (1, 1, 1, 1)
    x_min, y_min, x_max, y_max = (float(side * by) for side, by in zip(box.corners, scale, strict=True))
    shown = f"({x_min:g}, {y_min:g}) to ({x_max:g}, {y_max:g})"
    if any(map(math.isnan, (x_min, y_min, x_max, y_max))):
        raise DataError(f"no number: a corner of {shown}{place}")
    if x_min > x_max or y_min > y_max:
        raise DataError(f"swapped: {shown} ends before it begins{place}")
    if x_max - x_min <= 0 or y_max - y_min <= 0:
        raise DataError(f"empty: {shown} holds no pixel{place}")
    if not image.in_shares and max(map(abs, box.corners)) <= 1 < min(size):
        raise DataError(f"in shares: {shown} looks like shares of the image, among boxes in pixels{place}")
    if not (0 <= (x_min + x_max) / 2 <= width and 0 <= (y_min + y_max) / 2 <= height):
        counted = "; YOLO counts in shares of the image, from 0 to 1" if image.in_shares else ""
        raise DataError(f"outside: the middle of {shown} is not in {width} x {height} pixels{counted}{place}")
    cut = (max(x_min, 0.0), max(y_min, 0.0), min(x_max, float(width)), min(y_max, float(height)))
    beyond = max(abs(a - b) for a, b in zip(cut, (x_min, y_min, x_max, y_max), strict=True))
    return cut, beyond > 1  # formats differ by one pixel in where they begin to count


class _Paths:
    """Finds the image that a file of boxes names."""

    def __init__(self, paths: list[str]) -> None:
        self.known = set(paths)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        self.in_any_case: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            pure = PurePosixPath(path)
            self.by_name[pure.name].append(path)
            self.by_stem[pure.stem].append(path)
            self.in_any_case[pure.stem.casefold()].append(path)

    def of(self, image: GivenImage) -> str | None:
        """The path of the image that a file of boxes speaks of; None where there is none.

        Raises:
            DataError: its name could be that of several, or its two names are those of two images.
        """
        path = self.find(image.name)
        if not image.or_name or (path and PurePosixPath(path).stem.casefold() == image.or_name.casefold()):
            return path
        other = self.find(image.or_name)
        if path and other and path != other:
            text = f"{image.or_name}.xml names the image {image.name!r}, and there is {other} as well"
            raise DataError(text, "correct its <filename>, or give the file the name of its image")
        return path or other

    def find(self, name: str) -> str | None:
        """The path of the image; None where there is none.

        Raises:
            DataError: the name could be that of several.
        """
        name = name.replace("\\", "/")
        if name in self.known:
            return name
        pure = PurePosixPath(name)
        found = self.by_name.get(pure.name) or self.by_stem.get(pure.name) or self.by_stem.get(pure.stem)
        found = found or self.in_any_case.get(pure.stem.casefold()) or []
        if len(found) > 1:
            found = [one for one in found if PurePosixPath(one).parent.name == pure.parent.name] or found
        if len(found) > 1:
            raise DataError(f"{name!r} could be {found[0]} or {found[1]}", "name the images by their paths")
        return found[0] if found else None


def with_boxes(table: pd.DataFrame, boxes: Boxes, unlisted: Unlisted = "negative") -> pd.DataFrame:
    """The images' table, with the number of boxes of each, and with what cannot be trained on.

    An image that the file does not list shows no finding ("negative"), unless it carries the label of a box: then it
    is left out, listed or not, since its finding would be learned as background.

    Args:
        table: as `scan` returns it.
        boxes: of its images.
        unlisted: what images are that the boxes' file does not speak of: "negative", or "skip" them.

    Returns:
        A copy with the column n_boxes.

    Warns:
        MedclfWarning: how many images that are not listed count as negative, or are left out.
    """
    counts = Counter(boxes.table["path"])
    own = boxes.table.groupby("path")["label"].agg(set).to_dict()
    vocab = {spelling(label) for label in boxes.vocab}
    found = table.copy()
    found[N_BOXES] = [counts[path] for path in table["path"]]
    reasons = [boxes.left_out.get(path, "") for path in table["path"]]
    for row, (path, label, problem) in enumerate(zip(table["path"], table["label"], table["problem"], strict=True)):
        if reasons[row] or problem:
            continue
        boxed = {spelling(one) for one in own.get(path, ())}
        if any(_singular(spelling(one), vocab) in vocab - boxed for one in label_set(label)):
            reasons[row] = f"labelled {label}{_NO_BOX}"
        elif unlisted == "skip" and path not in boxes.listed:
            reasons[row] = _SKIPPED
    found["problem"] = [was or new for was, new in zip(table["problem"], reasons, strict=True)]
    for text in unlisted_sentences(found, boxes):
        remedy = f"; {argument('unlisted', 'skip')} leaves them out" if _NEGATIVE in text else ""
        warnings.warn(MedclfWarning(text + remedy), stacklevel=2)
    return found


def _singular(label: str, vocab: Container[str]) -> str:
    """A folder "polyps" holds what boxes call "polyp"."""
    return label if label in vocab else label.removesuffix("s") if label.removesuffix("s") in vocab else label + "s"


def unlisted_sentences(table: pd.DataFrame, boxes: Boxes) -> Iterator[str]:
    """What became of the images without a box, in a table that `with_boxes` returned."""
    if n := int(table["problem"].str.endswith(_NO_BOX).sum()):
        yield f"{n} images carry a box's label and have no box of it: they are left out"
    rest = table[~table["path"].isin(boxes.listed)]
    if n := int((rest["problem"] == _SKIPPED).sum()):
        yield f"{n} images that the file does not list are left out"
    unlisted = rest[rest["problem"] == ""]
    if not len(unlisted):
        return
    yield f"{len(unlisted)} images that the file does not list {_NEGATIVE}{_as_boxed(table, unlisted)}"


def _as_boxed(table: pd.DataFrame, unlisted: pd.DataFrame) -> str:
    """How many of the unlisted images are labelled as many of those with boxes are; "" where labels tell nothing."""
    usable_ones = table[table["problem"] == ""]
    boxed = Counter(label for label in usable_ones["label"][usable_ones[N_BOXES] > 0] if isinstance(label, str))
    often = {label for label, n in boxed.items() if n >= _OFTEN * boxed.total()}
    n = int(unlisted["label"].isin(often).sum())
    if not n or usable_ones["label"].nunique() < 2:
        return ""
    return f", though {n} of them are labelled {' or '.join(sorted(often))}, as images with boxes are"
