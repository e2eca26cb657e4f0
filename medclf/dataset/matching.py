"""A table's labels in the words of a model that was trained on another table."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.labels import label_set, objects
from medclf.errors import argument

UNKNOWN = "unknown"  # the column of a table that names the labels of an image that nobody judged
_SHOWN = 5
_SIGNS = re.compile(r"[|;,/+&]| and ")  # between several labels in one
_CYRILLIC = "АВЕЅІЈКМНОРСТУХаеѕіјорсух"
_LOOKS_LATIN = str.maketrans(_CYRILLIC, "ABESIJKMHOPCTYXaesijopcyx") | str.maketrans("‐‑‒–—−‘’“”", "------''\"\"")


def spelling(label: str) -> str:
    """What labels have in common that differ only in case, accents, spaces, hyphens, or a final ".0".

    Characters that are not seen, such as zero-width spaces, count for nothing. Characters that look the same are the
    same: full-width letters, ligatures, dashes, quotes, and Cyrillic letters among Latin ones.

    Example:
        >>> spelling("Normal_Cecum ") == spelling("normal-cecum"), spelling("1.0") == spelling("1")
        (True, True)
    """
    seen = "".join(one for one in label if unicodedata.category(one) != "Cf")
    letters = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", seen)).translate(_LOOKS_LATIN)
    composed = unicodedata.normalize("NFC", letters).strip().strip("_")
    plain = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", composed).casefold()  # the sign of -1 and HER2- says something
    return re.sub(r"^(\d+)[.,]0+$", r"\1", plain)


def spelt_alike(labels: Iterable[str]) -> list[list[str]]:
    """The labels that `spelling` makes one, several each.

    Example:
        >>> spelt_alike(["Polyp", "ulcer", "polyp"])
        [['Polyp', 'polyp']]
    """
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(spelling(label), []).append(label)
    return [same for same in alike.values() if len(same) > 1]


@dataclass
class Matched:
    """What a table says about each label of a vocabulary.

    Args:
        y: (n,) places in the vocabulary, -1 where unknown; for several labels (n, L) of 1, 0 and -1.
        reasons: (n,) why an image has no known label, "" where it has one.
        renamed: labels of the table that stand for one of the vocabulary in another spelling.
        further: (n,) labels that the vocabulary has not, of images that it gives several labels.
        unread: labels of the vocabulary that the table says nothing about.
        by_one: the table gives one label an image, and the vocabulary several: the others count as absent.
        joined: further labels that seem to be several in one: they count neither for nor against these.
    """

    y: np.ndarray
    reasons: list[str]
    renamed: dict[str, str] = field(default_factory=dict)
    further: list[tuple[str, ...]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    by_one: bool = False
    joined: list[str] = field(default_factory=list)

    @property
    def known(self) -> np.ndarray:
        """(n,) whether the image has a label to measure by."""
        return np.array([not reason for reason in self.reasons], bool)


def match_labels(table: pd.DataFrame, vocab: Sequence[str], multi_label: bool) -> Matched:
    """Read a table's labels as a model's labels.

    A label that differs from one of the model's only in spelling counts as that one. With several labels an image, a
    further label is passed over and the image stays; a label that the table never speaks of is unknown, not absent.

    Args:
        table: as `scan` returns it.
        vocab: the model's labels.
        multi_label: whether the model gives several labels to an image.

    Returns:
        A `Matched`, one entry a row of the table.

    Example:
        >>> found = match_labels(pd.DataFrame({"label": ["Polyp", "mass", None]}), ["normal", "polyp"], False)
        >>> found.y.tolist(), found.reasons[1], found.renamed
        ([1, -1, -1], "the model has no label 'mass'", {'Polyp': 'polyp'})
    """
    cells = objects(table, "label")
    present = sorted({label for cell in cells for label in label_set(cell)})
    meant = _meanings(present, vocab)
    renamed = {label: one for label, one in meant.items() if label != one}
    place = {label: index for index, label in enumerate(vocab)}
    if not multi_label:
        spelt = {spelling(label): label for label in vocab}
        found = [_single(cell, meant, spelt) for cell in cells]
        y = np.array([place.get(label, -1) for label, _ in found], int)
        return Matched(y, [reason for _, reason in found], renamed)
    spoken_of = {meant.get(label, label) for label in present} | set(
        _meanings(table.attrs.get("labels") or [], vocab).values()
    )
    unread = [label for label in vocab if label not in spoken_of]
    y = np.full((len(cells), len(vocab)), -1)
    for row, (cell, open_labels) in enumerate(zip(cells, objects(table, UNKNOWN), strict=True)):
        if cell is None:
            continue
        y[row] = 0
        y[row, [place[meant[label]] for label in label_set(cell) if label in meant]] = 1
        if open_labels:
            y[row, [place[label] for label in _meanings(label_set(open_labels), vocab).values()]] = -1
    y[:, [place[label] for label in unread]] = -1
    joined = _joined(present, vocab, meant)
    for row, cell in enumerate(cells if joined else ()):
        parts = {part for label in label_set(cell) for part in joined.get(label, ())}
        y[row, [place[part] for part in parts if y[row, place[part]] == 0]] = -1
    reasons = ["" if (row >= 0).any() else "none of its labels is known" for row in y]
    further = [tuple(label for label in label_set(cell) if label not in meant) for cell in cells]
    return Matched(y, reasons, renamed, further, unread, any(isinstance(cell, str) for cell in cells), list(joined))


def _joined(present: Sequence[str], vocab: Sequence[str], meant: Mapping[str, str]) -> dict[str, list[str]]:
    """Labels that the vocabulary has not, and those of its own that each seems to hold."""
    apart = {label: [part.strip() for part in _SIGNS.split(label)] for label in present if label not in meant}
    held = {label: [*_meanings(parts, vocab).values()] for label, parts in apart.items() if len(parts) > 1}
    return {label: parts for label, parts in held.items() if parts}


def _single(cell: Any, meant: dict[str, str], spelt: dict[str, str]) -> tuple[str, str]:
    labels = label_set(cell)
    if len(labels) == 1 and labels[0] in meant:
        return meant[labels[0]], ""
    if len(labels) == 1:
        near = difflib.get_close_matches(spelling(labels[0]), spelt, 1)
        hint = (
            f" (if '{spelt[near[0]]}' is meant: {argument('merge', f'{spelt[near[0]]}={labels[0]}')})" if near else ""
        )
        return "", f"the model has no label '{labels[0]}'{hint}"
    return "", "it has several labels, and the model gives one" if labels else "it has no label"


def _meanings(labels: Sequence[str], vocab: Sequence[str]) -> dict[str, str]:
    """Those of `labels` that the vocabulary has, exactly or in one other spelling -> how it has them."""
    spelt = Counter(spelling(label) for label in vocab)
    by_spelling = {spelling(label): label for label in vocab if spelt[spelling(label)] == 1}
    exact = {label: label for label in labels if label in set(vocab)}
    return {label: by_spelling[spelling(label)] for label in labels if spelling(label) in by_spelling} | exact


def left_out(matched: Matched, meant: np.ndarray) -> dict[str, Any]:
    """What of a set of images is not measured, for results.json, the terminal and the page.

    Args:
        matched: the table's labels.
        meant: (n,) which images would be measured if their labels were known.

    Returns:
        {"sentence", "n", "of", "reasons", "further_labels", "unread_labels", "renamed"}; {} where nothing is missing.

    Example:
        >>> found = match_labels(pd.DataFrame({"label": ["Polyp", "mass", "mass"]}), ["normal", "polyp"], False)
        >>> left_out(found, np.array([True] * 3))["reasons"]
        {"the model has no label 'mass'": 2}
    """
    rows, of = np.flatnonzero(meant), int(meant.sum())
    reasons = Counter(matched.reasons[row] for row in rows if matched.reasons[row])
    further = Counter(label for row in rows if matched.further for label in matched.further[row])
    several = Counter({label: further[label] for label in matched.joined if further[label]})
    n = sum(reasons.values())
    sentences = []
    if n:
        half = "These numbers are about the smaller part of the images. " if of > n >= of / 2 else ""
        counted = f"{n} of {of} images are not measured" if n < of else f"None of the {of} images is measured"
        sentences.append(f"{half}{counted}: {_counted(reasons)}.")
    if several:
        apart = argument("label_delim")
        sentences.append(
            f"{_counted(several)} may be several labels in one, and counts neither for nor against them: {apart} takes "
            "the cells of a column apart."
        )
    if unknown := further - several:
        others = "they count as having none" if matched.by_one else "the images' other labels count"
        sentences.append(f"The model does not know the label {_counted(unknown)}; {others}.")
    if matched.unread:
        sentences.append(f"The data say nothing about {', '.join(map(repr, matched.unread))}: not measured.")
        if unknown:
            same = argument("merge", f"{matched.unread[0]}=THEIRS")
            sentences.append(f"Where a label has another name there, say so: {same}.")
    if matched.by_one:
        sentences.append("The data give one label an image, and the model several: all others count as absent.")
    if matched.renamed:
        named = [f"'{label}' as '{one}'" for label, one in list(matched.renamed.items())[:_SHOWN]]
        sentences.append(f"Labels were read in the model's spelling: {', '.join(named)}.")
    if not sentences:
        return {}
    return {
        "sentence": " ".join(sentences),
        "n": n,
        "of": of,
        "reasons": dict(reasons),
        "further_labels": dict(further),
        "unread_labels": matched.unread,
        "renamed": matched.renamed,
    }


def _counted(counts: Counter[str]) -> str:
    named = [f"{what} ({n} image{'s' * (n > 1)})" for what, n in counts.most_common(_SHOWN)]
    return ", ".join(named) + (f", and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")
