"""Labels with an order: Mayo 0 to 3, BBPS 0 to 9, grades of diabetic retinopathy."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from medclf.dataset.cells import label_text
from medclf.errors import DataError, MedclfWarning, argument, did_you_mean

AUTO = "auto"
_NUMBER = re.compile(r"(\D*?)(\d+(?:\.\d+)?)(\D*)")


def ordered_labels(labels: Collection[str], order: str | Sequence[str]) -> list[str]:
    """The labels from the lowest grade to the highest.

    Args:
        labels: those that occur.
        order: their names in order, as a list or joined by commas; or "auto", which sorts them by the one number in
            each name. Names that no label has are left out, so that a distance counts the grades that occur.

    Returns:
        Each label once.

    Raises:
        DataError: a label is not in the order, or "auto" finds no number to sort by; the message names it.

    Warns:
        MedclfWarning: grades that no image has.

    Example:
        >>> ordered_labels(["grade 2", "grade 1", "grade 0"], "auto")
        ['grade 0', 'grade 1', 'grade 2']
        >>> ordered_labels(["severe", "mild"], "mild,severe")
        ['mild', 'severe']
        >>> ordered_labels(["mild", "severe"], "auto")
        Traceback (most recent call last):
        medclf.errors.DataError: the labels mild, severe have no numbers to sort them by
        name their order: ordinal="LOWEST,...,HIGHEST"
    """
    if not isinstance(order, Iterable):
        text = f"ordinal must name the labels, lowest first, not be {order!r}"
        raise DataError(text, f"give a list of them, or {argument('ordinal', AUTO)}, which sorts them by their numbers")
    if isinstance(order, (set, frozenset, Mapping)):
        text = f"ordinal is a {type(order).__name__}, whose items need not stand in the labels' order"
        raise DataError(text, "give a list of the labels, lowest first")
    if isinstance(order, str) and order == AUTO:
        return _by_number(sorted(labels))
    names = [label_text(name) for name in (order.split(",") if isinstance(order, str) else order)]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated or "" in names:
        what = f"names {repeated[0]!r} twice" if repeated else "has an empty name"
        raise DataError(f"{argument('ordinal', ','.join(names))} {what}", "name each label once")
    for label in sorted(labels):
        if label not in names:
            near = did_you_mean(label, names)
            raise DataError(
                f"{argument('ordinal', ','.join(names))} does not say where the label {label!r} belongs",
                near or f"add it, or leave its images out with {argument('drop', label)}",
            )
    absent = [name for name in names if name not in labels]
    if absent:
        _warn(f"no image has the grade {', '.join(map(repr, absent))}")
    return [name for name in names if name in labels]


def _by_number(labels: Sequence[str]) -> list[str]:
    """Sorted by the one number in each, where the rest of the names is the same."""
    found = {label: _NUMBER.fullmatch(label) for label in labels}
    rests = {(match[1].casefold(), match[3].casefold()) for match in found.values() if match}
    numbers = {label: float(match[2]) for label, match in found.items() if match}
    remedy = f"name their order: {argument('ordinal', 'LOWEST,...,HIGHEST')}"
    if len(numbers) < len(labels) or len(rests) > 1:
        names = ", ".join(label for label in labels if label not in numbers) or ", ".join(labels)
        raise DataError(f"the labels {names} have no numbers to sort them by", remedy)
    if len(set(numbers.values())) < len(labels):
        raise DataError(f"two of the labels {', '.join(labels)} have the same number", remedy)
    grades = sorted(labels, key=numbers.__getitem__)
    if any(numbers[above] - numbers[below] > 1 for below, above in pairwise(grades)):
        _warn(f"the numbers of the labels {', '.join(grades)} have a gap")
    return grades


def _warn(text: str) -> None:
    warnings.warn(MedclfWarning(f"{text}: a distance counts the grades that occur"), stacklevel=4)


def order_not_used(cells: object) -> list[str]:
    """A note where a column of labels says its order itself, as pandas' ordered Categorical, and nobody asked for it.

    Example:
        >>> order_not_used(pd.Series(pd.Categorical(["mild"], ["mild", "severe"], ordered=True)))[0][-48:]
        "is not used: ordinal=['mild', 'severe'] takes it"
    """
    dtype = getattr(cells, "dtype", None)
    if not (isinstance(dtype, pd.CategoricalDtype) and dtype.ordered):
        return []
    order = [label_text(category) for category in dtype.categories]
    return [
        f"the labels are an ordered Categorical, and their order is not used: {argument('ordinal', order)} takes it"
    ]
