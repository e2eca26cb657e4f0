"""Which labels the images of a pool have: of a run, of a sheet, of two readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medclf.dataset.corrections import POOR, labels_in, plain
from medclf.dataset.csv_reading import read_csv
from medclf.dataset.labels import NO_FINDING, label_set, objects
from medclf.dataset.matching import UNKNOWN, spelt_alike
from medclf.dataset.scan import usable
from medclf.dataset.units import units_word
from medclf.errors import DataError, argument
from medclf.metrics.agreement import cohen_kappa
from medclf.run.run import Run
from medclf.run.terminal import written


@dataclass(frozen=True)
class Pool:
    """The images to choose from: their folder, and paths in it."""

    root: Path
    paths: list[str]


def labels_said(labels: str | Path | Mapping[str, str] | None) -> tuple[dict[str, str], set[str]]:
    """Label by path of a sheet, and the images that it calls poor."""
    if labels is None:
        return {}, set()
    if isinstance(labels, Mapping):
        return {str(path): str(label) for path, label in labels.items()}, set()
    frame = read_csv(Path(labels))
    missing = [column for column in ("path", "label") if column not in frame]
    if missing:
        raise DataError(
            f"{labels} has no column '{missing[0]}'", "give a sheet of medclf label-next: path, label, mark"
        )
    paths, said, marks = plain(frame, "path"), plain(frame, "label"), plain(frame, "mark")
    if len(frame) and not any((*said, *marks)):
        raise DataError(
            f"{labels} is not filled in: no image has a label",
            "give the sheet that was downloaded from the page; the one that was written beside the page stays blank",
        )
    poor = {path for path, mark in zip(paths, marks, strict=True) if mark == POOR}
    found: dict[str, str] = {}
    for path, label in zip(paths, said, strict=True):
        if label and path not in poor and found.setdefault(path, label) != label:
            raise DataError(
                f"{labels}: {path} is there twice, as '{found[path]}' and '{label}'", "keep one row an image"
            )
    return found, poor


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


def second_reader(said: Mapping[str, str], second: str | Path | None) -> tuple[list[str], str]:
    """The images on which two readers differ, and a sentence on how far they agree."""
    if second is None:
        return [], ""
    other, _ = labels_said(second)
    both = [path for path in said if path in other]
    if not both:
        raise DataError(f"{second} and the labels have no image in common", "give two readers' sheets of one page")
    differ = [path for path in both if said[path] != other[path]]
    kappa = cohen_kappa([said[path] for path in both], [other[path] for path in both])
    agree = written(kappa.as_dict())
    return differ, f"Two readers labelled {len(both)} images and differ on {len(differ)}: Cohen's kappa {agree}."


def known_labels(
    run: Any, pool: Pool, said: Mapping[str, str], differ: Sequence[str]
) -> tuple[dict[str, str], list[tuple[Path, str]]]:
    """Label by path of the pool's images, and (file, label) of a run's other images; what a sheet says wins."""
    theirs = _labelled_of(run)
    place = {(pool.root / path).resolve(): path for path in pool.paths}
    known = {place[file]: label for file, label in theirs.items() if file in place}
    extra = [(file, label) for file, label in theirs.items() if file not in place and file.is_file()]
    strange = [path for path in said if path not in set(pool.paths)]
    if strange:
        raise DataError(f"the pool has no image {strange[0]}, which the labels name", "are they of another folder?")
    known |= said
    return {path: label for path, label in known.items() if path not in set(differ)}, extra


def _labelled_of(run: Any) -> dict[Path, str]:
    """File -> label of the images that a run or a learner was made with, "(none)" for no finding.

    Images of which a label is unknown are not among them.
    """
    table = run.table if isinstance(run, Run) else getattr(getattr(run, "dls", None), "table", None)
    if table is None:
        return {}
    root = run.images if isinstance(run, Run) else Path(run.dls.path)
    sound = usable(table)
    rows = zip(sound["path"], objects(sound, "label"), objects(sound, UNKNOWN), strict=True)
    return {
        (root / path).resolve(): "|".join(label_set(label)) or NO_FINDING
        for path, label, open_labels in rows
        if label not in (None, "") and not label_set(open_labels)
    }


def vocab_of(vocab: Sequence[str] | None, model: Any, known: Mapping[str, str]) -> list[str]:
    """What an image may be called: what was asked for, else what the model or the labels know."""
    names = list(vocab) if vocab else list(model.spec.vocab) if model is not None else sorted(set(known.values()))
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
            raise DataError(f"the label '{strange[0]}' is none of the classes", f"they are {', '.join(names)}")
        found[row] = [name in parts for name in names] if multi_label else place[parts[0]]
    return found
