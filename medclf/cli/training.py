"""`medclf train | demo`: from images to a RUN folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medclf.cli.options import check_browser, importing, is_first, open_page, say, with_options
from medclf.config import TrainConfig
from medclf.errors import DataError, MedclfError
from medclf.options import options


@with_options(*options(TrainConfig))
def train(
    data: Annotated[Path | None, typer.Argument(help="folder of images, or a CSV")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="the RUN folder to make", show_default="runs/DATA-1, counted up", rich_help_panel="Run"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="resume an interrupted RUN with its settings", rich_help_panel="Run")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="repeat the run of this run.json; options on the command line override it", rich_help_panel="Run"
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="train a detector on these boxes of findings: COCO or HyperKvasir JSON, CSV, or a folder of Pascal "
            "VOC or YOLO files",
            rich_help_panel="Boxes",
        ),
    ] = None,
    unlisted: Annotated[
        Literal["negative", "skip"],
        typer.Option(help="images that --boxes does not list: without a finding, or left out", rich_help_panel="Boxes"),
    ] = "negative",
    neck: Annotated[
        Literal["pyramid", "light"],
        typer.Option(help="pyramid for findings large and small; light is smaller", rich_help_panel="Boxes"),
    ] = "pyramid",
    show: Annotated[
        bool, typer.Option("--open", help="open the report page in the browser at the end", rich_help_panel="Run")
    ] = False,
    **settings: Any,
) -> None:
    """Train a classifier and leave a RUN folder: numbers, a report page and a bundle."""
    given = settings | {name: path for name, path in (("data", data), ("out", out)) if path is not None}
    if resume and (given or config):
        raise MedclfError("--resume takes all settings from the run", "give --resume RUN alone")
    if not (resume or config or data):
        raise MedclfError("DATA (a folder of images, or a CSV) is missing", "medclf train DATA")
    if show:
        check_browser()
    if boxes is None and (unlisted, neck) != ("negative", "pyramid"):
        raise MedclfError("--unlisted and --neck are for --boxes", "give --boxes, or leave them out")
    if boxes is None:
        run = _train(given, resume, config)
    elif resume or config:
        raise MedclfError("--boxes goes neither with --resume nor with --config", "give DATA, --boxes and --out")
    else:
        run = _train_boxes(given, boxes, unlisted, neck)
    if show and is_first():
        say(open_page(run / "report.html"))


def _train(given: dict[str, Any], resume: Path | None, config: Path | None) -> Path:
    """Train by the command line, by the settings of an earlier run, or on with a killed one."""
    from medclf.parallel import settle_machine
    from medclf.results.record import to_resume
    from medclf.run.config import check_early
    from medclf.run.resume import CHECKPOINTS, check_free, next_run, read_record, settings_in

    earlier = resume or config
    before = read_record(earlier) if earlier else None
    place = None
    if not resume and "out" not in given:
        asked = (before or {}).get("settings", {}) | given
        place = given["out"] = next_run(asked["data"], hide_names=bool(asked.get("hide_names")))
    plan = settings_in(before, **given) if before else TrainConfig(**given)
    if before and "data" not in given and not Path(plan.data).exists():
        by_name = "" if resume else f", or name them: medclf train DATA --config {shlex.quote(str(config))}"
        remedy = f"bring them back, or link them there{by_name}"
        raise DataError(f"{earlier}: its images are not at {plan.data}", remedy)
    check_early(plan)
    if not resume and is_first():
        check_free(plan.out, plan.overwrite)
        if place:
            say(f"RUN: {place}")
    settle_machine()

    with importing():
        from medclf.run.terminal import show_results
        from medclf.run.train import resume as go_on
        from medclf.run.train import train as train_run

    named = {name: getattr(plan, name) for name in given if name not in ("data", "size")}
    named |= {"size": (*plan.first_sizes, plan.size)} if "size" in given else {}
    try:
        run = go_on(resume, say) if resume else train_run(plan, say, before=before, **named)
    except KeyboardInterrupt:
        if Path(plan.out, CHECKPOINTS).is_dir() and is_first():
            say(f"go on with it: {to_resume(plan.out)}")
        raise
    if is_first():
        show_results(run)
        if "show_burned_in" not in given and sys.stdin.isatty() and sys.stdout.isatty():
            _ask_of_captures(run)
    return run


def _ask_of_captures(run: Path) -> None:
    """Ask once whether the page shows its pictures, where being secondary captures is all that speaks against them.

    All images count, since the page shows training images too.
    """
    from medclf.dataset.labels import usable
    from medclf.images.phi import CAPTURE, withheld_among
    from medclf.run.run import Run

    made = Run(run)
    if made.hide_names or made.show_burned_in:
        return
    paths = list(usable(made.table)["path"])
    withheld = withheld_among(made.images, paths)
    if len(withheld) < len(paths) or set(withheld.values()) != {CAPTURE}:
        return
    question = f"All {len(paths)} images are secondary captures, into which names are sometimes written. Show them?"
    if typer.confirm(question):
        made.write_record(made.record | {"settings": made.settings | {"show_burned_in": True}})
        say(f"report: {made.report()}")


def _train_boxes(given: dict[str, Any], boxes: Path, unlisted: Any, neck: Any) -> Path:
    """Train a detector by the command line."""
    from medclf.parallel import settle_machine
    from medclf.run.config import check_beside_boxes
    from medclf.run.resume import next_run

    check_beside_boxes(given)
    if "out" not in given:
        given["out"] = next_run(given["data"], hide_names=bool(given.get("hide_names")))
        say(f"RUN: {given['out']}")
    plan = TrainConfig(**given)
    settle_machine()

    with importing():
        from medclf.run.boxes import train_boxes

    run = train_boxes(plan, boxes, say, unlisted=unlisted, neck=neck)
    say(f"report: {run / 'report.html'}")
    return run


def demo(
    data: Annotated[
        Literal["drawn", "hello-world", "kvasir-v1", "kvasir-v2"],
        typer.Option(help="drawn images, or a public set that is fetched first"),
    ] = "drawn",
    out: Annotated[Path, typer.Option(help="the RUN folder to make")] = Path("medclf-demo"),
    epochs: Annotated[int, typer.Option(help="epochs with the whole network", min=0)] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier demo")] = False,
) -> None:
    """Do the whole job on drawn endoscopy images, or on a public set that is fetched first."""
    from medclf.parallel import settle_machine

    settle_machine()

    with importing():
        from medclf.run.demo import run_demo
        from medclf.run.terminal import show_results

    show_results(run_demo(data, out, epochs, overwrite, say))
