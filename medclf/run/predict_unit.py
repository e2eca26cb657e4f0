"""`medclf predict --unit`: all files given are one patient, study or series, and get one answer."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclf.dataset.layouts import patients_of_folders
from medclf.errors import MedclfWarning, ReadError
from medclf.escaping import printable
from medclf.images.dicom import owner
from medclf.images.frame_names import frame_name, one_of_several
from medclf.images.reading import n_frames
from medclf.inference.predictor import FrameOf, Predictor, frames_of
from medclf.inference.runtimes import opened
from medclf.inference.zipped import open_zip, read_members
from medclf.results.wording import of_several
from medclf.run.predict import CsvOutput, images_in, in_words, paths_of

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item

_SHOWN = 3  # images that decided, on the terminal


@dataclass(frozen=True)
class UnitAnswer:
    """The answer for all images of one patient, study or series.

    Args:
        name: of what was given.
        label: the predicted label; several are joined by `|`.
        probs: the probability of each label, in the vocab's order.
        flags: "unsure" and "not like the training images", where that is so.
        images: what each image contributed, in [0, 1], the one that decided first; a frame is called FILE#NUMBER.
        problems: images that could not be read, and why.
    """

    name: str
    label: str
    probs: Mapping[str, float]
    flags: tuple[str, ...]
    images: Mapping[str, float]
    problems: Mapping[str, str]

    @property
    def decided_by(self) -> str:
        """The image that contributed most."""
        return next(iter(self.images))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        probs = {f"prob_{name}": round(p, 6) for name, p in self.probs.items()}
        found: dict[str, Any] = {"unit": self.name, "label": self.label, **probs, "flags": "|".join(self.flags)}
        counted = {name: round(value, 6) for name, value in self.images.items()}
        problems = dict(self.problems)
        return {
            **found,
            "n_images": len(counted),
            "decided_by": self.decided_by,
            "images": counted,
            "problems": problems,
        }

    def __str__(self) -> str:
        shown = [f"  {value:.3f} {name}" for name, value in list(self.images.items())[:_SHOWN]]
        broken = [f"  cannot be read: {name}: {reason}" for name, reason in self.problems.items()]
        first = f"{self.name} ({len(self.images)} images): {in_words(self.label, self.probs, self.flags)}"
        return "\n".join([first, "decided by:", *shown, *broken])


def predict_unit(
    bundle: str | Path | Predictor,
    files: str | Path | Sequence[str | Path],
    *,
    bs: int = 32,
    runtime: str = "torch",
    device: str = "cpu",
) -> UnitAnswer:
    """One answer for all the files together: they are the images of one patient, study or series.

    Args:
        bundle: of a training with a unit: a bundle, a RUN that holds one, or an exported .onnx file; or one
            that was loaded, which has its own runtime and device.
        files: images, folders, or zip files of images. Of a file of several frames the one counts that the training
            took, or each, as an image of its own, where it was made with `frame="all"`.
        bs: images at once.
        runtime: "torch" or "onnx".
        device: where the network runs.

    Raises:
        BundleError: the bundle is damaged, or answers each image alone.
        DataError: a file does not exist, or a folder or zip file holds no image.
        ReadError: none of the images can be read.

    Warns:
        MedclfWarning: of files of several frames, one each was looked at; or the headers name several patients, studies
            or series, or the folders several patients.
    """
    given = paths_of(files)
    model = opened(bundle, runtime, device)
    frame, names, several = model.preprocessing.frame, list[str](), dict[str, int]()
    unit = getattr(getattr(model, "unit_rule", None), "unit", "")
    owners: set[str] = set()

    def items() -> Iterator[Item | FrameOf]:
        for name, item in _items(given):
            n = n_frames(item)
            several[name] = n
            owners.update(filter(None, [_owner(item, unit)]))
            each = frames_of(item, frame)
            names.extend(frame_name(name, number, n) if len(each) > 1 else name for number in range(len(each)))
            yield from each

    found = model.predict_unit(items(), bs)
    if frame != "all" and (said := one_of_several(several, frame)):
        warnings.warn(MedclfWarning(f"{said}, as in training"), stacklevel=2)
    folders = set(filter(None, patients_of_folders(names))) if unit == "patient" else set()
    n, by = max((len(owners), "headers"), (len(folders), "folders"))
    if n > 1:
        warnings.warn(MedclfWarning(of_several(n, unit, by)), stacklevel=2)
    answer, counted = found.answer, found.contributions
    label = "|".join(answer.label) if isinstance(answer.label, tuple) else answer.label
    ranked = sorted((k for k, value in enumerate(counted) if value is not None), key=lambda k: -(counted[k] or 0.0))
    images = {names[k]: counted[k] or 0.0 for k in ranked}
    problems = {names[k]: reason for k, reason in found.problems.items()}
    return UnitAnswer(", ".join(map(str, given)), label, answer.probs, answer.flags, images, problems)


def _owner(item: Any, unit: str) -> str | None:
    """The patient, study or series that a DICOM file names, to be compared and never shown; None for other files."""
    try:
        return owner(item, unit)
    except ReadError:  # another file, or a broken one, which is told where it is predicted
        return None


def print_unit(
    bundle: Path, files: Sequence[Path], form: str, bs: int = 32, runtime: str = "torch", device: str = "cpu"
) -> None:
    """Predict the files as one unit, and print the answer as "text", "csv" or "json"."""
    answer = predict_unit(bundle, files, bs=bs, runtime=runtime, device=device)
    if form == "text":
        print("\n".join(map(printable, str(answer).splitlines())))
    elif form == "json":
        print(json.dumps(answer.as_dict()))
    else:
        row = {name: value for name, value in answer.as_dict().items() if name not in ("images", "problems")}
        writer = CsvOutput()
        writer.write(row)
        writer.write(row.values())
        writer.tell()


def _items(files: Sequence[Path]) -> Iterator[tuple[str, Path | bytes]]:
    """Every file by a name of its own, once however often it is given; the members of zip files too."""
    seen: set[Path] = set()
    for path in files:
        if path.is_file() and zipfile.is_zipfile(path):
            with open_zip(path) as archive:
                for name, content in read_members(archive, str(path)):
                    if isinstance(content, ReadError):
                        warnings.warn(MedclfWarning(f"{path}: {content.message}"), stacklevel=2)
                    else:
                        yield f"{path}/{name}", content
            continue
        for file in images_in([path]):
            if (place := file.resolve()) not in seen:
                seen.add(place)
                yield str(file), file
