"""`medclf predict | explain | serve | export | push | pull`: what a bundle is for; nothing of fastai is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medclf.cli.options import say
from medclf.errors import MedclfError, OutputError
from medclf.files import check_writable

Runtime = Literal["torch", "onnx"]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]


def predict(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, a RUN that holds one, or an exported .onnx file")],
    files: Annotated[list[Path], typer.Argument(help="images, or folders of images")],
    runtime: Annotated[Runtime, typer.Option(help="what runs the network")] = "torch",
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, one line an image")] = False,
    boxes: Annotated[
        bool,
        typer.Option("--boxes", help="a line for each box of a detector; the bundle of train --boxes gives no other"),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="probability from which a box is shown", show_default="the bundle's", min=0, max=1),
    ] = None,
    bs: Annotated[int, typer.Option(help="images at once", min=1)] = 32,
    fields: Annotated[
        Path | None, typer.Option(help="CSV with the model's table columns; its column path names the image")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="a field of all images, NAME=VALUE, such as age=60; repeatable")
    ] = None,
    unit: Annotated[
        bool, typer.Option("--unit", help="all files are one patient, study or series, and get one answer")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Predict images with a bundle."""
    from medclf.parallel import settle_threads

    settle_threads()  # torch's waiting threads leave the cores to the decoding

    from medclf.inference.bundle_format import is_detector
    from medclf.inference.runtimes import bundle_in

    if as_csv and as_json:
        raise MedclfError("--csv and --json are two forms of the answer", "give one of them")
    form = "csv" if as_csv else "json" if as_json else "text"
    if unit:
        from medclf.run.predict_unit import print_unit

        if fields or field or boxes or threshold is not None:
            raise MedclfError("--unit takes no --fields, --field, --boxes or --threshold", "leave them out")
        named = next((file for file in files if str(file) in ("patient", "study", "series", "folder", "file")), None)
        if named and not named.exists():
            raise MedclfError(
                f"--unit takes no value here, and '{named}' is one", "leave it out: all files are one unit"
            )
        if is_detector(bundle_in(bundle)):
            raise MedclfError("a detector gives boxes for each image, and no answer for a unit", "leave --unit out")
        print_unit(bundle, files, form, bs, runtime, device)
        return
    if boxes or threshold is not None or is_detector(bundle_in(bundle)):
        from medclf.run.predict_boxes import print_boxes

        if fields or field:
            raise MedclfError("a detector takes no --fields and no --field", "leave them out")
        print_boxes(bundle, files, form, threshold, bs, runtime, device)
        return

    from medclf.run.predict import print_predictions

    print_predictions(bundle, files, form, bs, runtime, device, fields=fields, field=field or ())


def explain(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, or a RUN that holds one")],
    files: Annotated[list[Path], typer.Argument(help="images, or folders of images")],
    out: Annotated[Path, typer.Option(help="folder for the pictures and boxes.csv")],
    label: Annotated[str | None, typer.Option(help="the label to look for", show_default="what is predicted")] = None,
    method: Annotated[
        Literal["grad-cam", "occlusion"], typer.Option(help="occlusion needs no gradients, and is slower")
    ] = "grad-cam",
    share: Annotated[float, typer.Option(help="the box holds what is at least this share of the hottest pixel")] = 0.5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what an earlier call wrote there")] = False,
    device: Device = "cpu",
) -> None:
    """Show where a bundle looked: pictures with a heat map, and a box around the hottest region of each."""
    from medclf.run.explain import explain as explain_files

    options: Any = {"method": method, "share": share, "overwrite": overwrite, "device": device}
    explain_files(bundle, files, out, label=label, say=say, **options)


