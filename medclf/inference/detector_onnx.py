"""A detector as one ONNX file that carries its preprocessing, labels and threshold, and its boxes on ONNX Runtime.

The input `pixels` is that of a classifier's file. Four outputs have a row for each box: its image (`images`), its
label's place in the vocab (`labels`), its probability (`probs`), and its corners in prepared pixels (`boxes`). ONNX's
own NonMaxSuppression chose them among the `candidates` (B, N, 4) by their `scores` (B, labels, N). Outputs are these
and the network's `logits` (B, N, labels) and `centredness` (B, N, 1).

The metadata holds under "medclf" what detector.json holds.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medclf.errors import BundleError, MedclfError, require
from medclf.files import finite, replacing
from medclf.inference import onnx_file
from medclf.inference.bundle_format import golden_pixels, refuse_classifier
from medclf.inference.detector_format import DRIFT, FORMAT, content_hash, parse, spec_in
from medclf.inference.found_boxes import BoxPredictor, Rows
from medclf.models.detector_spec import MOST_BOXES

if TYPE_CHECKING:
    from medclf.inference.detector_bundle import DetectorBundle
    from medclf.models.detector import Detector

_N_GOLDEN = 64  # places of each golden image whose outputs are kept
_KEPT = ("logits", "centredness", "candidates")
_FOUND = {"images": "i", "labels": "i", "probs": "f", "boxes": "f"}  # outputs and kinds of their numbers
_AGAIN = "export it again"


class OnnxDetector(BoxPredictor):
    """A detector's ONNX file that `export_onnx` wrote; finds the boxes that the bundle finds, on ONNX Runtime.

    Args:
        path: the file.
        providers: of ONNX Runtime, the preferred first; the CPU's where None.
        threads: for the arithmetic of one batch; as many as there are cores where None.
        verify: run the golden inputs again and compare what they give with what was saved.

    Raises:
        BundleError: the file is damaged or changed, keeps tensors in other files, holds no detector, or gives other
            outputs on this machine.
        MissingDependency: onnxruntime is not installed.

    Example:
        >>> # OnnxDetector("polyps.onnx").predict("image.png").shown
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
        text = onnx_file.described(onnx_file.checked(path), str(path))
        if not onnx_file.detects(text):
            refuse_classifier(path)
        content = parse(text, f"the description in {path}", _AGAIN)
        self._session = onnx_file.session(path, providers, threads)
        facts: Any = {name: content[name] for name in ("threshold", "card", "hash")}
        super().__init__(spec_in(content, str(path)), self._run, name=path.stem, **facts)
        self.exported_from: str | None = content.get("exported_from")
        if verify:
            found, saved = self._golden(golden_pixels(self.preprocessing)), content["golden"]
            if found.shape != saved.shape or not np.allclose(found, saved, rtol=DRIFT, atol=DRIFT):
                raise BundleError(f"{path} gives other outputs here than where it was exported", _AGAIN)

    def _run(self, prepared: np.ndarray) -> list[Rows]:
        return self._rows(onnx_file.run(self._session, list(_FOUND), prepared, self.name), len(prepared))

    def _rows(self, found: Sequence[np.ndarray], n_images: int) -> list[Rows]:
        """What is found in each image, out of the outputs `_FOUND`."""
        n = len(found[0]) if np.ndim(found[0]) else -1
        shapes = [(n, 4) if name == "boxes" else (n,) for name in _FOUND]
        kinds = [np.asarray(one).dtype.kind for one in found]
        if [np.shape(one) for one in found] != shapes or kinds != list(_FOUND.values()):
            raise BundleError(f"{self.name} gives outputs that are not boxes", _AGAIN)
        images, labels, probs, boxes = found
        if n and not (0 <= labels.min() <= labels.max() < len(self.vocab)):
            raise BundleError(f"{self.name} gives labels that are not in its vocab", _AGAIN)
        answers = []
        for image in range(n_images):
            rows = np.flatnonzero(images == image)
            rows = rows[np.argsort(-probs[rows], kind="stable")][:MOST_BOXES]
            rows = rows[((boxes[rows, 2:] - boxes[rows, :2]) >= 1).all(axis=1)]  # a pixel at least
            answers.append((boxes[rows], probs[rows], labels[rows]))
        return answers

    def _golden(self, pixels: np.ndarray) -> np.ndarray:
        """Some of the outputs `_KEPT`, once those that say where boxes are were seen to do so."""
        with onnx_file.patience() as options:
            found = onnx_file.run(self._session, [*_FOUND, *_KEPT], pixels, self.name, options)
        self._rows(found[: len(_FOUND)], len(pixels))
        try:
            return _kept(found[len(_FOUND) :])
        except (ValueError, TypeError, IndexError) as error:
            raise BundleError(f"{self.name} gives outputs that do not fit each other", _AGAIN) from error


