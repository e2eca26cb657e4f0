"""The loaders: fastai's objects, the same pixels from file and store, an order that depends on the seed alone."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize, RandomSplitter, parent_label
from fastai.vision.augment import RandomResizedCrop
from PIL import Image

from medclf.dataset.scan import scan
from medclf.demo_dicom import draw_ct
from medclf.errors import DataError, MedclfWarning, PreprocessingError
from medclf.images.reading import prepare
from medclf.learn.batches import MedDL, even_batch_size
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.labels import is_multi_label
from medclf.learn.presets import show_augmentations, tfms_for


def make(folder, counts, size=(40, 30)):
    """Noise images in class folders; polyps are red, normals green."""
    rng = np.random.default_rng(0)
    for label, n in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 100, (*size[::-1], 3), dtype=np.uint8)
            pixels[..., 0 if "polyp" in label else 1] += 150
            Image.fromarray(pixels).save(folder / label / f"{i:02}.png")
    return folder


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


@pytest.mark.parametrize("modality", [None, "endoscopy"])
def test_store_and_files_give_the_same_batches(folder, modality):
    kwargs = {"size": 32, "bs": 8, "seed": 5, "modality": modality}
    live = MedDataLoaders.from_folder(folder, **kwargs)
    stored = MedDataLoaders.from_folder(folder, cache=True, **kwargs)
    for loaders in zip(live.loaders, stored.loaders, strict=True):
        for (x, y), (x2, y2) in zip(*loaders, strict=True):
            assert torch.equal(y, y2) and type(y) is type(y2)
            assert torch.allclose(x, x2, atol=1e-6)


def test_validation_pixels_are_those_of_prepare(folder):
    dls = MedDataLoaders.from_folder(folder, size=32, cache=True)
    x, _ = dls.valid.one_batch()
    wanted = np.stack([prepare(p, 32) for p in dls.valid.items])
    assert np.array_equal((x.permute(0, 2, 3, 1).numpy() * 255).round(), wanted)


def test_stored_batches_open_no_image(folder, monkeypatch):
    dls = MedDataLoaders.from_folder(folder, size=32, cache=True)
    dls.one_batch()
    monkeypatch.setattr("medclf.learn.image_block.read_pixels", None)
    for loader in dls.loaders:
        assert sum(len(b[0]) for b in loader) == len(loader.dataset)


def test_order_depends_on_the_seed_and_the_epoch(folder):
    first, second, other = (MedDataLoaders.from_folder(folder, size=32, seed=s) for s in (1, 1, 2))
    orders = [[dl.train.get_idxs() for _ in (0, 1) if dl.train.randomize() is None] for dl in (first, second, other)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]


def test_the_global_random_state_decides_nothing(folder):
    batches = []
    for noise in (0, 1):
        random.seed(noise), np.random.seed(noise), torch.manual_seed(noise)
        dls = MedDataLoaders.from_folder(folder, size=32, modality="endoscopy", cache=True)
        batches.append(torch.cat([b[0] for b in dls.train]))
    assert torch.equal(*batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_change_nothing(folder, workers):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=8, modality="endoscopy", num_workers=workers)
    assert torch.equal(torch.cat([b[0] for b in dls.train]), _single_process(folder))


def _single_process(folder):
    dls = MedDataLoaders.from_folder(folder, size=32, bs=8, modality="endoscopy")
    return torch.cat([b[0] for b in dls.train])


def test_batch_size_changes_no_augmentation(folder):
    small, large = (MedDataLoaders.from_folder(folder, size=32, bs=bs, modality="endoscopy") for bs in (3, 20))
    assert torch.allclose(torch.cat([b[0] for b in small.train]), torch.cat([b[0] for b in large.train]), atol=1e-5)


def test_test_dl_works_as_fastais(folder):
    dls = MedDataLoaders.from_folder(folder, size=32, cache=True)
    paths = sorted(folder.rglob("*.png"))[:3]
    plain = dls.test_dl(paths).one_batch()
    labelled = dls.test_dl(paths, with_labels=True).one_batch()
    assert len(plain) == 1 and plain[0].shape == (3, 3, 32, 32)
    assert labelled[1].tolist() == [0, 0, 0]
    named = dls.test_dl([str(p) for p in paths]).one_batch()
    assert len(dls.test_dl(paths[0]).dataset) == 1 and len(dls.test_dl(iter(paths)).dataset) == len(paths)
    with pytest.raises(DataError, match="no image to test on"):
        dls.test_dl([])
    assert torch.equal(named[0], plain[0])


def test_labels_are_found_however_a_file_is_named(folder, monkeypatch):
    dls = MedDataLoaders.from_folder(folder, size=32)
    paths = sorted(folder.rglob("*.png"))[::7]
    wanted = [dls.vocab.o2i[path.parent.name] for path in paths]
    monkeypatch.chdir(folder.parent)
    relative = [path.relative_to(folder.parent) for path in paths]
    (folder.parent / "link").symlink_to(folder)
    linked = [folder.parent / "link" / path.relative_to(folder) for path in paths]
    try:
        for given in (relative, [str(path) for path in relative], [str(path) for path in paths], linked):
            assert dls.test_dl(given, with_labels=True).one_batch()[1].tolist() == wanted
    finally:
        (folder.parent / "link").unlink()
    with pytest.raises(DataError, match="given as bytes has no label"):
        dls.test_dl([paths[0].read_bytes()], with_labels=True).one_batch()


def test_loaders_can_be_exported(folder, tmp_path):
    import pickle

    dls = MedDataLoaders.from_folder(folder, size=32, cache=True, modality="endoscopy")
    again = pickle.loads(pickle.dumps(dls.new_empty()))
    x = again.test_dl([folder / "polyp" / "00.png"]).one_batch()[0]
    assert torch.equal(x, dls.test_dl([folder / "polyp" / "00.png"]).one_batch()[0])


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


def test_one_channel(folder):
    x, _ = MedDataLoaders.from_folder(folder, size=32, channels=1, cache=True).one_batch()
    live, _ = MedDataLoaders.from_folder(folder, size=32, channels=1).one_batch()
    assert x.shape[1] == live.shape[1] == 1
    assert torch.allclose(x, live, atol=1e-6)


@pytest.mark.parametrize(("n", "bs"), [(1, 64), (65, 64), (130, 64), (7, 3), (448, 64)])
def test_even_batches_are_never_larger_and_never_drop(n, bs):
    size = even_batch_size(n, bs)
    assert size <= bs
    sizes = [min(size, n - at) for at in range(0, n, size)]
    assert sum(sizes) == n and len(sizes) == -(-n // bs)


@pytest.mark.parametrize(("n", "bs", "size"), [(257, 16, 15), (50, 7, 6), (7, 3, 3)])
def test_no_image_is_left_alone_where_a_smaller_batch_avoids_it(n, bs, size):
    assert even_batch_size(n, bs) == size


def test_loader_class(folder):
    assert all(isinstance(dl, MedDL) for dl in MedDataLoaders.from_folder(folder, size=32).loaders)


def test_a_store_is_made_unless_item_transforms_draw_anew(folder):
    def stored(**given):
        return (
            MedDataLoaders.from_folder(folder, size=32, progress=False, device="cpu", **given).train.stores is not None
        )

    assert stored() and stored(cache=True) and not stored(cache=False)
    assert not stored(item_tfms=RandomResizedCrop(32))
    with pytest.raises(PreprocessingError, match="RandomResizedCrop"):
        stored(item_tfms=RandomResizedCrop(32), cache=True)


def test_a_device_that_this_machine_has_not(folder):
    with pytest.raises(DataError, match="bs must be 1 or more, not 0"):
        MedDataLoaders.from_folder(folder, size=32, bs=0)
    with pytest.raises(DataError, match="no device 'cuda:63'"):
        MedDataLoaders.from_folder(folder, size=32, progress=False, device="cuda:63")


def test_files_that_a_caller_names_may_lie_elsewhere(folder, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    files = sorted(folder.rglob("*.png"))
    dls = MedDataLoaders.from_path_func(".", files, lambda file: file.parent.name, size=32)
    assert sorted([*dls.train_ds.items, *dls.valid_ds.items]) == files
    with pytest.raises(DataError, match="outside"):
        MedDataLoaders.from_path_func(".", files, lambda file: file.parent.name, size=32, allow_outside=False)


def test_a_table_that_pandas_changed_is_refused_by_name_or_read(folder):
    table = scan(folder, progress=False)
    with pytest.raises(DataError, match=r"root.*is gone.*\n.*table.attrs = scanned.attrs"):
        MedDataLoaders.from_table(table.merge(pd.DataFrame({"label": table["label"].unique()})), size=32)
    twice = pd.concat([table, table[table["label"] == table["label"][0]]])
    twice.attrs = table.attrs
    with pytest.raises(DataError, match="is there 2 times"):
        MedDataLoaders.from_table(twice, size=32)
    halves = pd.concat([table[::2].reset_index(drop=True), table[1::2].reset_index(drop=True)])
    halves.attrs = table.attrs
    dls = MedDataLoaders.from_table(halves, size=32, cache=False, progress=False)
    assert len(dls.train_ds) + len(dls.valid_ds) == len(table)


@pytest.mark.parametrize("size", [0, 32.5, (32,), "32", (32, -1)])
def test_a_size_that_is_none_is_refused(folder, size):
    with pytest.raises(DataError, match="size must be a whole number of pixels"):
        MedDataLoaders.from_folder(folder, size=size, progress=False)
