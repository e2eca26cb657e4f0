"""Files that try to run code, reach the network or lead elsewhere, offered as weights, bundles and ONNX files.

`python tests/attacks/hostile_models.py` makes each in a temporary folder, opens it under an audit hook and prints
what became of it. A canary proves that the hook sees an execution when there is one.
"""

from __future__ import annotations

import builtins
import importlib
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import timm
import torch
from safetensors.torch import save

from medclf.errors import MedclfError
from medclf.files import sha256_of
from medclf.images.preprocessing import Preprocessing
from medclf.inference import bundle_format
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.onnx import OnnxModel
from medclf.models.backbones import build_body, build_network
from medclf.models.plain_nets import LITE_NETS
from medclf.models.spec import ModelSpec, Normalization

MARK = "medclf-exploit"
BY_URL = "legacy_seresnet18"  # one of 19 architectures whose weights timm fetches by URL, not from its hub
WATCHED = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "ctypes.dlopen",
    "socket.",
)
events: list[str] = []


def watch(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook: processes, sockets and libraries always; code where it carries the mark."""
    marked = event in ("exec", "compile") and MARK in _text(args[0])
    if event.startswith(WATCHED) or marked:
        events.append(event)


def _text(code: Any) -> str:
    return str(getattr(code, "co_consts", code) if not isinstance(code, bytes) else code.decode(errors="replace"))


class Payload:
    """Unpickled, it runs a shell command, a line of Python, or opens a connection."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Stumble:
    """The restricted reading fails on it with a TypeError, which some take for a torch too old for that reading and
    read again without restriction; that one does not fail, and comes to what stands behind it."""

    def __reduce__(self) -> Any:
        return OrderedDict, (), (None, {})


def payloads() -> Iterator[tuple[str, Payload]]:
    yield "shell", Payload(os.system, f"true {MARK}")
    yield "python", Payload(builtins.exec, f"'{MARK}'")
    yield "eval", Payload(builtins.eval, f"'{MARK}'")
    yield "socket", Payload(__import__("socket").create_connection, ("127.0.0.1", 9), 0.1)


def weights(folder: Path) -> Iterator[Path]:
    """Hostile files for `weights=`."""
    state = {"conv_stem.weight": torch.zeros(32, 3, 3, 3)}
    for name, payload in payloads():
        for suffix in ("pth", "pt", "safetensors"):
            yield _written(folder / f"pickle-{name}.{suffix}", pickle.dumps(payload))
        torch.save({**state, "bn1.weight": payload}, folder / f"zip-{name}.pth")
        yield folder / f"zip-{name}.pth"
        torch.save(
            {"state_dict": state, "hook": payload}, folder / f"legacy-{name}.pth", _use_new_zipfile_serialization=False
        )
        yield folder / f"legacy-{name}.pth"
        yield _legacy_tar(folder / f"tar-{name}.pth", payload)
        torch.save([Stumble(), payload], folder / f"stumble-{name}.pth")
        yield folder / f"stumble-{name}.pth"
    torch.save(build_network("efficientnet_lite0", 2, weights=None), folder / "whole-model.pth")
    yield folder / "whole-model.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), folder / "torchscript.pt")
    yield folder / "torchscript.pt"
    yield from _damaged(folder, state)


def _damaged(folder: Path, state: dict[str, torch.Tensor]) -> Iterator[Path]:
    good = save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    for share in (0.0, 0.001, 0.5, 0.999):
        yield _written(folder / f"cut-{share}.safetensors", good[: int(len(good) * share)])
        yield _written(folder / f"cut-{share}.pth", buffer.getvalue()[: int(buffer.tell() * share)])
    for length in (2**63 - 1, 2**40, 99 * 2**20, 0):
        yield _written(folder / f"header-{length}.safetensors", struct.pack("<Q", length) + good[8:])
    long = json.dumps(
        {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(150_000)}
    )
    yield _written(folder / "header-of-many.safetensors", struct.pack("<Q", len(long)) + long.encode())
    for name, entry in {
        "overlap": {"a": _entry([4], 0, 16), "b": _entry([4], 8, 24)},
        "outside": {"a": _entry([4], 0, 2**50)},
        "huge-shape": {"a": _entry([2**40, 2**40], 0, 16)},
        "negative": {"a": _entry([-4], 0, 16)},
        "nested": {"a": [[[[[]]]]]},
    }.items():
        header = json.dumps(entry).encode()
        yield _written(folder / f"{name}.safetensors", struct.pack("<Q", len(header)) + header + bytes(24))
    (folder / "folder.pth").mkdir()
    yield folder / "folder.pth"


def _entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _legacy_tar(path: Path, payload: Payload) -> Path:
    """The format of torch before 0.1.10: a tar of pickles."""
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages", "../escaped"):
            info = tarfile.TarInfo(name)
            content = pickle.dumps(payload)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def hub_files(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Any]]]:
    """Hostile files that a hub serves as an architecture's own weights: they lie where torch keeps downloads."""
    os.environ["TORCH_HOME"] = str(folder / "home")
    url = timm.get_pretrained_cfg(BY_URL).url
    for name, payload in payloads():
        path = folder / "home" / "hub" / "checkpoints" / url.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([Stumble(), payload], path)
        yield Path(f"hub-{name}"), lambda _: build_body(f"timm/{BY_URL}")
    path.unlink()


