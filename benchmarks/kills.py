"""Kill a small training with signal 9 at random moments, resume it, and count what broke.

    python benchmarks/kills.py --kills 200

Each run is a process of its own, forked from one that has imported everything. A moment is drawn uniformly from 1.5
times what an unbroken run takes; a killed run is resumed (and killed again) until it ends. After every kill each
file in the RUN folder is opened; at the end weights and predictions are compared with an unbroken run's, bit by bit.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: no threads may be running at a fork

import pandas as pd
import torch
from safetensors.torch import load_file

from medclf.config import TrainConfig
from medclf.demo_images import draw_endoscopy
from medclf.errors import MedclfError
from medclf.inference.bundle import load_bundle
from medclf.learn.checkpoint import read_state
from medclf.run.resume import is_finished, read_record
from medclf.run.train import resume, train

SAME = ("bundle/weights.safetensors", "predictions.csv", "table.csv")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--split", default="stratified", help="kfold kills a cross-validation")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(Killer(Path(folder), options.epochs, options.split, options.seed).work(options.kills))


class Killer:
    """Runs, kills and resumes in one folder."""

    def __init__(self, folder: Path, epochs: int, split: str, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.data = draw_endoscopy(folder / "data", n_per_class=6, size=(80, 72))
        self.settings = {"epochs": epochs, "split": split, "size": 64, "bs": 8, "folds": 2, "valid_pct": 0.25}
        self.seconds = 0.0
        self.counts: collections.Counter[str] = collections.Counter()
        self.stages: collections.Counter[str] = collections.Counter()
        self.complaints: list[str] = []

    def config(self, out: Path) -> TrainConfig:
        return TrainConfig(data=str(self.data), out=str(out), arch="efficientnet_lite0", **self.settings)

    def work(self, kills: int) -> int:
        start = time.perf_counter()
        whole = self.folder / "unbroken"
        self.attempt(whole, lambda: train(self.config(whole)), None)
        self.seconds = time.perf_counter() - start
        if not self.finished(whole):
            sys.exit((self.folder / "unbroken.log").read_text())
        expected = {name: (whole / name).read_bytes() for name in SAME}
        print(f"an unbroken run takes {self.seconds:.1f} s", flush=True)
        number = 0
        while self.counts["kills"] < kills:
            number += 1
            out = self.folder / f"run-{number}"
            self.run_to_its_end(out, kills)
            self.compare(out, expected)
            shutil.rmtree(out)
        return self.print_counts(number, time.perf_counter() - start)

    def run_to_its_end(self, out: Path, kills: int) -> None:
        """Train or go on until a process ends by itself, as somebody would who was told of each kill."""
        while True:
            begun = (out / "run.json").is_file()
            job: Callable[[], object] = (lambda: resume(out)) if begun else (lambda: train(self.config(out)))
            last, start = self.counts["kills"] >= kills, time.perf_counter()
            died = self.attempt(out, job, None if last else self.random.uniform(0, 1.5 * self.seconds))
            if not died:  # on a machine that others use, a run's time changes while this lasts
                self.seconds = max(time.perf_counter() - start, 0.8 * self.seconds)
                if not self.finished(out):
                    self.counts["not resumable"] += 1
                    self.complaints.append((out.parent / f"{out.name}.log").read_text()[-2000:])
                return
            self.counts["kills"] += 1
            self.stages[self.stage(out)] += 1
            self.check_files(out)

    def attempt(self, out: Path, job: Callable[[], object], kill_after: float | None) -> bool:
        """Run `job` in a process; whether it was killed."""
        pid = os.fork()
        if pid == 0:
            self.become(out, job)
        deadline = time.monotonic() + (kill_after if kill_after is not None else 3600)
        while time.monotonic() < deadline:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return False
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    def become(self, out: Path, job: Callable[[], object]) -> None:
        log = os.open(self.folder / f"{out.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["MEDCLF_CACHE"] = str(self.folder / f"cache-{out.name}")  # killed while it is built, too
        status = 1
        try:
            job()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(status)

    def finished(self, out: Path) -> bool:
        return (out / "run.json").is_file() and is_finished(read_record(out))

    def stage(self, out: Path) -> str:
        if not (out / "run.json").is_file():
            return "1 before run.json"
        if "table_sha256" not in read_record(out):
            return "2 scan"
        kept = sorted((out / "checkpoint").glob("*.safetensors"))
        if not kept and not (out / "results.json").is_file():
            return "3 decoding, linear probe"
        if not (out / "results.json").is_file():
            position = read_state(kept[-1])["position"]
            return f"4 after epoch {position['epoch']} of {self.settings['epochs']}"
        if not (out / "bundle" / "bundle.json").is_file():
            return "5 bundle"
        if not (out / "report.html").is_file():
            return "6 report"
        return "8 after its end" if self.finished(out) else "7 the last files"

    def check_files(self, out: Path) -> None:
        """Open every file that a user would miss; what a killed writer was at is not one."""
        for path in sorted(out.rglob("*")):
            if path.is_dir() or any(part.startswith(".") for part in path.relative_to(out).parts):
                continue
            self.counts["files opened"] += 1
            try:
                _open(path)
            except (MedclfError, ValueError, OSError) as error:
                self.counts["unreadable files"] += 1
                self.complaints.append(f"{path.relative_to(self.folder)}: {error}")

    def compare(self, out: Path, expected: dict[str, bytes]) -> None:
        if not self.finished(out):
            return
        self.counts["finished runs"] += 1
        left = [p.name for p in out.iterdir() if p.name.startswith(".") or p.name == "checkpoint"]
        self.counts["left over"] += len(left)
        for name, data in expected.items():
            if (out / name).read_bytes() != data:
                self.counts["runs that differ"] += 1
                self.complaints.append(f"{out.name}/{name} differs")

    def print_counts(self, runs: int, seconds: float) -> int:
        for stage, n in sorted(self.stages.items()):
            print(f"  killed in {stage[2:]}: {n}")
        wanted_none = ("unreadable files", "not resumable", "runs that differ", "left over")
        print(f"{self.counts['kills']} kills in {runs} runs, {seconds:.0f} s")
        for name in ("files opened", "finished runs", *wanted_none):
            print(f"{name}: {self.counts[name]}")
        for complaint in self.complaints[:5]:
            print(complaint)
        return int(any(self.counts[name] for name in wanted_none))


def _open(path: Path) -> None:
    if path.name == "bundle.json":
        load_bundle(path.parent)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        pd.read_csv(path)
    elif path.suffix == ".safetensors":
        read_state(path) if path.parent.name == "checkpoint" else load_file(path)
    elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("the page is cut off")


if __name__ == "__main__":
    main()
