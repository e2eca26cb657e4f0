"""`medclf predict RUN FILES` where the RUN, bundle or ONNX file holds a detector: a line for each box."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medclf.errors import ReadError
from medclf.escaping import printable
from medclf.images.box_places import SIDES
from medclf.inference.found_boxes import BoxPredictor, FoundBoxes
from medclf.inference.runtimes import bundle_in, load_box_model
from medclf.run.predict import CsvOutput, end_output, images_in, tell_frames

_COLUMNS = ("path", "label", "prob", *SIDES, "width", "height", "problem")


def predict_boxes(
    bundle: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    bs: int = 16,
    runtime: str = "torch",
    device: str = "cpu",
) -> Iterator[tuple[Path, FoundBoxes | ReadError]]:
    """Find boxes in files.

    Args:
        bundle: a detector's bundle, a RUN that holds one, or an exported file.
        files: images, or folders of images.
        bs: images at once.
        runtime, device: see `medclf.inference.runtimes.load_model`.

    Yields:
        Each file, with what was found in it, or why it cannot be read.

    Raises:
        BundleError: the bundle is damaged, or holds no detector.
        DataError: a file does not exist, or a folder holds no image.
    """
    yield from _found(load_box_model(bundle_in(bundle), runtime, device=device), files, bs)


def _found(
    loaded: BoxPredictor, files: str | Path | Sequence[str | Path], bs: int
) -> Iterator[tuple[Path, FoundBoxes | ReadError]]:
    names = list(images_in(files))
    tell_frames(names, loaded.preprocessing.frame)
    yield from zip(names, loaded.predict_stream(names, bs), strict=True)


def print_boxes(
    bundle: Path,
    files: Sequence[Path],
    form: str,
    threshold: float | None = None,
    bs: int = 16,
    runtime: str = "torch",
    device: str = "cpu",
) -> None:
    """Print the boxes from a threshold on as "text", "csv" (a row a box) or "json" (a line an image).

    Raises:
        BundleError: see `predict_boxes`.
        DataError: a file does not exist, or none could be read.
    """
    writer = CsvOutput() if form == "csv" else None
    if writer:
        writer.write(_COLUMNS)
    n = readable = 0
    for path, answer in predict_boxes(bundle, files, bs=bs, runtime=runtime, device=device):
        n, readable = n + 1, readable + (not isinstance(answer, ReadError))
        rows = list(_rows(answer, threshold))
        if writer:
            for row in rows:
                writer.write({"path": str(path), **row}.get(name, "") for name in _COLUMNS)
        elif form == "json":
            print(json.dumps(_as_json(path, answer, rows)))
        else:
            print(printable(f"{path}: {_words(answer, rows)}"))
    end_output(writer, n, readable)


def _rows(answer: FoundBoxes | ReadError, threshold: float | None) -> Iterator[dict[str, Any]]:
    """One a box; one without a box where there is none."""
    if isinstance(answer, ReadError):
        yield {"problem": answer.reason}
        return
    least = answer.threshold if threshold is None else threshold
    size = {"width": answer.width, "height": answer.height}
    shown = [box for box in answer.boxes if box.prob >= least]
    for box in shown:
        corners = {side: round(getattr(box, side), 1) for side in SIDES}
        yield {"label": box.label, "prob": round(box.prob, 6), **corners, **size}
    if not shown:
        yield size


def _as_json(path: Path, answer: FoundBoxes | ReadError, rows: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(answer, ReadError):
        return {"path": str(path), "boxes": [], "problem": answer.reason}
    boxes = [{name: row[name] for name in ("label", "prob", *SIDES)} for row in rows if "label" in row]
    return {"path": str(path), "width": answer.width, "height": answer.height, "boxes": boxes, "problem": ""}


def _words(answer: FoundBoxes | ReadError, rows: list[dict[str, Any]]) -> str:
    if isinstance(answer, ReadError):
        return f"cannot be read: {answer.reason}"
    told = [
        f"{row['label']} {row['prob']:.2f} from ({row['x_min']:.0f}, {row['y_min']:.0f}) to "
        f"({row['x_max']:.0f}, {row['y_max']:.0f})"
        for row in rows
        if "label" in row
    ]
    return "; ".join(told) or "(no finding)"
