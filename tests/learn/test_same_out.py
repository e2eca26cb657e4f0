"""Same in, same out: fresh processes with one seed end with the same bits, whatever the workers and the cache."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

SCRIPT = """
import hashlib, json, random, sys
import numpy as np, torch
from medclf.learn.dataloaders import MedDataLoaders
from medclf.cli import main
from medclf.run.config import TrainConfig
from medclf.run.train import train
from medclf.learn.learner import med_learner

def by_hand(data, workers):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    dls = MedDataLoaders.from_folder(data, modality="endoscopy", size=64, bs=8, num_workers=workers, seed=1)
    learn = med_learner(dls, "test_resnet", weights=None)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
        probs, _ = learn.get_preds()
    digest = hashlib.sha256(probs.numpy().tobytes())
    for name, value in learn.model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()

def silent(line): pass

torch.set_num_threads(1)
data, run, again, *workers = sys.argv[1:]
if again == "-":
    train(TrainConfig(data, run, arch="efficientnet_lite0", size=64, bs=8, epochs=1, modality="endoscopy"), silent)
else:
    sys.argv = ["medclf", "train", "--config", f"{again}/run.json", "--out", run]
    try:
        main()
    except SystemExit as end:
        assert not end.code
print(json.dumps([by_hand(data, int(n)) for n in workers]))
"""


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two interpreters: the second is `medclf train --config` of the first's run.json, with a warm cache, another
    hash seed and workers."""
    room = tmp_path_factory.mktemp("same")
    rng = np.random.default_rng(0)
    for place, label in enumerate(("blue", "green", "red")):
        (room / "data" / label).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 200, (40, 44, 3), dtype=np.uint8)
            pixels[..., 2 - place] += 40
            Image.fromarray(pixels).save(room / "data" / label / f"{number}.png")

    def fresh(hash_seed, *arguments):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "MEDCLF_CACHE": str(room / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(room / "data"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    first, _ = fresh("1", room / "a", "-", 0, 1)
    second, said = fresh("2", room / "b", room / "a", 2)
    return room, first + second, said


def test_a_run_repeated_from_its_record_is_the_same_to_the_bit(twice):
    room, _, said = twice
    for name in ("bundle/weights.safetensors", "predictions.csv", "table.csv"):
        assert (room / "a" / name).read_bytes() == (room / "b" / name).read_bytes(), name
    assert "will not be the same" not in said
    before, after = (json.loads((room / run / "results.json").read_text()) for run in "ab")
    assert before["accuracy"] == after["accuracy"]
    assert before["training"]["history"] == after["training"]["history"]


def test_0_1_and_2_workers_in_two_processes_give_the_same_bits(twice):
    _, digests, _ = twice
    assert len(digests) == 3
    assert len(set(digests)) == 1


def test_the_record_says_what_a_result_depends_on(twice):
    room, _, _ = twice
    a, b = (json.loads((room / run / "run.json").read_text()) for run in "ab")
    assert a["settings"]["seed"] == 42
    assert a["threads"] == 1
    assert a["device"] == "cpu"
    assert {"python", "torch", "fastai", "medclf", "numpy", "pillow"} <= set(a["versions"])
    assert len(a["table_sha256"]) == 64
    assert a["table_sha256"] == b["table_sha256"]
    assert "git_commit" in a
    assert b["settings"] == {**a["settings"], "out": str(room / "b")}
