import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from medclf.errors import DataError
from medclf.learn.detection import BoxedImages, box_tfms

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
