"""Break one image among thousands, before the scan and behind its back, and count what went on and what was named.

    python benchmarks/broken_files.py --number 5000

The file is cut short or deleted: before the scan; between the scan and the store; while a training without a store is
under way, among its training and among its validation images; with worker processes; in a cross-validation; in an
evaluation; in `predict`. A job is as it should be when it ends, its table names the broken file and no other,
its predictions are there for every other image, each with the label of its own folder, and where its bundle predicts
the same files once more, with the same probabilities: log-odds in a fixed proportion, of which there are five at most,
since a run calibrates its images in five parts and its bundle has one temperature. The exit status is 1 where one is
not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from PIL import Image

from medclf.config import TrainConfig
from medclf.dataset.image_cache import build_stores
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.inference.bundle import load_bundle
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.prediction import predict_loader
from medclf.run.evaluate import evaluate
from medclf.run.predict import print_predictions
from medclf.run.train import train

SIDE, ARCH, STORE = 32, "test_resnet", "(when the store is begun)"
CHANGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "deleted": lambda path: path.unlink(),
}


def draw(folder: Path, number: int) -> Path:
    """So many noisy PNG files, half of them red."""
    rng = np.random.default_rng(0)
    for index in range(number):
        place = index % 2
        pixels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[..., 2 * place] += 130
        path = folder / ("red", "blue")[place] / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@dataclass
class Room:
    """The images, where runs go, and which image is to break in which partition."""

    data: Path
    out: Path
    table: pd.DataFrame
    victim: dict[str, str]

    @classmethod
    def made(cls, folder: Path, number: int) -> Room:
        data = draw(folder / "data", number)
        table = scan(data, check_pixels=False)
        partition = split_table(table, "random", seed=42)
        victim = {part: table["path"][partition == part].iloc[number // 20] for part in ("train", "valid")}
        return cls(data, folder, table, victim)

    @contextlib.contextmanager
    def breaking(self, path: str, change: str) -> Iterator[Callable[[], None]]:
        """Give a function that breaks the file once; in the end it is whole again."""
        file = self.data / path
        sound = file.read_bytes()

        def spoil() -> None:
            if file.exists() and file.read_bytes() == sound:
                CHANGES[change](file)

        try:
            yield spoil
        finally:
            file.write_bytes(sound)

    def train(self, path: str, change: str, when: str, **settings: object) -> list[str]:
        """A whole training; the file breaks when the store is begun, or when a line with the words `when` is said."""
        out = self.out / "run"
        config = TrainConfig(str(self.data), str(out), arch=ARCH, weights=None, epochs=1, size=SIDE, overwrite=True)
        config = TrainConfig(**{**config.as_dict(), **settings})
        with self.breaking(path, change) as spoil:

            def spoil_and_build(*arguments: object, **options: object) -> object:
                if when == STORE:
                    spoil()
                return build_stores(*arguments, **options)

            with mock.patch("medclf.learn.stores.build_stores", spoil_and_build):
                train(config, lambda line: spoil() if when in line else None)
        return self.faults(out, path, every_image=config.split == "kfold")

    def faults(self, out: Path, path: str, *, every_image: bool) -> list[str]:
        """What is wrong with a run or an evaluation in which `path` broke, and that predicts every image or valid's."""
        table = pd.read_csv(out / "table.csv", keep_default_na=False)
        named = table.loc[table["problem"] != "", "path"].tolist()
        facts = json.loads((out / "results.json").read_text())
        told = [row["path"] for row in facts["data"]["problems"]]
        rows = pd.read_csv(out / "predictions.csv")
        reported = (table["problem"] == "") & (every_image | (table["partition"] == "valid"))
        expected = table.loc[reported, "path"]
        label = rows["path"].str.partition("/")[0]
        wrong = [
            (named != [path], f"the table names {named}"),
            (told != [path], f"results.json names {told}"),
            (path not in (out / "report.html").read_text(), "the report does not name it"),
            (sorted(rows["path"]) != sorted(expected), f"{len(rows)} predictions for {len(expected)} images"),
            (bool((label != rows["label"]).any()), "rows and labels are out of step"),
            (facts["n"] != len(rows), "results.json counts others than predictions.csv"),
        ]
        if not every_image:
            again = load_bundle(out / "bundle").predict_probs([self.data / name for name in rows["path"]])
            log_odds = [np.log(p[:, 1] / p[:, 0]) for p in (again, rows[["prob_blue", "prob_red"]].to_numpy())]
            proportions = np.sort(log_odds[0] / log_odds[1])
            apart = 1 + int((np.diff(proportions) > 1e-3).sum())
            wrong.append((apart > 5, f"the bundle's log-odds stand in {apart} proportions to the run's"))
        return [text for holds, text in wrong if holds]

    def scanned(self, path: str, change: str) -> list[str]:
        """Broken before the scan."""
        with self.breaking(path, change) as spoil:
            spoil()
            table = scan(self.data)
        if change == "deleted":
            return [] if path not in set(table["path"]) and len(table) == len(self.table) - 1 else ["it is still there"]
        named = table.loc[table["problem"] != "", "path"].tolist()
        return [] if named == [path] else [f"the scan names {named}"]

    def workers(self, path: str, change: str, n: int) -> list[str]:
        """A learner made by hand whose files are read by worker processes."""
        with self.breaking(path, change) as spoil:
            dls = MedDataLoaders.from_table(self.table, size=SIDE, bs=64, num_workers=n, cache=False)
            learn = med_learner(dls, ARCH, weights=None)
            spoil()
            with learn.no_bar(), learn.no_logging():
                learn.fine_tune(1)
                found = predict_loader(learn, learn.dls.valid)
                probs, _ = learn.get_preds()
        held = [p for p in dls.valid.items if p != self.data / path]
        wrong = [
            (list(dls.problems) != [str(self.data / path)], f"named are {list(dls.problems)}"),
            (list(found.table["path"]) != [p.relative_to(self.data).as_posix() for p in held], "rows are missing"),
            (found.labels != [p.parent.name for p in held], "rows and labels are out of step"),
            (len(probs) != len(dls.valid.items), "fastai's own predictions are out of step"),
        ]
        return [text for holds, text in wrong if holds]

    def evaluated(self, path: str, change: str) -> list[str]:
        """An evaluation whose file breaks after its scan."""
        with self.breaking(path, change) as spoil:

            def scan_and_spoil(*arguments: object, **options: object) -> pd.DataFrame:
                table = scan(*arguments, **options)
                spoil()
                return table

            with mock.patch("medclf.run.evaluate.scan", scan_and_spoil):
                out = evaluate(self.out / "run", self.data, self.out / "evaluated", overwrite=True)
        return self.faults(out, path, every_image=True)

    def predicted(self, path: str, change: str) -> list[str]:
        """`medclf predict` on all files by name, one of which breaks before it is read."""
        names = [self.data / name for name in self.table["path"]]
        with (
            self.breaking(path, change) as spoil,
            mock.patch("medclf.run.predict.images_in", lambda files: spoil() or iter(files)),
            contextlib.redirect_stdout(io.StringIO()) as out,
        ):
            print_predictions(self.out / "run", names, "csv")
        rows = pd.read_csv(io.StringIO(out.getvalue()), keep_default_na=False)
        wrong = [
            (list(rows["path"]) != list(map(str, names)), "rows are missing"),
            (rows.loc[rows["problem"] != "", "path"].tolist() != [str(self.data / path)], "another file is named"),
        ]
        return [text for holds, text in wrong if holds]


