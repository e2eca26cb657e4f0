"""A bundle as one ONNX file that carries its preprocessing and labels, and its prediction on ONNX Runtime."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from medclf.errors import BundleError, DataError, MedclfError, argument, require
from medclf.files import finite, refuse_to_replace, replacing
from medclf.images.heatmap import check_places, on_prepared
from medclf.inference import bundle_format
from medclf.inference.bundle_format import golden_pixels
from medclf.inference.predictor import Predictor

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item
    from medclf.inference.bundle import Bundle, Trained

__all__ = ["Int8Cost", "OnnxModel", "export_onnx", "quantize_onnx"]

_MAPS = "maps"  # an output
_KEY = "medclf"  # of the metadata that holds what a bundle.json holds
_MAX_BYTES = 2**31 - 1  # of any protocol buffer
_DRIFT = 1e-4
_PATIENCE_S = 60.0  # of the golden inputs: two images


class OnnxModel(Predictor):
    """An ONNX file that `export_onnx` wrote; predicts as the bundle does, on ONNX Runtime.

    Args:
        path: the file.
        providers: of ONNX Runtime, the preferred first; the CPU's where None.
        threads: for the arithmetic of one batch; as many as there are cores where None.
        verify: run the golden inputs again and compare their logits with those saved.

    Raises:
        BundleError: the file is damaged or changed, keeps tensors in other files, was not written by
            `export_onnx`, or gives other logits on this machine.
        MissingDependency: onnxruntime is not installed.

    Example:
        >>> # OnnxModel("polyps.onnx").predict("image.png").label
    """

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        ort = require("onnxruntime", "onnx")
        path = Path(path)
        content = _content(_checked(path), str(path))
        self._session = _session(path, providers, threads)
        super().__init__(content, path.stem, self._run)
        self.exported_from: str | None = content.get("exported_from")
        if _MAPS in (output.name for output in self._session.get_outputs()):
            self.saliency = self._saliency  # absent where the file holds no maps: the service asks for it by name
        if verify:
            saved = np.array(content["golden"]["logits"])
            with _patience(ort.RunOptions()) as options:
                logits, _ = self._run(golden_pixels(self.preprocessing), options)
            if not np.abs(logits - saved).max() <= _DRIFT * max(1.0, np.abs(saved).max()):
                raise BundleError(
                    f"{path} gives other logits here than where it was exported", "export it again on this machine"
                )

    def _run(self, pixels: np.ndarray, options: Any = None) -> tuple[np.ndarray, np.ndarray]:
        logits, features = self._outputs({"logits": 2, "features": 2}, pixels, options)
        return logits, features

    def _outputs(self, wanted: Mapping[str, int], pixels: np.ndarray, options: Any = None) -> list[np.ndarray]:
        """Outputs of the graph by name and number of dimensions: one row an image, of logits and maps one a label."""
        try:
            found = self._session.run(list(wanted), {"pixels": pixels}, options)
        except _ort_errors() as error:
            reason = str(error).partition("\n")[0][:200]
            raise BundleError(f"{self.name} cannot be run by ONNX Runtime: {reason}", "export it again") from error
        for (name, n_dims), value in zip(wanted.items(), found, strict=True):
            rows = (len(pixels),) if name == "features" else (len(pixels), len(self.vocab))
            shape = getattr(value, "shape", ())
            if len(shape) != n_dims or shape[: len(rows)] != rows or value.dtype.kind != "f":
                raise BundleError(
                    f"{self.name} gives {name} that are not numbers of {len(pixels)} images", "export it again"
                )
        return cast("list[np.ndarray]", found)

    def _saliency(self, item: Item, label: str | None = None) -> np.ndarray:
        """Where the network looked: Grad-CAM, as `Bundle.saliency` gives it.

        Args:
            item: see `predict`; or pixels that `prepare` gave.
            label: a name of the vocab; the predicted one where None.

        Returns:
            float32 of (height, width) of the prepared image, in [0, 1].

        Raises:
            ReadError: the image cannot be read.
            DataError: the label is not in the vocab.
            MedclfError: the map is too coarse.
        """
        prepared = self.prepare(item)[None]
        (maps,) = self._outputs({_MAPS: 4}, prepared)
        check_places(maps.shape)
        heat = np.nan_to_num(maps[0, self._target(prepared, label)]).clip(0)
        return on_prepared(heat / (heat.max(initial=0) or 1), self.preprocessing)


def _checked(path: Path) -> Any:
    """The parsed model, whose tensors are all inside it: ONNX Runtime would open any path that it names."""
    onnx = require("onnx", "onnx")
    if not path.is_file():
        raise BundleError(f"{path} does not exist", "give a file that export_onnx made")
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


def _content(model: Any, origin: str) -> dict[str, Any]:
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if _KEY not in properties:
        raise BundleError(f"{origin} does not describe its preprocessing", "give a file that export_onnx made")
    return bundle_format.parse(properties[_KEY], f"the description in {origin}")


def _session(path: Path, providers: Sequence[str] | None = None, threads: int | None = None) -> Any:
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
        reason = str(error).partition("\n")[0][:200]
        raise BundleError(f"{path} cannot be run by ONNX Runtime: {reason}", "export it again") from error


def _ort_errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises; it has no common base for them."""
    state = vars(require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")).values()
    own = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)


