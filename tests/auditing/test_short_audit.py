"""The short audit of a training: against planted copies, and against the whole audit."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from medclf.auditing.audit import audit, with_partition
from medclf.auditing.near_duplicates.candidates import alike
from medclf.auditing.short_audit import short_audit
from medclf.dataset.groups import groups_of
from medclf.dataset.image_cache import build_stores
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.demo_images import draw_endoscopy
from medclf.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Drawn images with a copy of one file, one re-encoded without loss, one re-encoded darker."""
    folder = draw_endoscopy(tmp_path_factory.mktemp("planted") / "drawn", n_per_class=6, size=(160, 160))
    polyps = sorted((folder / "polyp").glob("*.jpg"))
    shutil.copy(polyps[0], folder / "normal" / "copy.jpg")
    Image.open(polyps[1]).save(folder / "polyp" / "lossless.png")
    ImageEnhance.Brightness(Image.open(polyps[2])).enhance(0.8).save(folder / "polyp" / "darker.jpg", quality=60)
    table = scan(folder)
    table["partition"] = [
        "valid" if name in ("copy", "lossless", "darker") else "train"
        for name in table["path"].map(lambda path: path.rpartition("/")[2].partition(".")[0])
    ]
    return table


@pytest.fixture(scope="module")
def store(planted, tmp_path_factory):
    paths = [f"{planted.attrs['root']}/{path}" for path in planted["path"]]
    folder = tmp_path_factory.mktemp("stores")
    return build_stores(paths, list(planted["sha256"]), [Preprocessing(64)], folder=folder)[0]


def colours(table):
    """Features that anything can compute: the images, 12 pixels wide, whatever their light."""
    files = [Image.open(f"{table.attrs['root']}/{path}").convert("RGB").resize((12, 12)) for path in table["path"]]
    rows = np.stack([np.asarray(file, np.float32).ravel() for file in files])
    return (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)


def test_each_kind_of_copy_is_found(planted, store):
    found = short_audit(planted, colours(planted), store, progress=False)
    kinds = found.findings["kind"].value_counts()
    assert kinds["same-file"] == 1 and kinds["same-pixels"] == 1 and kinds["near-duplicate"] == 1
    assert kinds["label-conflict"] == 1 and kinds["twin-across-split"] == 3
    assert found.twin_in_train()[planted["partition"].to_numpy() == "valid"].all()
    assert found.summary["leaks"]["valid"]["with_twin_in_train"] == 3
    whole = audit(planted, progress=False)
    assert found.summary["partial"] and not whole.summary["partial"]
    first, second = (row["finding"] for row in found.summary["sentences"][:2])
    assert first.startswith("At least 3 of ") and "are partial" in second
    assert found.clusters.sort_index().index.tolist() == whole.clusters.sort_index().index.tolist()


def test_without_features_or_store_the_cheap_parts_remain(planted):
    found = short_audit(planted, progress=False)
    assert found.findings["kind"].isin(["same-file", "label-conflict", "twin-across-split"]).sum() == 3
    assert found.summary["searched_by"] == ["file hash"] and found.summary["partial"]


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("resize", ["squish", "pad", "crop"])
def test_a_box_that_tells_the_class_is_seen_beside_padding(resize, boxed, tmp_path):
    """Wide and narrow images of both classes: what padding adds is black at the rim, and no mark."""
    rng = np.random.default_rng(0)
    for i in range(40):
        label, shape = ("plain", "boxed")[i % 2], ((60, 100), (100, 60))[i // 2 % 2]
        pixels = rng.integers(90, 160, (*shape, 3), dtype=np.uint8)
        if boxed and label == "boxed":
            pixels[-shape[0] // 3 :, : shape[1] // 3] = 0
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    table = scan(tmp_path)
    table["partition"] = "train"
    paths = [f"{tmp_path}/{path}" for path in table["path"]]
    store = build_stores(paths, list(table["sha256"]), [Preprocessing(64, resize)], folder=tmp_path / "stores")[0]
    found = short_audit(table, None, store, progress=False)
    said = " ".join(row["finding"] for row in found.summary["sentences"])
    assert ("black area at the bottom left corner" in said) == (boxed and resize != "crop")
    assert "border" not in said


def test_another_split_of_the_same_audit(planted, store):
    found = short_audit(planted, colours(planted), store, progress=False)
    grouped = planted.copy()
    grouped["group"] = grouped["path"].map(found.clusters)
    moved = with_partition(found, split_table(grouped, "grouped", seed=1))
    assert not moved.findings["kind"].eq("twin-across-split").any() and moved.summary["leaks"]["valid"]["share"] == 0
    assert found.findings["kind"].eq("twin-across-split").sum() == 3  # the first is as it was


def test_neighbours_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 8)).astype(np.float32)
    features[10] = features[4] + 0.01
    pairs = alike(features, 2, 0.5)
    centred = features - features.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(60)
    wanted = {tuple(sorted((i, int(j)))) for i in range(60) for j in np.argsort(-cosine[i])[:2] if cosine[i, j] >= 0.5}
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == wanted
    assert (pairs.first[0], pairs.second[0]) == (4, 10) and pairs.mirrored[:2].tolist() == [False, True]


def test_a_column_group_that_links_nothing_is_a_grouped_split_of_single_images():
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(20)], "label": list("ab") * 10, "group": None})
    assert (split_table(table, "grouped") == "valid").sum() == 4


def test_groups_join_patients_and_clusters():
    table = pd.DataFrame({"patient": ["p", "p", "q", None, None], "group": [None, "t", "t", "u", None]})
    groups = groups_of(table)
    assert groups[0] == groups[1] == groups[2] and len(set(groups.tolist())) == 3
    assert groups_of(table[["patient"]].assign(patient=None)) is None
