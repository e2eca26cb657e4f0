"""The service under load, beside the server that a fastai user writes around `learn.predict`.

    python benchmarks/serve_load.py [--seconds 60] [--clients 64] [--rounds 1] [--runtime onnx] [--images FOLDER]

Both servers run as processes of their own on loopback, in turns, on the same two cores and with the same
network (random head: times only). The clients are one process that keeps every connection busy.
"""

import argparse
import asyncio
import collections
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
from side_by_side import ROOT, print_table, ratios

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
VOCAB = ["bbps-0-1", "bbps-2-3", "impacted-stool", "normal-cecum", "polyp"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1, help="turns of each server")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--runtime", default="onnx", choices=["torch", "onnx"], help="of medclf's server")
    parser.add_argument("--servers", nargs="+", default=["fastai", "medclf"], choices=["fastai", "medclf"])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; drawn ones where it is left out")
    parser.add_argument("--run", choices=["medclf", "fastai"], help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        {"medclf": run_medclf, "fastai": run_fastai}[args.run](args)
    else:
        compare(args)


# --- the two servers ---


def run_medclf(args: argparse.Namespace) -> None:
    from medclf.serving.app import serve

    serve(args.bundle, port=args.port, log_level="warning")


def run_fastai(args: argparse.Namespace) -> None:
    """One request, one `learn.predict`, in an async endpoint: fastai's own deployment examples do it so."""
    import uvicorn
    from fastai.vision.all import ImageDataLoaders, PILImage, Resize, aug_transforms, vision_learner
    from fastapi import FastAPI, Request
    from plain_fastai import architecture

    arch, cut, normalize = architecture(args.arch)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, body in enumerate(drawn(20)):
            files.append(Path(folder) / f"{number}.jpg")
            files[-1].write_bytes(body)
        dls = ImageDataLoaders.from_lists(
            folder,
            files,
            [VOCAB[number % len(VOCAB)] for number in range(20)],
            item_tfms=Resize(460),
            batch_tfms=[*aug_transforms(size=224), normalize],
            bs=8,
            num_workers=0,
        )
        learn = vision_learner(dls, arch, cut=cut, pretrained=False)
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict:
        image = PILImage.create(io.BytesIO(await request.body()))
        with learn.no_bar():
            label, _, probs = learn.predict(image)
        return {"label": label, "probs": dict(zip(VOCAB, probs.tolist(), strict=True))}

    @app.get("/readyz")
    async def ready() -> dict:
        return {}

    uvicorn.run(app, port=args.port, log_level="warning", access_log=False)


def save_untrained(arch: str, folder: Path) -> Path:
    from medclf.images.preprocessing import Preprocessing
    from medclf.inference.bundle import save_bundle
    from medclf.models.backbones import build_network, describe
    from medclf.models.spec import LoaderSettings, ModelSpec, Normalization

    facts = describe(arch)
    normalization = Normalization(*facts.normalization(3))
    settings = LoaderSettings("endoscopy", seed=42)
    spec = ModelSpec(facts.name, tuple(VOCAB), Preprocessing((224, 224)), normalization, settings=settings)
    model = build_network(arch, len(VOCAB), weights=None)
    return save_bundle(SimpleNamespace(model=model, spec=spec), folder / "load.bundle")


def exported(bundle: Path) -> Path:
    from medclf.inference.onnx import export_onnx

    return export_onnx(bundle, bundle.with_suffix(".onnx"))


@contextlib.contextmanager
def server(name: str, args: argparse.Namespace, bundle: Path):
    """A server in a process of its own; yields its port, its process and the seconds until it was ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--run", name, "--port", str(port), "--bundle", str(bundle)]
    command += ["--arch", args.arch, "--runtime", args.runtime]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not is_ready(port):
            if process.poll() is not None:
                sys.exit(f"the {name} server did not start")
            time.sleep(0.05)
        yield port, psutil.Process(process.pid), time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def cpu_seconds(process: psutil.Process) -> float:
    """Of a server and its decoders: on a machine that others use too, this tells more than the clock."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


# --- the clients ---


def drawn(n: int) -> list[bytes]:
    """JPEG files of 620x530 with an endoscopy's amount of detail: no two alike."""
    from PIL import Image, ImageFilter

    random, files = np.random.default_rng(0), []
    for _ in range(n):
        coarse = Image.fromarray(random.integers(0, 256, (12, 14, 3), np.uint8)).resize((620, 530), 3)
        grain = Image.fromarray(random.integers(0, 256, (530, 620, 3), np.uint8)).filter(ImageFilter.GaussianBlur(2))
        file = io.BytesIO()
        Image.blend(coarse, grain, 0.15).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


async def client(port: int, bodies: list[bytes], first: int, until: float, counts, seconds: list[float]) -> None:
    """Asks over one connection, again and again, each time with another image."""
    reader = writer = None
    number = first
    while time.perf_counter() < until:
        body = bodies[number % len(bodies)]
        number += 1
        started = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % len(body) + body)
            status, answer = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            counts[type(error).__name__] += 1
            writer = None
            continue
        if status == 200 and answer["label"] in VOCAB:
            counts["ok"] += 1
            seconds.append(time.perf_counter() - started)
        else:
            counts[str(status)] += 1
            await asyncio.sleep(1)
    if writer is not None:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return int(head.split(" ", 2)[1]), json.loads(await reader.readexactly(length))


