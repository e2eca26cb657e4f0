"""What is known of a learner's training: its epochs, of which weights they are, and the images it learned from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch

from medclf.errors import MedclfWarning
from medclf.learn.weights import sample_of


class Trained:
    """Of a learner: what its last fit was, as long as the weights are those that the fit left.

    Of weights that came otherwise, such as by `learn.model.load_state_dict`, nothing is known.
    """

    model: Any
    dls: Any
    _learned_from: frozenset[str] = frozenset()  # SHA-256 of images
    _history: Sequence[dict[str, Any]] = ()
    _returned_epoch: int | None = None
    _tuning: Mapping[str, Any] | None = None
    _told_of: torch.Tensor | None = None

    @property
    def history(self) -> Sequence[dict[str, Any]]:
        """One dict an epoch of the last fit: epoch, train_loss, valid_loss and each metric."""
        return self._history if self._is_told_of() else ()

    @property
    def returned_epoch(self) -> int | None:
        """Which of them the network is of; not the last where `SaveBest` brought back a better one."""
        return self._returned_epoch if self._is_told_of() else None

    @property
    def tuning(self) -> Mapping[str, Any] | None:
        """What `fine_tune` was last asked for: epochs, lr, train_from and sizes."""
        return self._tuning if self._is_told_of() else None

    @tuning.setter
    def tuning(self, asked: Mapping[str, Any] | None) -> None:
        with self._same_training():
            self._tuning = asked

    @contextmanager
    def _same_training(self) -> Iterator[None]:
        """A context after which what is known is told of the weights as they are then."""
        if not self._is_told_of():
            self._forget_training()
        try:
            yield
        finally:
            self._told_of = sample_of(self.model)

    def _is_told_of(self) -> bool:
        return self._told_of is None or torch.equal(sample_of(self.model), self._told_of)

    def _forget_training(self) -> None:
        self._history, self._returned_epoch, self._tuning = (), None, None

    def _learn_from(self, *, anew: bool = False) -> None:
        """Keep which images the network has learned from, in case others are put before it later.

        Args:
            anew: nothing of what was learned before is left.
        """
        table = getattr(self.dls, "table", None)
        before: frozenset[str] = frozenset() if anew else self._learned_from
        if table is not None and "sha256" in table:
            self._learned_from = before | {*table.loc[table["partition"] == "train", "sha256"]} - {""}

    def has_learned(self, table: pd.DataFrame) -> pd.Series:
        """Which validation and test images of a table the network has learned from, under an earlier split."""
        held = table["partition"].isin(["valid", "test"])
        if "sha256" not in table:
            return held & False
        copies = {*table.loc[table["partition"] == "train", "sha256"]}  # a copy across this split is a near-duplicate
        return held & table["sha256"].isin(self._learned_from - copies)

    def _warn_of_learned(self) -> None:
        table = getattr(self.dls, "table", None)
        if table is not None and (n := int(self.has_learned(table).sum())):
            text = f"the network has learned from {n} of these validation and test images"
            remedy = "make a new learner for another split"
            warnings.warn(MedclfWarning(f"{text}: scores on them measure memory ({remedy})"), stacklevel=3)
