"""The one road after the last epoch: what Python's users get by default is what the shell's training gives."""

import html
import json
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from fastai.vision.all import CategoryBlock, DataBlock, ImageDataLoaders, IndexSplitter, Resize, parent_label

from medclf.auditing.audit import audit
from medclf.auditing.decisions import DecisionPolicy
from medclf.config import TrainConfig
from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError, MedclfWarning
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.learn.assess import assess, assessment_of
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.outputs import repeats
from medclf.reporting.report import report
from medclf.run.train import train

SETTINGS = {"size": 64, "modality": "endoscopy", "split": "folders", "seed": 7, "bs": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two labels in train, valid and test; three training images stand in valid too, and one in test."""
    root, drawn = tmp_path_factory.mktemp("assess") / "data", tmp_path_factory.mktemp("drawn")
    os.environ["MEDCLF_CACHE"] = str(root.parent / "cache")
    draw_endoscopy(drawn, n_per_class=20, size=(96, 96))
    for label in ("dyed", "normal"):
        files = sorted((drawn / label).glob("*.jpg"))
        for partition, chosen in (("train", files[:13]), ("valid", files[13:18]), ("test", files[18:])):
            (root / partition / label).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, root / partition / label)
    for number, partition in enumerate(("valid", "valid", "valid", "test")):
        file = sorted((root / "train" / "dyed").iterdir())[number]
        shutil.copy(file, root / partition / "dyed" / f"copy_{file.name}")
    return root


def learner(data, **more):
    dls = MedDataLoaders.from_folder(data, **SETTINGS, cache=True, progress=False, **more)
    return med_learner(dls, "efficientnet_lite0", mixed_precision=False)


def quietly(learn, call):
    with learn.no_bar(), learn.no_logging():
        return call(learn)


@pytest.fixture(scope="module")
def probed(data):
    learn = learner(data)
    quietly(learn, lambda learn: learn.fine_tune(0))
    return learn


def untimed(results):
    """results.json without what a clock says."""
    del results["training"]["linear_probe"]["seconds"]
    return {key: value for key, value in results.items() if key != "seconds"}


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [0, 1])
def test_python_and_the_shell_give_the_same_results_and_the_same_bundle(data, tmp_path, epochs):
    settings = {**SETTINGS, "arch": "efficientnet_lite0", "epochs": epochs, "mixed_precision": False}
    run = train(TrainConfig(str(data), str(tmp_path / "RUN"), **settings), lambda line: None)
    torch.manual_seed(epochs)  # what was drawn before has no part in it
    learn = learner(data)
    quietly(learn, lambda learn: learn.fine_tune(epochs))
    drawn = torch.rand(3)
    torch.manual_seed(epochs)
    assert torch.equal(drawn, torch.rand(3))  # nor does it have a part in what is drawn later
    report(quietly(learn, MedInterpretation.from_learner), tmp_path / "python" / "report.html", progress=False)
    save_bundle(learn, tmp_path / "python" / "bundle")
    shell, python = (json.loads((folder / "results.json").read_text()) for folder in (run, tmp_path / "python"))
    assert untimed(shell) == untimed(python)
    assert load_bundle(tmp_path / "python" / "bundle").hash == load_bundle(run / "bundle").hash
    pages = [(folder / "report.html").read_text() for folder in (run, tmp_path / "python")]
    assert pages[0].count("<h2") == pages[1].count("<h2") > 8


def test_by_default_a_bundle_is_guarded_and_a_report_checks_for_leaks(probed, tmp_path):
    page = report(quietly(probed, MedInterpretation.from_learner), tmp_path / "report.html", progress=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["leak_free"]["n_leaking"] == results["audit"]["leaks"]["valid"]["with_twin_in_train"] == 3
    assert results["test"]["leak_free"]["n_leaking"] == 1
    assert {"calibration", "abstain", "ood", "operating_point", "saliency"} <= set(results)
    assert results["leak_free"]["sentence"] in html.unescape(page.read_text())
    bundle = load_bundle(save_bundle(probed, tmp_path / "a.bundle"))
    assert {"temperature", "abstain", "ood"} <= set(bundle.calibration) and results["leak_free"][
        "sentence"
    ] in bundle.card["evaluated"]
    assert load_bundle(save_bundle(probed, tmp_path / "b.bundle", calibration={})).calibration == {}


def test_the_assessment_is_made_once_until_the_network_changes(probed, monkeypatch):
    first = assessment_of(probed)
    assert assessment_of(probed) is first is probed.assessed()
    with torch.no_grad():
        next(iter(probed.model.parameters())).mul_(1.0)
    assert assessment_of(probed) is not first


def test_parts_can_be_left_out_and_decisions_asked_for(probed, tmp_path):
    policy = DecisionPolicy(rule="sensitivity=0.9", positive="dyed")
    found = assess(probed, audit=False, saliency=0, policy=policy)
    assert "audit" not in found.results and not found.saliency and "leak_free" not in found.results
    bundle = load_bundle(save_bundle(probed, tmp_path / "a.bundle"))
    assert bundle.calibration["operating_point"]["label"] == "dyed"
    with pytest.raises(DataError, match="cancer"):
        assess(probed, saliency=0, policy=DecisionPolicy(positive="cancer"))


def test_other_images_are_reported_at_the_limits_of_the_validation_images(probed, tmp_path):
    assess(probed, saliency=0)
    interp = quietly(probed, lambda learn: MedInterpretation.from_learner(learn, ds_idx=0))
    report(interp, tmp_path / "report.html", progress=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["partition"] == "train" and results["n"] == 26
    assert "was fitted during training" in results["calibration"]["sentence"] and "leak_free" not in results


def test_without_a_table_it_is_said_that_nothing_was_checked(data, tmp_path):
    dls = ImageDataLoaders.from_folder(data, item_tfms=Resize(64), bs=8, num_workers=0)
    learn = med_learner(dls, "efficientnet_lite0", weights=None, mixed_precision=False)
    with pytest.warns(MedclfWarning, match="were not checked for near-duplicates"):
        found = quietly(learn, lambda learn: assess(learn, saliency=0))
    assert found.audit is None and found.calibration.ood is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        assess(learn, audit=False, saliency=0)


def test_without_a_table_repeats_are_counted(data):
    files = sorted(data.rglob("*.jpg"))[::5]
    block = DataBlock(
        (MedImageBlock, CategoryBlock), get_y=parent_label, splitter=IndexSplitter([0, 1, 2]), item_tfms=Resize(32)
    )
    n = len(files)
    dls = block.dataloaders([*files, *files[:2], *files[3:6]], bs=4, num_workers=0, device="cpu")
    assert repeats(dls) == [
        "2 of 3 validation images are training images too: scores on them measure memory",
        f"3 of {n + 5} images are given again within the training or validation set",
    ]
    learn = med_learner(dls, "timm/test_efficientnet", weights=None, mixed_precision=False)
    with pytest.warns(MedclfWarning, match="2 of 3 validation images are training images too"):
        quietly(learn, lambda learn: assess(learn, saliency=0))


def test_a_class_of_too_few_images_for_folds_has_a_report_all_the_same(data, tmp_path):
    """Nothing is held out of a fit without folds: there are no out-of-fold predictions to keep."""
    few = tmp_path / "few"
    for partition, label, number in (("train", "dyed", 6), ("train", "normal", 1), ("valid", "dyed", 3)):
        (few / partition / label).mkdir(parents=True)
        for file in sorted((data / partition / label).iterdir())[:number]:
            shutil.copy(file, few / partition / label)
    settings = {**SETTINGS, "arch": "efficientnet_lite0", "epochs": 0, "mixed_precision": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)
        run = train(TrainConfig(str(few), str(tmp_path / "RUN"), **settings), lambda line: None)
    assert not (run / "out_of_fold.csv").exists() and (run / "report.html").is_file()


def test_another_call_of_fine_tune_draws_other_numbers(data):
    seen = []
    learn = learner(data)
    learn.fit_one_cycle = lambda *args, **kwargs: seen.append(torch.rand(1).item() + np.random.rand())
    for _ in range(2):
        quietly(learn, lambda learn: learn.fine_tune(1))
    again = learner(data)
    again.fit_one_cycle = learn.fit_one_cycle
    quietly(again, lambda learn: learn.fine_tune(1))
    assert seen[0] != seen[1] and seen[0] == seen[2]


def test_a_prevalence_reaches_whatever_says_a_probability_and_nothing_that_is_measured(data, probed, tmp_path):
    usual = assess(probed, audit=False, saliency=0)
    found = assess(probed, audit=False, saliency=0, policy=DecisionPolicy(prevalence=0.02))
    shift = found.calibration.shift
    assert (shift.label, shift.prevalence) == ("dyed", 0.02) and found.card[
        "probabilities"
    ] == f"for a prevalence of {shift}"
    for key in ("brier", "auroc"):
        assert found.results[key]["value"] == pytest.approx(usual.results[key]["value"])
        assert found.results["test"][key]["value"] == pytest.approx(usual.results["test"][key]["value"])
    assert found.results["label_errors"] == usual.results["label_errors"]
    folder = save_bundle(probed, tmp_path / "bundle", calibration=found.calibration)
    bundle, rows = load_bundle(folder), found.predictions
    answers = bundle.predict([data / path for path in rows.table["path"]])
    assert [list(answer.probs.values()) for answer in answers] == pytest.approx(rows.probs, abs=1e-4)
    assert [answer.label for answer in answers] == rows.preds
    part = (rows.table["partition"] == "train").to_numpy()
    assert not part.any() and found.out_of_fold.shift == shift
    assert found.out_of_fold.measured.probs == pytest.approx(usual.out_of_fold.probs, abs=1e-6)
    text = report(quietly(probed, MedInterpretation.from_learner), tmp_path / "p.html", progress=False).read_text()
    assert "for a prevalence of 2 % of dyed" in text.partition("<main")[0]


def test_an_audit_of_ones_own_is_held_against_the_images_by_name(data, probed):
    """Its rows were taken for the loaders' in order: in another order it said of other images that they leak."""
    table = probed.dls.table
    turned = table.iloc[::-1].reset_index(drop=True)
    turned.attrs = dict(table.attrs)
    settings = {"progress": False}
    found, wanted = (assess(probed, audit=audit(rows, **settings)) for rows in (turned, table))
    assert found.results["leak_free"]["n_leaking"] == wanted.results["leak_free"]["n_leaking"] == 3
    with pytest.raises(DataError, match="the audit is of other images: it lacks"):
        assess(probed, audit=audit(data / "test", **settings))
    for given, said in (({"audit": "yes"}, "audit is a str"), ({"policy": {}}, "policy is a dict")):
        with pytest.raises(DataError, match=said):
            assess(probed, **given)
    with pytest.raises(DataError, match="takes a learner, not a MedInterpretation"):
        assess(MedInterpretation.from_learner(probed))