def serve(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, a RUN that holds one, or an exported .onnx file")],
    host: Annotated[str, typer.Option(help="address to listen on; any but this machine's own needs a token")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="MEDCLF_TOKEN", help="password that clients must send; best set by the variable"),
    ] = None,
    runtime: Annotated[Runtime, typer.Option(help="what runs the network")] = "torch",
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(help="files decoded at once, each in a process", min=1)] = 1,
    max_mb: Annotated[float, typer.Option(help="largest upload, in MiB")] = 64,
    max_queue: Annotated[int, typer.Option(help="uploads that may wait; more are answered 429", min=1)] = 128,
    quiet: Annotated[bool, typer.Option("--quiet", help="log errors only")] = False,
    watch: Annotated[
        Path | None,
        typer.Option(help="folder to keep sketches in, for medclf watch", show_default="RUN/watch, of a RUN"),
    ] = None,
    no_watch: Annotated[bool, typer.Option("--no-watch", help="keep no sketches of the images")] = False,
) -> None:
    """Serve a bundle over HTTP, with a page to drop images on."""
    from medclf.inference.bundle_format import is_detector
    from medclf.inference.runtimes import bundle_in
    from medclf.inference.sketches import FOLDER
    from medclf.serving.app import serve as serve_bundle

    if not 1 <= max_mb * 2**20 < math.inf:
        raise MedclfError(f"--max-mb must be above 0, not {max_mb:g}", "for example --max-mb 64")
    if watch is not None and no_watch:
        raise MedclfError("--watch and --no-watch contradict each other", "give one of them")
    if watch is None and (bundle / "run.json").is_file() and not is_detector(bundle_in(bundle)):
        watch = bundle / FOLDER
    if watch is not None and not no_watch:
        try:
            check_writable(watch)
        except OutputError as error:
            remedy = "keep the sketches elsewhere with --watch FOLDER, or none with --no-watch"
            raise OutputError(error.message, remedy) from error

    serve_bundle(
        bundle_in(bundle),
        host,
        port,
        token,
        max_bytes=round(max_mb * 2**20),
        max_queue=max_queue,
        workers=workers,
        runtime=runtime,
        device=device,
        log_level="warning" if quiet else "info",
        watch=None if no_watch else watch,
    )


def export(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder, or a RUN that holds one")],
    out: Annotated[Path, typer.Option(help="the .onnx file to write")],
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights and sums, of a classifier; says what that costs")
    ] = False,
    data: Annotated[
        list[Path] | None, typer.Option(help="images or folders that set the ranges of --int8 and show its cost")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing file")] = False,
) -> None:
    """Export a bundle, of a detector too, to one ONNX file, with its preprocessing and labels inside."""
    from medclf.run.export import export as export_bundle

    for line in export_bundle(bundle, out, int8=int8, data=data or (), overwrite=overwrite):
        say(line)


def push(
    bundle: Annotated[Path, typer.Argument(help="a RUN folder, whose results fill the card; or a bundle folder")],
    place: Annotated[str, typer.Argument(help="hf-hub:OWNER/NAME, s3://BUCKET/FOLDER and the like, or a folder")],
    public: Annotated[bool, typer.Option("--public", help="let everybody see a repository that is made")] = False,
    licence: Annotated[str, typer.Option(help="licence of the model, for the card")] = "",
    message: Annotated[str, typer.Option(help="message of the hub's commit")] = "A bundle of medclf",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a bundle that is there")] = False,
) -> None:
    """Publish a bundle with a card filled from its run: to a model hub, a bucket or a folder."""
    from medclf.inference.hub import push as push_bundle

    address = push_bundle(bundle, place, public=public, licence=licence, message=message, overwrite=overwrite)
    say(f"pushed: {address}")


def pull(
    place: Annotated[str, typer.Argument(help="hf-hub:OWNER/NAME[@REVISION], s3://BUCKET/FOLDER, or a folder")],
    out: Annotated[Path, typer.Option(help="the bundle folder to make")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a bundle that is there")] = False,
) -> None:
    """Fetch a bundle that was pushed, and check it; only safetensors and JSON are taken."""
    from medclf.inference.hub import pull as pull_bundle

    say(f"bundle: {pull_bundle(place, out, overwrite=overwrite)}")
