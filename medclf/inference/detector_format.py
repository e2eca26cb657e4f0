"""What describes a detector, in its bundle's detector.json or in its ONNX file, checked before anything is built."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medclf.errors import BundleError
from medclf.files import sha256_of
from medclf.inference.bundle_format import DETECTOR, MAX_PIXELS, WEIGHTS
from medclf.models.detector_spec import DetectorSpec

FORMAT = 1
DRIFT = 1e-4  # of the outputs, from those that were saved
_MAX_JSON = 8 << 20


def content_hash(content: Mapping[str, Any]) -> str:
    """sha256 over every field but the hash itself.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1, "hash": "x"})
        True
    """
    plain = {name: value for name, value in content.items() if name != "hash"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def parse(text: str | bytes, origin: str, again: str) -> dict[str, Any]:
    """The description of a detector, with its golden outputs as an array.

    Args:
        text: JSON.
        origin: what to call it in an error.
        again: how to get a sound one.

    Raises:
        BundleError: it is no JSON, of another format version, changed, or says what cannot be.
    """
    if len(text) > _MAX_JSON:
        raise BundleError(f"{origin} is larger than {_MAX_JSON >> 20} MB", again)
    try:
        content = json.loads(text)
        version = content["format"]
        if version != FORMAT:
            raise BundleError(
                f"{origin} is of format {version}, and this medclf knows {FORMAT}", "install another medclf"
            )
        sound = content["hash"] == content_hash(content) and 0 <= content["threshold"] <= 1
        sound &= isinstance(content["card"], dict) and isinstance(content["detector"], dict)
        content["golden"] = np.asarray(content["golden"], float)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{origin} is damaged: {str(error)[:100]}", again) from error
    if not sound:
        raise BundleError(f"{origin} was changed since it was saved", again)
    return dict(content)


def spec_in(content: Mapping[str, Any], origin: str) -> DetectorSpec:
    """What the detector is.

    Raises:
        BundleError: its description misstates something, or its images are too large.
    """
    spec = DetectorSpec.from_dict(content["detector"])
    if math.prod(spec.preprocessing.size) > MAX_PIXELS:
        raise BundleError(f"{origin}: its size is above {MAX_PIXELS:,} pixels", "save it smaller")
    return spec


def read(folder: Path) -> dict[str, Any]:
    """The checked detector.json of a folder, whose weights' hash was compared.

    Raises:
        BundleError: a file is missing, too large, damaged or changed.
    """
    file = folder / DETECTOR
    again = "copy the bundle again from its source"
    if not file.is_file() or not (folder / WEIGHTS).is_file():
        raise BundleError(f"{folder} is not a detector's bundle: it has no {DETECTOR} and {WEIGHTS}", again)
    if file.stat().st_size > _MAX_JSON:
        raise BundleError(f"{file} is larger than {_MAX_JSON >> 20} MB", again)
    content = parse(file.read_bytes(), str(file), again)
    try:
        sound = content["weights"]["sha256"] == sha256_of(folder / WEIGHTS)
    except (KeyError, TypeError) as error:
        raise BundleError(f"{file} is damaged: {str(error)[:100]}", again) from error
    if not sound:
        raise BundleError(f"{folder / WEIGHTS} was changed since it was saved", again)
    return content
