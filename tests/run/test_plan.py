"""The plan: what is tried inside the training set, what is taken, and the file that says so."""

import json
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from medclf.auditing.assess import seen_in_training
from medclf.cli import app
from medclf.config import TrainConfig
from medclf.dataset.scan import COLUMNS, scan
from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError, MedclfWarning, OutputError, SplitError
from medclf.inference.bundle_format import WEIGHTS
from medclf.learn import trial as trials
from medclf.learn.assess import _leak_free
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.linear_probe import UNTOLD
from medclf.learn.step_costs import Costs
from medclf.learn.trial import BLENDS, MOST, Trial, _part, best_of, compared, try_tuning
from medclf.results.predictions import Predictions
from medclf.run import candidates as trying
from medclf.run import plan as plans
from medclf.run import train as trainings
from medclf.run.budget import Job
from medclf.run.plan import Chosen, chosen_in, fingerprint_of, planned, read_plan
from medclf.run.resume import read_record, settings_in, started_from
from medclf.run.tables import as_table, for_followers
from medclf.run.train import train

SMALL = {"arch": "efficientnet_lite0", "size": 64, "bs": 8, "saliency": 0, "audit": False}


@pytest.mark.parametrize(
    ("given", "way", "epochs"),
    [
        ({}, "auto", 5),
        ({"epochs": 0}, "probe", 0),
        ({"epochs": 3}, "tune", 3),
        ({"lr": 1e-3}, "tune", 5),
        ({"train_from": "layer4"}, "tune", 5),
        ({"recipe": "probe"}, "probe", 0),
        ({"recipe": "tune"}, "tune", 5),
        ({"recipe": "tune", "epochs": 7}, "tune", 7),
        ({"budget": 5}, "auto", 5),
        ({"weights": None}, "tune", 5),
        ({"blend": 0.5}, "tune", 5),
        ({"pooling": "gem"}, "auto", 5),
    ],
)
def test_the_recipe_is_what_the_settings_say(given, way, epochs):
    config = TrainConfig("d", "o", **given)
    assert config.way == way and (way == "auto" or config.n_epochs == epochs)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "auto", "epochs": 3}, 'recipe="auto" decides about epochs'),
        ({"recipe": "auto", "lr": 0.1}, 'recipe="auto" decides about lr'),
        ({"budget": 5, "epochs": 3}, "decides about epochs"),
        ({"epochs": 0, "lr": 0.1}, "epochs=0 fine-tunes nothing, so lr has no use"),
        ({"budget": 5, "size": (64, 96)}, "both say whether smaller images come first"),
        ({"recipe": "probe", "epochs": 3}, "has no epochs"),
        ({"recipe": "probe", "blend": 0.5}, "has no blend"),
        ({"recipe": "auto", "blend": 0.5}, 'recipe="auto" decides about blend'),
        ({"recipe": "tune", "epochs": 0}, "one epoch or more"),
        ({"recipe": "prob"}, "did you mean 'probe'?"),
        ({"budget": 5, "weights": None}, 'budget="..." begins with the linear probe, and weights=None leaves none'),
        ({"budget": 5, "linear_probe": False}, "begins with the linear probe, and linear_probe=False leaves none"),
        ({"recipe": "auto", "weights": None}, 'recipe="auto" begins with the linear probe'),
        ({"recipe": "probe", "linear_probe": False}, 'recipe="probe" begins with the linear probe'),
        ({"plan": "plan.json", "weights": None}, "begins with the linear probe, and weights=None leaves none"),
        (
            {"epochs": 2, "blend": 0.5, "linear_probe": False},
            "blend=0.5 is for the linear probe, and linear_probe=False",
        ),
        ({"epochs": 0, "size": (64, 96)}, 'size="64,96" is for epochs, and the linear probe alone has none'),
        ({"tabular": ["age"], "budget": 5}, "budget asks for another network"),
        ({"tabular": ["age"], "weights": None}, "weights asks for another network"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, said):
    with pytest.raises(DataError) as error:
        TrainConfig("d", "o", **given)
    assert said in str(error.value)


