"""Clues that give the class away without the anatomy: the image's size and depth, borders and overlays."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from medclf.dataset.folds import folds, group_codes
from medclf.dataset.labels import Label, label_set
from medclf.images.rim_marks import MOST_EDGES, MOST_PLACES, Mark, mark_flags
from medclf.results.wording import percent

_FOLDS = 5
_MARGIN = 0.1  # balanced accuracy above chance that is worth a word
_SIGMAS = 3.0  # ... and surely so
_FEWEST = 5  # images of a class below which nothing is said of it
_TIED = 0.3  # Cramer's V
_MOST_MARKS = 8


@dataclass(frozen=True)
class Clue:
    """Something beside the anatomy that tells the class.

    Args:
        kind: "size-tells-class", "depth-tells-class", "overlay-tells-class" or "colour-tells-class".
        strength: balanced accuracy of a classifier that sees nothing else, or Cramer's V; in [0, 1].
        sentence: what was found, in words.
        facts: the numbers.
    """

    kind: str
    strength: float
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


def find_clues(
    labels: Sequence[Label | None],
    sizes: np.ndarray,
    depths: Sequence[tuple[str, int, int]],
    marks: np.ndarray,
    groups: Sequence[Any] | None = None,
) -> list[Clue]:
    """What gives the class away.

    Args:
        labels: the label, or labels, of each image; None is left out.
        sizes: (n, 2) width and height in pixels.
        depths: format, bits and channels of each image.
        marks: (n, N_MARKS) from `measure_marks`.
        groups: patient of each image: a patient's images are kept together when the classifier is tested.

    Returns:
        The clues, strongest first within a kind.

    Example:
        >>> labels = ["chest"] * 20 + ["abdomen"] * 20
        >>> sizes = np.array([[512, 512]] * 20 + [[300 + k, 400] for k in range(20)])
        >>> clue = find_clues(labels, sizes, [("PNG", 8, 1)] * 40, np.zeros((40, 36)))[0]
        >>> clue.kind, clue.strength
        ('size-tells-class', 1.0)
    """
    sets = [label_set(label) for label in labels]
    known = np.array([bool(found) for found in sets], bool)
    targets = _targets([found for found in sets if found])
    if not targets:
        return []
    sizes = np.asarray(sizes, float)[known]
    shape = np.column_stack([sizes, sizes[:, 0] / np.maximum(sizes[:, 1], 1)])
    formats = {name: code for code, name in enumerate(sorted({depth[0] for depth in depths}))}
    depth = np.array([(formats[form], bits, channels) for form, bits, channels in depths], float)[known]
    patients = None if groups is None else np.asarray(list(groups), object)[known]
    clues = []
    for kind, what, features in (
        ("size-tells-class", "image size", shape),
        ("depth-tells-class", "file format", depth),
    ):
        told = [_told(kind, what, label, features, y, patients) for label, y in targets.items()]
        clues += sorted((clue for clue in told if clue), key=lambda clue: -clue.strength)
    return clues + _tied_marks(mark_flags(np.asarray(marks)[known]), targets)


def _targets(sets: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """What is to be told: {"": class of each image}; of several labels an image, each label's presence by itself."""
    counts = Counter(label for found in sets for label in found)
    multi = any(len(found) > 1 for found in sets)
    if not multi:
        y = np.array([found[0] for found in sets])
        return {"": y} if sum(n >= _FEWEST for n in counts.values()) > 1 else {}
    presence = {label: np.array([label in found for found in sets]) for label in sorted(counts)}
    return {
        label: np.where(held, label, f"no {label}")
        for label, held in presence.items()
        if _FEWEST <= held.sum() <= len(held) - _FEWEST
    }


def _told(
    kind: str, what: str, label: str, features: np.ndarray, y: np.ndarray, groups: np.ndarray | None
) -> Clue | None:
    """Whether a decision tree names the class from `features` alone."""
    classes, counts = np.unique(y, return_counts=True)
    frequent = np.isin(y, classes[counts >= _FEWEST])
    x, y = features[frequent], y[frequent]
    if len(np.unique(y)) < 2 or not (x != x[0]).any():
        return None
    said = _cross_validated(x, y, None if groups is None else groups[frequent])
    classes = np.unique(y)
    sizes = np.array([(y == one).sum() for one in classes])
    right = np.array([((said == y) & (y == one)).sum() for one in classes])
    shares = right / sizes
    strength, chance = float(shares.mean()), 1 / len(classes)
    eased = (right + 2) / (sizes + 4)  # Agresti & Coull: no deviation of zero
    deviation = math.sqrt((eased * (1 - eased) / (sizes + 4)).sum()) / len(classes)
    if strength - _SIGMAS * deviation < chance + _MARGIN * (1 - chance):
        return None
    accuracy, majority = float((said == y).mean()), float(sizes.max() / sizes.sum())
    whom = f"whether an image shows '{label}'" if label else "the class"
    sentence = (
        f"{what.capitalize()} alone predicts {whom} in {percent(accuracy, 0)} of images "
        f"(guessing: {percent(majority, 0)}). "
        f"The balanced accuracy is {strength:.2f} (guessing: {chance:.2f}). "
        f"The model may use {what} instead of content."
    )
    facts = {"label": label or None, "balanced_accuracy": strength, "chance": chance, "accuracy": accuracy}
    return Clue(kind, strength, sentence, {**facts, "majority": majority, "n": len(y)})


