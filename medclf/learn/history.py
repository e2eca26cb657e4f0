"""What is known of a learner's training, and of which weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from medclf.learn.weights import sample_of


class Trained:
    """Of a learner: what its last fit was, as long as the weights are those that the fit left.

    Of weights that came otherwise, such as by `learn.model.load_state_dict`, nothing is known.
    """

    model: torch.nn.Module
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
