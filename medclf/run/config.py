"""What is wrong with the settings of a run, seen as early as it can be: before the data are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medclf.config import TrainConfig
from medclf.errors import DataError, WeightsError, argument, did_you_mean, missing, require
from medclf.images.windowing import resolve_window
from medclf.modalities import changes_of
from medclf.options import options
from medclf.parallel import usable_device
from medclf.reporting.card import read_card

Say = Callable[[str], None]  # called with a line for the user

DEVICES = ("cpu", "cuda", "mps", "xpu")


def check_beside_boxes(settings: Mapping[str, Any]) -> None:
    """See that nothing is asked for beside boxes whose own check would name a way that boxes bar, too.

    Args:
        settings: of `TrainConfig`, as they were given.

    Raises:
        DataError: something is.
    """
    asked = {name: settings.get(name) for name in ("tabular", "unit")}
    asked["frame"] = "all" if settings.get("frame") == "all" else None
    for name, value in asked.items():
        if value:
            told = argument(name, value) if name == "frame" else argument(name)
            raise DataError(f"{told} does not go with {argument('boxes')}", "leave one of them out")


def check_early(config: TrainConfig) -> None:
    """See what can be seen before anything heavy is imported: files that are not there, names that are not known.

    Raises:
        DataError, WeightsError: what their messages say.
    """
    for name, known in options(type(config)).items():
        path = getattr(config, name)
        if known.option.exists and path and not Path(path).exists():
            text, remedy = missing(path)
            raise DataError(f"{argument(name)}: {text}", remedy)
    if config.labels and not any(Path(place, config.labels).exists() for place in (".", config.data)):
        text, remedy = missing(config.labels)
        raise DataError(f"{argument('labels')}: {text}", remedy)
    if config.card:
        read_card(config.card)
    if config.track:
        require(config.track, config.track)
    if config.weights not in (None, "default") and not Path(config.weights).is_file():
        ways = f"give a file, {argument('weights', 'default')} or {argument('weights', None)}"
        text, remedy = missing(config.weights, ways)
        raise WeightsError(f"{argument('weights')}: {text}", remedy)
    resolve_window(config.window)
    if changes_of(config.aug) and config.modality is None:
        raise DataError(
            f"{argument('aug')} changes a modality's augmentation, and there is none", f"name a {argument('modality')}"
        )
    kind, _, number = (config.device or "cpu").partition(":")
    if kind not in DEVICES or not (number.isdigit() or number == ""):
        allowed = f"{', '.join(DEVICES)}, or one of several such as cuda:1"
        remedy = did_you_mean(kind, DEVICES) or "leave it out to take the GPU if there is one"
        raise DataError(f"{argument('device')} must be {allowed}, not {config.device!r}", remedy)


def check_machine(config: TrainConfig) -> None:
    """See what needs torch to be seen: an unknown architecture or augmentation, weights that do not fit, no device.

    Raises:
        MedclfError: what its message says.
    """
    from medclf.learn.presets import tfms_for
    from medclf.models.backbones import check_weights, fitted_to

    if config.device:
        usable_device(config.device)
    tfms_for(config.modality, config.size, **changes_of(config.aug))
    archs = {fitted_to(config.arch, (side, side)) for side in (*config.first_sizes, config.size)}
    if len(archs) > 1:
        raise DataError(
            f"{config.arch} takes images of one size alone", f"give one {argument('size')}, not several in turn"
        )
    check_weights(archs.pop(), config.weights)
