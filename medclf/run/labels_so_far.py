"""Which labels the images of a pool have: of a run, of a sheet, of two readers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medclf.dataset.columns import POOR, refuse_review
from medclf.dataset.corrections import UNSURE, joined, labels_in, plain
from medclf.dataset.csv_reading import read_csv
from medclf.dataset.labels import NO_FINDING, label_set, objects, usable
from medclf.dataset.matching import UNKNOWN, spelling, spelt_alike
from medclf.dataset.scan import file_hash
from medclf.dataset.units import units_word
from medclf.errors import DataError, argument
from medclf.images.frame_names import file_of
from medclf.metrics.agreement import cohen_kappa
from medclf.run.run import Run
from medclf.run.terminal import written


@dataclass(frozen=True)
class Pool:
    """The images to choose from: their folder, paths in it, and the files' SHA-256 where they are known."""

    root: Path
    paths: list[str]
    digests: Sequence[str] = ()


EARLIER, YES = "earlier", "yes"  # the column of a sheet that marks what was said before its page was made


@dataclass(frozen=True)
class Said:
    """What a reader said: label by path, the images called poor, and those called unsure without a label.

    Args:
        earlier: what stood in the page's sheet already, which its reader did not say.
    """

    labels: dict[str, str]
    poor: set[str]
    unsure: set[str]
    earlier: set[str] = field(default_factory=set)


def labels_said(labels: str | Path | Mapping[str, str] | None, root: Path = Path()) -> Said:
    """What a sheet says, or labels by path, which may begin with `root`, the folder of the pool."""
    if isinstance(labels, pd.DataFrame) and {"path", "label"} <= set(labels):
        labels = labels.set_index("path")["label"]
    if isinstance(labels, pd.Series):
        labels = labels.dropna().to_dict()
    if labels is None or isinstance(labels, Mapping):
        return Said({_below(path, root): str(label) for path, label in (labels or {}).items()}, set(), set())
    if not isinstance(labels, (str, Path)):
        text = f"labels are a sheet's path, or the label by path, not a {type(labels).__name__}"
        raise DataError(text, "give {path: label}, or a table with the columns path and label")
    frame = read_csv(Path(labels))
    refuse_review(str(labels), frame, partial(plain, frame))
    missing = [column for column in ("path", "label") if column not in frame]
    if missing:
        raise DataError(
            f"{labels} has no column '{missing[0]}'", "give a sheet of medclf label-next: path, label, mark"
        )
    paths, said, marks = plain(frame, "path"), plain(frame, "label"), plain(frame, "mark")
    if not any((*said, *marks)):
        raise DataError(
            f"{labels} is not filled in: no image has a label",
            "give the sheet that was downloaded from the page; the one that was written beside the page stays blank",
        )
    for number, (path, mark) in enumerate(zip(paths, marks, strict=True), 1):
        if not path:
            raise DataError(f"{labels}, row {number} names no image", "remove it, or fill in its path")
        if mark not in ("", UNSURE, POOR):
            remedy = f"choose '{UNSURE}' or '{POOR}', or leave it blank"
            raise DataError(f"{labels}, row {number}: the mark '{mark}' is unknown", remedy)
    poor = {path for path, mark in zip(paths, marks, strict=True) if mark == POOR}
    found: dict[str, str] = {}
    for path, label in zip(paths, said, strict=True):
        if label and path not in poor and found.setdefault(path, label) != label:
            raise DataError(
                f"{labels}: {path} is there twice, as '{found[path]}' and '{label}'", "keep one row an image"
            )
    unsure = {path for path, mark in zip(paths, marks, strict=True) if mark == UNSURE} - found.keys() - poor
    earlier = {path for path, cell in zip(paths, plain(frame, EARLIER), strict=True) if cell.casefold() == YES}
    return Said(found, poor, unsure, earlier)


