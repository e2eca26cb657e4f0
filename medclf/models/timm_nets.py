"""timm's networks cut before their pooling, with timm's own pooling kept: mean, class token, attention, last norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from medclf.errors import MedclfError, did_you_mean
from medclf.models.cut import Cut
from medclf.models.pooling import GlobalPool

Options = dict[str, Any]
CANNOT_RUN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
_BOTH = "token+avg"
_MLPS = ("SwiGLUPacked", "SwiGLU", "GluMlp", "GlobalResponseNormMlp", "Mlp")
# What an architecture can be asked for behind its name, and within which limits: a bundle names it too.
_WHOLE = {
    "img_size": (16, 2048),
    "patch_size": (2, 128),
    "depth": (1, 96),
    "embed_dim": (8, 8192),
    "num_heads": (1, 128),
    "reg_tokens": (0, 64),
    "window_size": (1, 128),
}
_NUMBERS = {"init_values": (0.0, 10.0), "mlp_ratio": (0.1, 16.0)}
_SWITCHES = (
    "class_token",
    "qkv_bias",
    "no_embed_class",
    "pre_norm",
    "qk_norm",
    "fc_norm",
    "dynamic_img_size",
    "dynamic_img_pad",
)
_WORDS = {
    "global_pool": ("token", "avg", "max", "avgmax", "map", _BOTH),
    "act_layer": ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"),
    "mlp_layer": _MLPS,
}
# What transformers are asked for, to take other sizes than their own: the first that they know.
_OF_ANY_SIZE: tuple[Options, ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {},
)
OPTIONS = (*_WHOLE, *_NUMBERS, *_SWITCHES, *_WORDS)


def parted_name(name: str) -> tuple[str, Options]:
    """An architecture's name without what stands behind its question mark, and that as keywords of timm's.

    Raises:
        MedclfError: an option that cannot be asked for, or a value that it cannot have.

    Example:
        >>> parted_name("vit_base_patch16_224?img_size=96&global_pool=avg")
        ('vit_base_patch16_224', {'img_size': 96, 'global_pool': 'avg'})
    """
    plain, _, asked = name.partition("?")
    return plain, dict(_option(plain, *part.partition("=")[::2]) for part in asked.split("&") if part)


def with_options(name: str, **options: Any) -> str:
    """The name that asks for these too; what it asked for before is replaced.

    Example:
        >>> with_options("vit_base_patch16_224?img_size=96&depth=2", img_size=64)
        'vit_base_patch16_224?depth=2&img_size=64'
    """
    plain, _, asked = name.partition("?")
    kept = [part for part in asked.split("&") if part and part.partition("=")[0] not in options]
    return f"{plain}?{'&'.join([*kept, *(f'{option}={value}' for option, value in options.items())])}"


def _option(name: str, option: str, text: str) -> tuple[str, Any]:
    if option not in OPTIONS:
        remedy = did_you_mean(option, OPTIONS) or f"it can be: {', '.join(OPTIONS)}"
        raise MedclfError(f"{name} cannot be asked for {option!r}", remedy)
    try:
        if option in _WORDS and text in _WORDS[option]:
            return option, text
        if option in _SWITCHES and text in ("true", "false"):
            return option, text == "true"
        if option in _WHOLE and _WHOLE[option][0] <= int(text) <= _WHOLE[option][1]:
            return option, int(text)
        if option in _NUMBERS and _NUMBERS[option][0] <= float(text) <= _NUMBERS[option][1]:
            return option, float(text)
    except ValueError:
        pass
    limits = _WORDS.get(option) or _WHOLE.get(option) or _NUMBERS.get(option) or ("true", "false")
    between = " to " if option in (*_WHOLE, *_NUMBERS) else ", "
    raise MedclfError(f"{option} of {name} cannot be {text!r}", f"it can be: {between.join(map(str, limits))}")


class TimmBody(nn.Module):
    """A network of timm up to its feature map or tokens; what comes after is `TimmPool`.

    Args:
        net: without its classifier.
        with_token: its features are the class token and the mean of the patches' tokens, one behind the other.
    """

    def __init__(self, net: Any, *, with_token: bool = False) -> None:
        super().__init__()
        self.net, self.with_token = net, with_token
        self.nhwc = getattr(net, "output_fmt", "NCHW") == "NHWC"

    def forward(self, x: Tensor) -> Tensor:
        """Normalised NCHW images -> feature map (B, C, H, W), tokens (B, N, C) or, of several branches, (B, C)."""
        found: Tensor | list[Tensor] = self.net.forward_features(x)
        if not isinstance(found, Tensor):
            return cast(Tensor, self.net.forward_head(found, pre_logits=True))
        return found.permute(0, 3, 1, 2) if self.nhwc and found.ndim == 4 else found

    def make_pooling(self) -> nn.Module:
        """What the network itself does next: a feature map or tokens -> features."""
        return GlobalPool() if self._averages() else TimmPool(self)

    def _averages(self) -> bool:
        """Whether that is the mean over a feature map and nothing besides."""
        map_ = torch.rand(1, self.net.num_features, 2, 2, device="cpu", generator=torch.Generator().manual_seed(0))
        try:
            pooled = self.net.forward_head(map_.permute(0, 2, 3, 1) if self.nhwc else map_, pre_logits=True)
            return bool(torch.allclose(pooled.flatten(1), map_.mean(dim=(2, 3)), atol=1e-6))
        except CANNOT_RUN:  # a network of tokens, or one whose head has weights, which may be on another device
            return False


class TimmPool(nn.Module):
    """What a network of timm does between its feature map and its classifier.

    Its weights stay those of the body: they are named, frozen and trained with it.
    """

    def __init__(self, body: TimmBody) -> None:
        super().__init__()
        self._body = (body,)  # in a tuple, since the body's modules are registered already
        self.class_token = getattr(body.net, "global_pool", "") == "token" and not body.with_token

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, N, C) or (B, features) -> (B, features)."""
        if x.ndim == 2:
            return x
        body = self._body[0]
        net = cast(Any, body.net)
        if body.with_token:
            return torch.cat([x[:, 0], x[:, getattr(net, "num_prefix_tokens", 1) :].mean(dim=1)], dim=1)
        x = x.permute(0, 2, 3, 1) if body.nhwc and x.ndim == 4 else x
        pooled: Tensor = net.forward_head(x, pre_logits=True)
        return pooled.flatten(1)

    def extra_repr(self) -> str:
        """Shown by print."""
        return _BOTH if self._body[0].with_token else type(self._body[0].net).__name__


