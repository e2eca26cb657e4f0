"""One ONNX file: traced by torch, described by its metadata, checked before it is run, and run with an end."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medclf.errors import BundleError, MedclfError, OutputError, missing, require
from medclf.files import refuse_to_replace

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

KEY = "medclf"  # of the metadata that holds what a bundle.json or a detector.json holds
_MAX_BYTES = 2**31 - 1  # of any protocol buffer
_PATIENCE_S = 60.0  # of the golden inputs: two images


def checked(path: Path) -> Any:
    """The parsed model, whose tensors are all inside it: ONNX Runtime would open any path that it names."""
    onnx = require("onnx", "onnx")
    if not path.is_file():
        raise BundleError(*missing(path, "give a file that export_onnx made"))
    if path.stat().st_size > _MAX_BYTES:
        raise BundleError(f"{path} is larger than an ONNX file can be", "export it again")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (ValueError, RuntimeError, TypeError, _decode_error()) as error:
        raise BundleError(f"{path} is damaged: it is not an ONNX model", "export it again") from error
    if model.functions:  # which can call each other 2**n times, as torch's export never does
        raise BundleError(f"{path} holds functions of its own, which could run for ever", "export it again")
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.external_data or message.data_location):
            raise BundleError(
                f"{path} keeps tensors in other files, which are not opened", "export it again as one file"
            )
        if kind == "AttributeProto" and (message.HasField("g") or message.graphs):  # loops, branches, scans
            raise BundleError(f"{path} holds a graph within its graph, which could run for ever", "export it again")
    return model


def _decode_error() -> type[Exception]:
    """What protobuf raises on bytes that are no message."""
    return cast(type[Exception], require("google.protobuf.message", "onnx").DecodeError)


def _messages(message: Any) -> Iterator[Any]:
    """Every message anywhere in a protobuf message: tensors, attributes, subgraphs, functions."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        if message.DESCRIPTOR.name == "TensorProto":
            continue
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting.extend([value] if hasattr(value, "DESCRIPTOR") else value)


def described(model: Any, origin: str) -> str:
    """The JSON that `export_onnx` left in a file.

    Raises:
        BundleError: there is none.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if KEY not in properties:
        raise BundleError(f"{origin} does not describe its preprocessing", "give a file that export_onnx made")
    return str(properties[KEY])


def detects(text: str) -> bool:
    """Whether a description is of a detector."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "detector" in content


def session(path: Path, providers: Sequence[str] | None = None, threads: int | None = None) -> Any:
    """ONNX Runtime's session of a file that was `checked`."""
    ort = require("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
    options.log_severity_level = 4  # errors come as exceptions
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores alone
    try:
        return ort.InferenceSession(
            path,
            options,
            providers=list(providers or ["CPUExecutionProvider"]),
            disabled_optimizers=["ConstantFolding"],  # it would compute for hours what a crafted file asks for
        )
    except _ort_errors() as error:
        raise _unrunnable(path, error) from error


def run(session: Any, outputs: Sequence[str], pixels: np.ndarray, origin: str, options: Any = None) -> list[Any]:
    """The outputs of that name for prepared pixels (B, H, W, C).

    Raises:
        BundleError: the graph cannot be run, or has no such output.
    """
    try:
        return cast("list[Any]", session.run(list(outputs), {"pixels": pixels}, options))
    except _ort_errors() as error:
        raise _unrunnable(origin, error) from error


def _unrunnable(origin: object, error: Exception) -> BundleError:
    reason = str(error).partition("\n")[0][:200]
    return BundleError(f"{origin} cannot be run by ONNX Runtime: {reason}", "export it again")


def _ort_errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises; it has no common base for them."""
    state = vars(require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")).values()
    own = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)


@contextmanager
def patience() -> Iterator[Any]:
    """Run options that stop a run which lasts too long."""
    options = require("onnxruntime", "onnx").RunOptions()
    timer = threading.Timer(_PATIENCE_S, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def free(out: str | Path, overwrite: bool) -> Path:
    """The path of a file to write.

    Raises:
        OutputError: it exists already, or would not be known for what it is.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise OutputError(
            f"{out} does not end in .onnx", f"choose another file, such as {out.with_suffix('.onnx').name}"
        )
    refuse_to_replace(out, overwrite and out.is_file())
    return out


def traced(network: nn.Module, pixels: np.ndarray, outputs: Sequence[str], arch: str) -> Any:
    """torch's network as an ONNX model that takes any number of images.

    Args:
        network: uint8 pixels (B, H, W, C) -> the outputs.
        pixels: of some images.
        outputs: their names.
        arch: what to call it in an error.

    Raises:
        MedclfError: torch cannot express it in ONNX.
    """
    import torch

    try:
        with quietly("torch.onnx", "onnxscript"):  # about deprecations and steps that they skip
            program = torch.onnx.export(
                network,
                (torch.from_numpy(pixels),),
                dynamo=True,
                input_names=["pixels"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0][:200]
        raise MedclfError(
            f"{arch} cannot be exported to ONNX: {reason}", "train another arch, or use the bundle"
        ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def quietly(*loggers: str) -> Iterator[None]:
    """Without warnings, and without what libraries log below an error; where none is named, all of them."""
    logs = [logging.getLogger(name) for name in loggers] or [logging.getLogger()]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
