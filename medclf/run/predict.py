"""`medclf predict`: a bundle, some files, and a line for each."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medclf.dataset.folders import walk
from medclf.errors import DataError, MedclfWarning
from medclf.inference.runtimes import load_model
from medclf.progress import watch

_FEW = 50  # images that do not repay the import of torch


def find_bundle(path: Path) -> Path:
    """The bundle itself, or the one in a RUN folder."""
    return path / "bundle" if (path / "bundle" / "bundle.json").is_file() else path


def images_in(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and for a folder the images below it, sorted; links that lead out of it are left out.

    Raises:
        DataError: a file or folder does not exist, or a folder holds no image.

    Warns:
        MedclfWarning: what was left out.
    """
    for path in files:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder", "check the path for typing mistakes")
        if not path.is_dir():
            yield path
            continue
        tree = walk(path)
        for note in tree.notes:
            warnings.warn(MedclfWarning(f"{path}: {note}"), stacklevel=2)
        if not tree.paths:
            raise DataError(f"{path} holds no image", "give files, or another folder")
        yield from (path / name for name in tree.paths)


def print_predictions(bundle: Path, files: Sequence[Path], form: str, bs: int = 32, runtime: str = "torch") -> None:
    """Predict and print as "text", "csv" or "json" lines, in the order given; a file that cannot be read says why.

    Raises:
        BundleError: the bundle is damaged, changed, or of another version.
        DataError: a file does not exist, or none could be read.
    """
    loaded = load_model(find_bundle(bundle), runtime)
    names = list(images_in(files))
    if len(names) > _FEW:
        import torch  # noqa: F401 - resizes ten times as fast as NumPy, which ONNX Runtime's user may have alone
    columns = ["path", "label", *(f"prob_{label}" for label in loaded.vocab), "flags", "problem"]
    writer = csv.DictWriter(sys.stdout, columns) if form == "csv" else None
    if writer:
        writer.writeheader()
    failed = 0
    lasts = len(names) > _FEW and not sys.stdout.isatty()  # a bar between lines of a terminal would not be read
    for row in watch(rows(loaded, names, bs), len(names), "Predicting", progress=lasts):
        failed += bool(row["problem"])
        if writer:
            writer.writerow({key: row.get(key, "") for key in columns})
        elif form == "json":
            print(json.dumps(row))
        else:
            print(_line(row, loaded.vocab))
    sys.stdout.flush()
    if failed == len(names):
        raise DataError(f"none of {failed} files could be read", "see the reasons above")


def rows(bundle: Any, names: Sequence[Path], bs: int) -> Iterator[dict[str, Any]]:
    """One dict a file: path, label, prob_NAME, flags ("unsure", "not like the training images"), problem."""
    for name, answer in zip(names, bundle.predict_stream(names, bs=bs), strict=True):
        if isinstance(answer, Exception):
            reason = getattr(answer, "reason", str(answer))
            yield {"path": str(name), "label": "", "problem": reason}
            continue
        label = "|".join(answer.label) if isinstance(answer.label, tuple) else answer.label
        probs = {f"prob_{label}": round(float(p), 6) for label, p in answer.probs.items()}
        yield {"path": str(name), "label": label, **probs, "flags": "|".join(answer.flags), "problem": ""}


def _line(row: dict[str, Any], vocab: Sequence[str]) -> str:
    if row["problem"]:
        return f"{row['path']}: cannot be read: {row['problem']}"
    ranked = sorted(vocab, key=lambda label: -row[f"prob_{label}"])[:3]
    scores = ", ".join(f"{label} {row[f'prob_{label}']:.3f}" for label in ranked)
    flags = f" [{row['flags'].replace('|', ', ')}]" if row["flags"] else ""
    return f"{row['path']}: {row['label'] or '(no finding)'} ({scores}){flags}"
