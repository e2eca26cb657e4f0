"""A bundle prepares images as the learner's loaders do, whatever they do; or it is refused by name."""

import warnings

import numpy as np
import pytest
import torch
from fastai.vision.all import (
    CategoryBlock,
    CropPad,
    DataBlock,
    FlipItem,
    Normalize,
    Pipeline,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    RandomResizedCropGPU,
    RandomSplitter,
    RatioResize,
    Resize,
    aug_transforms,
    get_image_files,
    imagenet_stats,
    parent_label,
)
from fasttransform import Transform
from PIL import Image

from medclf.errors import BundleError, MedclfWarning, PreprocessingError
from medclf.images.preprocessing import Preprocessing, Sampling, Step
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.onnx import OnnxModel, export_onnx
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.preprocessing import preprocessing_of
from medclf.learn.presets import MedResize
from medclf.models.saliency import grad_cam
from medclf.results.maps import WHY_NONE

SMALL_DINOV2 = "timm/vit_small_patch14_dinov2?depth=2&embed_dim=192&num_heads=3&init_values=1"  # patches of 14 pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Waves of odd shapes, wide and narrow, coloured and grey."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(16):
        label, shape = "ab"[number % 2], (50 + 9 * (number % 5), 110 - 13 * (number % 7))
        row, column = np.mgrid[: shape[0], : shape[1]]
        waves = [128 + 90 * np.sin(row / rng.uniform(2, 9) + column / rng.uniform(2, 9)) for _ in range(3)]
        pixels = np.stack(waves, 2).astype(np.uint8)
        (root / label).mkdir(exist_ok=True)
        image = Image.fromarray(pixels if number % 5 else pixels[..., 0])
        image.save(root / label / f"{number}.{('png', 'jpg', 'tif')[number % 3]}")
    return root


def loaders(folder, **settings):
    settings = {"split": "stratified", "valid_pct": 0.25, "bs": 4, "progress": False, "device": "cpu"} | settings
    return MedDataLoaders.from_folder(folder, **settings)


def untrained(dls, **settings):
    """A learner whose answers differ from image to image."""
    torch.manual_seed(0)
    learn = med_learner(dls, "timm/test_efficientnet", weights=None, mixed_precision=False, **settings)
    learn.model[1][-1].weight.data.mul_(2000)
    return learn


def gaps(learn, predictor, files):
    """The largest differences of probabilities: to `learn.predict` of each file, and to `get_preds` of all."""
    ours = predictor.predict_probs(files)
    with learn.no_bar(), learn.no_logging():
        one_by_one = np.stack([learn.predict(file)[2].numpy() for file in files])
        together = learn.get_preds(dl=learn.dls.test_dl(files))[0].numpy()
    assert np.ptp(ours[:, 0]) > 0.05
    return np.abs(ours - one_by_one).max(), np.abs(ours - together).max()


