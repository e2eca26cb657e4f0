"""Nearest training images: against scikit-learn's search, and on images whose nearest one is known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.neighbours import nearest, similar_training_images


@pytest.mark.parametrize(("n", "m"), [(7, 40), (1, 3), (5, 1500)])
def test_nearest_are_those_of_an_exhaustive_search(n, m):
    rng = np.random.default_rng(n)
    stored, queries = rng.normal(size=(m, 16)) + 3, rng.normal(size=(n, 16)) + 3
    centre = stored.mean(0)
    peer = NearestNeighbors(n_neighbors=3, metric="cosine").fit(stored - centre)
    distance, rows = peer.kneighbors(queries - centre)
    found, similarity = nearest(queries, stored, 3)
    assert (found == rows).mean() > 0.9  # above 1,000 an index is searched
    assert np.allclose(similarity[found == rows], 1 - distance[found == rows], atol=1e-5)


def test_fewer_images_than_neighbours_leave_places_empty():
    rows, _ = nearest(np.ones((2, 3)), np.array([[1.0, 0, 0], [0, 1, 0]]), 4)
    assert rows.shape == (2, 4) and (rows[:, 2:] == -1).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve drawn patterns in train, a slightly darker copy of each in valid, and of two in test."""
    root, rng = tmp_path_factory.mktemp("alike"), np.random.default_rng(0)
    for i in range(12):
        image = Image.fromarray(rng.integers(40, 255, (6, 6, 3), dtype=np.uint8)).resize((48, 48))
        for part in ("train", "valid", *(["test"] if i < 2 else [])):
            place = root / part / "ab"[i % 2] / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            (image if part == "train" else image.point(lambda v: v * 0.97)).save(place)
    return root


@pytest.mark.parametrize("cache", [True, False])
def test_a_copy_is_the_nearest_of_its_original(folder, cache):
    dls = MedDataLoaders.from_folder(folder, size=48, bs=8, cache=cache, progress=False, device="cpu")
    learn = med_learner(dls, "resnet18", weights=None, linear_probe=False)
    paths = [p for p in dls.table["path"] if not p.startswith("train")]
    found = similar_training_images(learn, paths, 3, progress=False)
    first = found[found["rank"] == 1].set_index("path")
    assert set(first.index) == set(paths) and (found.groupby("path").size() == 3).all()
    for path in paths:
        assert first.loc[path, "neighbour"] == f"train/{Path(path).parent.name}/{Path(path).name}"
    assert found["similarity"].between(-1, 1.0001).all()
    assert len(list(Path(dls.valid.stores[1].folder).glob("features-*.npy")) if cache else [1]) == 1


def test_an_image_is_no_neighbour_of_its_own(folder):
    dls = MedDataLoaders.from_folder(folder, size=48, bs=8, split="all", progress=False, device="cpu")
    learn = med_learner(dls, "resnet18", weights=None, linear_probe=False)
    found = similar_training_images(learn, dls.table["path"], 2, progress=False)
    assert (found["path"] != found["neighbour"]).all()
    nearest_one = found[found["rank"] == 1].set_index("path")["neighbour"]
    assert nearest_one["train/a/0.png"] == "valid/a/0.png"
