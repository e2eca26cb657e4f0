"""The cache folder: what `medclf cache` shows and removes is all that medclf wrote there, and nothing else."""

import os
import time

import numpy as np

from medclf.dataset.image_cache import build_stores, cache_folder
from medclf.dataset.scan import file_hash
from medclf.images.preprocessing import Preprocessing
from medclf.models.features_kept import kept_features
from medclf.run.cache import clear_cache, describe_cache, prune_cache


def fill(make_images):
    """A store, features, a data set, and somebody else's file."""
    root = make_images("a.png", "b.png")
    paths = [str(root / name) for name in ("a.png", "b.png")]
    digests = [file_hash(root / name) for name in ("a.png", "b.png")]
    build_stores(paths, digests, [Preprocessing(32)], progress=False)
    kept_features("encoder", digests, lambda rows: np.ones((len(rows), 500_000)))
    for name in ("datasets/set/1.png", "drawn/polyp/1.jpg", "mine.txt"):
        (cache_folder() / name).parent.mkdir(parents=True, exist_ok=True)
        (cache_folder() / name).write_bytes(bytes(1000))


def test_clear_leaves_only_what_medclf_did_not_write(make_images):
    fill(make_images)
    size = sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())
    assert any("features of images" in line for line in describe_cache())
    assert any("2 images" in line for line in describe_cache())
    lines = list(clear_cache())
    assert [file.name for file in cache_folder().rglob("*") if file.is_file()] == ["mine.txt"]
    assert lines[-1] == f"{(size - 1000) / 1e6:.0f} MB freed" and size > 4e6
    assert any(line.endswith("of features of images removed") for line in lines)
    assert list(describe_cache()) == [] and list(clear_cache()) == ["0 MB freed"]


def test_pruning_takes_features_that_were_not_used_and_leaves_data_sets(make_images):
    fill(make_images)
    (file,) = (cache_folder() / "features").glob("*.npz")
    long_ago = time.time() - 40 * 86400
    os.utime(file, (long_ago, long_ago))
    kept_features("encoder", [], lambda rows: np.ones((0, 500_000)))  # used again
    list(prune_cache(30))
    assert file.exists()
    os.utime(file, (long_ago, long_ago))
    assert list(prune_cache(30)) == [f"{4_000_000 / 1e6:.0f} MB freed"]
    assert not file.exists() and (cache_folder() / "datasets" / "set" / "1.png").exists()
    assert any("2 images" in line for line in describe_cache())
