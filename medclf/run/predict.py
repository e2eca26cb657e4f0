"""`medclf predict`: a bundle, some files, and a line for each."""

from __future__ import annotations

import csv
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medclf.config import Frame
from medclf.dataset.folders import Tree, walk
from medclf.dataset.layouts import masks_among
from medclf.errors import DataError, MedclfWarning, argument, did_you_mean, missing
from medclf.escaping import csv_value, printable
from medclf.images.frame_names import file_of, frame_name, one_of_several
from medclf.images.reading import n_frames
from medclf.inference.predictor import Predictor
from medclf.inference.runtimes import opened
from medclf.models.tabular import NEW_FIELDS
from medclf.progress import watch

_FEW = 50  # images that do not repay the import of torch


Files = str | Path | Iterable[str | Path]


def paths_of(files: Files) -> list[Path]:
    """The files or folders that were given: one, or several.

    Raises:
        DataError: they are no paths.
    """
    of_keys = isinstance(files, Mapping) or hasattr(files, "columns")  # a DataFrame would give its columns' names
    single = of_keys or isinstance(files, (str, bytes)) or not isinstance(files, Iterable)
    given: list[Any] = [files] if single else list(files)  # type: ignore[arg-type]
    if other := next((type(file).__name__ for file in given if not isinstance(file, (str, os.PathLike))), ""):
        remedy = "give a path, or a list of them; load_bundle(PATH).predict takes bytes, arrays and PIL images too"
        raise DataError(f"files are given by their paths, not as {other}", remedy)
    return [Path(file) for file in given]


def images_in(files: Files) -> Iterator[Path]:
    """The files, and for a folder the images below it, sorted; links that lead out of it are left out.

    Raises:
        DataError: a file or folder does not exist, or a folder holds no image; or what is given is no path.

    Warns:
        MedclfWarning: what was left out.
    """
    for path in paths_of(files):
        if not file_of(path).exists():
            raise DataError(*missing(path))
        if not path.is_dir():
            yield path
            continue
        tree = walk(path, Tree(taken_by="naming the files"))
        for note in tree.notes:
            warnings.warn(MedclfWarning(f"{path}: {note}"), stacklevel=2)
        if not tree.paths:
            raise DataError(f"{path} holds no image", "give files, or another folder")
        if masks := set(masks_among(tree.paths)):
            text = f"{path}: {len(masks)} files are masks or drawings of other images by their name, and are left out"
            warnings.warn(MedclfWarning(f"{text}, first '{min(masks)}': name the files to predict them"), stacklevel=2)
        yield from (path / name for name in tree.paths if name not in masks)


def without_fields(bundle: Any) -> str:
    """What is said where a model takes columns of a table and none are given; "" where it takes none."""
    names = ", ".join(repr(field["name"]) for field in getattr(bundle, "fields", ()))
    return f"the model uses {names} beside the image, and here all of that counts as unknown" if names else ""


def frames_in(files: Iterable[Path]) -> Iterator[Path]:
    """Each frame of the files by its name; a file of one, or one that cannot be read, as it is."""
    for path in files:
        n = n_frames(path)
        yield from ((Path(frame_name(str(path), number, n)) for number in range(n)) if n > 1 else [path])


def tell_frames(files: Iterable[Path], frame: Frame) -> None:
    """Warn of files of several frames, of which one is predicted."""
    if said := one_of_several({str(path): n_frames(path) for path in files}, frame):
        warnings.warn(MedclfWarning(f"{said}, as in training; another one is called FILE#NUMBER"), stacklevel=3)


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
        return f"{self.path}: {in_words(self.label, self.probs, self.flags)}"


def in_words(label: str, probs: Mapping[str, float], flags: Sequence[str]) -> str:
    """The label, the three highest probabilities, and the flags."""
    ranked = sorted(probs, key=lambda name: -probs[name])[:3]
    scores = ", ".join(f"{name} {probs[name]:.3f}" for name in ranked)
    return f"{label or '(no finding)'} ({scores})" + (f" [{', '.join(flags)}]" if flags else "")