def test_smaller_images_first_are_tried_as_asked(monkeypatch):
    costs = Costs(96, forward=0.01, load=0.0, whole=0.1, last=0.1, kept=0.1)
    monkeypatch.setattr(plans, "measured", lambda *_, **__: ([costs], "layer4", True))
    monkeypatch.setattr(plans, "job_of", lambda *_: Job(n_train=200, n_valid=50, n_images=250))
    said = []
    config, outline = plans.outlined(TrainConfig("d", "o", size=(64, 96)), pd.DataFrame(), 0.0, said.append)
    assert outline.tune.sizes == (64, 96) and config.size == 96 and "64 then 96 px" in said[0]


def test_a_run_that_is_gone_on_with_keeps_the_outline_that_its_budget_had_room_for(monkeypatch):
    """After a kill the images are decoded already: more would fit, and the rest be trained at other sizes."""
    costs = [Costs(size, 0.01, 0.0, 0.1, 0.1, 0.1) for size in (224, 128)]
    monkeypatch.setattr(plans, "measured", lambda *_, **__: (costs, "layer4", True))
    monkeypatch.setattr(plans, "job_of", lambda *_: Job(n_train=200, n_valid=50, n_images=250))
    asked = TrainConfig("d", "o", budget=2, modality="ct")
    config, outline = plans.outlined(asked, pd.DataFrame(), 110.0, print)
    told = json.loads(json.dumps(outline.as_dict()))
    assert plans.outlined(asked, pd.DataFrame(), 1.0, print, told) == (config, outline)
    assert plans.outlined(asked, pd.DataFrame(), 1.0, print) != (config, outline) and config.size == 128


def test_the_record_of_folds_keeps_what_a_budget_had_room_for_and_their_repeat_measures_nothing(
    data, tmp_path, monkeypatch
):
    """Its size was the smaller one already, from which a repeat went on to measure a smaller one still."""
    costs = [Costs(96, 10, 0.0, 100, 100, 100), Costs(64, 0.001, 0.0, 0.001, 0.001, 0.001)]
    measured = []
    monkeypatch.setattr(plans, "measured", lambda config, **_: measured.append(config.size) or (costs, "layer4", True))
    learn = SimpleNamespace(dls=SimpleNamespace(device="cpu", table=pd.DataFrame(columns=COLUMNS)))
    tried = []
    monkeypatch.setattr(
        trainings, "fit_network", lambda config, table, say, outline: tried.append(outline) or (learn, None, config)
    )
    monkeypatch.setattr(trainings, "assess", lambda *_, **__: SimpleNamespace(predictions=None, results={}))
    monkeypatch.setattr(trainings, "report", lambda out: (out / "report.html").touch())
    for name in ("_write", "_say_withheld", "hash_in", "precision"):
        monkeypatch.setattr(trainings, name, lambda *_: None)
    asked = TrainConfig(str(data), str(tmp_path / "a"), split="kfold", budget=1, **SMALL | {"size": 96})
    record = read_record(train(asked, lambda _: None))
    train(settings_in(record, out=str(tmp_path / "b")), lambda _: None, before=record)
    assert tried[1] == tried[0] and tried[0].size == record["settings"]["size"] == 64 and measured == [96]
    train(settings_in(record, out=str(tmp_path / "c"), budget=2), lambda _: None, before=record)
    assert measured == [96, 96]


def test_a_way_is_taken_where_it_is_surely_better():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    right = np.eye(2)[y] * 0.6 + 0.2
    better = np.eye(2)[y] * 0.8 + 0.1
    assert compared(y, right, better, False).helps and not compared(y, better, right, False).helps
    assert not compared(y, right, right, False).helps
    mixed = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])  # better on two of three, much worse on one
    assert not compared(np.zeros(3, int), np.tile([[0.6, 0.4]], (3, 1)), mixed, False).helps


def test_the_best_is_the_lowest_of_those_that_surely_help():
    sure, surer, vague, worse = (
        Trial(80, 0.5, after, 0.9, 0.9, after - 0.5 - half, after - 0.5 + half)
        for after, half in ((0.4, 0.05), (0.45, 0.01), (0.3, 0.3), (0.6, 0.3))
    )
    assert best_of({1: surer, 2: sure, 3: vague}) == 2
    assert best_of({1: worse, 2: vague}) == 2


