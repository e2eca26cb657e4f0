"""Features of a loader's images: each computed once, and kept beside the image store where nothing changes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medclf.dataset.image_cache import ImageStore
from medclf.errors import OutputError
from medclf.files import replacing
from medclf.learn import distributed
from medclf.learn.augment import Augment
from medclf.learn.batches import MedDL
from medclf.learn.precision import check_float32
from medclf.models.features import extract
from medclf.models.frozen_prefix import FrozenPrefix, at_once
from medclf.models.heads import pooling
from medclf.models.stage_maps import widths_of
from medclf.progress import watch

_VIEWS = 2**40  # epochs that no training comes to
_OF_WHAT_IS_KEPT = 64  # images at once: small maps and few layers


def image_features(
    network: nn.Sequential, loader: Any, *, view: int = 0, keep: bool = False, progress: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pooled features of every image of `loader`, in its order, unaugmented or as an augmented view.

    Within a group of processes (see `medclf.learn.distributed`) each computes its part and all get the whole.

    Args:
        network: `nn.Sequential(body, head)` as `build_network` makes it, or one cut in two.
        loader: a fastai loader; its images are read at exact size, unshuffled. Or one of what the stages below the cut
            give.
        view: 0 for the images as they are; else which augmented view of a training loader, each keyed by the seed.
        keep: keep them beside the image store, if there is one, so that another head, split or fold costs no pass.
        progress: show a progress bar when it lasts.

    Returns:
        features (n, n_features) float32, and targets: (n,) classes, (n, n_labels) 0/1, or None without labels.
    """
    store = (loader.stores or {}).get(1) if keep and isinstance(loader, MedDL) else None
    rows = store.rows(loader.dataset.items) if isinstance(store, ImageStore) else None
    if store is None or rows is None:
        return _computed(network, loader, view, progress)
    targets = np.stack([np.asarray(t.as_subclass(Tensor)) for t in loader.dataset.tls[1]])
    if view:
        loader = loader.new(ids=rows)  # the same draws for an image in whichever split or fold it is
    pool = "stages" if widths_of(network[0]) else "".join(filter(str.isalpha, pooling(network[1]).extra_repr()))
    kept = Path(store.folder) / f"features-{fingerprint(network[0], loader, view)}{pool and '-' + pool}.npy"
    known = np.load(kept) if kept.is_file() else np.zeros((store.shape[0], 0), np.float32)
    if distributed.from_first(lambda: bool(known.shape[1] == 0 or np.isnan(known[rows]).any())):
        fresh, _ = _computed(network, loader, view, progress)
        table = known if known.shape[1] else np.full((store.shape[0], fresh.shape[1]), np.nan, np.float32)
        table[rows] = fresh
        if not distributed.rank():  # what cannot be kept is computed again the next time
            with contextlib.suppress(OutputError), replacing(kept) as temporary, temporary.open("wb") as file:
                np.save(file, table)
        return fresh, targets
    return known[rows], targets


def _computed(network: nn.Sequential, loader: Any, view: int, progress: bool) -> tuple[np.ndarray, np.ndarray | None]:
    changes = {"epoch": _VIEWS + view} if view else {}
    training, body, step, in_bf16 = network.training, network[0], None, False
    if isinstance(network, FrozenPrefix) and network.body() is not body:  # of what is kept, as precisely as it was made
        body, in_bf16, changes["bs"] = network.body(), network.in_bf16, max(loader.bs, _OF_WHAT_IS_KEPT)
    elif next(network.parameters()).device.type == "cpu":
        step = at_once(next(network.parameters()).device)
    check_float32(network)
    whole = loader.new(shuffle=False, drop_last=False, **changes)
    loader = parted(whole)
    targets: list[Tensor] = []

    def batches() -> Iterator[Tensor]:
        for batch in watch(loader, len(loader), "Computing features", progress=progress and not distributed.rank()):
            targets.extend(t.as_subclass(Tensor).cpu() for t in batch[1:2])
            yield batch[0].as_subclass(Tensor)

    network.eval()
    with contextlib.nullcontext() if view else exact(loader):
        features = extract(body, pooling(network[1]), batches(), step=step, in_bf16=in_bf16)
    network.train(training)
    collect = distributed.gathered if loader is not whole else np.asarray
    return collect(features), collect(torch.cat(targets).numpy()) if targets else None


def fingerprint(body: nn.Module, loader: Any, view: int = 0) -> str:
    """Of the body's weights and of what is done to the pixels after the store."""
    digest = hashlib.blake2b(digest_size=12)
    for name, value in sorted(body.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for tfm in loader.after_batch.fs:
        for name in ("mean", "std"):
            if hasattr(tfm, name):
                digest.update(np.asarray(getattr(tfm, name).cpu()).tobytes())
        if view and isinstance(tfm, Augment):
            digest.update(json.dumps([view, loader.seed, loader.stores[0].shape[1:], tfm.settings()]).encode())
    return digest.hexdigest()


def parted(loader: Any) -> Any:
    """This process's part of a loader, see `MedDL.parted`; a plain fastai loader is whole in each process."""
    return loader.parted() if isinstance(loader, MedDL) else loader


class exact:
    """Within it, a loader of the training set gives its images at exact size and unaugmented."""

    def __init__(self, loader: Any) -> None:
        self.scope = loader.dataset.set_split_idx(1) if hasattr(loader.dataset, "set_split_idx") else None

    def __enter__(self) -> None:
        if self.scope:
            self.scope.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.scope:
            self.scope.__exit__(*error)
