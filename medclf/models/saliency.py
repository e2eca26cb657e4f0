"""Where a classifier looked: Grad-CAM on its last feature map, and a check that needs no gradients; no fastai."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from medclf.errors import DataError, MedclfError, position
from medclf.images.heatmap import at_size, check_places
from medclf.models.timm_nets import covered

METHODS = ("grad-cam", "occlusion")
_OTHERWISE = "the occlusion map (method='occlusion') works with any network"
_AT_ONCE = 16  # images with a patch covered


def grad_cam(learn: Any, image: Any, label: str | None = None) -> np.ndarray:
    """Where the network looked when it gave `label`: Grad-CAM on the body's last feature map.

    Each channel of that map is weighted by the mean gradient of the label's logit with respect to it; what the
    weighted sum has above zero is the map (Selvaraju et al. 2017, "Grad-CAM"). It is as coarse as the feature map (7 x
    7 at 224 pixels; fewer than 2 x 2 places are refused), and says what the network used, not where the finding is.

    Args:
        learn: a fastai `Learner` whose model is a body and a head, such as `med_learner` gives.
        image: what `learn.predict` takes: a path, the bytes of a file, an array, a PIL image.
        label: a name of the vocab; the most probable one where None.

    Returns:
        float32 (height, width) of the network's input, in [0, 1]: 1 at the hottest place, all 0 where nothing speaks
        for the label.

    Raises:
        DataError: the label is not in the vocab.
        MedclfError: the network gives no map of the image; `occlusion` works with any.

    Example:
        >>> # heat = grad_cam(learn, "image.png", "polyp")
    """
    return learner_maps(learn, [image], None if label is None else [label])[0]


def occlusion(
    learn: Any, image: Any, label: str | None = None, *, patch: int | None = None, stride: int | None = None
) -> np.ndarray:
    """How far the label's logit falls where a patch is covered with the mean colour: a check that needs no gradients.

    One prediction a patch (Zeiler and Fergus 2014), so slower than Grad-CAM by two orders; where the two disagree,
    believe neither.

    Args:
        learn: as for `grad_cam`, like the next two.
        image: see there.
        label: see there.
        patch: side of the patch in pixels of the network's input; a seventh of the shorter side where None.
        stride: from one patch to the next; half a patch where None.

    Returns:
        As `grad_cam`.

    Raises:
        DataError: the label is not in the vocab, or the patch does not fit the image.
    """
    return learner_maps(learn, [image], None if label is None else [label], "occlusion", patch=patch, stride=stride)[0]


def learner_maps(
    learn: Any, images: Sequence[Any], labels: Sequence[str] | None = None, method: str = "grad-cam", **options: Any
) -> list[np.ndarray]:
    """The maps of many images, a batch at a time.

    Args:
        learn: as for `grad_cam`.
        images: see there.
        labels: one a image; the most probable ones where None.
        method: "grad-cam" or "occlusion".
        options: `patch` and `stride` of `occlusion`.

    Returns:
        For each image what `grad_cam` returns.

    Raises:
        DataError, MedclfError: as `grad_cam`.
    """
    if not hasattr(learn, "dls"):
        kind = type(learn).__name__
        raise MedclfError(f"a learner is wanted here, not a {kind}", "of a bundle: bundle.saliency(image, label)")
    vocab = [str(name) for name in learn.dls.vocab]
    targets = None if labels is None else [position(vocab, label) for label in labels]
    network = getattr(learn.model, "module", learn.model)  # out of DistributedDataParallel
    loader = learn.dls.test_dl(list(images), num_workers=0)
    found: list[np.ndarray] = []
    for batch in loader:
        x = batch[0].as_subclass(Tensor).contiguous(memory_format=torch.channels_last)
        of_batch = None if targets is None else targets[len(found) : len(found) + len(x)]
        heats = heat_maps(network, x, of_batch, method, **options)
        check_places(heats.shape)
        found += [at_size(heat, x.shape[2:]) for heat in heats]
    return found


@torch.inference_mode(False)  # gradients are wanted, whatever is going on around
def heat_maps(
    network: nn.Module,
    x: Tensor,
    targets: Sequence[int] | None = None,
    method: str = "grad-cam",
    *,
    patch: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """The maps of a batch. The network itself is left alone: a copy that shares its weights is hooked and run.

    Args:
        network: `nn.Sequential(body, head)`.
        x: normalised images (B, C, H, W), on the network's device.
        targets: positions in the vocab; the most probable ones where None.
        method: "grad-cam" or "occlusion".
        patch: see `occlusion`.
        stride: see `occlusion`.

    Returns:
        float32 (B, h, w) in [0, 1], of the feature map's size; of the images' for "occlusion", and where a vision
        transformer pads them.

    Raises:
        DataError: there is no such method, or the patch does not fit.
        MedclfError: the network is no body and head, or gives no map of the image.

    Example:
        >>> body = nn.Conv2d(1, 2, 3, padding=1)
        >>> head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        >>> heat_maps(nn.Sequential(body, head), torch.ones(5, 1, 4, 4)).shape
        (5, 4, 4)
    """
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}", f"choose one of: {', '.join(METHODS)}")
    x = x.clone() if x.is_inference() else x
    network = _twin(network).eval()
    if len(list(network.children())) != 2:
        raise MedclfError("this network is not a body followed by a head", "make the learner with med_learner")
    found = _occluded(network, x, targets, patch, stride) if method == "occlusion" else _grad_cam(network, x, targets)
    heat = found.detach().clamp(min=0).float().cpu().numpy()
    hottest = heat.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(heat, hottest, out=np.zeros_like(heat), where=hottest > 0))


def _twin(network: nn.Module) -> nn.Module:
    """Other modules over the same parameters and buffers: what is done to them stays away from the network, and from
    threads that predict with it meanwhile.
    """
    tensors = (*network.parameters(), *network.buffers())
    # A buffer that was computed in inference mode has no gradients: the copy gets one of its own.
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors if not tensor.is_inference()}
    for module in network.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            shared[id(hooks)] = copy.copy(hooks)  # they may belong to objects that hold half the program
    return copy.deepcopy(network, shared)


def _grad_cam(network: nn.Module, x: Tensor, targets: Sequence[int] | None) -> Tensor:
    body, head = network.children()
    with torch.no_grad():
        features = body(x)
        chosen = head(features).argmax(1).tolist() if targets is None else list(targets)
    if features.ndim == 4:
        if features.shape[2:].numel() < 2:
            check_places(features.shape)
        maps, gradients = _gradients(head, features, chosen)
        return (gradients.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1)
    if features.ndim != 3:
        raise MedclfError("this network's body gives no feature map to lay over the image", _OTHERWISE)
    if any(getattr(module, "class_token", False) is True for module in head.modules()):
        tokens, gradients = _gradients(network, x, chosen, _before_attention(body))
    else:
        tokens, gradients = _gradients(head, features, chosen)
    seen, size = covered(body, x.shape[2:]), tuple(x.shape[2:])
    heat = _of_tokens(tokens, gradients, _n_prefix(body), seen)
    if seen == size:
        return heat
    over_all = nn.functional.interpolate(heat.clamp(min=0)[:, None], seen, mode="bilinear")
    return over_all[:, 0, : size[0], : size[1]]  # without the padding


def _gradients(
    model: nn.Module, x: Tensor, targets: list[int], layer: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """What a layer gives (where None, x itself), and the gradients of the target logits with respect to it."""
    leaf = x.detach()

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        nonlocal leaf
        leaf = output.detach().requires_grad_()
        return leaf

    with torch.enable_grad():
        if layer is None:
            logits = model(leaf.requires_grad_())
        else:
            with layer.register_forward_hook(keep):
                logits = model(x)
        chosen = logits[torch.arange(len(x)), targets].sum()
    return leaf.detach(), torch.autograd.grad(chosen, leaf)[0]


def _before_attention(body: nn.Module) -> nn.Module:
    """The norm before the last block's attention: past it, the logits of a class token depend on that token alone."""
    norms = [module for name, module in body.named_modules() if name.rpartition(".")[2] in ("norm1", "ln_1")]
    if not norms:
        raise MedclfError("this transformer's last block is not known", _OTHERWISE)
    return cast(nn.Module, norms[-1])


