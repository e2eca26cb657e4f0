"""An architecture's name -> its network without the classifier: torchvision's, timm's, medclf's, or one's own."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medclf.errors import MedclfError, argument
from medclf.models.checkpoint_layouts import HALF, IMAGENET_MEAN, IMAGENET_STD
from medclf.models.cut import Cut, subsample_first
from medclf.models.hub_folders import OPEN_CLIP, is_repository, published
from medclf.models.plain_nets import LITE_FEATURES, LITE_NETS, RESNETS, lite_body, resnet_body
from medclf.models.timm_nets import cut_of_0_1, parted_name, timm_cut

_TORCHVISION_HEADS = {
    "AuxLogits",
    "aux1",
    "aux2",
    "avgpool",
    "dropout",
    "flatten",
    "fc",
    "classifier",
    "head",
    "heads",
}


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry: a network that is neither looked up in torchvision nor in timm.

    Args:
        body: makes it, randomly initialised, without its classifier: normalised NCHW images -> feature map
            (B, C, H, W), tokens (B, N, C) or features (B, C).
        mean, std: of each colour channel in [0, 1], as its weights want them normalised.
        size: side of the images that its weights were trained at, in pixels.
        n_features: C; None: found by running it once.
        heads, renames, class_token: see `Cut`.
        weights: gives a state dict, or the path of a file with one; None: there are none.
        source: who publishes it: "own", "package" or "torchvision".
    """

    body: Callable[[], nn.Module]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224
    n_features: int | None = None
    heads: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    class_token: bool = False
    weights: Callable[[], Mapping[str, Tensor] | str | Path] | None = None
    source: str = "own"

    def cut(self) -> Cut:
        """The network, randomly initialised."""
        heads, renames = self.heads, dict(self.renames)
        return Cut(self.body(), self.mean, self.std, self.size, heads, renames, self.class_token)


def _lite(name: str) -> Architecture:
    size, heads = LITE_NETS[name][2], ("classifier", "_fc")
    body = partial(lite_body, name)
    return Architecture(body, HALF, HALF, size, LITE_FEATURES, heads, source="package")


def _resnet(name: str) -> Architecture:
    n_features = 2048 if RESNETS[name][0] else 512
    return Architecture(partial(resnet_body, name), n_features=n_features, heads=("fc",), source="torchvision")


ARCHITECTURES: dict[str, Architecture] = {name: _lite(name) for name in LITE_NETS} | {
    name: _resnet(name) for name in RESNETS
}


def register_arch(name: str, body: Callable[[], nn.Module], **entry: Any) -> None:
    """Make a network of one's own known by a name, for `med_learner`, `train`, bundles and whatever else takes one.

    A bundle of it holds its weights and its name, not its code: register it before such a bundle is loaded.

    Args:
        name: a new one; registering a name of one's own again replaces it.
        body: see `Architecture`.
        entry: other fields of `Architecture`.

    Raises:
        MedclfError: torchvision, timm or medclf has an architecture of that name, or `body` is a network already.

    Example:
        >>> register_arch("tiny", lambda: nn.Conv2d(3, 8, 3), size=32)
        >>> from medclf.models.backbones import build_network
        >>> build_network("tiny", 2, weights=None)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2])
        >>> del ARCHITECTURES["tiny"]
    """
    if isinstance(body, nn.Module):
        raise MedclfError(f"body is called to make a network, and a {type(body).__name__} is one", "give a function")
    known = ARCHITECTURES.get(name)
    if (known is None and _published(name)) or (known is not None and known.source != "own"):
        raise MedclfError(f"there is an architecture named {name!r} already", "give yours another name")
    ARCHITECTURES[name] = Architecture(body, **entry)


def _published(name: str) -> bool:
    import timm
    from torchvision import models

    return name in models.list_models(module=models) or timm.is_model(name.removeprefix("timm/").partition(".")[0])


