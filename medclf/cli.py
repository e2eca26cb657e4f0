"""The command line: `medclf scan | audit | train | evaluate | compare | report | review | predict | serve | ...`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from medclf import __version__
from medclf.cli_review import review
from medclf.errors import MedclfError, OutputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a folder of medical images to a classifier its users can trust, explain and hand on.",
    epilog="--debug, anywhere, shows the traceback of an error. For research use.",
)

app.add_typer(review, name="review")

Data = Annotated[Path, typer.Argument(help="folder of images, or a CSV")]
Labels = Annotated[Path | None, typer.Option(help="CSV with the labels, where the folders are not")]
PathCol = Annotated[str, typer.Option(help="its column of paths")]
LabelCol = Annotated[list[str] | None, typer.Option(help="its column of labels; repeat it for columns of 0 and 1")]
LabelDelim = Annotated[str | None, typer.Option(help="separates several labels in one cell (multi-label)")]
PatientCol = Annotated[str | None, typer.Option(help="its column of patients")]
PartitionCol = Annotated[str | None, typer.Option(help="its column of train, valid and test")]
Strict = Annotated[bool, typer.Option("--strict", help="stop at a file that cannot be used")]
ShowBurnedIn = Annotated[
    bool,
    typer.Option(
        "--show-burned-in",
        help="also show ultrasound, secondary captures and what is marked as burned-in: these often show names",
    ),
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"medclf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """From a folder of medical images to a classifier its users can trust, explain and hand on."""


@app.command()
def scan(
    data: Data,
    labels: Labels = None,
    path_col: PathCol = "path",
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    patient_col: PatientCol = None,
    partition_col: PartitionCol = None,
    strict: Strict = False,
    out: Annotated[Path | None, typer.Option(help="write the table to this CSV")] = None,
) -> None:
    """Make a table of the images: labels, patients, partitions, sizes, and what is wrong with which file."""
    from medclf.data.table import scan as scan_data
    from medclf.runs.tables import describe_table, save_table

    table = scan_data(
        data,
        labels=labels,
        path_col=path_col,
        label_col=_label_col(label_col),
        label_delim=label_delim,
        patient_col=patient_col,
        partition_col=partition_col,
        strict=strict,
    )
    for line in describe_table(table):
        typer.echo(line)
    if out:
        save_table(out, table)
        typer.echo(f"table: {out}")


@app.command()
def audit(
    data: Data,
    labels: Labels = None,
    path_col: PathCol = "path",
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    patient_col: PatientCol = None,
    partition_col: PartitionCol = None,
    split: Annotated[str | None, typer.Option(help="count what leaks across this split")] = None,
    seed: Annotated[int, typer.Option(help="of that split")] = 42,
    near: Annotated[bool, typer.Option(help="search near-duplicates too")] = True,
    out: Annotated[Path | None, typer.Option(help="folder for the findings: audit.csv, audit.json, table.csv")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier audit")] = False,
) -> None:
    """Find what is wrong with the data: duplicates, leaks across the split, labels that clash, shortcuts."""
    from medclf.runs.audit import audit_run

    lines = audit_run(
        data,
        out=out,
        split=split,
        seed=seed,
        near=near,
        overwrite=overwrite,
        labels=labels,
        path_col=path_col,
        label_col=_label_col(label_col),
        label_delim=label_delim,
        patient_col=patient_col,
        partition_col=partition_col,
    )
    for line in lines:
        typer.echo(line)


@app.command()
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
    epochs: Annotated[int, typer.Option(help="after the head start; 0 is the head start alone")] = 5,
    train_from: Annotated[
        str | None, typer.Option(help="first stage to train, such as layer4 [default: the whole network]")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="minutes: measure the machine, then choose size, depth and epochs to fit")
    ] = None,
    head_start: Annotated[bool, typer.Option(help="fit the head on the frozen features first")] = True,
    views: Annotated[int, typer.Option(help="augmented views of each image for the head start, besides itself")] = 0,
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
    *first_sizes, last_size = _sizes(size)
    settings = {
        "data": str(data) if data else None,
        "out": str(out) if out else None,
        "labels": str(labels) if labels else None,
        "path_col": path_col,
        "label_col": _label_col(label_col),
        "label_delim": label_delim,
        "patient_col": patient_col,
        "partition_col": partition_col,
        "modality": modality,
        "arch": arch,
        "weights": None if weights == "none" else weights,
        "epochs": epochs,
        "train_from": train_from,
        "budget": budget,
        "head_start": head_start,
        "views": views,
        "size": last_size,
        "first_sizes": tuple(first_sizes),
        "resize": resize,
        "window": _window(window),
        "frame": int(frame) if frame.isdigit() else frame,
        "bs": bs,
        "lr": lr,
        "split": split,
        "folds": folds,
        "valid_pct": valid_pct,
        "seed": seed,
        "device": device,
        "cache": cache,
        "strict": strict,
        "overwrite": overwrite,
        "test": str(test) if test else None,
        "hide_names": hide_names,
        "card": str(card) if card else None,
        "subgroup": subgroup,
        "corrections": str(corrections) if corrections else None,
        "saliency": saliency,
        "show_burned_in": show_burned_in,
        "audit": audit,
        "keep_accuracy": keep_accuracy,
        "positive": positive,
        "operating_point": operating_point,
        "prevalence": prevalence,
    }
    given = {name: value for name, value in settings.items() if _is_given(ctx, {"first_sizes": "size"}.get(name, name))}
    _train(settings, given, resume, config)


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _train(settings: dict[str, Any], given: dict[str, Any], resume: Path | None, config: Path | None) -> None:
    """Train by the command line, by the settings of an earlier run, or on with a killed one."""
    from medclf.runs.config import TrainConfig
    from medclf.runs.machine import settle_threads
    from medclf.runs.resume import read_record, settings_in

    if resume and (given or config):
        raise MedclfError("--resume goes on with the settings of the run", "give --resume RUN alone")
    earlier = resume or config
    if not earlier and (settings["data"] is None or settings["out"] is None):
        raise MedclfError("what to train on, or where to put it, is missing", "medclf train DATA --out RUN")
    before = read_record(earlier) if earlier else None
    plan = settings_in(before, **given) if before else TrainConfig(**settings)
    plan.check_early()
    settle_threads()

    from medclf.runs.show import show_results
    from medclf.runs.train import resume as go_on
    from medclf.runs.train import train as train_run

    run = go_on(resume, typer.echo) if resume else train_run(plan, typer.echo, before=before)
    if _is_first():
        show_results(run)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="a RUN folder")],
    data: Annotated[Path, typer.Option(help="folder of labelled images, or a CSV")],
    out: Annotated[Path | None, typer.Option(help="where to put the numbers [default: in RUN/evaluations]")] = None,
    labels: Labels = None,
    path_col: PathCol = "path",
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    patient_col: PatientCol = None,
    subgroup: Annotated[list[str] | None, typer.Option(help="give the metrics by this column too; repeatable")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing evaluation")] = False,
    hide_names: Annotated[
        bool, typer.Option("--hide-names", help="row ids instead of file names [default: as the run was made]")
    ] = False,
    show_burned_in: ShowBurnedIn = False,
) -> None:
    """Evaluate the run's bundle on other images, with the same page."""
    from medclf.runs.evaluate import evaluate as evaluate_run
    from medclf.runs.show import show_results

    folder = evaluate_run(
        run,
        data,
        out,
        overwrite=overwrite,
        subgroup=subgroup or (),
        hide_names=hide_names or None,
        show_burned_in=show_burned_in or None,
        labels=labels,
        path_col=path_col,
        label_col=_label_col(label_col),
        label_delim=label_delim,
        patient_col=patient_col,
    )
    show_results(folder)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="a RUN folder")],
    out: Annotated[Path | None, typer.Option(help="the page to write [default: RUN/report.html]")] = None,
    hide_names: Annotated[bool, typer.Option("--hide-names", help="row ids instead of file names")] = False,
    assets: Annotated[
        Path | None, typer.Option(help="write the pictures to this folder, for any number of images")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="fill the checklist with this card's answers")] = None,
    pictures: Annotated[bool, typer.Option(help="show the images")] = True,
    max_thumbnails: Annotated[
        int, typer.Option(help="above it, all errors and a sample of the rest are shown", min=0)
    ] = 3000,
    max_megabytes: Annotated[float, typer.Option(help="that pictures must not make the page exceed", min=1)] = 60,
    show_burned_in: ShowBurnedIn = False,
) -> None:
    """Write the report page of a run again."""
    from medclf.reporting.report import report as write_report

    page = write_report(
        run,
        out or run / "report.html",
        hide_names=hide_names,
        assets=assets,
        card=card,
        pictures=pictures,
        max_thumbnails=max_thumbnails,
        max_megabytes=max_megabytes,
        show_burned_in=show_burned_in,
    )
    typer.echo(f"report: {page}")