LIGHT = {"max_rotate": 20, "max_lighting": 0.4}
KINDS = {
    "a preset": {"size": 48, "modality": "endoscopy"},
    "medclf's padding": {"size": (40, 56), "resize": "pad"},
    "medclf's crop, grey": {"size": 40, "resize": "crop", "channels": 1},
    "medclf's resize, then fastai's batch": {"size": 80, "batch_tfms": aug_transforms(size=48)},
    "crop": {"item_tfms": Resize(48), "batch_tfms": []},
    "crop to a rectangle": {"item_tfms": Resize((40, 57))},
    "squish by another filter": {"item_tfms": Resize((40, 57), "squish", resamples=(3, 0)), "batch_tfms": []},
    "pad by reflection": {"item_tfms": Resize((40, 57), "pad"), "batch_tfms": aug_transforms(**LIGHT)},
    "pad by zeros": {"item_tfms": Resize(48, "pad", "zeros"), "batch_tfms": []},
    "pad by the border": {"item_tfms": Resize(48, "pad", "border"), "batch_tfms": []},
    "crop and pad": {"item_tfms": CropPad((48, 80)), "batch_tfms": []},
    "two steps": {"item_tfms": [CropPad(90, "reflection"), Resize(40)], "batch_tfms": []},
    "random crop": {"item_tfms": RandomCrop(48), "batch_tfms": []},
    "random resized crop": {"item_tfms": RandomResizedCrop((48, 64), min_scale=0.4), "batch_tfms": []},
    "flip in training": {"item_tfms": [Resize(48), FlipItem()], "batch_tfms": [*aug_transforms(), RandomErasing()]},
    "presizing": {"item_tfms": Resize(96), "batch_tfms": aug_transforms(size=48, **LIGHT)},
    "presizing with a random part": {"item_tfms": Resize(96), "batch_tfms": aug_transforms(size=48, min_scale=0.75)},
    "presizing from afar": {"item_tfms": Resize((230, 300)), "batch_tfms": aug_transforms(size=(40, 50))},
    "presizing upwards": {
        "item_tfms": Resize(33),
        "batch_tfms": aug_transforms(size=(50, 41), pad_mode="zeros", align_corners=False),
    },
    "a part of the batch": {"item_tfms": Resize((90, 130)), "batch_tfms": RandomResizedCropGPU(48, valid_scale=0.8)},
    "grey, presized": {"item_tfms": Resize(96), "batch_tfms": aug_transforms(size=40), "channels": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bundle_gives_what_the_learner_gives(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("medclf.inference.bundle.check_places", lambda shape: None)  # so small a map is refused
    learn = untrained(loaders(folder, **KINDS[kind]))
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle"))
    assert max(gaps(learn, bundle, sorted(folder.rglob("*.*"))[::2])) < 1e-4
    assert bundle.preprocessing == preprocessing_of(learn.dls)
    assert Preprocessing.from_dict(bundle.preprocessing.as_dict()) == bundle.preprocessing
    assert bundle.saliency(sorted(folder.rglob("*.*"))[0]).shape == bundle.preprocessing.size


def test_onnx_holds_the_sampling_too(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    learn = untrained(loaders(folder, **KINDS["presizing with a random part"]))
    file = export_onnx(save_bundle(learn, tmp_path / "a.bundle"), tmp_path / "a.onnx")
    assert max(gaps(learn, OnnxModel(file), sorted(folder.rglob("*.*"))[::3])) < 1e-4


def test_other_loaders_are_followed_and_normalised(folder, tmp_path):
    learn = untrained(loaders(folder, size=32))
    learn.dls = loaders(folder, item_tfms=Resize(64), batch_tfms=[])
    assert learn.spec.preprocessing == Preprocessing((64, 64), (Step((64, 64)),))
    assert learn.spec.normalization.mean == pytest.approx(imagenet_stats[0])
    assert max(gaps(learn, load_bundle(save_bundle(learn, tmp_path / "a")), sorted(folder.rglob("*.*"))[::3])) < 1e-4


def test_the_loaders_own_normalisation_counts(folder, tmp_path):
    own = Normalize.from_stats([0.2, 0.3, 0.4], [0.5, 0.6, 0.7], cuda=False)
    for batch_tfms, wanted in (([own], (0.2, 0.3, 0.4)), ([], (0.0, 0.0, 0.0))):
        learn = untrained(loaders(folder, size=32, batch_tfms=batch_tfms), normalize=False)
        assert learn.spec.normalization.mean == pytest.approx(wanted)
        bundle = load_bundle(save_bundle(learn, tmp_path / "a", overwrite=True))
        assert max(gaps(learn, bundle, sorted(folder.rglob("*.*"))[::4])) < 1e-4


def test_fastais_data_block_with_medical_images(folder, tmp_path):
    block = DataBlock(
        blocks=(MedImageBlock(), CategoryBlock()),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(seed=1),
        item_tfms=Resize(96),
        batch_tfms=aug_transforms(size=48),
    )
    learn = untrained(block.dataloaders(folder, path=folder, bs=4, num_workers=0, device=torch.device("cpu")))
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle"))
    assert max(gaps(learn, bundle, sorted(folder.rglob("*.*"))[::3])) < 1e-4


class Brighten(Transform):
    """A transform of one's own, on tensors."""

    order = 50

    def encodes(self, x: torch.Tensor):
        return x + 0.1


class Sharpen(Transform):
    """One that acts on images."""

    def encodes(self, x: Image.Image):
        return x


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"item_tfms": [Resize(48), Sharpen()]}, "Sharpen in item_tfms"),
        ({"item_tfms": Resize(48), "batch_tfms": [Brighten()]}, "Brighten in batch_tfms"),
        ({"item_tfms": RatioResize(48), "bs": 1}, "RatioResize"),
        ({"item_tfms": [MedResize(48), CropPad(40)]}, "MedResize"),
        ({"item_tfms": Resize(48), "batch_tfms": aug_transforms(size=32, mode="bicubic")}, "bicubic"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(settings, named, folder, tmp_path):
    learn = untrained(loaders(folder, **settings))
    with pytest.raises(PreprocessingError, match=named) as refused:
        save_bundle(learn, tmp_path / "a.bundle")
    assert refused.value.remedy and not (tmp_path / "a.bundle").exists()


def test_a_transform_that_hides_what_it_does_is_found_out(folder, tmp_path):
    learn = untrained(loaders(folder, item_tfms=Resize(48), batch_tfms=[]))

    class Hidden(Brighten):
        split_idx = 0

        def __call__(self, x, split_idx=None, **kwargs):
            return super().__call__(x, split_idx=0, **kwargs)

    learn.dls.valid.after_batch = Pipeline([*learn.dls.valid.after_batch.fs, Hidden()])
    with pytest.raises(PreprocessingError, match="otherwise than they say"):
        save_bundle(learn, tmp_path / "a.bundle")


def test_a_transform_of_training_alone_is_welcome(folder, tmp_path):
    own = Brighten(split_idx=0)
    learn = untrained(loaders(folder, item_tfms=Resize(48), batch_tfms=[own]))
    assert max(gaps(learn, load_bundle(save_bundle(learn, tmp_path / "a")), sorted(folder.rglob("*.*"))[::4])) < 1e-4


def test_fastais_own_reading_is_refused_with_true_advice(folder, tmp_path):
    from fastai.vision.data import ImageDataLoaders

    dls = ImageDataLoaders.from_folder(folder, valid_pct=0.25, item_tfms=Resize(48), bs=4, device=torch.device("cpu"))
    with pytest.raises(PreprocessingError, match="PILImage") as refused:
        save_bundle(untrained(dls), tmp_path / "a.bundle")
    assert "MedImageBlock" in refused.value.remedy
    with pytest.raises(PreprocessingError, match="PILImage"):
        export_onnx(untrained(dls), tmp_path / "a.onnx")
    with pytest.raises(BundleError, match="a DataLoaders is no bundle and no learner"):
        export_onnx(dls, tmp_path / "a.onnx")


@pytest.mark.slow
def test_images_that_no_whole_patches_cover_are_kept_as_they_are(folder, tmp_path):
    torch.manual_seed(0)
    learn = med_learner(loaders(folder, size=32), SMALL_DINOV2, weights=None, mixed_precision=False)
    learn.model[1][-1].weight.data.mul_(5)
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle"))
    assert (bundle.spec.arch, bundle.preprocessing.size) == (SMALL_DINOV2, (32, 32))
    files = sorted(folder.rglob("*.*"))[:4]
    wanted = learn.get_preds(dl=learn.dls.test_dl(files))[0].numpy()
    assert np.ptp(wanted[:, 0]) > 1e-3 and np.allclose(bundle.predict_probs(files), wanted, atol=1e-5)
    heat = grad_cam(learn, files[0])
    assert heat.shape == (32, 32) and np.allclose(heat, bundle.saliency(files[0]), atol=1e-3)
    exported = OnnxModel(export_onnx(learn, tmp_path / "a.onnx"))  # of the learner itself
    assert np.allclose(exported.predict_probs(files), bundle.predict_probs(files), atol=1e-4)
    assert exported.calibration == bundle.calibration


def test_a_report_says_that_it_has_no_maps(folder):
    interp = MedInterpretation.from_learner(untrained(loaders(folder, item_tfms=[Resize(48), Sharpen()])))
    with pytest.warns(MedclfWarning, match="does not show where the model looked: Sharpen"):
        maps = interp.maps()
    assert list(maps) == [WHY_NONE] and maps[WHY_NONE].startswith("Sharpen")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "preprocessing" not in interp.facts(n_boot=200)["settings"]


@pytest.mark.parametrize(
    "item_tfms",
    [Resize((32, 40), "squish"), CropPad(40), [CropPad(60), Resize(32, "squish")], MedResize(32, "pad", 1.2)],
)
def test_a_store_obeys_the_item_transforms(item_tfms, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path))
    plain, stored = (loaders(folder, item_tfms=item_tfms, batch_tfms=[], cache=cache) for cache in (False, True))
    for side in (0, 1):
        batches = [dls[side].new(shuffle=False, drop_last=False) for dls in (plain, stored)]
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one[0], other[0])
    assert preprocessing_of(stored) == preprocessing_of(plain)


@pytest.mark.parametrize(
    "item_tfms", [Resize(32), RandomResizedCrop(32), [Resize(32, "squish"), FlipItem()], Sharpen()]
)
def test_a_store_refuses_transforms_that_draw(item_tfms, folder):
    with pytest.raises(PreprocessingError, match="cache=True cannot obey") as refused:
        loaders(folder, item_tfms=item_tfms, cache=True)
    assert "cache=False" in refused.value.remedy


def test_transforms_changed_after_the_store_was_made(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path))
    dls = loaders(folder, size=32, cache=True)
    dls.valid.after_item = Pipeline([Resize(32), *dls.valid.after_item.fs[1:]])
    with pytest.raises(PreprocessingError, match="were changed"):
        preprocessing_of(dls)


