"""`medclf evaluate | report | card | runs | compare | shortcuts`: what a run is worth, and its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medclf.cli.options import OF_SCAN, importing, numbers, say, with_options
from medclf.files import refuse_to_replace

PRIVACY = ("hide_names", "show_burned_in")


@with_options(*OF_SCAN, "subgroup", of_run=PRIVACY)
def evaluate(
    run: Annotated[Path, typer.Argument(help="a RUN folder, or a bundle")],
    data: Annotated[Path, typer.Option(help="folder of labelled images, or a CSV")],
    out: Annotated[Path | None, typer.Option(help="where to put the numbers", show_default="RUN/evaluations")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing evaluation")] = False,
    **more: Any,
) -> None:
    """Evaluate the run's bundle on other images, with the same page."""
    from medclf.parallel import settle_machine

    settle_machine()

    with importing():
        from medclf.run.evaluate import evaluate as evaluate_run
        from medclf.run.terminal import show_results

    show_results(evaluate_run(run, data, out, overwrite=overwrite, **more))


@with_options(of_run=PRIVACY)
def report(
    run: Annotated[Path, typer.Argument(help="a RUN folder")],
    out: Annotated[Path | None, typer.Option(help="the page to write", show_default="RUN/report.html")] = None,
    assets: Annotated[
        Path | None, typer.Option(help="write the pictures to this folder, for any number of images")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="fill the checklist with the answers of this card")] = None,
    pictures: Annotated[bool, typer.Option(help="show the images")] = True,
    max_thumbnails: Annotated[
        int, typer.Option(help="with more images, show all errors and a sample of the rest", min=0)
    ] = 3000,
    max_megabytes: Annotated[float, typer.Option(help="largest size of the page with pictures, in MB", min=1)] = 60,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a page that medclf did not write, or pictures of another page")
    ] = False,
    **shown: Any,
) -> None:
    """Write the report page of a run again."""
    from medclf.reporting.report import report as write_report

    page = write_report(
        run,
        out,
        assets=assets,
        card=card,
        pictures=pictures,
        max_thumbnails=max_thumbnails,
        max_megabytes=max_megabytes,
        overwrite=overwrite,
        **shown,
    )
    say(f"report: {page}")


def card(
    out: Annotated[Path, typer.Argument(help="the file to write")] = Path("card.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing file")] = False,
) -> None:
    """Write a model card to fill in, for train --card and report --card."""
    from medclf.reporting.card import write_card

    refuse_to_replace(out, overwrite)
    say(f"card: {write_card(out)}")


def runs(
    folder: Annotated[Path, typer.Argument(help="folder that holds RUN folders, or folders of them")] = Path(),
) -> None:
    """List runs as a table, the best first, with paired differences to it."""
    from medclf.run.runs import list_runs
    from medclf.run.terminal import show_runs

    show_runs(list_runs(folder))


@with_options(of_run=["hide_names"])
def compare(
    run_a: Annotated[Path, typer.Argument(help="a RUN folder")],
    run_b: Annotated[Path, typer.Argument(help="another RUN folder, on the same images")],
    as_json: Annotated[bool, typer.Option("--json", help="print all differences as JSON")] = False,
    out: Annotated[Path | None, typer.Option(help="write a page of the comparison, PAGE.html")] = None,
    **shown: Any,
) -> None:
    """Compare two runs on the same images: is the second one better?"""
    import json

    from medclf.run.compare import compare as compare_runs

    found = compare_runs(run_a, run_b, out, **shown)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    for line in (found.sentence, found.left_out, f"page: {out}" if out else ""):
        if line:
            say(line)


@with_options(*OF_SCAN, of_run=PRIVACY)
def shortcuts(
    run: Annotated[Path, typer.Argument(help="a RUN folder; or a bundle, with --data")],
    out: Annotated[Path | None, typer.Option(help="the page to write", show_default="RUN/shortcuts.html")] = None,
    data: Annotated[Path | None, typer.Option(help="other labelled images", show_default="the run's own")] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="test this place too: LEFT,TOP,RIGHT,BOTTOM from 0 to 1; repeatable")
    ] = None,
    n_per_label: Annotated[int, typer.Option(help="largest number of images of each label", min=1)] = 60,
    **more: Any,
) -> None:
    """Check whether the model relies on boxes, text or borders: mask, fill in and swap them between labels."""
    from medclf.run.shortcuts import shortcuts as test_shortcuts

    places = (numbers("box", text, "0,0.7,0.3,1") for text in box or [])
    found, page = test_shortcuts(
        run,
        out,
        data=data,
        boxes=[(left, top, right, bottom) for left, top, right, bottom in places],
        n_per_label=n_per_label,
        say=say,
        **more,
    )
    for sentence in found.sentences:
        say(sentence)
    say(f"page: {page}")
