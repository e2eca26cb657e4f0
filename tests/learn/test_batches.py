"""Batches are the same from files, from a store on the disk or in memory, and made ahead."""

import warnings
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from medclf.errors import DataError
from medclf.learn.batches import ahead, hold_on_device
from medclf.learn.checkpoint import seeded
from medclf.learn.dataloaders import MedDataLoaders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir()
        for i in range(9):
            Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(folder / label / f"{i}.png")
    return folder


def batches_of(folder, **kwargs):
    dls = MedDataLoaders.from_folder(folder, size=32, modality="endoscopy", bs=4, cache=True, progress=False, **kwargs)
    return dls, [list(loader) for loader in dls.loaders for _ in range(2)]


def test_a_store_in_memory_gives_the_same_batches(folder):
    disk, wanted = batches_of(folder, device_store=False)
    held, found = batches_of(folder, device_store=True)
    files, read = batches_of(folder)
    assert [dls.train.stores[0].device for dls in (disk, held, files)] == [None, torch.device("cpu"), None]
    for passes in (found, read):
        for a, b in zip(wanted, passes, strict=True):
            for (x, y), (other_x, other_y) in zip(a, b, strict=True):
                assert torch.equal(x, other_x) and torch.equal(y, other_y) and type(y) is type(other_y)


def test_batches_of_a_store_are_those_of_the_files(folder):
    _, wanted = batches_of(folder)
    dls = MedDataLoaders.from_folder(folder, size=32, modality="endoscopy", bs=4, progress=False)
    for a, b in zip(wanted, [list(loader) for loader in dls.loaders for _ in range(2)], strict=True):
        for (x, y), (other_x, other_y) in zip(a, b, strict=True):
            assert torch.equal(y, other_y) and torch.allclose(x, other_x, atol=0.01)


def test_only_a_gpu_holds_a_store_by_itself(folder):
    dls, _ = batches_of(folder)
    assert not hold_on_device(dls.train.stores.values(), torch.device("cpu"))
    assert dls.train.stores[0].device is None


def test_batches_made_ahead_are_the_same_and_errors_come_through():
    batches = [(torch.full((2,), float(i)), torch.tensor(i)) for i in range(7)]
    made = list(ahead(batches, torch.device("cpu")))
    assert [int(y) for _, y in made] == list(range(7))

    def broken():
        yield batches[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        list(ahead(broken(), torch.device("cpu")))
    early = ahead(iter(batches), torch.device("cpu"))
    next(early)
    early.close()


def test_one_image_without_an_end_gives_a_batch(folder):
    """`show_batch(unique=True)` asks so, and never ended."""

    def endless():
        for n in count():
            assert n < 1000, "asked without an end"
            yield 0

    dls, _ = batches_of(folder)
    loader = dls.train.new(get_idxs=endless)
    x, y = loader.one_batch()
    assert len(x) == len(y) == loader.bs and len(set(y.tolist())) == 1
    assert not torch.equal(x[0], x[1])  # augmented otherwise


def test_any_whole_number_from_0_is_a_seed_and_nothing_else(folder):
    for seed, said in ((-1, "0 or more"), ("a", "a whole number")):
        with pytest.raises(DataError, match=f"seed must be {said}"):
            batches_of(folder, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the key goes through no floats, which platforms round otherwise
        batches_of(folder, seed=2**70)
    drawn = []
    for seed in (7, np.int64(7), 7 + 2**70):
        with seeded(seed):
            drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("cache", [True, False])
def test_loaders_without_images_say_so(folder, cache):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=4, cache=cache, progress=False)
    for loader in dls.new_empty().loaders:
        with pytest.raises(DataError, match="the loader holds no image"):
            list(loader)
