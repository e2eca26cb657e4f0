"""Where a training stands, in one safetensors file: weights, optimiser, schedule, random states. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.torch_core import get_model
from torch import Tensor

from medclf.errors import BundleError, MedclfWarning
from medclf.files import write_tensors
from medclf.learn.linear_probe import LinearProbe
from medclf.learn.preprocessing import described

FORMAT = 1
_KEY = "medclf"  # of the JSON in the safetensors header
_FIELDS = {
    "model",
    "opt",
    "frozen_idx",
    "scaler",
    "random",
    "loaders",
    "recorder",
    "position",
    "recipe",
    "head",
    "start",
}
_REMEDY = "remove it to train from the beginning, or copy it again from its source"


@dataclass
class Position:
    """How far a training has come.

    Args:
        fit: how many calls of `fit` (or `fit_one_cycle`) came before the one that was going on.
        epoch: its finished epochs.
        n_epoch: of how many; 0 between fits.
        rows: for each fit, for each finished epoch, what fastai's Recorder noted: losses and metrics.
    """

    fit: int = 0
    epoch: int = 0
    n_epoch: int = 0
    rows: list[list[list[float]]] = field(default_factory=list)


def save_checkpoint(learn: Any, path: str | Path, position: Position | None = None) -> None:
    """Write all that a training needs to go on as if it had not stopped.

    That is the model's weights and buffers, the optimiser's state and hyper-parameters, the position in the schedule,
    the mixed-precision scale, Python's, NumPy's and torch's random states, the loaders' epochs, the Recorder's notes,
    and what the linear probe did with the weights it left. The file is safetensors, with JSON in its header.

    Args:
        learn: a fastai `Learner`.
        path: the file; an older one is replaced whole, or stays as it was.
        position: how far it has come; "before the first epoch" where None.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from fastai.data.core import DataLoaders
        >>> from fastai.learner import Learner
        >>> learn = Learner(DataLoaders([], []), torch.nn.Linear(2, 1), loss_func=torch.nn.MSELoss())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(learn, f"{folder}/a.safetensors")
        ...     load_checkpoint(learn, f"{folder}/a.safetensors")
        Position(fit=0, epoch=0, n_epoch=0, rows=[])
    """
    own = vars(learn)  # a plain Learner would look for these in the network
    state = {
        "model": get_model(learn.model).state_dict(),
        "opt": learn.opt.state_dict() if learn.opt else None,
        "frozen_idx": learn.opt.frozen_idx if learn.opt else None,
        "scaler": _scaler(learn).state_dict() if _scaler(learn) else None,
        "random": random_state(),
        "loaders": [{"epoch": getattr(dl, "epoch", None), "rng": _rng_of(dl)} for dl in learn.dls.loaders],
        "recorder": _notes(learn),
        "position": asdict(position or Position()),
        "recipe": _recipe(learn),
        "head": _head_of(own["head"]) if own.get("head") is not None else None,
        "start": own.get("start"),
    }
    write_state(path, state)


def _head_of(head: LinearProbe) -> dict[str, Any]:
    return {**head.as_dict(), "held_out": head.held_out}


def load_checkpoint(learn: Any, path: str | Path) -> Position:
    """Bring a learner to where `save_checkpoint` left another of the same making.

    Args:
        learn: made as the other was: data, architecture, seed.
        path: the file.

    Returns:
        How far the training had come.

    Raises:
        BundleError: the file is damaged, of another format version, or of another network, data or seed.
    """
    state = read_state(path)
    apply_state(learn, state, path, freeze=True)
    return position_in(state, path)


def position_in(state: Mapping[str, Any], path: str | Path) -> Position:
    """How far the training had come.

    Raises:
        BundleError: what stands there is no position.
    """
    try:
        position = Position(**state["position"])
        if min(position.fit, position.epoch, position.n_epoch) < 0 or len(position.rows) > position.fit + 1:
            raise ValueError(f"fit {position.fit}, epoch {position.epoch}")
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path} does not say how far the training had come: {error}", _REMEDY) from error
    return position


def apply_state(learn: Any, state: dict[str, Any], path: str | Path, *, freeze: bool = False) -> None:
    """Put what `read_state` gave into the learner.

    Args:
        learn: the learner.
        state: of `read_state`.
        path: where it comes from, for messages.
        freeze: freeze the stages that were frozen; inside a fit that is the caller's business.

    Raises:
        BundleError: it does not fit the learner.
    """
    check_recipe(learn, state, path)
    model = get_model(learn.model)
    try:
        model.load_state_dict(state["model"])
        if state["opt"] is not None:
            if learn.opt is None:
                learn.create_opt()
            learn.opt.load_state_dict(_as_laid_out(state["opt"], [p for pg in learn.opt.param_lists for p in pg]))
        if state["scaler"] is not None and _scaler(learn):
            _scaler(learn).load_state_dict(state["scaler"])
        if freeze and state["frozen_idx"] is not None:
            learn.opt.freeze_to(state["frozen_idx"])
        for dl, kept in zip(learn.dls.loaders, state["loaders"], strict=True):
            _restore_loader(dl, kept)
        if state["position"]["epoch"]:
            _restore_notes(learn, state["recorder"])
        if state["head"] is not None:
            held_out = state["head"].pop("held_out", None)
            learn.head = LinearProbe(**state["head"], held_out=None if held_out is None else np.asarray(held_out))
        if state["start"] is not None:
            learn.start = state["start"]
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BundleError(f"{path} does not fit this learner: {reason}", "make the learner as it was made") from error
    restore_random(state["random"])


def check_recipe(learn: Any, state: Mapping[str, Any], path: str | Path) -> None:
    """See that the learner was made as the checkpoint's was.

    Raises:
        BundleError: it was not; the message says in what they differ.
    """
    here, there = _recipe(learn), state["recipe"]
    if here is None or there is None:
        return
    other = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    if other:
        first = other[0]
        raise BundleError(
            f"{path} is of another training: {', '.join(other)} differ "
            f"({first}: {there.get(first)} then, {here.get(first)} now)",
            "train with the same data and settings, or remove it to train from the beginning",
        )


def random_state() -> dict[str, Any]:
    """The state of every generator that a training may draw from: Python's, NumPy's, torch's on CPU and CUDA."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "python": list(random.getstate()[1]),
        "python_gauss": random.getstate()[2],
        "numpy": np.asarray(keys),
        "numpy_rest": [str(kind), int(place), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(state: Mapping[str, Any]) -> None:
    """Set every generator to what `random_state` gave.

    Example:
        >>> state = random_state()
        >>> first = random.random(), np.random.rand(), torch.rand(()).item()
        >>> restore_random(state)
        >>> first == (random.random(), np.random.rand(), torch.rand(()).item())
        True
    """
    random.setstate((3, tuple(state["python"]), state["python_gauss"]))
    kind, *rest = state["numpy_rest"]
    np.random.set_state((kind, state["numpy"], *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    elif state["cuda"]:
        text = f"the checkpoint is of a machine with {len(state['cuda'])} GPUs: dropout draws other numbers here"
        warnings.warn(MedclfWarning(text), stacklevel=3)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed every generator, and give each its state back afterwards; None changes nothing.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(())
        >>> with seeded(7):
        ...     bool(first == torch.rand(()))
        True
    """
    if seed is None:
        yield
        return
    state = random_state()
    random.seed(int(seed))
    np.random.seed(seed % 2**32)
    torch.manual_seed(int(seed) % 2**64)
    try:
        yield
    finally:
        restore_random(state)


def _rng_of(dl: Any) -> list[Any] | None:
    """The state of a fastai loader's own generator."""
    rng = getattr(dl, "rng", None)
    return list(rng.getstate()[1]) if isinstance(rng, random.Random) else None


def _restore_loader(dl: Any, kept: Mapping[str, Any]) -> None:
    if kept["epoch"] is not None:
        dl.epoch = kept["epoch"]
    if kept["rng"] is not None:
        dl.rng.setstate((3, tuple(kept["rng"]), None))


def _scaler(learn: Any) -> Any:
    return getattr(learn, "scaler", None) if hasattr(learn, "mixed_precision") else None


def _notes(learn: Any) -> dict[str, Any] | None:
    """What fastai's Recorder has noted in this fit, batch by batch, and the schedule's hyper-parameters."""
    recorder = getattr(learn, "recorder", None)
    if recorder is None or not hasattr(recorder, "lrs"):
        return None
    schedule = getattr(learn, "param_scheduler", None)
    return {
        "lrs": [float(lr) for lr in recorder.lrs],
        "losses": torch.tensor([float(loss) for loss in recorder.losses]),
        "iters": list(recorder.iters),
        "smooth": [recorder.smooth_loss.val, recorder.smooth_loss.count],
        "hps": {k: [float(v) for v in values] for k, values in getattr(schedule, "hps", {}).items()},
        "train_iter": getattr(learn, "train_iter", 0),
    }


def _restore_notes(learn: Any, notes: Mapping[str, Any] | None) -> None:
    recorder = getattr(learn, "recorder", None)
    if notes is None or recorder is None:
        return
    recorder.lrs, recorder.iters = list(notes["lrs"]), list(notes["iters"])
    recorder.losses = list(notes["losses"])
    recorder.smooth_loss.val, recorder.smooth_loss.count = notes["smooth"]
    schedule = getattr(learn, "param_scheduler", None)
    if schedule is not None:
        schedule.hps = {k: list(values) for k, values in notes["hps"].items()}
    learn.train_iter = notes["train_iter"]


def _as_laid_out(state: Any, params: list[Tensor]) -> Any:
    """An optimiser's state with each tensor in its parameter's memory layout, which fused kernels take for granted."""
    entries = state["state"]
    for index, entry in entries.items() if isinstance(entries, dict) else enumerate(entries):
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape == params[index].shape:
                entry[name] = torch.empty_like(params[index], dtype=value.dtype).detach().copy_(value)
    return state


def _recipe(learn: Any) -> Any:
    """What a learner of `med_learner` was made with, as JSON gives it back; None of another."""
    return json.loads(json.dumps(described(learn), default=str)) if "arch" in vars(learn) else None


def write_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts, lists, numbers, text, arrays and tensors as one safetensors file.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = {key: _packed(value, key, tensors) for key, value in state.items()}
    described = {"format": FORMAT, "state": skeleton, "digest": _digest(skeleton, tensors)}
    write_tensors(path, tensors, {_KEY: json.dumps(described)})


def read_state(path: str | Path) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        BundleError: no such file, damaged, or of another format version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if described["format"] != FORMAT:
            raise BundleError(
                f"{path} has format version {described['format']}, this medclf reads {FORMAT}",
                "go on with the version of medclf that wrote it",
            )
        if described["digest"] != _digest(described["state"], tensors):
            raise BundleError(f"{path} was changed since it was written", _REMEDY)
        state = {key: _unpacked(value, tensors) for key, value in described["state"].items()}
        missing = _FIELDS - state.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return state
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is not a checkpoint of medclf, or damaged: {error}", _REMEDY) from error


def _digest(skeleton: Any, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(json.dumps(skeleton).encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it, its tensors put aside under their names."""
    if isinstance(value, (Tensor, np.ndarray)) and not isinstance(value, np.generic):
        tensors[name] = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {"dict": [[key, _packed(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    items = [_packed(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return {"tuple": items} if isinstance(value, tuple) else items


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "array":
        return tensors[held].numpy()
    if kind == "tuple":
        return tuple(_unpacked(item, tensors) for item in held)
    if kind == "dict":
        return {key: _unpacked(item, tensors) for key, item in held}
    raise ValueError(f"it holds a '{kind}'")
