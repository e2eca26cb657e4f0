"""A trained detector as a folder that others can use: safetensors and JSON, no stored code; and boxes for new files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medclf.errors import BundleError, MedclfError, WeightsError
from medclf.files import finite, sha256_of, write_json, write_tensors
from medclf.inference.bundle_folder import may_write, replacing_folder
from medclf.inference.bundle_format import DETECTOR, WEIGHTS, golden_pixels
from medclf.inference.detector_format import DRIFT, FORMAT, content_hash, read, spec_in
from medclf.inference.found_boxes import BoxPredictor, Rows
from medclf.models.detector import Detector, build_detector
from medclf.models.inputs import Inputs
from medclf.models.weight_files import read_state
from medclf.parallel import usable_device

_N_GOLDEN = 64  # places of each golden image whose outputs are kept


class DetectorBundle(BoxPredictor):
    """A detector on torch: see `load_detector`, and `BoxPredictor` for what it has and does."""

    def __init__(self, detector: Detector, *, device: torch.device | str = "cpu", **facts: Any) -> None:
        super().__init__(detector.spec, self._run, **facts)
        self.device = torch.device(device)
        self.detector = detector.eval().to(device)
        self.inputs = Inputs(self.preprocessing, detector.spec.normalization, device)

    def _run(self, prepared: np.ndarray) -> list[Rows]:
        with torch.inference_mode():
            found = self.detector.detections(self.detector(self.inputs(self.inputs.tensor(prepared))))
        arrays = [{name: values.cpu().numpy() for name, values in one.items()} for one in found]
        return [(one["boxes"], one["scores"], one["labels"]) for one in arrays]


def save_detector(
    detector: Detector,
    path: str | Path,
    *,
    threshold: float = 0.5,
    card: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a detector as a bundle: a folder with `detector.json` and `weights.safetensors`.

    Args:
        detector: trained.
        path: the folder to make.
        threshold: prob from which a box is shown, in [0, 1].
        card: what users should know of it.
        overwrite: replace a detector that is there.

    Returns:
        `path`.

    Raises:
        OutputError: `path` exists already, or cannot be written.
    """
    path = Path(path)
    may_write(path, overwrite)
    state = {name: tensor.detach().cpu().float() for name, tensor in detector.state_dict().items()}
    content: dict[str, Any] = {
        "format": FORMAT,
        "detector": detector.spec.as_dict(),
        "threshold": threshold,
        "card": finite(dict(card or {})),
        "versions": {name: metadata.version(name) for name in ("medclf", "torch", "torchvision")},
        "golden": _golden(detector),
    }
    with replacing_folder(path) as folder:
        write_tensors(folder / WEIGHTS, state)
        content["weights"] = {"file": WEIGHTS, "sha256": sha256_of(folder / WEIGHTS)}
        write_json(folder / DETECTOR, content | {"hash": content_hash(content)})
    return path


def _golden(detector: Detector) -> list[list[list[float]]]:
    """What the detector gives of drawn images, at some places of each."""
    training = detector.training
    detector.eval()
    device = detector.anchors.device
    inputs = Inputs(detector.spec.preprocessing, detector.spec.normalization, device)
    try:
        with torch.inference_mode():
            logits, sides, centred = detector(inputs(inputs.tensor(golden_pixels(detector.spec.preprocessing))))
    finally:
        detector.train(training)
    step = -(-logits.shape[1] // _N_GOLDEN)
    kept = torch.cat([logits, sides, centred], dim=2)[:, ::step].double().cpu()
    return kept.tolist()


def load_detector(path: str | Path, device: str = "cpu") -> DetectorBundle:
    """Load what `save_detector` wrote; nothing in it is executed, and a changed file is refused.

    Args:
        path: the folder.
        device: where to predict: "cpu", "cuda", ...

    Raises:
        BundleError: a file is missing, damaged or changed, of another format version, or the network drifts from the
            saved outputs by more than 1e-4.

    Example:
        >>> # load_detector("RUN/bundle").predict("image.png").shown
    """
    folder = Path(path)
    content = read(folder)
    try:
        detector = build_detector(spec_in(content, str(folder)), weights=None)
        _fill(detector, folder)
        golden = np.asarray(_golden(detector.eval()))
    except BundleError:
        raise
    except (MedclfError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise BundleError(
            f"{folder}: the detector cannot run as described: {reason}", "copy it again from its source"
        ) from error
    if golden.shape != content["golden"].shape or not np.allclose(golden, content["golden"], rtol=DRIFT, atol=DRIFT):
        raise BundleError(f"{folder} gives other outputs here than where it was saved", "compare the versions in it")
    target = usable_device(device)
    at = folder.resolve()
    facts: Any = {name: content[name] for name in ("threshold", "card", "hash")}
    facts["name"] = at.parent.name if at.name == "bundle" else at.stem
    return DetectorBundle(detector.to(target), device=target, **facts)


def _fill(detector: Detector, folder: Path) -> None:
    try:
        state = read_state(folder / WEIGHTS)
        wanted = detector.state_dict()
        state = {name: tensor.to(wanted[name].dtype) for name, tensor in state.items() if name in wanted}
        detector.load_state_dict(state)
    except (WeightsError, RuntimeError) as error:
        raise BundleError(f"{folder / WEIGHTS} does not fit the detector described", "copy the bundle again") from error
