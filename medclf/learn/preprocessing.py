"""What loaders really do to an image of the validation set, as a `Preprocessing`; what cannot be said so is refused."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.torch_core import get_model
from fastai.vision import augment
from fasttransform.transform import compose_tfms
from PIL import Image

from medclf.errors import BundleError, DataError, PreprocessingError, argument
from medclf.images.preprocessing import Preprocessing, Resample, Sampling, Size, Step
from medclf.learn.image_block import MedImage, ReadMedImage
from medclf.learn.labels import class_names, is_multi_label, is_ordinal
from medclf.learn.presets import MedResize, QuickNormalize, scaled
from medclf.models.head_layers import Layer
from medclf.models.heads import describe_head, is_plain
from medclf.models.inputs import Inputs
from medclf.models.pooling import GeMPool
from medclf.models.spec import LoaderSettings, ModelSpec, Normalization
from medclf.models.stage_maps import widths_of

_WAYS = (
    "Resize, RandomResizedCrop, CropPad, RandomCrop or MedResize as item_tfms, "
    "aug_transforms and Normalize as batch_tfms"
)
_VALID = 1  # fastai's split index
_DRIFT = 2e-3  # of normalised values; one grey level is 4e-3 or more


def preprocessing_of(dls: Any) -> Preprocessing:
    """How the loaders bring a file of the validation set to what the network sees.

    Args:
        dls: medclf's or fastai's, of one image a row.

    Raises:
        PreprocessingError: they do what a `Preprocessing` cannot hold: another reading, a transform of one's own.

    Example:
        >>> # preprocessing_of(learn.dls).input_size
    """
    loader = _validation_loader(dls)
    found = replace(reading_of(dls), **_fitted(loader.after_item.fs))
    for tfm in getattr(loader.before_batch, "fs", ()):
        if _acts(tfm):
            raise _unknown(tfm, "before_batch")
    store = (getattr(loader, "stores", None) or {}).get(_VALID)
    if store is not None and store.preprocessing != found:
        raise PreprocessingError(
            "the loaders' item transforms were changed after their images were stored (cache=True)",
            "make the loaders again, with these item_tfms",
        )
    return replace(found, sampling=_sampling(loader.after_batch.fs, found.size))


def normalization_of(dls: Any) -> Normalization:
    """What the loaders' Normalize subtracts and divides by; (0, 1) where there is none.

    Raises:
        PreprocessingError: there are several, or one of another shape.
    """
    found = [tfm for tfm in _validation_loader(dls).after_batch.fs if isinstance(tfm, Normalize)]
    channels = reading_of(dls).channels
    if not found:
        return Normalization.none(channels)
    if len(found) > 1 or any(tfm.mean.numel() != channels or tfm.std.numel() != channels for tfm in found):
        raise PreprocessingError("the loaders normalise more than once, or not by channel", "give one Normalize")
    mean, std = (tuple(float(v) for v in values.flatten()) for values in (found[0].mean, found[0].std))
    return Normalization(mean, std)


def reading_of(dls: Any) -> Preprocessing:
    """The window, frame and channels that the loaders read files with; its size says nothing.

    Raises:
        PreprocessingError: the images are not read by medclf.
    """
    lists = getattr(_validation_loader(dls).dataset, "tls", None)  # a data set of the user's own keeps no transforms
    tfms = list(lists[0].tfms.fs) if lists else []
    readers = [place for place, tfm in enumerate(tfms) if isinstance(tfm, ReadMedImage)]
    if not readers:
        raise PreprocessingError(
            "the loaders do not read their images with medclf (fastai's PILImage clips 16 bits and leaves photographs "
            "turned)",
            "give MedImageBlock() in place of ImageBlock, or make the loaders with MedDataLoaders",
        )
    for tfm in tfms[readers[0] + 1 :]:
        if _acts(tfm):
            raise _unknown(tfm, "the block's type transforms")
    reader = tfms[readers[0]]
    return Preprocessing(window=reader.window, frame=reader.frame, channels=reader.channels or 3)


def stored_as(item_tfms: Any, reading: Preprocessing) -> dict[int, Preprocessing]:
    """What a store of decoded images must hold for training (0) and for everything else (1) to obey `item_tfms`.

    Args:
        item_tfms: a transform, or a list of them.
        reading: window, frame and channels.

    Raises:
        PreprocessingError: a transform draws anew for each image, or is not known, so that no store can obey it.
    """
    tfms = _sorted(item_tfms)
    random = [tfm for tfm in tfms if not _is_same_in_training(tfm)]
    if random:
        raise PreprocessingError(
            f"{argument('cache', True)} cannot obey {type(random[0]).__name__} in item_tfms, which changes training "
            "images anew each time",
            f"use {argument('cache', False)}; or give MedResize, Resize(method='squish') or CropPad, and draw in "
            "batch_tfms",
        )
    valid = replace(reading, **_fitted(tfms))
    own = [tfm for tfm in tfms if type(tfm) is MedResize]
    return {0: replace(valid, size=scaled(own[0].size, own[0].train_scale)) if own else valid, 1: valid}


def spec_of(learn: Any) -> ModelSpec:
    """What a bundle of this learner must say, looked up now, and tried on drawn images.

    Args:
        learn: of `med_learner`.

    Raises:
        PreprocessingError: see `preprocessing_of`; or the description gives other pixels than the loaders do.
        BundleError: the network was not made by `med_learner`, or has no such labels.
    """
    if not isinstance(vars(learn).get("arch"), str):
        raise BundleError(
            "this learner's network was not built by med_learner, so a bundle could not build it again",
            'make the learner with med_learner(dls, "resnet18"), or with another architecture that it knows',
        )
    spec = ModelSpec(
        learn.arch,
        tuple(class_names(learn.dls)),
        preprocessing_of(learn.dls),
        normalization_of(learn.dls),
        is_multi_label(learn.dls),
        learn.dropout,
        learn.weights,
        settings_of(learn.dls),
        head_of(learn.model),
        is_ordinal(learn.dls),
        bool(widths_of(next(get_model(learn.model).children()))),
    )
    _try(_validation_loader(learn.dls), spec)
    return spec


def head_of(model: Any) -> list[Layer] | None:
    """The layers of a network's head, for its `ModelSpec`; None for `build_head`'s.

    Raises:
        BundleError: there is no head, or a layer that a bundle cannot describe.
    """
    parts = list(getattr(model, "module", model).children())  # out of DistributedDataParallel
    if len(parts) != 2:
        raise BundleError("this network is not a body followed by a head", "make it with med_learner")
    usual = is_plain(parts[1]) and not isinstance(parts[1][0], GeMPool)
    return None if usual else describe_head(parts[1])


def settings_of(dls: Any) -> LoaderSettings:
    """What medclf's loaders were made with; the defaults for others."""
    return getattr(dls, "settings", None) or LoaderSettings()


