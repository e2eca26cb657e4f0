"""A training that stops and goes on ends with the bits of one that did not; nothing is unpickled on the way."""

import json
import pickle
import random
import struct
from functools import partial

import fastai.callback.progress  # noqa: F401 - gives Learner its no_bar
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import Learner
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.metrics import accuracy
from fastai.optimizer import Adam, OptimWrapper, ranger
from fastai.test_utils import synth_learner
from torch import nn

from medclf.errors import BundleError, DataError, MedclfWarning, OutputError
from medclf.learn.callbacks import Resumable, SaveBest, load_weights, told_in_lines
from medclf.learn.checkpoint import (
    load_checkpoint,
    random_state,
    read_state,
    restore_random,
    save_checkpoint,
    write_state,
)
from medclf.learn.linear_probe import LinearProbe
from medclf.models.spec import LoaderSettings

ADAMW = partial(OptimWrapper, opt=torch.optim.AdamW, fused=True)
EPOCHS = 4
pytestmark = pytest.mark.filterwarnings("ignore:the training goes on")


class Killed(Exception):
    pass


class Kill(Callback):
    """Die in the middle of an epoch, after it, or before the first batch."""

    order = 99

    def __init__(self, epoch, at="after_batch", fit=0):
        self.when, self.at, self.fits, self.fit_no = epoch, at, -1, fit

    def before_fit(self):
        self.fits += 1

    def _die(self, at):
        if self.at == at and self.learn.epoch == self.when and self.fits == self.fit_no:
            raise Killed("now")

    def before_train(self):
        self._die("before_train")

    def after_batch(self):
        if self.learn.training and self.learn.iter == 1:
            self._die("after_batch")

    def after_validate(self):
        self._die("after_validate")

    def after_epoch(self):
        self._die("after_epoch")


