"""Which layers a head may have, and with which options: what bundle.json says of it is held against this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medclf.errors import BundleError
from medclf.files import is_number

Layer = dict[str, Any]
Check = Callable[[Any], bool]
_MOST, _DEEPEST = 200, 10  # layers in a head, and lists in lists


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 2**20


def _share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _power(value: Any) -> bool:
    return is_number(value) and 1 <= value <= 100


def _side(value: Any) -> bool:
    return _count(value) and value <= 32


def _shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 1 and _count(value[0])


OPTIONS: dict[str, dict[str, Check]] = {
    "BodyPool": {},
    "GlobalPool": {"class_token": _flag},
    "ConcatPool": {"class_token": _flag},
    "GeMPool": {"p": _power},
    "SigmoidRange": {"low": is_number, "high": is_number},
    "AdaptiveAvgPool2d": {"output_size": _side},
    "AdaptiveMaxPool2d": {"output_size": _side},
    "Flatten": {},
    "Identity": {},
    "Linear": {"in_features": _count, "out_features": _count, "bias": _flag},
    "BatchNorm1d": {"num_features": _count, "eps": _share, "momentum": _share},
    "LayerNorm": {"normalized_shape": _shape, "eps": _share},
    "Dropout": {"p": _share},
    "LeakyReLU": {"negative_slope": is_number},
    **{name: {} for name in ("ReLU", "GELU", "SiLU", "Mish", "Tanh", "Sigmoid", "Hardswish")},
}


def check_head(layers: Any) -> None:
    """See that these are layers of the table, with the options that it gives them.

    Args:
        layers: as `describe_head` gives them: [{"layer": "Linear", "in_features": 8, ...}, ...].

    Raises:
        BundleError: they are not.

    Example:
        >>> check_head([{"layer": "Dropout", "p": 0.5}])
    """
    if _counted(layers, 0) > _MOST:
        raise _misstated(f"more than {_MOST} layers")


def _counted(layers: Any, depth: int) -> int:
    if not isinstance(layers, (list, tuple)) or depth > _DEEPEST:
        raise _misstated("its list of layers")
    return sum(_checked(layer, depth) for layer in layers)


def _checked(layer: Any, depth: int) -> int:
    name = layer.get("layer") if isinstance(layer, Mapping) else None
    if name == "Sequential":
        return 1 + _counted(layer.get("layers"), depth + 1)
    if not isinstance(name, str) or name not in OPTIONS:
        raise _misstated(f"the layer {str(name)[:40]!r}")
    checks, given = OPTIONS[name], {key: value for key, value in layer.items() if key != "layer"}
    if checks.keys() != given.keys() or not all(check(given[key]) for key, check in checks.items()):
        raise _misstated(f"the options of {name}")
    return 1


def _misstated(what: str) -> BundleError:
    return BundleError(f"the head's description lacks or misstates: {what}", "save the bundle again")
