import numpy as np
import pytest
import torch
from fastai.torch_core import default_device
from PIL import Image, ImageDraw

from medclf.dataset.boxes import read_boxes, with_boxes
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfWarning
from medclf.images.preprocessing import Preprocessing
from medclf.learn.checkpoint import seeded
from medclf.learn.detection import BoxedImages, box_learner, box_loaders, box_tfms, fit
from medclf.models.detector import build_detector
from medclf.models.detector_spec import DetectorSpec
from medclf.models.spec import Normalization

SIZE = (96, 96)


def square(box: tuple[int, int, int, int]) -> np.ndarray:
    picture = Image.new("RGB", SIZE[::-1], (20, 20, 20))
    ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(240, 240, 240))
    return np.asarray(picture)


@pytest.mark.parametrize("modality", ["endoscopy", "radiograph", "histology", "ct"])
def test_boxes_move_with_what_they_show(modality: str) -> None:
    """A white square is augmented; the box that comes along covers the white pixels, and little more."""
    box = (30, 24, 58, 66)
    images = BoxedImages(square(box)[None], [np.array([[*box, 2.0]])], box_tfms(modality, SIZE))
    torch.manual_seed(0)
    for _ in range(25):
        image, given = images[0]
        bright = (image.float().mean(0) > image.float().mean(0).amax() * 0.6).numpy()
        rows, columns = np.nonzero(bright)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert given.shape == (1, 5) and given[0, 4] == 2
        found = given[0, :4].numpy()
        assert (np.abs(found - seen) <= 5).all(), (found, seen)


def test_a_radiograph_keeps_its_sides_and_an_endoscopy_does_not() -> None:
    left = (4, 40, 20, 60)
    pixels, given = square(left)[None], [np.array([[*left, 0.0]])]
    torch.manual_seed(0)
    sides = {}
    for modality in ("radiograph", "endoscopy"):
        images = BoxedImages(pixels, given, box_tfms(modality, SIZE))
        sides[modality] = {bool(images[0][1][0, 0] > 48) for _ in range(20)}
    assert sides == {"radiograph": {False}, "endoscopy": {False, True}}


def test_an_image_without_a_box_stays_one() -> None:
    images = BoxedImages(square((30, 24, 58, 66))[None], [np.zeros((0, 5))], box_tfms("endoscopy", SIZE))
    image, given = images[0]
    assert given.shape == (0, 5) and image.shape == (3, 96, 96) and image.dtype == torch.uint8


def test_without_a_modality_nothing_is_changed_and_wrong_settings_are_named() -> None:
    pixels = square((30, 24, 58, 66))
    image, given = BoxedImages(pixels[None], [np.array([[30, 24, 58, 66, 1]])], box_tfms(None, SIZE))[0]
    assert np.array_equal(image.numpy().transpose(1, 2, 0), pixels) and given[0].tolist() == [30, 24, 58, 66, 1]
    with pytest.raises(DataError, match="max_rotate"):
        box_tfms("endoscopy", SIZE, {"max_rotate": "far"})


@pytest.fixture
def drawn(tmp_path):
    """Six images, four of them with a square, and a table that says which are trained on."""
    for number in range(6):
        pixels = square((10 + number, 20, 50, 60)) if number < 4 else square((0, 0, 1, 1))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,square,{10 + number},20,50,60" for number in range(4)] + ["4.png,,,,,", "5.png,,,,,"]
    (tmp_path / "boxes.csv").write_text("\n".join(["path,label,x_min,y_min,x_max,y_max", *rows]))
    table = scan(tmp_path, label_from=None, progress=False)
    boxes = read_boxes(tmp_path / "boxes.csv", table)
    table = with_boxes(table, boxes).assign(partition=["train", "train", "train", "valid", "train", "valid"])
    spec = DetectorSpec("resnet18", ("square",), Preprocessing(64), Normalization([0.5] * 3, [0.25] * 3))
    return table, boxes, spec


def test_loaders_give_images_and_boxes_at_the_networks_size(drawn) -> None:
    table, boxes, spec = drawn
    dls = box_loaders(table, boxes, spec, bs=2, progress=False)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (4, 2)
    assert dls.device == default_device()  # without it fastai trains on the processor, GPU or not
    images, given = dls.valid.one_batch()
    assert images.shape == (2, 3, 64, 64) and given.shape == (2, 1, 5)
    np.testing.assert_allclose(given[0, 0].numpy(), [13 * 64 / 96, 20 * 64 / 96, 50 * 64 / 96, 40, 0], atol=1e-4)
    assert given[1, 0, 4] == -1  # no finding
    light = (240 / 255 - 0.5) / 0.25
    assert images[0, 0, 26, 20].item() == pytest.approx(light, abs=0.02)
    axes = dls.show_batch(max_n=2)
    assert len(axes) == 2 and {ax.get_title() for ax in axes} <= {"square", "(no finding)"}


def test_the_same_seed_trains_the_same_detector(drawn) -> None:
    table, boxes, spec = drawn
    states = []
    for seed in (1, 1, 2):
        with seeded(seed):
            dls = box_loaders(table, boxes, spec, modality="endoscopy", bs=2, progress=False)
            learn = box_learner(dls, build_detector(spec, weights=None))
            with learn.no_bar(), learn.no_logging():
                fit(learn, 1)
        states.append(torch.cat([one.flatten() for one in learn.model.net.head.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_a_split_without_a_box_in_train_is_refused(drawn) -> None:
    table, boxes, spec = drawn
    with pytest.raises(DataError, match="no training image has a box"):
        box_loaders(table.assign(partition=["valid"] * 4 + ["train"] * 2), boxes, spec, progress=False)


def test_boxes_too_small_to_learn_are_counted(drawn) -> None:
    table, boxes, spec = drawn
    boxes.table.loc[0, ["x_max", "y_max"]] = [11.0, 21.0]  # one pixel of 96, two thirds of one at 64
    with pytest.warns(MedclfWarning, match="1 boxes of training images are smaller than a pixel"):
        dls = box_loaders(table, boxes, spec, progress=False)
    assert len(dls.notes) == 1 and sum(map(len, dls.train_ds.given)) == 2
