"""The settings of a run, as the command line takes them and `run.json` keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from medclf.errors import DataError, WeightsError
from medclf.images.reading import Resize
from medclf.reporting.card import read_card

MODALITIES = ("endoscopy", "radiograph", "dermoscopy", "fundus", "histology")
SPLITS = ("random", "stratified", "patient", "grouped", "folders", "kfold")


@dataclass(frozen=True)
class TrainConfig:
    """What `medclf train` was asked to do.

    Args:
        data: folder of images, or a CSV.
        out: the RUN folder.
        labels: CSV with the labels, where the folders are not.
        path_col, label_col, label_delim, patient_col, partition_col: its columns; see `scan`.
        modality: whose augmentation to use.
        arch, weights: see `med_learner`.
        epochs: after the linear probe; 0 is the linear probe alone.
        train_from: the first stage that these train, such as "layer4"; None for the whole network.
        linear_probe: fit the head first; off gives fastai's frozen epoch instead.
        views: augmented views of each image that the linear probe is fitted on besides.
        size, resize, window, frame: of the images; see `MedDataLoaders.from_table`.
        first_sizes: smaller sizes that the first epochs train at, such as [128].
        budget: minutes that all of it may take; size, depth and epochs are then chosen by `medclf.run.budget`.
        bs, lr: batch size and base learning rate; None for the defaults.
        split, folds, valid_pct, seed: see `split_table`.
        device: "cpu", "cuda", ...; None takes the GPU if there is one.
        mixed_precision: see `med_learner`.
        cache: decode every image once into a store in the user's cache folder.
        strict: stop at a corrupt file.
        overwrite: replace an existing RUN.
        test: folder of labelled images to evaluate besides.
        hide_names: row ids instead of file names in the report.
        card: YAML file with what only people know of data and model; see `medclf.reporting.card`.
        subgroup: columns of the table to give the metrics by; see `medclf.results.subgroups`.
        corrections: a review.csv, whose labels and exclusions are applied to the table; see `data.corrections`.
        saliency: images of the report that get a map of where the network looked, the errors first; 0 for none.
        show_burned_in: show in the report what may have a patient's name in its pixels.
        audit: look for twins, leaks and clues; with "grouped" and "kfold" before the split, which keeps twins together.
        keep_accuracy, positive, operating_point, prevalence: how decisions are made of probabilities; see
            `medclf.auditing.decisions.Wishes`.
    """

    data: str
    out: str
    labels: str | None = None
    path_col: str = "path"
    label_col: list[str] | str = "label"
    label_delim: str | None = None
    patient_col: str | None = None
    partition_col: str | None = None
    modality: str | None = None
    arch: str = "resnet34"
    weights: str | None = "default"
    epochs: int = 5
    train_from: str | None = None
    linear_probe: bool = True
    views: int = 0
    size: int = 224
    first_sizes: tuple[int, ...] = ()
    budget: float | None = None
    resize: Resize = "squish"
    window: Any = None
    frame: Any = "middle"
    bs: int | None = None
    lr: float | None = None
    split: str | None = None
    folds: int = 5
    valid_pct: float = 0.2
    seed: int = 42
    device: str | None = None
    mixed_precision: bool | None = None
    cache: bool = True
    strict: bool = False
    overwrite: bool = False
    test: str | None = None
    hide_names: bool = False
    card: str | None = None
    subgroup: list[str] | None = None
    corrections: str | None = None
    saliency: int = 40
    show_burned_in: bool = False
    audit: bool = True
    keep_accuracy: float = 0.95
    positive: str | None = None
    operating_point: str | None = None
    prevalence: float | None = None

    def __post_init__(self) -> None:
        checks = [
            (self.epochs >= 0, f"epochs={self.epochs}", "it is 0 or more"),
            (self.views >= 0, f"views={self.views}", "it is 0 or more"),
            (self.size >= 32, f"size={self.size}", "it is at least 32 pixels"),
            (
                all(32 <= size <= self.size for size in self.first_sizes),
                f"size={','.join(map(str, (*self.first_sizes, self.size)))}",
                "give sizes of at least 32 pixels, the largest last, such as 128,224",
            ),
            (self.budget is None or self.budget > 0, f"budget={self.budget}", "it is above 0 minutes"),
            (self.bs is None or self.bs >= 1, f"bs={self.bs}", "it is at least 1"),
            (0 < self.valid_pct < 1, f"valid-pct={self.valid_pct}", "it lies between 0 and 1"),
            (self.folds >= 2, f"folds={self.folds}", "it is at least 2"),
            (self.saliency >= 0, f"saliency={self.saliency}", "it is 0 or more"),
            (self.lr is None or self.lr > 0, f"lr={self.lr}", "it is above 0"),
        ]
        for holds, given, wanted in checks:
            if not holds:
                raise DataError(f"{given} cannot be", wanted)

    def check_early(self) -> None:
        """See what can be seen before anything heavy is imported: files that are not there, names that are not known.

        Raises:
            DataError, WeightsError: what their messages say.
        """
        files = {"data": self.data, "--labels": self.labels, "--test": self.test, "--corrections": self.corrections}
        for name, path in files.items():
            if path and not Path(path).exists() and not (name == "--labels" and (Path(self.data) / path).exists()):
                raise DataError(f"{path}: there is no such folder or file", "look for a typing mistake in the path")
        if self.card:
            read_card(self.card)
        if self.modality is not None and self.modality not in MODALITIES:
            known = ", ".join(MODALITIES)
            raise DataError(f"no transforms for modality '{self.modality}'", f"choose one of {known}, or none")
        if self.split is not None and self.split not in SPLITS:
            raise DataError(f"split '{self.split}' is not known", f"choose one of {', '.join(SPLITS)}")
        if self.weights not in (None, "default") and not Path(self.weights).is_file():
            raise WeightsError(f"{self.weights}: there is no such file", "give a .pth or .safetensors file")

    def as_dict(self) -> dict[str, Any]:
        """For `run.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> TrainConfig:
        """Back from `run.json`, with some settings changed.

        Raises:
            DataError: a setting that this version does not know.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise DataError(f"unknown settings: {', '.join(sorted(unknown))}", "was it written by a later medclf?")
        values = values | changes
        values["first_sizes"] = tuple(values.get("first_sizes", ()))
        return cls(**values)

    def scan_kwargs(self) -> dict[str, Any]:
        """The part of the settings that `scan` takes."""
        names = ("path_col", "label_col", "label_delim", "patient_col", "partition_col", "strict")
        given = {name: getattr(self, name) for name in names}
        if isinstance(self.label_col, list) and len(self.label_col) == 1:
            given["label_col"] = self.label_col[0]
        return given | {"labels": Path(self.labels) if self.labels else None}
