"""Where a classifier looked: Grad-CAM on its last feature map, and a check that needs no gradients; no fastai."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medclf.errors import DataError, MedclfError, position
from medclf.images.heatmap import at_size

METHODS = ("grad-cam", "occlusion")
_OTHERWISE = "the occlusion map (method='occlusion') works with any network"
_AT_ONCE = 16  # images with a patch covered


def grad_cam(learn: Any, image: Any, label: str | None = None) -> np.ndarray:
    """Where the network looked when it gave `label`: Grad-CAM on the body's last feature map.

    Each channel of that map is weighted by the mean gradient of the label's logit with respect to it; what the
    weighted sum has above zero is the map (Selvaraju et al. 2017, "Grad-CAM"). It is as coarse as the feature map (7 x
    7 at 224 pixels), and says what the network used, not where the finding is.

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
    vocab = [str(name) for name in learn.dls.vocab]
    targets = None if labels is None else [position(vocab, label) for label in labels]
    network = getattr(learn.model, "module", learn.model)  # out of DistributedDataParallel
    loader = learn.dls.test_dl(list(images), num_workers=0)
    found: list[np.ndarray] = []
    for batch in loader:
        x = batch[0].as_subclass(Tensor).contiguous(memory_format=torch.channels_last)
        of_batch = None if targets is None else targets[len(found) : len(found) + len(x)]
        found += [at_size(heat, x.shape[2:]) for heat in heat_maps(network, x, of_batch, method, **options)]
    return found


def heat_maps(
    network: nn.Module,
    x: Tensor,
    targets: Sequence[int] | None = None,
    method: str = "grad-cam",
    *,
    patch: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """The maps of a batch. The network itself is left alone: a twin that shares its weights is hooked and run.

    Args:
        network: `nn.Sequential(body, head)`.
        x: normalised images (B, C, H, W), on the network's device.
        targets: positions in the vocab; the most probable ones where None.
        method: "grad-cam" or "occlusion".
        patch: see `occlusion`.
        stride: see `occlusion`.

    Returns:
        float32 (B, h, w) in [0, 1], of the feature map's size; of the images' for "occlusion".

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
        raise DataError(f"there is no method {method!r}", f"choose one of: {', '.join(METHODS)}")
    from captum import attr as captum

    network = _twin(network).eval()
    if len(list(network.children())) != 2:
        raise MedclfError("this network is no body followed by a head", "make the learner with med_learner")
    if method == "occlusion":
        found = _occluded(captum, network, x, targets, patch, stride)
    else:
        found = _grad_cam(captum, network, x, targets)
    heat = found.detach().clamp(min=0).float().cpu().numpy()
    hottest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, hottest, out=np.zeros_like(heat), where=hottest > 0)


def _twin(network: nn.Module) -> nn.Module:
    """Other modules over the same parameters and buffers: what is done to them stays away from the network, and from
    threads that predict with it meanwhile.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    for module in network.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            shared[id(hooks)] = copy.copy(hooks)  # they may belong to objects that hold half the program
    return copy.deepcopy(network, shared)


def _grad_cam(captum: Any, network: nn.Module, x: Tensor, targets: Sequence[int] | None) -> Tensor:
    body, head = network.children()
    with torch.no_grad():
        features = body(x).clone()  # a view of a parameter would take the gradient there
        chosen = head(features).argmax(1).tolist() if targets is None else list(targets)
    if features.ndim == 4:
        if features.shape[2:].numel() < 2:
            raise MedclfError(
                f"at {x.shape[2]} x {x.shape[3]} pixels the feature map is a single value", "use larger images"
            )
        last = nn.Identity()
        return captum.LayerGradCam(nn.Sequential(last, head), last).attribute(features, chosen)[:, 0]
    if features.ndim != 3:
        raise MedclfError("this network's body gives no feature map to lay over the image", _OTHERWISE)
    if any(getattr(module, "class_token", False) is True for module in head.modules()):
        return _of_tokens(captum, network, _before_attention(body), x, chosen, x.shape[2:])
    last = nn.Identity()
    return _of_tokens(captum, nn.Sequential(last, head), last, features, chosen, x.shape[2:], body)


def _before_attention(body: nn.Module) -> nn.Module:
    """The norm before the last block's attention: past it, the logits of a class token depend on that token alone."""
    norms = [module for name, module in body.named_modules() if name.rpartition(".")[2] in ("norm1", "ln_1")]
    if not norms:
        raise MedclfError("this transformer's last block is not known", _OTHERWISE)
    return norms[-1]


def _of_tokens(
    captum: Any,
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    targets: list[int],
    size: Sequence[int],
    body: nn.Module | None = None,
) -> Tensor:
    """Grad-CAM over tokens (B, N, C): each stands for a patch of the image, but for those before them."""
    gradients = captum.LayerGradientXActivation(model, layer, multiply_by_inputs=False).attribute(x, targets)
    tokens = captum.LayerActivation(model, layer).attribute(x)
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        raise MedclfError("this transformer's tokens do not lie on a grid", _OTHERWISE)
    before = _n_prefix(body or model)
    n_patches = tokens.shape[1] - before
    rows = round((max(n_patches, 0) * size[0] / size[1]) ** 0.5)
    if rows < 1 or n_patches % rows or n_patches < 2:
        raise MedclfError("this transformer's tokens do not lie on a grid", _OTHERWISE)
    weights = gradients[:, before:].mean(dim=1, keepdim=True)
    return (weights * tokens[:, before:]).sum(dim=2).unflatten(1, (rows, n_patches // rows))


def _n_prefix(network: nn.Module) -> int:
    """How many tokens stand before those of the patches: the class token and registers."""
    for module in network.modules():
        if isinstance(known := getattr(module, "num_prefix_tokens", None), int):
            return known
    return int(any(isinstance(getattr(module, "class_token", None), Tensor) for module in network.modules()))


def _occluded(
    captum: Any,
    network: nn.Module,
    x: Tensor,
    targets: Sequence[int] | None,
    patch: int | None,
    stride: int | None,
) -> Tensor:
    channels, shorter = x.shape[1], min(x.shape[2:])
    patch = max(1, round(shorter / 7)) if patch is None else patch
    stride = max(1, patch // 2) if stride is None else stride
    if not 0 < stride <= patch < shorter:
        raise DataError(
            f"a patch of {patch} at every {stride} pixels does not cover an image of {x.shape[2]} x {x.shape[3]}",
            "give 0 < stride <= patch < the image's shorter side",
        )
    with torch.no_grad():
        chosen = network(x).argmax(1).tolist() if targets is None else list(targets)
        return captum.Occlusion(network).attribute(
            x,
            (channels, patch, patch),
            (channels, stride, stride),
            baselines=0,  # normalised: the mean colour
            target=chosen,
            perturbations_per_eval=_AT_ONCE,
        )[:, 0]