def test_a_trial_leaves_out_what_an_average_of_weights_makes_better(data):
    """A training that ruins the network is worst whole, and least bad where least of it is taken."""
    dls = MedDataLoaders.from_table(scan(data), size=64, bs=8, split="stratified", cache=False)
    learn = med_learner(dls, "efficientnet_lite0", pooling="gem")
    learn.fit_head(progress=False)

    def ruin(inner):
        assert inner.pooling == "gem" and inner.is_probe
        for value in inner.model.parameters():
            value.data.mul_(1.3)

    def leave(inner):
        assert inner.is_probe

    options = {"size": 64, "bs": 8, "cache": False}
    make = partial(med_learner, arch="efficientnet_lite0")
    share, worse = try_tuning(learn, options, make, ruin)
    assert share == min(BLENDS) and worse.after > worse.before and not worse.helps
    share, same = try_tuning(learn, options, make, leave)
    assert share == 1 and same.after == pytest.approx(same.before) and not same.helps


def test_a_network_with_a_class_token_is_tried_as_it_is(data):
    make = partial(med_learner, arch="timm/vit_tiny_patch16_224?depth=1", weights=None, linear_probe=True)
    options = {"size": 32, "bs": 8, "cache": False}
    learn = make(MedDataLoaders.from_table(scan(data), split="stratified", **options))
    learn.fit_head(progress=False)
    assert not trials.has_map(learn)
    config, outline = TrainConfig("d", "o", **SMALL), plans.Outline(None, why_not="too few")
    chosen, candidates = trying.decide(config, outline, learn, options, make, lambda line: None)
    assert chosen.pooling is None and "no feature map" in plans.sentence_of(candidates)
    share, trial = try_tuning(learn, options, make, lambda inner: None)
    assert share == 1 and trial.after == pytest.approx(trial.before)


@pytest.mark.parametrize(("after", "high", "times"), [(0.4, 0.1, 3), (0.4, -0.01, 1), (0.6, 0.3, 1)])
def test_what_is_better_but_not_surely_is_tried_again_on_other_images(data, monkeypatch, after, high, times):
    dls = MedDataLoaders.from_table(scan(data), size=32, bs=8, split="stratified", cache=False)
    learn = med_learner(dls, "efficientnet_lite0")
    learn.fit_head(progress=False)
    monkeypatch.setattr(trials, "compared", lambda y, *_: Trial(len(y), 0.5, after, 0.9, 0.9, -0.3, high))
    seen = []

    def look(inner):
        seen.append({*inner.dls.valid.dataset.items})
        assert not seen[-1] & {*learn.dls.valid.dataset.items}

    make = partial(med_learner, arch="efficientnet_lite0")
    _, trial = try_tuning(learn, {"size": 32, "bs": 8, "cache": False}, make, look)
    assert len(seen) == times and len(set().union(*seen)) == sum(map(len, seen))
    assert trial.n == sum(map(len, seen)) == pytest.approx(len(learn.dls.train_ds) * times / 3, abs=2)


def test_an_unknown_label_is_neither_right_nor_wrong():
    y = np.array([[1, -1], [0, -1], [1, 0], [-1, -1]])
    probs = np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.6], [0.5, 0.5]])  # right: 1 of 1, 0 of 1, 1 of 2; none is known
    trial = compared(y, probs, probs, True)
    assert trial.n == 3 and trial.right_before == trial.right_after == pytest.approx(0.5)


def test_images_of_a_patient_count_as_one():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(8), 50)
    y = np.zeros(400, int)
    gain = np.repeat(rng.normal(0.05, 0.1, 8), 50)
    before = np.stack([np.full(400, 0.6), np.full(400, 0.4)], axis=1)
    after = np.stack([0.6 + gain, 0.4 - gain], axis=1)
    alone, together = compared(y, before, after, False), compared(y, before, after, False, patients)
    losses = pd.Series(-np.log(after[:, 0]) + np.log(0.6)).groupby(patients).mean()
    assert together.high - together.low > 3 * (alone.high - alone.low)
    half = 1.415 * losses.std(ddof=1) / np.sqrt(8)  # Student's quantile, 7 degrees of freedom
    assert (together.high - together.low) / 2 == pytest.approx(half, rel=0.01)


