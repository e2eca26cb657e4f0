"""`medclf label-next | watch`: what comes after a training: which images to label, and what a service saw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medclf.cli.options import importing, say, with_options
from medclf.errors import MedclfError


@with_options("path_col", "patient_col", "follow_links", "window", "frame")
def label_next(
    pool: Annotated[Path, typer.Argument(help="folder of images, or a CSV of their paths")],
    out: Annotated[Path, typer.Option(help="the page to write, NEXT.html; NEXT.csv beside it is the sheet")],
    run: Annotated[
        Path | None, typer.Option(help="a RUN folder: its model, classes and labelled images; or a bundle alone")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="number of images to choose", min=1)] = 50,
    labels: Annotated[Path | None, typer.Option(help="the labels so far: the sheet that an earlier page gave")] = None,
    second: Annotated[
        Path | None, typer.Option(help="a second reader's sheet: agreement, and images on which the two differ")
    ] = None,
    vocab: Annotated[
        list[str] | None, typer.Option(help="a class; repeatable", show_default="the run's, else the labels'")
    ] = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="show the model's suggestions from the start")] = False,
    self_training: Annotated[
        bool,
        typer.Option("--self-training", help="count the surest images as labelled, where that improves predictions"),
    ] = False,
    arch: Annotated[str, typer.Option(help="encoder, without --run")] = "efficientnet_lite0",
    seed: Annotated[int, typer.Option(help="seed of folds, and of the parts of a large pool", min=0)] = 0,
    show_burned_in: Annotated[
        bool, typer.Option("--show-burned-in", help="show pictures that often carry the patient's name")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing page")] = False,
    **more: Any,
) -> None:
    """Choose which unlabelled images to label next, and write the page to label them in."""
    from medclf.parallel import settle_machine

    settle_machine()

    with importing():
        from medclf.run.label_page import write_next

    if not (run or labels or vocab):
        raise MedclfError("the classes are not known", "name each with --vocab NAME, or give --run or --labels")
    for line in write_next(
        pool,
        out,
        run=run,
        n=n,
        labels=labels,
        second=second,
        vocab=vocab,
        suggest=suggest,
        self_training=self_training,
        arch=arch,
        seed=seed,
        show_burned_in=show_burned_in,
        overwrite=overwrite,
        **more,
    ):
        say(line)


def watch(
    run: Annotated[Path, typer.Argument(help="the RUN folder that is served")],
    out: Annotated[Path | None, typer.Option(help="the page to write", show_default="RUN/watch/watch.html")] = None,
    folder: Annotated[
        Path | None, typer.Option("--watch", help="folder of the sketches", show_default="RUN/watch")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="number of images to read next", min=1)] = 20,
    false_alarms: Annotated[
        float, typer.Option(help="chance of a false alarm within 2,000 images", min=0.0001, max=0.5)
    ] = 0.02,
) -> None:
    """Look at what a service saw: have the images drifted, what is the accuracy likely to be, which to read next?"""
    from medclf.run.watch import watch as look

    for line in look(run, out, folder=folder, n=n, false_alarms=false_alarms):
        say(line)
