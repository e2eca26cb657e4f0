"""The learner is fastai's, normalises once, starts from a fitted head and trains."""

import math
import warnings

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, get_image_files, parent_label
from fastai.learner import Learner, Recorder, load_learner
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import accuracy_multi
from fastai.torch_core import TensorImage
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from PIL import Image

from medclf.auditing.decisions import DecisionPolicy
from medclf.errors import BundleError, DataError, MedclfError, MedclfWarning, WeightsError
from medclf.inference.bundle import save_bundle
from medclf.learn.assess import assess
from medclf.learn.callbacks import SaveBest
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.normalization import stats_for
from medclf.learn.prediction import predict_loader
from medclf.learn.presets import QuickNormalize
from medclf.models.pooling import GlobalPool


def test_it_is_a_fastai_learner(learn):
    assert isinstance(learn, Learner)
    assert [len(group) > 0 for group in learn.opt_func and learn.splitter(learn.model)].count(False) == 0


def test_exactly_one_normalize_on_each_loader(learn):
    for loader in learn.dls.loaders:
        assert sum(isinstance(tfm, Normalize) for tfm in loader.after_batch.fs) == 1
    again = med_learner(learn.dls, "efficientnet_lite0")
    assert sum(isinstance(tfm, Normalize) for tfm in again.dls.train.after_batch.fs) == 1


def test_a_normalize_of_other_numbers_is_refused(dls):
    dls.add_tfms([Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], cuda=False)], "after_batch")
    with pytest.raises(DataError, match="normalise"):
        med_learner(dls, "efficientnet_lite0")


def test_a_second_network_on_the_same_loaders_normalises_with_its_own_numbers(dls):
    first = med_learner(dls, "efficientnet_lite0", weights=None)
    before = first.dls.valid.one_batch()[0].clone()
    second = med_learner(dls, "resnet18", weights=None)
    other = second.dls.valid.one_batch()[0]
    back = (
        other * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    )
    assert torch.allclose(back, before * 0.5 + 0.5, atol=1e-5)
    assert torch.equal(first.dls.valid.one_batch()[0], before)
    assert second.dls.table is dls.table and second.dls.train.seed == dls.train.seed


def test_one_channel_is_normalised_too(folder):
    grey = MedDataLoaders.from_folder(folder, size=48, channels=1, bs=8)
    learn = med_learner(grey, "resnet18", weights=None)
    x, _ = learn.dls.valid.one_batch()
    assert x.shape[1] == 1
    mean, std = stats_for((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1)
    raw = np.asarray(Image.open(grey.valid.items[0]).convert("L").resize((48, 48), Image.Resampling.BILINEAR)) / 255
    assert np.abs(x[0, 0].numpy() - (raw - mean[0]) / std[0]).max() < 0.05


def test_the_body_is_frozen_until_it_is_unfrozen(learn):
    learn.create_opt()
    trainable = {name for name, p in learn.model.named_parameters() if p.requires_grad and "bn" not in name}
    assert trainable == {f"1.{name}" for name, _ in learn.model[1].named_parameters()} != set()
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.slow
def test_fine_tune_trains_everything_and_keeps_the_statistics(learn):
    learn.fit_head(progress=False)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
    after = learn.model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert any("conv_stem" in k for k in changed)
    assert not any("running_mean" in k for k in changed)
    with learn.no_bar():
        predict_loader(learn, learn.dls.valid)  # fastai's Recorder forgets the fit here
    assert [set(row) for row in learn.history] == [{"epoch", "train_loss", "valid_loss", "accuracy"}]


@pytest.mark.slow
def test_the_finished_weights_are_a_blend(learn):
    learn.fit_head(progress=False)
    start = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        torch.manual_seed(1)
        learn.fine_tune(1, blend=1.0)
        trained = {k: v.clone() for k, v in learn.model.state_dict().items()}
        for loader in learn.dls.loaders:
            loader.epoch = 0
        learn.model.load_state_dict(start)
        learn.opt, learn._tuned = None, 0  # the draws of the first call again
        torch.manual_seed(1)
        learn.fine_tune(1, blend=0.25)
    for name, value in learn.model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * start[name] + 0.25 * trained[name], atol=1e-5), name


