"""Predictions of fastai's own ways of making loaders and losses: probabilities, of the files that were read."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    IndexSplitter,
    Resize,
    get_image_files,
    parent_label,
)
from PIL import Image
from torch import nn
from torch.nn import functional

from medclf.errors import DataError
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


@pytest.mark.parametrize("loss_func", [nn.CrossEntropyLoss(), functional.cross_entropy])
def test_a_loss_without_activation_gives_probabilities(loss_func, folder):
    dls = med_loaders(folder)
    learn = learner(dls, loss_func=loss_func)
    found = predict_loader(learn, dls.valid)
    batch = dls.valid.one_batch()[0]
    with torch.inference_mode():
        wanted = learn.model.eval()(batch).softmax(1)
    np.testing.assert_allclose(found.probs, wanted.numpy(), atol=1e-5)


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