def test_a_large_set_is_tried_on_a_part_of_whole_patients():
    n = range(10_000)
    table = pd.DataFrame({"path": [f"{i}.png" for i in n], "patient": [str(i // 10) for i in n]})
    part = _part(table)
    assert 0.99 * MOST <= len(part) <= MOST
    assert (part["patient"].value_counts() == 10).all()
    assert part.equals(_part(table.sample(frac=1, random_state=0)).sort_index())


def test_what_came_out_is_said():
    worse = Trial(80, 0.3, 0.5, 0.96, 0.92, 0.1, 0.3).sentence("fine-tuning", "the linear probe")
    assert worse.startswith("fine-tuning did not help: 96 % before, 92 % after")
    assert worse.endswith("kept the linear probe")
    better = Trial(80, 0.5, 0.3, 0.9, 0.95, -0.3, -0.1).sentence("fine-tuning", "the linear probe")
    assert better.startswith("fine-tuning helped: 90 % before, 95 % after") and "kept" not in better


def test_a_plan_file_is_read_and_what_it_does_not_know_refused(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"format": 1, "chosen": {"epochs": 3, "lr": 1e-3, "size": 96, "first_sizes": [64]}}))
    config = planned(TrainConfig("d", "o", plan=str(file)))
    assert (config.way, config.epochs, config.lr, config.size, config.first_sizes) == ("tune", 3, 1e-3, 96, (64,))
    for wrong, said in [
        ({"format": 1, "chosn": {}}, "did you mean 'chosen'?"),
        ({"format": 1, "chosen": {"epoch": 3}}, "did you mean 'epochs'?"),
        ({"format": 1, "chosen": {"epochs": -3}}, "epochs must be 0 or more, not -3\nsee help(medclf.TrainConfig)"),
        ({"format": 1, "chosen": {"epochs": None}}, "epochs must be a whole number"),
        ({"format": 1, "chosen": {"epochs": 2, "first_sizes": 64}}, "first_sizes must be a list, not 64"),
        ({"format": 1, "chosen": {"epochs": 0, "train_from": "layer4"}}, "there are no epochs of it"),
        ({"format": 1, "chosen": {"epochs": 0, "blend": 0.5}}, "blend is for fine-tuning"),
        ({"format": 1, "chosen": {"epochs": 2, "blend": 1.5}}, "blend must be 1 or less"),
        ({"format": 1, "chosen": {"epochs": 2, "pooling": "max"}}, "pooling must be mean, gem or stages"),
        ({"format": 1, "chosen": {"epochs": 2, "linked_by": True}}, "linked_by must be mean, gem, stages or null"),
        ({"format": 2}, "format 2"),
        ({"format": 1}, "does not say what was chosen"),
        ({"chosen": {"epochs": 3}}, 'write "format": 1 into it'),
    ]:
        file.write_text(json.dumps(wrong))
        with pytest.raises(DataError) as error:
            planned(TrainConfig("d", "o", plan=str(file)))
        assert said in str(error.value)
    with pytest.raises(DataError, match="decides about epochs"):
        TrainConfig("d", "o", plan=str(file), epochs=3)


@pytest.mark.parametrize("name", ["data", "from_run", "corrections", "test"])
def test_what_a_training_reads_is_not_emptied_before(tmp_path, name):
    """--from RUN --out RUN --overwrite emptied RUN, and had no weights then."""
    run = tmp_path / "RUN"
    (run / "inside").mkdir(parents=True)
    (run / "run.json").write_text('{"format": 1, "settings": {"data": "d", "out": "o"}}')
    given = {"data": str(tmp_path), name: str(run if name == "from_run" else run / "inside")}
    with pytest.raises(OutputError) as error:
        train(TrainConfig(**given, out=str(run), overwrite=True), print)
    assert f"{name}: {given[name]} is in {run}, which overwrite=True empties first" in str(error.value)
    assert (run / "inside").is_dir()


def test_what_a_plan_leaves_open_is_as_given_and_what_it_has_is_not_overruled_silently(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"format": 1, "chosen": {"epochs": 3}}))
    config = planned(TrainConfig("d", "o", plan=str(file), size=96, views=1))
    assert (config.epochs, config.size, config.views) == (3, 96, 1)
    file.write_text(json.dumps({"format": 1, "chosen": {"epochs": 3, "size": 64}}))
    assert planned(TrainConfig("d", "o", plan=str(file))).size == 64
    with pytest.raises(DataError, match="which has 64"):
        planned(TrainConfig("d", "o", plan=str(file), size=96))


