"""A bundle or an exported file on the runtime that was asked for."""

from __future__ import annotations

import contextlib
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING

from medclf.errors import BundleError, DataError, MedclfError, argument, by_road, did_you_mean
from medclf.inference import bundle_format
from medclf.results.record import RECORD, read_record

if TYPE_CHECKING:
    from medclf.inference.bundle import Bundle
    from medclf.inference.onnx import OnnxModel

RUNTIMES = ("torch", "onnx")


def bundle_in(path: str | Path) -> Path:
    """The bundle of a RUN folder; any other path is a bundle, or an exported file, itself.

    Raises:
        BundleError: the RUN says that its bundle was another one.
    """
    path = Path(path)
    if not ((path / "bundle").is_dir() or (path / RECORD).is_file()):
        return path
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
    if runtime not in RUNTIMES:
        raise MedclfError(
            f"{argument('runtime')} must be {' or '.join(RUNTIMES)}, not {runtime!r}", did_you_mean(runtime, RUNTIMES)
        )
    if path.suffix != ".onnx" and runtime == "torch":
        return _on_torch(path, device)
    if device != "cpu":
        raise MedclfError(
            f"ONNX Runtime predicts on the processor, not on {device!r}", f"leave {argument('device')} out"
        )
    from medclf.inference.onnx import OnnxModel, export_onnx

    if path.suffix == ".onnx":
        return OnnxModel(path, threads=threads)
    beside = path.with_suffix(".onnx")
    if beside.is_file():
        return _same(OnnxModel(beside, threads=threads), path, beside)
    with tempfile.TemporaryDirectory() as folder:
        return OnnxModel(export_onnx(path, Path(folder) / f"{path.stem}.onnx"), threads=threads)


def _on_torch(path: Path, device: str) -> Bundle:
    """The weights are read and hashed while torch is imported."""
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(copy_context().run, bundle_format.read, path)  # errors speak there as they would here
        from medclf.inference.bundle import restore

        return restore(content.result(), path, device)


def _same(model: OnnxModel, folder: Path, file: Path) -> OnnxModel:
    if model.exported_from != bundle_format.read(folder)["hash"]:
        raise BundleError(
            f"{file} was not exported from {folder}",
            by_road(
                f"export it again: export_onnx(bundle, {str(file)!r}, overwrite=True)",
                f"export it again: medclf export {folder} --out {file} --overwrite",
            ),
        )
    return model