def test_maps_lie_where_the_pixels_came_from():
    """The brightest quarter of a picture stays the brightest through each way, and the map of it comes back there."""
    from medclf.images.heatmap import on_original, on_prepared

    picture = np.zeros((60, 100), np.uint8)
    picture[30:, 50:] = 255
    for how in (
        Preprocessing((40, 40)),
        Preprocessing((40, 40), "pad"),
        Preprocessing((40, 48), "crop"),
        Preprocessing((40, 48), (Step((40, 48), "crop"),)),
        Preprocessing((40, 48), (Step((40, 48), "pad", "zeros"),)),
        Preprocessing((50, 80), (Step((64, 96), "squish"), Step((50, 80), "center"))),
        Preprocessing((90, 120), (Step((90, 120), "center", "zeros"),)),
        Preprocessing((40, 48), "pad", sampling=Sampling((20, 20), crop=(4, 4, 32, 40))),
    ):
        prepared = how.prepare(picture)[..., 0]
        seen = prepared[how.sampling.part(how.size)] if how.sampling else prepared
        heat = on_original(on_prepared(seen / 255, how), picture.shape, how)
        part, _ = how.placement(picture.shape)
        inside = np.zeros(picture.shape, bool)
        inside[part] = True
        if how.sampling:  # what it left out is not known
            inside &= on_original(on_prepared(np.ones((4, 4)), how), picture.shape, how) > 0.99
        agree = (heat > 0.5) == (picture > 0)
        assert agree[inside].mean() > 0.96 and (heat > 0.5).sum() < 1.05 * (picture[inside] > 0).sum()
        assert on_original(heat[:40, :40], picture.shape, Preprocessing(40), (6, 10)).shape == (6, 10)
