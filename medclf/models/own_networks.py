"""A network of one's own as an architecture: cut at its last pooling, as fastai cuts it, and known by a name."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from medclf.errors import MedclfError
from medclf.models.registry import ARCHITECTURES, Architecture

Cut = int | Callable[[nn.Module], nn.Module] | None
_PREFIX = "own/"  # so that none of them has the name of a published one
_SIZE = 224
_BODY = "give cut=, a function of the network that returns its body; or give its body to register_arch"


def is_own(arch: Any) -> bool:
    """Whether it is a network, or makes one that neither torchvision nor timm publishes.

    Example:
        >>> is_own("resnet18"), is_own(nn.Sequential)
        (False, True)
    """
    return isinstance(arch, nn.Module) or (
        callable(arch) and not str(getattr(arch, "__module__", "")).startswith(("torchvision.models", "timm."))
    )


def register_network(factory: Callable[..., nn.Module], cut: Cut = None) -> str:
    """Make a network known as "own/NAME", its classifier cut off; the same name again replaces it.

    A bundle of it holds its weights and that name, not its code: call this before such a bundle is loaded.

    Args:
        factory: makes the network, with `pretrained=` or without; or the network itself.
        cut: the number of children before the classifier, or what makes a body of the network. Where None, all
            children before the last one that pools.

    Returns:
        The name.

    Raises:
        MedclfError: it has no pooling layer, or its forward is not its children, one after the other.

    Example:
        >>> def tiny():
        ...     return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> register_network(tiny), ARCHITECTURES["own/tiny"].n_features
        ('own/tiny', 8)
        >>> del ARCHITECTURES["own/tiny"]
    """
    name = _PREFIX + _name_of(factory)
    body = partial(body_of, factory, cut)
    weights = partial(_weights, factory, cut) if _asks(factory) or isinstance(factory, nn.Module) else None
    n_features = _n_features(body(), name)
    _check_order(factory, cut)
    ARCHITECTURES[name] = Architecture(body, n_features=n_features, size=_SIZE, weights=weights)
    return name


def weights_as_given(network: nn.Module, asked: Any) -> Any:
    """What the weights of a network object are: "default" for trained ones, None for random ones; or a file.

    Its BatchNorm statistics tell. Without any, it is what was asked for.

    Example:
        >>> weights_as_given(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "default") is None
        True
    """
    means = [mean for module in network.modules() if (mean := getattr(module, "running_mean", None)) is not None]
    if asked not in (None, "default") or not means:
        return asked
    return "default" if any(mean.any() for mean in means) else None


def body_of(factory: Callable[..., nn.Module], cut: Cut = None, *, pretrained: bool = False) -> nn.Module:
    """The network without its classifier; a copy, so that a module that was given stays as it is."""
    network = factory if isinstance(factory, nn.Module) else _made(factory, pretrained)
    if callable(cut):
        return copy.deepcopy(cut(network))
    children = list(network.children())
    return copy.deepcopy(nn.Sequential(*children[: _place(factory, children) if cut is None else cut]))


def _place(factory: Any, children: list[nn.Module]) -> int:
    """How many children come before the last one that pools."""
    pools = [place for place, child in enumerate(children) if any(map(_pools, child.modules()))]
    if not pools or not pools[-1]:
        raise MedclfError(
            f"{_name_of(factory)} has no layer that pools, so it is unknown where its classifier begins",
            "give cut=, the number of layers before it; or give its body to register_arch",
        )
    return pools[-1]


def _check_order(factory: Callable[..., nn.Module], cut: Cut) -> None:
    """See that the network gives its pooling what its children give one after the other.

    What stands in `forward` itself, such as `torch.relu` or a normalisation, would be lost in silence.
    """
    if callable(cut):
        return
    network = copy.deepcopy(factory) if isinstance(factory, nn.Module) else _made(factory, pretrained=False)
    children = list(network.eval().children())
    cut = _place(factory, children) if cut is None else cut
    images = torch.rand(1, _channels(network), _SIZE, _SIZE, generator=torch.Generator().manual_seed(0))
    reached: list[Any] = []
    with torch.inference_mode(), contextlib.suppress(Exception):  # `_n_features` says what does not run
        if cut < len(children):
            children[cut].register_forward_pre_hook(lambda _, given: reached.extend(given[:1]))
        reached.append(network(images.clone()))
    if not reached:
        return
    with torch.inference_mode(), contextlib.suppress(Exception):
        found = nn.Sequential(*children[:cut])(images.clone())
        if found.shape == reached[0].shape and torch.allclose(found, reached[0], rtol=1e-3, atol=1e-5):
            return
    raise MedclfError(
        f"{_name_of(factory)} does more in its forward than run its layers one after the other, which would be lost",
        _BODY,
    )


def _weights(factory: Callable[..., nn.Module], cut: Cut) -> dict[str, torch.Tensor]:
    return body_of(factory, cut, pretrained=True).state_dict()


def _asks(factory: Any) -> str:
    """By which argument the factory is asked for trained weights, as fastai and torchvision do; "" by none."""
    if isinstance(factory, nn.Module):
        return ""
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return ""
    return next((name for name in ("pretrained", "weights") if name in known), "")


def _made(factory: Callable[..., nn.Module], pretrained: bool) -> nn.Module:
    asks = _asks(factory)
    asked = ("DEFAULT" if pretrained else None) if asks == "weights" else pretrained
    how = {asks: asked} if asks else {}
    with contextlib.suppress(ValueError):  # of what does not tell
        try:
            inspect.signature(factory).bind(**how)
        except TypeError as error:
            name = _name_of(factory)
            raise MedclfError(f"{name} cannot be called alone: {error}", f"give lambda: {name}(...)") from error
    made = factory(**how)
    if not isinstance(made, nn.Module):
        raise MedclfError(
            f"{_name_of(factory)}() makes a {type(made).__name__}, and no network", "give what makes a torch.nn.Module"
        )
    return made


def _name_of(factory: Any) -> str:
    factory = factory.func if isinstance(factory, partial) else factory
    return str(getattr(factory, "__name__", type(factory).__name__)).strip("<>")


def _pools(module: nn.Module) -> bool:
    return bool(re.search(r"Pool[123]d$", type(module).__name__))


def _n_features(body: nn.Module, name: str) -> int:
    try:
        with torch.inference_mode():
            found = body.eval()(torch.zeros(1, _channels(body), _SIZE, _SIZE))
        return int(found.shape[-1 if found.ndim == 3 else 1])
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise MedclfError(
            f"{name}: what lies before its classifier does not run layer by layer: {str(error).splitlines()[0][:120]}",
            _BODY,
        ) from error


def _channels(network: nn.Module) -> int:
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
