"""The fused augmentation against fastai's own transforms, given the same parameters."""

import math

import numpy as np
import pytest
import torch
from fastai.vision.augment import (
    Brightness,
    Contrast,
    Flip,
    Rotate,
    Saturation,
    TensorImage,
    Warp,
    Zoom,
    setup_aug_tfms,
)
from PIL import Image

from medclf.errors import DataError
from medclf.learn.augment import (
    Augment,
    keyed_uniform,
    light_batch,
    warp_batch,
)
from medclf.learn.augmentations import (
    AUGMENTATIONS,
    magnification,
    mirroring,
    perspective,
    rotation,
    saturating,
    turning,
)
from medclf.learn.image_block import MedImage
from medclf.learn.presets import MedResize, endoscopy_tfms, radiograph_tfms, tfms_for
from medclf.modalities import MODALITIES

N = 4


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(N, 3, 9, 9, generator=generator)
    return torch.nn.functional.interpolate(coarse, (72, 72), mode="bilinear", align_corners=True).clamp(0, 1)


def fastai_says(tfms, images):
    result = TensorImage(images.clone())
    for tfm in setup_aug_tfms(tfms):
        result = tfm(result, split_idx=0)
    return result.as_subclass(torch.Tensor)


def test_geometry_equals_fastai(images):
    degrees = [0.0, 33.0, -120.0, 180.0]
    zoom, col, row = [1.0, 1.2, 1.1, 1.25], [0.5, 0.2, 0.9, 0.4], [0.5, 0.7, 0.1, 0.3]
    warp_x, warp_y, mirror = [0.0, 0.1, -0.1, 0.2], [0.0, -0.05, 0.2, 0.1], [0.0, 1.0, 0.0, 1.0]

    def draw(values):
        return lambda x: torch.tensor(values)

    size = {"size": 48}
    peer = fastai_says(
        [
            Flip(p=1.0, draw=draw(mirror), **size),
            Warp(p=1.0, draw_x=draw(warp_x), draw_y=draw(warp_y), **size),
            Rotate(max_deg=180, p=1.0, draw=draw(degrees), **size),
            Zoom(max_zoom=1.3, p=1.0, draw=draw(zoom), draw_x=draw(col), draw_y=draw(row), **size),
        ],
        images,
    )
    t = torch.tensor
    matrices = (
        perspective(t(warp_x), t(warp_y))
        @ mirroring(1 - 2 * t(mirror), torch.ones(N))
        @ rotation(t(degrees))
        @ magnification(t(zoom), 2 * t(col) - 1, 2 * t(row) - 1)
    )
    ours = warp_batch(images, matrices, (48, 48))
    assert (ours - peer).abs().max() < 0.5 / 255


def test_lighting_equals_fastai(images):
    change, factor, saturation = [0.5, 0.6, 0.42, 0.55], [1.0, 0.8, 1.2, 1.1], [1.0, 0.8, 1.25, 0.9]

    def draw(values):
        return lambda x: torch.tensor(values)

    peer = fastai_says(
        [
            Brightness(p=1.0, draw=draw(change)),
            Contrast(p=1.0, draw=draw(factor)),
            Saturation(p=1.0, draw=draw(saturation)),
        ],
        images,
    )
    t = torch.tensor
    ours = light_batch(images, torch.logit(t(change)), t(factor), saturating(t(saturation)))
    assert (ours - peer).abs().max() < 0.5 / 255


def test_a_full_turn_of_hue_changes_nothing_and_grey_stays_grey():
    turn = torch.tensor([0.0, 2 * math.pi, 0.3])
    matrices = turning(turn)
    assert torch.allclose(matrices[0], torch.eye(3), atol=1e-6)
    assert torch.allclose(matrices[1], torch.eye(3), atol=1e-5)
    assert torch.allclose(matrices[2] @ torch.ones(3), torch.ones(3), atol=1e-6)
    assert not torch.allclose(matrices[2], torch.eye(3), atol=1e-2)


def test_a_quarter_turn_is_rot90():
    image = torch.rand(1, 3, 5, 5)
    matrices = rotation(torch.tensor([90.0]))
    assert torch.allclose(warp_batch(image, matrices, None), torch.rot90(image, -1, (2, 3)), atol=1e-5)


def test_rotation_turns_and_does_not_shear_an_oblong_image():
    """A disc stays a disc: the pixel distances survive the turn."""
    height, width = 60, 100
    y, x = torch.meshgrid(torch.arange(height) - 29.5, torch.arange(width) - 49.5, indexing="ij")
    disc = ((x**2 + y**2) < 20**2).float()[None, None]
    aspect = (height - 1) / (width - 1)
    turned = warp_batch(disc, rotation(torch.tensor([37.0]), aspect), None, "zeros")
    assert ((turned > 0.5) != (disc > 0.5)).float().mean() < 0.005


