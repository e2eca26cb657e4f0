"""A bundle or an exported file on the runtime that was asked for."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medclf.errors import BundleError, DataError, MedclfError, argument, by_road, did_you_mean
from medclf.inference import bundle_format, detector_format
from medclf.inference.bundle_format import is_detector, refuse_classifier, refuse_detector
from medclf.inference.predictor import Predictor
from medclf.results.record import RECORD, read_record

if TYPE_CHECKING:
    from medclf.inference.bundle import Bundle
    from medclf.inference.detector_onnx import OnnxDetector
    from medclf.inference.found_boxes import BoxPredictor
    from medclf.inference.onnx import OnnxModel

RUNTIMES = ("torch", "onnx")
Exported = TypeVar("Exported", "OnnxModel", "OnnxDetector")


def bundle_in(path: str | Path) -> Path:
    """The bundle of a RUN folder; any other path is a bundle, or an exported file, itself.

    Raises:
        BundleError: the RUN holds none, or says that its bundle was another one; or it is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        text = f"a bundle's folder or a RUN is wanted here, not a {type(path).__name__}"
        raise BundleError(text, "give its path; of a learner, save_bundle(learn, path) makes a bundle")
    path = Path(path)
    if not ((path / "bundle").is_dir() or (path / RECORD).is_file()):
        return path
    if not (path / "bundle").is_dir():  # an evaluation, or a training that was stopped
        raise BundleError(f"{path} holds no bundle", "give the RUN folder of a finished training, or a bundle folder")
    wanted = None
    with contextlib.suppress(DataError):  # a damaged run.json is no reason not to predict
        wanted = read_record(path / RECORD).get("bundle_hash")
    if wanted is not None and hash_in(path / "bundle") not in (None, wanted):
        raise BundleError(
            f"{path / 'bundle'} is not the bundle that the training of {path} wrote: the run's numbers are of another",
            "restore it from a copy; or give the bundle's folder itself, outside of the run",
        )
    return path / "bundle"


def hash_in(bundle: Path) -> str | None:
    """What a bundle says its hash is; None where there is none that can be read."""
    try:
        return str(json.loads((bundle / "bundle.json").read_bytes())["hash"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def load_model(
    path: str | Path, runtime: str = "torch", *, threads: int | None = None, device: str = "cpu"
) -> Bundle | OnnxModel:
    """Load a bundle's folder or an exported file.

    Args:
        path: the folder that `save_bundle` wrote, or the .onnx file that `export_onnx` wrote.
        runtime: "torch" or "onnx"; a file always runs on ONNX Runtime. A folder does so too with "onnx": by the file
            of its name beside it (polyps.onnx beside polyps.bundle, RUN/bundle.onnx in a RUN), or one exported for the
            occasion, which takes some seconds.
        threads: of ONNX Runtime; as many as there are cores where None.
        device: where torch predicts: "cpu", "cuda", "mps" ...; ONNX Runtime predicts on the processor.

    Raises:
        BundleError: it is damaged, or the file beside it was exported from another bundle.
        MedclfError: there is no such runtime.
        MissingDependency: ONNX Runtime is not installed.

    Example:
        >>> # load_model("polyps.bundle", "onnx").predict("image.png").label
    """
    path = Path(path)
    if path.suffix != ".onnx" and is_detector(path):
        refuse_detector(path)
    if _is_for_torch(path, runtime, device):
        return _on_torch(path, device)
    from medclf.inference.onnx import OnnxModel

    return _on_onnx(path, OnnxModel, threads)


def opened(bundle: str | Path | Predictor, runtime: str = "torch", device: str = "cpu") -> Predictor:
    """A bundle as it is where it was loaded before; else loaded from a bundle, RUN or exported file.

    Raises:
        BundleError: it is damaged, or is none.
    """
    return bundle if isinstance(bundle, Predictor) else load_model(bundle_in(bundle), runtime, device=device)


def load_box_model(
    path: str | Path, runtime: str = "torch", *, threads: int | None = None, device: str = "cpu"
) -> BoxPredictor:
    """Load a detector's folder or exported file.

    Args:
        path: the folder that `save_detector` wrote, or the .onnx file that `export_onnx` wrote.
        runtime, threads, device: see `load_model`.

    Raises:
        BundleError: it is damaged, or holds no detector, or the file beside it was exported from another bundle.
        MedclfError: there is no such runtime.
        MissingDependency: ONNX Runtime is not installed.

    Example:
        >>> # load_box_model("detector.onnx").predict("image.png").shown
    """
    path = Path(path)
    if path.suffix != ".onnx" and not is_detector(path):
        refuse_classifier(path)
    if _is_for_torch(path, runtime, device):
        from medclf.inference.detector_bundle import load_detector

        return load_detector(path, device)
    from medclf.inference.detector_onnx import OnnxDetector

    return _on_onnx(path, OnnxDetector, threads)


def _is_for_torch(path: Path, runtime: str, device: str) -> bool:
    if runtime not in RUNTIMES:
        raise MedclfError(
            f"{argument('runtime')} must be {' or '.join(RUNTIMES)}, not {runtime!r}", did_you_mean(runtime, RUNTIMES)
        )
    if path.suffix != ".onnx" and runtime == "torch":
        return True
    if device != "cpu":
        raise MedclfError(
            f"ONNX Runtime predicts on the processor, not on {device!r}", f"leave {argument('device')} out"
        )
    return False


def _on_onnx(path: Path, kind: type[Exported], threads: int | None) -> Exported:
    """An exported file; or that of a folder: the one beside it, else one that is made for the occasion."""
    if path.suffix == ".onnx":
        return kind(path, threads=threads)
    beside = path.with_suffix(".onnx")
    if beside.is_file():
        return _same(kind(beside, threads=threads), path, beside)
    from medclf.inference.onnx import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        return kind(export_onnx(path, Path(folder) / f"{path.stem}.onnx"), threads=threads)


def _on_torch(path: Path, device: str) -> Bundle:
    """The weights are read and hashed while torch is imported."""
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(copy_context().run, bundle_format.read, path)  # errors speak there as they would here
        from medclf.inference.bundle import restore

        return restore(content.result(), path, device)


def _same(model: Exported, folder: Path, file: Path) -> Exported:
    read = detector_format.read if is_detector(folder) else bundle_format.read
    if model.exported_from != read(folder)["hash"]:
        raise BundleError(
            f"{file} was not exported from {folder}",
            by_road(
                f"export it again: export_onnx(bundle, {str(file)!r}, overwrite=True)",
                f"export it again: {shlex.join(('medclf', 'export', str(folder), '--out', str(file), '--overwrite'))}",
            ),
        )
    return model
