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


def check_rows(dls: DataLoaders) -> None:
    """See that a row of the loaders is an image and its label: a second image would be taken for the label.

    Raises:
        DataError: it is not.
    """
    columns = getattr(dls.train_ds, "tls", None)  # a data set of the user's own does not tell
    n_inp = getattr(dls, "n_inp", 1)
    if columns is not None and (n_inp, len(columns)) != (1, 2):
        raise DataError(
            f"each row of the loaders has {n_inp} inputs and {len(columns) - n_inp} targets",
            "give a DataBlock one MedImageBlock and one CategoryBlock or MultiCategoryBlock",
        )


def check_set(dls: DataLoaders, ds_idx: int) -> None:
    """See that the loaders have such a set.

    Raises:
        DataError: they do not.
    """
    if ds_idx not in range(len(dls.loaders)):
        raise DataError(
            f"ds_idx={ds_idx}: the loaders have {len(dls.loaders)} sets, 0 for train and 1 for valid",
            "give other images as dl=learn.dls.test_dl(files, with_labels=True)",
        )


def has_labels(loader: Any) -> bool:
    """Whether a loader gives labels beside the images; one of the user's own does not tell, and is taken to."""
    return len(getattr(getattr(loader, "dataset", None), "tls", [0, 0])) > 1


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
