"""One answer a patient beside one an image: a cohort of chest radiographs, and a lesion drawn in one of 32 slices.

    python benchmarks/units.py icu --data ../shared/data/hannover-cxr --draws 6
    python benchmarks/units.py lesion [--bright 25] [--draws 5]

The radiographs are told by whether their patient came to intensive care: six splits by patient, each image alone and
the patient's answer. The slices are noise; half of the units have a bright spot in one slice, and all slices have the
unit's label; each draw has slices of its own. Each draw's numbers are kept in --work, so that what was interrupted
goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from side_by_side import interval_of

from medclf.run.run import Run
from medclf.run.train import train

ARCH = "efficientnet_lite0"


def icu_table(data: Path, work: Path) -> Path:
    """path, label and patient of each radiograph."""
    rows = pd.read_csv(data / "data.csv", dtype=str)
    label = np.where(rows["icu_admission_offset"].notna(), "icu", "none")
    table = pd.DataFrame({"path": "png/" + rows["image_id"] + ".png", "label": label, "patient": rows["patient_id"]})
    table.to_csv(work / "icu.csv", index=False)
    return (work / "icu.csv").resolve()


def draw_lesions(root: Path, seed: int, bright: float, n_units: int = 160, n_slices: int = 32, size: int = 96) -> Path:
    """Slices of smooth noise in a disc; in half of the units one slice has a spot, brighter by so many grey levels."""
    rng, rows = np.random.default_rng(seed), []
    y, x = np.mgrid[:size, :size]
    inside = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (0.42 * size) ** 2
    for unit in range(n_units):
        where, shade = int(rng.integers(n_slices)), rng.normal() * 8
        (root / f"{unit:03d}").mkdir(parents=True, exist_ok=True)
        for k in range(n_slices):
            noise = gaussian_filter(rng.normal(size=(size, size)), 6)
            pixels = np.where(inside, 100 + 15 * noise / noise.std() + shade, 10)
            if unit % 2 and k == where:
                angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25 * size)
                far = np.hypot(y - size / 2 - away * np.sin(angle), x - size / 2 - away * np.cos(angle))
                pixels = pixels + bright * np.clip((9 - far) / 2, 0, 1)
            name = f"{unit:03d}/{k:02d}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name)
            rows.append([name, ("lesion" if unit % 2 else "normal"), f"unit {unit}"])
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(root / "labels.csv", index=False)
    return root / "labels.csv"


def scores(run: Run) -> dict[str, object]:
    """Of the validation set: by image, by unit, and of the candidates on the training units."""
    section = run.results["units"]
    names = ("balanced_accuracy", "auroc")
    images = run.by_image
    assert images is not None
    means = images.table.assign(p=images.probs[:, 0], y=images.y).groupby("unit_id")[["p", "y"]].mean()
    mean_auroc = _auroc(means["p"].to_numpy(), means["y"].to_numpy() == 0)
    found = {name: run.results[name]["value"] for name in names if name in run.results}
    return {
        "answer": section["answer"],
        "unit": found,
        "image": {name: section["by_image"][name]["value"] for name in names if name in section["by_image"]},
        "auroc_of_the_mean": mean_auroc,
        "candidates": section["candidates"],
    }


def _auroc(p: np.ndarray, positive: np.ndarray) -> float:
    pairs = p[positive][:, None] - p[~positive][None]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def measured(file: Path, data: Path, work: Path, seed: int, **settings: object) -> dict[str, object]:
    """The scores of one draw, made once."""
    if not file.is_file():
        out = train(str(data), lambda _: None, out=str(work / "RUN"), overwrite=True, unit="patient", seed=seed,
                    arch=ARCH, saliency=0, audit=False, **settings)  # type: ignore[arg-type]  # fmt: skip
        file.write_text(json.dumps(scores(Run(out))))
    found: dict[str, object] = json.loads(file.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["icu", "lesion"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/hannover-cxr"))
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--bright", type=float, default=25, help="grey levels of the drawn lesion")
    parser.add_argument("--work", type=Path, default=Path("units-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(args.draws):
        if args.part == "icu":
            name, folder, table = f"icu-{seed}", args.data, icu_table(args.data, args.work)
            settings: dict[str, object] = {"size": 224, "decide": "balanced"}
        else:
            name = f"lesion-{args.bright:g}-{seed}"
            folder, settings = args.work / name, {"size": 96, "valid_pct": 0.3}
            table = folder / "labels.csv"
            table = (table if table.is_file() else draw_lesions(folder, seed, args.bright)).resolve()
        found = measured(args.work / f"{name}.json", folder, args.work, seed, labels=str(table), **settings)
        rows.append(found)
        print(json.dumps({"seed": seed, **found}), flush=True)
    for kind in ("image", "unit"):
        for name in ("balanced_accuracy", "auroc"):
            values = [row[kind][name] for row in rows if name in row[kind]]  # type: ignore[index, operator]
            print(f"{args.part} by {kind}: {name} {shown(values)}")
    print(f"{args.part} by mean: auroc {shown([row['auroc_of_the_mean'] for row in rows])}")


def shown(values: list[float]) -> str:
    """The mean of the draws with its interval."""
    mean, low, high = interval_of(values)
    return f"{mean:.3f} (95 % CI {low:.3f} to {min(high, 1):.3f}; {len(values)} draws)"


if __name__ == "__main__":
    main()
