"""Which images and labels of a source are used: labels merged or dropped, and a part of the images for a quick try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medclf.dataset.cells import label_text, text_of
from medclf.dataset.folds import balance, shuffled
from medclf.dataset.labels import NO_FINDING, Label, count_by_group, label_set, named_groups
from medclf.dataset.sources import Rows
from medclf.errors import DataError, argument, by_road, check_count, did_you_mean

Merges = Mapping[str, Sequence[str]] | Sequence[str] | str
"""New label -> the labels that become it; or texts such as "malignant=mel+bcc"."""


IN_PROPORTION = "classes in proportion"  # how a note of `limit` ends where patients are not known


def conditions(where: Mapping[str, Any] | Sequence[str] | str | None) -> list[str]:
    """What `Sheet.where` takes, of a mapping of columns to a value or several.

    Raises:
        DataError: it is none, such as a mask or a function.

    Example:
        >>> conditions({"view": "PA", "age": [1, 2]})
        ['view=PA', 'age=1', 'age=2']
    """
    if where is None or isinstance(where, str):
        return [where] if where else []
    if not isinstance(where, (Mapping, list, tuple)):
        text = f"where must name columns and values, not be a {type(where).__name__}"
        raise DataError(text, f"write {argument('where', {'view': 'PA'})}, or give the rows that are meant")
    if not isinstance(where, Mapping):
        return list(where)
    pairs = [(name, value if isinstance(value, (list, tuple, set)) else [value]) for name, value in where.items()]
    return [f"{name}={text_of(value)}" for name, values in pairs for value in values]


def choose(
    rows: Rows,
    merge: Merges = (),
    drop: Sequence[str] | str = (),
    limit: int | None = None,
    counted: str = "images",
) -> None:
    """Merge and drop labels and leave out images, in this order; notes say what was done.

    Args:
        rows: of the source, changed in place.
        merge: labels that become one.
        drop: labels that are not used: their images are left out, but for those that have several labels.
        limit: keep about so many images, with all images of a patient, and the classes and partitions in proportion.
        counted: what a row is, in the notes: files, where each frame of one is an image.

    Raises:
        DataError: a label that no image has, a limit below 1, or a label whose name cannot be written to the tables.
    """
    for new, old in _pairs(merge, _present(rows)).items():
        _merge(rows, new, old, counted)
    for label in _texts(drop):
        _drop(rows, label, counted)
    if rows.multi_label:
        _check_names(rows)
    if limit is not None:
        _limit(rows, limit, counted)


def merges_in(merge: Merges, present: Iterable[str]) -> dict[str, list[str]]:
    """Merges that were asked of one table, as far as another has the labels.

    Example:
        >>> merges_in(["growth=dyed+polyp", "other=x"], ["polyp", "normal"])
        {'growth': ['polyp']}
    """
    known, kept = set(present), {}
    for new, old in _pairs(merge, known).items():
        if there := [label for label in old if label in known]:
            kept[new] = there
            known.add(new)
    return kept


def merged(labels: Iterable[Label | None], merge: Mapping[str, Sequence[str]]) -> list[Label | None]:
    """The labels of images with each of the old ones as its new one.

    Example:
        >>> merged(["dyed", ("dyed", "ulcer"), None], {"growth": ["dyed"]})
        ['growth', ('growth', 'ulcer'), None]
    """
    found = list(labels)
    for new, old in merge.items():
        found = [_renamed(cell, new, old) for cell in found]
    return found


def _pairs(merge: Merges, known: set[str]) -> dict[str, list[str]]:
    if isinstance(merge, Mapping):
        return {label_text(new): _texts(old) for new, old in merge.items()}
    pairs: dict[str, list[str]] = {}
    for text in [merge] if isinstance(merge, str) else merge:
        new, old = _pair(text, known | {*pairs})
        pairs.setdefault(new, []).extend(old)
    return pairs


def _texts(labels: Any) -> list[str]:
    """Labels as the table has them: a text or a number is one of them, else it is several."""
    several = isinstance(labels, Iterable) and not isinstance(labels, str)
    return [label_text(label) for label in (labels if several else [labels])]


def _pair(text: str, known: set[str]) -> tuple[str, list[str]]:
    """What NEW=a+b says; a sign may also be part of a label, as in HER2+."""
    ways = [(text[:at].strip(), text[at + 1 :].split("+")) for at, sign in enumerate(text) if sign == "="]
    for new, parts in ways:
        if new and (labels := _joined(parts, known)):
            return new, labels
    if not ways or not ways[0][0] or not all(part.strip() for part in ways[0][1]):
        raise DataError(f"{argument('merge')} '{text}' cannot be read", "write NEW=a+b")
    return ways[0][0], [part.strip() for part in ways[0][1]]


def _joined(parts: Sequence[str], known: set[str]) -> list[str] | None:
    """The labels that `parts`, joined by +, are; None where they are not."""
    if not parts:
        return []
    for n in range(1, len(parts) + 1):
        label = "+".join(parts[:n]).strip()
        if label in known and (rest := _joined(parts[n:], known)) is not None:
            return [label, *rest]
    return None


def _present(rows: Rows) -> set[str]:
    return {label for cell in rows.label for label in label_set(cell)} | set(rows.read_for)


def _check_present(rows: Rows, label: str) -> None:
    present = _present(rows)
    if label not in present:
        parts = [part.strip() for part in label.split(",")]
        apart = by_road(f"give a list: {parts}", f"write {'+'.join(parts)} to merge them, or --drop once for each")
        several = apart if set(parts) <= present else ""
        remedy = (
            several
            or did_you_mean(label, present)
            or (f"they have {', '.join(sorted(present)[:8])}" if present else "they have no labels: leave it out")
        )
        raise DataError(f"no image has the label '{label}'", remedy)


def _merge(rows: Rows, new: str, old: Sequence[str], counted: str) -> None:
    for label in old:
        _check_present(rows, label)
    n = sum(bool(set(old) & set(label_set(cell))) for cell in rows.label)
    had = 0 if new in old else sum(new in label_set(cell) for cell in rows.label)
    rows.label = merged(rows.label, {new: old})
    rows.read_for = list(_renamed(tuple(rows.read_for), new, old) or ())
    if rows.unknown:  # known where one of the merged labels is there; else as unknown as any of them
        joined = [_renamed(cell, new, old) or () for cell in rows.unknown]
        rows.unknown = [
            tuple(label for label in cell if label not in label_set(has))
            for cell, has in zip(joined, rows.label, strict=True)
        ]
    beside = f", beside the {had} that had it" if had else ""
    rows.notes.append(f"{', '.join(map(repr, old))} became '{new}': {n} {counted}{beside}")


def _renamed(cell: Label | None, new: str, old: Sequence[str]) -> Label | None:
    if isinstance(cell, tuple):
        return tuple(dict.fromkeys(new if label in old else label for label in cell))
    return new if cell in old else cell


def _drop(rows: Rows, label: str, counted: str) -> None:
    _check_present(rows, label)
    n = sum(label in label_set(cell) for cell in rows.label)
    if rows.multi_label:
        rows.label = [cell and tuple(one for one in cell if one != label) for cell in rows.label]
        rows.unknown = rows.unknown and [tuple(one for one in cell if one != label) for cell in rows.unknown]
        rows.read_for = [one for one in rows.read_for if one != label]
        rows.notes.append(f"label '{label}' is dropped; the {n} {counted} that have it are used without it")
    else:
        rows.keep([row for row, cell in enumerate(rows.label) if cell != label])
        rows.notes.append(f"label '{label}' is dropped: its {n} {counted} are left out")


def _check_names(rows: Rows) -> None:
    """Labels of a multi-label task stand in files with `|` between them."""
    for label in sorted(_present(rows)):
        if "|" in label or label == NO_FINDING:
            plain = label.replace("|", " or ").strip("()")
            apart = f"take it apart with {argument('label_delim', '|')}, or " * ("|" in label)
            raise DataError(
                f"the label '{label}' has a name that medclf's files cannot hold: they write several labels as a|b "
                f"and none as {NO_FINDING}",
                f"{apart}rename it, for example with {argument('merge', f'{plain}={label}')}",
            )


def _limit(rows: Rows, limit: int, counted: str) -> None:
    n = len(rows.path)
    check_count(argument("limit"), limit)
    if limit >= n:
        return
    ids = [("alone", row) if patient is None else patient for row, patient in enumerate(rows.patient)]
    keys, group_of = named_groups(rows.path, ids)
    kinds = [(*label_set(label), f"partition {part}") for label, part in zip(rows.label, rows.partition, strict=True)]
    order = shuffled(keys, 42)
    share = limit / n
    picked = order[balance(count_by_group(kinds, group_of)[order], (share, 1 - share)) == 0]
    rows.keep(np.flatnonzero(np.isin(group_of, picked)).tolist())
    what = "" if all(patient is None for patient in rows.patient) else ", whole patients"
    rows.notes.append(
        f"{len(rows.path)} of {n} {counted} are used, as {argument('limit', limit)} asks ({IN_PROPORTION}{what})"
    )