def test_draws_depend_on_seed_epoch_and_image_alone():
    everything = keyed_uniform(7, 3, np.arange(1000), 6)
    some = keyed_uniform(7, 3, np.array([999, 4]), 6)
    assert (some[0] == everything[999]).all() and (some[1] == everything[4]).all()
    assert not np.allclose(everything, keyed_uniform(8, 3, np.arange(1000), 6))
    assert not np.allclose(everything, keyed_uniform(7, 4, np.arange(1000), 6))


def test_draws_are_uniform_and_uncorrelated():
    from scipy.stats import kstest

    draws = keyed_uniform(1, 0, np.arange(20_000), 5)
    assert all(kstest(column, "uniform").pvalue > 1e-4 for column in draws.T)
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03


def test_keyed_batches_equal_one_by_one(images):
    _, (augment,) = endoscopy_tfms(48)
    augment.begin(42, 1, [3, 1, 0, 2])
    together = augment(TensorImage(images), split_idx=0)
    for position, sample in enumerate([3, 1, 0, 2]):
        augment.begin(42, 1, [sample])
        alone = augment(TensorImage(images[position : position + 1]), split_idx=0)
        assert torch.allclose(alone[0], together[position], atol=1e-5)


def test_validation_is_not_augmented(images):
    _, (augment,) = endoscopy_tfms(48)
    assert augment(TensorImage(images), split_idx=1) is not None
    assert torch.equal(augment(TensorImage(images), split_idx=1), images)


@pytest.mark.parametrize("modality", [*MODALITIES])
def test_presets_stay_in_range(modality, images):
    items, (augment,) = tfms_for(modality, 40)
    for _ in range(5):
        result = augment(TensorImage(images), split_idx=0)
        assert result.shape == (N, 3, 40, 40)
        assert result.min() >= 0 and result.max() <= 1
    assert isinstance(items[0], MedResize)


def test_radiographs_keep_left_on_the_left():
    """A bright left half stays there through 200 draws."""
    image = torch.zeros(200, 1, 64, 64)
    image[..., :32] = 1
    _, (augment,) = radiograph_tfms(64)
    result = augment(TensorImage(image), split_idx=0)
    assert (result[..., :32].mean((1, 2, 3)) > result[..., 32:].mean((1, 2, 3)) + 0.5).all()


def test_endoscopy_turns_all_the_way_round():
    """A bright left half is found on every side."""
    image = torch.zeros(200, 1, 64, 64)
    image[..., :32] = 1
    _, (augment,) = endoscopy_tfms(64)
    result = augment(TensorImage(image), split_idx=0).as_subclass(torch.Tensor)
    brightest = torch.stack(
        [
            result[:, 0, :, :16].mean((1, 2)),
            result[:, 0, :, 48:].mean((1, 2)),
            result[:, 0, :16].mean((1, 2)),
            result[:, 0, 48:].mean((1, 2)),
        ]
    ).argmax(0)
    assert set(brightest.tolist()) == {0, 1, 2, 3}


def test_resize_gives_the_training_set_more_pixels():
    resize = MedResize(40, train_scale=1.15)
    image = MedImage.create(Image.new("RGB", (100, 80)))
    assert resize(image, split_idx=0).size == (46, 46)
    assert resize(image, split_idx=1).size == (40, 40)


def test_an_unknown_modality_names_the_known():
    with pytest.raises(DataError, match="endoscopy"):
        tfms_for("colonoscopy")
    with pytest.raises(DataError, match="no augmentation has the setting"):
        tfms_for("endoscopy", spin=3)
    with pytest.raises(DataError, match=r"did you mean max_rotate or p_rotate\?"):
        tfms_for("endoscopy", rotate=3)


def test_changes_reach_the_transform():
    _, (augment,) = tfms_for("endoscopy", max_rotate=90)
    assert isinstance(augment, Augment) and augment.settings()["max_rotate"] == 90


