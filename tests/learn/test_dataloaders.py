"""The factories of loaders: fastai's objects, from folders, tables, lists and names alike."""

import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize, RandomSplitter, parent_label
from PIL import Image

from medclf.demo_dicom import draw_ct
from medclf.errors import DataError, MedclfWarning
from medclf.learn.batches import even_batch_size
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.labels import is_multi_label
from medclf.learn.presets import show_augmentations, tfms_for

from .noise import make


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "data", {"polyp": 12, "normal": 13})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))


def test_from_folder_gives_fastais_loaders(folder):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=8)
    assert isinstance(dls, DataLoaders)
    assert list(dls.vocab) == ["normal", "polyp"]
    assert (len(dls.train_ds), len(dls.valid_ds)) == (20, 5)
    x, y = dls.one_batch()
    assert x.shape[1:] == (3, 32, 32) and x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
    assert len(y) == len(x)
    dls.show_batch(max_n=4)
    assert len(dls.train) == 3 and sum(len(b[1]) for b in dls.train) == 20  # even batches, none dropped


def test_no_patient_is_on_both_sides_unless_the_split_is_asked_for(tmp_path):
    drawn = draw_ct(tmp_path / "ct", n_patients=10, n_slices=4, size=32)
    rows = pd.read_csv(drawn / "labels.csv")
    parted = tmp_path / "parted"
    for i, row in rows.iterrows():
        to = parted / ("train", "valid")[i % 2] / row["label"] / f"{i}.dcm"
        to.parent.mkdir(parents=True, exist_ok=True)
        (drawn / row["file"]).rename(to)
    in_both = []
    for given in ({"valid_pct": 0.3}, {"valid_pct": 0.3, "split": "random"}, {}):
        table = MedDataLoaders.from_folder(parted, size=32, seed=1, progress=False, **given).table
        in_both.append((table.groupby("patient")["partition"].nunique() > 1).sum())
    assert in_both[0] == 0 and min(in_both[1:]) > 0  # parts that the folders name stay as they are


def test_a_hand_made_datablock_works(folder):
    item_tfms, batch_tfms = tfms_for("radiograph", 32)
    block = DataBlock(
        blocks=(MedImageBlock(), CategoryBlock()),
        get_items=lambda source: sorted(source.rglob("*.png")),
        get_y=parent_label,
        splitter=RandomSplitter(seed=1),
        item_tfms=item_tfms,
        batch_tfms=[*batch_tfms, Normalize.from_stats([0.5] * 3, [0.5] * 3, cuda=False)],
    )
    dls = block.dataloaders(folder, bs=4)
    assert dls.one_batch()[0].shape == (4, 3, 32, 32)
    assert len(show_augmentations(dls, n=4)) == 4
    for given in ({"n": 0}, {"index": 999}):
        with pytest.raises(DataError, match="cannot be shown"):
            show_augmentations(dls, **given)


def test_partitions_of_folders_are_kept(tmp_path):
    for part, n in {"TRAIN": 4, "Validation": 3, "test": 2}.items():
        make(tmp_path / part, {"polyp": n, "normal": n})
    dls = MedDataLoaders.from_folder(tmp_path, size=32)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (8, 6)
    assert (dls.table["partition"] == "test").sum() == 4
    assert dls.settings.split.kind == "folders"


def test_csv_dataframe_lists_and_names_agree(folder):
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    labels = [p.partition("/")[0] for p in paths]
    frame = pd.DataFrame({"file": paths, "kind": labels})
    frame.to_csv(folder / "labels.csv", index=False)
    kwargs = {"size": 32}
    made = [
        MedDataLoaders.from_folder(folder, **kwargs),
        MedDataLoaders.from_csv(folder / "labels.csv", path_col="file", label_col="kind", **kwargs),
        MedDataLoaders.from_df(frame, root=folder, path_col="file", label_col="kind", **kwargs),
        MedDataLoaders.from_lists(paths, labels, root=folder, **kwargs),
    ]
    sides = [[str(p) for p in dls.valid.items] for dls in made]
    assert sides[0] == sides[1] == sides[2] == sides[3]
    assert all(list(dls.vocab) == ["normal", "polyp"] for dls in made)


def test_labels_from_names(tmp_path):
    for i in range(10):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{'cat' if i % 2 else 'dog'}_{i}.png")
    dls = MedDataLoaders.from_name_re(tmp_path, r"^(\w+)_\d+", size=32)
    assert list(dls.vocab) == ["cat", "dog"]


def test_multi_label(folder):
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    cells = ["a|b" if i % 3 == 0 else "a" if i % 3 == 1 else "b" for i in range(len(paths))]
    dls = MedDataLoaders.from_df(
        pd.DataFrame({"path": paths, "label": cells}), root=folder, label_delim="|", size=32, cache=True
    )
    x, y = dls.one_batch()
    assert list(dls.vocab) == ["a", "b"] and y.shape == (len(x), 2) and set(y.unique().tolist()) == {0.0, 1.0}
    assert is_multi_label(dls)


def test_a_corrupt_file_is_left_out_and_named(folder):
    (folder / "polyp" / "03.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.warns(MedclfWarning, match="left out"):
        dls = MedDataLoaders.from_folder(folder, size=32)
    assert len(dls.train_ds) + len(dls.valid_ds) == 24
    assert dls.table.set_index("path").loc["polyp/03.png", "problem"]
    with pytest.raises(DataError, match=r"polyp/03\.png"):
        MedDataLoaders.from_folder(folder, size=32, strict=True)


def test_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="two classes"):
        MedDataLoaders.from_folder(make(tmp_path, {"polyp": 5}), size=32)


@pytest.mark.parametrize(("n", "bs"), [(1, 64), (65, 64), (130, 64), (7, 3), (448, 64)])
def test_even_batches_are_never_larger_and_never_drop(n, bs):
    size = even_batch_size(n, bs)
    assert size <= bs
    sizes = [min(size, n - at) for at in range(0, n, size)]
    assert sum(sizes) == n and len(sizes) == -(-n // bs)


@pytest.mark.parametrize(("n", "bs", "size"), [(257, 16, 15), (50, 7, 6), (7, 3, 3)])
def test_no_image_is_left_alone_where_a_smaller_batch_avoids_it(n, bs, size):
    assert even_batch_size(n, bs) == size


def test_files_that_a_caller_names_may_lie_elsewhere(folder, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    files = sorted(folder.rglob("*.png"))
    dls = MedDataLoaders.from_path_func(".", files, lambda file: file.parent.name, size=32)
    assert sorted([*dls.train_ds.items, *dls.valid_ds.items]) == files
    with pytest.raises(DataError, match="outside"):
        MedDataLoaders.from_path_func(".", files, lambda file: file.parent.name, size=32, allow_outside=False)