def _cross_validated(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """What a decision tree says of each image when trained on the others."""
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=8, class_weight="balanced", random_state=0)
    together = groups if groups is not None and group_codes(groups, len(y)).max() + 1 >= _FOLDS else None
    return np.asarray(cross_val_predict(tree, x, y, cv=PredefinedSplit(folds(y, together, _FOLDS))))


@dataclass(frozen=True)
class _Tie:
    """A mark that stands on one class and not on another: (classes,) the share of each that carries it."""

    mark: Mark
    strength: float
    share: np.ndarray
    most: int
    least: int


def _tied_marks(flags: dict[Mark, np.ndarray], targets: dict[str, np.ndarray]) -> list[Clue]:
    """Marks that stand on one class and not on the other, the most telling ones."""
    clues = []
    for label, y in targets.items():
        classes, codes = np.unique(y, return_inverse=True)
        ties = [_tie(mark, on, codes, len(flags)) for mark, on in flags.items()]
        clues += [_mark_clue(whole, group, label, classes) for whole, group in _by_cause([tie for tie in ties if tie])]
    return sorted(clues, key=lambda clue: -clue.strength)[:_MOST_MARKS]


def _tie(mark: Mark, on: np.ndarray, codes: np.ndarray, n_tried: int) -> _Tie | None:
    totals = np.bincount(codes)
    with_mark = np.bincount(codes, weights=on, minlength=len(totals))
    if not _FEWEST <= with_mark.sum() <= len(codes) - _FEWEST:
        return None
    squares, p = stats.chi2_contingency(np.stack([with_mark, totals - with_mark]), correction=False)[:2]
    strength = math.sqrt(squares / len(codes))
    if strength < _TIED or p > 0.001 / n_tried:
        return None
    share = with_mark / totals
    shown = np.where(totals >= _FEWEST, share, np.nan)
    return _Tie(mark, strength, share, int(np.nanargmax(shown)), int(np.nanargmin(shown)))


def _by_cause(ties: Sequence[_Tie]) -> list[tuple[bool, list[_Tie]]]:
    """Ties of one cause, the strongest first, and whether the cause is the picture as a whole.

    An overlay has its place. What ties one class at many places, in one image here and in another there, is the
    colour or the brightness of the whole picture, which is told once.
    """
    groups: dict[tuple[int, str], list[_Tie]] = {}
    for tie in sorted(ties, key=lambda tie: -tie.strength):
        groups.setdefault((tie.most, tie.mark.what), []).append(tie)
    causes, whole = [], []
    for (_, what), group in groups.items():
        reach = MOST_EDGES if what == "an even border" else MOST_PLACES
        if len(group) > reach or any(not tie.mark.place for tie in group):
            whole += group
        else:
            causes.append((False, group))
    return [*causes, *([(True, sorted(whole, key=lambda tie: -tie.strength))] if whole else [])]


def _mark_clue(whole: bool, group: Sequence[_Tie], label: str, classes: np.ndarray) -> Clue:
    """The finding of marks that have one cause, with the numbers of the strongest of them."""
    first = group[0]
    if whole:
        looks = ", ".join(dict.fromkeys(re.sub("^an? | area$", "", tie.mark.what) for tie in group))
        kind = "colour-tells-class"
        mark = f"the colour or brightness of the whole picture or its surround ({looks})"
        advice = "It may come from the stain, the lamp or the camera."
    else:
        kind, mark = "overlay-tells-class", f"{first.mark.what} at {' and '.join(tie.mark.place for tie in group)}"
        advice = "Check whether it belongs to the picture or was laid over it."
    sentence = (
        f"{mark[0].upper()}{mark[1:]} occurs in {percent(first.share[first.most], 0)} of '{classes[first.most]}' and "
        f"{percent(first.share[first.least], 0)} of '{classes[first.least]}' images (Cramér's V {first.strength:.2f}). "
        f"{advice} A shortcut test shows whether a model relies on it."
    )
    by_class = {str(one): float(part) for one, part in zip(classes, first.share, strict=True)}
    facts = {"mark": mark, "label": label or None, "cramers_v": first.strength, "share_by_class": by_class}
    return Clue(kind, first.strength, sentence, facts)
