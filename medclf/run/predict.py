"""`medclf predict`: a bundle, some files, and a line for each."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medclf.dataset.folders import walk
from medclf.errors import DataError, MedclfWarning
from medclf.escaping import csv_value, printable
from medclf.inference.runtimes import bundle_in, load_model
from medclf.progress import watch

_FEW = 50  # images that do not repay the import of torch


def images_in(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and for a folder the images below it, sorted; links that lead out of it are left out.

    Raises:
        DataError: a file or folder does not exist, or a folder holds no image.

    Warns:
        MedclfWarning: what was left out.
    """
    for path in files:
        if not path.exists():
            raise DataError(f"{path} does not exist", "check the path for typing mistakes")
        if not path.is_dir():
            yield path
            continue
        tree = walk(path)
        for note in tree.notes:
            warnings.warn(MedclfWarning(f"{path}: {note}"), stacklevel=2)
        if not tree.paths:
            raise DataError(f"{path} holds no image", "give files, or another folder")
        yield from (path / name for name in tree.paths)


@dataclass(frozen=True)
class FilePrediction:
    """The answer for one file.

    Args:
        path: the file.
        label: the predicted label; several are joined by `|`, "" where the file cannot be read.
        probs: the probability of each label, in the vocab's order; empty where the file cannot be read.
        flags: "unsure" and "not like the training images", where that is so.
        problem: why the file cannot be read; "" where it can.
    """

    path: str
    label: str
    probs: Mapping[str, float]
    flags: tuple[str, ...] = ()
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """One line of JSON or CSV: path, label, prob_NAME for each label, flags joined by `|`, problem."""
        if self.problem:
            return {"path": self.path, "label": "", "problem": self.problem}
        probs = {f"prob_{name}": round(p, 6) for name, p in self.probs.items()}
        return {"path": self.path, "label": self.label, **probs, "flags": "|".join(self.flags), "problem": ""}

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path}: cannot be read: {self.problem}"
        ranked = sorted(self.probs, key=lambda name: -self.probs[name])[:3]
        scores = ", ".join(f"{name} {self.probs[name]:.3f}" for name in ranked)
        flags = f" [{', '.join(self.flags)}]" if self.flags else ""
        return f"{self.path}: {self.label or '(no finding)'} ({scores}){flags}"


def predict(
    bundle: str | Path, files: str | Path | Sequence[str | Path], *, bs: int = 32, runtime: str = "torch"
) -> list[FilePrediction]:
    """Predict files with a bundle.

    Args:
        bundle: a bundle, a RUN that holds one, or an exported .onnx file.
        files: images, or folders of images.
        bs: images at once.
        runtime: "torch" or "onnx".

    Returns:
        One answer a file, in the order given; a file that cannot be read says why.

    Raises:
        BundleError: the bundle is damaged, changed, or of another version.
        DataError: a file does not exist, or a folder holds no image.
    """
    given = [files] if isinstance(files, (str, Path)) else files
    return list(_answers(load_model(bundle_in(bundle), runtime), given, bs))


def print_predictions(
    bundle: Path, files: Sequence[Path], form: str, bs: int = 32, runtime: str = "torch", device: str = "cpu"
) -> None:
    """Predict and print as "text", "csv" or "json" lines, in the order given; a file that cannot be read says why.

    Raises:
        BundleError: the bundle is damaged, changed, or of another version.
        DataError: a file does not exist, or none could be read.
    """
    loaded = load_model(bundle_in(bundle), runtime, device=device)
    columns = ["path", "label", *(f"prob_{label}" for label in loaded.vocab), "flags", "problem"]
    writer = csv.writer(sys.stdout) if form == "csv" else None
    if writer:
        writer.writerow(map(csv_value, columns))
    n, readable = 0, 0
    for answer in _answers(loaded, files, bs, between=not sys.stdout.isatty()):
        n, readable = n + 1, readable + (not answer.problem)
        if writer:
            writer.writerow([csv_value(answer.as_dict().get(name, "")) for name in columns])
        else:
            print(json.dumps(answer.as_dict()) if form == "json" else printable(answer))
    sys.stdout.flush()
    if not readable:
        raise DataError(f"none of {n} files could be read", "see the reasons above")


def _answers(model: Any, files: Sequence[str | Path], bs: int, *, between: bool = True) -> Iterator[FilePrediction]:
    """One answer a file; `between` says whether a bar may be drawn between them."""
    names = list(images_in([Path(file) for file in files]))
    if len(names) > _FEW:
        import torch  # noqa: F401 - resizes ten times as fast as NumPy, which ONNX Runtime's user may have alone
    answers = zip(names, model.predict_stream(names, bs=bs), strict=True)
    for name, answer in watch(answers, len(names), "Predicting", progress=between and len(names) > _FEW):
        if isinstance(answer, Exception):
            yield FilePrediction(str(name), "", {}, problem=getattr(answer, "reason", str(answer)))
            continue
        label = "|".join(answer.label) if isinstance(answer.label, tuple) else answer.label
        yield FilePrediction(str(name), label, {key: float(p) for key, p in answer.probs.items()}, answer.flags)
