"""An architecture's name -> its network without the classifier: torchvision's, timm's, or medclf's own."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medclf.errors import MedclfError
from medclf.models.plain_nets import LITE_NETS, RESNETS, lite_body, resnet_body

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # EfficientNet-Lite and Inception take images scaled to -1 .. 1
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
class Cut:
    """A network cut before its pooling, and how files of its weights are named.

    Args:
        body: normalised NCHW images -> feature map (B, C, H, W), tokens (B, N, C) or features (B, C).
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


def resolve(arch: str | Callable[..., Any]) -> tuple[str, str]:
    """(source, name) of an architecture; where torchvision and timm both have a name, torchvision's is taken.

    Args:
        arch: a name, `timm/NAME` for timm's of that name, or one of torchvision's or timm's functions.

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
                "give one of their functions or a name, e.g. arch='resnet34'",
            )
        arch = name
    if arch in LITE_NETS:
        return "package", arch
    if arch in RESNETS:
        return "torchvision", arch
    if not arch.startswith("timm/"):
        from torchvision import models

        if arch in models.list_models(module=models):
            return "torchvision", arch
    import timm

    name = arch.removeprefix("timm/")
    if not timm.is_model(name.partition(".")[0]):
        raise MedclfError(f"there is no architecture named {arch!r}", _similar(name))
    return "timm", name


def _similar(name: str) -> str:
    import timm
    from torchvision import models

    known = [*LITE_NETS, *RESNETS, *models.list_models(module=models), *timm.list_models()]
    close = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the names"


def cut(source: str, name: str) -> Cut:
    """The network of `resolve`'s answer, randomly initialised, without its classifier."""
    if source == "package":
        body, size = lite_body(name), LITE_NETS[name][2]
        return Cut(body, HALF, HALF, size, heads=("classifier", "_fc"))
    if name in RESNETS and source == "torchvision":
        return Cut(resnet_body(name), heads=("fc",))
    return _torchvision_cut(name) if source == "torchvision" else _timm_cut(name)


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
        """NCHW images of the transformer's own size -> (B, 1 + N, C)."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        return self.encoder(torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1))


class ToNCHW(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.permute(0, 3, 1, 2)


def _timm_cut(name: str) -> Cut:
    import timm

    model: Any
    try:  # transformers that can then take other sizes than their own
        model = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError:
        model = timm.create_model(name, num_classes=0)
    class_token = getattr(model, "global_pool", "") == "token"
    # Not create_model(global_pool=""): that moves some networks' last norm, and their weights do not fit.
    model.reset_classifier(0, "")
    config = model.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    body: nn.Module = model
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        body = nn.Sequential(OrderedDict(net=model, nchw=ToNCHW()))
    size = config.get("input_size", (3, 224, 224))[-1]
    return Cut(body, tuple(config["mean"]), tuple(config["std"]), size, heads, class_token=class_token)
