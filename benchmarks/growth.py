"""How the cost grows: milliseconds an image of each stage for 500, 1,000, 2,000 and 4,000 drawn images.

    python benchmarks/growth.py [--images 500 1000 2000 4000] [--runs 3] [--size 64] [--arch resnet18]

Each number in a process of its own, in turns, medians. Random weights: times only.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import last_json, print_table, timed


def measure(data: Path, n: int, size: int, arch: str) -> None:
    """Print the seconds of each stage of one job on the first `n` images."""
    import warnings

    import pandas as pd

    from medclf import MedDataLoaders, MedInterpretation, med_learner, report, save_bundle
    from medclf.dataset.scan import scan
    from medclf.learn.stores import decoding
    from medclf.results.results import summarize

    warnings.simplefilter("ignore")
    classes = [sorted(folder.glob("*.jpg")) for folder in sorted(data.iterdir()) if folder.is_dir()]
    files = [path for one_of_each in zip(*classes, strict=True) for path in one_of_each][:n]
    frame = pd.DataFrame({"path": [str(f.relative_to(data)) for f in files], "label": [f.parent.name for f in files]})
    settings = {"modality": "endoscopy", "size": size, "cache": True, "progress": False, "split": "stratified"}
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal clock
        seconds[stage] = time.perf_counter() - clock
        clock = time.perf_counter()

    table = scan(frame, root=data, check_pixels=decoding(**settings), progress=False)
    done("scan, and build the store")
    scan(frame, root=data, check_pixels=decoding(**settings), progress=False)
    done("scan again, the store being there")
    dls = MedDataLoaders.from_table(table, **settings)
    for _ in dls.train:
        pass
    done("load and augment an epoch")
    learn = med_learner(dls, arch, weights=None, linear_probe=True)
    learn.fit_head(progress=False)
    done("linear probe: features and head")
    learn.fit_head(progress=False)
    done("linear probe again, the features being there")
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
        done("train an epoch")
        interp = MedInterpretation.from_learner(learn)
        done("predict the validation images")
    summarize(interp.predictions, table=dls.table, recipe=learn.spec.as_dict())
    done("metrics with intervals")
    with tempfile.TemporaryDirectory() as folder:
        report(interp, Path(folder) / "report.html")
        done("report page")
        save_bundle(learn, Path(folder) / "bundle")
        done("bundle")
    print(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(Path(args.one[1]), int(args.one[0]), args.size, args.arch)
        return
    from medclf.demo_images import draw_endoscopy

    found: dict[int, list[dict]] = {n: [] for n in args.images}
    with tempfile.TemporaryDirectory() as folder:
        data = draw_endoscopy(Path(folder) / "data", n_per_class=-(-max(args.images) // 4), size=(160, 144))
        for _ in range(args.runs):
            for n, results in found.items():
                options = ["--size", str(args.size), "--arch", args.arch, "--one", str(n), str(data)]
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    _, text = timed([sys.executable, __file__, *options], {"MEDCLF_CACHE": cache})
                results.append(last_json(text))
    rows = []
    for stage in found[args.images[0]][0]:
        each = [1000 * statistics.median(result[stage] for result in found[n]) / n for n in args.images]
        rows.append([stage, *(f"{ms:.2f}" for ms in each), f"{each[-1] / each[0]:.2f}"])
    last = f"{args.images[-1]:,} / {args.images[0]:,}"
    print_table(["ms an image", *(f"{n:,} images" for n in args.images), last], rows)


if __name__ == "__main__":
    main()