@app.command()
def card(
    out: Annotated[Path, typer.Argument(help="the file to write")] = Path("card.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing file")] = False,
) -> None:
    """Write a model card to fill in, for train --card and report --card."""
    from medclf.reporting.card import write_card

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already", "choose another file, or replace it with --overwrite")
    typer.echo(f"card: {write_card(out)}")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, a RUN that holds one, or an exported .onnx file")],
    files: Annotated[list[Path], typer.Argument(help="images, or folders of images")],
    runtime: Annotated[str, typer.Option(help="torch or onnx")] = "torch",
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, one line an image")] = False,
    bs: Annotated[int, typer.Option(help="images at once")] = 32,
) -> None:
    """Predict images with a bundle; nothing of fastai is loaded."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's waiting threads leave the cores to the decoding
    from medclf.runs.predict import print_predictions

    print_predictions(bundle, files, "csv" if as_csv else "json" if as_json else "text", bs, runtime)


@app.command()
def explain(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, or a RUN that holds one")],
    files: Annotated[list[Path], typer.Argument(help="images, or folders of images")],
    out: Annotated[Path, typer.Option(help="folder for the pictures and boxes.csv")],
    label: Annotated[str | None, typer.Option(help="what to look for [default: what is predicted]")] = None,
    method: Annotated[str, typer.Option(help="grad-cam, or occlusion: no gradients, slower")] = "grad-cam",
    share: Annotated[float, typer.Option(help="how hot the box is, as a share of the hottest pixel")] = 0.5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what an earlier call wrote there")] = False,
) -> None:
    """Show where a bundle looked: pictures with a heat map, and a box around the hottest region of each."""
    from medclf.runs.explain import explain as explain_files

    for line in explain_files(bundle, files, out, label=label, method=method, share=share, overwrite=overwrite):
        typer.echo(line)


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="drawn, hello-world, kvasir-v1 or kvasir-v2")] = "drawn",
    out: Annotated[Path, typer.Option(help="the RUN folder to make")] = Path("medclf-demo"),
    epochs: Annotated[int, typer.Option(help="with the whole network")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier demo")] = False,
) -> None:
    """Do the whole job on drawn endoscopy images, or on a public set that is fetched first."""
    from medclf.runs.demo import run_demo
    from medclf.runs.show import show_results

    show_results(run_demo(data, out, epochs, overwrite, typer.echo))


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="a RUN folder")],
    run_b: Annotated[Path, typer.Argument(help="another, on the same images")],
    as_json: Annotated[bool, typer.Option("--json", help="print all differences as JSON")] = False,
    out: Annotated[Path | None, typer.Option(help="write a page of the comparison, PAGE.html")] = None,
    hide_names: Annotated[bool, typer.Option("--hide-names", help="row ids instead of file names")] = False,
) -> None:
    """Is the second run better than the first? Paired, image by image."""
    import json

    from medclf.runs.compare import compare as compare_runs
    from medclf.runs.compare import compare_page

    found = compare_page(run_a, run_b, out, hide_names=hide_names) if out else compare_runs(run_a, run_b)
    typer.echo(json.dumps(found, indent=2) if as_json else found["sentence"])
    if out and not as_json:
        typer.echo(f"page: {out}")


@app.command()
def shortcuts(
    run: Annotated[Path, typer.Argument(help="a RUN folder; or a bundle, with --data")],
    out: Annotated[Path | None, typer.Option(help="the page to write [default: RUN/shortcuts.html]")] = None,
    data: Annotated[Path | None, typer.Option(help="other labelled images [default: the run's own]")] = None,
    labels: Labels = None,
    path_col: PathCol = "path",
    label_col: LabelCol = None,
    label_delim: LabelDelim = None,
    patient_col: PatientCol = None,
    box: Annotated[
        list[str] | None, typer.Option(help="test this place too: LEFT,TOP,RIGHT,BOTTOM from 0 to 1; repeatable")
    ] = None,
    n_per_label: Annotated[int, typer.Option(help="images of each label, at most", min=1)] = 60,
    hide_names: Annotated[bool, typer.Option("--hide-names", help="name no files")] = False,
    show_burned_in: ShowBurnedIn = False,
) -> None:
    """Does the model look at boxes, text or borders? They are masked, filled in and swapped between labels."""
    from medclf.runs.shortcuts import shortcuts as test_shortcuts

    scan_kwargs = {
        "labels": labels,
        "path_col": path_col,
        "label_col": _label_col(label_col),
        "label_delim": label_delim,
        "patient_col": patient_col,
    }
    found, page = test_shortcuts(
        run,
        out,
        data=data,
        boxes=[_box(text) for text in box or []],
        n_per_label=n_per_label,
        hide_names=hide_names or None,
        show_burned_in=show_burned_in,
        **(scan_kwargs if data else {}),
    )
    for sentence in found.sentences:
        typer.echo(sentence)
    typer.echo(f"page: {page}")


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, a RUN that holds one, or an exported .onnx file")],
    host: Annotated[str, typer.Option(help="address to listen on; any but this machine's own asks for a token")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="MEDCLF_TOKEN", help="what clients must send; the variable hides it from other users"),
    ] = None,
    runtime: Annotated[str, typer.Option(help="torch or onnx")] = "torch",
    workers: Annotated[int, typer.Option(help="files decoded at once, each in a process", min=1)] = 1,
    max_mb: Annotated[float, typer.Option(help="largest upload, in MiB")] = 64,
    max_queue: Annotated[int, typer.Option(help="uploads that may wait; more are answered 429", min=1)] = 128,
    quiet: Annotated[bool, typer.Option("--quiet", help="log only what goes wrong, not each request")] = False,
) -> None:
    """Serve a bundle over HTTP, with a page to drop images on."""
    from medclf.deployment.server import serve as serve_bundle
    from medclf.runs.predict import find_bundle

    serve_bundle(
        find_bundle(bundle),
        host,
        port,
        token or None,
        max_bytes=round(max_mb * 2**20),
        max_queue=max_queue,
        workers=workers,
        runtime=runtime,
        log_level="warning" if quiet else "info",
    )


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, or a RUN that holds one")],
    out: Annotated[Path, typer.Option(help="the .onnx file to write")],
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights and sums; says what that costs")] = False,
    data: Annotated[
        list[Path] | None, typer.Option(help="images or folders that set the ranges of --int8 and show its cost")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing file")] = False,
) -> None:
    """Export a bundle to one ONNX file, with its preprocessing and labels inside."""
    from medclf.runs.export import export as export_bundle

    for line in export_bundle(bundle, out, int8=int8, data=data or (), overwrite=overwrite):
        typer.echo(line)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="remove all stores")] = False,
    older_than: Annotated[float | None, typer.Option(help="remove stores not used for this many days")] = None,
) -> None:
    """Show, or prune, the stores of decoded images."""
    from medclf.data.cache import list_stores, prune_stores

    if clear or older_than is not None:
        freed = prune_stores(0.0 if clear else older_than or 0.0)
        typer.echo(f"{freed / 1e6:.0f} MB freed")
    for store in list_stores():
        typer.echo(
            f"{store.megabytes:8.0f} MB, {store.n_images} images, used {store.days_ago:.0f} days ago: {store.folder}"
        )


def _label_col(columns: list[str] | None) -> str | list[str]:
    if not columns:
        return "label"
    return columns[0] if len(columns) == 1 else list(columns)


def _sizes(text: str) -> list[int]:
    """One size, or several separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise MedclfError(
            f"--size {text} is not a number of pixels", "for example --size 224, or --size 128,224"
        ) from None