def predict(
    bundle: str | Path | Predictor,
    files: str | Path | Sequence[str | Path],
    *,
    bs: int = 32,
    runtime: str = "torch",
    fields: str | Path | None = None,
    field: Mapping[str, Any] | Sequence[str] = (),
) -> list[FilePrediction]:
    """Predict files with a bundle.

    Args:
        bundle: a bundle, a RUN that holds one, or an exported .onnx file; or a bundle that was loaded.
        files: images, or folders of images.
        bs: images at once.
        runtime: "torch" or "onnx"; what was loaded has its own.
        fields: a CSV with the columns that the model uses beside the image, and a column path; see `fields_for`.
        field: of all images, {"age": 60} or ["age=60"].

    Returns:
        One answer a file, in the order given; a file that cannot be read says why.

    Raises:
        BundleError: the bundle is damaged, changed, or of another version.
        DataError: a file does not exist, or a folder holds no image.
    """
    return list(_answers(opened(bundle, runtime), files, bs, fields=fields, field=field))


def print_predictions(
    bundle: Path,
    files: Sequence[Path],
    form: str,
    bs: int = 32,
    runtime: str = "torch",
    device: str = "cpu",
    *,
    fields: Path | None = None,
    field: Sequence[str] = (),
) -> None:
    """Predict and print as "text", "csv" or "json" lines, in the order given; a file that cannot be read says why.

    Raises:
        BundleError: the bundle is damaged, changed, or of another version.
        DataError: a file does not exist, or none could be read.
    """
    loaded = opened(bundle, runtime, device)
    columns = ["path", "label", *(f"prob_{label}" for label in loaded.vocab), "flags", "problem"]
    writer = CsvOutput() if form == "csv" else None
    n, readable = 0, 0
    for answer in _answers(loaded, files, bs, between=not sys.stdout.isatty(), fields=fields, field=field):
        if writer and not n:
            writer.write(columns)
        n, readable = n + 1, readable + (not answer.problem)
        if writer:
            writer.write(answer.as_dict().get(name, "") for name in columns)
        else:
            print(json.dumps(answer.as_dict()) if form == "json" else printable(answer))
    end_output(writer, n, readable)


def end_output(writer: CsvOutput | None, n: int, readable: int) -> None:
    """After the last of `n` files.

    Raises:
        DataError: none of them was readable.
    """
    sys.stdout.flush()
    if writer:
        writer.tell()
    if not readable:
        raise DataError(f"none of {n} files could be read", "see the reasons above")


class CsvOutput:
    """Rows of CSV on standard output.

    What its encoding cannot write is written as codes (see `medclf.cli`), and such rows are counted.
    """

    def __init__(self) -> None:
        self._writer, self._n_coded = csv.writer(sys.stdout), 0

    def write(self, values: Iterable[object]) -> None:
        """One row, each cell as `csv_cell` writes it."""
        cells = [csv_value(value) for value in values]
        self._writer.writerow(cells)
        try:
            "".join(map(str, cells)).encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            self._n_coded += 1

    def tell(self) -> None:
        """Warn of the rows that hold codes.

        Warns:
            MedclfWarning: there are some.
        """
        if self._n_coded:
            rows = "1 row holds" if self._n_coded == 1 else f"{self._n_coded} rows hold"
            text = f"{rows} characters that the output's encoding ({sys.stdout.encoding}) lacks"
            remedy = r"they are written as codes such as \xe9; set PYTHONIOENCODING=utf-8 to have them as they are"
            warnings.warn(MedclfWarning(f"{text}: {remedy}"), stacklevel=3)


def fields_for(
    model: Any, names: Sequence[Path], fields: str | Path | None, field: Mapping[str, Any] | Sequence[str]
) -> list[dict[str, Any]]:
    """The table's columns of each image, from a CSV and from what all images share.

    Args:
        model: that uses them.
        names: the images.
        fields: a CSV with a column path: as the image is given, relative to the CSV's folder, or the file's name where
            no other image has it.
        field: of all images; the CSV wins where it says something.

    Raises:
        DataError: a field that the model does not take, a number that is none, or a CSV that cannot be read, names
            none of the images, or names one twice with different fields.

    Warns:
        MedclfWarning: images that the CSV does not name, and categories that training did not have.
    """
    shared = dict(field) if isinstance(field, Mapping) else named_fields(field)
    model.check_fields(shared)
    rows = [dict(shared) for _ in names]
    if fields is not None:
        said = _read_fields(model, Path(fields))
        files = Counter(path.name for path in {name.resolve() for name in names})
        found = [_row_of(name, Path(fields), said, alone=files[name.resolve().name] == 1) for name in names]
        lacking = [str(name) for name, row in zip(names, found, strict=True) if row is None]
        if len(lacking) == len(names):
            raise DataError(f"{fields} names none of the {len(names)} images", "its column path has to name them")
        if lacking:
            text = f"{fields} does not name {len(lacking)} of {len(names)} images: {', '.join(lacking[:5])}"
            warnings.warn(MedclfWarning(text), stacklevel=3)
        for row, more in zip(rows, found, strict=True):
            row.update(more or {})
    unseen = dict.fromkeys(text for row in rows for text in model.check_fields(row))
    if unseen:
        warnings.warn(MedclfWarning(f"no training image has {', '.join(list(unseen)[:5])}: {NEW_FIELDS}"), stacklevel=3)
    return rows