def _kept(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Of the outputs `_KEPT`, those at some places of each image, side by side."""
    whole = np.concatenate(outputs, axis=2)
    return np.asarray(whole[:, :: -(-whole.shape[1] // _N_GOLDEN)], float)


def export_detector(bundle: Any, out: Path) -> Path:
    """What `export_onnx` does with a detector.

    Args:
        bundle: loaded, or its folder.
        out: the file to write, or to replace.

    Raises:
        BundleError: the bundle is damaged, or ONNX Runtime's outputs differ by more than 1e-4.
        MedclfError: torch cannot express the backbone in ONNX, or only for a fixed number of images.
    """
    import torch

    from medclf.inference.detector_bundle import load_detector
    from medclf.models.detector import FromPixels

    loaded: DetectorBundle = load_detector(bundle) if isinstance(bundle, (str, Path)) else bundle
    if not hasattr(loaded, "detector"):
        raise BundleError(f"{loaded.name} is an exported file already", "copy the file")
    network, pixels = FromPixels(copy.deepcopy(loaded.detector).cpu()).eval(), golden_pixels(loaded.preprocessing)
    with torch.inference_mode():
        *outputs, _ = network(torch.from_numpy(pixels))
    golden = _kept([values.numpy() for values in outputs])
    model = onnx_file.traced(network, pixels, [*_KEPT, "scores"], loaded.spec.arch)
    _suppress(model, loaded.detector)
    content = {
        "format": FORMAT,
        "detector": loaded.spec.as_dict(),
        "threshold": loaded.threshold,
        "card": finite(loaded.card),
        "golden": golden.tolist(),
        "exported_from": loaded.hash,
    }
    onnx = require("onnx", "onnx")
    onnx.helper.set_model_props(model, {onnx_file.KEY: json.dumps(content | {"hash": content_hash(content)})})
    with replacing(out) as temporary:
        onnx.save_model(model, temporary)
        _check_alone(OnnxDetector(temporary), golden)
    return out


def _suppress(model: Any, detector: Detector) -> None:
    """Add what chooses boxes among the candidates: of each image and label the most probable that do not overlap."""
    onnx = require("onnx", "onnx")
    net, graph, node = detector.net, model.graph, onnx.helper.make_node
    constants = {
        "nms_most": np.array([net.detections_per_img], np.int64),
        "nms_overlap": np.array([net.nms_thresh], np.float32),
        "nms_least": np.array([net.score_thresh], np.float32),
        "nms_image": np.array(0, np.int64),
        "nms_label": np.array(1, np.int64),
        "nms_image_and_place": np.array([0, 2], np.int64),
    }
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    chosen = ["candidates", "scores", "nms_most", "nms_overlap", "nms_least"]
    graph.node.extend(
        [
            node("NonMaxSuppression", chosen, ["nms_chosen"]),  # (n, 3): image, label, place
            node("Gather", ["nms_chosen", "nms_image"], ["images"], axis=1),
            node("Gather", ["nms_chosen", "nms_label"], ["labels"], axis=1),
            node("GatherND", ["scores", "nms_chosen"], ["probs"]),
            node("Gather", ["nms_chosen", "nms_image_and_place"], ["nms_where"], axis=1),
            node("GatherND", ["candidates", "nms_where"], ["boxes"]),
        ]
    )
    types = {"i": onnx.TensorProto.INT64, "f": onnx.TensorProto.FLOAT}
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, types[kind], ["n", 4] if name == "boxes" else ["n"])
        for name, kind in _FOUND.items()
    )


def _check_alone(model: OnnxDetector, golden: np.ndarray) -> None:
    """See that one image gets what it got beside another: a graph may be fixed to the images it was traced with."""
    try:
        alone = model._golden(golden_pixels(model.preprocessing)[:1])
    except BundleError:
        alone = np.empty(0)
    if alone.shape != golden[:1].shape or not np.allclose(alone, golden[:1], rtol=DRIFT, atol=DRIFT):
        raise MedclfError(
            f"{model.spec.arch} cannot be exported to ONNX: its graph takes {len(golden)} images at a time, no fewer",
            "let the network read the batch's size from x.shape[0], or use the bundle",
        )
