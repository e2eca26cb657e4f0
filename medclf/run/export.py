"""`medclf export`: a bundle as one ONNX file, in 8 bits where asked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medclf.errors import DataError, argument, by_road
from medclf.inference.bundle_format import is_detector
from medclf.inference.onnx import export_onnx, quantize_onnx
from medclf.inference.runtimes import bundle_in
from medclf.run.predict import images_in

_MOST = 400  # images to calibrate and compare with


def export(
    bundle: Path, out: Path, *, int8: bool = False, data: Sequence[Path] = (), overwrite: bool = False
) -> Iterator[str]:
    """Export, and say what was made.

    Args:
        bundle: a bundle, of a detector too, or a RUN that holds one.
        out: the .onnx file.
        int8: quantise it; its cost is said.
        data: images, or folders of images, for that; at most 400 of them are used, evenly chosen.
        overwrite: replace a file that is there.

    Raises:
        DataError: int8 without images, or images without int8; or int8 of a detector.
        OutputError, BundleError, ReadError: as `export_onnx` and `quantize_onnx`.
    """
    if int8 and is_detector(bundle_in(bundle)):
        raise DataError(f"{bundle} holds a detector, which has no {argument('int8')}", "leave it out")
    if int8 != bool(data):
        raise DataError(
            f"{argument('int8')} needs images to set its ranges"
            if int8
            else f"{argument('data')} is for {argument('int8')} alone",
            by_road("give both int8=True and data=", "give both: --int8 --data FOLDER"),
        )
    if not int8:
        yield f"onnx: {export_onnx(bundle_in(bundle), out, overwrite=overwrite)}"
        return
    images = list(images_in(data))
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, min(_MOST, len(images))).astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        full = export_onnx(bundle_in(bundle), Path(folder) / "full.onnx")
        cost = quantize_onnx(full, out, chosen, overwrite=overwrite)
    yield f"onnx: {out}"
    yield str(cost)
