"""A body that gives the feature maps of all its stages, where the last one's alone says too little."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from medclf.errors import MedclfError, argument
from medclf.models.stages import is_chain, stages

_SIDE = 224  # of the image that the channels are counted with: the least that every architecture takes


class AllStages(nn.Sequential):
    """A chain whose output holds the map of every stage: (B, C, h, w), the first stage's channels first.

    Earlier maps are averaged down to the size of the last one. They tell texture, colour and small structures, which
    the last stage of a network trained on photographs has given up: Evci et al. 2022, "Head2Toe: Utilizing
    intermediate representations for better transfer learning". The modules keep their names, so that weights of the
    body fit.

    Args:
        body: a chain of stages that give feature maps.

    Attributes:
        widths: channels of each stage.

    Raises:
        MedclfError: the body is none, such as a vision transformer or a network of timm.

    Example:
        >>> from medclf.models.backbones import build_body
        >>> body = AllStages(build_body("resnet18", weights=None))
        >>> body.widths, body(torch.zeros(1, 3, 64, 64)).shape
        ((64, 64, 128, 256, 512), torch.Size([1, 1024, 2, 2]))
    """

    def __init__(self, body: nn.Module) -> None:
        chain = nn.Sequential(body, nn.Identity())
        if not is_chain(chain):
            raise MedclfError(
                f"{argument('pooling', 'stages')} needs a network that is a chain of stages, and this one is none",
                f"leave out {argument('pooling')}, or use a ResNet, ConvNeXt, DenseNet or EfficientNet",
            )
        super().__init__(OrderedDict(body.named_children()))
        names = {id(module): name for name, module in body.named_modules()}
        self._names = tuple(tuple(_within(stage, names)) for stage in stages(chain)[:-1])
        self.widths = self._counted()

    def _counted(self) -> tuple[int, ...]:
        n_in = next((module.in_channels for module in self.modules() if isinstance(module, nn.Conv2d)), 3)
        with torch.inference_mode():
            maps = copy.deepcopy(self).to("meta").eval().maps(torch.empty(1, n_in, _SIDE, _SIDE, device="meta"))
        if any(one.ndim != 4 or one.shape[2] != one.shape[3] for one in maps):  # or channels last, as Swin's are
            raise MedclfError(
                f"{argument('pooling', 'stages')} needs maps whose channels come first, and a stage here gives none",
                f"leave out {argument('pooling')}",
            )
        return tuple(one.shape[1] for one in maps)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Of each stage."""
        found = []
        for names in self._names:
            for name in names:
                x = self.get_submodule(name)(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        *earlier, last = self.maps(x)
        size = (last.shape[2], last.shape[3])
        return torch.cat([*(adaptive_avg_pool2d(one, size) for one in earlier), last], 1)

    def chain(self) -> nn.Sequential:
        """The body that this was made of."""
        return nn.Sequential(OrderedDict(self.named_children()))


def _within(stage: nn.Module, names: dict[int, str]) -> list[str]:
    """The names of a stage's parts in the body: its own, or where it was put together those of its children."""
    own = names.get(id(stage))
    return [own] if own else [names[id(part)] for part in stage.children()]


def with_all_stages(body: nn.Module) -> nn.Module:
    """A body that gives the maps of all its stages; the body itself where it is no chain of them."""
    try:
        return AllStages(body)
    except MedclfError:
        return body


def widths_of(body: nn.Module) -> tuple[int, ...]:
    """Of the columns of a body's features: how many each stage has; () where they are the last stage's alone."""
    return body.widths if isinstance(body, AllStages) else ()


def of_last_stage(body: nn.Module, features: np.ndarray) -> np.ndarray:
    """`last_stage` of the features that a body gave."""
    return last_stage(features, widths_of(body))


def last_stage(features: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """The columns of the last stage, by which images are alike to people too; earlier ones tell of pixels.

    Args:
        features: (n, n_features).
        widths: see `widths_of`.
    """
    return features[:, -widths[-1] :] if len(widths) else features


def plain_body(body: nn.Module) -> nn.Module:
    """The body whose output is the last stage's map."""
    return cast(nn.Module, body.chain()) if isinstance(body, AllStages) else body
