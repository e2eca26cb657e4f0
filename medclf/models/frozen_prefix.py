"""A network cut in two: the stages below only predict, the stages above are trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from medclf.models.bn_folding import folded
from medclf.models.stages import stages
from medclf.models.timm_nets import CANNOT_RUN


class FrozenPrefix(nn.Sequential):
    """A chain that is trained from a cut on: it takes what the stages below the cut give, or images; see `run_below`.

    It holds all of the network's modules under the same names, so checkpoints of the one fit the other.

    Args:
        network: body and head, whose stages make a chain.
        cut: index of the first stage that is trained.
        in_bf16: what the stages below the cut give was reckoned in bfloat16.

    Example:
        >>> from medclf.models.backbones import build_network
        >>> network = build_network("resnet18", 2, weights=None)
        >>> FrozenPrefix(network, 4)(torch.zeros(1, 256, 4, 4)).shape
        torch.Size([1, 2])
    """

    def __init__(self, network: nn.Module, cut: int, in_bf16: bool = False) -> None:
        super().__init__(*network.children())
        self.in_bf16 = in_bf16
        self._above = tuple(stages(network)[cut:])  # a tuple, since the modules are registered already
        self._below: tuple[nn.Module, ...] = ()

    def body(self) -> nn.Module:
        """What lies between what it takes and the head: the network's own body where it takes images."""
        return self[0] if self._below else nn.Sequential(*self._above[:-1])

    def run_below(self, below: nn.Module) -> FrozenPrefix:
        """Take images from now on: `below` gives what the stages below give of them, without gradients."""
        self._below = (below,)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """What the stages below give, or images -> logits."""
        for below in self._below:
            with torch.no_grad():
                x = torch.cat([below(part) for part in torch.split(x, at_once(x.device))])
        for stage in self._above:
            x = stage(x)
        return x


def at_once(device: torch.device) -> int:
    """Images that are best run at once where nothing is trained: those whose layers fit a CPU's caches.

    64 at once take a CPU twice as long an image (EfficientNet-Lite0).
    """
    return 8 if device.type == "cpu" else 64


def folded_below(network: nn.Module, cut: int) -> nn.Module:
    """The first `cut` stages as a module that only predicts, its norms folded; see `folded`."""
    below = nn.Sequential(*stages(network)[:cut])
    first = next(network.parameters())
    channels = next(module.in_channels for module in below.modules() if isinstance(module, nn.Conv2d))
    noise = torch.rand(1, channels, 128, 128, generator=torch.Generator().manual_seed(0))
    modes = [(module, module.training) for module in below.modules()]
    try:
        return folded(below.eval(), noise.to(first))
    except CANNOT_RUN:  # it takes images of another size
        return copy.deepcopy(below)
    finally:
        for module, training in modes:
            module.training = training
