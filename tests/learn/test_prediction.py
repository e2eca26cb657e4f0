"""Predictions of fastai's own ways of making loaders and losses: probabilities, of the files that were read."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    BCEWithLogitsLossFlat,
    Callback,
    CategoryBlock,
    ColReader,
    ColSplitter,
    CrossEntropyLossFlat,
    DataBlock,
    GradientAccumulation,
    IndexSplitter,
    MixUp,
    MultiCategoryBlock,
    Resize,
    TerminateOnNaNCallback,
    get_image_files,
    noop,
    parent_label,
)
from PIL import Image
from torch import nn
from torch.nn import functional

from medclf.errors import BundleError, DataError, MedclfWarning
from medclf.inference.bundle import save_bundle
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.prediction import predict_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(8):
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (40, 36 + number, 3), np.uint8))
        image.save(root / "ab"[number % 2] / f"{number}.png")
    return root


def learner(dls, **settings):
    return med_learner(dls, "timm/test_efficientnet", weights=None, mixed_precision=False, **settings)


def med_loaders(folder):
    return MedDataLoaders.from_folder(folder, size=32, split="stratified", bs=4, progress=False, device="cpu")


def own_loss(outputs, targets):
    return functional.cross_entropy(outputs, targets)


class OwnLoss(nn.Module):
    def forward(self, outputs, targets):
        return functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize("loss_func", [nn.CrossEntropyLoss(), functional.cross_entropy, own_loss, OwnLoss()])
def test_a_loss_without_activation_gives_probabilities(loss_func, folder):
    dls = med_loaders(folder)
    learn = learner(dls, loss_func=loss_func)
    found = predict_loader(learn, dls.valid)
    batch = dls.valid.one_batch()[0]
    with torch.inference_mode():
        wanted = learn.model.eval()(batch).softmax(1)
    np.testing.assert_allclose(found.probs, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.losses, -np.log(found.probs[range(len(found)), found.y]), atol=1e-4)


def test_what_are_no_probabilities_is_refused(folder):
    dls = med_loaders(folder)
    with pytest.raises(DataError, match="no probabilities") as refused:
        predict_loader(learner(dls), dls.valid, act=lambda x: 3 * x)
    assert "act=" in refused.value.remedy


def test_columns_of_a_data_frame_lead_to_the_files(folder):
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    table = pd.DataFrame({"name": [file[:-4] for file in files], "finding": [file[0] for file in files]})
    table["is_valid"] = table.index.isin([1, 4, 6])
    block = DataBlock(
        blocks=(MedImageBlock(), CategoryBlock()),
        get_x=ColReader("name", pref=f"{folder}/", suff=".png"),
        get_y=ColReader("finding"),
        splitter=ColSplitter(),
        item_tfms=Resize(32),
    )
    dls = block.dataloaders(table, path=folder, bs=4, num_workers=0, device=torch.device("cpu"))
    interp = MedInterpretation.from_learner(learner(dls))
    assert interp.to_frame()["path"].tolist() == [files[row] for row in (1, 4, 6)]
    assert interp.read(files[1]).shape[0] == 40


def test_files_outside_of_the_loaders_path_are_shown(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = DataBlock(
        blocks=(MedImageBlock(), CategoryBlock()),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=IndexSplitter([0, 3]),
        item_tfms=Resize(32),
    )
    dls = block.dataloaders(folder, bs=4, num_workers=0, device=torch.device("cpu"))
    interp = MedInterpretation.from_learner(learner(dls))
    path = interp.to_frame()["path"][0]
    assert interp.read(path).shape[0] == 40
    (tmp_path / "other.png").write_bytes(next(folder.rglob("*.png")).read_bytes())
    with pytest.raises(Exception, match="outside the data's folder"):
        interp.read(tmp_path / "other.png")


def test_rows_of_other_things_than_an_image_and_a_label_are_refused(folder):
    """The probe took a second image for the labels."""
    for n_inp in (1, 2):
        block = DataBlock(
            (*[MedImageBlock] * n_inp, *[CategoryBlock] * (3 - n_inp)),
            n_inp=n_inp,
            get_items=get_image_files,
            getters=[noop] * n_inp + [parent_label] * (3 - n_inp),
            splitter=IndexSplitter([0, 1]),
            item_tfms=Resize(32),
        )
        with pytest.raises(DataError, match=f"{n_inp} inputs and {3 - n_inp} targets"):
            learner(block.dataloaders(folder, bs=2, num_workers=0, device="cpu"))


def test_another_threshold_of_the_loss_is_told(folder):
    block = DataBlock(
        (MedImageBlock, MultiCategoryBlock),
        get_items=get_image_files,
        get_y=lambda file: [file.parent.name],
        item_tfms=Resize(32),
        splitter=IndexSplitter([0, 1]),
    )
    dls = block.dataloaders(folder, bs=2, num_workers=0, device="cpu")
    learn = learner(dls, loss_func=BCEWithLogitsLossFlat(thresh=0.9))
    with pytest.warns(MedclfWarning, match=r"thresh=0\.9 on; here, and in a bundle, it is 0\.5"):
        predict_loader(learn, dls.valid)


class Doubles(Callback):
    """Acts on what the network gives, outside of it."""

    def after_pred(self):
        self.learn.pred = self.pred * 2


class Tempered(CrossEntropyLossFlat):
    def activation(self, x):
        return torch.softmax(x / 5, dim=-1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"cbs": Doubles()}, "a callback changes images or outputs"), ({"loss_func": Tempered()}, "activation is none")],
)
def test_what_acts_beside_the_network_is_in_no_bundle(settings, said, folder, tmp_path):
    """Its probabilities were others than the learner's, by a third and more."""
    learn = learner(med_loaders(folder), **settings)
    with pytest.raises(BundleError, match=said) as refused:
        save_bundle(learn, tmp_path / "x.bundle", calibration={})
    assert refused.value.remedy and not (tmp_path / "x.bundle").exists()


def test_callbacks_that_leave_predictions_alone_are_welcome(folder, tmp_path):
    """TerminateOnNaNCallback takes the losses of a batch for one number, and the interpretation failed on it."""
    learn = learner(med_loaders(folder), cbs=[MixUp(), TerminateOnNaNCallback(), GradientAccumulation(8)])
    learn.to_fp16()
    learn.model.half()
    save_bundle(learn, tmp_path / "half.bundle", calibration={})
    learn.model.float()
    before = list(learn.cbs)
    assert len(MedInterpretation.from_learner(learn).to_frame()) == 2
    save_bundle(learn, tmp_path / "x.bundle", calibration={})
    assert set(map(type, learn.cbs)) == set(map(type, before))


def test_a_set_without_images_is_named(folder):
    how = dict(get_items=get_image_files, get_y=parent_label, item_tfms=Resize(32))
    block = DataBlock((MedImageBlock, CategoryBlock), splitter=IndexSplitter([]), **how)
    learn = med_learner(block.dataloaders(folder, bs=4), "efficientnet_lite0", weights=None)
    with pytest.raises(DataError, match="there is no validation image to predict"):
        MedInterpretation.from_learner(learn)
