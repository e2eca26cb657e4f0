"""bundle.json: what must stand in it, what it may cost to read, and how a change is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from medclf.errors import BundleError, MedclfError, argument, by_road, missing
from medclf.files import finite, is_number, sha256_of
from medclf.images.preprocessing import Preprocessing
from medclf.metrics.prevalence import shift_in
from medclf.metrics.units import UnitRule
from medclf.models.spec import ModelSpec
from medclf.models.table_fusion import Fusion
from medclf.results.calibration import Calibration

FORMATS = (1, 2)
WEIGHTS = "weights.safetensors"
DETECTOR = "detector.json"  # of a bundle that gives boxes: see `medclf.inference.detector_bundle`
MAX_JSON = 64 * 2**20
_N_GOLDEN = 2
_MAX_DIGITS = 20  # of an integer: seeds have up to 2**64
MAX_PIXELS = 2**23  # of the network's input: loading a bundle runs two such images
_LEAST = 1e-30  # of a variance: less cannot be divided by in float32


def format_of(preprocessing: Preprocessing, calibration: Mapping[str, Any] | None = None, head: Any = None) -> int:
    """The version that can hold it: 1, which medclf 0.1 reads, where it knows all of preparation, calibration and head.

    Args:
        preprocessing, head: of a `ModelSpec`; 0.1 knows of no other head than its own.
        calibration: as bundle.json has it.

    Example:
        >>> format_of(Preprocessing(224))
        1
    """
    known = isinstance(preprocessing.resize, str) and preprocessing.sampling is None and head is None
    found = calibration or {}
    newer = biases(found) != [0.0] or any(found.get(name) for name in ("decision", "tabular", "unit"))
    return 1 if known and not newer else 2


def content_hash(content: Mapping[str, Any]) -> str:
    """sha256 over every field but the hash itself, whatever their order in the file.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1, "hash": "x"})
        True
    """
    fields = {key: value for key, value in content.items() if key != "hash"}
    text = json.dumps(finite(fields), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parse(text: str | bytes, origin: str) -> dict[str, Any]:
    """The content of a bundle.json, checked.

    Args:
        text: of the file.
        origin: what to call it in an error.

    Raises:
        BundleError: it is no JSON, of another format version, changed, or says what cannot be.
    """
    try:
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        json.dumps(content, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{origin} is damaged: it is not JSON of text and finite numbers", "copy the bundle again from its source"
        ) from error
    if not isinstance(content, dict) or "format" not in content:
        raise BundleError(f"{origin} does not describe a bundle", _a_bundle())
    if content["format"] not in FORMATS:
        raise BundleError(
            f"{origin} is of format {str(content['format'])[:20]}; this medclf reads formats {FORMATS}",
            "update medclf, or save the bundle again",
        )
    try:
        unchanged = content_hash(content) == content["hash"]
        if unchanged:
            _check(content)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, MedclfError) as error:
        why = error.message if isinstance(error, MedclfError) else error
        raise BundleError(f"{origin} is not as save_bundle writes it: {why}", "save the bundle again") from error
    if not unchanged:
        raise BundleError(f"{origin} was changed after it was saved", "copy the bundle again from its source")
    return content


def _check(content: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError, before anything is built from it."""
    for key, kind in (("card", dict), ("calibration", dict), ("golden", dict), ("fold", list), ("weights", dict)):
        _expect(isinstance(content[key], kind), key)
    _expect(content["weights"]["file"] == WEIGHTS, f"the weights are in {WEIGHTS}, nowhere else")
    spec = ModelSpec.from_dict(content["recipe"])
    check_calibration(content["calibration"], spec)
    _expect(content["format"] == format_of(spec.preprocessing, content["calibration"], spec.head), "format")
    logits = np.array(content["golden"]["logits"], np.float64)
    _expect(logits.shape == (_N_GOLDEN, spec.n_out) and bool(np.isfinite(logits).all()), "golden")
    height, width = spec.preprocessing.size
    _expect(height * width <= MAX_PIXELS, f"size: at most {MAX_PIXELS:,} pixels")
    for pair in content["fold"]:
        _expect(len(pair) == 2 and all(isinstance(name, str) for name in pair), "fold")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _is_limit(value: Any) -> bool:
    """Of a probability: above 1 nothing is called, or all is unsure; below 0 no flag would ever be raised."""
    return is_number(value) and value >= 0