def named_fields(texts: Sequence[str]) -> dict[str, str]:
    """Fields as `--field NAME=VALUE` gives them, each once.

    Raises:
        DataError: a text has another form, or a name stands there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name:
            raise DataError(f"{argument('field')} must be NAME=VALUE, not {text!r}", "for example age=60")
        if found.setdefault(name, value) != value:
            raise DataError(f"{argument('field')} gives {name!r} twice: {found[name]} and {value}", "give it once")
    return found


def _read_fields(model: Any, path: Path) -> dict[str, dict[str, str]]:
    """What a CSV says of each image, by its path; blank cells say nothing."""
    from medclf.dataset.csv_reading import read_csv  # with pandas, which a prediction without a table does not need

    names = [one["name"] for one in model.fields]
    if not names:
        raise DataError(f"the model {model.name} takes no fields beside the image", f"leave out {argument('fields')}")
    rows = read_csv(path)
    used = [name for name in names if name in rows]
    if "path" not in rows or not used:
        text = f"{path} has the columns {', '.join(map(str, rows))}"
        raise DataError(text, f"it needs a column path, and some of {', '.join(names)}")
    if lacking := [name for name in names if name not in used]:
        meant = next(filter(None, (did_you_mean(name, list(map(str, rows))) for name in lacking)), "")
        text = f"{path} has no column {', '.join(map(repr, lacking))}: it counts as unknown"
        warnings.warn(MedclfWarning(f"{text} ({meant})" if meant else text), stacklevel=4)
    said: dict[str, dict[str, str]] = {}
    for image, *cells in rows[["path", *used]].itertuples(index=False):
        row = {name: cell for name, cell in zip(used, cells, strict=True) if cell}
        if said.setdefault(image, row) != row:
            raise DataError(f"{path} names {image!r} twice, with different fields", "leave one row for each image")
    return said


def _row_of(name: Path, table: Path, said: Mapping[str, dict[str, str]], *, alone: bool) -> dict[str, str] | None:
    """What the CSV says of an image; by the file's name only where it is `alone`, with no other image of that name."""
    beside = name.resolve()
    folder = table.resolve().parent
    inside = beside.relative_to(folder).as_posix() if beside.is_relative_to(folder) else ""
    keys = (str(name), name.as_posix(), inside, *([name.name] if alone else []))
    return next((said[key] for key in keys if key in said), None)


def _answers(
    model: Any,
    files: Files,
    bs: int,
    *,
    between: bool = True,
    fields: str | Path | None = None,
    field: Mapping[str, Any] | Sequence[str] = (),
) -> Iterator[FilePrediction]:
    """One answer a file; `between` says whether a bar may be drawn between them."""
    names = list(images_in(files))
    if model.preprocessing.frame == "all":
        names = list(frames_in(names))
    else:
        tell_frames(names, model.preprocessing.frame)
    given = {"fields": fields_for(model, names, fields, field)} if fields is not None or field else {}
    if len(names) > _FEW:
        import torch  # noqa: F401 - resizes ten times as fast as NumPy, which ONNX Runtime's user may have alone
    answers = zip(names, model.predict_stream(names, bs=bs, **given), strict=True)
    for name, answer in watch(answers, len(names), "Predicting", progress=between and len(names) > _FEW):
        if isinstance(answer, Exception):
            yield FilePrediction(str(name), "", {}, problem=getattr(answer, "reason", str(answer)))
            continue
        label = "|".join(answer.label) if isinstance(answer.label, tuple) else answer.label
        yield FilePrediction(str(name), label, {key: float(p) for key, p in answer.probs.items()}, answer.flags)
