"""`medclf review export | import`: the second read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medclf.cli.options import say, with_options


@with_options(of_run=["hide_names", "show_burned_in"])
def export_sheet(
    run: Annotated[Path, typer.Argument(help="a RUN folder")],
    out: Annotated[Path, typer.Option(help="the sheet to write, a CSV")],
    n: Annotated[int, typer.Option("--images", help="largest number of images", min=1)] = 100,
    controls: Annotated[float, typer.Option(help="share of images that were classified correctly")] = 0.3,
    seed: Annotated[int, typer.Option(help="seed of the draw and of the order", min=0)] = 0,
    pictures: Annotated[
        Literal["page", "folder", "none"],
        typer.Option(help="page (to read in), folder (of PNG files) or none (the sheet names the files)"),
    ] = "page",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing sheet")] = False,
    **shown: Any,
) -> None:
    """Write a blinded sheet for a second reader: doubtful labels, confused pairs and controls."""
    from medclf.run.review import export_review

    options: Any = {"n": n, "controls": controls, "seed": seed, "pictures": pictures}
    for line in export_review(run, out, **options, overwrite=overwrite, **shown):
        say(line)


def import_sheet(
    run: Annotated[Path, typer.Argument(help="the RUN folder that the sheet is of")],
    sheet: Annotated[Path, typer.Argument(help="the sheet filled in, or a review.csv of the report page")],
) -> None:
    """Import a filled-in sheet: agreement, the numbers before and after, corrections to train with."""
    from medclf.run.second_read import show_review

    for line in show_review(run, sheet):
        say(line)