def distance(first, second):
    return float(sum(((first[name] - second[name]) ** 2).sum() for name in first)) ** 0.5


def parameters(learn):
    return {name: value.detach().clone() for name, value in learn.model.named_parameters()}


@pytest.mark.parametrize("way", ["fine_tune", "fit_one_cycle", "load", "load_state_dict"])
def test_no_way_of_going_on_mixes_in_older_weights(small, tmp_path, way):
    """Steps of 1e-12 change next to nothing, however the weights came into the learner."""
    with small.no_bar(), small.no_logging():
        start = parameters(small)
        if way in ("fine_tune", "fit_one_cycle"):
            small.fine_tune(0)
            small.fine_tune(1, 1e-3) if way == "fine_tune" else small.fit_one_cycle(1, 1e-3)
        else:
            small.fit_one_cycle(1, 1e-3)
            small.path = tmp_path
            small.save("stage-1")
            state = {name: value.clone() for name, value in small.model.state_dict().items()}
            small = med_learner(small.dls, "resnet18", weights=None, linear_probe=True, mixed_precision=False)
            small.path = tmp_path
            small.load("stage-1") if way == "load" else small.model.load_state_dict(state)
        trained = parameters(small)
        assert not small.is_probe and not small.needs_probe
        with small.no_bar(), small.no_logging():
            small.fine_tune(1, base_lr=1e-12, blend=0.5)
        assert distance(parameters(small), trained) < 1e-3 * distance(start, trained)


@pytest.mark.parametrize("blend", [1.0, 0.5])
def test_the_last_row_is_of_the_network_that_comes_back(small, blend):
    with small.no_bar(), small.no_logging():
        small.fine_tune(2, slice(1e-3, 3e-3), blend=blend)
        assert small.history[-1]["valid_loss"] == pytest.approx(float(small.validate()[0]), rel=1e-3)
    assert small.tuning["lr"] == 3e-3


def test_a_fit_that_ends_early_says_that_nothing_was_averaged(small):
    stop = EarlyStoppingCallback(min_delta=100.0, patience=1)
    with small.no_bar(), small.no_logging(), pytest.warns(MedclfWarning, match=r"where blend=0\.5 averages"):
        small.fine_tune(3, 1e-3, blend=0.5, cbs=stop)
    assert len(small.history) == 2


@pytest.mark.parametrize("callback", ["SaveBest", "SaveModelCallback"])
def test_the_epoch_that_comes_back_is_named(small, tmp_path, callback):
    """A rate that ruins the network in the end: the best epoch is brought back, and its row is what it validates at."""
    small.path = tmp_path
    keep = SaveBest(tmp_path / "best.safetensors") if callback == "SaveBest" else SaveModelCallback()
    with small.no_bar(), small.no_logging():
        small.fit(3, 1e-4, cbs=keep)
        best = min(row["valid_loss"] for row in small.history)
        assert small.history[small.returned_epoch - 1]["valid_loss"] == best
        assert float(small.validate()[0]) == pytest.approx(best, rel=1e-3)


def test_a_fit_without_validation_images_or_recorder_is_as_fastai_s(small, folder, tmp_path):
    """Each ended in a traceback after its last epoch; the bundle of an exported learner in one of torch's."""
    block = DataBlock(
        (MedImageBlock(), CategoryBlock()),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=lambda items: (range(30), []),
        item_tfms=Resize(48),
    )
    dls = block.dataloaders(folder, bs=16, num_workers=0)
    learn = med_learner(dls, "efficientnet_lite0", weights=None)
    learn.path = tmp_path
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert math.isnan(learn.history[0]["valid_loss"]) and learn.history[0]["train_loss"] > 0
        learn.remove_cb(Recorder)
        learn.fit(1)
    assert not learn.history
    small.path = tmp_path
    small.export("small.pkl")
    for lacking in (learn, load_learner(tmp_path / "small.pkl")):
        with pytest.raises(BundleError, match="no validation images to assess"):
            save_bundle(lacking, tmp_path / "a.bundle")
    with pytest.raises(DataError, match="the loader holds no image: an exported learner has none"):
        lacking.fit_head()