def jobs(room: Room) -> Iterator[tuple[str, str, Callable[[], list[str]]]]:
    """What is done, which way the file breaks, and the function that does it."""
    train_image, valid_image = room.victim["train"], room.victim["valid"]
    begun = "to train on"
    for change in CHANGES:
        yield "before the scan", change, lambda c=change: room.scanned(train_image, c)
        yield "train, between scan and store", change, lambda c=change: room.train(valid_image, c, STORE)
        yield (
            "train without a store, a training image",
            change,
            lambda c=change: room.train(train_image, c, begun, cache=False),
        )
        yield (
            "train without a store, a validation image",
            change,
            lambda c=change: room.train(valid_image, c, begun, cache=False),
        )
        yield (
            "cross-validation, between scan and store",
            change,
            lambda c=change: room.train(valid_image, c, STORE, split="kfold", folds=2),
        )
        yield (
            "cross-validation without a store",
            change,
            lambda c=change: room.train(valid_image, c, begun, split="kfold", folds=2, cache=False),
        )
        yield "a learner with 2 workers, a training image", change, lambda c=change: room.workers(train_image, c, 2)
        yield "a learner with 2 workers, a validation image", change, lambda c=change: room.workers(valid_image, c, 2)
        yield "evaluate", change, lambda c=change: room.evaluated(train_image, c)
        yield "predict", change, lambda c=change: room.predicted(train_image, c)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--number", type=int, default=5000)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    amiss = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDCLF_CACHE"] = str(Path(folder) / "cache")
        room = Room.made(Path(folder), options.number)
        print(f"one broken file in {options.number}\n")
        print("| job | the file | as it should be | seconds |\n|---|---|---|---|")
        for name, change, job in jobs(room):
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # fastai's progress
                faults = job()
            amiss += bool(faults)
            verdict = "; ".join(faults) or "yes"
            print(f"| {name} | {change} | {verdict} | {time.perf_counter() - start:.0f} |", flush=True)
    print(f"\njobs amiss: {amiss}")
    sys.exit(int(amiss > 0))


if __name__ == "__main__":
    main()
