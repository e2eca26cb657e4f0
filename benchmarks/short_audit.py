"""The short audit of a training beside the whole one: which near-duplicates it finds, and what it costs.

    python benchmarks/short_audit.py [--arch efficientnet_lite0]

On the real sets, random split. The features and the store are those that a training makes anyway, so their time is not
counted. Found: of the images that the whole audit gives a near-duplicate, the share that the short one gives one too;
and the same of the validation images with one in the training set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from side_by_side import print_table, shared_data

from medclf.auditing.audit import audit
from medclf.auditing.short_audit import short_audit
from medclf.dataset.image_cache import build_stores
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.images.preprocessing import Preprocessing
from medclf.models.features import embed_table

SETS = {"hello-world": {}, "hyperkvasir-lower-gi": {}}


def row(name: str, data: Path, arch: str) -> list:
    table = scan(data / name, progress=False, **SETS[name])
    table["partition"] = split_table(table.assign(partition=None), "random")
    features = embed_table(table, arch, size=224, progress=False)
    paths = [f"{table.attrs['root']}/{path}" for path in table["path"]]
    with tempfile.TemporaryDirectory() as folder:
        store = build_stores(paths, list(table["sha256"]), [Preprocessing()], folder=Path(folder), progress=False)[0]
        found, seconds = {}, {}
        for way, job in {
            "whole": lambda: audit(table, embed=features, progress=False),
            "short": lambda: short_audit(table, features, store, progress=False),
        }.items():
            start = time.perf_counter()
            found[way] = job()
            seconds[way] = time.perf_counter() - start
    clusters = {way: set(one.clusters.index) for way, one in found.items()}
    leaking = {
        way: one.twin_in_train().to_numpy() & (table["partition"] == "valid").to_numpy() for way, one in found.items()
    }
    whole, leaks = len(clusters["whole"]), int(leaking["whole"].sum())
    return [
        name,
        len(table),
        f"{len(clusters['whole'] & clusters['short'])} of {whole}",
        len(clusters["short"] - clusters["whole"]),
        f"{int(np.sum(leaking['whole'] & leaking['short']))} of {leaks}",
        f"{seconds['whole']:.1f}",
        f"{seconds['short']:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="efficientnet_lite0")
    arch = parser.parse_args().arch
    heads = ["set", "images", "with a near-duplicate", "only in the short"]
    heads += ["validation, near-duplicate in train", "whole, s", "short, s"]
    print_table(heads, [row(name, shared_data(), arch) for name in SETS])


if __name__ == "__main__":
    main()
