"""Training the last stages alone: those below are frozen, and where nothing augments, what they give is kept."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage
from torch import Tensor, nn

from medclf.data import ranks
from medclf.data.batches import MedDL
from medclf.data.cache import ImageStore
from medclf.data.progress import watch
from medclf.errors import MedclfError
from medclf.files import replacing
from medclf.training.folding import folded
from medclf.training.head_start import fingerprint
from medclf.training.stages import is_chain, stage_index, stages

_AT_ONCE = {"cpu": 8}  # images, so that their layers fit a CPU's caches; a constant, since rounding may depend on it
_HALF_HOLDS = 1000.0  # values above this are kept in float32: float16 ends at 65504


class FrozenBelow(Callback):
    """While training, some modules get no gradient, keep their statistics, and drop nothing out.

    Args:
        frozen: the modules; backward stops above them.
    """

    order = TrainEvalCallback.order + 1

    def __init__(self, frozen: Sequence[nn.Module]) -> None:
        self.frozen = list(frozen)

    def before_fit(self) -> None:
        """After the optimiser was made, which lets BatchNorm's parameters train."""
        for parameter in self._parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def before_train(self) -> None:
        """After fastai has put the network into training mode."""
        for module in self.frozen:
            module.eval()

    def release(self) -> None:
        """Let them train again."""
        for parameter in self._parameters():
            parameter.requires_grad_(True)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for module in self.frozen for parameter in module.parameters())


class FromCut(nn.Sequential):
    """A chain that begins at a cut: it takes what the stages below the cut give.

    It holds all of the network's modules under the same names, so checkpoints of the one fit the other.

    Args:
        network: body and head, whose stages make a chain.
        cut: index of the first stage that is run.

    Example:
        >>> from medclf.training.backbones import build_network
        >>> network = build_network("resnet18", 2, weights=None)
        >>> FromCut(network, 4)(torch.zeros(1, 256, 4, 4)).shape
        torch.Size([1, 2])
    """

    def __init__(self, network: nn.Module, cut: int) -> None:
        super().__init__(*network.children())
        self._above = tuple(stages(network)[cut:])  # a tuple: the modules are registered already

    def forward(self, x: Tensor) -> Tensor:
        """What the stages below give -> logits."""
        for stage in self._above:
            x = stage(x)
        return x


class KeptFeatures:
    """What the stages below a cut give for each image of a store: a memory map that `MedDL` gathers batches from.

    Args:
        store: the images, whose rows these are.
        path: the .npy file.
    """

    device = None  # they are read from the disk

    def __init__(self, store: ImageStore, path: Path) -> None:
        self.store, self.path = store, path
        self._map = np.load(path, mmap_mode="r")

    def rows(self, items: Sequence[Any]) -> np.ndarray | None:
        """See `ImageStore.rows`."""
        return self.store.rows(items)

    def gather(self, rows: np.ndarray) -> Tensor:
        """(n, ...) float32; feature maps in channels-last memory."""
        values = torch.from_numpy(self._map[rows]).float()
        return values.permute(0, 3, 1, 2) if values.ndim == 4 else values


@contextmanager
def training_from(learn: Any, stage: str, keep: bool | None = None) -> Iterator[None]:
    """Within it, fits of `learn` train the network from `stage` on; see `MedLearner.training_from`."""
    network, loaders = learn.model, learn.dls
    cut = stage_index(network, stage)
    store = _keepable(learn, cut) if keep is not False else None
    if keep and store is None:
        raise MedclfError(
            f"what the stages below {stage} give cannot be kept here",
            "it takes loaders with cache=True and no augmentation, and a network that is a chain of stages",
        )
    frozen = FrozenBelow(stages(network)[:cut])
    if store is not None:
        features = kept_features(network, loaders.valid, store, cut)
        learn.model, learn.dls = FromCut(network, cut), _loaders_of(loaders, features)
    learn.add_cb(frozen)
    try:
        yield
    finally:
        learn.remove_cb(frozen)
        frozen.release()
        if store is not None:
            for image_loader, loader in zip(loaders.loaders, learn.dls.loaders, strict=True):
                image_loader.epoch = loader.epoch
            learn.model, learn.dls = network, loaders


def _keepable(learn: Any, cut: int) -> ImageStore | None:
    """The store that all images of `learn` come from as they are, if what is made of them can be kept beside it."""
    if cut == 0 or not is_chain(learn.model):
        return None
    store = None
    for loader in learn.dls.loaders:
        if not isinstance(loader, MedDL) or not loader.stores or loader.stores[0] is not loader.stores[1]:
            return None
        store = loader.stores[1]
        plain = all(type(tfm) in (IntToFloatTensor, Normalize) for tfm in loader.after_batch.fs)
        if not plain or store.rows(loader.dataset.items) is None:
            return None
    return store


def _loaders_of(dls: Any, features: KeptFeatures) -> Any:
    """Loaders like `dls`, whose batches are features instead of images."""
    made = copy.copy(dls)
    made.loaders = [loader.new(after_batch=[], stores={0: features, 1: features}) for loader in dls.loaders]
    return made


def kept_features(network: nn.Module, loader: Any, store: ImageStore, cut: int) -> KeptFeatures:
    """What the first `cut` stages give for every image of the store, computed once and kept beside it as float16.

    Args:
        network: a chain of stages.
        loader: whose batch transforms (to floats, Normalize) the images pass.
        store: of the images at exact size.
        cut: how many stages.

    Raises:
        OutputError: the cache folder cannot be written to.
    """
    below = nn.Sequential(*stages(network)[:cut])
    device = next(network.parameters()).device
    key = f"{fingerprint(below, loader)} {torch.get_num_threads()} {device.type} {torch.__version__}"
    path = store.folder / f"stages-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.npy"
    ranks.in_turn(lambda: None if path.is_file() else _compute(below, loader, store, device, path))
    return KeptFeatures(store, path)


def _compute(below: nn.Sequential, loader: Any, store: ImageStore, device: torch.device, path: Path) -> None:
    n, at_once = store.shape[0], _AT_ONCE.get(device.type, 64)
    modes = [(module, module.training) for module in below.modules()]
    below.eval()
    quick: nn.Module | None = None
    dtype: Any = None
    starts = range(0, n, at_once)
    try:
        with torch.inference_mode(), replacing(path) as temporary, temporary.open("wb") as file:
            for start in watch(starts, len(starts), "Computing what the frozen stages give"):
                rows = np.arange(start, min(n, start + at_once))
                images = _transformed(loader, TensorImage(store.gather(rows)).to(device))
                images = images.contiguous(memory_format=torch.channels_last)
                quick = quick or folded(below, images[:1])
                values = quick(images).float()
                values = (values.permute(0, 2, 3, 1) if values.ndim == 4 else values).cpu().numpy()
                if dtype is None:
                    dtype = np.float16 if np.abs(values).max() < _HALF_HOLDS else np.float32
                    _begin(file, (n, *values.shape[1:]), dtype)
                limits = np.finfo(dtype)
                file.write(np.ascontiguousarray(values.clip(limits.min, limits.max), dtype).tobytes())
    finally:
        for module, training in modes:
            module.training = training


def _transformed(loader: Any, images: Tensor) -> Tensor:
    pipeline, before = loader.after_batch, loader.after_batch.split_idx
    pipeline.split_idx = 1
    try:
        return pipeline((images,))[0].as_subclass(Tensor)
    finally:
        pipeline.split_idx = before


def _begin(file: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """The header of a .npy file; its values are written after it, batch by batch, so a full disk is an error here."""
    np.lib.format.write_array_header_2_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