def described(learn: Any) -> dict[str, Any]:
    """What `results.json` says of a learner: as a bundle does, without what cannot be described.

    A learner that `med_learner` did not make is described by its loaders alone.
    """
    found: dict[str, Any] = {key: vars(learn)[key] for key in ("arch", "weights", "dropout") if key in vars(learn)}
    if callable(found.get("arch")):  # fastai's vision_learner keeps the function
        found["arch"] = getattr(found["arch"], "__name__", str(found["arch"]))
    with contextlib.suppress(DataError):  # loaders of a user's own may have no labels
        vocab = class_names(learn.dls)
        found |= {"vocab": vocab, "n_out": len(vocab), "multi_label": is_multi_label(learn.dls)}
    with contextlib.suppress(PreprocessingError):
        preprocessing, normalization = preprocessing_of(learn.dls), normalization_of(learn.dls)
        found |= {"n_in": preprocessing.channels, "preprocessing": preprocessing.as_dict()}
        found |= {"normalization": normalization.as_dict()}
    return found | settings_of(learn.dls).as_dict()


def _validation_loader(dls: Any) -> Any:
    return dls.loaders[min(_VALID, len(dls.loaders) - 1)]


def _sorted(tfms: Any) -> list[Any]:
    """As fastai orders them: by `order`, which a class stands for as well."""
    listed = [tfm() if isinstance(tfm, type) else tfm for tfm in (tfms if isinstance(tfms, (list, tuple)) else [tfms])]
    return sorted((tfm for tfm in listed if tfm is not None), key=lambda tfm: getattr(tfm, "order", 0))


def _acts(tfm: Any) -> bool:
    """Whether fastai applies it to validation images."""
    return isinstance(tfm, augment.AffineCoordTfm) or getattr(tfm, "split_idx", None) != 0


def _unknown(tfm: Any, where: str) -> PreprocessingError:
    name = getattr(tfm, "name", None) or type(tfm).__name__
    return PreprocessingError(
        f"{name} in {where} acts on validation images, and a bundle cannot carry it over",
        f"use {_WAYS}; or give the transform split_idx = 0 where it is meant for training alone",
    )


def _fitted(tfms: Iterable[Any]) -> dict[str, Any]:
    """`size` and `resize` of a `Preprocessing`, of the item transforms."""
    acting = [tfm for tfm in tfms if type(tfm) is not ToTensor and _acts(tfm)]
    if not acting:
        raise PreprocessingError(
            "no item transform brings the images to one size", "give item_tfms=Resize(224), or size= and no item_tfms"
        )
    if type(acting[0]) is MedResize and len(acting) == 1:
        return {"size": acting[0].size, "resize": acting[0].resize}
    steps = tuple(step for tfm in acting for step in _steps(tfm))
    return {"size": steps[-1].size, "resize": steps}


