"""On one GPU: the training loop against the same loop on tensors that lie there already, and against plain fastai.

    python benchmarks/gpu.py [--train 6400] [--valid 1600] [--bs 128] [--workers 16] [--epochs 3]
    python benchmarks/gpu.py --smoke        # the same on a CPU with a few small images: shows only that it runs

ResNet-50 with random weights at 224 pixels, bf16, drawn JPEGs of 720 x 576. Images a second are those of whole training
epochs but the first. Needs no network and no file but its own.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from side_by_side import ROOT, last_json, print_table, timed

DRAWN = 500  # different pictures; the others are the same with another comment in the file, so decoded like new ones


def draw(folder: Path, args: argparse.Namespace) -> Path:
    """The images, and the split as table.csv."""
    from medclf.demo_images import draw_endoscopy

    n = args.train + args.valid
    drawn = draw_endoscopy(folder / "drawn", n_per_class=max(2, min(n, DRAWN) // 5), size=(576, 720))
    files = sorted(drawn.rglob("*.jpg"))
    images = folder / "images"
    rows = []
    for number in range(n):
        file = files[number * 7919 % len(files)]
        data, comment = file.read_bytes(), f"{number:08d}".encode()
        target = images / file.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
        side = "train" if number < args.train else "valid"
        rows.append({"path": target.relative_to(images).as_posix(), "label": file.parent.name, "partition": side})
    pd.DataFrame(rows).to_csv(images / "table.csv", index=False)
    return images


class Rate:
    """Images a second of the training part of each epoch, as a fastai callback."""

    def __new__(cls, n: int):
        from fastai.callback.core import Callback

        class Timed(Callback):
            order = -100

            def __init__(self) -> None:
                self.rates: list[float] = []

            def before_train(self) -> None:
                wait()
                self.began = time.perf_counter()

            def after_train(self) -> None:
                wait()
                self.rates.append(n / (time.perf_counter() - self.began))

        return Timed()


def wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def later(rates: list[float]) -> float:
    """The median of all epochs but the first."""
    return float(pd.Series(rates[1:] or rates).median())


def our_loop(images: Path, args: argparse.Namespace) -> dict[str, float]:
    """Our loop on the images, and on one batch of noise that lies on the device."""
    import torch

    from medclf.learn.batches import MedDL
    from medclf.learn.dataloaders import MedDataLoaders
    from medclf.learn.learner import med_learner

    class Noise(MedDL):
        """The same batch again and again."""

        def __iter__(self):
            x = torch.rand(self.bs, 3, args.size, args.size, device=self.device)
            batch = x.contiguous(memory_format=torch.channels_last), torch.zeros(self.bs, dtype=torch.long).to(x.device)
            for _ in range(len(self)):
                yield batch

    dls = MedDataLoaders.from_csv(
        images / "table.csv", partition_col="partition", modality="endoscopy", size=args.size, cache=True, bs=args.bs
    )
    found = {}
    for name in ("images", "noise"):
        learn = med_learner(dls, args.arch, weights=None)
        if name == "noise":
            learn.dls.loaders[0] = dls.train.new(cls=Noise)
        rate = Rate(len(learn.dls.train) * learn.dls.train.bs if name == "noise" else args.train)
        with learn.no_bar(), learn.no_logging():
            learn.fit(args.epochs, 1e-3, cbs=rate)
        found[name] = later(rate.rates)
    return found


def bare_loop(args: argparse.Namespace) -> float:
    """torch alone: no fastai, no loader, no metric; the limit of limits."""
    import torch

    from medclf.models.backbones import build_network

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(args.arch, 5, weights=None).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x = torch.rand(args.bs, 3, args.size, args.size, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(args.bs, dtype=torch.long, device=device)
    rates = []
    for _ in range(args.epochs):
        wait()
        start = time.perf_counter()
        for _ in range(max(1, args.train // args.bs)):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = torch.nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wait()
        rates.append(max(1, args.train // args.bs) * args.bs / (time.perf_counter() - start))
    return later(rates)


def fastai_loop(images: Path, args: argparse.Namespace) -> float:
    """The loop of plain fastai, in bf16 too, whose workers decode and whose device augments."""
    import torch
    from fastai.vision.all import accuracy, vision_learner
    from plain_fastai import architecture, loaders

    arch, cut, normalize = architecture(args.arch)
    given = argparse.Namespace(
        data=images, table=images / "table.csv", presize=460, size=args.size, bs=args.bs, workers=args.workers
    )
    learn = vision_learner(loaders(given, normalize), arch, cut=cut, metrics=accuracy, pretrained=False)
    learn.unfreeze()
    if torch.cuda.is_available():
        learn.to_bf16()
    rate = Rate(len(learn.dls.train) * args.bs)
    with learn.no_bar(), learn.no_logging():
        learn.fit(args.epochs, 1e-3, cbs=rate)
    return later(rate.rates)


def whole_jobs(images: Path, folder: Path, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Seconds of whole processes: ours and plain fastai's at equal epochs."""
    ours = [sys.executable, "-m", "medclf", "train", str(images / "table.csv"), "--partition-col", "partition"]
    ours += ["--modality", "endoscopy", "--arch", args.arch, "--weights", "none", "--no-head-start"]
    ours += ["--epochs", str(args.epochs), "--bs", str(args.bs), "--size", str(args.size), "--out", str(folder / "run")]
    seconds, _ = timed(ours, {"MEDCLF_CACHE": str(folder / "cache-of-the-job")})
    inside = json.loads((folder / "run" / "run.json").read_text())["seconds"]
    theirs = [
        sys.executable,
        str(ROOT / "benchmarks/plain_fastai.py"),
        str(images),
        "--table",
        str(images / "table.csv"),
    ]
    theirs += ["--arch", args.arch, "--random-weights", "--epochs", str(args.epochs), "--bs", str(args.bs)]
    theirs += ["--workers", str(args.workers), "--size", str(args.size)]
    peer, text = timed(theirs)
    return {"medclf": (seconds, inside), "plain fastai": (peer, last_json(text)["total_s"])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=int, default=6400)
    parser.add_argument("--valid", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--bs", type=int, default=128)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.train, args.valid, args.bs, args.workers, args.size, args.arch = 30, 10, 10, 0, 64, "resnet18"
    import torch

    if not args.smoke and not torch.cuda.is_available():
        sys.exit("needs a CUDA device; --smoke runs it small on a CPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MEDCLF_CACHE"] = str(folder / "cache")
        images = draw(folder, args)
        print("drawn", file=sys.stderr, flush=True)
        loop = our_loop(images, args)
        print(loop, file=sys.stderr, flush=True)
        bare, fastai = bare_loop(args), fastai_loop(images, args)
        jobs = whole_jobs(images, folder, args)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, a trial run"
    print(f"{device}, torch {torch.__version__}, {args.arch}, {args.train} + {args.valid} images, bs {args.bs}\n")
    rows = [
        ["medclf, images from its store", f"{loop['images']:.0f}", "1"],
        ["the same loop on noise on the device", f"{loop['noise']:.0f}", f"{loop['images'] / loop['noise']:.2f}"],
        ["a bare torch loop on noise", f"{bare:.0f}", f"{loop['images'] / bare:.2f}"],
        [f"plain fastai, bf16, {args.workers} workers", f"{fastai:.0f}", f"{loop['images'] / fastai:.1f}"],
    ]
    print_table(["training loop", "images/s", "medclf / this"], rows)
    print()
    base = jobs["medclf"]
    print_table(
        ["whole job", "process, s", "this / medclf", "once imported, s", "this / medclf"],
        [
            [job, f"{whole:.1f}", f"{whole / base[0]:.1f}", f"{inside:.1f}", f"{inside / base[1]:.1f}"]
            for job, (whole, inside) in jobs.items()
        ],
    )


if __name__ == "__main__":
    main()
