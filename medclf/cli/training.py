"""`medclf train | demo`: from images to a RUN folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medclf.cli.options import importing, is_first, say, with_options
from medclf.config import TrainConfig
from medclf.errors import MedclfError
from medclf.options import options


@with_options(*options(TrainConfig))
def train(
    data: Annotated[Path | None, typer.Argument(help="folder of images, or a CSV")] = None,
    out: Annotated[Path | None, typer.Option(help="the RUN folder to make", rich_help_panel="Run")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="resume an interrupted RUN with its settings", rich_help_panel="Run")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="repeat the run of this run.json; options on the command line override it", rich_help_panel="Run"
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train a classifier and leave a RUN folder: numbers, a report page and a bundle."""
    given = settings | {name: path for name, path in (("data", data), ("out", out)) if path is not None}
    if resume and (given or config):
        raise MedclfError("--resume takes all settings from the run", "give --resume RUN alone")
    if not (resume or config or (data and out)):
        missing = "DATA (a folder of images, or a CSV)" if data is None else "--out (the RUN folder to make)"
        raise MedclfError(f"{missing} is missing", "medclf train DATA --out RUN")
    _train(given, resume, config)


def _train(given: dict[str, Any], resume: Path | None, config: Path | None) -> None:
    """Train by the command line, by the settings of an earlier run, or on with a killed one."""
    from medclf.parallel import settle_machine
    from medclf.run.config import check_early
    from medclf.run.resume import check_free, read_record, settings_in

    earlier = resume or config
    before = read_record(earlier) if earlier else None
    plan = settings_in(before, **given) if before else TrainConfig(**given)
    check_early(plan)
    if not resume and is_first():
        check_free(plan.out, plan.overwrite)
    settle_machine()

    with importing():
        from medclf.run.terminal import show_results
        from medclf.run.train import resume as go_on
        from medclf.run.train import train as train_run

    run = go_on(resume, say) if resume else train_run(plan, say, before=before)
    if is_first():
        show_results(run)


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