def tiny_learner(opt_func=ADAMW, seed=3, layout=torch.contiguous_format, **kwargs):
    """Convolutions, batch norm and dropout in two groups; plain fastai loaders whose order is random."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(30, 3, 8, 8)).astype("f4"))
    items = [(x, torch.tensor(i % 3)) for i, x in enumerate(images)]
    loaders = [DataLoader(items[:22], bs=8, shuffle=True, num_workers=0), DataLoader(items[22:], bs=8, num_workers=0)]
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 3))
    model = nn.Sequential(body, head).to(memory_format=layout)
    return Learner(
        DataLoaders(*loaders),
        model,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=opt_func,
        splitter=lambda m: [list(m[0].parameters()), list(m[1].parameters())],
        metrics=accuracy,
        **kwargs,
    )


def train(learn, *cbs, epochs=EPOCHS):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, slice(1e-3, 1e-1), wd=0.1, cbs=list(cbs))
    return learn


def state_of(learn):
    """Everything that two equal trainings must share, as bytes."""
    weights = {k: v.contiguous().numpy().tobytes() for k, v in learn.model.state_dict().items()}
    notes = [np.asarray(getattr(learn.recorder, name), dtype=float).tobytes() for name in ("lrs", "losses", "iters")]
    rows = np.asarray([[float(v) for v in row] for row in learn.recorder.values]).tobytes()
    hps = {k: [float(v) for v in values] for k, values in learn.recorder.hps.items()}
    return weights, notes, rows, hps, random.random(), np.random.rand(), torch.rand(()).item()


MOMENTS = [(0, "after_batch"), (1, "before_train"), (2, "after_batch"), (3, "after_validate"), (3, "after_epoch")]


@pytest.mark.parametrize(
    ("opt_func", "layout"),
    [(ADAMW, "contiguous_format"), (ADAMW, "channels_last"), (Adam, "channels_last"), (ranger, "contiguous_format")],
    ids=["fused AdamW", "fused AdamW, channels last", "fastai Adam", "ranger"],
)
def test_goes_on_to_the_same_bits(tmp_path, opt_func, layout):
    def fresh():
        return tiny_learner(opt_func, layout=getattr(torch, layout))

    unbroken = state_of(train(fresh()))
    for epoch, at in MOMENTS:
        path = tmp_path / f"{epoch}-{at}.safetensors"
        with pytest.raises(Killed):
            train(fresh(), Resumable(path), Kill(epoch, at))
        assert path.exists() == (epoch > 0)
        torch.rand(17)  # another process has drawn other numbers by then
        assert state_of(train(fresh(), Resumable(path))) == unbroken, (epoch, at)


def test_without_the_states_it_would_not_be_the_same(tmp_path):
    """The test above can fail: weights and optimiser alone are not enough."""
    unbroken = state_of(train(tiny_learner()))
    with pytest.raises(Killed):
        train(tiny_learner(), Resumable(tmp_path / "a"), Kill(2))
    for drop in ("random", "opt", "loaders"):
        state = read_state(tmp_path / "a")
        fresh = tiny_learner()
        fresh.create_opt()
        save_checkpoint(fresh, tmp_path / "b")
        state[drop] = read_state(tmp_path / "b")[drop]
        write_state(tmp_path / "b", state)
        assert state_of(train(tiny_learner(), Resumable(tmp_path / "b")))[0] != unbroken[0], drop


def test_several_kills_and_fewer_checkpoints(tmp_path):
    unbroken = state_of(train(tiny_learner()))
    for epoch, at in ((1, "after_batch"), (3, "before_train"), (3, "after_batch")):
        with pytest.raises(Killed):
            train(tiny_learner(), Resumable(tmp_path / "a", every=2), Kill(epoch, at))
    assert read_state(tmp_path / "a")["position"]["epoch"] == 2
    assert state_of(train(tiny_learner(), Resumable(tmp_path / "a", every=2))) == unbroken


@pytest.mark.parametrize(("fit", "epoch"), [(0, 0), (1, 0), (1, 1), (1, 2)])
def test_both_fits_of_fine_tune(tmp_path, fit, epoch):
    def fine_tune(*cbs):
        learn = tiny_learner()
        with learn.no_bar(), learn.no_logging():
            learn.fine_tune(3, 1e-2, cbs=list(cbs))
        return state_of(learn)

    unbroken = fine_tune()
    with pytest.raises(Killed):
        fine_tune(Resumable(tmp_path / "a"), Kill(epoch, fit=fit))
    assert fine_tune(Resumable(tmp_path / "a")) == unbroken


def test_trackers_know_what_was_passed_over(tmp_path):
    def run(*cbs):
        stop = EarlyStoppingCallback(monitor="accuracy", patience=2)
        slow = ReduceLROnPlateau(monitor="accuracy", patience=1)
        learn = tiny_learner()
        with learn.no_bar(), learn.no_logging():
            learn.fit(9, 1e-5, cbs=[slow, stop, *cbs])
        return learn

    unbroken = run()
    done = len(unbroken.recorder.values)
    assert 1 < done < 9, "early stopping is what this test is about"
    with pytest.raises(Killed):
        run(Resumable(tmp_path / "a"), Kill(done - 1))
    again = run(Resumable(tmp_path / "a"))
    assert len(again.recorder.values) == done
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_a_finished_fit_is_loaded_not_trained(tmp_path):
    first = train(tiny_learner(), Resumable(tmp_path / "a"))
    with pytest.warns(MedclfWarning, match="after epoch 4 of 4"):
        again = train(tiny_learner(), Resumable(tmp_path / "a"), Kill(0, "before_train"))
    assert torch.equal(first.model[1][3].weight, again.model[1][3].weight)
    afresh = train(tiny_learner(seed=4), Resumable(tmp_path / "a", resume=False))
    assert not torch.equal(first.model[1][3].weight, afresh.model[1][3].weight)


def test_validating_and_predicting_touch_no_checkpoint(tmp_path):
    learn = tiny_learner(cbs=Resumable(tmp_path / "a"))
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.get_preds()
        assert not (tmp_path / "a").exists()
        learn.fit(1)
        written = (tmp_path / "a").read_bytes()
        learn.validate()
        learn.get_preds()
    assert (tmp_path / "a").read_bytes() == written


def test_another_number_of_epochs_or_network_is_refused(tmp_path):
    train(tiny_learner(), Resumable(tmp_path / "a"))
    with pytest.raises(BundleError, match="fit of 4 epochs, this one has 5"):
        train(tiny_learner(), Resumable(tmp_path / "a"), epochs=5)
    other = tiny_learner()
    other.model = nn.Sequential(other.model[0], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)))
    with pytest.raises(BundleError, match="does not fit this learner"):
        load_checkpoint(other, tmp_path / "a")
    learn = tiny_learner()
    learn.arch, learn.dls.settings = "x", LoaderSettings(seed=1)
    save_checkpoint(learn, tmp_path / "a")
    learn.dls.settings = LoaderSettings(seed=2)
    with pytest.raises(BundleError, match=r"seed differ \(seed: 1 then, 2 now\)"):
        load_checkpoint(learn, tmp_path / "a")


def test_the_linear_probe_and_what_is_frozen_come_back(tmp_path):
    learn = tiny_learner()
    learn.freeze()
    learn.head = LinearProbe(0.01, 22, 6, 5, 1.5)
    learn.start = {name: value + 1 for name, value in learn.model.state_dict().items()}
    save_checkpoint(learn, tmp_path / "a")
    again = tiny_learner(seed=9)
    load_checkpoint(again, tmp_path / "a")
    assert again.head == learn.head
    assert all(torch.equal(again.start[name], value) for name, value in learn.start.items())
    assert [p.requires_grad for p in again.model.parameters()] == [p.requires_grad for p in learn.model.parameters()]
    assert torch.equal(again.model[0][0].weight, learn.model[0][0].weight)


def test_a_checkpoint_before_the_first_epoch_keeps_the_fits_own_rates(tmp_path):
    def run(killed):
        learn = tiny_learner()
        learn.freeze()
        save_checkpoint(learn, tmp_path / "a")
        if killed:
            learn = tiny_learner(seed=8)
            load_checkpoint(learn, tmp_path / "a")
        learn.unfreeze()
        return state_of(train(learn, Resumable(tmp_path / "a")))

    assert run(killed=False) == run(killed=True)


def test_the_scale_of_mixed_precision_is_kept(tmp_path):
    """The scaler itself needs a GPU; what is kept of it does not."""
    learn = tiny_learner(cbs=MixedPrecision(amp_mode=AMPMode.FP16))
    learn.scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    learn.scaler.scale(torch.ones(()))
    save_checkpoint(learn, tmp_path / "a")
    again = tiny_learner(cbs=MixedPrecision(amp_mode=AMPMode.FP16))
    again.scaler = torch.amp.GradScaler("cpu")
    load_checkpoint(again, tmp_path / "a")
    assert again.scaler.get_scale() == 128.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_numbers_of_the_gpu_come_back():
    state = random_state()
    first = torch.rand(3, device="cuda")
    restore_random(state)
    assert torch.equal(first, torch.rand(3, device="cuda"))


# --- the best model ---------------------------------------------------------------------------------------------


class Losses(Callback):
    """Set the validation losses, so that it is known which epoch is the best; remember its weights."""

    order = 55

    def __init__(self, losses):
        self.planned, self.weights = losses, []

    def after_epoch(self):
        if self.learn.epoch == len(self.weights):  # an epoch passed over is not seen again
            self.weights.append(self.learn.model[1][3].weight.detach().clone())
        self.learn.recorder.values[-1][1] = self.planned[self.learn.epoch]


def test_the_best_model_is_kept_and_loaded(tmp_path):
    losses = Losses([0.5, 0.2, 0.4, 0.3])
    learn = train(tiny_learner(), losses, SaveBest(tmp_path / "best.safetensors"))
    assert torch.equal(learn.model[1][3].weight, losses.weights[1])
    assert not torch.equal(learn.model[1][3].weight, losses.weights[3])
    other = tiny_learner(seed=5)
    load_weights(other, tmp_path / "best.safetensors")
    assert torch.equal(other.model[1][3].weight, losses.weights[1])


@pytest.mark.parametrize("at", ["after_batch", "after_validate", "after_epoch"])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_the_best_model_outlives_a_kill(tmp_path, epoch, at):
    losses = Losses([0.5, 0.2, 0.4, 0.3])
    unbroken = state_of(train(tiny_learner(), losses, SaveBest(tmp_path / "best.safetensors")))[0]
    best, kept = tmp_path / "b.safetensors", tmp_path / "a"
    with pytest.raises(Killed):
        train(tiny_learner(), losses, SaveBest(best), Resumable(kept), Kill(epoch, at))
    assert state_of(train(tiny_learner(), losses, SaveBest(best), Resumable(kept)))[0] == unbroken


def test_a_metric_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="choose from train_loss, valid_loss, accuracy"):
        train(tiny_learner(), SaveBest(tmp_path / "a", monitor="auroc"))


# --- files ------------------------------------------------------------------------------------------------------


def test_the_file_is_safetensors_and_json(tmp_path):
    train(tiny_learner(), Resumable(tmp_path / "a"), epochs=1)
    data = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert json.loads(header["__metadata__"]["medclf"])["format"] == 1
    with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError)):
        pickle.loads(data)


def test_nested_values_come_back_as_they_were(tmp_path):
    state = dict.fromkeys(("model", "frozen_idx", "scaler", "loaders", "position", "recipe", "head", "start"))
    state |= {
        "opt": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.99)}, "x": [1, None, True, "text", 0.1 + 0.2]},
        "random": np.arange(4, dtype=np.uint32),
        "recorder": {"bf16": torch.ones(2, dtype=torch.bfloat16), "none": torch.zeros(0), "inf": float("inf")},
    }
    write_state(tmp_path / "a", state)
    back = read_state(tmp_path / "a")
    assert back["opt"] == state["opt"]
    assert back["random"].dtype == np.uint32
    assert back["random"].tolist() == [0, 1, 2, 3]
    assert back["recorder"]["bf16"].dtype == torch.bfloat16
    assert back["recorder"]["inf"] == float("inf")


def test_a_damaged_file_is_refused(tmp_path):
    train(tiny_learner(), Resumable(tmp_path / "a"), epochs=1)
    whole = (tmp_path / "a").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    for place in rng.integers(0, len(whole), 200):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(changed))
    damaged += [pickle.dumps({"model": 1}), struct.pack("<Q", 2**62) + b"{}", b"\x02" + bytes(7) + b"{}"]
    for data in damaged:
        (tmp_path / "b").write_bytes(data)
        with pytest.raises(BundleError):
            load_checkpoint(tiny_learner(), tmp_path / "b")


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    train(tiny_learner(), Resumable(tmp_path / "a"), epochs=1)
    before = (tmp_path / "a").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(tiny_learner(), Resumable(tmp_path / "a", resume=False), epochs=1)
    assert (tmp_path / "a").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_where_no_terminal_is_epochs_are_told_in_lines(capfd):
    learn, lines = synth_learner(), []
    with told_in_lines(learn, lines.append):
        learn.fit(2)
    assert [line.split(", ")[0].split()[:3] for line in lines] == [["epoch", f"{n}:", "train_loss"] for n in (1, 2)]
    assert "valid_loss" in lines[0] and "time" in lines[0]
    assert capfd.readouterr().out == "" and learn.logger is not lines.append
    assert any(isinstance(callback, ProgressCallback) for callback in learn.cbs)
