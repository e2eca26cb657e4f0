"""A network without its classifier, and what is known of it and of the files of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

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