def _of_tokens(tokens: Tensor, gradients: Tensor, before: int, size: Sequence[int]) -> Tensor:
    """Grad-CAM over tokens (B, N, C): each stands for a patch of the image, but for those before them."""
    n_patches = tokens.shape[1] - before if tokens.ndim == 3 else 0
    rows = round((max(n_patches, 0) * size[0] / size[1]) ** 0.5)
    if rows < 1 or n_patches % rows or n_patches < 2:
        raise MedclfError("this transformer's tokens do not lie on a grid", _OTHERWISE)
    weights = gradients[:, before:].mean(dim=1, keepdim=True)
    result: Tensor = (weights * tokens[:, before:]).sum(dim=2).reshape(-1, rows, n_patches // rows)
    return result


def _n_prefix(network: nn.Module) -> int:
    """How many tokens stand before those of the patches: the class token and registers."""
    for module in network.modules():
        if isinstance(known := getattr(module, "num_prefix_tokens", None), int):
            return known
    tokens = ("class_token", "cls_token")
    return int(any(isinstance(getattr(module, name, None), Tensor) for module in network.modules() for name in tokens))


def _occluded(
    network: nn.Module, x: Tensor, targets: Sequence[int] | None, patch: int | None, stride: int | None
) -> Tensor:
    height, width = x.shape[2:]
    patch = max(1, round(min(height, width) / 7)) if patch is None else patch
    stride = max(1, patch // 2) if stride is None else stride
    if not 0 < stride <= patch < min(height, width):
        raise DataError(
            f"a patch of {patch} at every {stride} pixels does not cover an image of {height} x {width}",
            "give 0 < stride <= patch < the image's shorter side",
        )
    tops, lefts = (range(0, side - patch + stride, stride) for side in (height, width))
    places = [(slice(top, top + patch), slice(left, left + patch)) for top in tops for left in lefts]
    fall, times, images = x.new_zeros(len(x), height, width), x.new_zeros(height, width), torch.arange(len(x))
    with torch.no_grad():
        logits = network(x)
        chosen = logits.argmax(1).tolist() if targets is None else list(targets)
        whole = logits[images, chosen]
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            covered = x.repeat(len(part), 1, 1, 1).reshape(len(part), *x.shape)
            for copy_of_x, (rows, columns) in zip(covered, part, strict=True):
                copy_of_x[:, :, rows, columns] = 0  # normalised: the mean colour
            logits = network(covered.flatten(0, 1)).unflatten(0, (len(part), len(x)))
            for values, (rows, columns) in zip(logits[:, images, chosen], part, strict=True):
                fall[:, rows, columns] += (whole - values)[:, None, None]
                times[rows, columns] += 1
    return fall / times