@contextmanager
def _patience(options: Any) -> Iterator[Any]:
    """Run options that stop a run which lasts too long."""
    timer = threading.Timer(_PATIENCE_S, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def export_onnx(bundle: Bundle | Trained | str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a bundle, or a learner, as one ONNX file, and check that ONNX Runtime gives the same logits.

    The file's input `pixels` is uint8 of (batch, height, width, channels), as `Bundle.prepare` gives them:
    the normalisation is part of the graph. Its outputs are `logits` and the pooled `features`. Its metadata
    holds under "medclf" what bundle.json holds: the vocab, the preprocessing, the calibration, the card. Where the
    network ends in a feature map, a third output `maps` (batch, n_out, h, w) holds each label's Grad-CAM before its
    negative part is cut off.

    Args:
        bundle: a loaded bundle, or the folder of one; or a learner, which is assessed as `save_bundle` does it.
        out: the file to write.
        overwrite: replace a file that is there.

    Returns:
        `out`.

    Raises:
        OutputError: `out` exists already, or cannot be written.
        BundleError: the bundle is damaged, the learner is none that `save_bundle` takes, or ONNX Runtime's logits
            differ by more than 1e-4.
        MedclfError: torch cannot express this network in ONNX, or only for a fixed number of images.
        MissingDependency: onnx, onnxscript or onnxruntime is not installed.

    Example:
        >>> # export_onnx("polyps.bundle", "polyps.onnx")
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx")
    out = _free(out, overwrite)
    loaded = _loaded(bundle)
    if loaded.calibration.get("tabular"):
        names = ", ".join(field["name"] for field in loaded.fields) or "what stands in the image's overlay"
        text = f"{loaded.name} uses columns beside the image ({names}), which an ONNX file does not hold"
        raise BundleError(text, f"predict with the bundle, or train without {argument('tabular')}")
    _save(_exported(loaded), loaded.content | {"fold": [], "exported_from": loaded.hash}, out)
    return out


def _loaded(source: Any) -> Bundle:
    """The bundle of a folder or of a learner; a bundle is given back."""
    from medclf.inference.bundle import load_bundle, save_bundle

    if hasattr(source, "runnable"):
        return cast("Bundle", source)
    if isinstance(source, (str, Path)):
        return load_bundle(source)
    if not hasattr(source, "model"):
        raise BundleError(f"a {type(source).__name__} is no bundle and no learner", "give one of them")
    with tempfile.TemporaryDirectory() as folder:
        return load_bundle(save_bundle(source, Path(folder) / "learner.bundle"))


def _free(out: str | Path, overwrite: bool) -> Path:
    out = Path(out)
    refuse_to_replace(out, overwrite and out.is_file())
    return out


def _save(model: Any, content: Mapping[str, Any], out: Path) -> None:
    """Write the model with its description, once it was seen to give the golden logits."""
    onnx = require("onnx", "onnx")
    described = finite(dict(content))
    described["hash"] = bundle_format.content_hash(described)
    onnx.helper.set_model_props(model, {_KEY: json.dumps(described)})
    with replacing(out) as temporary:
        onnx.save_model(model, temporary)
        _check_alone(OnnxModel(temporary))


def _check_alone(model: OnnxModel) -> None:
    """See that one image gets the logits that it got beside another: a graph may be fixed to the images it was traced
    with, as where a network calls `len` of a batch."""
    pixels = golden_pixels(model.preprocessing)
    together, _ = model._run(pixels)
    try:
        alone, _ = model._run(pixels[:1])
    except BundleError:
        alone = np.full_like(together[:1], np.nan)
    if not np.abs(alone - together[:1]).max() <= _DRIFT * max(1.0, np.abs(together).max()):
        raise MedclfError(
            f"{model.spec.arch} cannot be exported to ONNX: its graph takes {len(pixels)} images at a time, no fewer",
            "let the network read the batch's size from x.shape[0], or use the bundle",
        )


def _exported(bundle: Bundle) -> Any:
    """torch's network and the normalisation before it, as an ONNX model."""
    import torch

    from medclf.inference.runnable import WithMaps

    network = copy.deepcopy(bundle.runnable).cpu()
    for module in network.modules():
        if "fused_attn" in vars(module):  # timm's: with a bias, as BEiT has it, it is beyond torch's exporter
            vars(module)["fused_attn"] = False
    pixels = torch.from_numpy(golden_pixels(bundle.preprocessing))
    mapped = WithMaps.of(network, pixels)
    try:
        with _quietly("torch.onnx", "onnxscript"):  # about deprecations and steps that they skip
            program = torch.onnx.export(
                mapped or network,
                (pixels,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["logits", "features", *([_MAPS] if mapped else [])],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise MedclfError(
            f"{bundle.spec.arch} cannot be exported to ONNX: {reason}", "train another arch, or use the bundle"
        ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def _quietly(*loggers: str) -> Iterator[None]:
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


@dataclass(frozen=True)
class Int8Cost:
    """What quantisation changed, on images that it was not calibrated with.

    Args:
        n: images compared.
        same_label: share of them that got the same label as before, in [0, 1].
        mean_difference: of the probabilities, absolute, in [0, 1].
        worst_difference: likewise.
        megabytes: of the file before and after.
    """

    n: int
    same_label: float
    mean_difference: float
    worst_difference: float
    megabytes: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"int8: {self.megabytes[0]:.1f} MB -> {self.megabytes[1]:.1f} MB; of {self.n} images {self.same_label:.1%} "
            f"keep their label; probabilities move by {self.mean_difference:.3f} on average, "
            f"{self.worst_difference:.3f} at most"
        )


def quantize_onnx(model: str | Path, out: str | Path, images: Sequence[Item], *, overwrite: bool = False) -> Int8Cost:
    """Write an int8 copy of an exported model: smaller, on many processors faster, and a little less exact.

    Args:
        model: the file that `export_onnx` wrote.
        out: the file to write.
        images: representative ones, at least 8; every second calibrates the ranges, the others are compared.
        overwrite: replace a file that is there.

    Returns:
        what it cost; print it.

    Raises:
        DataError: fewer than 8 images.
        OutputError: `out` exists already, or cannot be written.
        ReadError: an image cannot be read.
    """
    quantization = require("onnxruntime.quantization", "onnx")
    require("onnx", "onnx")
    if len(images) < 8:
        raise DataError(f"{len(images)} images are too few to calibrate and compare with", "give 8 or more, better 200")
    out, full = _free(out, overwrite), OnnxModel(model)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "int8.onnx"
        reader = _Reader(full.prepare(image) for image in itertools.islice(images, 0, None, 2))
        with _quietly():  # it advises a step that our graphs do not need
            quantization.quantize_static(
                model,
                raw,
                reader,
                per_channel=True,
                reduce_range=True,  # without it sums overflow on processors that lack VNNI
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            )
        int8 = _checked(raw)
        content = _content(_checked(Path(model)), str(model))
        logits, _ = _session(raw).run(["logits", "features"], {"pixels": golden_pixels(full.preprocessing)})
    _save(int8, content | {"golden": {"logits": logits.astype(np.float64).tolist()}, "quantized": "int8"}, out)
    return _cost(full, OnnxModel(out), images[1::2], (Path(model), out))


class _Reader:
    """Hands ONNX Runtime's calibration one image at a time."""

    def __init__(self, pixels: Iterator[np.ndarray]) -> None:
        self._pixels = pixels

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image, or None after the last."""
        pixels = next(self._pixels, None)
        return None if pixels is None else {"pixels": pixels[None]}


def _cost(full: OnnxModel, small: OnnxModel, images: Sequence[Item], files: tuple[Path, Path]) -> Int8Cost:
    before, after = full.predict(list(images)), small.predict(list(images))
    moved = np.abs(
        np.array([list(answer.probs.values()) for answer in before])
        - np.array([list(answer.probs.values()) for answer in after])
    )
    same = np.mean([one.label == other.label for one, other in zip(before, after, strict=True)])
    sizes = files[0].stat().st_size / 1e6, files[1].stat().st_size / 1e6
    return Int8Cost(len(images), float(same), float(moved.mean()), float(moved.max()), sizes)
