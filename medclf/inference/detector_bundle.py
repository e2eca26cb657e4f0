"""A trained detector as a folder that others can use: safetensors and JSON, no stored code; and boxes for new files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medclf.errors import BundleError, MedclfError, ReadError, WeightsError
from medclf.files import finite, write_json, write_tensors
from medclf.images.box_places import to_file
from medclf.inference import bundle_format
from medclf.inference.bundle_folder import may_write, replacing_folder
from medclf.inference.bundle_format import DETECTOR, WEIGHTS, golden_pixels
from medclf.models.detector import Detector, DetectorSpec, build_detector
from medclf.models.inputs import Inputs
from medclf.models.weight_files import read_state
from medclf.parallel import map_ahead, usable_device

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item

FORMAT = 1
_DRIFT = 1e-4
_MAX_JSON = 8 << 20
_N_GOLDEN = 64  # places of each golden image whose outputs are kept


@dataclass(frozen=True)
class FoundBox:
    """A box that a detector found.

    Args:
        label: what it shows.
        prob: how sure the detector is, in [0, 1].
        x_min, y_min, x_max, y_max: in the file's pixels; x_max and y_max are the first that are not in.
    """

    label: str
    prob: float
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class FoundBoxes:
    """What a detector found in one image.

    Args:
        boxes: the most probable first.
        threshold: prob from which a box is shown.
        width, height: of the file in pixels.
        vocab: the labels that the detector knows.
    """

    boxes: tuple[FoundBox, ...]
    threshold: float
    width: int
    height: int
    vocab: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[FoundBox, ...]:
        """The boxes from the threshold on."""
        return tuple(box for box in self.boxes if box.prob >= self.threshold)

    @property
    def label(self) -> tuple[str, ...]:
        """The labels of the boxes that are shown."""
        return tuple(dict.fromkeys(box.label for box in self.shown))

    @property
    def probs(self) -> dict[str, float]:
        """Of each label, the prob of its surest box; 0 where there is none."""
        return {label: max([0.0, *(box.prob for box in self.boxes if box.label == label)]) for label in self.vocab}


class DetectorBundle:
    """A loaded detector: see `load_detector`.

    Attributes:
        spec: what it is; its `vocab` and `preprocessing` too.
        threshold: prob from which a box is shown.
        card: what its maker says of it.
        name: the folder's.
        hash: of everything in the bundle.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        threshold: float = 0.5,
        card: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        name: str = "detector",
        hash: str = "",
    ) -> None:
        self.detector = detector.eval().to(device)
        self.spec, self.vocab = detector.spec, detector.spec.vocab
        self.preprocessing = detector.spec.preprocessing
        self.inputs = Inputs(self.preprocessing, detector.spec.normalization, device)
        self.threshold, self.card = threshold, dict(card or {})
        self.name, self.hash = name, hash

    def find(self, prepared: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[FoundBoxes]:
        """Boxes in prepared images.

        Args:
            prepared: uint8 (B, H, W, C), as `Preprocessing.prepare` gives them.
            shapes: height and width of each file; boxes stay in the prepared pixels where there is none.
        """
        with torch.inference_mode():
            outputs = self.detector(self.inputs(self.inputs.tensor(prepared)))
            found = self.detector.detections(outputs)
        answers = []
        prepared_shape = self.preprocessing.size
        for one, shape in zip(found, shapes or [prepared_shape] * len(found), strict=True):
            corners = one["boxes"].cpu().numpy()
            corners = to_file(corners, self.preprocessing, shape) if shapes else corners
            names = [self.vocab[int(place)] for place in one["labels"]]
            rows = zip(names, one["scores"].tolist(), corners.tolist(), strict=True)
            boxes = tuple(FoundBox(label, prob, *sides) for label, prob, sides in rows)
            answers.append(FoundBoxes(boxes, self.threshold, shape[1], shape[0], self.vocab))
        return answers

    def predict_pixels(self, pixels: np.ndarray) -> list[FoundBoxes]:
        """Boxes in prepared images (B, H, W, C), in their own pixels; `on_file` brings them to the file's."""
        return self.find(pixels, [])

    def on_file(self, found: FoundBoxes, shape: tuple[int, int]) -> FoundBoxes:
        """What `predict_pixels` found, in the pixels of a file of (height, width)."""
        corners = np.array([[box.x_min, box.y_min, box.x_max, box.y_max] for box in found.boxes])
        moved = to_file(corners, self.preprocessing, shape).tolist()
        boxes = tuple(FoundBox(box.label, box.prob, *sides) for box, sides in zip(found.boxes, moved, strict=True))
        return replace(found, boxes=boxes, width=shape[1], height=shape[0])

    def predict(self, item: Item) -> FoundBoxes:
        """Boxes in one image.

        Args:
            item: a file's path or bytes, a PIL image, or an array (H, W) or (H, W, 3) of uint8 or uint16.

        Raises:
            ReadError: the image cannot be read.
        """
        image = self.preprocessing.read(item)
        return self.find(self.preprocessing.fit(image)[None], [image.shape])[0]

    def predict_stream(self, items: Iterable[Item], bs: int = 16) -> Iterator[FoundBoxes | ReadError]:
        """Boxes in many images, read ahead; an image that cannot be read gives its error."""

        def read(item: Item) -> tuple[np.ndarray, tuple[int, ...]] | ReadError:
            try:
                image = self.preprocessing.read(item)
                return self.preprocessing.fit(image), image.shape
            except ReadError as error:
                return error

        images = iter(map_ahead(read, items, ahead=bs))
        while batch := list(islice(images, bs)):
            sound = [one for one in batch if not isinstance(one, ReadError)]
            found = iter(self.find(np.stack([one[0] for one in sound]), [one[1] for one in sound]) if sound else [])
            for one in batch:
                yield one if isinstance(one, ReadError) else next(found)


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
        content["weights"] = {"file": WEIGHTS, "sha256": bundle_format.file_hash(folder / WEIGHTS)}
        write_json(folder / DETECTOR, content | {"hash": _hash(content)})
    return path


def _hash(content: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in content.items() if name != "hash"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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
    content = _read(folder)
    try:
        spec = DetectorSpec.from_dict(content["detector"])
        if math.prod(spec.preprocessing.size) > bundle_format.MAX_PIXELS:
            raise BundleError(f"{folder}: its size is above {bundle_format.MAX_PIXELS:,} pixels", "save it smaller")
        detector = build_detector(spec, weights=None)
        _fill(detector, folder)
        golden = np.asarray(_golden(detector.eval()))
    except BundleError:
        raise
    except (MedclfError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise BundleError(
            f"{folder}: the detector cannot run as described: {reason}", "copy it again from its source"
        ) from error
    if golden.shape != content["golden"].shape or not np.allclose(golden, content["golden"], rtol=_DRIFT, atol=_DRIFT):
        raise BundleError(f"{folder} gives other outputs here than where it was saved", "compare the versions in it")
    target = usable_device(device)
    at = folder.resolve()
    facts: Any = {name: content[name] for name in ("threshold", "card", "hash")}
    facts["name"] = at.parent.name if at.name == "bundle" else at.stem
    return DetectorBundle(detector.to(target), device=target, **facts)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / DETECTOR
    again = "copy the bundle again from its source"
    if not file.is_file() or not (folder / WEIGHTS).is_file():
        raise BundleError(f"{folder} is not a detector's bundle: it has no {DETECTOR} and {WEIGHTS}", again)
    if file.stat().st_size > _MAX_JSON:
        raise BundleError(f"{file} is larger than {_MAX_JSON >> 20} MB", again)
    try:
        content = json.loads(file.read_bytes())
        version = content["format"]
        if version != FORMAT:
            raise BundleError(
                f"{file} is of format {version}, and this medclf knows {FORMAT}", "install another medclf"
            )
        sound = content["hash"] == _hash(content) and 0 <= content["threshold"] <= 1
        sound &= content["weights"]["sha256"] == bundle_format.file_hash(folder / WEIGHTS)
        sound &= isinstance(content["card"], dict) and isinstance(content["detector"], dict)
        content["golden"] = np.asarray(content["golden"], float)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{file} is damaged: {str(error)[:100]}", again) from error
    if not sound:
        raise BundleError(f"{folder} was changed since it was saved", again)
    return dict(content)


def _fill(detector: Detector, folder: Path) -> None:
    try:
        state = read_state(folder / WEIGHTS)
        wanted = detector.state_dict()
        state = {name: tensor.to(wanted[name].dtype) for name, tensor in state.items() if name in wanted}
        detector.load_state_dict(state)
    except (WeightsError, RuntimeError) as error:
        raise BundleError(f"{folder / WEIGHTS} does not fit the detector described", "copy the bundle again") from error