def _is_weight(value: Any) -> bool:
    """Of a label in a decision: at 0, or without end, no image would decide anything."""
    return is_number(value) and 0 < value <= 1e12


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("an integer that no number of a bundle needs")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return value


def check_calibration(calibration: Mapping[str, Any], spec: ModelSpec) -> None:
    """Raise KeyError, TypeError or ValueError where `calibration` is not of the form that docs/bundle.md gives."""
    warmth = temperatures(calibration)
    _expect(all(is_number(value) and 1e-3 <= value <= 1e3 for value in warmth), "temperature")
    _expect(len(warmth) in (1, spec.n_out), "temperature")
    added = biases(calibration)
    _expect(all(is_number(value) and abs(value) <= 1e3 for value in added), "bias")
    _expect(len(added) == spec.n_out or added == [0.0], "bias")
    point = calibration.get("operating_point", {})
    if spec.multi_label:
        limits = point.get("thresholds", {})
        _expect(set(limits) <= set(spec.vocab) and all(map(_is_limit, limits.values())), "operating_point")
    elif "label" in point:
        _expect(point["label"] in spec.vocab and _is_limit(point["threshold"]), "operating_point")
    weights = calibration.get("decision", {}).get("weights", {})
    _expect(set(weights) <= set(spec.vocab) and all(map(_is_weight, weights.values())), "decision")
    if calibration.get("tabular"):
        Fusion.from_dict(calibration["tabular"], spec.n_out, spec.multi_label)
    if shift := shift_in(calibration.get("prevalence")):
        _expect(shift.label in spec.vocab and 0 < shift.fitted < 1 and 0 < shift.prevalence < 1, "prevalence")
    _expect(_is_limit(calibration.get("abstain", {}).get("threshold", 0)), "abstain")
    if calibration.get("unit"):
        rule = UnitRule.from_dict(calibration["unit"], multi_label=spec.multi_label)
        _expect(rule.finding is None or (spec.n_out == 2 and not spec.multi_label), "unit")
        _expect(rule.attention is None or len(rule.attention.out) == spec.n_out, "unit")
    if calibration.get("ood"):
        facts, arrays = ood_state(calibration["ood"])
        _expect(all(is_number(facts[key]) for key in ("rest", "threshold", "quantile", "n")), "ood")
        _expect(facts["rest"] >= _LEAST and facts["threshold"] >= 0 and facts["n"] >= 1, "ood")
        _expect(0 < facts["quantile"] < 1, "ood")
        mean, axes, spread = (arrays[name] for name in ("mean", "axes", "spread"))
        _expect((axes.ndim, axes.shape) == (2, (*spread.shape, *mean.shape)), "ood")
        _expect(
            all(bool(np.isfinite(array).all()) for array in arrays.values()) and bool((spread >= _LEAST).all()), "ood"
        )


def as_json(calibration: Calibration | Mapping[str, Any]) -> dict[str, Any]:
    """The calibration as bundle.json has it.

    Raises:
        AttributeError: what stands under "ood" is no detector.
    """
    values = calibration.as_dict() if isinstance(calibration, Calibration) else dict(calibration)
    detector = values.get("ood")
    if detector is not None and not isinstance(detector, Mapping):
        values["ood"] = detector.as_dict()
    return {str(key): finite(value) for key, value in values.items()}


