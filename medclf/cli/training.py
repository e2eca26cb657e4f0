"""`medclf train | demo`: from images to a RUN folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medclf.cli.options import (
    LabelCol,
    LabelDelim,
    Labels,
    PartitionCol,
    PathCol,
    PatientCol,
    ShowBurnedIn,
    Strict,
    importing,
    is_first,
    numbers,
    table_options,
)
from medclf.errors import MedclfError

_EARLIER = ("resume", "config")  # a run whose settings are taken; not settings themselves


def train(
    ctx: typer.Context,
    data: Annotated[Path | None, typer.Argument(help="folder of images, or a CSV")] = None,
    out: Annotated[Path | None, typer.Option(help="the RUN folder to make")] = None,
    labels: Labels = None,
    path_col: PathCol = "path",
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    patient_col: PatientCol = None,
    partition_col: PartitionCol = None,
    modality: Annotated[
        str | None,
        typer.Option(help="endoscopy, radiograph, dermoscopy, fundus or histology: how to augment"),
    ] = None,
    arch: Annotated[
        str, typer.Option(help="a name of torchvision's or timm's, or efficientnet_lite0/1/2")
    ] = "resnet34",
    weights: Annotated[
        str, typer.Option(help="default (pretrained), none, or a .pth or .safetensors file")
    ] = "default",
    epochs: Annotated[int, typer.Option(help="after the linear probe; 0 is the linear probe alone")] = 5,
    train_from: Annotated[
        str | None, typer.Option(help="first stage to train, such as layer4 [default: the whole network]")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="minutes: measure the machine, then choose size, depth and epochs to fit")
    ] = None,
    linear_probe: Annotated[
        bool,
        typer.Option(
            "--linear-probe/--no-linear-probe",
            "--head-start/--no-head-start",
            help="fit the head on the frozen features first",
        ),
    ] = True,
    views: Annotated[int, typer.Option(help="augmented views of each image for the linear probe, besides itself")] = 0,
    size: Annotated[
        str, typer.Option(help="side of the images in pixels; 128,224 trains the first half of the epochs at 128")
    ] = "224",
    resize: Annotated[str, typer.Option(help="squish, crop or pad")] = "squish",
    window: Annotated[str | None, typer.Option(help="CENTER,WIDTH or a name such as lung, for DICOM")] = None,
    frame: Annotated[str, typer.Option(help="first, middle, last or a number, for files of many frames")] = "middle",
    bs: Annotated[int | None, typer.Option(help="largest batch [default: 64 on a GPU, 16 on a CPU]")] = None,
    lr: Annotated[float | None, typer.Option(help="base learning rate")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="random, stratified, patient, grouped, folders or kfold [default: folders, else random]"),
    ] = None,
    folds: Annotated[int, typer.Option(help="for --split kfold")] = 5,
    valid_pct: Annotated[float, typer.Option(help="share of the images to validate on")] = 0.2,
    seed: Annotated[int, typer.Option(help="of the split, the order, the augmentation")] = 42,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: the GPU if there is one]")] = None,
    mixed_precision: Annotated[
        bool | None,
        typer.Option(
            "--mixed-precision/--full-precision",
            help="train in 16 bits where that is exact enough [default: where the device is made for it]",
        ),
    ] = None,
    cache: Annotated[bool, typer.Option(help="decode every image once, into the user's cache folder")] = True,
    strict: Strict = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing RUN")] = False,
    test: Annotated[Path | None, typer.Option(help="folder of labelled images to evaluate besides")] = None,
    hide_names: Annotated[
        bool, typer.Option("--hide-names", help="row ids instead of file names in the report")
    ] = False,
    card: Annotated[
        Path | None, typer.Option(help="YAML with what only people know; medclf card writes one to fill in")
    ] = None,
    subgroup: Annotated[
        list[str] | None, typer.Option(help="give the metrics by this column too, such as sex or view; repeatable")
    ] = None,
    corrections: Annotated[
        Path | None, typer.Option(help="a review.csv of the report page or of medclf review import, to be applied")
    ] = None,
    saliency: Annotated[int, typer.Option(help="images of the report that show where the model looked", min=0)] = 40,
    show_burned_in: ShowBurnedIn = False,
    audit: Annotated[
        bool, typer.Option(help="look for twins, leaks and clues; grouped and kfold then keep twins together")
    ] = True,
    keep_accuracy: Annotated[
        float, typer.Option(help="mark as unsure what must be, to be so often right on the rest")
    ] = 0.95,
    positive: Annotated[
        str | None, typer.Option(help="the label that decisions are about [default: of two, the finding]")
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(help="decide by youden, sensitivity=0.95, specificity=0.9 or cost=10 (a miss, in false alarms)"),
    ] = None,
    prevalence: Annotated[
        float | None, typer.Option(help="of the positive label where it will be used: restates PPV and NPV")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="go on with this RUN, which was killed; all settings are its own")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="repeat the run of this run.json; options given besides win")
    ] = None,
) -> None:
    """Train a classifier and leave a RUN folder: numbers, a report page and a bundle."""
    options = {name: value for name, value in ctx.params.items() if name not in _EARLIER}
    settings = _settings(options | table_options(ctx))
    given = {name: settings[name] for name in settings if _is_given(ctx, {"first_sizes": "size"}.get(name, name))}
    _train(settings, given, resume, config)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """The command's options as `TrainConfig` has them: paths as text, lists of numbers read."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    *first_sizes, size = _sizes(options["size"])
    frame, window, weights = (options[name] for name in ("frame", "window", "weights"))
    return settings | {
        "size": size,
        "first_sizes": tuple(first_sizes),
        "frame": int(frame) if frame.isdigit() else frame,
        "window": numbers("window", window, "40,400") if window and "," in window else window,
        "weights": None if weights == "none" else weights,
        "subgroup": list(options["subgroup"] or ()) or None,  # typer gives () for none
    }


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        problem = f"--size {text} is not a number of pixels"
        raise MedclfError(problem, "for example --size 224, or --size 128,224") from None


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _train(settings: dict[str, Any], given: dict[str, Any], resume: Path | None, config: Path | None) -> None:
    """Train by the command line, by the settings of an earlier run, or on with a killed one."""
    from medclf.parallel import settle_machine
    from medclf.run.config import TrainConfig
    from medclf.run.resume import read_record, settings_in

    if resume and (given or config):
        raise MedclfError("--resume goes on with the settings of the run", "give --resume RUN alone")
    earlier = resume or config
    if not earlier and (settings["data"] is None or settings["out"] is None):
        raise MedclfError("what to train on, or where to put it, is missing", "medclf train DATA --out RUN")
    before = read_record(earlier) if earlier else None
    plan = settings_in(before, **given) if before else TrainConfig(**settings)
    plan.check_early()
    settle_machine()

    with importing():
        from medclf.run.terminal import show_results
        from medclf.run.train import resume as go_on
        from medclf.run.train import train as train_run

    run = go_on(resume, typer.echo) if resume else train_run(plan, typer.echo, before=before)
    if is_first():
        show_results(run)


def demo(
    data: Annotated[str, typer.Option(help="drawn, hello-world, kvasir-v1 or kvasir-v2")] = "drawn",
    out: Annotated[Path, typer.Option(help="the RUN folder to make")] = Path("medclf-demo"),
    epochs: Annotated[int, typer.Option(help="with the whole network")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier demo")] = False,
) -> None:
    """Do the whole job on drawn endoscopy images, or on a public set that is fetched first."""
    from medclf.parallel import settle_machine

    settle_machine()

    with importing():
        from medclf.run.demo import run_demo
        from medclf.run.terminal import show_results

    show_results(run_demo(data, out, epochs, overwrite, typer.echo))
