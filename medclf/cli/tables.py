"""`medclf scan | audit | encoders | cache`: what is there, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medclf.cli.options import OF_SCAN, importing, say, with_options
from medclf.errors import MedclfError
from medclf.files import refuse_to_replace

Data = Annotated[Path, typer.Argument(help="folder of images, or a CSV")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an existing file")]


@with_options(*OF_SCAN)
def scan(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="write the table to this CSV")] = None,
    overwrite: Overwrite = False,
    boxes: Annotated[
        Path | None, typer.Option(help="also check these boxes of findings: JSON, CSV, or a folder of XML or txt files")
    ] = None,
    **columns: Any,
) -> None:
    """Make a table of the images: labels, patients, partitions, sizes, and what is wrong with which file."""
    if out:
        refuse_to_replace(out, overwrite)

    from medclf.dataset.scan import scan as scan_data
    from medclf.dataset.sources import FOLDER_OR_NONE
    from medclf.results.run_folder import save_table
    from medclf.run.tables import describe_table

    table = scan_data(data, label_from=FOLDER_OR_NONE if boxes else "folder", **columns)
    for line in describe_table(table):
        say(line)
    if boxes:
        from medclf.dataset.boxes import read_boxes, with_boxes

        given = read_boxes(boxes, table)
        for line in given.sentences(limited=columns.get("limit") is not None):
            say(line)
        table = with_boxes(table, given)
    if out:
        save_table(out, table)
        say(f"table: {out}")


@with_options(*OF_SCAN)
def audit(
    data: Data,
    split: Annotated[
        Literal["random", "stratified", "patient", "grouped", "folders"] | None,
        typer.Option(help="count what leaks across this split"),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of that split", min=0)] = 42,
    near: Annotated[bool, typer.Option(help="search near-duplicates too")] = True,
    out: Annotated[Path | None, typer.Option(help="folder for the findings: audit.csv, audit.json, table.csv")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier audit")] = False,
    **columns: Any,
) -> None:
    """Find what is wrong with the data: duplicates, leaks across the split, labels that clash, shortcuts."""
    from medclf.run.audit import audit_run

    for line in audit_run(data, out=out, split=split, seed=seed, near=near, overwrite=overwrite, **columns):
        say(line)


@with_options(*OF_SCAN, "device", "seed")
def encoders(
    data: Data,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="architectures; NAME=FILE for other weights", show_default="those on this machine"),
    ] = None,
    folds: Annotated[int, typer.Option(help="number of folds", min=2)] = 5,
    size: Annotated[
        int | None, typer.Option(help="side in pixels", show_default="what each encoder was trained at", min=32)
    ] = None,
    near: Annotated[bool, typer.Option(help="keep near-duplicates in one fold")] = True,
    out: Annotated[Path | None, typer.Option(help="write the ranking to this CSV")] = None,
    overwrite: Overwrite = False,
    **more: Any,
) -> None:
    """Rank encoders on your data by linear probes: which differences are noise, and what each costs."""
    from medclf.parallel import settle_machine

    if out:
        refuse_to_replace(out, overwrite)
    settle_machine()

    with importing():
        from medclf.dataset.csv_files import save_rows
        from medclf.run.encoders import encoders as rank
        from medclf.run.encoders import table_of

    ranking = rank(data, names or (), n_folds=folds, size=size, near=near, say=say, **more)
    for line in (*table_of(ranking), *ranking.sentences):
        say(line)
    if out:
        save_rows(out, ranking.frame())
        say(f"ranking: {out}")


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="remove all of it")] = False,
    older_than: Annotated[
        float | None, typer.Option(help="remove decoded images and features not used for this many days", min=0)
    ] = None,
) -> None:
    """Show or remove what is kept for later: decoded images, features, public data sets."""
    from medclf.run.cache import clear_cache, describe_cache, prune_cache

    if clear and older_than is not None:
        raise MedclfError("--clear removes all, and --older-than a part of it", "give one of them")
    removed = clear_cache() if clear else () if older_than is None else prune_cache(older_than)
    for lines in (removed, describe_cache()):
        for line in lines:
            say(line)