def _below(path: str | Path, root: Path) -> str:
    """The name of an image within the pool's folder."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else str(path)


def unanswered(labels: Any) -> str:
    """What to say of a sheet's images without a label and a mark: it may not be the one that was filled in."""
    if not isinstance(labels, (str, Path)):
        return ""
    frame = read_csv(Path(labels))
    n = sum(not (label or mark) for label, mark in zip(plain(frame, "label"), plain(frame, "mark"), strict=True))
    return f"{n} of {len(frame)} images of {Path(labels).name} have neither label nor mark." if n else ""


def remarks_of(labels: Any) -> dict[str, tuple[str, str]]:
    """Mark and note by path of a sheet; none where labels come otherwise."""
    if not isinstance(labels, (str, Path)):
        return {}
    frame = read_csv(Path(labels))
    columns = (plain(frame, column) for column in ("path", "mark", "note"))
    return {path: (mark, note) for path, mark, note in zip(*columns, strict=True)}


def second_reader(
    said: Said, second: str | Path | None, several: bool = False, labels: Any = None
) -> tuple[dict[str, str], list[str]]:
    """What a second reader said of the images on which two differ, and sentences on how far they agree.

    Args:
        said: by the first.
        second: the other's sheet.
        several: whether an image may have several labels, whose order does not matter.
        labels: where the first one's come from.
    """
    if second is None:
        return {}, []
    if isinstance(labels, (str, Path)) and Path(labels).resolve() == Path(second).resolve():
        raise DataError(f"{second} is given as the sheet of both readers", "give the second reader's own sheet")
    other = labels_said(second)
    both = [path for path in said.labels if path in other.labels and path not in said.earlier & other.earlier]
    if not both:
        text = f"{second} and the labels have no image in common that two readers labelled"
        raise DataError(text, "give two readers' sheets of one page")
    first, then = ([joined(labels_in(one.labels[path], several)) for path in both] for one in (said, other))
    differ = {path: b for path, a, b in zip(both, first, then, strict=True) if a != b}
    agree = written(cohen_kappa(first, then).as_dict())
    told = [f"Two readers labelled {len(both)} images and differ on {len(differ)}: Cohen's kappa {agree}."]
    if alone := len(other.labels.keys() - said.labels.keys()):
        told.append(f"{alone} labels are the second reader's alone. They do not count.")
    if poor := len(other.poor & said.labels.keys()):
        told.append(f"{poor} images are poor for the second reader alone. The first one's labels count.")
    return differ, told


class Labelled(NamedTuple):
    """An image that a run or a learner was made with: its file, that file's SHA-256 where known, and its label."""

    file: Path
    digest: str
    label: str

    @property
    def bytes(self) -> str:
        """What copies of it have in common; "" where that is not known."""
        return _bytes_of(self.file, self.digest)

    @property
    def is_there(self) -> bool:
        """Whether the file is still the one that was labelled."""
        return file_of(self.file).is_file() and self.digest in ("", file_hash(self.file))


def known_labels(
    run: Any, pool: Pool, said: Said, differ: Collection[str]
) -> tuple[dict[str, str], list[Labelled], int, int]:
    """Label by path of the pool's images, a run's other images, how many are gone or changed, how many are copies.

    An image of the pool that has the same bytes as one of the run, in whatever place, has its label; a file that has
    changed since has none. What a sheet says wins: an image that it calls poor has no label, whatever the run says, and
    neither has one that it calls unsure.
    """
    theirs = _labelled_of(run)
    place = {(pool.root / path).resolve(): path for path in pool.paths}
    names = {path: _bytes_of(path, digest) for path, digest in zip(pool.paths, pool.digests, strict=False)}
    at = [(place[one.file], one) for one in theirs if one.file in place]
    known = {path: one.label for path, one in at if not one.bytes or names.get(path, one.bytes) == one.bytes}
    by_bytes: dict[str, set[str]] = {}
    for one in theirs:
        by_bytes.setdefault(one.bytes, set()).add(one.label)
    copies = {path: by_bytes.get(name, set()) for path, name in names.items() if name and path not in known}
    changed = len({path for path, _ in at} - known.keys())
    known |= (copied := {path: label for path, labels in copies.items() if len(labels) == 1 for label in labels})
    there = set(names.values()) - {""}
    outside = [one for one in theirs if one.file not in place and one.bytes not in there]
    extra = [one for one in outside if one.is_there]
    inside = set(pool.paths)
    strange = [path for path in (*said.labels, *sorted(said.poor | said.unsure)) if path not in inside]
    if strange:
        raise DataError(f"the pool has no image {strange[0]}, which the labels name", "are they of another folder?")
    known |= said.labels
    without = said.poor | said.unsure | set(differ)
    known = {path: label for path, label in known.items() if path not in without}
    return known, extra, changed + len(outside) - len(extra), len(copied.keys() & known.keys())