def test_other_images_that_are_training_images_leak_and_other_labels_of_them_are_refused(small):
    """A report of training images, given as a test, said nothing; labels of a DataFrame were passed over."""
    rows = small.dls.table[small.dls.table["partition"] == "train"].head(6)[["path", "label"]].reset_index(drop=True)
    interp = MedInterpretation.from_learner(small, dl=small.dls.test_dl(rows, with_labels=True))
    results = small.assessed().of_others(small, interp.predictions, "test")[1]
    assert results["leak_free"]["n_leaking"] == 6
    assert "6 images that the network was trained on" in results["leak_free"]["sentence"]
    with pytest.raises(DataError, match="labels are not those of the loaders' table"):
        small.dls.test_dl(rows.assign(label="red"), with_labels=True)


def test_what_is_known_of_a_training_is_of_its_own_weights(small):
    """Weights put in by hand had the epochs and the tuning of those before told of them, in results.json too."""
    untrained = {name: value.clone() for name, value in small.model.state_dict().items()}
    with small.no_bar(), small.no_logging():
        small.fine_tune(1)
        trained = {name: value.clone() for name, value in small.model.state_dict().items()}
        assert len(small.history) == small.returned_epoch == small.tuning["epochs"] == 1
        small.model.load_state_dict(untrained)
        assert not small.history and small.returned_epoch is None and small.tuning is None
        small.model.load_state_dict(trained)
        assert len(small.history) == 1
        small.model.load_state_dict(untrained)
        small.lr_find(num_it=2, show_plot=False, suggest_funcs=())
        assert not small.history and small.tuning is None
        small.fit(1, 1e-4)
    assert len(small.history) == 1 and small.tuning is None


@pytest.mark.parametrize("way", ["fit", "probe"])
def test_images_learned_under_an_earlier_split_leak(small, folder, way):
    """Other loaders put into a trained learner validated on images that it had been trained on, without a word."""
    other = MedDataLoaders.from_folder(folder, size=48, split="stratified", seed=5, cache=True, bs=8)
    again = MedDataLoaders.from_folder(folder, size=64, split="stratified", seed=1, cache=True, bs=8)
    with small.no_bar(), small.no_logging():
        small.fit(1, 1e-4) if way == "fit" else small.fit_head(progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        small.dls = again  # the same split at another size
    learned = set(again.train.dataset.items) & set(other.valid.dataset.items)
    assert learned
    with pytest.warns(MedclfWarning, match=f"has learned from {len(learned)} of these"):
        small.dls = other
    found = assess(small, saliency=0).results["leak_free"]
    assert found["n_leaking"] >= len(learned) and f"{len(learned)} images that the network" in found["sentence"]
    assert "trained_before" not in other.table
    if way == "probe":
        small.fit_head(progress=False)  # of the head that was, nothing is left
        assert not small.has_learned(other.table).any()


@pytest.mark.slow
def test_fastais_own_ways_work(learn):
    with learn.no_bar(), learn.no_logging():
        assert learn.lr_find(num_it=6, show_plot=False, stop_div=False).valley > 0
        learn.fit_one_cycle(1, slice(1e-5, 1e-3))
        probs, targets = learn.tta(n=2)
    assert probs.shape == (6, 3) and len(targets) == 6
    label, index, probs = learn.predict(learn.dls.valid.items[0])
    assert label in learn.dls.vocab and probs[index] == probs.max()


@pytest.mark.slow
def test_without_linear_probe_it_is_fastais_fine_tune(dls):
    learn = med_learner(dls, "resnet18", weights=None, linear_probe=False)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
    assert learn.head is None and len(learn.recorder.values) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"balance": "losses"}, "balance must be none, loss"),
        ({"pooling": "max"}, "pooling must be mean, gem or stages"),
        ({"dropout": 1.5}, "dropout must be"),
        ({"loss_func": "categorical_crossentropy"}, "is a name"),
        ({"loss_func": CrossEntropyLossFlat}, "is a class"),
        ({"loss_func": torch.nn.BCEWithLogitsLoss()}, "no loss where an image has one label"),
        ({"loss_func": MSELossFlat()}, "no loss where an image has one label"),
        ({"metrics": accuracy_multi}, "accuracy_multi is no metric where an image has one label"),
        ({"n_in": 1}, "the loaders give images of 3 channels"),
        ({"opt_func": torch.optim.Adam}, "one of torch's optimisers"),
        ({"metrics": ["accuracy"]}, "is a name"),
        ({"arch": None}, "of the type NoneType"),
        ({"lin_ftrs": 64}, "lists widths"),
        ({"ps": 2.0}, "between 0 and 1"),
        ({"custom_head": torch.nn.Linear}, "is a module, and Linear is none"),
        ({"custom_head": torch.nn.Linear(7, 3)}, "does not take what its body gives"),
        ({"custom_head": torch.nn.Sequential(GlobalPool(), torch.nn.Linear(1280, 4))}, "gives 4 outputs for 3 labels"),
    ],
)
def test_what_a_learner_cannot_be_made_of_is_said_at_once(dls, asked, said):
    """Another word for a balance or a pooling was silently taken for one of them; the rest failed much later."""
    with pytest.raises(MedclfError, match=said) as refused:
        med_learner(dls, **{"arch": "efficientnet_lite0", "weights": None, **asked})
    assert refused.value.remedy or "must be" in str(refused.value)


