"""The store: the same pixels as `prepare`, built once, whole or not there, shared and pruned."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medclf.dataset.image_cache import build_stores, list_stores, prune_stores
from medclf.dataset.scan import file_hash
from medclf.errors import MedclfWarning, OutputError
from medclf.images.preprocessing import Preprocessing, Step
from medclf.images.reading import prepare


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, (mode, suffix) in enumerate([("RGB", "png"), ("L", "png"), ("RGB", "jpg"), ("RGB", "png")]):
        shape = (30 + i, 44, 3) if mode == "RGB" else (30 + i, 44)
        path = tmp_path / f"{i}.{suffix}"
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(path)
        paths.append(str(path))
    deep = tmp_path / "deep.png"
    Image.fromarray(rng.integers(0, 65535, (31, 40), dtype=np.uint16)).save(deep)
    return [*paths, str(deep)]


def build(files, folder, wanted=None, **kwargs):
    digests = [file_hash(Path(p)) for p in files]
    return build_stores(files, digests, wanted or [Preprocessing(20)], folder=folder, progress=False, **kwargs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["squish", "crop", "pad"])
def test_holds_what_prepare_gives(files, tmp_path, resize, channels):
    stores = build(files, tmp_path / "c", [Preprocessing(side, resize, channels) for side in (20, 23)])
    for store, size in zip(stores, [20, 23], strict=True):
        gathered = store.gather(store.rows(files)).permute(0, 2, 3, 1).numpy()
        wanted = np.stack([prepare(p, size, resize=resize, channels=channels) for p in files])
        assert np.array_equal(gathered, wanted)


def test_is_built_once_and_keyed_by_content(files, tmp_path, monkeypatch):
    first = build(files, tmp_path / "c")[0]
    monkeypatch.setattr("medclf.images.preprocessing.read_display", None)
    again = build(files[::-1], tmp_path / "c")[0]  # the order on disk means nothing
    assert again.folder == first.folder
    assert np.array_equal(again.gather(again.rows(files)), first.gather(first.rows(files)))
    monkeypatch.undo()
    Image.new("RGB", (40, 40)).save(files[0])
    assert build(files, tmp_path / "c")[0].folder != first.folder


def test_another_reading_is_another_store(files, tmp_path):
    plain, steps = Preprocessing(20), (Step((20, 20), "crop"),)
    others = [plain, replace(plain, window=(40, 400)), replace(plain, resize=steps), replace(plain, resize="pad")]
    assert len({build(files, tmp_path / "c", [one])[0].folder for one in others}) == 4


def test_unknown_files_are_not_in_it(files, tmp_path):
    store = build(files, tmp_path / "c")[0]
    assert store.rows([*files, "other.png"]) is None


CHANGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "deleted": lambda path: path.unlink(),
    "another image": lambda path: Image.new("RGB", (40, 40)).save(path),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_since_the_scan_is_named_and_never_taken_for_what_it_was(files, tmp_path, change):
    digests, sound = [file_hash(Path(p)) for p in files], Path(files[0]).read_bytes()
    CHANGES[change](Path(files[0]))

    def opened(chosen):
        return build_stores(
            [files[i] for i in chosen], [digests[i] for i in chosen], [Preprocessing(20)], folder=tmp_path / "c"
        )[0]

    store = opened(range(5))
    assert set(store.problems) == {files[0]} and store.problems[files[0]]
    assert store.rows(files) is None
    rest = opened(range(1, 5))
    assert rest.folder == store.folder  # a later scan leaves the file out, and finds this store
    assert rest.problems == {}
    wanted = np.stack([prepare(p, 20) for p in files[1:]])
    for found in (store, rest):
        assert np.array_equal(found.gather(found.rows(files[1:])).permute(0, 2, 3, 1).numpy(), wanted)
    Path(files[0]).write_bytes(sound)  # put back: the same digest, and no store that knows it as broken
    again = opened(range(5))
    assert again.problems == {} and again.gather(again.rows(files)).shape == (5, 3, 20, 20)


def test_a_file_that_was_never_readable_is_named_by_its_store(files, tmp_path):
    Path(files[2]).write_bytes(b"\xff\xd8\xff broken")
    stores = [build(files, tmp_path / "c")[0] for _ in range(2)]
    assert stores[0].folder == stores[1].folder
    assert set(stores[0].problems) == {files[2]} and stores[1].problems == stores[0].problems
    kept = [path for path in files if path != files[2]]
    assert stores[1].rows([files[2]]) is None and set(stores[1].row_of) == set(kept)
    gathered = stores[1].gather(stores[1].rows(kept)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(gathered, np.stack([prepare(path, 20) for path in kept]))


def test_a_failed_build_leaves_nothing(files, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medclf.dataset.image_cache._allocate", fail)
    with pytest.raises(OutputError, match="No space left"):
        build(files, tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_two_builders_at_once_agree(files, tmp_path):
    code = (
        "import sys, medclf.dataset.image_cache as c; from pathlib import Path\n"
        f"c.build_stores({files!r}, {[file_hash(Path(p)) for p in files]!r}, [c.Preprocessing(20)], "
        f"folder=Path({str(tmp_path / 'c')!r}), progress=False)\n"
    )
    builders = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [b.wait(timeout=120) for b in builders] == [0, 0]
    assert len(list_stores(tmp_path / "c")) == 1
    assert not list((tmp_path / "c").glob("part-*"))


def test_a_killed_builder_leaves_no_store(files, tmp_path):
    code = (
        "import os, medclf.dataset.image_cache as c\n"
        "c.Preprocessing.fit = lambda *a: os.kill(os.getpid(), 9)\n"
        f"c.build_stores({files!r}, {[file_hash(Path(p)) for p in files]!r}, [c.Preprocessing(20)], "
        f"folder=__import__('pathlib').Path({str(tmp_path / 'c')!r}), progress=False)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert list_stores(tmp_path / "c") == []
    assert [p.name.startswith("part-") for p in (tmp_path / "c").iterdir()] == [True]
    for part in (tmp_path / "c").iterdir():
        os.utime(part, (time.time() - 2 * 86400,) * 2)
    assert prune_stores(30, tmp_path / "c") > 0 and list((tmp_path / "c").iterdir()) == []


def test_pruning_keeps_what_was_used_lately(files, tmp_path):
    old, new = (build(files, tmp_path / "c", [Preprocessing(side)])[0] for side in (20, 24))
    os.utime(old.folder / "index.json", (time.time() - 40 * 86400,) * 2)
    assert [s.folder for s in list_stores(tmp_path / "c")] == [new.folder, old.folder]
    prune_stores(30, tmp_path / "c")
    assert [s.folder for s in list_stores(tmp_path / "c")] == [new.folder]
    assert json.loads((new.folder / "index.json").read_text())["shape"] == [5, 24, 24, 3]


def described(change):
    """Damage of a store's description."""

    def damage(store):
        index = json.loads((store / "index.json").read_text())
        (store / "index.json").write_text(json.dumps(change(index)))

    return damage


