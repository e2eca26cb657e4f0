"""Weight files of every ending, with what trainers leave beside the tensors; and files that would run code."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medclf.errors import WeightsError
from medclf.models.weight_files import ENDINGS, read_state

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending(ending, tmp_path):
    path = tmp_path / f"weights{ending}"
    save_file(STATE, path) if ending == ".safetensors" else torch.save(STATE, path)
    found = read_state(path)
    assert found.keys() == STATE.keys() and torch.equal(found["fc.weight"], STATE["fc.weight"])


class AttributeDict(dict):
    """As Lightning keeps its settings."""


BESIDE = {
    "Namespace": argparse.Namespace(lr=0.1, data=pathlib.Path("x"), blocks=[1, 2]),
    "NumPy number": np.float64(0.91),
    "NumPy array": np.arange(3),
    "NumPy type": np.dtype("float32"),
    "defaultdict": collections.defaultdict(list),
    "path": pathlib.PurePosixPath("/data"),
    "optimiser": torch.optim.AdamW(nn.Linear(2, 2).parameters()).state_dict(),
    "schedule": {"base_lrs": [0.1], "last_epoch": 3},
    "settings": AttributeDict(lr=0.1),
    "numbers": (1, 2.5, None, True, "text", {3}),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("old", [False, True])
def test_what_trainers_leave_beside_the_tensors(beside, old, tmp_path, monkeypatch):
    monkeypatch.setattr(AttributeDict, "__module__", "tests.models.test_weight_files", raising=False)
    path = tmp_path / "last.ckpt"
    content = {"state_dict": STATE, "beside": BESIDE[beside], "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = read_state(path)
    assert torch.equal(found["state_dict.fc.weight"], STATE["fc.weight"])
    assert not [name for name in found if name.startswith("epoch")]


def test_a_network_saved_whole_is_looked_through(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    torch.save({"model": network}, tmp_path / "whole.pt")
    found = read_state(tmp_path / "whole.pt")
    assert found.keys() == {f"model.{name}" for name in network.state_dict()}
    assert torch.equal(found["model.0.weight"], network[0].weight)


class Runs:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def canaries(canary):
    text = str(canary)
    yield "os.system", Runs(os.system, f"touch {text}")
    yield "subprocess", Runs(subprocess.call, ["touch", text])
    yield "eval", Runs(eval, f"open({text!r}, 'w')")
    yield "exec", Runs(exec, f"open({text!r}, 'w')")
    yield "open", Runs(open, text, "w")
    yield "pathlib", Runs(pathlib.Path.touch, canary)
    yield "getattr", Runs(getattr, canary, "touch")
    yield "numpy file", Runs(np.save, text, 3)
    yield "numpy array's own", Runs(np.ndarray.tofile, np.zeros(2), text)
    yield "beside tensors", {"model": STATE, "args": Runs(os.system, f"touch {text}")}
    yield "in a Namespace", {"model": STATE, "args": argparse.Namespace(x=Runs(os.system, f"touch {text}"))}
    yield "in a network", {"model": nn.Sequential(nn.Linear(1, 1)), "hook": Runs(os.system, f"touch {text}")}
    yield "torch.load", Runs(torch.load, text)
    yield "importing", Runs(__import__, "this")


@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_file_is_run(old, tmp_path):
    canary = tmp_path / "canary"
    for number, (name, content) in enumerate(canaries(canary)):
        path = tmp_path / f"hostile-{number}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        try:
            read_state(path)
        except WeightsError as error:
            assert path.name in str(error), name
        leftovers = [file for file in tmp_path.iterdir() if not file.name.startswith("hostile")]
        assert not leftovers, name


def test_the_object_that_stops_it_is_named(tmp_path):
    torch.save({"model": STATE, "args": Runs(os.system, "true")}, tmp_path / "hostile.pth")
    with pytest.raises(WeightsError, match=r"(posix|nt)\.system"):
        read_state(tmp_path / "hostile.pth")


def damaged():
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    whole = buffer.getvalue()
    yield whole[: len(whole) // 2]
    yield b""
    yield b"\x80\x02" + b"(" * 1000
    yield struct.pack("<Q", 2**40)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, protocol=2))
    yield packed.getvalue()


@pytest.mark.parametrize("ending", [".pth", ".bin", ".ckpt", ".safetensors"])
def test_damaged_files_are_refused(ending, tmp_path):
    for number, content in enumerate(damaged()):
        path = tmp_path / f"{number}{ending}"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=path.name):
            read_state(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "a web page", "server's error"),
    ],
)
def test_what_came_in_a_files_place_is_named(ending, content, what, remedy, tmp_path):
    path = tmp_path / f"weights{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights{ending} is {what}") as refused:
        read_state(path)
    assert remedy in refused.value.remedy


def test_safetensors_of_another_ending_are_read(tmp_path):
    save_file(STATE, tmp_path / "weights.pth")
    assert read_state(tmp_path / "weights.pth").keys() == STATE.keys()


def test_a_folder_is_called_one(tmp_path):
    """It was said not to exist."""
    with pytest.raises(WeightsError, match="is a folder"):
        read_state(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(WeightsError, match="is a folder") as refused:
        read_state(tmp_path)
    assert refused.value.remedy.endswith("weights.safetensors")