def ood_state(ood: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and arrays that `OodDetector.from_state` takes, out of what `as_json` gave."""
    arrays = {
        name: np.frombuffer(base64.b64decode(array["float32"], validate=True), "<f4").reshape(array["shape"])
        for name, array in ood["arrays"].items()
    }
    return {key: value for key, value in ood.items() if key != "arrays"}, arrays


def temperatures(calibration: Mapping[str, Any]) -> list[float]:
    """One for all labels, or one a label; 1 where there is none.

    Example:
        >>> temperatures({}), temperatures({"temperature": {"temperature": [1.5, 2.0], "n": 100}})
        ([1.0], [1.5, 2.0])
    """
    value = calibration.get("temperature", 1.0)
    if isinstance(value, dict):  # as `Temperature.as_dict` writes it
        value = value["temperature"]
    return value if isinstance(value, list) else [value]


def biases(calibration: Mapping[str, Any]) -> list[float]:
    """What is added to each label's logit after the division; [0.0] where there is nothing.

    Example:
        >>> biases({"temperature": 1.5}), biases({"temperature": {"temperature": [1.5], "bias": [0.1, -0.1], "n": 100}})
        ([0.0], [0.1, -0.1])
    """
    value = calibration.get("temperature")
    found = value.get("bias") if isinstance(value, Mapping) else None
    return list(found) if found else [0.0]


def is_detector(path: Path) -> bool:
    """Whether a folder or an exported file holds a detector, which `load_bundle` does not read.

    Raises:
        BundleError: the file is damaged.
    """
    if path.suffix == ".onnx" and path.is_file():
        from medclf.inference import onnx_file

        return onnx_file.detects(onnx_file.described(onnx_file.checked(path), str(path)))
    return (path / DETECTOR).is_file()


def refuse_detector(path: Path) -> NoReturn:
    """Say what to do with a detector where a classifier is asked for.

    Raises:
        BundleError: always.
    """
    raise BundleError(
        f"{path} holds a detector, which gives boxes and no probabilities of labels",
        by_road(
            "load it with medclf.load_detector, or medclf.inference.detector_onnx.OnnxDetector if it is an ONNX file",
            "use medclf predict, which prints its boxes",
        ),
    )


def refuse_classifier(path: Path) -> NoReturn:
    """Say that a detector is asked for.

    Raises:
        BundleError: always.
    """
    raise BundleError(f"{path} holds no detector, so it gives no boxes", f"train one with {argument('boxes', 'FILE')}")


def _a_bundle() -> str:
    """What to give where something else was given as a bundle."""
    return by_road("give a folder that save_bundle made", "give the RUN folder of a training, or its bundle folder")


def read(folder: Path) -> dict[str, Any]:
    """The checked bundle.json of a folder, whose weights' hash was compared.

    Raises:
        BundleError: a file is missing, too large, a link to elsewhere, damaged or changed.
    """
    if is_detector(folder):
        refuse_detector(folder)
    if not folder.exists():
        raise BundleError(*missing(folder))
    if folder.is_file():
        exported = by_road("OnnxModel(path) reads an exported file", "medclf predict and medclf serve take this file")
        remedy = f"{exported}; here give the bundle that it was made from" if folder.suffix == ".onnx" else _a_bundle()
        raise BundleError(f"{folder} is a file, where a bundle's folder is meant", remedy)
    for name in ("bundle.json", WEIGHTS):
        path = folder / name
        if not path.is_file():
            inside = folder / "bundle"
            remedy = f"give {inside}" if (inside / name).is_file() else _a_bundle()
            raise BundleError(f"{folder} is not a bundle: it has no {name}", remedy)
        if path.resolve().parent != folder.resolve():
            raise BundleError(f"{path} leads out of the bundle", "copy the bundle again, its links followed")
    described = folder / "bundle.json"
    if described.stat().st_size > MAX_JSON:
        raise BundleError(f"{described} is larger than {MAX_JSON // 2**20} MB", "copy the bundle again from its source")
    content = parse(described.read_bytes(), str(described))
    if sha256_of(folder / WEIGHTS) != content["weights"]["sha256"]:
        raise BundleError(
            f"{folder / WEIGHTS} is not the file that was saved: its hash differs",
            "copy the bundle again from its source",
        )
    return content


def golden_pixels(preprocessing: Preprocessing) -> np.ndarray:
    """Drawn from a formula, not from a patient: uint8 (n, height, width, channels) of crossing waves.

    Example:
        >>> golden_pixels(Preprocessing((2, 3), channels=1))[0, ..., 0].tolist()
        [[0, 5, 10], [11, 21, 31]]
    """
    height, width = preprocessing.size
    row, column, channel = np.ogrid[:height, :width, : preprocessing.channels]
    images = []
    for number in range(_N_GOLDEN):
        phase = row * (11 + 6 * number) + column * (5 + 2 * number) + row * column * 5 // (1 + 31 * number)
        images.append(np.abs((phase + channel * 67) % 510 - 255))
    return (255 - np.stack(images)).astype(np.uint8)