def test_foreign_loaders_work(folder):
    from fastai.vision.augment import Resize
    from fastai.vision.data import ImageDataLoaders

    dls = ImageDataLoaders.from_folder(
        folder, valid_pct=0.2, seed=1, item_tfms=Resize(48), batch_tfms=aug_transforms(size=40), bs=8, num_workers=0
    )
    learn = med_learner(dls, "efficientnet_lite0")
    with learn.no_bar():
        learn.fine_tune(0)
        interp = MedInterpretation.from_learner(learn)
    assert interp.confusion_matrix().sum() == 6


def test_the_training_set_is_interpreted_whole_and_unaugmented(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path))
    dls = MedDataLoaders.from_folder(folder, size=48, modality="endoscopy", seed=1, bs=7)
    learn = med_learner(dls, "efficientnet_lite0")
    with learn.no_bar():
        learn.fit_head(progress=False)
        first, second = (MedInterpretation.from_learner(learn, ds_idx=0) for _ in range(2))
    assert list(first.predictions.table["path"]) == [p.relative_to(folder).as_posix() for p in dls.train.items]
    assert np.array_equal(first.predictions.probs, second.predictions.probs)
    assert set(first.predictions.table["partition"]) == {"train"}


def test_it_normalises_as_fastai_does_and_leaves_its_input():
    stats = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    quick, plain = QuickNormalize.from_stats(*stats, cuda=False), Normalize.from_stats(*stats, cuda=False)
    given = TensorImage(torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)))
    before = given.clone()
    found = quick(given)
    assert type(found) is TensorImage and torch.equal(found, plain(given)) and torch.equal(given, before)
    assert torch.allclose(quick.decode(found), before, atol=1e-6)


def test_loaders_of_fastai_with_a_device_by_name(folder):
    dls = ImageDataLoaders.from_folder(
        folder, valid_pct=0.25, item_tfms=Resize(32), bs=8, num_workers=0, device="cpu", seed=1
    )
    learn = med_learner(dls, "resnet18", weights="none", mixed_precision=False)
    assert learn.weights is None and learn.dls.device == torch.device("cpu")
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert learn.history


def mixing_for(learn, loss_func):
    learn.loss_func = loss_func
    return MixUp()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda learn: learn.fine_tune(-1), "epochs must be 0 or more, not -1"),
        (lambda learn: learn.fine_tune(1.5), "epochs must be a whole number"),
        (lambda learn: learn.fine_tune(1, -1e-3), "a learning rate must be 0 or more, not -0.001"),
        (lambda learn: learn.fit_one_cycle(1, float("nan")), "a learning rate must be 0 or more, not nan"),
        (lambda learn: learn.fit(1, "fast"), "a learning rate must be 0 or more, not 'fast'"),
        (lambda learn: learn.fit_flat_cos(1, slice(1e-3, None)), "a learning rate must be 0 or more, not None"),
        (lambda learn: learn.fine_tune(1, blend=2.0), "blend must be"),
        (lambda learn: learn.fine_tune(1, pct_stat=0.3), "fine_tune has no argument 'pct_stat'"),
        (lambda learn: learn.fit(1, cbs=SaveModelCallback(monitor="acuracy")), "no metric 'acuracy' is measured"),
        (lambda learn: learn.predict(["a.png"]), "one image, not a list"),
        (lambda learn: learn.fit(1, cbs=mixing_for(learn, torch.nn.CrossEntropyLoss())), "MixUp mixes labels"),
        (lambda learn: assess(learn, policy="youden"), "policy is a str"),
        (lambda learn: assess(learn, unit_answer="median"), "unit_answer must be"),
        (lambda learn: DecisionPolicy(decide="best"), "decide must be"),
        (lambda learn: assess(learn, audit=False, saliency=0, subgroups="sex"), "no column 'sex'"),
    ],
)
def test_what_a_learner_cannot_be_asked_for_is_said_before_anything_is_trained(small, call, said):
    """A negative number of epochs, or a blend above 1, was taken in silence; of a misspelt metric nothing was said."""
    learn = small
    before = [value.clone() for value in learn.model.parameters()]
    with pytest.raises(MedclfError, match=said):
        call(learn)
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters(), strict=True))


