"""What fastai's own notebooks assert of their objects (nbs 08, 09, 13a, 20, 21, 60), asserted of medclf's."""

import numpy as np
import pydicom
import pytest
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.metrics import accuracy
from fastai.torch_core import TensorImage, params
from fastai.vision.augment import CropPad, Flip, RandomResizedCrop, Resize, ResizeMethod
from fastai.vision.core import PILImage, image2tensor
from PIL import Image
from pydicom.data import get_testdata_file
from torch import nn

from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImage, read_image
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner


def small(pretrained=False):
    stem = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.fixture(scope="module")
def dls(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(24):
        file = root / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 52, 3), dtype=np.uint8)).save(file)
    return MedDataLoaders.from_folder(root, size=32, bs=8, valid_pct=0.4, progress=False, cache=False)


@pytest.fixture(scope="module")
def learn(dls):
    learn = med_learner(dls, small, pretrained=False, metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    return learn


class TestInterpretation:  # nb 20
    def test_stored_losses_are_those_of_get_preds(self, learn, dls):
        interp = MedInterpretation.from_learner(learn)
        *_, losses = learn.get_preds(dl=dls.valid.new(shuffle=False, drop_last=False), with_loss=True)
        assert torch.allclose(interp.losses.float(), losses.float(), atol=1e-5)

    @pytest.mark.parametrize("k", [None, 2, 5])
    @pytest.mark.parametrize("largest", [True, False])
    def test_top_losses_are_sorted_and_the_extreme_ones(self, learn, k, largest):
        interp = MedInterpretation.from_learner(learn)
        losses, ids, items = interp.top_losses(k, largest, items=True)
        wanted = interp.losses.topk(k or len(interp.losses), largest=largest)
        assert torch.equal(losses, wanted.values) and torch.equal(interp.losses[ids], losses)
        assert len(items) == len(losses)

    def test_an_item_is_input_probs_target_decoded_and_loss(self, learn, dls):
        interp = MedInterpretation.from_learner(learn)
        x, probs, y, decoded, loss = interp[0]
        assert x.shape[-3:] == (3, 32, 32) and torch.allclose(probs.sum(), torch.tensor(1.0))
        assert int(decoded.squeeze()) == int(probs.squeeze().argmax())
        assert torch.allclose(loss.squeeze().float(), interp.losses[0].float(), atol=1e-5)
        assert int(torch.as_tensor(y).squeeze()) == int(dls.valid_ds[0][1])

    @pytest.mark.parametrize("ds_idx", [0, 1])
    def test_the_matrix_counts_every_image_once(self, learn, dls, ds_idx):
        interp = MedInterpretation.from_learner(learn, ds_idx=ds_idx)
        preds, targets = learn.get_preds(dl=dls[ds_idx].new(shuffle=False, drop_last=False))
        wanted = torch.zeros(2, 2, dtype=int)
        for actual, predicted in zip(targets, preds.argmax(1), strict=True):
            wanted[int(actual), int(predicted)] += 1
        assert interp.confusion_matrix().tolist() == wanted.tolist()
        confused = {(a, b): n for a, b, n in interp.most_confused()}
        assert confused == {
            (interp.vocab[i], interp.vocab[j]): int(wanted[i, j]) for i, j in ((0, 1), (1, 0)) if wanted[i, j] > 0
        }


class TestLearner:  # nbs 13a and 21
    def test_validate_is_loss_and_metrics_of_get_preds(self, learn):
        loss, right = learn.validate()
        preds, targets, losses = learn.get_preds(with_loss=True)
        assert np.isclose(loss, losses.mean(), atol=1e-5)
        assert np.isclose(right, (preds.argmax(1) == targets).float().mean())

    def test_predict_is_get_preds_of_one(self, learn, dls):
        label, index, probs = learn.predict(dls.valid.items[0])
        assert torch.allclose(probs, learn.get_preds()[0][0], atol=1e-5)
        assert int(index) == int(probs.argmax()) and label == dls.vocab[int(index)]

    def test_save_and_load_bring_the_weights_back(self, learn, tmp_path):
        before, learn.path = learn.path, tmp_path
        weight = next(learn.model.parameters())
        kept = weight.detach().clone()
        learn.save("one")
        with torch.no_grad():
            weight.zero_()
        learn.load("one")
        assert torch.equal(next(learn.model.parameters()), kept)
        learn.path = before

    def test_freezing_leaves_the_head_and_norms_to_train(self, dls):
        learn = med_learner(dls, small, pretrained=False)
        learn.freeze()
        learn.create_opt()
        norms = [p for m in learn.model[0].modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
        body = [p for p in params(learn.model[0]) if all(p is not norm for norm in norms)]
        assert not any(p.requires_grad for p in body)
        assert all(p.requires_grad for p in [*params(learn.model[1]), *norms])
        learn.unfreeze()
        assert all(p.requires_grad for p in params(learn.model))

    def test_the_loaders_normalise_with_the_networks_numbers(self, dls):
        learn = med_learner(dls, "resnet18", pretrained=False)
        found = [tfm for tfm in learn.dls.after_batch.fs if isinstance(tfm, Normalize)]
        assert len(found) == 1 and np.allclose(found[0].mean.flatten().cpu(), [0.485, 0.456, 0.406])

    @pytest.mark.parametrize(
        ("options", "kinds"),
        [
            ({"ps": 0.5}, "BatchNorm1d Dropout Linear ReLU BatchNorm1d Dropout Linear"),
            ({"ps": 0.5, "first_bn": False}, "Dropout Linear ReLU BatchNorm1d Dropout Linear"),
            ({"ps": 0.5, "bn_final": True}, "BatchNorm1d Dropout Linear ReLU BatchNorm1d Dropout Linear BatchNorm1d"),
            (
                {"lin_ftrs": [4], "y_range": (0, 1)},
                "BatchNorm1d Dropout Linear ReLU BatchNorm1d Dropout Linear SigmoidRange",
            ),
            ({"lin_first": True}, "Dropout Linear ReLU BatchNorm1d Dropout Linear BatchNorm1d Dropout Linear"),
        ],
    )
    def test_heads_have_create_heads_layers(self, dls, options, kinds):
        from fastai.vision.learner import create_head

        head = med_learner(dls, small, pretrained=False, **options).model[1]
        theirs = create_head(8, 2, **options)
        assert [type(one).__name__ for one in head][2:] == [type(one).__name__ for one in theirs][2:]
        if "lin_first" not in options:
            assert [type(one).__name__ for one in head][2:] == kinds.split()


class TestImages:  # nbs 08 and 09
    def test_resize_and_crop_give_the_size_asked_for(self):
        image = MedImage.create(np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3))
        for method in (ResizeMethod.Squish, ResizeMethod.Crop, ResizeMethod.Pad):
            assert Resize((40, 24), method=method)(image, split_idx=1).size == (24, 40)
        assert CropPad(128)(image).size == (128, 128)
        assert RandomResizedCrop(32)(image, split_idx=0).size == (32, 32)

    def test_transforms_treat_it_as_fastais_image(self):
        pixels = np.random.default_rng(0).integers(0, 255, (30, 44, 3), dtype=np.uint8)
        ours, theirs = MedImage.create(pixels), PILImage.create(pixels)
        for tfm in (Resize(20, method="squish"), Resize(20, method="pad", pad_mode="zeros"), CropPad(24)):
            assert np.array_equal(np.asarray(tfm(ours, split_idx=1)), np.asarray(tfm(theirs, split_idx=1)))
        assert torch.equal(ToTensor()(ours), image2tensor(theirs))
        batch = IntToFloatTensor()(TensorImage(ToTensor()(ours)[None]))
        assert torch.allclose(Flip(p=1.0)(batch, split_idx=0), batch.flip(-1), atol=1e-5)

    def test_decoding_a_batch_gives_its_pixels_back(self, learn):
        x, y = learn.dls.valid.one_batch()
        pixels = learn.dls.valid.decode((x, y))[0]
        normalize = next(tfm for tfm in learn.dls.after_batch.fs if isinstance(tfm, Normalize))
        again = normalize.encodes(TensorImage(pixels.float() / 255))
        assert torch.allclose(again, x, atol=1 / 255 / float(normalize.std.min()))

    def test_a_ct_window_is_fastais(self):
        """nb 60: (pixels - low) / (high - low), clipped; DICOM's own formula is half a unit beside it."""
        file = get_testdata_file("CT_small.dcm")
        data = pydicom.dcmread(file)
        level, width = 50, 400
        scaled = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        low, high = level - width // 2, level + width // 2
        wanted = (scaled.clip(low, high) - low) / (high - low)
        ours = np.asarray(read_image(file, window=(level, width), channels=1), float) / 255
        assert ours.shape == wanted.shape and np.abs(ours - wanted).max() < 1 / width + 1 / 255
