"""Evaluating a trained learner: matrix, most confused, report, nine top losses; then the memory of many images.

    python benchmarks/interpretation.py [--runs 3] [--memory 1000 5000 20000]

The peer is fastai's ClassificationInterpretation on the same images, split in halves, and the same network
(EfficientNet-Lite0). Each in a process of its own, in turns, imports and the making of the learner left out; the store
was built by the training before. Memory is the process's own: pages of the store, which the system can drop and read
again, are not counted.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from side_by_side import last_json, print_table, ratios, shared_data, timed


def fastai_learner(data: Path):
    from fastai.vision.all import ClassificationInterpretation, ImageDataLoaders, Resize, aug_transforms, vision_learner
    from plain_fastai import architecture

    arch, cut, normalize = architecture("efficientnet_lite0")
    tfms = [*aug_transforms(size=224), normalize]
    dls = ImageDataLoaders.from_folder(
        data, valid_pct=0.5, seed=42, item_tfms=Resize(460), batch_tfms=tfms, bs=64, num_workers=0
    )
    return vision_learner(dls, arch, cut=cut), ClassificationInterpretation


def medclf_learner(data: Path):
    from medclf import MedDataLoaders, MedInterpretation, med_learner

    dls = MedDataLoaders.from_folder(data, modality="endoscopy", valid_pct=0.5, cache=True, progress=False)
    return med_learner(dls, "efficientnet_lite0"), MedInterpretation


LEARNERS = {"plain fastai": fastai_learner, "medclf": medclf_learner}


def measure(name: str, data: Path) -> None:
    """Print the seconds of what a user asks of an interpretation."""
    import matplotlib as mpl

    mpl.use("Agg")
    learn, interpretation = LEARNERS[name](data)
    n = len(learn.dls.valid_ds)
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        interp = interpretation.from_learner(learn)
        interp.confusion_matrix()
        interp.plot_confusion_matrix()
        interp.most_confused()
        interp.print_classification_report()
        interp.plot_top_losses(9)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "n": n}))


def measure_memory(n: int, folder: Path) -> None:
    """Print seconds an image and the peak of the process's own memory while `n` drawn images are evaluated."""
    import matplotlib as mpl

    mpl.use("Agg")
    from medclf import MedDataLoaders, MedInterpretation, med_learner

    data = draw(folder / f"data-{n}", n)
    dls = MedDataLoaders.from_folder(data, size=32, split="folders", bs=64, cache=True, progress=False)
    learn = med_learner(dls, "resnet18", weights=None)
    with learn.no_bar(), contextlib.redirect_stdout(io.StringIO()), Watched() as watched:
        start = time.perf_counter()
        interp = MedInterpretation.from_learner(learn)
        interp.plot_confusion_matrix()
        interp.most_confused()
        interp.print_classification_report()
        interp.plot_top_losses(9)
        seconds = time.perf_counter() - start
    print(json.dumps({"n": n, "ms": 1000 * seconds / n, "before": watched.before, "peak": watched.peak}))


def draw(folder: Path, n: int) -> Path:
    """Two classes of small noise images, each file of its own content: 20 to train on, `n` to validate on."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n + 20):
        label, side = ("dark", "light")[i % 2], "train" if i < 20 else "valid"
        file = folder / side / label / f"{i:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8) + np.uint8(127 * (i % 2))
        Image.fromarray(pixels).save(file, compress_level=1)
    return folder


class Watched:
    """The peak of this process's own memory, in MB, while something runs (Linux)."""

    def __enter__(self):
        self.before = self.peak = own_memory()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, own_memory())

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()


def own_memory() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 5000, 20000])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--one-memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one, args.data)
        return
    if args.one_memory:
        measure_memory(args.one_memory, args.data)
        return
    data = args.data or shared_data() / "hyperkvasir-lower-gi"
    with tempfile.TemporaryDirectory() as folder:
        env = {"MEDCLF_CACHE": str(Path(folder) / "cache")}
        if args.runs:
            compare(data, args.runs, env)
        if args.memory:
            watch_memory(Path(folder), args.memory, env)


def compare(data: Path, runs: int, env: dict) -> None:
    timed([sys.executable, "-c", _BUILD, str(data)], env)
    found: dict[str, list[dict]] = {name: [] for name in LEARNERS}
    for _ in range(runs):
        for name in LEARNERS:
            _, text = timed([sys.executable, __file__, "--one", name, "--data", str(data)], env)
            found[name].append(last_json(text))
    base = [result["seconds"] for result in found["plain fastai"]]
    rows = []
    for name, results in found.items():
        seconds = [result["seconds"] for result in results]
        rows.append([name, results[0]["n"], f"{statistics.median(seconds):.1f}", ratios(base, seconds)])
    print_table(["", "images", "seconds", "fastai / this"], rows)


_BUILD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from interpretation import medclf_learner
medclf_learner(sys.argv[1])
"""


def watch_memory(folder: Path, numbers: list[int], env: dict) -> None:
    rows = []
    for n in numbers:
        command = [sys.executable, __file__, "--one-memory", str(n), "--data", str(folder)]
        facts = last_json(timed(command, env)[1])
        grown = facts["peak"] - facts["before"]
        rows.append([f"{n:,}", f"{facts['ms']:.2f}", f"{facts['before']:.0f}", f"{facts['peak']:.0f}", f"{grown:.0f}"])
    print()
    print_table(["images evaluated", "ms an image", "MB before", "MB at the peak", "grown by, MB"], rows)


if __name__ == "__main__":
    main()
