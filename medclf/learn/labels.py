"""What loaders say of their labels, medclf's and fastai's own alike."""

from __future__ import annotations

from typing import Any

from fastai.data.core import DataLoaders

from medclf.display import listed
from medclf.errors import DataError


def class_names(dls: DataLoaders) -> list[str]:
    """The vocab of `dls`, as a list of strings.

    Raises:
        DataError: there is none.
    """
    vocab = getattr(dls, "vocab", None)
    if vocab is None:
        raise DataError("the loaders have no vocab", "make them with MedDataLoaders or with a CategoryBlock")
    if len(vocab) and not isinstance(vocab[-1], str) and hasattr(vocab[-1], "__len__"):
        vocab = vocab[-1]
    return [str(label) for label in vocab]


def is_ordinal(dls: Any) -> bool:
    """Whether the labels have an order, which the vocab of `dls` then is: see `scan`."""
    table = getattr(dls, "table", None)
    return table is not None and bool(table.attrs.get("ordinal"))


def is_multi_label(dls: DataLoaders) -> bool:
    """Whether an image of these loaders can carry several labels."""
    return "BCE" in type(getattr(dls.train_ds, "loss_func", None)).__name__


def refuse_other_labels(before: DataLoaders, now: DataLoaders) -> None:
    """See that a network made for the labels of `before` is not given loaders of others.

    Raises:
        DataError: its outputs would be told by other names.
    """
    if any(getattr(dls, "vocab", None) is None for dls in (before, now)):
        return
    theirs, new = class_names(before), class_names(now)
    if theirs != new:
        text = f"the loaders have the labels {listed(new)}, and the network predicts {listed(theirs)}, in this order"
        raise DataError(text, "make a learner of these loaders: med_learner(dls, arch)")
