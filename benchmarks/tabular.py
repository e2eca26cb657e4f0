"""What a table's columns add to the image: real columns, a course drawn in a position box, and columns of noise.

Each set and seed is one `medclf train` with the linear probe; its row goes to the file of --out at once, and is not
done again. Image alone, table alone and both are measured on the same validation images.

    python benchmarks/tabular.py --data ../shared/data --out tabular.jsonl
    python benchmarks/tabular.py --data ../shared/data --out tabular.jsonl --only ham10000 --seeds 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from side_by_side import interval_of, print_table

from medclf.dataset.scan import scan
from medclf.demo_images import draw_endoscopy
from medclf.run.train import train

GREEN, LINE = (18, 112, 62), (196, 214, 120)
NOISE = ("noise_number", "noise_whole", "noise_category")
Rows = tuple[Path, pd.DataFrame]  # the folder of the images, and path, label, patient and further columns


def ham10000(data: Path) -> Rows:
    root = data / "ham10000-small"
    table = pd.read_csv(root / "HAM10000_metadata.csv")
    table["path"] = "images/" + table["image_id"] + ".jpg"
    return root, table.rename(columns={"dx": "label", "lesion_id": "patient"}).drop(columns="image_id")


def hannover_icu(data: Path) -> Rows:
    root = data / "hannover-cxr"
    table = pd.read_csv(root / "data.csv")
    table["path"] = "png/" + table["image_id"] + ".png"
    table["label"] = np.where(table["icu_admission_offset"].notna(), "icu", "no-icu")
    table = table[[(root / path).is_file() for path in table["path"]]]
    return root, table[["path", "label", "patient_id", "sex", "projection"]].rename(columns={"patient_id": "patient"})


def kermany(data: Path) -> Rows:
    return data / "kermany-small", pd.read_csv(data / "kermany-small" / "labels.csv")[["path", "label", "patient"]]


def of_folders(name: str) -> Callable[[Path], Rows]:
    def read(data: Path) -> Rows:
        table = scan(data / name, check_pixels=False)
        table = table[table["problem"] == ""]
        return data / name, table[["path", "label"]].reset_index(drop=True)

    return read


def drawn_course(data: Path, *, painted: bool = False) -> Rows:
    """Drawn endoscopy whose label only the course in the box tells: a loop, or none."""
    root = Path(tempfile.mkdtemp())
    draw_endoscopy(root / "drawn", n_per_class=75, size=(256, 256), seed=1)
    rng, rows = np.random.default_rng(0), []
    for index, file in enumerate(sorted((root / "drawn").rglob("*.jpg"))):
        image, side, label = Image.open(file).convert("RGB"), 80, ("straight", "loop")[int(rng.integers(2))]
        pen = ImageDraw.Draw(image)
        top = image.height - side
        pen.rectangle([0, top, side, image.height], fill=(0, 0, 0) if painted else GREEN)
        if not painted:
            pen.line([(side * x, top + side * y) for x, y in course(label, rng)], fill=LINE, width=4, joint="curve")
        image.save(root / f"{index}.png")
        rows.append({"path": f"{index}.png", "label": label})
    return root, pd.DataFrame(rows)


def course(label: str, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) points in the box, from its top to its bottom, with or without a loop."""
    t = np.linspace(0, 1, 40)
    x, y = 0.5 + rng.normal(0, 0.06) + 0.05 * np.sin(6 * t), 0.15 + 0.7 * t
    if label == "loop":
        turn, size = 2 * np.pi * np.clip((t - 0.3) / 0.4, 0, 1), rng.uniform(0.1, 0.2)
        x, y = x + size * np.sin(turn), y + size * (np.cos(turn) - 1) * 0.8
    return np.stack([x, y], axis=1).clip(0.1, 0.9)


def noisy(rows: Rows, seed: int) -> Rows:
    root, table = rows
    rng = np.random.default_rng(1000 + seed)
    columns = (rng.normal(size=len(table)), rng.integers(0, 90, len(table)), rng.choice(list("abcd"), len(table)))
    return root, table.assign(**dict(zip(NOISE, columns, strict=True)))


