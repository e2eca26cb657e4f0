"""The loss fetched now and then is fastai's own to the bit."""

import random

import fastai.callback.progress  # noqa: F401 - gives Learner its no_bar
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn

from medclf.learn.callbacks import Resumable
from medclf.learn.deferred_loss import DeferredSmoothLoss, FetchLosses


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
        learn.recorder.smooth_loss = DeferredSmoothLoss(learn.recorder, every=4)
        learn.add_cb(FetchLosses())
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
    fetched = []
    fetch = DeferredSmoothLoss.fetch
    monkeypatch.setattr(DeferredSmoothLoss, "fetch", lambda self: (fetched.append(len(self._unseen)), fetch(self)))
    fit(True, epochs=1)
    assert fetched == [1, 4, 4, 1]


def test_a_rate_search_sees_every_loss():
    learn, _ = fit(True, epochs=1)
    with learn.no_bar(), learn.no_logging():
        found = learn.lr_find(num_it=12, show_plot=False, stop_div=False)
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
