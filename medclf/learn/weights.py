"""A network's weights while it trains: kept, averaged with those it began with, and BatchNorm's left as they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.torch_core import get_model

from medclf.errors import MedclfWarning

_FEW = 8


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def last_weight(model: torch.nn.Module) -> torch.Tensor:
    """The weights of the last layer that has any."""
    return [*model.parameters()][-2 if len([*model.parameters()]) > 1 else -1].detach()


def sample_of(model: torch.nn.Module) -> torch.Tensor:
    """A few values of each parameter: the same on another device, others as soon as other weights are loaded."""
    return torch.cat([value.detach().flatten()[:_FEW].float() for value in model.parameters()]).cpu()


class BlendWeights(Callback):
    """Before the last epoch is validated, make each trained weight `share` of what it is, the rest of `learn.start`.

    So the last row of the epochs, and whatever is saved with it, are of the network that comes back.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def after_train(self) -> None:
        """After the last batch of an epoch."""
        if self.learn.epoch == self.learn.n_epoch - 1:
            blend_weights(get_model(self.learn.model), self.learn.start, self.share)

    def after_cancel_fit(self) -> None:
        """Say where a callback ended the fit before that."""
        if self.learn.epoch < self.learn.n_epoch - 1:
            text = f"the fit ended before its last epoch, where blend={self.share} averages: nothing was averaged"
            warnings.warn(MedclfWarning(text), stacklevel=2)


def blend_weights(model: torch.nn.Module, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Make each weight that was trained `share` of what it is and the rest of what it was in `start`."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.lerp_(start[name].to(value), 1 - share)


class KeepStatistics(Callback):
    """While training, BatchNorm layers normalise with the statistics they have and do not update them."""

    order = TrainEvalCallback.order + 1

    def before_train(self) -> None:
        """After fastai has put the network into training mode."""
        for module in self.learn.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
