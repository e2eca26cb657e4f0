"""No wait for the device inside a step: fastai looks at the loss after every batch, and a GPU stands still then."""

from __future__ import annotations

from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.learner import AvgSmoothLoss, Recorder
from torch import Tensor


class DeferredSmoothLoss(AvgSmoothLoss):
    """fastai's smoothed loss, of which the losses of many batches are fetched at once.

    The values are fastai's own; between two fetches the last one that is known is shown. When an epoch ends (see
    `FetchLosses`) all are known, and the Recorder's notes are complete. `benchmarks/gpu.py` measures its gain.

    Args:
        recorder: whose losses are filled in.
        every: batches between two fetches; a learning-rate search fetches each.
        beta: as fastai's.

    Example:
        >>> # learn.recorder.smooth_loss = DeferredSmoothLoss(learn.recorder); learn.add_cb(FetchLosses())
    """

    def __init__(self, recorder: Recorder, every: int = 50, beta: float = 0.98) -> None:
        super().__init__(beta=beta)
        self.recorder, self.every = recorder, every
        self._unseen: list[Tensor] = []

    def reset(self) -> None:
        """Begin a fit."""
        super().reset()
        self._unseen = []

    def accumulate(self, learn: Any) -> None:
        """Note a batch's loss, on its device."""
        self._unseen.append(learn.loss.detach().mean())
        if self.count == 0 or len(self._unseen) >= self.every or hasattr(learn, "lr_finder"):
            self.fetch()

    def fetch(self) -> None:
        """Fetch the losses that were noted, and smooth them one by one."""
        if not self._unseen:
            return
        fetched = torch.stack(self._unseen).cpu()
        self._unseen = []
        for loss in fetched:
            self.count += 1
            self.val: Tensor = torch.lerp(loss.as_subclass(Tensor), self.val, self.beta)
            if self.count <= len(self.recorder.losses):
                self.recorder.losses[self.count - 1] = self.value


class FetchLosses(Callback):
    """Fetch the losses of an epoch's last batches before the Recorder writes its line."""

    order = Recorder.order - 1

    def after_train(self) -> None:
        """See the class."""
        smooth_loss = self.learn.recorder.smooth_loss
        if isinstance(smooth_loss, DeferredSmoothLoss):
            smooth_loss.fetch()
