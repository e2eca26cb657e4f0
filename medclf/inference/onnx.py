"""A bundle as one ONNX file that carries its preprocessing and labels, and its prediction on ONNX Runtime."""

from __future__ import annotations

import copy
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from medclf.errors import BundleError, DataError, MedclfError, argument, require
from medclf.files import finite, replacing
from medclf.images.heatmap import check_places, on_prepared
from medclf.inference import bundle_format, onnx_file
from medclf.inference.bundle_format import golden_pixels, is_detector, refuse_detector
from medclf.inference.found_boxes import BoxPredictor
from medclf.inference.predictor import Predictor

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item
    from medclf.inference.bundle import Bundle, Trained
    from medclf.inference.detector_bundle import DetectorBundle

__all__ = ["Int8Cost", "OnnxModel", "export_onnx", "quantize_onnx"]

_MAPS = "maps"  # an output
_DRIFT = 1e-4


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
        require("onnxruntime", "onnx")
        path = Path(path)
        content = _content(path)
        self._session = onnx_file.session(path, providers, threads)
        super().__init__(content, path.stem, self._run)
        self.exported_from: str | None = content.get("exported_from")
        if _MAPS in (output.name for output in self._session.get_outputs()):
            self.saliency = self._saliency  # absent where the file holds no maps: the service asks for it by name
        if verify:
            saved = np.array(content["golden"]["logits"])
            with onnx_file.patience() as options:
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
        found = onnx_file.run(self._session, list(wanted), pixels, self.name, options)
        for (name, n_dims), value in zip(wanted.items(), found, strict=True):
            rows = (len(pixels),) if name == "features" else (len(pixels), len(self.vocab))
            shape = getattr(value, "shape", ())
            if len(shape) != n_dims or shape[: len(rows)] != rows or value.dtype.kind != "f":
                raise BundleError(
                    f"{self.name} gives {name} that are not numbers of {len(pixels)} images", "export it again"
                )
        return found

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


def _content(path: Path) -> dict[str, Any]:
    text = onnx_file.described(onnx_file.checked(path), str(path))
    if onnx_file.detects(text):
        refuse_detector(path)
    return bundle_format.parse(text, f"the description in {path}")


def export_onnx(
    bundle: Bundle | Trained | DetectorBundle | str | Path, out: str | Path, *, overwrite: bool = False
) -> Path:
    """Write a bundle, or a learner, as one ONNX file, and check that ONNX Runtime gives the same logits.

    The file's input `pixels` is uint8 of (batch, height, width, channels), as `Bundle.prepare` gives them:
    the normalisation is part of the graph. Its outputs are `logits` and the pooled `features`. Its metadata
    holds under "medclf" what bundle.json holds: the vocab, the preprocessing, the calibration, the card. Where the
    network ends in a feature map, a third output `maps` (batch, n_out, h, w) holds each label's Grad-CAM before its
    negative part is cut off. Of a detector see `medclf.inference.detector_onnx`.

    Args:
        bundle: a loaded bundle, of a detector too, or the folder of one; or a learner, which is assessed as
            `save_bundle` does it.
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
    out = onnx_file.free(out, overwrite)
    if is_detector(Path(bundle)) if isinstance(bundle, (str, Path)) else isinstance(bundle, BoxPredictor):
        from medclf.inference.detector_onnx import export_detector

        return export_detector(bundle, out)
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


def _save(model: Any, content: Mapping[str, Any], out: Path) -> None:
    """Write the model with its description, once it was seen to give the golden logits."""
    onnx = require("onnx", "onnx")
    described = finite(dict(content))
    described["hash"] = bundle_format.content_hash(described)
    onnx.helper.set_model_props(model, {onnx_file.KEY: json.dumps(described)})
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
    pixels = golden_pixels(bundle.preprocessing)
    mapped = WithMaps.of(network, torch.from_numpy(pixels))
    outputs = ["logits", "features", *([_MAPS] if mapped else [])]
    return onnx_file.traced(mapped or network, pixels, outputs, bundle.spec.arch)


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
    out, full = onnx_file.free(out, overwrite), OnnxModel(model)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "int8.onnx"
        reader = _Reader(full.prepare(image) for image in itertools.islice(images, 0, None, 2))
        with onnx_file.quietly():  # it advises a step that our graphs do not need
            quantization.quantize_static(
                model,
                raw,
                reader,
                per_channel=True,
                reduce_range=True,  # without it sums overflow on processors that lack VNNI
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            )
        int8, content = onnx_file.checked(raw), _content(Path(model))
        logits, _ = onnx_file.session(raw).run(["logits", "features"], {"pixels": golden_pixels(full.preprocessing)})
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