Change = Callable[[Path, dict[str, Any]], None]


def onnx_files(folder: Path) -> Iterator[Path]:
    """ONNX files that name other files to read, or are none."""
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4], [0.0] * 4)
    for location in ("/etc/passwd", "../outside", "beside.bin"):
        tensor.ClearField("float_data")
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "16"}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
        node = onnx.helper.make_node("Identity", ["w"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [], [out], [tensor])
        content = onnx.helper.make_model(graph).SerializeToString()
        yield _written(folder / f"external-{location.replace('/', '_')}.onnx", content)
        inner = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
        graph = onnx.helper.make_graph([inner], "g", [], [out])
        content = onnx.helper.make_model(graph).SerializeToString()
        yield _written(folder / f"external-attribute-{location.replace('/', '_')}.onnx", content)
    yield _written(folder / "pickle.onnx", pickle.dumps(Payload(os.system, MARK)))
    yield _written(folder / "cut.onnx", content[:-20])


def harmless(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Any]]]:
    """The same files before anything was done to them: they must be accepted."""
    state = build_network("efficientnet_lite0", 2, weights=None)[0].state_dict()
    torch.save(state, folder / "good.pth")
    yield folder / "good.pth", use_weights
    yield _written(folder / "good.safetensors", save(state)), use_weights
    yield folder / "good.bundle", load_bundle


def use_weights(path: Path) -> Any:
    """What a user does with a file of weights."""
    return build_body("efficientnet_lite0", weights=path)


def bundles(folder: Path) -> Iterator[Path]:
    """Hostile bundles: each a good one with one thing changed, re-hashed where that makes it worse."""
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    spec = ModelSpec("efficientnet_lite0", ("a", "b"), Preprocessing(32), half)
    learn = SimpleNamespace(model=build_network("efficientnet_lite0", 2, weights=None), spec=spec)
    good = save_bundle(learn, folder / "good.bundle")
    for name, change, rehash in changes(folder):
        path = shutil.copytree(good, folder / f"{name}.bundle")
        content = json.loads((path / "bundle.json").read_text())
        change(path, content)
        if rehash:
            content["hash"] = bundle_format.content_hash(content)
        if (path / "bundle.json").is_file() and not (path / "bundle.json").is_symlink():
            (path / "bundle.json").write_text(json.dumps(content))
        yield path
    yield from _not_json(good, folder)


def _not_json(good: Path, folder: Path) -> Iterator[Path]:
    texts = {
        "deep": "[" * 200_000,
        "digits": '{"format": ' + "9" * 100_000 + "}",
        "empty": "",
        "large": " " * 65 * 2**20,
        "list": "[]",
        "binary": "\0\1\2",
        "infinity": '{"format": 1, "hash": "x", "recipe": Infinity}',
        "pickle": pickle.dumps(Payload(os.system, MARK)).decode("latin1"),
    }
    for name, text in texts.items():
        path = shutil.copytree(good, folder / f"json-{name}.bundle")
        (path / "bundle.json").write_text(text, encoding="latin1")
        yield path


