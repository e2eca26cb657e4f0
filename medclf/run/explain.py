"""`medclf explain`: where a bundle looked, as pictures and as a CSV of boxes."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medclf.errors import DataError, OutputError, ReadError, argument, position
from medclf.files import replacing
from medclf.images.heatmap import hottest_box, on_original, overlay
from medclf.inference.bundle import Bundle, load_bundle
from medclf.run.predict import find_bundle, images_in

_BOXES = "boxes.csv"
_COLUMNS = ("path", "label", "prob", "left", "top", "right", "bottom", "width", "height", "picture", "problem")


def explain(
    bundle: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    label: str | None = None,
    method: str = "grad-cam",
    share: float = 0.5,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write each image with its heat map, and boxes.csv with a box around the hottest region of each.

    Args:
        bundle: a bundle, or a RUN that holds one.
        files: images, or folders of images.
        out: the folder to write to.
        label: what to look for; the label predicted of each image where None.
        method: "grad-cam" or "occlusion"; see `medclf.grad_cam` and `medclf.occlusion`.
        share: how hot the box is, as a share of the hottest pixel, in (0, 1].
        overwrite: replace what an earlier call wrote.

    Yields:
        A line for the user on each image.

    Raises:
        DataError: a file, label or method that is not there, or no file could be read.
        OutputError: `out` holds a boxes.csv already, or cannot be written.
        BundleError: the bundle is damaged.
    """
    out = Path(out)
    if not 0 < share <= 1:
        raise DataError(f"share={share:g} is not above 0 and at most 1", "0.5 is half as hot as the hottest pixel")
    if (out / _BOXES).exists() and not overwrite:
        raise OutputError(
            f"{out / _BOXES} exists already",
            f"choose another {argument('out')}, or replace it with {argument('overwrite', True)}",
        )
    loaded = load_bundle(find_bundle(Path(bundle)))
    if label is not None:
        position(loaded.vocab, label)
    names = list(images_in([Path(file) for file in files]))
    rows = []
    for number, name in enumerate(names, 1):
        rows.append(_row(loaded, name, out / f"{number:04}-{name.stem}.png", label, method, share))
        yield _line(rows[-1])
    with replacing(out / _BOXES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    yield f"boxes: {out / _BOXES}"
    if names and all(row["problem"] for row in rows):
        raise DataError(f"none of {len(names)} files could be read", "see the reasons above")


def _row(bundle: Bundle, name: Path, picture: Path, label: str | None, method: str, share: float) -> dict[str, Any]:
    """One line of the CSV; its picture is written."""
    try:
        image = bundle.preprocessing.read(name)
        answer = bundle.predict(name)
    except ReadError as error:
        return {"path": str(name), "problem": error.reason}
    chosen = label or (
        answer.label if isinstance(answer.label, str) else max(answer.probs, key=answer.probs.__getitem__)
    )
    heat = on_original(bundle.saliency(name, chosen, method=method), image.shape, bundle.preprocessing)
    box = hottest_box(heat, share)
    with replacing(picture) as temporary:
        Image.fromarray(overlay(image, heat, box=box)).save(temporary, "PNG")
    height, width = image.shape[:2]
    found = {"path": str(name), "label": chosen, "prob": round(answer.probs[chosen], 6), "problem": ""}
    return found | (box._asdict() if box else {}) | {"width": width, "height": height, "picture": picture.name}


def _line(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"{row['path']}: cannot be read: {row['problem']}"
    if "left" not in row:
        return f"{row['path']}: {row['label']} {row['prob']:.3f}, nothing speaks for it"
    return (
        f"{row['path']}: {row['label']} {row['prob']:.3f}, hottest from ({row['left']}, {row['top']}) "
        f"to ({row['right']}, {row['bottom']}) of {row['width']} x {row['height']}"
    )