@pytest.mark.parametrize("pad_mode", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("colour", [True, False])
def test_bytes_are_augmented_as_floats_are(images, pad_mode, colour):
    pytest.importorskip("cv2")
    geometry = dict(max_rotate=180, flip_lr=True, flip_ud=True, max_zoom=1.25, max_shift=0.05, max_warp=0.2)
    light = dict(brightness=0.25, contrast=0.25, saturation=0.25 * colour, hue=0.02 * colour)
    always = dict(p_rotate=1.0, p_affine=1.0, p_lighting=1.0)
    augment = Augment((48, 40), pad_mode, **geometry, **light, **always)
    pixels = (images[:, :, :, :66] * 255).round().to(torch.uint8)
    for epoch in range(3):
        augment.begin(7, epoch, range(N))
        made = augment(TensorImage(pixels), split_idx=0).as_subclass(torch.Tensor)
        assert made.dtype == torch.uint8
        augment.begin(7, epoch, range(N))
        wanted = 255 * augment(TensorImage(pixels / 255), split_idx=0).as_subclass(torch.Tensor)
        difference = (made - wanted).abs()
        assert difference.mean() < 0.5 and difference.max() < 4  # rounded to 8 bits between the two steps and after


def test_bytes_equal_fastai_where_only_the_place_changes():
    """fastai's own transforms on floats against ours on bytes: rotation, flip and warp at once."""
    pytest.importorskip("cv2")
    from medclf.images.augment_ops import augment_bytes

    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (N, 3, 40, 40), generator=generator, dtype=torch.uint8)
    pixels = torch.nn.functional.avg_pool2d(pixels.float(), 5, 1, 2).round().to(torch.uint8)

    def draw(values):
        return lambda x: torch.tensor(values)

    degrees, mirror, warp_x, warp_y = [10.0, -7.0, 90.0, 33.0], [0.0, 1.0, 0.0, 1.0], [0.1] * N, [-0.1] * N
    peer = fastai_says(
        [
            Flip(p=1.0, draw=draw(mirror), size=32),
            Warp(p=1.0, draw_x=draw(warp_x), draw_y=draw(warp_y), size=32),
            Rotate(max_deg=180, p=1.0, draw=draw(degrees), size=32),
        ],
        pixels / 255,
    )
    t = torch.tensor
    flipped = mirroring(1 - 2 * t(mirror), torch.ones(N))
    matrices = perspective(t(warp_x), t(warp_y)) @ flipped @ rotation(t(degrees))
    rows = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
    ours = augment_bytes(rows, matrices.numpy(), (32, 32))
    assert np.abs(ours - 255 * peer.permute(0, 2, 3, 1).numpy()).max() <= 1.0


def test_a_column_of_draws_belongs_to_one_augmentation():
    columns = [column for kind in AUGMENTATIONS for column in kind.columns]
    assert sorted(columns) == list(range(len(columns)))


def test_one_more_augmentation_leaves_the_draws_of_the_others(monkeypatch):
    from dataclasses import dataclass
    from typing import ClassVar

    from medclf.learn.augmentations import Tone

    @dataclass(frozen=True)
    class Fog(Tone):
        fog: float = 0.0
        columns: ClassVar = (24,)

        def tone(self, u):
            return self.fog * u[0], torch.ones_like(u[0])

    before = Augment(brightness=0.3, max_rotate=20)
    monkeypatch.setattr("medclf.learn.augment.AUGMENTATIONS", [*AUGMENTATIONS, Fog])
    after = Augment(brightness=0.3, max_rotate=20, fog=1.0)
    keyed = [torch.from_numpy(keyed_uniform(1, 0, np.arange(5), one.n_draws)) for one in (before, after)]
    assert torch.equal(before.matrices(keyed[0], (8, 8)), after.matrices(keyed[1], (8, 8)))
    assert torch.allclose(after.lighting(keyed[1])[0] - before.lighting(keyed[0])[0], keyed[1][:, 24])


def test_shear_moves_rows_and_leaves_their_height():
    augment = Augment(max_shear=20.0, p_affine=1.0)
    draws = torch.rand(4, augment.n_draws, generator=torch.Generator().manual_seed(1))
    matrices = augment.matrices(draws, (40, 60))
    slope = torch.tan(torch.deg2rad((2 * draws[:, 23] - 1) * 20.0))
    point = torch.tensor([0.0, 1.0, 1.0])  # half the height, 20 pixels, below the centre
    moved = matrices @ point
    assert torch.allclose(moved[:, 0] * 60 / 2, slope * 20, atol=1e-4)
    assert torch.allclose(moved[:, 1], torch.ones(4))


def test_zoom_out_shows_the_whole_image_smaller():
    augment = Augment(min_zoom=0.5, max_zoom=1.0, p_affine=1.0, pad_mode="zeros")
    images = TensorImage(torch.ones(16, 3, 32, 32))
    torch.manual_seed(0)
    shown = augment(images, split_idx=0).as_subclass(torch.Tensor)[:, 0].mean((1, 2))
    assert 0.2 < shown.min() < 0.5 and shown.max() <= 1.0  # a zoom of z fills z squared of the frame
