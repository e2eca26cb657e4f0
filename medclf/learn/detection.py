"""Images with boxes as fastai trains on them: loaders whose augmentation moves the boxes along, and the learner."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.torch_core import default_device, get_model
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from medclf.dataset.boxes import Boxes
from medclf.dataset.labels import root_of
from medclf.errors import DataError, MedclfWarning, ReadError, argument
from medclf.images.box_places import SIDES, to_prepared
from medclf.images.heatmap import Box, framed
from medclf.learn.augment import Augment
from medclf.modalities import MODALITIES
from medclf.models.detector import Detector
from medclf.models.detector_spec import DetectorSpec
from medclf.parallel import map_ahead
from medclf.progress import watch

EPOCHS, LR, BS = 20, 1e-3, 8
_BODY = 10  # the backbone learns so many times more slowly
_MOST_BYTES = 4 << 30  # of prepared pixels held in memory
_FREE = 45.0  # degrees; a modality that is turned further has no upright
_TILT = 10.0


class BoxedImages:
    """Prepared images with their boxes: uint8 (C, H, W), and (M, 5) of corners and the label's place in the vocab.

    Args:
        pixels: (n, H, W, C) uint8.
        given: (m, 5) of each image.
        tfms: of torchvision's, applied to image and boxes together.
    """

    def __init__(self, pixels: np.ndarray, given: Sequence[np.ndarray], tfms: Callable[..., Any] | None = None) -> None:
        self.pixels, self.given, self.tfms = pixels, list(given), tfms

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.ascontiguousarray(self.pixels[row].transpose(2, 0, 1)))
        given = torch.from_numpy(np.asarray(self.given[row], np.float32).reshape(-1, 5))
        if self.tfms is None:
            return image, given
        size = (int(image.shape[1]), int(image.shape[2]))
        boxes: Any = tv_tensors.BoundingBoxes(given[:, :4], format="XYXY", canvas_size=size)
        moved = self.tfms({"image": tv_tensors.Image(image), "boxes": boxes, "labels": given[:, 4]})
        corners = moved["boxes"].as_subclass(Tensor)
        return moved["image"].as_subclass(Tensor), torch.cat([corners, moved["labels"][:, None]], 1)


class QuarterTurns(v2.Transform):
    """Turn image and boxes by 0, 90, 180 or 270 degrees: boxes stay as tight as they were drawn."""

    _transformed_types = (tv_tensors.Image, tv_tensors.BoundingBoxes)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: D102 - torchvision's protocol
        return {"turns": int(torch.randint(4, ()))}

    _get_params = make_params  # its name before torchvision 0.21

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: D102 - torchvision's protocol
        return v2.functional.rotate(inpt, 90.0 * params["turns"])

    _transform = transform


def box_tfms(modality: str | None, size: tuple[int, int], aug: Mapping[str, Any] | None = None) -> v2.Compose | None:
    """A modality's augmentation by torchvision's transforms, which move boxes along.

    A modality that has no upright is turned by quarters and tilted by up to 10 degrees: a box around a box that was
    turned freely is larger than what it shows. Warp and shear are left out.

    Args:
        modality: a row of `medclf.modalities.MODALITIES`; None augments nothing.
        size: height and width in pixels.
        aug: changes of its settings.

    Raises:
        DataError: a setting that it cannot have.
    """
    if modality is None:
        return None
    known = Augment(size=size, **(MODALITIES[modality].settings | dict(aug or {}))).settings()
    free = known["max_rotate"] >= _FREE
    tilt = _TILT if free else known["max_rotate"]
    steps: list[Any] = []
    if known["flip_lr"]:
        steps.append(v2.RandomHorizontalFlip())
    if known["flip_ud"]:
        steps.append(v2.RandomVerticalFlip())
    if free and size[0] == size[1]:
        steps.append(QuarterTurns())
    shift, zooms = known["max_shift"], (known["min_zoom"], known["max_zoom"])
    if tilt or shift or zooms != (1, 1):
        steps.append(v2.RandomAffine(tilt, (shift, shift), zooms, interpolation=v2.InterpolationMode.BILINEAR))
    colours = [known[name] for name in ("brightness", "contrast", "saturation", "hue")]
    if any(colours):
        steps.append(v2.ColorJitter(*colours))
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)])


class BoxLoaders(DataLoaders):
    """fastai's `DataLoaders` of images with boxes.

    Attributes:
        spec: of the detector that they are made for.
        notes: what is not learned, in sentences.
    """

    spec: DetectorSpec
    notes: tuple[str, ...] = ()

    def show_batch(self, b: Any = None, max_n: int = 9, figsize: tuple[float, float] | None = None, **_: Any) -> Any:
        """Draw training images as the detector sees them, with their boxes."""
        from fastai.vision.core import show_image
        from fastai.vision.data import get_grid

        images, given = self.train.one_batch() if b is None else b
        axes = get_grid(min(max_n, len(images)), figsize=figsize)
        mean, std = (torch.tensor(one).view(-1, 1, 1) for one in self._stats)
        for image, rows, ax in zip(images, given, axes, strict=False):
            pixels = ((image.cpu() * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
            known = rows[rows[:, 4] >= 0]
            boxes = [Box(*(round(float(side)) for side in row[:4])) for row in known]
            title = ", ".join(sorted({self.spec.vocab[int(row[4])] for row in known})) or "(no finding)"
            show_image(framed(pixels, boxes), ctx=ax, title=title)
        return axes

    @property
    def _stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.spec.normalization.mean, self.spec.normalization.std


def box_loaders(
    table: pd.DataFrame,
    boxes: Boxes,
    spec: DetectorSpec,
    *,
    modality: str | None = None,
    aug: Mapping[str, Any] | None = None,
    bs: int = BS,
    device: Any = None,
    progress: bool = True,
) -> BoxLoaders:
    """Loaders of the training and the validation images, those without a finding too.

    Args:
        table: as `with_boxes` returns it, with its column partition decided.
        boxes: of its images.
        spec: of the detector.
        modality: whose augmentation is used; none where None.
        aug: changes of its settings.
        bs: images of a batch.
        device: where they are used; the GPU if there is one, where None.
        progress: show a progress bar when it lasts.

    Raises:
        DataError: there are no training images, none of them has a box, or they need more than 4 GiB.

    Warns:
        MedclfWarning: boxes of training images are too small to learn at this size, or lie outside of a crop.
    """
    root = root_of(table)
    parts = {}
    for part in ("train", "valid"):
        rows = table[(table["problem"] == "") & (table["partition"] == part)]
        pixels, given = _prepared([root / path for path in rows["path"]], list(rows["path"]), boxes, spec, progress)
        parts[part] = (pixels, given)
    trained = table["path"][(table["problem"] == "") & (table["partition"] == "train")]
    lost = int(boxes.table["path"].isin(trained).sum()) - sum(map(len, parts["train"][1]))
    text = f"{lost} boxes of training images are smaller than a pixel at this size, or outside the crop: not learned"
    if not any(len(one) for one in parts["train"][1]):
        raise DataError(text if lost else "no training image has a box", "look at the split and at what was left out")
    if lost:
        warnings.warn(MedclfWarning(text), stacklevel=2)
    size = spec.preprocessing.size
    train = BoxedImages(*parts["train"], box_tfms(modality, size, aug))
    collate = _Collate(spec)
    loaders = [
        DataLoader(train, bs=bs, shuffle=True, num_workers=0, create_batch=collate, drop_last=len(train) > 2 * bs),
        DataLoader(BoxedImages(*parts["valid"]), bs=bs, num_workers=0, create_batch=collate),
    ]
    dls = BoxLoaders(*loaders, path=root, device=default_device() if device is None else torch.device(device))
    dls.spec, dls.notes = spec, (text,) if lost else ()
    return dls


class _Collate:
    """Items -> normalised float images (B, C, H, W), and boxes (B, M, 5) filled up with labels of -1."""

    def __init__(self, spec: DetectorSpec) -> None:
        stats = (spec.normalization.mean, spec.normalization.std)
        self.mean, self.std = (torch.tensor(one).view(1, -1, 1, 1) for one in stats)

    def __call__(self, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images = (torch.stack([image for image, _ in items]).float() / 255 - self.mean) / self.std
        given = torch.full((len(items), max([1, *(len(rows) for _, rows in items)]), 5), -1.0)
        for row, (_, boxes) in enumerate(items):
            given[row, : len(boxes)] = boxes
        return images, given


def _prepared(
    files: Sequence[Path], paths: Sequence[str], boxes: Boxes, spec: DetectorSpec, progress: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pixels and boxes of images; those of which a crop leaves nothing are gone."""
    how = spec.preprocessing
    need = len(files) * how.size[0] * how.size[1] * how.channels
    if need > _MOST_BYTES:
        raise DataError(f"{len(files)} images need {need / 2**30:.1f} GiB", f"give a smaller {argument('size')}")
    own = dict(iter(boxes.table.groupby("path")))
    place = {label: number for number, label in enumerate(spec.vocab)}

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            image = how.read(files[row])
        except ReadError as error:
            raise DataError(f"{files[row]} cannot be read any more: {error.reason}", "scan the images again") from error
        known = own.get(paths[row])
        if known is None:
            return how.fit(image), np.zeros((0, 5))
        corners = to_prepared(known[list(SIDES)].to_numpy(float), how, image.shape)
        labels = np.array([[place[label]] for label in known["label"]], float)
        whole = np.concatenate([corners, labels], 1)
        return how.fit(image), whole[(corners[:, 2:] - corners[:, :2]).min(1) >= 1]

    found = list(watch(map_ahead(read, range(len(files))), len(files), "Reading images", progress=progress))
    pixels = np.stack([one for one, _ in found]) if found else np.zeros((0, *how.size, how.channels), np.uint8)
    return pixels, [given for _, given in found]


def box_learner(dls: DataLoaders, detector: Detector, **options: Any) -> Learner:
    """fastai's `Learner` of a detector: the backbone learns ten times more slowly than the rest.

    Args:
        dls: of `box_loaders`.
        detector: see `build_detector`.
        options: of fastai's `Learner`.

    Example:
        >>> # box_learner(dls, detector).fit_one_cycle(20, slice(1e-4, 1e-3))
    """
    return Learner(dls, detector, loss_func=detector.loss, splitter=_groups, lr=LR, **options)


def _groups(detector: Detector) -> list[list[Any]]:
    body = list(detector.body.parameters())
    own = {id(parameter) for parameter in body}
    rest = [parameter for parameter in detector.parameters() if id(parameter) not in own]
    return [rest] if detector.frozen else [body, rest]


def fit(learn: Learner, epochs: int = EPOCHS, lr: float = LR) -> None:
    """Train with one cycle; see `box_learner`."""
    learn.fit_one_cycle(epochs, lr if get_model(learn.model).frozen else slice(lr / _BODY, lr))
