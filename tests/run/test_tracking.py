"""Trackers: TensorBoard itself, stand-ins for the others' modules, and a tracker that fails in the middle."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from medclf.config import TrainConfig
from medclf.demo_images import draw_endoscopy
from medclf.errors import MedclfError, MedclfWarning
from medclf.run.config import check_early
from medclf.run.run import Run
from medclf.run.tracking import TRACKERS, Tracking, scores_of, shown_settings
from medclf.run.train import train


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_endoscopy(tmp_path_factory.mktemp("drawn"), n_per_class=6, size=(64, 64))


@pytest.fixture(scope="module")
def tracked_run(drawn, tmp_path_factory):
    """A run of two epochs, told to TensorBoard."""
    pytest.importorskip("tensorboard")
    out = tmp_path_factory.mktemp("tracked") / "RUN"
    settings = {"arch": "efficientnet_lite0", "weights": None, "size": 32, "epochs": 2, "audit": False, "saliency": 0}
    settings["cache"] = False
    return Run(train(drawn, lambda line: None, out=out, track="tensorboard", **settings))


def test_tensorboard_is_told_epochs_and_scores_with_intervals(tracked_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = EventAccumulator(str(tracked_run / "tensorboard")).Reload()
    history = tracked_run.results["training"]["history"]
    losses = [event.value for event in told.Scalars("valid_loss")]
    assert [event.step for event in told.Scalars("valid_loss")] == list(range(1, len(losses) + 1))
    assert len(history) == 2 and len(losses) == 3  # an epoch of the head alone comes first
    assert losses[1:] == pytest.approx([row["valid_loss"] for row in history], rel=1e-5)
    assert {"train_loss", "accuracy_low", "accuracy_high", "lr"} <= set(told.Tags()["scalars"])
    accuracy = tracked_run.results["accuracy"]
    for name, end in (("accuracy_low", "low"), ("accuracy_high", "high")):
        assert told.Scalars(name)[0].value == pytest.approx(accuracy[end], rel=1e-5)
    page = (tracked_run / "report.html").resolve().as_uri()
    assert told.Tensors("report/text_summary")[0].tensor_proto.string_val[0].decode() == page


class Told:
    """A stand-in module: whatever is called is written down."""

    def __init__(self):
        self.calls, self.files = [], []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            if name in ("log_artifact", "add_file"):
                self.files.append(getattr(arguments[0], "text", None) or Path(arguments[0]).read_text())
            return self

        return call


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_the_others_are_told_the_same(name, tracked_run, drawn, monkeypatch):
    told, module = Told(), ModuleType(name)
    told.id, told.summary = "r1", SimpleNamespace(update=lambda values: told.calls.append(("summary", (values,), {})))
    told.text = "x"
    for call in "start_run log_params log_metrics log_artifact end_run init log finish Artifact".split():
        setattr(module, call, getattr(told, call))
    module.Settings = dict
    monkeypatch.setitem(sys.modules, name, module)
    tracking = Tracking(TrainConfig(str(drawn), str(tracked_run.path), track=name, arch="resnet18"))
    tracking.log({"valid_loss": 0.5, "time": "00:01", "broken": float("nan")}, 1)
    tracking.finish(tracked_run)
    tracking.close()
    numbers = [values for _, (values, *_), _ in (c for c in told.calls if c[0] in ("log_metrics", "log", "summary"))]
    assert numbers == [{"valid_loss": 0.5}, scores_of(tracked_run.results)]
    (begun, _, options) = told.calls[0]
    assert begun in ("start_run", "init") and "RUN" in options.values()
    assert told.calls[-1][0] in ("end_run", "finish")
    if name != "trackio":
        (page,) = [text for text in told.files if text != "x"]
        assert "<html" in page and ".jpg" not in page and "data:image/jpeg" not in page
    else:
        assert options["config"]["report"] == "RUN/report.html"
    if name == "wandb":
        assert options["settings"]["console"] == "off" and options["settings"]["x_disable_meta"]
        assert options["reinit"] == "create_new"  # which leaves a run of the user's own alone
    elif name == "mlflow":
        assert options["tags"] == {"mlflow.source.name": "medclf"} and options["nested"]


def test_a_tracker_that_fails_costs_a_warning_and_no_training(drawn, monkeypatch, tmp_path):
    class Broken:
        def __init__(self, folder, settings):
            raise ConnectionError("the server is down")

    monkeypatch.setitem(TRACKERS, "wandb", Broken)
    tracking = Tracking(TrainConfig(str(drawn), str(tmp_path), track="wandb"))
    with pytest.warns(MedclfWarning, match=r"wandb failed: the server is down") as told:
        tracking.log({"a": 1.0}, 1)
        tracking.log({"a": 1.0}, 2)
    assert len(told) == 1
    tracking.close()


def test_settings_that_are_told_name_no_path(drawn, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text("")
    config = TrainConfig(str(drawn), str(tmp_path / "RUN"), card=str(card), track="wandb", epochs=3)
    shown = shown_settings(config)
    assert str(tmp_path) not in json.dumps(shown) and str(drawn) not in json.dumps(shown)
    assert shown["epochs"] == "3" and shown["arch"] == "resnet34"
    (tmp_path / "encoder").mkdir()
    for arch in (f"local-dir:{tmp_path / 'encoder'}", str(tmp_path / "encoder")):
        config = TrainConfig(str(drawn), str(tmp_path / "RUN"), arch=arch, where=["name != Miller"], track="wandb")
        assert not re.search(f"{tmp_path}|Miller", json.dumps(shown_settings(config)))


def test_a_tracker_that_is_not_installed_is_said_before_anything_begins(drawn, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MedclfError, match=r"medclf\[trackio\]"):
        check_early(TrainConfig(str(drawn), str(tmp_path / "RUN"), track="trackio"))
