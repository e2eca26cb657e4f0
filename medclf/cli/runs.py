"""`medclf evaluate | report | card | compare | shortcuts`: what a run is worth, and its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medclf.cli.options import (
    LabelCol,
    LabelDelim,
    Labels,
    PathCol,
    PatientCol,
    ShowBurnedIn,
    importing,
    numbers,
    table_options,
)
from medclf.errors import OutputError


def evaluate(
    ctx: typer.Context,
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
    from medclf.parallel import settle_machine

    settle_machine()

    with importing():
        from medclf.run.evaluate import evaluate as evaluate_run
        from medclf.run.terminal import show_results

    folder = evaluate_run(
        run,
        data,
        out,
        overwrite=overwrite,
        subgroup=subgroup or (),
        hide_names=hide_names or None,
        show_burned_in=show_burned_in or None,
        **table_options(ctx),
    )
    show_results(folder)


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


def card(
    out: Annotated[Path, typer.Argument(help="the file to write")] = Path("card.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing file")] = False,
) -> None:
    """Write a model card to fill in, for train --card and report --card."""
    from medclf.reporting.card import write_card

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already", "choose another file, or replace it with --overwrite")
    typer.echo(f"card: {write_card(out)}")


def compare(
    run_a: Annotated[Path, typer.Argument(help="a RUN folder")],
    run_b: Annotated[Path, typer.Argument(help="another, on the same images")],
    as_json: Annotated[bool, typer.Option("--json", help="print all differences as JSON")] = False,
    out: Annotated[Path | None, typer.Option(help="write a page of the comparison, PAGE.html")] = None,
    hide_names: Annotated[bool, typer.Option("--hide-names", help="row ids instead of file names")] = False,
) -> None:
    """Is the second run better than the first? Paired, image by image."""
    import json

    from medclf.run.compare import compare as compare_runs
    from medclf.run.compare import compare_page

    found = compare_page(run_a, run_b, out, hide_names=hide_names) if out else compare_runs(run_a, run_b)
    typer.echo(json.dumps(found, indent=2) if as_json else found["sentence"])
    if out and not as_json:
        typer.echo(f"page: {out}")


def shortcuts(
    ctx: typer.Context,
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
    from medclf.run.shortcuts import shortcuts as test_shortcuts

    places = (numbers("box", text, "0,0.7,0.3,1") for text in box or [])
    found, page = test_shortcuts(
        run,
        out,
        data=data,
        boxes=[(left, top, right, bottom) for left, top, right, bottom in places],
        n_per_label=n_per_label,
        hide_names=hide_names or None,
        show_burned_in=show_burned_in,
        **(table_options(ctx) if data else {}),
    )
    for sentence in found.sentences:
        typer.echo(sentence)
    typer.echo(f"page: {page}")