@pytest.mark.parametrize("folds", [5, {"0": 5}, {"0": {"chosen": 3}}, None])
def test_folds_that_say_nothing_decide_nothing(folds):
    assert chosen_in({"format": 1, "folds": folds}, "plan.json", 0) is None


def test_the_fingerprint_counts_what_is_there():
    table = pd.DataFrame(
        {
            "path": list("abcdef"),
            "label": ["x", "x", "x", "y", None, "y"],
            "patient": ["1", "1", "2", "3", "4", "5"],
            "problem": ["", "", "", "", "", "broken"],
            "partition": "train",
            "width": [10, 20, 30, 40, 50, 60],
            "height": 9,
        }
    )
    found = fingerprint_of(table, TrainConfig("d", "o", modality="ct"))
    assert found["images"] == 4 and found["labels"] == {"x": 3, "y": 1} and found["imbalance"] == 3
    assert found["groups"] == {"of": "patients", "n": 3} and found["median_size"] == {"width": 25, "height": 9}
    assert found["modality"] == "ct"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_endoscopy(tmp_path_factory.mktemp("drawn"), n_per_class=15, size=(72, 64))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.slow
def test_few_images_get_the_probe_alone(data, tmp_path):
    said = []
    run = train(TrainConfig(str(data), str(tmp_path / "RUN"), **SMALL), said.append)
    assert any("too few to tell whether fine-tuning helps" in line for line in said)
    plan, record = read_plan(run), read_record(run)
    assert plan["chosen"]["epochs"] == 0 and record["settings"]["epochs"] == 0 and record["settings"]["recipe"] is None
    assert plan["data"]["images"] == 60 and json.loads((run / "results.json").read_text())["plan"]["sentence"]


@pytest.mark.slow
def test_fine_tuning_is_tried_on_training_images_alone_and_the_record_repeats_it(tmp_path, monkeypatch):
    data = draw_endoscopy(tmp_path / "drawn", n_per_class=8, size=(72, 64))
    monkeypatch.setattr(plans, "FEWEST", 10)
    seen = []
    tried = trying.try_tuning

    def looked_at(learn, loaders, make, tune, **more):
        def noted(dls):
            seen.append(({*dls.train.dataset.items, *dls.valid.dataset.items}, {*learn.dls.valid.dataset.items}))
            return make(dls)

        return tried(learn, loaders, noted, tune, **more)

    monkeypatch.setattr(trying, "try_tuning", looked_at)
    said = []
    run = train(TrainConfig(str(data), str(tmp_path / "RUN"), modality="endoscopy", budget=5, **SMALL), said.append)
    assert seen and not any(inside & reported for inside, reported in seen)
    assert any(line.startswith("fine-tuning ") for line in said) and any("at most about" in line for line in said)
    plan, record = read_plan(run), read_record(run)
    names = [one["name"] for one in plan["candidates"]]
    assert names[0] == "linear probe" and any("augmented" in name for name in names) and "fine-tuning" in names[-1]
    assert sum(one["chosen"] for one in plan["candidates"]) == 1
    assert record["settings"]["epochs"] == plan["chosen"]["epochs"] and record["settings"]["budget"] is None
    for name in ("lr", "blend", "pooling"):
        assert record["settings"][name] == plan["chosen"][name]
    again = settings_in(record, out=str(tmp_path / "b"))
    assert again.way == ("tune" if plan["chosen"]["epochs"] else "probe")
    assert Chosen.from_dict(plan["chosen"], "").applied(again) == again


@pytest.mark.slow
def test_a_run_begins_with_the_network_of_an_earlier_one(data, tmp_path):
    first = train(TrainConfig(str(data), str(tmp_path / "a"), epochs=1, **SMALL), lambda _: None)
    said = []
    options = {name: value for name, value in SMALL.items() if name != "size"}
    second = train(TrainConfig(str(data), str(tmp_path / "b"), epochs=0, from_run=str(first), **options), said.append)
    from medclf.inference.bundle import load_bundle

    bodies = [load_bundle(run / "bundle").network[0].state_dict() for run in (first, second)]
    assert all((bodies[0][name] == bodies[1][name]).all() for name in bodies[0])
    assert load_bundle(second / "bundle").preprocessing.size == (64, 64)
    with pytest.raises(DataError, match="which has 64"):
        train(TrainConfig(str(data), str(tmp_path / "c"), epochs=0, from_run=str(first), size=96), lambda _: None)


