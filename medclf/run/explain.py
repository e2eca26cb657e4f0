"""`medclf explain`: where a bundle looked, as pictures and as a CSV of boxes."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medclf.errors import DataError, MedclfWarning, OutputError, ReadError, argument, position
from medclf.escaping import csv_value
from medclf.files import refuse_to_replace, replacing
from medclf.images.heatmap import Box, hottest_box, on_original, overlay
from medclf.inference.bundle import Bundle, load_bundle
from medclf.inference.runtimes import bundle_in
from medclf.run.predict import images_in, without_fields

_BOXES = "boxes.csv"
_COLUMNS = ("path", "label", "prob", "left", "top", "right", "bottom", "width", "height", "picture", "problem")


@dataclass(frozen=True)
class Explanation:
    """Where a bundle looked in one file.

    Args:
        path: the file.
        label: what was looked for.
        prob: its probability, in [0, 1]; None where the file cannot be read.
        box: around the hottest region, in the image's own pixels; None where nothing speaks for the label.
        width, height: of the image, in pixels.
        picture: the image with its heat map, written beside boxes.csv.
        problem: why the file cannot be read; "" where it can.
    """

    path: str
    label: str = ""
    prob: float | None = None
    box: Box | None = None
    width: int | None = None
    height: int | None = None
    picture: Path | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """One row of boxes.csv."""
        if self.problem:
            return {"path": self.path, "problem": self.problem}
        box = self.box._asdict() if self.box else {}
        picture = {"picture": self.picture.name} if self.picture else {}
        size = {"width": self.width, "height": self.height}
        return {"path": self.path, "label": self.label, "prob": self.prob, **box, **size, **picture, "problem": ""}

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path}: cannot be read: {self.problem}"
        found = f"{self.path}: {self.label} {self.prob:.3f}"
        if self.box is None:
            return f"{found}, no region speaks for it"
        left, top, right, bottom = self.box
        return f"{found}, hottest from ({left}, {top}) to ({right}, {bottom}) of {self.width} x {self.height}"


def explain(
    bundle: str | Path | Bundle,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    label: str | None = None,
    method: str = "grad-cam",
    share: float = 0.5,
    overwrite: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> list[Explanation]:
    """Write each image with its heat map, and boxes.csv with a box around the hottest region of each.

    Args:
        bundle: a bundle, or a RUN that holds one; or what `load_bundle` gave, on its own device.
        files: images, or folders of images.
        out: the folder to write to.
        label: what to look for; the label predicted of each image where None.
        method: "grad-cam" or "occlusion"; see `medclf.grad_cam` and `medclf.occlusion`.
        share: how hot the box is, as a share of the hottest pixel, in (0, 1].
        overwrite: replace what an earlier call wrote.
        device: where to predict: "cpu", "cuda", "mps" ...
        say: called with a line for the user on each image.

    Returns:
        One row an image, as boxes.csv has them.

    Raises:
        DataError: a file, label or method that is not there, or no file could be read.
        OutputError: `out` holds a boxes.csv already, or cannot be written.
        BundleError: the bundle is damaged.
    """
    out = Path(out)
    if not 0 < share <= 1:
        raise DataError(f"{argument('share')} must be above 0 and at most 1, not {share:g}", "0.5 is half the hottest")
    refuse_to_replace(out / _BOXES, overwrite)
    names = _without_pictures(list(images_in(files)), out)
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle_in(bundle), device)
    if label is not None:
        position(loaded.vocab, label)
    if told := without_fields(loaded):
        warnings.warn(MedclfWarning(told), stacklevel=2)
    found = []
    for number, name in enumerate(names, 1):
        found.append(_explained(loaded, name, out / f"{number:04}-{name.stem}.png", label, method, share))
        say(str(found[-1]))
    with replacing(out / _BOXES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows([csv_value(row.as_dict().get(name, "")) for name in _COLUMNS] for row in found)
    say(f"boxes: {out / _BOXES}")
    if found and all(row.problem for row in found):
        raise DataError(f"none of {len(found)} files could be read", f"see the reasons in {out / _BOXES}")
    return found


def _without_pictures(names: list[Path], out: Path) -> list[Path]:
    """The images, without the pictures of an earlier call that lie among them.

    Raises:
        OutputError: `out` holds images that no earlier call made, or all of them.
    """
    inside = [name for name in names if out.resolve() in name.resolve().parents]
    if inside and (len(inside) == len(names) or not (out / _BOXES).exists()):
        text = f"{out} holds images itself, such as {inside[0].name}, and the pictures would lie among them"
        raise OutputError(text, f"give another {argument('out')}")
    return [name for name in names if name not in set(inside)]


def _explained(bundle: Bundle, name: Path, picture: Path, label: str | None, method: str, share: float) -> Explanation:
    """What is found of one file; its picture is written."""
    try:
        image = bundle.preprocessing.read(name)
        answer = bundle.predict(name)
    except ReadError as error:
        return Explanation(str(name), problem=error.reason)
    chosen = label or (
        answer.label if isinstance(answer.label, str) else max(answer.probs, key=answer.probs.__getitem__)
    )
    heat = on_original(bundle.saliency(name, chosen, method=method), image.shape, bundle.preprocessing)
    box = hottest_box(heat, share)
    with replacing(picture) as temporary:
        Image.fromarray(overlay(image, heat, box=box)).save(temporary, "PNG")
    height, width = image.shape[:2]
    return Explanation(str(name), chosen, round(float(answer.probs[chosen]), 6), box, width, height, picture)
