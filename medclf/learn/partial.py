"""Training the last stages alone: those below are frozen, and where nothing augments, what they give is kept."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage
from torch import Tensor, nn

from medclf.dataset.image_cache import ImageStore
from medclf.errors import MedclfError, argument
from medclf.files import replacing
from medclf.images.preprocessing import Preprocessing
from medclf.learn import distributed
from medclf.learn.batches import MedDL
from medclf.learn.features import fingerprint
from medclf.learn.precision import bf16, precision
from medclf.learn.presets import QuickNormalize
from medclf.models.frozen_prefix import FrozenPrefix, at_once, folded_below
from medclf.models.stages import is_chain, stage_index, stages
from medclf.progress import watch

_HALF_HOLDS = 1000.0  # values above this are kept in float32: float16 ends at 65504


class FrozenBelow(Callback):
    """While training, some modules get no gradient, keep their statistics, and drop nothing out.

    Args:
        frozen: the modules; backward stops above them.
        digest: of their weights.
        renew: called where they are others when an epoch begins: a checkpoint was loaded.
    """

    order = TrainEvalCallback.order + 1

    def __init__(self, frozen: Sequence[nn.Module], digest: Callable[[], str], renew: Callable[[], None]) -> None:
        self.frozen, self.digest, self.renew = list(frozen), digest, renew
        self.seen = digest()

    def before_fit(self) -> None:
        """After the optimiser was made, which lets BatchNorm's parameters train."""
        for parameter in self._parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def before_train(self) -> None:
        """After fastai has put the network into training mode."""
        for module in self.frozen:
            module.eval()
        digest = self.digest()
        if digest != self.seen:
            self.seen = digest
            self.renew()

    def release(self) -> None:
        """Let them train again."""
        for parameter in self._parameters():
            parameter.requires_grad_(True)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for module in self.frozen for parameter in module.parameters())


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

    @property
    def preprocessing(self) -> Preprocessing:
        """What made the images that these are the features of."""
        return self.store.preprocessing

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
            f"it takes {argument('cache', True)}, no augmentation, and a network that is a chain of stages",
        )
    chain = cut > 0 and is_chain(network)
    in_bf16 = precision(learn) == "bfloat16"
    run = FrozenPrefix(network, cut, in_bf16) if chain else network

    def renew() -> None:
        if store is not None:
            features = kept_features(network, loaders.valid, store, cut, in_bf16)
            for loader in learn.dls.loaders:
                loader.stores = {0: features, 1: features}
        elif isinstance(run, FrozenPrefix):
            run.run_below(folded_below(network, cut))

    below = stages(network)[:cut]
    frozen = FrozenBelow(below, lambda: fingerprint(nn.Sequential(*below), loaders.valid), renew)
    learn.model = run
    if store is not None:
        learn.dls = copy.copy(loaders)
        learn.dls.loaders = [loader.new(after_batch=[]) for loader in loaders.loaders]
    try:
        renew()
        learn.add_cb(frozen)
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
        plain = all(type(tfm) in (IntToFloatTensor, Normalize, QuickNormalize) for tfm in loader.after_batch.fs)
        if not plain or store.rows(loader.dataset.items) is None:
            return None
    return store


def kept_features(network: nn.Module, loader: Any, store: ImageStore, cut: int, in_bf16: bool = False) -> KeptFeatures:
    """What the first `cut` stages give for every image of the store, computed once and kept beside it as float16.

    Args:
        network: a chain of stages.
        loader: whose batch transforms (to floats, Normalize) the images pass.
        store: of the images at exact size.
        cut: how many stages.
        in_bf16: compute them in bfloat16.

    Raises:
        OutputError: the cache folder cannot be written to.
    """
    device = next(network.parameters()).device
    digest = fingerprint(nn.Sequential(*stages(network)[:cut]), loader)
    key = f"{digest} {torch.get_num_threads()} {device.type} {torch.__version__} {in_bf16}"
    path = store.folder / f"stages-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.npy"
    distributed.in_turn(lambda: None if path.is_file() else _compute(network, cut, loader, store, path, in_bf16))
    return KeptFeatures(store, path)


def _compute(network: nn.Module, cut: int, loader: Any, store: ImageStore, path: Path, in_bf16: bool) -> None:
    device = next(network.parameters()).device
    n, step = store.shape[0], at_once(device)  # not the loader's batch size, since rounding may depend on it
    below = folded_below(network, cut).eval()
    dtype: Any = None
    starts = range(0, n, step)
    with torch.inference_mode(), replacing(path) as temporary, temporary.open("wb") as file:
        for start in watch(starts, len(starts), "Computing what the frozen stages give"):
            rows = np.arange(start, min(n, start + step))
            images = _transformed(loader, TensorImage(store.gather(rows)).to(device))
            with bf16(device, in_bf16):
                values = below(images.contiguous(memory_format=torch.channels_last)).float()
            values = (values.permute(0, 2, 3, 1) if values.ndim == 4 else values).cpu().numpy()
            if dtype is None:
                dtype = np.float16 if np.abs(values).max() < _HALF_HOLDS else np.float32
                _begin(file, (n, *values.shape[1:]), dtype)
            limits = np.finfo(dtype)
            file.write(np.ascontiguousarray(values.clip(limits.min, limits.max), dtype).tobytes())


def _transformed(loader: Any, images: Tensor) -> Tensor:
    pipeline, before = loader.after_batch, loader.after_batch.split_idx
    pipeline.split_idx = 1
    try:
        result: Tensor = pipeline((images,))[0].as_subclass(Tensor)
        return result
    finally:
        pipeline.split_idx = before


def _begin(file: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """The header of a .npy file; its values are written after it, batch by batch, so a full disk is an error here."""
    np.lib.format.write_array_header_2_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