def _steps(tfm: Any) -> Sequence[Step]:
    """One of fastai's transforms of an image, as it acts on validation images."""
    if type(tfm) is augment.Resize:
        return [Step(_size(tfm.size), tfm.method, tfm.pad_mode, _filter(tfm))]
    if type(tfm) is augment.CropPad:
        return [Step(_size(tfm.size), "center", tfm.pad_mode)]
    if type(tfm) is augment.RandomCrop:
        return [Step(_size(tfm.size), "center", "zeros")]
    if type(tfm) is augment.RandomResizedCrop:
        height, width = _size(tfm.size)
        more = math.ceil(max(height, width) * tfm.val_xtra / 8) * 8
        whole = Step((height + more, width + more), "squish", resample=_filter(tfm))
        return [whole, Step((height, width), "center", "zeros")] if more else [whole]
    raise _unknown(tfm, "item_tfms")


def _size(size: Any) -> Size:
    """(height, width) of fastai's (width, height)."""
    return int(size[1]), int(size[0])


def _filter(tfm: Any) -> Resample:
    return cast(Resample, Image.Resampling(tfm.mode).name.lower())


def _is_same_in_training(tfm: Any) -> bool:
    if type(tfm) is augment.Resize:
        return bool(tfm.method == "squish")
    return type(tfm) in (MedResize, augment.CropPad, ToTensor)


def _sampling(tfms: Iterable[Any], prepared: Size) -> Sampling | None:
    """What the batch transforms do to the size of validation images."""
    found: list[Sampling] = []
    for tfm in tfms:
        if not _acts(tfm) or type(tfm) in (Normalize, QuickNormalize):
            continue
        if type(tfm) is IntToFloatTensor and tfm.div == 255:
            continue
        if isinstance(tfm, augment.AffineCoordTfm) and type(tfm).__module__ == augment.__name__:
            if tfm.size is not None:
                size = (tfm.size, tfm.size) if isinstance(tfm.size, int) else tuple(tfm.size)
                found.append(Sampling(size, None, tfm.mode, tfm.pad_mode, bool(tfm.align_corners)))
        elif type(tfm) is augment.RandomResizedCropGPU:
            found.append(Sampling(tuple(tfm.size), _central(tfm, prepared), tfm.mode))
        else:
            raise _unknown(tfm, "batch_tfms")
    if len(found) > 1:
        raise PreprocessingError("the batch transforms change the size twice", "give size= to one of them")
    return found[0] if found else None


def _central(tfm: augment.RandomResizedCropGPU, prepared: Size) -> tuple[int, int, int, int]:
    """(top, left, height, width): what it crops where nothing is drawn, rounded as it rounds."""
    height, width = prepared
    if width / height < tfm.ratio[0]:
        height = int(width / tfm.ratio[0])
    elif width / height > tfm.ratio[1]:
        width = int(height * tfm.ratio[1])
    height, width = int(height * tfm.valid_scale), int(width * tfm.valid_scale)
    return (prepared[0] - height) // 2, (prepared[1] - width) // 2, height, width


def _try(loader: Any, spec: ModelSpec) -> None:
    """Both ways on drawn images; another version of fastai, or a transform that hides what it does, shows here."""
    channels, (height, width) = spec.n_in, spec.preprocessing.size
    for shape in ((61, 83), (97, 70), (height + 40, width * 2 + 11)):
        row, column, colour = np.ogrid[: shape[0], : shape[1], :channels]
        picture = np.abs((row * 7 + column * 3 + row * column // 9 + colour * 67) % 510 - 255).astype(np.uint8)
        image = MedImage.create(picture, channels=channels)
        item = compose_tfms((image,), tfms=loader.after_item.fs, split_idx=_VALID)
        batch = (item[0][None].to(loader.device or "cpu"),)
        theirs = compose_tfms(batch, tfms=loader.after_batch.fs, split_idx=_VALID)[0].as_subclass(torch.Tensor)
        inputs = Inputs(spec.preprocessing, spec.normalization, theirs.device)
        ours = inputs(inputs.tensor(spec.preprocessing.prepare(picture)[None]))
        gap = float((ours - theirs.float()).abs().max()) if ours.shape == theirs.shape else math.inf
        if not gap * max(spec.normalization.std) <= _DRIFT:
            raise PreprocessingError(
                f"the loaders prepare a drawn image of {shape[1]} x {shape[0]} pixels otherwise than they say",
                f"use {_WAYS}",
            )
