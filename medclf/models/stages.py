"""A network's stages in order from the input, for discriminative rates and for training the last alone."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medclf.errors import MedclfError

_SMALLER = 0.6  # a convolution without padding narrows the map a little; a stage halves it


def stages(network: nn.Module) -> list[nn.Module]:
    """The stages of `build_network`'s answer: the stem, layer 1 .. n, and the head.

    A stage begins where the feature map halves, so for a ResNet index k is `layer<k>`, and -1 is the head;
    a vision transformer's blocks make four equal layers. Every parameter of the network is in exactly one
    stage. Where the body is a chain (torchvision's and medclf's own are), calling the stages one after the
    other gives what the network gives.

    Args:
        network: a body followed by its head.

    Returns:
        Modules that share their parameters with the network.

    Example:
        >>> from medclf.models.backbones import build_network
        >>> [len(stage) for stage in stages(build_network("resnet34", 2, weights=None))]
        [4, 3, 4, 6, 3, 4]
    """
    body, head = network.children()
    units = list(_units(body))
    groups = _by_size(units, _sizes(body, units))
    if len(groups) == 1:
        groups = _in_four(units)
    if is_chain(network):
        return [*(_joined(group) for group in groups), head]
    found: list[nn.Module] = [nn.ModuleList(group) for group in groups]
    taken = {id(parameter) for group in found for parameter in group.parameters()}
    for name, parameter in body.named_parameters():
        if id(parameter) not in taken:  # class tokens and position embeddings belong to no child
            found[0].register_parameter(name.replace(".", "_"), parameter)
    return [*found, head]


def is_chain(network: nn.Module) -> bool:
    """Whether calling the stages of `network` one after the other gives what the network gives."""
    body = next(network.children())
    return type(body) is nn.Sequential and not hasattr(body, "net")


def stage_names(network: nn.Module) -> list[str]:
    """What the stages are called, in order: "stem", "layer1" and so on, "head".

    Example:
        >>> from medclf.models.backbones import build_network
        >>> stage_names(build_network("resnet34", 2, weights=None))
        ['stem', 'layer1', 'layer2', 'layer3', 'layer4', 'head']
    """
    return ["stem", *(f"layer{number}" for number in range(1, len(stages(network)) - 1)), "head"]


def stage_index(network: nn.Module, name: str) -> int:
    """Where the stage of that name stands in `stages(network)`.

    Raises:
        MedclfError: it has no such stage; the remedy names those it has.
    """
    names = stage_names(network)
    if name not in names:
        raise MedclfError(f"this network has no stage {name!r}", f"choose one of {', '.join(names)}")
    return names.index(name)


def _joined(group: list[nn.Module]) -> nn.Module:
    alone = len(group) == 1 and type(group[0]) is nn.Sequential
    return group[0] if alone else nn.Sequential(*group)


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """What stages are made of: children, and in place of lists such as `features` or `blocks` theirs."""
    for name, child in module.named_children():
        listed = type(child) in (nn.Sequential, nn.ModuleList) and len(list(child.children())) > 1
        if name in ("net", "encoder") or (listed and not name.startswith("layer")) or name == "layers":
            yield from _units(child)
        else:
            yield child


def _sizes(body: nn.Module, units: list[nn.Module]) -> list[int | None]:
    """The width of each unit's feature map, from a run that computes shapes alone."""
    size = getattr(getattr(body, "net", body), "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1]
    names = {id(module): name for name, module in body.named_modules()}
    shadow = copy.deepcopy(body).to("meta").eval()
    widths: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                shape = sorted(output.shape[1:])
                widths[name] = shape[0] if shape[0] == shape[1] else shape[1]

        return hook

    for unit in units:
        name = names[id(unit)]
        shadow.get_submodule(name).register_forward_hook(note(name))
    n_in = next((module.in_channels for module in body.modules() if isinstance(module, nn.Conv2d)), 3)
    try:
        with torch.inference_mode():
            shadow(torch.empty(1, n_in, size, size, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return [None] * len(units)
    return [widths.get(names[id(unit)]) for unit in units]


def _by_size(units: list[nn.Module], sizes: list[int | None]) -> list[list[nn.Module]]:
    groups: list[list[nn.Module]] = [[]]
    width = 0
    for unit, size in zip(units, sizes, strict=True):
        if size is not None and next(unit.parameters(), None) is not None:  # a pooling ends a stage
            if groups[-1] and size <= width * _SMALLER:
                groups.append([])
                width = size
            width = width or size
        groups[-1].append(unit)
    return groups


def _in_four(units: list[nn.Module]) -> list[list[nn.Module]]:
    """Equal parts of the blocks, for networks whose tokens stay as many; what comes before is the stem."""
    kind, count = Counter(type(unit) for unit in units).most_common(1)[0]
    if count < 4:
        return [units]
    places = [place for place, unit in enumerate(units) if type(unit) is kind]
    starts = [0, *(places[count * part // 4] for part in range(4)), len(units)]
    return [units[start:end] for start, end in itertools.pairwise(starts) if end > start]