FOLDERS = {"hyperkvasir": "hyperkvasir-lower-gi", "brain-mri": "brain-mri/Training", "hello-world": "hello-world/TRAIN"}
PLAIN: dict[str, Callable[[Path], Rows]] = {
    "ham10000": ham10000,
    "hannover-icu": hannover_icu,
    "kermany": kermany,
    **{name: of_folders(folder) for name, folder in FOLDERS.items()},
}
COLUMNS = {"ham10000": "age,sex,localization", "hannover-icu": "sex,projection"}
COURSE, PAINTED = "drawn course", "drawn course, painted over"
TASKS = [*COLUMNS, COURSE, PAINTED, *(f"noise: {name}" for name in PLAIN)]


def measured(task: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training: what its results say of the table."""
    data = Path(options.data)
    if task in (COURSE, PAINTED):
        root, table = drawn_course(data, painted=task == PAINTED)
        columns = "position-box"
    elif task.startswith("noise: "):
        root, table = noisy(PLAIN[task.removeprefix("noise: ")](data), seed)
        columns = ",".join(NOISE)
    else:
        (root, table), columns = PLAIN[task](data), COLUMNS[task]
    by_patient = {"patient_col": "patient", "split": "patient"} if "patient" in table else {"split": "stratified"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.csv"
        table.to_csv(file, index=False)
        settings = {"arch": options.arch, "saliency": 0, "audit": False, "valid_pct": 0.3, "seed": seed, **by_patient}
        run = train(root, print, labels=str(file), tabular=columns, out=f"{folder}/RUN", **settings)
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    alone = {"image alone": {key: results[key] for key in ("accuracy", "auroc")}}  # where nothing could be read besides
    return {"task": task, "seed": seed, "n": results["n"], "numbers": alone, **results["tabular"]}


def summary(rows: list[dict[str, Any]]) -> list[object]:
    """A line of the table: means over the seeds, and how often the table was used."""

    def mean(model: str, key: str) -> str:
        found = [row["numbers"][model][key]["value"] for row in rows if model in row["numbers"]]
        return f"{statistics.mean(found):.3f}" if found else "-"

    first = rows[0]["task"]
    lost = [shipped(row) - row["numbers"]["image alone"]["accuracy"]["value"] for row in rows if "differences" in row]
    surely = sum(
        row["differences"]["both less image alone"]["auroc"]["low"] > 0 for row in rows if "differences" in row
    )
    cells = [mean(model, key) for key in ("accuracy", "auroc") for model in ("image alone", "table alone", "both")]
    used = sum(row["used"] for row in rows)
    worst = f"{100 * min(lost):+.1f} to {100 * max(lost):+.1f}" if lost else "-"
    pairs = [[row["numbers"][model]["auroc"]["value"] for model in ("image alone", "both")] for row in rows
             if "both" in row["numbers"]]  # fmt: skip
    gains = [both - image for image, both in pairs]
    gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval_of(gains)) if gains else "-"
    return [first, len(rows), *cells, gain, f"{used} of {len(rows)}", f"{surely} of {len(rows)}", worst]


def shipped(row: dict[str, Any]) -> float:
    """Accuracy of what the bundle uses, at the most probable label."""
    value: float = row["numbers"]["both" if row["used"] else "image alone"]["accuracy"]["value"]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with ham10000-small, hannover-cxr and the others")
    parser.add_argument("--out", required=True, help="file of rows, one a line; those that it has are not done again")
    parser.add_argument("--only", action="append", help="a task; repeatable")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    out = Path(options.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    for task in [task for task in TASKS if task in (options.only or TASKS)]:
        for seed in range(options.seeds):
            if not any((row["task"], row["seed"]) == (task, seed) for row in rows):
                rows.append(measured(task, seed, options))
                with out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    heads = [f"{key}, {model}" for key in ("accuracy", "AUROC") for model in ("image", "table", "both")]
    last = ["AUROC, both less image (95 % CI over seeds)", "used", "AUROC surely better with both"]
    last.append("bundle's accuracy less image's, in points")
    found = [[row for row in rows if row["task"] == task] for task in TASKS]
    print_table(["set", "seeds", *heads, *last], [summary(some) for some in found if some])


if __name__ == "__main__":
    main()
