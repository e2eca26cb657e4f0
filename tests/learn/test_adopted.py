"""Learners of fastai's own vision_learner in bundles: the same answers, or a refusal that says what is missing."""

import json

import numpy as np
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import RandomSplitter, get_image_files, parent_label
from fastai.learner import Learner
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from PIL import Image
from torchvision.models import resnet18

from medclf.errors import BundleError, MedclfWarning, PreprocessingError
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.learn.adopted import adopted
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.preprocessing import described
from medclf.reporting.report import report


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        file = tmp_path / "data" / ("polyp" if i % 2 else "normal") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file)
    return tmp_path / "data"


def block(images, **kwargs):
    splitter = RandomSplitter(0.4, seed=1)
    return DataBlock(
        (images, CategoryBlock), get_items=get_image_files, splitter=splitter, get_y=parent_label, **kwargs
    )


def small(pretrained=False):
    """A network of one's own, cut as fastai cuts it."""
    stem = [torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    return torch.nn.Sequential(*stem, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10))


def moved(learn):
    """As if trained: norms with statistics of their own, a body that is no longer the published one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*learn.model.parameters(), *learn.model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.02)
    return learn


@pytest.mark.parametrize("arch", [resnet18, "test_resnet", small], ids=["torchvision", "timm", "own"])
def test_the_bundle_answers_as_fastais_learner(arch, folder, tmp_path):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=4)
    learn = moved(vision_learner(dls, arch, pretrained=False, lin_ftrs=[8], ps=0.1))
    bundle = load_bundle(save_bundle(learn, tmp_path / "net.bundle", calibration={}))
    file = next(folder.rglob("*.png"))
    probs = learn.predict(file)[2]
    assert np.allclose(list(bundle.predict(file).probs.values()), probs, atol=1e-4)


def test_a_data_block_is_assessed_too(folder, tmp_path):
    tfms = {"item_tfms": Resize(40, method="squish"), "batch_tfms": aug_transforms(size=32)}
    dls = block(MedImageBlock(), **tfms).dataloaders(folder, bs=4)
    learn = moved(vision_learner(dls, "test_resnet", pretrained=False))
    with pytest.warns(MedclfWarning, match="not checked for near-duplicates"):
        bundle = load_bundle(save_bundle(learn, tmp_path / "net.bundle"))
    file = next(folder.rglob("*.png"))
    assert "of 4" in bundle.card["evaluated"]
    assert bundle.predict(file).label in dls.vocab


def test_the_report_names_the_function_that_made_the_network(folder, tmp_path):
    learn = vision_learner(MedDataLoaders.from_folder(folder, size=32, bs=4), resnet18, pretrained=False)
    assert described(learn)["arch"] == "resnet18"
    with learn.no_bar():
        page = report(MedInterpretation.from_learner(learn), tmp_path / "report.html", progress=False)
    assert json.loads(page.with_name("results.json").read_text())["settings"]["arch"] == "resnet18"


def test_what_is_missing_is_said(folder, tmp_path):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=4)
    tail = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 2)]
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), *tail)
    with pytest.raises(BundleError, match="not built by vision_learner"):
        save_bundle(Learner(dls, own), tmp_path / "net.bundle")
    other = vision_learner(dls, resnet18, pretrained=False)
    other.model[0][7] = torch.nn.Identity()  # in place of the last stage
    with pytest.raises(BundleError, match="cannot build this learner's network"):
        save_bundle(other, tmp_path / "net.bundle")
    theirs = block(ImageBlock, item_tfms=Resize(32)).dataloaders(folder, bs=4)
    with pytest.raises(PreprocessingError, match="do not read their images with medclf"):
        save_bundle(vision_learner(theirs, resnet18, pretrained=False), tmp_path / "net.bundle")


def test_a_network_of_equal_tensors_is_compared(folder):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=4)
    learn = vision_learner(dls, resnet18, pretrained=False)
    learn.model[0][2] = torch.nn.Tanh()  # in place of a ReLU: no tensor tells
    with pytest.raises(BundleError, match="other outputs"):
        adopted(learn)
    ours = med_learner(dls, "resnet18", weights=None)
    assert adopted(ours) is ours
