"""Norms folded into the convolutions before them: the same numbers, fewer passes over memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Pair = tuple[str, str]


def folded(network: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a network in eval mode that only predicts, with its norms folded.

    Args:
        network: any.
        x: one normalised image, (1, channels, height, width).

    Returns:
        the copy, or `network` itself where folding would move what it makes of `x` by over 1e-4 of its largest value.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
        >>> folded(network, torch.zeros(1, 1, 4, 4))[1]
        Identity()
    """
    quick = copy.deepcopy(network)
    fold(quick, foldable(quick, x))
    with torch.inference_mode():
        wanted, made = network(x), quick(x)
    same = torch.allclose(made, wanted, rtol=0, atol=1e-4 * max(1.0, float(wanted.abs().max())))
    return quick if same else network


def foldable(network: nn.Module, x: Tensor) -> list[Pair]:
    """Names of each convolution and of the norm that takes its output, found by running `x` through.

    A convolution whose output is used elsewhere too cannot be told from here: compare the logits before
    and after folding.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
        >>> foldable(network, torch.zeros(1, 1, 4, 4))
        [('0', '1')]
    """
    names = {module: name for name, module in network.named_modules()}
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept so that no id is used twice
    pairs: list[Pair] = []
    runs: dict[str, int] = {}

    def after_convolution(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made[id(output)] = names[module], output
        runs[names[module]] = runs.get(names[module], 0) + 1

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], names[module]))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.inference_mode():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if runs[pair[0]] == 1 and [norm for _, norm in pairs].count(pair[1]) == 1]


def fold(network: nn.Module, pairs: Sequence[Pair]) -> None:
    """Fold the norms into the convolutions, in place; the network can then only predict.

    Raises:
        AttributeError: there is no module of that name, or it is neither a convolution nor a norm.
    """
    for convolution_name, norm_name in pairs:
        convolution, norm = network.get_submodule(convolution_name), network.get_submodule(norm_name)
        if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            raise AttributeError(f"{convolution_name} and {norm_name} are no convolution and norm")
        assert norm.running_mean is not None and norm.running_var is not None
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        kept = [getattr(norm, part) for part in ("drop", "act") if isinstance(getattr(norm, part, None), nn.Module)]
        parent = network.get_submodule(norm_name.rpartition(".")[0])
        setattr(parent, norm_name.rpartition(".")[2], nn.Sequential(*kept) if kept else nn.Identity())
