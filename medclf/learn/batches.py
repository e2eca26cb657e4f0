"""The data loader: fastai's, with an order and draws that depend on the seed, the epoch and the image alone."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from fastai.data.core import TfmdDL
from fastai.torch_core import TensorImage, to_detach
from torch import Tensor

from medclf.dataset.image_cache import ImageStore
from medclf.errors import DataError, MedclfWarning, ReadError
from medclf.learn import distributed
from medclf.learn.distributed import dealt, share


@dataclass(frozen=True)
class Unread:
    """What stands in a batch for an image that could not be read, until the batch is put together."""

    index: int
    reason: str


def refuse_empty(loader: Any) -> None:
    """See that a loader has images.

    Raises:
        DataError: it has none.
    """
    if not len(loader.dataset):
        raise DataError("the loader holds no image: an exported learner has none", "put some in: learn.dls = dls")


class MedDL(TfmdDL):
    """fastai's `TfmdDL` whose shuffling and augmentation are keyed by (seed, epoch, image).

    The same images come in the same order with the same draws whatever the number of workers, and whatever was drawn
    from the global generators before. With a store, batches are gathered from it and no file is opened.

    With `problems`, a file that broke since it was scanned ends nothing: it is noted there, with a warning, and in its
    place stands another image of its batch in training, a black one elsewhere, so that rows and predictions stay in
    step. `predict_loader` and the linear probe leave such rows out.

    Args:
        dataset: fastai's `Datasets`.
        seed: the run's seed.
        epoch: number of passes made so far; set it to resume.
        stores: the image stores for training and for exact size, by fastai's split index (0 and 1).
        ids: (n,) what the draws are keyed by in place of the images' positions.
        part: this process's number and how many processes there are, where it loads its part only: of each batch where
            the order is shuffled (`bs` is then its part's size), else of the whole, none twice.
        weights: (n,) how often each image is drawn, relative to the others, where the order is shuffled; None takes
            each once an epoch.
        problems: where files that cannot be read are noted, path -> reason; None raises their ReadError, as a loader
            of other images (`test_dl`) does unless it is given one.
        kwargs: fastai's own arguments.
    """

    def __init__(
        self,
        dataset: Any,
        *args: Any,
        seed: int = 42,
        epoch: int = 0,
        stores: dict[int, ImageStore] | None = None,
        ids: np.ndarray | None = None,
        part: tuple[int, int] | None = None,
        weights: np.ndarray | None = None,
        problems: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.seed, self.epoch, self.stores, self.ids, self.part = seed, epoch, stores, ids, part
        self.weights, self.problems = weights, problems
        self._known: list[Tensor] | None = None
        super().__init__(dataset, *args, **kwargs)

    def new(self, dataset: Any = None, cls: Any = None, **kwargs: Any) -> Any:
        """fastai's, with seed, epoch, stores, ids, part and, for the same images, the problems and the weights."""
        own = {name: getattr(self, name) for name in ("seed", "epoch", "stores", "ids", "part")}
        if dataset is None or dataset is self.dataset:
            own |= {"problems": self.problems, "weights": self.weights}
        return super().new(dataset, cls, **(own | kwargs))

    def parted(self) -> MedDL:
        """The same loader, of which each process of a group loads its part; itself where there is one process."""
        mine = distributed.rank(), distributed.n_ranks()
        if mine[1] == 1 or self.part or self.n is None or self.n < mine[1]:
            return self
        bs = -(-self.bs // mine[1]) if self.shuffle else self.bs
        return cast(MedDL, self.new(bs=bs, part=mine))

    def __len__(self) -> int:
        if not self.part:
            return int(super().__len__())
        n = self.n if self.shuffle else len(range(self.n)[share(self.n, self.part)])
        return math.ceil(int(n) / int(self.bs * (self.part[1] if self.shuffle else 1)))

    def to_detach(self, b: Any, cpu: bool = True, gather: bool = False) -> Any:
        """fastai's, without gathering from other processes: whoever wants all rows gathers them once, at the end."""
        return to_detach(b, cpu, gather=False)

    def randomize(self) -> None:
        """Begin another epoch; fastai draws a new generator here."""
        self.epoch += 1

    def shuffle_fn(self, idxs: list[int]) -> list[int]:
        """A permutation drawn from (seed, epoch); with weights, as many draws with replacement."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, self.epoch], np.uint64)))
        if self.weights is not None:
            shares = self.weights[idxs] / self.weights[idxs].sum()
            return [idxs[i] for i in generator.choice(len(idxs), len(idxs), p=shares)]
        return [idxs[i] for i in generator.permutation(len(idxs))]

    def get_idxs(self) -> list[int]:
        """The order of this epoch; the training set's augmentation is keyed to it."""
        order: list[int] = super().get_idxs()
        if self.part:
            order = list(dealt(order, self.bs, self.part)) if self.shuffle else order[share(len(order), self.part)]
        if getattr(self.dataset, "split_idx", None) == 0 and self.n is not None:
            for tfm in self.after_batch.fs:
                if hasattr(tfm, "begin"):
                    tfm.begin(self.seed, self.epoch, order if self.ids is None else self.ids[order])
        return order

    def __iter__(self) -> Iterator[Any]:
        """fastai's; what a batch says of unread files is taken out of it and noted."""
        for batch in super().__iter__():
            if isinstance(batch, tuple) and isinstance(batch[-1], dict):
                self._note(batch[-1])
                batch = batch[:-1]
            yield batch

    def _note(self, unread: dict[int, str]) -> None:
        assert self.problems is not None
        for index, reason in unread.items():
            path = str(self.dataset.items[index])
            if path not in self.problems:
                self.problems[path] = reason
                text = f"{path}: {reason}; it could be read when it was scanned, and is left out from here on"
                warnings.warn(text, MedclfWarning, stacklevel=3)

    def do_item(self, s: int) -> Any:
        """fastai's; a file that cannot be read is kept in its place, with the reason."""
        try:
            return super().do_item(s)
        except ReadError as error:
            if self.problems is None:
                raise
            return Unread(s, error.problem)

    def do_batch(self, b: Sequence[Any]) -> Any:
        """fastai's; unread files are stood in for, and named in one element more, which `__iter__` takes out."""
        unread = {item.index: item.reason for item in b if isinstance(item, Unread)}
        if not unread:
            return super().do_batch(b)
        read = [item for item in b if not isinstance(item, Unread)]
        whole = [self._stand_in(item.index, read) if isinstance(item, Unread) else item for item in b]
        return (*super().do_batch(whole), unread)

    def _stand_in(self, index: int, read: Sequence[Any]) -> Any:
        if read and self.shuffle:
            return read[0]
        images, *targets = self.dataset.tls
        labels = [target[index] for target in targets]
        if read:
            return (torch.zeros_like(read[0][0]), *labels)
        return self.after_item((images.tfms(np.zeros((64, 64), np.uint8)), *labels))

    def create_batches(self, samps: Any) -> Any:
        """Gather whole batches from the store where all images are in it, else read file by file.

        Raises:
            DataError: there is no image.
        """
        refuse_empty(self)
        store = (self.stores or {}).get(getattr(self.dataset, "split_idx", 1) or 0)
        rows = store.rows(self.dataset.items) if store is not None and self.bs is not None else None
        if store is None or rows is None:
            yield from super().create_batches(samps)
            return
        # show_batch(unique=True) asks for its one image without an end
        order = np.fromiter(islice(samps, (self.n or 0) + self.bs), np.int64)
        batches = self._gathered(store, rows[order], [target[torch.from_numpy(order)] for target in self._targets()])
        on_gpu = self.device is not None and self.device.type == "cuda" and self.fake_l.num_workers == 0
        yield from ahead(batches, self.device) if on_gpu and store.device is None else batches

    def _targets(self) -> list[Tensor]:
        """The labels of all images in the dataset's order, looked up once."""
        if self._known is None:
            self._known = [_stack([target[i] for i in range(len(target))]) for target in self.dataset.tls[self.n_inp :]]
        return self._known

    def _gathered(self, store: ImageStore, rows: Any, targets: list[Tensor]) -> Iterator[tuple[Any, ...]]:
        """Batches in order; where the store lies in a device's memory, all is copied there once, at the start."""
        if store.device is not None:
            rows = torch.from_numpy(rows).to(store.device)
            targets = [target.to(store.device) for target in targets]
        n = len(rows) - len(rows) % self.bs if self.drop_last else len(rows)
        for start in range(0, n, self.bs):
            part = slice(start, min(n, start + self.bs))
            yield (TensorImage(store.gather(rows[part])), *(target[part] for target in targets))


def unread(loader: Any) -> np.ndarray:
    """(n,) which images of a loader could not be read any more, in this process or in another of its group."""
    problems = getattr(loader, "problems", None)
    if problems is None:
        return np.zeros(len(loader.dataset), bool)
    noted = np.array([[str(item) in problems for item in loader.dataset.items]], np.uint8)
    return np.asarray(distributed.gathered(noted).any(0))


def _stack(targets: list[Any]) -> Any:
    return torch.stack([t.as_subclass(Tensor) for t in targets]).as_subclass(type(targets[0]))


def ahead(batches: Iterable[tuple[Any, ...]], device: torch.device, n: int = 2) -> Iterator[tuple[Any, ...]]:
    """Make batches in a thread while the device computes, and copy them to it without waiting for it.

    Args:
        batches: tuples of tensors on the CPU.
        device: where they go.
        n: how many are made ahead.
    """
    source, pin = iter(batches), device.type == "cuda"

    def make() -> tuple[Any, ...] | None:
        batch = next(source, None)
        return tuple(t.pin_memory() for t in batch) if batch is not None and pin else batch

    with ThreadPoolExecutor(1, "batches") as pool:
        coming = deque(pool.submit(make) for _ in range(n))
        while (batch := coming.popleft().result()) is not None:
            coming.append(pool.submit(make))
            yield tuple(t.to(device, non_blocking=True) for t in batch)


def hold_on_device(stores: Iterable[ImageStore], device: torch.device, wanted: bool | None = None) -> bool:
    """Bring stores into a device's memory, so that a batch costs neither a copy nor a worker.

    Args:
        stores: the stores, some of which may be the same.
        device: whose memory.
        wanted: None holds them on a GPU where they take at most half of the memory that is free there.

    Returns:
        Whether they are held.
    """
    distinct = {id(store): store for store in stores}.values()
    if wanted is None:
        size = sum(math.prod(store.shape) for store in distinct)
        wanted = device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 2
    if wanted:
        for store in distinct:
            store.to(device)
    return bool(wanted)


def default_batch_size(device: torch.device) -> int:
    """What keeps a GPU busy, or stays within a processor's caches, where 64 images take half as long again."""
    return 16 if device.type == "cpu" else 64


def even_batch_size(n: int, bs: int) -> int:
    """The size at most `bs` that cuts `n` images into batches as even as can be, so that none is dropped or tiny.

    None is left alone where a size of at least half as much avoids it: BatchNorm1d in a head cannot train on one image.

    Example:
        >>> even_batch_size(65, 64), even_batch_size(448, 64), even_batch_size(257, 16)
        (33, 64, 15)
    """
    size = max(1, math.ceil(n / max(1, math.ceil(n / bs))))
    return next((one for one in range(size, size // 2, -1) if n % one != 1), size)
