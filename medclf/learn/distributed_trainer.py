"""Several processes, one network: fastai's DistributedTrainer for medclf's loaders.

Each process takes its part of the same batches that one process would take, so that the training is the same whatever
their number. The validation images are dealt out, none twice, and the metrics' sums are added up at the end.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from fastai.callback.progress import ProgressCallback
from fastai.metrics import AccumMetric
from torch.nn.parallel import DistributedDataParallel

from medclf.errors import MedclfWarning, require
from medclf.learn import distributed
from medclf.learn.batches import MedDL
from medclf.learn.deferred_loss import DeferredSmoothLoss

require("accelerate", "distributed")

from fastai.distributed import DistributedTrainer  # noqa: E402 - it needs accelerate and does not say so


class Together(DistributedTrainer):
    """fastai's `DistributedTrainer`, with batches that do not depend on the number of processes and exact metrics.

    Args:
        sync_bn: whether BatchNorm layers share their statistics; only GPUs can.
        kwargs: of `accelerate.Accelerator`.
    """

    def _wrap_dl(self, dl: Any) -> Any:
        return dl.parted() if isinstance(dl, MedDL) else super()._wrap_dl(dl)

    def before_validate(self) -> None:
        """Without the wrapper, which would wait for the others at each batch; they may have one more."""
        super().before_validate()
        self.wrapped = self.learn.model
        if isinstance(self.wrapped, DistributedDataParallel):
            self.learn.model = self.wrapped.module

    def after_loss(self) -> None:
        """Weigh this process's part of a batch by its images, since the gradients of all are averaged as equals."""
        loader = self.learn.dl
        if not self.training or not isinstance(loader, MedDL) or not loader.part:
            return
        n_ranks = loader.part[1]
        together = loader.bs * n_ranks
        n = max(n_ranks, min(together, loader.n - self.learn.iter * together))
        weight = len(self.learn.yb[0]) * n_ranks / n
        self.learn.loss_grad, self.learn.loss = self.learn.loss_grad * weight, self.learn.loss * weight

    def after_train(self) -> None:
        """The smoothed loss of all processes; before the Recorder notes it."""
        smooth = self.learn.recorder.smooth_loss
        if isinstance(smooth, DeferredSmoothLoss):
            smooth.fetch()
        smooth.val = torch.tensor(distributed.summed([float(smooth.val)])[0] / distributed.n_ranks())

    def after_validate(self) -> None:
        """Metrics of all images; before the Recorder notes them."""
        self.learn.model = self.wrapped
        if isinstance(self.learn.dl, MedDL) and self.learn.dl.part:
            for metric in self.learn.recorder._valid_mets:
                merge(metric)

    def after_fit(self) -> None:
        """fastai's; the loaders know how many epochs there were."""
        loaders = list(self.learn.dls.loaders)
        super().after_fit()
        for loader, parted in zip(self.learn.dls.loaders, loaders, strict=True):
            if isinstance(loader, MedDL) and isinstance(parted, MedDL):
                loader.epoch = parted.epoch


def merge(metric: Any) -> None:
    """Make a fastai metric that saw this process's images one that saw those of all.

    Warns:
        MedclfWarning: nobody knows how to add it up, so it is that of the first process's images.
    """
    if hasattr(metric, "total") and hasattr(metric, "count"):
        metric.total, metric.count = distributed.summed([float(metric.total), float(metric.count)])
    elif isinstance(metric, AccumMetric):
        for name in ("preds", "targs"):
            held = torch.cat([torch.as_tensor(part).as_subclass(torch.Tensor) for part in getattr(metric, name)])
            setattr(metric, name, [torch.from_numpy(distributed.gathered(held.numpy()))])
    elif distributed.is_first():
        text = f"the metric '{metric.name}' is of the first process's images only: it cannot be added up"
        warnings.warn(MedclfWarning(text), stacklevel=2)


@contextlib.contextmanager
def together(learn: Any, sync_bn: bool | None = None, **kwargs: Any) -> Iterator[Any]:
    """Within it, `learn` is trained by all processes of a launch.

    Args:
        learn: a `Learner` made alike in each process.
        sync_bn: whether BatchNorm layers share their statistics; None for yes on GPUs where they are trained.
        kwargs: of `accelerate.Accelerator`.
    """
    on_cpu = learn.dls.device.type == "cpu"
    if sync_bn is None:
        sync_bn = not on_cpu and not getattr(learn, "linear_probe", False)
    with distributed.group(learn.dls.device):
        callback = Together(sync_bn, cpu=on_cpu, **kwargs)
        removed = [cb for cb in learn.cbs if isinstance(cb, ProgressCallback)] if distributed.rank() else []
        learn.remove_cbs(removed)
        try:
            with learn.added_cbs([callback]):
                yield learn
        finally:
            learn.add_cbs(removed)
