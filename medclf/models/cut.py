"""A network without its classifier, and what is known of it and of the files of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from medclf.models.checkpoint_layouts import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Cut:
    """A network cut before its pooling, and how files of its weights are named.

    Args:
        body: normalised NCHW images -> feature map (B, C, H, W), tokens (B, N, C) or features (B, C).
        mean, std: of each colour channel in [0, 1], as its weights want them normalised.
        size: side of the images that its weights were trained at, in pixels.
        heads: first parts of the parameter names that belong to the classifier that was cut off.
        renames: beginnings of names in a classifier's file -> in the body.
        class_token: the first token stands for the image.
    """

    body: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224
    heads: tuple[str, ...] = ()
    renames: dict[str, str] = field(default_factory=dict)
    class_token: bool = False


class SubsampledConv2d(nn.Conv2d):
    """A strided convolution of single pixels: the pixels that it keeps, convolved with stride 1, which is the same.

    The backward pass of torch 2.14's own writes beyond its memory on processors without AVX-512, where it has fewer
    than 8 channels that lie last in memory: RepVGG, which has one at its input, ended the process.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        rows, columns = self.stride
        return functional.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


def subsample_first(body: nn.Module) -> None:
    """Make the convolutions of a network that need it a `SubsampledConv2d`; their weights and names stay."""
    for module in body.modules():
        if type(module) is nn.Conv2d and module.in_channels < 8 and module.groups == 1:
            strided = module.kernel_size == (1, 1) and max(module.stride) > 1 and module.padding == (0, 0)
            module.__class__ = SubsampledConv2d if strided else nn.Conv2d