def _window(text: str | None) -> Any:
    """A name, or (center, width)."""
    if text is None or "," not in text:
        return text
    try:
        center, width = (float(part) for part in text.split(","))
    except ValueError:
        raise MedclfError(f"--window {text} is not CENTER,WIDTH", "for example --window 40,400") from None
    return center, width


def _box(text: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise MedclfError(f"--box {text} is not LEFT,TOP,RIGHT,BOTTOM", "for example --box 0,0.7,0.3,1") from None
    return left, top, right, bottom


def main() -> None:
    """Run the command line; a user's mistake is one or two lines and exit status 2."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.showwarning = _show_warning
    gc.set_threshold(100_000, 50, 100)  # importing makes a million objects; going through them again and again took 1 s
    try:
        app(arguments, prog_name="medclf")
    except SystemExit as end:
        if arguments[:1] == ["predict"] and end.code in (None, 0):
            _leave()
        raise
    except MedclfError as error:
        if debug:
            raise
        typer.secho(f"medclf: {error.message}", fg="red", err=True)
        if error.remedy:
            typer.echo(f"  {error.remedy}", err=True)
        sys.exit(2)
    except OSError as error:  # of a file that no job has a word for: a full disk, a locked folder
        if debug or not error.strerror:
            raise
        place = f"{error.filename}: " if error.filename else ""
        typer.secho(f"medclf: {place}{error.strerror}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("medclf: stopped", err=True)
        sys.exit(130)
    finally:
        gc.freeze()  # nor need they be gone through when the process ends


def _leave() -> None:
    """End now: taking torch down takes as long as a prediction, and nothing is left to be written."""
    with contextlib.suppress(OSError):  # the reader of a pipe has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _is_first() -> bool:
    """Whether this process speaks to the user, where a launcher started several."""
    return os.environ.get("RANK", "0") == "0"


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    """A line on the error stream; the libraries' own notes to programmers are left out."""
    if category.__name__ == "MedclfWarning" and _is_first():
        typer.secho(f"warning: {message}", fg="yellow", err=True)


if __name__ == "__main__":
    main()
