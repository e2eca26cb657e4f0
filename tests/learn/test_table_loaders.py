"""Loaders of a table: the same pixels from file and store, an order that depends on the seed alone."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.augment import RandomResizedCrop

from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfError, PreprocessingError
from medclf.images.reading import prepare
from medclf.learn.batches import MedDL
from medclf.learn.dataloaders import MedDataLoaders

from .noise import make


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "data", {"polyp": 12, "normal": 13})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))


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


def test_one_channel(folder):
    x, _ = MedDataLoaders.from_folder(folder, size=32, channels=1, cache=True).one_batch()
    live, _ = MedDataLoaders.from_folder(folder, size=32, channels=1).one_batch()
    assert x.shape[1] == live.shape[1] == 1
    assert torch.allclose(x, live, atol=1e-6)


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


@pytest.mark.parametrize(("given", "kind"), [({"item_tfms": 64}, "a number"), ({"batch_tfms": ["flip"]}, "a name")])
def test_what_is_no_transform_is_refused(folder, given, kind):
    with pytest.raises(MedclfError, match=f"{next(iter(given))} is called, and .* is {kind}") as refused:
        MedDataLoaders.from_folder(folder, cache=False, **given)
    assert "such as" in refused.value.remedy