def zero_a_part(store):
    with (store / "pixels.u8").open("r+b") as file:
        file.seek(500)
        file.write(b"\0" * 100)


DAMAGES = {
    "description empty": lambda store: (store / "index.json").write_bytes(b""),
    "description cut": lambda store: (store / "index.json").write_bytes((store / "index.json").read_bytes()[:40]),
    "description not text": lambda store: (store / "index.json").write_bytes(b"\xff\xfe\0\0"),
    "description missing": lambda store: (store / "index.json").unlink(),
    "description a list": described(lambda index: [index]),
    "description without digests": described(lambda index: {k: v for k, v in index.items() if k != "digests"}),
    "shape of words": described(lambda index: index | {"shape": ["a", 1, 2, 3]}),
    "digests of another order": described(lambda index: index | {"digests": index["digests"][::-1]}),
    "sizes that are none": described(lambda index: index | {"full_sizes": 7}),
    "pixels zeroed in part": zero_a_part,
    "pixels cut": lambda store: os.truncate(store / "pixels.u8", 100),
    "pixels longer": lambda store: os.truncate(store / "pixels.u8", 10**6),
    "pixels missing": lambda store: (store / "pixels.u8").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_told_made_again_and_cleared(files, tmp_path, damage):
    folder = tmp_path / "c"
    sound = build(files, folder)[0]
    pixels = np.array(sound.pixels)
    damage(sound.folder)
    list_stores(folder)  # does not die of it
    with pytest.warns(MedclfWarning, match="damaged and is made again"):
        again = build(files, folder)[0]
    assert np.array_equal(again.pixels, pixels)
    assert [store.n_images for store in list_stores(folder)] == [5]
    damage(again.folder)
    prune_stores(0, folder)
    assert not list_stores(folder) and not again.folder.exists()


def test_a_damaged_description_is_listed_as_damaged(files, tmp_path):
    store, other = (build(files, tmp_path / "c", [Preprocessing(side)])[0] for side in (20, 24))
    (store.folder / "index.json").write_text("{}")
    assert {info.folder: info.n_images for info in list_stores(tmp_path / "c")} == {store.folder: None, other.folder: 5}