def resolve(arch: str | Callable[..., Any]) -> tuple[str, str]:
    """(source, name) of an architecture; where torchvision and timm both have a name, torchvision's is taken.

    Args:
        arch: a name of torchvision, timm or open_clip; `timm/NAME` for timm's of that name; `hf-hub:OWNER/NAME`,
            `local-dir:FOLDER` or a folder for the architecture of the weights there; or one of torchvision's or
            timm's functions. Networks of timm can be asked for more: `timm/vit_base_patch16_224?img_size=96`.

    Raises:
        MedclfError: neither has it; the remedy names those spelt most like it.

    Example:
        >>> resolve("efficientnet_lite0"), resolve("resnet50")
        (('package', 'efficientnet_lite0'), ('torchvision', 'resnet50'))
    """
    if callable(arch):
        module, name = getattr(arch, "__module__", ""), getattr(arch, "__name__", repr(arch))
        if module.startswith("timm."):
            return "timm", name
        if not module.startswith("torchvision.models"):
            raise MedclfError(
                f"{name} of {module or 'nowhere'} is not an architecture of torchvision or timm",
                "give one of their functions, the name of one, or register yours with register_arch",
            )
        arch = name
    if not isinstance(arch, str):
        raise MedclfError(
            f"{argument('arch')} is of the type {type(arch).__name__}, and not the name of an architecture",
            f"give a name, such as {argument('arch', 'resnet34')}, or a function that makes the network",
        )
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch].source, arch
    if is_repository(arch):
        return resolve(published(arch).arch)
    arch = _of_open_clip(arch)
    if not arch.startswith("timm/"):
        from torchvision import models

        if arch in models.list_models(module=models):
            return "torchvision", arch
    import timm

    name, asked = parted_name(arch.removeprefix("timm/"))
    if not timm.is_model(name.partition(".")[0]):
        raise MedclfError(f"unknown architecture {name!r}", _similar(name))
    if asked and not arch.startswith("timm/") and _published_elsewhere(name):
        raise MedclfError(f"{name} of torchvision takes no options", f"ask timm's network of that name: timm/{arch}")
    return "timm", arch.removeprefix("timm/")


def _similar(name: str) -> str:
    import timm
    from torchvision import models

    known = [*ARCHITECTURES, *models.list_models(module=models), *timm.list_models()]
    close = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.5)
    guess = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the names."
    return f"{guess} A network of your own must be registered first: medclf.models.registry.register_arch"


def _of_open_clip(name: str) -> str:
    plain, mark, asked = name.partition("?")
    known = OPEN_CLIP.get(plain.removesuffix("-quickgelu"))
    if known is None:
        return name
    known = known.replace("_clip_", "_clip_quickgelu_") if plain.endswith("-quickgelu") else known
    return f"timm/{known}{mark}{asked}"


def _published_elsewhere(name: str) -> bool:
    from torchvision import models

    return name in ARCHITECTURES or name in models.list_models(module=models)


def cut(source: str, name: str, *, as_in_0_1: bool = False) -> Cut:
    """The network of `resolve`'s answer, randomly initialised, without its classifier.

    Args:
        source: of `resolve`.
        name: of `resolve`.
        as_in_0_1: as bundles of version 0.1 have timm's networks.
    """
    entry = ARCHITECTURES.get(name)
    if entry is not None and entry.source == source:
        found = entry.cut()
    elif source == "torchvision":
        found = _torchvision_cut(name)
    else:
        found = cut_of_0_1(name) if as_in_0_1 else timm_cut(name)
    subsample_first(found.body)
    return found


def _torchvision_cut(name: str) -> Cut:
    from torchvision import models

    inception = name in ("inception_v3", "googlenet")
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if inception else {}
    published = models.get_model_weights(name).DEFAULT.transforms()
    size = published.crop_size[0]
    if name.startswith("vit_"):
        options["image_size"] = size
    model = models.get_model(name, weights=None, **options)
    mean, std = (HALF, HALF) if inception else (tuple(published.mean), tuple(published.std))
    heads, renames = tuple(sorted(_TORCHVISION_HEADS)), {}
    if isinstance(model, models.VisionTransformer):
        return Cut(ClassTokenBody(model), mean, std, size, heads, class_token=True)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for part, module in model.named_children():
        if part not in _TORCHVISION_HEADS:  # all of these run one after the other
            parts[part] = nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module
    if isinstance(model, models.DenseNet):
        parts["relu"] = nn.ReLU()
    if isinstance(model, models.ConvNeXt):  # its norm stands in the classifier, after the pooling
        parts["norm"], renames = model.classifier[0], {"classifier.0.": "norm."}
    return Cut(nn.Sequential(parts), mean, std, size, heads, renames)


class ClassTokenBody(nn.Module):
    """torchvision's vision transformer without its heads: images -> tokens, the class token first."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.class_token, self.conv_proj, self.encoder = vit.class_token, vit.conv_proj, vit.encoder

    def forward(self, x: Tensor) -> Tensor:
        """NCHW images whose sides are multiples of a patch -> (B, 1 + N, C)."""
        patches = self.conv_proj(x)
        tokens = torch.cat(
            [self.class_token.expand(patches.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        tokens = tokens + self._positions(*patches.shape[2:])
        result: Tensor = self.encoder.ln(self.encoder.layers(self.encoder.dropout(tokens)))
        return result

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embeddings, resampled where the grid of patches is another."""
        known: Tensor = self.encoder.pos_embedding
        side = round((known.shape[1] - 1) ** 0.5)
        if (rows, columns) == (side, side):
            return known
        grid = known[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        return torch.cat([known[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
