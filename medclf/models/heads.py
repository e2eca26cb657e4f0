"""Heads beyond one linear layer: as data, so that a bundle builds them again without running anything stored in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from medclf.config import Pooling, TrainConfig
from medclf.errors import BundleError, MedclfError, argument
from medclf.models.head_layers import OPTIONS, Layer, check_head
from medclf.models.pooling import GeMPool, GlobalPool
from medclf.models.stage_maps import AllStages, plain_body, widths_of
from medclf.options import options


class ConcatPool(nn.Module):
    """fastai's `AdaptiveConcatPool2d(1)`: the largest value of each channel, then the mean; of tokens as well.

    Example:
        >>> ConcatPool()(torch.arange(4.0).reshape(1, 1, 2, 2)).tolist()
        [[3.0, 1.5]]
    """

    def __init__(self, *, class_token: bool = False) -> None:
        super().__init__()
        self.class_token = class_token

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, N, C) or (B, C) -> (B, 2 C); of tokens, the class token stands for the mean."""
        if x.ndim == 4:
            return torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3))], 1)
        if x.ndim == 3:
            return torch.cat([x.amax(dim=1), x[:, 0] if self.class_token else x.mean(dim=1)], 1)
        return torch.cat([x, x], 1)


class SigmoidRange(nn.Module):
    """fastai's: a sigmoid stretched to (low, high).

    Example:
        >>> SigmoidRange(-1.0, 3.0)(torch.zeros(1)).tolist()
        [1.0]
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.sigmoid(x) * (self.high - self.low) + self.low


_OWN: dict[str, Callable[..., nn.Module]] = {"BodyPool": GlobalPool} | {
    kind.__name__: kind for kind in (GlobalPool, GeMPool, ConcatPool, SigmoidRange)
}


def is_plain(head: nn.Module) -> bool:
    """Whether it is `build_head`'s: pooling, dropout and one linear layer, which a linear probe can fit.

    Example:
        >>> from medclf.models.backbones import build_head
        >>> is_plain(build_head(8, 2)), is_plain(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)))
        (True, False)
    """
    first, *rest = [type(layer) for layer in head.children()] or [nn.Module]
    told = first is ConcatPool or first.__name__.startswith("Adaptive")  # another's way to pool
    return not told and rest == [nn.Flatten, nn.Dropout, nn.Linear]


def pool_by(network: nn.Module, kind: Pooling) -> None:
    """Make a vector of the feature maps in another way, in place; whatever comes after is to be fitted anew.

    Args:
        network: of `build_network`, with its own head.
        kind: "mean", "gem" for the generalised mean, or "stages" for the mean of every stage's map.

    Raises:
        DataError: there is no such way.
        MedclfError: the head is another, the network brings a pooling of its own, or for "stages" it is no chain.

    Example:
        >>> from medclf.models.backbones import build_network
        >>> network = build_network("resnet18", 2, weights=None)
        >>> pool_by(network, "gem")
        >>> network[1][0]
        GeMPool(p=3)
    """
    options(TrainConfig)["pooling"].checked(kind)
    body, head = network.children()
    pool = next(head.children(), None)
    if not is_plain(head) or not isinstance(pool, (GlobalPool, GeMPool)) or getattr(pool, "class_token", False):
        text = f"{argument('pooling', kind)} is for a feature map and one linear layer, and this network ends otherwise"
        raise MedclfError(text, f"leave out {argument('pooling')}")
    head = cast(nn.Sequential, head)
    if (kind == "stages") != isinstance(body, AllStages):
        linear = cast(nn.Linear, head[-1])
        n_last = widths_of(body)[-1] if isinstance(body, AllStages) else linear.in_features
        body = plain_body(body) if isinstance(body, AllStages) else AllStages(body)
        cast(nn.Sequential, network)[0] = body
        fresh = nn.Linear(sum(widths_of(body)) or n_last, linear.out_features)
        head[-1] = fresh.to(linear.weight).train(linear.training)
    head[0] = GeMPool() if kind == "gem" else GlobalPool()


def pooling(head: nn.Module) -> nn.Module:
    """What makes one vector an image of what a body gives: `build_head`'s, else the mean."""
    return next(head.children()) if is_plain(head) else GlobalPool()


def describe_head(head: nn.Module) -> list[Layer]:
    """The layers of a head as JSON can hold them, for `make_head`.

    Args:
        head: a chain of the layers in `OPTIONS`; the first may be the body's own pooling.

    Raises:
        BundleError: it is no chain, or has a layer that is not in `OPTIONS`.

    Example:
        >>> describe_head(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))
        [{'layer': 'Flatten'}, {'layer': 'Dropout', 'p': 0.5}]
    """
    if not _is_chain(head) or not list(head.children()):
        raise _unknown(head)
    first, *rest = cast(nn.Sequential, head)  # children() leaves out a layer that is there twice, as fastai's ReLU is
    return [{"layer": "BodyPool"} if _is_of_body(first) else _described(first), *map(_described, rest)]


def _is_of_body(module: nn.Module) -> bool:
    """Whether it is what a body of ours gives as its `make_pooling`."""
    return type(module).__module__.startswith("medclf.") and type(module).__name__ not in OPTIONS


def make_head(layers: Sequence[Layer], pool: nn.Module | None = None) -> nn.Sequential:
    """The head that `describe_head` described, randomly initialised.

    Args:
        layers: of `describe_head`.
        pool: the body's own pooling.

    Raises:
        BundleError: a layer that is not in `OPTIONS`, or an option that it cannot have.

    Example:
        >>> make_head([{"layer": "Linear", "in_features": 2, "out_features": 3, "bias": False}])
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=False)
        )
    """
    check_head(layers)
    if pool is not None and layers[:1] == [{"layer": "BodyPool"}]:
        return nn.Sequential(pool, *map(_made, layers[1:]))
    return nn.Sequential(*map(_made, layers))


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _described(module: nn.Module) -> Layer:
    if _is_chain(module):
        return {"layer": "Sequential", "layers": [_described(layer) for layer in cast(nn.Sequential, module)]}
    name = type(module).__name__
    if name == "AdaptiveConcatPool2d" and getattr(module, "size", None) == 1:  # fastai's
        return {"layer": "ConcatPool", "class_token": False}
    if name not in OPTIONS or getattr(module, "full", False) or getattr(module, "start_dim", 1) != 1:
        raise _unknown(module)
    options = {option: _plain(getattr(module, option)) for option in OPTIONS[name]}
    options |= {"bias": module.bias is not None} if isinstance(module, nn.Linear) else {}
    layer = {"layer": name, **options}
    try:
        check_head([layer])
    except BundleError:
        raise _unknown(module) from None
    return layer


def _plain(value: Any) -> Any:
    """(3, 3) -> 3; a tuple -> a list."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return list(value) if isinstance(value, tuple) else value


def _made(layer: Layer) -> nn.Module:
    if layer["layer"] == "Sequential":
        return nn.Sequential(*map(_made, layer["layers"]))
    options = {key: value for key, value in layer.items() if key != "layer"}
    return (_OWN.get(layer["layer"]) or getattr(nn, layer["layer"]))(**options)


def _unknown(module: nn.Module) -> BundleError:
    return BundleError(
        f"the head has a {type(module).__name__} that a bundle cannot describe",
        f"make the head an nn.Sequential of {', '.join(OPTIONS)}; or put the layer into a body of your own "
        "(register_arch)",
    )