def changes(folder: Path) -> Iterator[tuple[str, Change, bool]]:
    """name, what to change, whether to hash again as an attacker would."""
    for field, value in {
        "arch": "resnet18", "dropout": 0.3, "vocab": ["b", "a"], "multi_label": True, "modality": "x"
    }.items():  # fmt: skip
        yield f"field-{field}", lambda _path, content, f=field, v=value: content["recipe"].update({f: v}), False
    yield "field-size", lambda _path, content: content["recipe"]["preprocessing"].update(size=[64, 64]), False
    yield "field-mean", lambda _path, content: content["recipe"]["normalization"].update(mean=[0, 0, 0]), False
    yield "field-card", lambda _path, content: content.update(card={"approved": True}), False
    yield "field-added", lambda _path, content: content.update(note="x"), False
    for value in (0, 2, "1", None, [1], True and 10**400):
        yield f"format-{str(value)[:6]}", lambda _path, content, v=value: content.update(format=v), True
    for number, place in enumerate(("../outside.safetensors", "/etc/passwd", "sub/weights.safetensors", None, 3)):
        yield f"escape-{number}", lambda _path, content, p=place: content["weights"].update(file=p), True
    yield "weight-changed", lambda path, _content: _flip(path / "weights.safetensors"), False
    yield "weight-changed-and-hashed", _flip_and_hash, True
    yield "weights-cut", lambda path, _content: os.truncate(path / "weights.safetensors", 1000), False
    yield "weights-cut-and-hashed", _cut_and_hash, True
    yield "weights-pickle", _pickle_and_hash, True
    yield "weights-gone", lambda path, _content: (path / "weights.safetensors").unlink(), False
    yield "weights-elsewhere", lambda path, _content: _moved_out(path / "weights.safetensors", folder), False
    yield "weights-fifo", lambda path, _content: _fifo(path / "weights.safetensors"), False
    yield "json-gone", lambda path, _content: (path / "bundle.json").unlink(), False
    yield "json-elsewhere", lambda path, _content: _moved_out(path / "bundle.json", folder), False
    archs = (
        "hf-hub:evil/model",
        "timm/hf-hub:evil/model",
        "local-dir:/etc",
        "os.system",
        "../../x",
        "",
        None,
        ["resnet18"],
    )
    for number, arch in enumerate(archs):
        yield f"arch-{number}", lambda _path, content, a=arch: content["recipe"].update(arch=a), True
    for number, size in enumerate(([10**9, 10**9], [0, 32], [-1, 32], [32], "32", [32.5, 32], None)):
        yield f"size-{number}", lambda _path, content, s=size: content["recipe"]["preprocessing"].update(size=s), True
    for number, pairs in enumerate(
        ([["0.__class__", "0.bn1"]], [["0.bn1", "0.conv_stem"]], [["", ""]], [["0.conv_stem"]], [[1, 2]], "x")
    ):
        yield f"fold-{number}", lambda _path, content, p=pairs: content.update(fold=p), True
    yield "std-zero", lambda _path, content: content["recipe"]["normalization"].update(std=[0, 0, 0]), True
    yield "labels-many", lambda _path, content: content["recipe"].update(vocab=list(map(str, range(10**5 + 1)))), True
    yield "golden-none", lambda _path, content: content["golden"].update(logits=[]), True
    yield "golden-nan", lambda _path, content: content["golden"].update(logits=[[None, 0], [0, 0]]), True
    yield "golden-other", lambda _path, content: content["golden"].update(logits=[[9.0, 0], [0, 0]]), True
    for key in ("recipe", "weights", "golden", "fold", "calibration", "card", "hash", "format"):
        yield f"without-{key}", lambda _path, content, k=key: content.pop(k), key != "hash"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0x40
    path.write_bytes(content)


def _hash_weights(path: Path, content: dict[str, Any]) -> None:
    content["weights"]["sha256"] = sha256_of(path / "weights.safetensors")


def _flip_and_hash(path: Path, content: dict[str, Any]) -> None:
    state = build_network("efficientnet_lite0", 2, weights=None).state_dict()
    (path / "weights.safetensors").write_bytes(save(state))
    _hash_weights(path, content)


def _cut_and_hash(path: Path, content: dict[str, Any]) -> None:
    os.truncate(path / "weights.safetensors", 1_000_000)
    _hash_weights(path, content)


def _pickle_and_hash(path: Path, content: dict[str, Any]) -> None:
    (path / "weights.safetensors").write_bytes(pickle.dumps(Payload(os.system, MARK)))
    _hash_weights(path, content)


def _moved_out(path: Path, folder: Path) -> None:
    outside = folder / f"outside-{path.parent.name}-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def outcome(attempt: Callable[[], Any]) -> str:
    """ "refused: <error>", "accepted", or the name of an exception that is not medclf's."""
    try:
        attempt()
    except MedclfError as error:
        return f"refused: {type(error).__name__}: {error.message[-120:]}"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return "accepted"


def canary() -> int:
    """How many events the hook sees when the payloads do run: what unpickling would have done."""
    before = len(events)
    for _, payload in payloads():
        content = pickle.dumps(payload)
        outcome(lambda content=content: pickle.loads(content))
    found = len(events) - before
    del events[before:]
    return found


def main() -> dict[str, Any]:
    """Make and open every file; prints and returns what happened."""
    importlib.import_module("torchvision")  # its import and timm's start processes: not what is looked for here

    torch.set_num_threads(1)
    torch.manual_seed(0)
    LITE_NETS["efficientnet_lite0"] = (0.5, 0.3, 224)  # its names in a smaller network: 70 bundles are made and hashed
    results: dict[str, str] = {}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.addaudithook(watch)
        seen = canary()
        for path, attempt in offered(folder):
            del events[:]  # what making the file did
            start = time.process_time()
            results[path.name] = outcome(lambda path=path, attempt=attempt: attempt(path))
            slowest = max(slowest, time.process_time() - start)
            if events:
                results[path.name] += f" AND RAN {sorted(set(events))}"
    executions = sum("AND RAN" in result for result in results.values())
    refused = sum(result.startswith("refused") for result in results.values())
    for name, result in results.items():
        print(f"{name:40} {result}")
    print(
        f"{len(results)} files: {refused} refused, {executions} executions; canary: {seen} events; "
        f"slowest {slowest:.1f} s of CPU"
        f" (torch {torch.__version__}, onnxruntime {onnxruntime.__version__})"
    )
    return {"results": results, "canary": seen, "executions": executions, "slowest": slowest}


def offered(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Any]]]:
    """Every file with what a user would do with it."""
    yield from ((path, use_weights) for path in weights(folder))
    yield from hub_files(folder)
    yield from ((path, load_bundle) for path in bundles(folder))
    yield from ((path, OnnxModel) for path in onnx_files(folder))
    yield from harmless(folder)


if __name__ == "__main__":
    found = main()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(found))