def timm_cut(name: str) -> Cut:
    """The network, randomly initialised.

    Raises:
        MedclfError: it cannot be asked for what stands behind its name.
    """
    plain, options = parted_name(name)
    both = options.get("global_pool") == _BOTH
    model = create(plain, {**options, "global_pool": "token"} if both else options)
    if not hasattr(model, "forward_head"):
        return _as_in_0_1(model)
    return _described(model, TimmBody(model, with_token=both))


def cut_of_0_1(name: str) -> Cut:
    """As version 0.1 cut it, without what comes between pooling and classifier: for its bundles."""
    return _as_in_0_1(create(*parted_name(name)))


def create(plain: str, options: Options) -> Any:
    """timm's network without its classifier, randomly initialised.

    Raises:
        MedclfError: it does not take these options.
    """
    import timm
    import timm.layers

    chosen = dict(options)
    if "mlp_layer" in chosen:
        chosen["mlp_layer"] = getattr(timm.layers, chosen["mlp_layer"])
    for more in ({},) if "img_size" in options else _OF_ANY_SIZE:
        try:
            return timm.create_model(plain, num_classes=0, **{**more, **chosen})
        except TypeError as error:
            refusal = error
    raise MedclfError(
        f"{plain} does not take {', '.join(options) or 'no classifier'}", "ask for less behind the question mark"
    ) from refusal


def covered(net: nn.Module, size: Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels of what a network sees of an image of a size: a vision transformer may pad it with
    zeros at the bottom and the right, to whole patches.

    Example:
        >>> net = create("vit_tiny_patch16_224", {})
        >>> covered(net, (64, 40)), covered(nn.Conv2d(3, 8, 3), (64, 40))
        ((64, 48), (64, 40))
    """
    height, width = size
    for module in net.modules():
        steps: Any = getattr(module, "feat_ratio", None)
        if steps is not None and getattr(module, "dynamic_img_pad", False) is True:
            tall, wide = steps(as_scalar=False)
            return -(-height // tall) * tall, -(-width // wide) * wide
    return height, width


def _as_in_0_1(model: Any) -> Cut:
    # Not create_model(global_pool=""): that moves some networks' last norm, and their weights do not fit.
    class_token = getattr(model, "global_pool", "") == "token"
    model.reset_classifier(0, "")
    body: nn.Module = model
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        body = nn.Sequential(OrderedDict(net=model, nchw=ToNCHW()))
    return _described(model, body, class_token=class_token)


def _described(model: Any, body: nn.Module, *, class_token: bool = False) -> Cut:
    config = model.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return Cut(body, tuple(config["mean"]), tuple(config["std"]), size_of(model), heads, class_token=class_token)


def size_of(model: Any) -> int:
    """Side in pixels of the images that a network of timm was made for."""
    from timm.models import get_model_input_config

    return int(get_model_input_config(model)["input_size"][-1])


class ToNCHW(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.permute(0, 3, 1, 2)