def _bytes_of(path: str | Path, digest: Any) -> str:
    """What two names of the same image have in common: the file's SHA-256, and which frame of it."""
    return f"{digest}{str(path)[len(str(file_of(path))) :]}" if digest and isinstance(digest, str) else ""


def _labelled_of(run: Any) -> list[Labelled]:
    """The images that a run or a learner was made with, "(none)" for no finding.

    Images of which a label is unknown are not among them.
    """
    table = run.table if isinstance(run, Run) else getattr(getattr(run, "dls", None), "table", None)
    if table is None:
        return []
    root = Path((run.record.get("root") or run.images) if isinstance(run, Run) else run.dls.path)
    sound = usable(table)
    digests = sound["sha256"] if "sha256" in sound else [""] * len(sound)
    rows = zip(sound["path"], digests, objects(sound, "label"), objects(sound, UNKNOWN), strict=True)
    return [
        Labelled((root / path).resolve(), digest or "", "|".join(label_set(label)) or NO_FINDING)
        for path, digest, label, open_labels in rows
        if label not in (None, "") and not label_set(open_labels)
    ]


def vocab_of(vocab: Sequence[str] | None, model: Any, known: Iterable[str]) -> list[str]:
    """What an image may be called: what was asked for, else what the model or the labels know."""
    vocab = [vocab] if isinstance(vocab, str) else vocab
    if vocab:
        names = [name.strip() for name in vocab]
    else:
        names = list(model.spec.vocab) if model is not None else sorted(set(known))
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1 or not name.strip()]:
        raise DataError(f"{argument('vocab', repeated[0])} is blank, or is there twice", "name each class once")
    if len(names) < 2:
        raise DataError(
            "there are no two classes to choose from",
            f"name them with {argument('vocab', 'polyp')}, once for each class, or give {argument('run', 'RUN')}",
        )
    return names


def notes_of(model: Any, names: Sequence[str]) -> list[str]:
    """What a reader should know of the classes, and of a model that looks at more than single images."""
    alike = (" and ".join(map(repr, same)) for same in spelt_alike(names))
    found = [f"The labels {same} differ only in spelling: are they one?" for same in alike]
    if getattr(model, "fields", None):
        found.append("The model's columns beside the image have no part in this: images are looked at alone.")
    if getattr(model, "unit_rule", None) is not None:
        what = units_word(model.unit_rule.unit, 1)
        found.append(f"The model answers for each {what}; here single images are chosen and counted.")
    return found


def codes_of(labels: Sequence[str | None], names: Sequence[str], multi_label: bool) -> np.ndarray:
    """(n,) classes, or (n, n_labels) of 0 and 1; -1 where the label is unknown."""
    place = {name: code for code, name in enumerate(names)}
    found = np.full((len(labels), len(names)) if multi_label else len(labels), -1)
    for row, label in enumerate(labels):
        if label is None:
            continue
        parts = labels_in(label, multi_label)
        strange = [one for one in parts if one not in place]
        if strange:
            alike = next((name for name in names if spelling(name) == spelling(strange[0])), "")
            remedy = f"write it as {alike!r}, in each of its rows" if alike else f"they are {', '.join(names)}"
            raise DataError(f"the label '{strange[0]}' is none of the classes", remedy)
        found[row] = [name in parts for name in names] if multi_label else place[parts[0]]
    return found