@pytest.mark.slow
def test_pooling_and_blend_reach_the_network_and_the_record_and_are_refused_where_they_mean_nothing(data, tmp_path):
    from medclf.inference.bundle import load_bundle

    how = {"pooling": "gem", "blend": 0.5, "epochs": 1, **SMALL}
    run = train(TrainConfig(str(data), str(tmp_path / "a"), **how), lambda _: None)
    bundle = load_bundle(run / "bundle")
    assert str(bundle.runnable.pool) == "GeMPool(p=3)" and read_record(run)["settings"]["blend"] == 0.5
    rows = pd.read_csv(run / "predictions.csv")
    answers = bundle.predict([data / path for path in rows["path"]])
    probs = np.array([list(answer.probs.values()) for answer in answers])
    assert np.abs(probs - rows[[f"prob_{name}" for name in bundle.vocab]].to_numpy()).max() < 1e-3
    after = train(TrainConfig(str(data), str(tmp_path / "b"), epochs=0, from_run=str(run)), lambda _: None)
    assert read_record(after)["settings"]["pooling"] == "gem"
    with pytest.raises(DataError, match="blend"):
        train(TrainConfig(str(data), str(tmp_path / "c"), weights=None, blend=0.5, **SMALL), lambda _: None)


@pytest.mark.slow
def test_all_stages_reach_the_bundle_and_another_training_goes_on_from_there(data, tmp_path):
    from medclf.inference.bundle import load_bundle

    how = {"pooling": "stages", "epochs": 0, **SMALL}
    run = train(TrainConfig(str(data), str(tmp_path / "a"), **how), lambda _: None)
    bundle, rows = load_bundle(run / "bundle"), pd.read_csv(run / "predictions.csv")
    assert bundle.spec.all_stages
    probs = np.array([list(one.probs.values()) for one in bundle.predict([data / path for path in rows["path"]])])
    assert np.abs(probs - rows[[f"prob_{name}" for name in bundle.vocab]].to_numpy()).max() < 1e-3
    after = train(TrainConfig(str(data), str(tmp_path / "b"), epochs=1, from_run=str(run)), lambda _: None)
    assert read_record(after)["settings"]["pooling"] == "stages"
    assert load_bundle(after / "bundle").spec.all_stages


def test_the_plan_takes_all_stages_where_they_tell_more_and_near_duplicates_stay_together(data, tmp_path):
    """Classes that differ by one brightness, which the last stage need not keep; each image is there twice."""
    rng = np.random.default_rng(0)
    for number in range(80):
        folder = tmp_path / "DATA" / ("light", "dark")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (64, 64, 3)) + 25 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}-again.png")
    dls = MedDataLoaders.from_table(scan(tmp_path / "DATA"), size=64, bs=8, split="stratified", cache=False)
    learn = med_learner(dls, "efficientnet_lite0")
    learn.fit_head(progress=False)
    assert learn.groups() is None
    config, outline, said = TrainConfig("d", "o", **SMALL | {"audit": True}), plans.Outline(None, why_not="too few"), []
    chosen, candidates = trying.decide(config, outline, learn, {}, partial(med_learner, arch="x"), said.append)
    groups = learn.groups()
    assert groups is not None and len(np.unique(groups)) < len(groups)
    names = [row["name"] for row in candidates if row["chosen"]]
    assert said[0].endswith("are near-duplicates of others: folds of the training set keep them together")
    assert chosen.pooling == learn.pooling == "stages", said
    assert names[-1] == "linear probe on all stages"
    assert "all stages are better" in plans.sentence_of(candidates)
    again = chosen.applied(config)  # as run.json has it: the same folds choose the same head
    repeated = med_learner(
        MedDataLoaders.from_table(scan(tmp_path / "DATA"), size=64, bs=8, split="stratified", cache=False),
        "efficientnet_lite0",
        pooling=again.pooling,
    )
    trying.fit_probe(repeated, TrainConfig.from_dict(json.loads(json.dumps(again.as_dict()))), said.append)
    assert (repeated.groups() == groups).all() and repeated.is_probe
    assert (repeated.head.held_out == learn.head.held_out).all()


