"""The loss fetched now and then is fastai's own to the bit; a store in a device's memory gives the same batches."""

import random

import fastai.callback.progress  # noqa: F401 - gives Learner its no_bar
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from PIL import Image
from torch import nn

from medclf.learn.batches import ahead, hold_on_device
from medclf.learn.callbacks import Resumable
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.waiting import LateSmoothLoss, Look


class Shown(Callback):
    order = 99

    def __init__(self):
        self.values = []

    def after_batch(self):
        if self.learn.training:
            self.values.append(float(self.learn.smooth_loss))


def fit(late, *cbs, epochs=3):
    torch.manual_seed(0)
    random.seed(0)  # fastai's order
    items = [(x, x.sum() + 1) for x in torch.rand(50, 3)]
    loaders = DataLoader(items[:40], bs=4, shuffle=True, num_workers=0), DataLoader(items[40:], bs=4, num_workers=0)
    learn = Learner(DataLoaders(*loaders), nn.Linear(3, 1), loss_func=lambda p, y: (p[:, 0] - y).square().mean())
    if late:
        learn.recorder.smooth_loss = LateSmoothLoss(learn.recorder, every=4)
        learn.add_cb(Look())
    shown = Shown()
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, 0.01, cbs=[shown, *cbs])
    return learn, shown.values


def test_the_losses_are_fastais():
    (late, shown), (plain, _) = fit(True), fit(False)
    assert [float(a) for a in late.recorder.losses] == [float(b) for b in plain.recorder.losses]
    assert [list(map(float, row)) for row in late.recorder.values] == [
        list(map(float, row)) for row in plain.recorder.values
    ]
    assert list(late.recorder.iters) == list(plain.recorder.iters) == [10, 20, 30]
    assert len(set(shown)) == 1 + 2 + 2 * 3  # the first of all, then one for each four of ten batches, and what is left


def test_the_device_is_not_asked_in_between(monkeypatch):
    looks = []
    look = LateSmoothLoss.look
    monkeypatch.setattr(LateSmoothLoss, "look", lambda self: (looks.append(len(self._unseen)), look(self)))
    fit(True, epochs=1)
    assert looks == [1, 4, 4, 1]


def test_a_rate_search_sees_every_loss():
    learn, _ = fit(True, epochs=1)
    with learn.no_bar(), learn.no_logging():
        found = learn.lr_find(num_it=12, show_plot=False)
    assert found.valley > 0
    assert len(set(map(float, learn.recorder.losses))) == len(learn.recorder.losses) > 6


@pytest.mark.filterwarnings("ignore:the training goes on")
def test_a_resumed_fit_knows_its_losses(tmp_path):
    unbroken, _ = fit(True)

    class Kill(Callback):
        order = 99

        def after_batch(self):
            if self.learn.training and (self.learn.epoch, self.learn.iter) == (2, 5):
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fit(True, Resumable(tmp_path / "a"), Kill())
    again, _ = fit(True, Resumable(tmp_path / "a"))
    assert [float(a) for a in again.recorder.losses] == [float(b) for b in unbroken.recorder.losses]


# --- batches ----------------------------------------------------------------------------------------------------


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
