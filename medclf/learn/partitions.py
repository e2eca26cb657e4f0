"""A TABLE -> which image is in which part, and what its label is, as fastai's DataBlock asks for it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from fasttransform import Transform

from medclf.config import TrainConfig
from medclf.dataset.groups import on_both_sides
from medclf.dataset.labels import label_set, objects, usable
from medclf.dataset.matching import UNKNOWN
from medclf.dataset.scan import note
from medclf.dataset.splits import no_partition, split_table, usual_split
from medclf.errors import DataError, MedclfWarning, argument
from medclf.learn import distributed


class LabelOf(Transform):
    """The label of a path, looked up in the table; a Transform so that `learn.export()` can pickle it."""

    def __init__(self, labels: dict[str, Any]) -> None:
        super().__init__()
        self.labels = labels

    def encodes(self, path: Any) -> Any:
        """The label, or the labels as a list.

        Raises:
            DataError: the path has no row in the table.
        """
        label = self.labels.get(str(path), self.labels.get(str(Path(path).resolve())))
        if label is None:
            raise DataError(f"{path} has no label in the table", "use test_dl without with_labels=True")
        return list(label) if isinstance(label, tuple) else label


class PartitionSplitter:
    """fastai's splitter protocol over the table's partition column."""

    def __init__(self, partition: dict[str, str]) -> None:
        self.partition = partition

    def __call__(self, items: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Indices of the train items and of the valid items; where none is valid, the train items are both."""
        sides = [self.partition[str(item)] for item in items]
        train, valid = ([i for i, s in enumerate(sides) if s == side] for side in ("train", "valid"))
        return train, valid or train


def partitioned(table: pd.DataFrame, split: str | None, **settings: Any) -> tuple[pd.DataFrame, str]:
    """A copy of the table with its partitions filled in, and the kind of split."""
    table = table.copy()
    if split is None or split == "none":
        split = usual_split(table)
    told = [*_unused(split, settings), _mixed(table, split)]
    if split == "kfold" and settings.get("fold"):  # the first of the folds has told it
        told = []
    for text in filter(None, told):
        warnings.warn(MedclfWarning(text), stacklevel=3)
        note(table, text)
    if split == "all":
        held_out = (table["problem"] != "") | table["label"].isna() | (table["partition"] == "test")
        table["partition"] = table["partition"].where(held_out, "train")
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MedclfWarning)
            sides = distributed.from_first(lambda: list(split_table(table, split, **settings)))
        table["partition"] = pd.Series(sides, table.index, dtype=object)
        for warning in caught:
            warnings.warn(warning.message, warning.category, stacklevel=3)
        said = [str(warning.message) for warning in caught if issubclass(warning.category, MedclfWarning)]
        elsewhere = {no_partition(table), on_both_sides(table)}  # `assess` and `describe_split` count those
        note(table, *(text for text in said if text not in elsewhere))
    return table, split


def _unused(split: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """What is said of a share or a number of folds that the split has no use for."""
    share, n_folds = settings.get("valid_pct", TrainConfig.valid_pct), settings.get("n_folds", TrainConfig.folds)
    nothing = f"{argument('valid_pct', share)} changes nothing"
    if split == "folders" and share != TrainConfig.valid_pct:
        anew = f"{argument('split', 'random')} divides anew"
        yield f"{nothing}: the folders or the table say which images validate. {anew}"
    if split == "kfold" and share != TrainConfig.valid_pct:
        yield f"{nothing}: with {argument('split', 'kfold')} {argument('n_folds', n_folds)} says it"
    if split not in ("kfold", "all") and n_folds != TrainConfig.folds:
        yield f"{argument('n_folds', n_folds)} changes nothing without {argument('split', 'kfold')}"
    if split != "kfold" and settings.get("fold"):
        yield f"{argument('fold', settings['fold'])} changes nothing without {argument('split', 'kfold')}"


def _mixed(table: pd.DataFrame, split: str) -> str:
    """What is said where a split mixes the training and validation images that folders or a column name."""
    counts = Counter(usable(table)["partition"].dropna())
    if split in ("folders", "all") or not counts["valid"]:  # the network at the end of a k-fold is fitted on all
        return ""
    text = f"the data name {counts['train']} training and {counts['valid']} validation images of their own, and "
    text += f"{argument('split', split)} mixes them. "
    if counts["train"]:
        return f"{text}{argument('split', 'folders')} keeps them apart"
    return f"{text}Name the others train, in their folder or column, to keep them apart"


def refuse_unknown(used: pd.DataFrame) -> None:
    """Raise for images to learn from of which a label is unknown: a network needs an answer for each."""
    unknown = Counter(label for cell in objects(used, UNKNOWN) for label in label_set(cell))
    none = sum(label is None for label in objects(used, "label"))
    if unknown:
        named = ", ".join(f"'{label}' of {n} images" for label, n in unknown.most_common(5))
        raise DataError(
            f"it is unknown whether there is {named}, and a network needs an answer to learn from",
            f"choose {argument('uncertain')} or {argument('blank')}: negative, positive or exclude",
        )
    if none:
        raise DataError(f"{none} of {len(used)} images have no label to learn from", "label them, or leave them out")


def vocab_of(used: pd.DataFrame, multi_label: bool, order: Sequence[str] | None = None) -> list[str]:
    """The sorted labels of the images in use; in their own order, where they have one.

    Raises:
        DataError: no image, nothing to train on, or fewer than two labels.
    """
    if used.empty:
        raise DataError("no images to train on", "run `medclf scan` on the data to see why")
    by_side = {side: _labels_in(rows["label"], multi_label) for side, rows in used.groupby("partition")}
    if "train" not in by_side:
        raise DataError(
            "the split leaves no image to train on", f"change {argument('valid_pct')} or {argument('split')}"
        )
    vocab = sorted(set().union(*by_side.values()), key=None if order is None else list(order).index)
    if len(vocab) < (1 if multi_label else 2):
        text = f"only the label '{vocab[0]}' occurs" if vocab else "no label occurs"
        raise DataError(text, "a classifier needs at least two classes")
    return vocab


def _labels_in(column: pd.Series, multi_label: bool) -> set[str]:
    return {label for labels in column for label in labels} if multi_label else set(column)
