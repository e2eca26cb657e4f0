"""Two gloo processes on the CPU train as one does: the same losses, metrics of every image once, files by the first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medclf.demo_images import draw_endoscopy
from medclf.learn.distributed import dealt, share

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(arguments, env):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr.partition("Traceback")[2][:3000]  # torchrun's own comes last
    return done.stdout


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """44 images, of which 13 are to validate on: neither two processes nor batches of 8 divide them."""
    return draw_endoscopy(tmp_path_factory.mktemp("drawn") / "data", n_per_class=11, size=(48, 48))


@pytest.fixture(scope="module")
def found(drawn, tmp_path_factory):
    """What one process and what two saw: n -> way to train -> facts; see `tell.py`."""
    folder, script, facts = tmp_path_factory.mktemp("told"), str(Path(__file__).with_name("tell.py")), {}
    for n, launcher in ((1, []), (2, TORCHRUN)):
        told, cache = folder / f"{n}.json", folder / f"cache{n}"
        run([*launcher, script, str(drawn), str(told)], {"MEDCLF_CACHE": str(cache)})
        assert [*cache.rglob("stages-*.npy")]  # what lies below layer4 was kept
        facts[n] = json.loads(told.read_text())
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("way", ["all", "layer4"])
def test_two_processes_train_as_one(found, way):
    one, two = found[1][way], found[2][way]
    assert len(two["paths"]) == len(set(two["paths"])) and two["paths"] == one["paths"]
    assert two["weights"][0] == two["weights"][1]
    assert two["epoch"] == one["epoch"]
    for key in ("strength", "n_train", "n_features", "cv_folds"):
        assert two["head"][key] == one["head"][key]
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert b[name] == pytest.approx(a[name], rel=2e-3, abs=2e-4), name
    assert np.allclose(one["probs"], two["probs"], atol=2e-3)
    assert np.allclose(one["weights"][0], two["weights"][0], rtol=1e-4)
    # what the epoch's line said is what the table of predictions says: every image once
    y = [sorted({Path(p).parent.name for p in two["paths"]}).index(Path(p).parent.name) for p in two["paths"]]
    accuracy = np.mean(np.argmax(two["probs"], 1) == y)
    assert two["history"][-1]["accuracy"] == pytest.approx(accuracy)
    assert two["history"][-1]["valid_loss"] == pytest.approx(np.mean(two["losses"]), rel=1e-4)


@pytest.mark.slow
def test_the_command_line_writes_one_run(drawn, tmp_path):
    arguments = [*TORCHRUN, "-m", "medclf", "train", str(drawn), "--out", str(tmp_path / "run"), "--arch", "resnet18"]
    arguments += ["--weights", "none", "--size", "32", "--epochs", "1", "--bs", "12", "--device", "cpu"]
    said = run(arguments, {"MEDCLF_CACHE": str(tmp_path / "cache")})
    assert said.count("report: ") == 1 and said.count("images to train on") == 1
    facts = json.loads((tmp_path / "run" / "results.json").read_text())
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert facts["n"] == len(predictions) == predictions["path"].nunique()
    assert len(facts["training"]["history"]) == 1
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")) == []
    assert len(list((tmp_path / "cache" / "stores").glob("*/index.json"))) == 1  # one size: nothing is augmented
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 7, 16, 43])
def test_what_is_dealt_out_is_the_whole(n, n_ranks):
    order = list(np.random.default_rng(0).permutation(n))
    parts = [order[share(n, (rank, n_ranks))] for rank in range(n_ranks)]
    assert [i for part in parts for i in part] == order
    hands = [dealt(order, 4, (rank, n_ranks)) for rank in range(n_ranks)]
    assert len({-(-len(hand) // 4) for hand in hands}) == 1  # as many batches each, or they would wait for ever
    assert set().union(*hands) == set(order)
    assert sum(map(len, hands)) == n or n % (4 * n_ranks) < n_ranks
    for start in range(0, n - n % (4 * n_ranks), 4 * n_ranks):  # each whole batch is that of one process
        step = start // n_ranks
        together = [i for hand in hands for i in hand[step : step + 4]]
        assert together == order[start : start + 4 * n_ranks]