def test_fine_tune_takes_rates_by_group(small):
    learn = small
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1, [1e-5, 1e-3])
    assert learn.tuning["lr"] == 1e-3 and learn.opt.hypers[-1]["lr"] > learn.opt.hypers[0]["lr"]


def test_a_network_of_other_images_is_named_before_it_is_trained(small):
    grey = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(MedclfError, match="does not take the loaders' images of 3 channels and 32 x 32 pixels"):
        med_learner(small.dls, grey)


class Interrupted(Callback):
    """Ctrl-C in the second epoch."""

    def before_batch(self):
        if self.epoch == 1:
            raise KeyboardInterrupt


def test_a_training_that_is_broken_off_has_trained_as_well(small):
    """Its images were taken for unseen under another split, and the epochs of the fit before it were told of it."""
    train = set(small.dls.table.loc[small.dls.table["partition"] == "train", "sha256"])
    with small.no_bar(), small.no_logging():
        small.fit(2)
        first = [dict(row) for row in small.history]
        with pytest.raises(KeyboardInterrupt):
            small.fit(4, cbs=Interrupted())
        (row,) = small.history
        assert row["epoch"] == small.returned_epoch == 1 and row["train_loss"] != first[0]["train_loss"]
        small.lr_find(show_plot=False, num_it=3)
    assert [row] == list(small.history)
    other = med_learner(small.dls, "resnet18", weights=None, mixed_precision=False)
    with other.no_bar(), other.no_logging(), pytest.raises(KeyboardInterrupt):
        other.fit(4, cbs=Interrupted())
    turned = other.dls.table.assign(partition=other.dls.table["partition"].map({"train": "valid", "valid": "train"}))
    assert set(turned.loc[other.has_learned(turned), "sha256"]) == train


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss_func": torch.nn.NLLLoss()}, "NLLLoss is no loss where an image has one label"),
        ({"metrics": [accuracy_multi]}, "accuracy_multi is no metric where an image has one label"),
        ({"model": torch.nn.Linear(2, 2)}, "learn.model is of type Linear, and not the body and head"),
    ],
)
def test_what_is_put_into_a_learner_later_is_looked_at_as_well(small, change, said):
    for name, value in change.items():
        setattr(small, name, value)
    with pytest.raises(MedclfError, match=said):
        small.fit(1)


def test_processes_that_were_launched_train_together_or_not_at_all(small, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MedclfError, match="2 processes were launched, and each would train on its own"):
        small.fit(1)


def test_weights_that_do_not_fit_are_refused_and_the_network_stays(small, folder, tmp_path):
    two = MedDataLoaders.from_folder(folder, size=32, seed=1, cache=False, bs=8, drop=["red"], device="cpu")
    med_learner(two, "resnet18", weights=None, path=tmp_path).save("two")
    med_learner(two, "resnet34", weights=None, path=tmp_path).save("other")
    small.path = tmp_path
    before = {name: value.clone() for name, value in small.model.state_dict().items()}
    with pytest.raises(WeightsError, match="'two' are for 2 labels, and the loaders have 3: blue, green, red"):
        small.load("two")
    with pytest.raises(WeightsError, match="another network"):
        small.load("other")
    assert all(torch.equal(value, before[name]) for name, value in small.model.state_dict().items())
