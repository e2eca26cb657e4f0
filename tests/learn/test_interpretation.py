"""One pass, and everything from it: against fastai's own interpretation and values worked out by hand."""

import json

import numpy as np
import pytest
import torch
from fastai.interpret import ClassificationInterpretation
from PIL import Image

from medclf.errors import DataError
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.presets import show_augmentations
from medclf.models.saliency import grad_cam, occlusion
from medclf.reporting.report import report
from medclf.results.maps import ACTUAL


@pytest.fixture(scope="module")
def learn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (folder / label).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / label / f"{label}{i}.png")
    torch.manual_seed(0)
    dls = MedDataLoaders.from_folder(folder, size=96, valid_pct=0.5, seed=1, bs=4)
    learn = med_learner(dls, "resnet18", weights=None)
    with torch.no_grad():
        learn.model[1][-1].weight.mul_(20)  # untrained, but not undecided
    return learn


@pytest.fixture(scope="module")
def interp(learn):
    with learn.no_bar():
        return MedInterpretation.from_learner(learn)


def test_agrees_with_fastai(learn, interp):
    with learn.no_bar():
        peer = ClassificationInterpretation.from_learner(learn)
        matrix, confused = peer.confusion_matrix(), peer.most_confused()
    assert isinstance(interp, ClassificationInterpretation)
    assert np.array_equal(interp.confusion_matrix(), matrix)
    assert {(a, b, int(n)) for a, b, n in confused} == set(interp.most_confused())
    assert torch.allclose(interp.losses.float(), peer.losses.as_subclass(torch.Tensor).float(), atol=1e-5)
    ours, theirs = interp.top_losses(5), peer.top_losses(5)
    assert torch.equal(interp.top_losses(10_000)[1], interp.top_losses()[1])
    with pytest.raises(DataError, match="k must be 1 or more"):
        interp.top_losses(0)
    assert ours[1].tolist() == theirs[1].tolist()


def test_predicts_once(learn, interp, monkeypatch):
    monkeypatch.setattr(learn, "get_preds", None)
    interp.confusion_matrix()
    interp.plot_confusion_matrix()
    interp.most_confused()
    interp.print_classification_report()
    interp.plot_top_losses(3)
    interp.plot_roc()
    interp.metrics(n_boot=10)
    assert len(interp.to_frame()) == 15


def test_the_table_has_every_image_and_probability(interp):
    frame = interp.to_frame()
    assert {"path", "partition", "label", "pred", "loss", "prob_a", "prob_b", "prob_c"} <= set(frame)
    assert np.allclose(frame[["prob_a", "prob_b", "prob_c"]].sum(axis=1), 1, atol=1e-5)
    wanted = [-np.log(row[f"prob_{row['label']}"]) for _, row in frame.iterrows()]
    assert np.allclose(frame["loss"], wanted, atol=1e-4)
    assert all(row["path"].startswith(row["label"]) for _, row in frame.iterrows())


def test_top_losses_show_both_probabilities(interp):
    axes = np.ravel(interp.plot_top_losses(1))
    worst = interp.to_frame().sort_values("loss").iloc[-1]
    title = axes[0].get_title()
    assert worst["path"].rpartition("/")[2] in title
    assert f"actual {worst['label']} ({worst['prob_' + worst['label']]:.0%})" in title
    assert f"predicted {worst['pred']} ({worst['prob_' + worst['pred']]:.0%})" in title


def test_other_images(learn):
    paths = list(learn.dls.train.items)[:4]
    with learn.no_bar():
        interp = MedInterpretation.from_learner(learn, dl=learn.dls.test_dl(paths, with_labels=True))
        unlabelled = MedInterpretation.from_learner(learn, dl=learn.dls.test_dl(paths))
    assert interp.confusion_matrix().sum() == 4
    assert unlabelled.confusion_matrix().sum() == 0 and unlabelled.to_frame()["label"].tolist() == [""] * 4


