"""Every option of a training, declared once: name, type, default, help, group and limits.

The command line, its help and its checks are made from here, and the defaults of Python's functions are read from here.
To add an option, add a field here, and the line that uses it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from medclf.errors import DataError, argument, did_you_mean
from medclf.modalities import Modality
from medclf.options import REQUIRED, option, options

Recipe = Literal["probe", "tune", "auto"]
Split = Literal["random", "stratified", "patient", "grouped", "folders", "kfold"]
Resize = Literal["squish", "crop", "pad"]
Policy = Literal["negative", "positive", "unknown", "exclude"]
Balance = Literal["none", "loss", "sampling", "focal", "logits"]
Pooling = Literal["mean", "gem", "stages"]
Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
Decide = Literal["accuracy", "balanced", "threshold"]
UnitAnswer = Literal["mean", "noisy-or", "max", "attention"]
UnitChoice = Literal["auto", "mean", "noisy-or", "max", "attention"]
UNIT_PLURALS = {"patient": "patients", "study": "studies", "series": "series", "folder": "folders", "file": "files"}
Frame = int | Literal["first", "middle", "last", "all"]
Window = tuple[float, float] | str | None
TUNED_EPOCHS = 5
MAX_SIDE = 4096  # of what a network sees, in pixels


@dataclass(frozen=True)
class TrainConfig:
    """What a training is asked to do: the settings of `medclf train`, and of `train` in Python.

    Each field tells its help, group and limits in its `option`. Values are checked when it is made.

    Raises:
        DataError: a value that an option cannot have; the message names the option and what it may be.

    Example:
        >>> TrainConfig("images", "RUN", epochs=0, split="stratified").valid_pct
        0.2
        >>> TrainConfig("images", "RUN", resize="strech")
        Traceback (most recent call last):
        medclf.errors.DataError: resize must be squish, crop or pad, not 'strech'
    """

    data: str = option(REQUIRED, "Run", "folder of images, or a CSV", exists=True)
    out: str = option(REQUIRED, "Run", "the RUN folder to make")
    overwrite: bool = option(False, "Run", "replace an existing RUN")
    track: Tracker | None = option(
        None, "Run", "tell an experiment tracker the epochs, the scores with intervals and the report", unset="none"
    )

    labels: str | None = option(None, "Data", "CSV with labels, if folder names are not the labels", of_scan=True)
    path_col: str = option("path", "Data", "CSV column with the image paths", of_scan=True)
    label_col: list[str] | str = option(
        "label", "Data", "CSV column with the labels; repeat it for several columns of 0 and 1", of_scan=True
    )
    label_delim: str | None = option(
        None, "Data", "what separates several labels in one cell (multi-label)", of_scan=True
    )
    patient_col: str | None = option(None, "Data", "CSV column with the patient IDs", of_scan=True)
    partition_col: str | None = option(None, "Data", "CSV column that says train, valid or test", of_scan=True)
    label_from_parent: int | None = option(
        None,
        "Data",
        "take the label from the Nth folder above the image",
        unset="the folder that holds it",
        at_least=1,
        of_scan=True,
    )
    exclusive: bool = option(False, "Data", "columns of 0 and 1 are classes that exclude each other", of_scan=True)
    uncertain: Policy | None = option(
        None, "Data", "what -1 in a column of 0 and 1 counts as", unset="an error", of_scan=True
    )
    blank: Policy | None = option(
        None, "Data", "what a blank cell in a column of 0 and 1 counts as", unset="an error", of_scan=True
    )
    where: list[str] | None = option(
        None, "Data", "use only rows of the CSV with this value: COL=VALUE or COL!=VALUE; repeatable", of_scan=True
    )
    merge: list[str] | None = option(None, "Data", "labels that become one: NEW=a+b; repeatable", of_scan=True)
    drop: list[str] | None = option(None, "Data", "a label that is not used; repeatable", of_scan=True)
    limit: int | None = option(
        None,
        "Data",
        "use about so many images (files with --frame all): whole patients, classes in proportion",
        at_least=1,
        of_scan=True,
    )
    ordinal: str | None = option(
        None,
        "Data",
        "the labels have this order, lowest grade first: 0,1,2,3; auto sorts them by the number in each",
        unset="no order",
        of_scan=True,
    )
    follow_links: bool = option(
        False, "Data", "take links to files outside the folder, as DVC and git-annex make them", of_scan=True
    )
    strict: bool = option(False, "Data", "stop at a file that cannot be used", of_scan=True)
    corrections: str | None = option(
        None, "Data", "apply a review.csv, from the report page, the service or medclf review import", exists=True
    )

    unit: str | None = option(
        None,
        "Data",
        "one answer for all images of a patient, study, series or folder, frames of a file, or by this column",
        unset="one an image",
    )
    unit_answer: UnitChoice = option(
        "auto",
        "Data",
        "how the images of a unit become one answer; max is the most certain image; auto: the best inside the training "
        "set",
    )

    modality: Modality | None = option(
        None, "Images", "kind of image; chooses the augmentation", unset="no augmentation", or_none=True
    )
    aug: list[str] | None = option(
        None, "Images", "change the modality's augmentation: NAME=VALUE, such as max_rotate=20; repeatable"
    )
    size: int = option(
        224,
        "Images",
        "side in pixels; 128,224 trains the first half of the epochs at 128",
        at_least=32,
        at_most=MAX_SIDE,
        listed=True,
    )
    resize: Resize = option(
        "squish", "Images", "squish keeps all of the image, crop its centre, pad adds black borders"
    )
    window: Window = option(
        None,
        "Images",
        "CENTER,WIDTH; for CT a name such as lung; or stretch",
        unset="the file's own",
        or_none=True,
        of_scan=True,
    )
    frame: Frame = option(
        "middle",
        "Images",
        "for files of several frames, pages or slices: first, middle, last or a number; all: each is an image (--unit)",
        of_scan=True,
    )

    arch: str = option("resnet34", "Model", "a name of torchvision, timm or open_clip, hf-hub:OWNER/NAME or a folder")
    weights: str | None = option(
        "default", "Model", "default (pretrained), none, or a file (.pth .bin .ckpt .safetensors ...)", or_none=True
    )

    pooling: Pooling | None = option(
        None,
        "Model",
        "how feature maps become one vector: the last one's mean; gem, its generalised mean, in which high values "
        "weigh more; or stages, the means of all stages' maps",
        unset="the mean, or what the plan finds better",
    )

    from_run: str | None = option(
        None, "Model", "start from the network of this earlier RUN", flags=("--from",), exists=True
    )

    recipe: Recipe | None = option(
        None,
        "Training",
        "probe: the linear probe alone; tune: fine-tune after it; auto: the better, tried inside the training set",
        unset="tune with --epochs, --lr or --train-from, probe with --epochs 0, else auto",
    )
    plan: str | None = option(None, "Training", "train as this plan.json of an earlier RUN says", exists=True)
    epochs: int | None = option(
        None,
        "Training",
        "epochs after the linear probe; 0 trains the linear probe alone",
        unset=f"as the plan says; {TUNED_EPOCHS} with --recipe tune",
        at_least=0,
    )
    train_from: str | None = option(
        None, "Training", "first stage to train, such as layer4", unset="the whole network", or_none=True
    )
    tabular: list[str] | str | None = option(
        None,
        "Training",
        "CSV columns beside the pixels, such as age,sex, or position-box: used where they surely help; with the probe "
        "or folds",
    )
    linear_probe: bool = option(True, "Training", "fit the head on the frozen features first")
    balance: Balance = option(
        "none",
        "Training",
        "how rare classes are made to count: by weight, by sampling, by focal loss; probabilities stay true with each",
    )
    views: int = option(0, "Training", "augmented views of each image for the linear probe, besides itself", at_least=0)
    bs: int | None = option(None, "Training", "largest batch size", unset="64 on a GPU, 16 on a CPU", at_least=1)
    lr: float | None = option(None, "Training", "base learning rate", above=0)
    blend: float = option(
        1.0,
        "Training",
        "share of the fine-tuned weights in the finished ones; the rest are those of the linear probe",
        above=0,
        at_most=1,
    )
    budget: float | None = option(
        None, "Training", "minutes: measure this machine, then plan with the size, depth and epochs that fit", above=0
    )

    split: Split | None = option(
        None,
        "Split",
        "how to divide the images",
        unset="folders if there are train and valid, else by patient if known, else random",
        or_none=True,
    )
    folds: int = option(5, "Split", "number of folds, for --split kfold", at_least=2)
    valid_pct: float = option(0.2, "Split", "share of the images for validation, such as 0.2", share=True)
    seed: int = option(42, "Split", "seed of the split, the order and the augmentation", at_least=0)

    test: str | None = option(
        None, "Evaluation", "folder of labelled images, or a CSV, to evaluate as well", exists=True
    )
    subgroup: list[str] | None = option(
        None, "Evaluation", "also give the metrics for each value of this column, such as sex; repeatable"
    )
    audit: bool = option(
        True, "Evaluation", "check for duplicates, leaks and shortcuts; grouped and kfold keep near-duplicates together"
    )
    keep_accuracy: float = option(
        0.95, "Evaluation", "flag the least certain answers so that the rest reach this accuracy", share=True
    )
    positive: str | None = option(
        None, "Evaluation", "the label that decisions are about", unset="of two labels, the finding"
    )
    decide: Decide | None = option(
        None,
        "Evaluation",
        "what is predicted: the most probable label (accuracy); the one that gains most over its frequency (balanced); "
        "or the positive label from the operating point on (threshold)",
        unset="threshold with --operating-point, balanced with --balance logits, else accuracy",
    )
    operating_point: str | None = option(
        None,
        "Evaluation",
        "decision threshold: youden, sensitivity=0.95, specificity=0.9, or cost=10 (false alarms a miss)",
    )
    prevalence: float | None = option(
        None,
        "Evaluation",
        "expected share of positives in use; the probabilities stand for it, and PPV and NPV are recalculated for it",
        unset="probabilities stand for the training images' frequencies",
        share=True,
    )

    hide_names: bool = option(False, "Report", "anonymise file names", flags=("--hide-names/--show-names",))
    card: str | None = option(
        None, "Report", "YAML file about data and model; medclf card writes one to fill in", exists=True
    )
    saliency: int = option(40, "Report", "number of images that show where the model looked, errors first", at_least=0)
    show_burned_in: bool = option(
        False,
        "Report",
        "also show ultrasound, secondary captures and images marked as burned-in: they often show names",
        flags=("--show-burned-in/--hide-burned-in",),
    )

    device: str | None = option(
        None, "Machine", "cpu, cuda, cuda:1, mps ...", unset="the GPU if there is one", or_none=True
    )
    mixed_precision: bool | None = option(
        None,
        "Machine",
        "train in 16 bits where that is exact enough",
        unset="where the device is made for it",
        flags=("--mixed-precision/--full-precision",),
    )
    cache: bool | None = option(
        None, "Machine", "decode every image once, into the user's cache folder", unset="where the transforms allow it"
    )

    first_sizes: tuple[int, ...] = ()  # of a list of sizes, all but the last
    linked_by: Pooling | None = None  # whose features told a plan which training images are near-duplicates
    planned_in: str | None = None  # the RUN on whose training images a plan chose the settings

    def __post_init__(self) -> None:
        known = options(type(self))
        values = {name: one.checked(getattr(self, name)) for name, one in known.items()}
        sizes = values["size"] if isinstance(values["size"], tuple) else (*self.first_sizes, values["size"])
        *first, values["size"] = known["size"].checked(sizes)
        for name, value in (values | {"first_sizes": tuple(first)}).items():
            object.__setattr__(self, name, value)
        if any(size > self.size for size in first):
            given = ",".join(map(str, sizes))
            raise DataError(f"{argument('size')} must end with the largest, not be {given}", "for example 128,224")

        self._check_recipe()
        self._check_unit()

    def _check_unit(self) -> None:
        """See that the answer by unit has what it needs."""
        if self.frame == "all" and not self.unit:
            text = f"{argument('frame', 'all')} makes an image of each frame, and those of one file belong together"
            raise DataError(text, f"say what has one answer: {argument('unit', 'file')}, or a patient, study or series")
        if self.unit_answer != "auto" and not self.unit:
            text = f"{argument('unit_answer', self.unit_answer)} needs units"
            raise DataError(text, f"say which with {argument('unit', 'patient')}")
        if self.unit and self.split in ("random", "stratified"):
            text = f"{argument('split', self.split)} may part the images of a unit"
            raise DataError(text, f"use {argument('split', 'patient')} or {argument('split', 'grouped')}")
        if self.unit_answer == "attention" and (self.way != "probe" or self.split == "kfold"):
            text = f"{argument('unit_answer', 'attention')} needs the features of one frozen encoder"
            raise DataError(text, f"use {argument('recipe', 'probe')} and a split without folds")

    def _check_recipe(self) -> None:
        """See that the recipe and what it leaves open agree."""
        tuned = [name for name in ("lr", "train_from") if getattr(self, name) is not None]
        tuned = ["epochs", *tuned] if self.epochs else tuned
        tuned = [*tuned, "blend"] if self.blend != 1 else tuned
        chosen = "plan" if self.plan else "recipe" if self.recipe == "auto" else "budget" if self.budget else ""
        if chosen and (tuned or self.epochs == 0):
            name = tuned[0] if tuned else "epochs"
            by = argument(chosen, self.recipe if chosen == "recipe" else "...")
            raise DataError(f"{by} decides about {argument(name)}", "leave out one of the two")
        if self.recipe == "probe" and tuned:
            raise DataError(f"{argument('recipe', 'probe')} has no {argument(tuned[0])}", "leave out one of the two")
        if self.epochs == 0 and tuned:
            text = f"{argument('epochs', 0)} fine-tunes nothing, so {argument(tuned[0])} has no use"
            raise DataError(text, "leave out one of the two")
        if self.recipe == "tune" and self.epochs == 0:
            text = f"{argument('recipe', 'tune')} needs one epoch or more, not {argument('epochs', 0)}"
            raise DataError(text, f"fine-tuning nothing is {argument('recipe', 'probe')}")
        self._check_probe("plan" if self.plan else "recipe" if self.recipe in ("auto", "probe") else chosen)
        if self.tabular and self.split != "kfold" and (tuned or self.way != "probe"):
            name = tuned[0] if tuned else chosen or ("recipe" if self.recipe else self._without_probe)
            text = (
                f"{argument('tabular')} stands beside the linear probe, and {argument(name)} asks for another network"
            )
            remedy = (
                f"leave out one of the two, or give {argument('split', 'kfold')}, whose folds can judge any network"
            )
            raise DataError(text, remedy)
        if self.tabular and self.unit:
            text = f"{argument('tabular')} stands beside single images, and {argument('unit')} answers for several"
            raise DataError(text, "leave out one of the two")
        if self.budget and self.first_sizes:
            given = ",".join(map(str, (*self.first_sizes, self.size)))
            both = f"{argument('budget', '...')} and {argument('size', given)}"
            raise DataError(f"{both} both say whether smaller images come first", "leave out one of the two")
        if self.plan and (self.recipe or self.budget):
            other = argument("recipe" if self.recipe else "budget")
            raise DataError(f"{argument('plan')} and {other} both decide how to train", "leave out one of the two")

    def _check_probe(self, planned: str) -> None:
        """See that there is a linear probe for what needs one, and epochs for what they alone use."""
        without = self._without_probe
        barred = argument(without, getattr(self, without)) if without else ""
        if without and planned and not (self.recipe == "probe" and without == "weights"):  # one epoch stands in for it
            by = argument(planned, self.recipe if planned == "recipe" else "...")
            raise DataError(f"{by} begins with the linear probe, and {barred} leaves none", "leave out one of the two")
        for name in ("views", "blend"):
            value = getattr(self, name)
            if without and value != getattr(type(self), name):
                text = f"{argument(name, value)} is for the linear probe, and {barred} leaves none"
                raise DataError(text, "leave out one of the two")
        if self.first_sizes and self.way == "probe":
            given = argument("size", ",".join(map(str, (*self.first_sizes, self.size))))
            raise DataError(f"{given} is for epochs, and the linear probe alone has none", "give one size, or epochs")

    @property
    def _without_probe(self) -> str:
        """The setting that leaves no linear probe; "" where there is one."""
        return "linear_probe" if not self.linear_probe else "weights" if self.weights is None else ""

    @property
    def way(self) -> Recipe:
        """The recipe, where it was not given: as the other settings imply."""
        if self.recipe:
            return self.recipe
        if self.epochs == 0 and self.linear_probe:
            return "probe"
        asked = self.epochs is not None or self.lr is not None or self.train_from is not None
        if asked or self.blend != 1 or not self.linear_probe or self.weights is None:
            return "tune"
        beside = (self.unit or self.tabular) and not (self.plan or self.budget)
        return "probe" if beside else "auto"  # answers by unit and fusion stand on features that stay

    @property
    def n_epochs(self) -> int:
        """Epochs after the linear probe."""
        return 0 if self.way == "probe" else TUNED_EPOCHS if self.epochs is None else self.epochs

    def as_dict(self) -> dict[str, Any]:
        """For `run.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> TrainConfig:
        """Back from `run.json`, with some settings changed.

        Raises:
            DataError: a setting that this version does not know.
        """
        values = {**values, "first_sizes": tuple(values.get("first_sizes", ())), **changes}
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                remedy = did_you_mean(name, known) or "it may be of a later version of medclf"
                raise DataError(f"the setting {name!r} is not known", remedy)
        return cls(**values)

    def scan_kwargs(self) -> dict[str, Any]:
        """The settings that `scan` takes."""
        return {name: getattr(self, name) for name, known in options(type(self)).items() if known.option.of_scan}