async def load(port: int, process: psutil.Process, args: argparse.Namespace, bodies: list[bytes]) -> dict:
    counts, seconds = collections.Counter(), []
    start, cpu = time.perf_counter(), cpu_seconds(process)
    until = start + args.seconds
    step = max(1, len(bodies) // args.clients)
    clients = (client(port, bodies, number * step, until, counts, seconds) for number in range(args.clients))
    await asyncio.wait_for(asyncio.gather(*clients), args.seconds + 120)
    wall = time.perf_counter() - start
    p50, p99 = np.percentile(seconds, [50, 99]) if seconds else (float("nan"),) * 2
    refused = counts["429"] + counts["503"]
    return {
        "per_second": counts["ok"] / wall,
        "cpu_ms": 1000 * (cpu_seconds(process) - cpu) / max(1, counts["ok"]),
        "p50": p50,
        "p99": p99,
        "answered": counts["ok"],
        "refused": refused,
        "errors": sum(counts.values()) - counts["ok"] - refused,
    }


def compare(args: argparse.Namespace) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # the servers inherit it
    bodies = [path.read_bytes() for path in sorted(args.images.rglob("*.jpg"))[:256]] if args.images else drawn(128)
    results: dict[str, list[dict]] = {name: [] for name in args.servers}
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_untrained(args.arch, Path(folder))
        bundle = exported(bundle) if args.runtime == "onnx" else bundle
        for _ in range(args.rounds):
            for name, rounds in results.items():
                with server(name, args, bundle) as (port, process, ready):
                    rounds.append(asyncio.run(load(port, process, args, bodies)) | {"ready": ready})
    rows = [
        [
            name,
            *(
                f"{np.median([one[key] for one in rounds]):.3g}"
                for key in ("ready", "per_second", "cpu_ms", "p50", "p99")
            ),
            *(sum(one[key] for one in rounds) for key in ("answered", "refused", "errors")),
        ]
        for name, rounds in results.items()
    ]
    print(f"{args.clients} clients for {args.seconds:g} s, {args.cores} cores, {args.arch}, runtime {args.runtime}")
    columns = [
        "server",
        "ready (s)",
        "answers/s",
        "CPU ms an answer",
        "p50 (s)",
        "p99 (s)",
        "answered",
        "429 or 503",
        "other errors",
    ]
    print_table(columns, rows)
    if len(results) < 2:
        return
    rates = {name: [one["per_second"] for one in rounds] for name, rounds in results.items()}
    print(f"medclf answers {ratios(rates['medclf'], rates['fastai'])} times as many a second")


if __name__ == "__main__":
    main()