def test_facts_say_how_many_and_how_split(interp):
    facts = interp.facts(n_boot=20)
    assert facts["n"] == 15 and facts["data"]["n_images"] == 30
    assert facts["data"]["images"] == {"train": 15, "valid": 15}
    assert facts["accuracy"]["n"] == 15
    assert "No patient IDs were given" in facts["data"]["split"]["sentence"]
    assert facts["settings"]["arch"] == "resnet18"


def test_saved_predictions_come_back(interp, tmp_path):
    from medclf.results.predictions import Predictions

    interp.predictions.save(tmp_path / "p.csv")
    again = Predictions.load(tmp_path / "p.csv", interp.vocab, False)
    assert np.array_equal(again.y, interp.predictions.y)
    assert np.allclose(again.probs, interp.predictions.probs)
    assert again.labels == interp.predictions.labels


def test_where_it_looked_is_the_same_from_learner_and_bundle(learn, interp, tmp_path):
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle"))
    path = learn.dls.path / interp.predictions.table["path"].iloc[0]
    for label in (None, "b"):
        heat = grad_cam(learn, path, label)
        assert heat.shape == (96, 96) and heat.max() <= 1 and heat.any()
        assert np.allclose(heat, bundle.saliency(path, label), atol=1e-3)
    assert np.allclose(bundle.saliency(path, "b"), bundle.saliency(bundle.prepare(path), "b"))
    covered = occlusion(learn, path, "b", patch=16, stride=16)
    assert covered.shape == (96, 96)
    assert len(np.unique(covered)) <= 36  # one value a patch
    with pytest.raises(DataError, match="unknown label 'd'"):
        grad_cam(learn, path, "d")


def test_saliency_of_the_worst_is_drawn_and_kept_for_the_report(learn, interp):
    drawn = interp.plot_saliency(3)
    titles = [axis.get_title() for axis in np.ravel(drawn) if axis.get_title()]
    assert len(titles) == 3 and all("looked at for" in title for title in titles)
    looked = interp.maps(limit=4)
    frame = interp.to_frame().sort_values("loss", ascending=False, kind="stable")
    wrong = frame[frame["label"] != frame["pred"]]
    worst = wrong["path"].tolist()[:4]
    assert list(looked) == [*worst, *(f"{ACTUAL}{path}" for path in worst)]
    assert all(uri.startswith("data:image/png;base64,") for uri in looked.values())


def test_a_report_of_it_can_show_the_most_similar_training_images(learn, interp, tmp_path):
    with learn.no_bar():
        near = interp.similar(k=3)
        page = report(interp, tmp_path / "report.html", neighbours=True, progress=False).read_text()
    train = {str(path.relative_to(learn.dls.path)) for path in learn.dls.train_ds.items}
    assert len(near) == 15 and all(len(found) == 3 and set(found) <= train for found in near)
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    shown = [data["outside"][-1 - link] for link in data["near"]["0"]]
    assert [name for name, _ in shown][:3] == near[0] and len(shown) == 5
    assert all(label == name.partition("/")[0] for name, label in shown)


def test_sets_and_numbers_of_images_that_are_not_there_are_named(learn, interp):
    with pytest.raises(DataError, match="ds_idx=2: the loaders have 2 sets"):
        MedInterpretation.from_learner(learn, ds_idx=2)
    with pytest.raises(DataError, match="1 or more, not 0"):
        interp.plot_top_losses(0)
    for ranks in ([99], [], slice(50, 60), "2", 2.5):
        with pytest.raises(DataError, match="chooses no ranks of the 15 images"):
            interp.plot_top_losses(ranks)
    assert len(interp.plot_top_losses(np.int64(2))) == 2


@pytest.mark.parametrize("call", [MedInterpretation.from_learner, MedDataLoaders.from_table, show_augmentations])
def test_another_thing_than_is_meant_is_named(call):
    with pytest.raises(DataError, match="not a Linear"):
        call(torch.nn.Linear(2, 2))
