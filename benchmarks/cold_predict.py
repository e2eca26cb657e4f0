"""One image from a cold start: `medclf predict` against fastai's `load_learner(...).predict`, as whole processes.

    python benchmarks/cold_predict.py [--arch resnet34] [--runs 7] [--runtimes torch onnx]

The same architecture (weights at random: times only), image and size, the processes in turns. Seconds are wall time
from the start of Python to its end; memory is the process's peak resident size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serve_load import VOCAB, drawn, save_untrained
from side_by_side import ROOT, print_table, ratios

FASTAI = """
import sys
from fastai.vision.all import load_learner
learn = load_learner(sys.argv[1])
with learn.no_bar():
    print(learn.predict(sys.argv[2])[0])
"""


def export_fastai(arch: str, folder: Path, image: Path) -> Path:
    """What a fastai user keeps: `learn.export()` of a `vision_learner`."""
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, vision_learner
    from plain_fastai import architecture

    body, cut, normalize = architecture(arch)
    dls = ImageDataLoaders.from_lists(
        folder,
        [image] * 10,
        VOCAB * 2,
        item_tfms=Resize(224),
        batch_tfms=[*aug_transforms(size=224), normalize],
        bs=2,
        num_workers=0,
    )
    learn = vision_learner(dls, body, cut=cut, pretrained=False)
    learn.export(folder / "export.pkl")
    return folder / "export.pkl"


def measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds of a whole process, and its peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not output.strip():
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    return seconds, used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def prepared(arch: str, folder: Path, runtimes: list[str]) -> None:
    """The image and the models; in a process of its own, since a child's peak memory counts from its parent's."""
    image = folder / "image.jpg"
    image.write_bytes(drawn(1)[0])
    bundle = save_untrained(arch, folder)
    export_fastai(arch, folder, image)
    if "onnx" in runtimes:
        from medclf.inference.onnx import export_onnx

        export_onnx(bundle, folder / "load.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet34")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnx"], choices=["torch", "onnx"])
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepared(args.arch, args.prepare, args.runtimes)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, image = Path(name), str(Path(name) / "image.jpg")
        subprocess.run([sys.executable, *sys.argv, "--prepare", name], check=True, capture_output=True)
        models = {"torch": folder / "load.bundle", "onnx": folder / "load.onnx"}
        commands = {"fastai": [sys.executable, "-c", FASTAI, str(folder / "export.pkl"), image]}
        for runtime in args.runtimes:
            commands[f"medclf, {runtime}"] = [sys.executable, "-m", "medclf", "predict", str(models[runtime]), image]
        found: dict[str, list[tuple[float, float]]] = {key: [] for key in commands}
        for _ in range(args.runs + 1):
            for key, command in commands.items():
                found[key].append(measured(command))
    seconds = {key: [one[0] for one in runs[1:]] for key, runs in found.items()}  # the first only warms the disk
    peaks = {key: statistics.median(one[1] for one in runs[1:]) for key, runs in found.items()}
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    print(f"one image, {args.arch}, {args.runs} runs each, {len(os.sched_getaffinity(0))} cores")
    print_table(
        ["", "seconds", "peak MB", "fastai / this, medians", "run by run"],
        [
            [
                key,
                f"{medians[key]:.2f}",
                f"{peaks[key]:.0f}",
                f"{medians['fastai'] / medians[key]:.2f}",
                ratios(seconds["fastai"], times),
            ]
            for key, times in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