def test_that_the_features_tell_little_is_said_once(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "DATA" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    dls = MedDataLoaders.from_table(scan(tmp_path / "DATA"), size=64, bs=8, split="stratified", cache=False)
    learn = med_learner(dls, "efficientnet_lite0")
    with pytest.warns(MedclfWarning, match=UNTOLD):
        learn.fit_head(progress=False)
    outline = plans.Outline(None, why_not="too few")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", f".* {UNTOLD} ", MedclfWarning)
        trying.decide(TrainConfig("d", "o", **SMALL), outline, learn, {}, partial(med_learner, arch="x"), print)
        with pytest.raises(MedclfWarning, match=UNTOLD):  # what a user fits is told of as before
            learn.fit_head(progress=False)


def run_of(folder, trained, **settings):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": 2, "settings": settings}))
    rows = [f"{digest}.png,{digest},{'train' if digest in trained else 'valid'}" for digest in "abcdef"]
    (folder / "table.csv").write_text("\n".join(["path,sha256,partition", *rows, ""]))
    return str(folder)


def test_a_bundle_alone_does_not_say_what_it_was_trained_on(tmp_path):
    (tmp_path / WEIGHTS).write_bytes(b"")
    with pytest.raises(DataError, match=r"from_run: .* is a bundle, which does not say"):
        started_from(TrainConfig("d", "o", from_run=str(tmp_path)))


def test_what_an_earlier_run_was_trained_on_is_no_measure_of_one_that_goes_on_from_it(tmp_path):
    """By another split or folder, its training images may be validated on here; and its network knows their labels."""
    first = run_of(tmp_path / "first", "ab")
    second = run_of(tmp_path / "second", "c", from_run=first)
    (tmp_path / "first" / "run.json").write_text(json.dumps({"format": 2, "settings": {"from_run": second}}))  # anew
    table = pd.DataFrame({"path": list("uvwxyz"), "sha256": list("abcdef"), "problem": "", "label": list("pqpqpq")})
    said, config = [], TrainConfig("d", "o", from_run=second)
    known = trainings._trained_before(config, table, said.append)
    assert known["trained_before"].tolist() == [True] * 3 + [False] * 3 and "3 of 6 images" in said[0]
    assert as_table(json.loads(json.dumps(for_followers(known.reindex(columns=[*COLUMNS, "trained_before"])))))[
        "trained_before"
    ].any()
    with pytest.raises(DataError, match=r'split="kfold" reports each image, and .*second was trained on 3 of 6'):
        trainings._trained_before(TrainConfig("d", "o", from_run=second, split="kfold"), table, print)
    valid = known.assign(partition="valid", patient=None)
    shown = Predictions(["p", "q"], False, np.zeros(6, int), np.full((6, 2), 0.5), np.zeros(6), valid[["path"]])
    assert seen_in_training(shown, valid, None)[0].tolist() == [True] * 3 + [False] * 3
    leak = _leak_free(shown.subset(np.arange(6) < 4), valid, None, {"partition": "valid"})["leak_free"]["sentence"]
    assert "3 of the 4 validation images" in leak and "3 images that the network was trained on" in leak
    learn = SimpleNamespace(dls=SimpleNamespace(vocab=["p", "q"], train_ds=None), seed=3)
    assert (trials._parts(known, learn) < 0).tolist() == [True] * 3 + [False] * 3
    with pytest.raises(SplitError, match="trained on before"):
        trials._parts(known.assign(trained_before=True), learn)


def test_images_that_a_plan_was_chosen_on_and_that_are_reported_now_are_said(tmp_path):
    """The plan of folds was chosen on all images; that of one split, on some that another split reports."""
    earlier = run_of(tmp_path / "earlier", "abcd")
    (tmp_path / "earlier" / "plan.json").write_text(json.dumps({"format": 1, "chosen": {"epochs": 3}, "data": {}}))
    config = planned(TrainConfig("d", "o", plan=f"{earlier}/plan.json"))
    assert plans.planned_on(config) == plans.planned_on(planned(TrainConfig("d", "o", plan=earlier))) == set("abcd")
    repeat = settings_in({"settings": json.loads(json.dumps(config.as_dict()))}, seed=7)
    assert plans.planned_on(repeat) == set("abcd")
    table = pd.DataFrame({"path": list("uvwxyz"), "sha256": list("abcdef"), "problem": ["", "", "", "broken", "", ""]})
    table["partition"] = ["train", "train", "valid", "valid", "valid", "test"]
    told = partial(plans.reported_again, set("abcd"))
    assert "of which 1 are among the 3 that are reported here" in told(table, "random")
    assert "of which 3 are among the 5 that are reported here" in told(table, "kfold")
    assert told(table.assign(partition="train"), "random") == ""
    (tmp_path / "earlier" / "table.csv").unlink()
    assert "is not known" in plans.reported_again(plans.planned_on(config), table, "random")
    (tmp_path / "plan.json").write_text(json.dumps({"format": 1, "chosen": {"epochs": 3}}))  # written by hand
    assert plans.planned_on(planned(TrainConfig("d", "o", plan=str(tmp_path / "plan.json")))) == set()


def test_rare_classes_and_few_patients_are_parted_or_refused(data):
    names = [f"{label}/{name}.png" for label in ("normal", "polyp") for name in range(9)] + ["rare/0.png"]
    table = pd.DataFrame({"path": names, "label": [name.split("/")[0] for name in names], "problem": ""})
    dls = SimpleNamespace(vocab=["normal", "polyp", "rare"], train_ds=None)
    learn = SimpleNamespace(dls=dls, seed=3)
    parts = trials._parts(table, learn)
    assert sorted(np.bincount(parts)) == [6, 6, 7]
    assert {label: np.ptp(np.bincount(parts[table["label"] == label], minlength=3)) for label in dls.vocab[:2]} == {
        "normal": 0,
        "polyp": 0,
    }
    patients = table.assign(patient=[str(row % 5) for row in range(len(table))])
    assert all(
        len(set(part)) == 1 for _, part in pd.Series(trials._parts(patients, learn)).groupby(patients["patient"])
    )
    with pytest.raises(SplitError, match="3 patients or more are needed, and there are 2"):
        trials._parts(table.assign(patient=[str(row % 2) for row in range(len(table))]), learn)


def test_what_cannot_be_compared_is_not_trained(tmp_path):
    """Each patient has one label, so the images held out are one patient's."""
    folder = draw_endoscopy(tmp_path / "drawn", n_per_class=4, size=(72, 64))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    names = [name for name in names if name.startswith(("normal", "polyp", "dyed"))]
    table = pd.DataFrame({"path": names, "label": [name.split("/")[0] for name in names]})
    table.assign(patient=table["label"]).to_csv(folder / "labels.csv", index=False)
    options = {"size": 64, "bs": 8, "split": "random", "cache": False}
    dls = MedDataLoaders.from_table(scan(folder, labels=str(folder / "labels.csv"), patient_col="patient"), **options)
    learn = med_learner(dls, "efficientnet_lite0")
    learn.fit_head()
    trained = []
    with pytest.raises(DataError, match="one patient"):
        try_tuning(learn, options, lambda inner: med_learner(inner, "efficientnet_lite0"), trained.append)
    assert not trained


def test_a_setting_that_is_named_counts_where_it_has_its_usual_value(tmp_path, make_images):
    """Of `--size 224` beside a plan of 128 pixels nothing was said; nor of `--arch resnet34` beside another RUN."""
    make_images("a/1.png", "b/2.png")
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": 1, "chosen": {"epochs": 3, "size": 128}}))
    assert planned(TrainConfig("d", "o", plan=str(plan))).size == 128
    with pytest.raises(DataError, match=r"size=224 does not go with .* which has 128"):
        train(tmp_path, lambda _: None, out=tmp_path / "RUN", plan=str(plan), size=224)
    ran = CliRunner().invoke(
        app, ["train", str(tmp_path), "--out", str(tmp_path / "R"), "--plan", str(plan), "--size", "224"]
    )
    assert isinstance(ran.exception, DataError) and "which has 128" in str(ran.exception)
    earlier = tmp_path / "earlier"
    (earlier / "bundle").mkdir(parents=True)
    (earlier / "bundle/weights.safetensors").touch()
    (earlier / "run.json").write_text(json.dumps({"format": 2, "settings": {"arch": "resnet18", "size": 64}}))
    config = TrainConfig("d", "o", from_run=str(earlier))
    assert started_from(config).arch == "resnet18"
    for name, said in (("arch", "which has resnet18"), ("weights", "both say what to start from")):
        with pytest.raises(DataError, match=said):
            started_from(config, {name})
