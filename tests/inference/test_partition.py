"""Parts of a table, predicted here, in other processes and by Ray Data: the same answers as the bundle gives."""

import importlib.util
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest

from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.partition import embed_partition, partitions, predict_partition
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle of an untrained network, and a table of eight images, one of them broken."""
    room = tmp_path_factory.mktemp("partition")
    folder = draw_endoscopy(room / "drawn", n_per_class=2, size=(48, 48))
    dls = MedDataLoaders.from_folder(folder, size=32, split="all", cache=False)
    learn = med_learner(dls, "resnet18", weights=None)
    save_bundle(learn, room / "a.bundle", calibration={})
    paths = sorted(folder.rglob("*.jpg"))
    paths[3].write_bytes(b"no image")
    return room / "a.bundle", pd.DataFrame({"path": [str(path) for path in paths], "ward": range(len(paths))})


def test_a_part_gives_what_the_bundle_gives(made):
    bundle, table = made
    found = predict_partition(table, bundle)
    assert found["path"].equals(table["path"]) and found["ward"].equals(table["ward"])
    assert (found["problem"] != "").tolist() == [row == 3 for row in range(len(table))]
    loaded = load_bundle(bundle)
    good = found[found["problem"] == ""]
    said = loaded.predict(list(good["path"]))
    assert good["label"].tolist() == [one.label for one in said]
    probs = good[[f"prob_{name}" for name in loaded.vocab]].to_numpy()
    np.testing.assert_allclose(probs, [list(one.probs.values()) for one in said], atol=1e-5)
    assert found.iloc[3][[f"prob_{name}" for name in loaded.vocab]].isna().all() and found["label"][3] == ""


def test_paths_alone_a_root_and_an_empty_part(made):
    bundle, table = made
    names = [path.rsplit("/", 1)[1] for path in table["path"][:1]]
    found = predict_partition(names, bundle, root=table["path"][0].rsplit("/", 1)[0])
    assert found["label"].tolist() == predict_partition(table[:1], bundle)["label"].tolist()
    empty = predict_partition([], bundle)
    assert len(empty) == 0 and [*empty] == [*predict_partition(list(table["path"][:1]), bundle)]


def test_columns_of_the_same_name_are_kept_apart(made):
    bundle, table = made
    found = predict_partition(table.assign(label="told"), bundle)
    assert (found["given_label"] == "told").all() and (found["label"] != "told").all()
    with pytest.raises(DataError, match="no column 'path', but file"):
        predict_partition(pd.DataFrame({"file": ["a.png"]}), bundle)


def test_features_are_those_of_the_network(made):
    bundle, table = made
    found = embed_partition(table, bundle)
    loaded = load_bundle(bundle)
    expected = loaded.runnable.run(np.stack([loaded.prepare(path) for path in table["path"][:3]]))[1]
    np.testing.assert_allclose(np.stack(found["features"][:3]), expected, atol=1e-4)
    assert found["features"][3] is None and found["problem"][3]


@pytest.mark.slow
def test_other_processes_give_the_same(made):
    bundle, table = made
    job = partial(predict_partition, bundle=bundle, threads=1)
    assert pickle.loads(pickle.dumps(job)).func is predict_partition
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = pd.concat(pool.map(job, partitions(table, 3)))
    pd.testing.assert_frame_equal(found, predict_partition(table, bundle), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='pip install "medclf[ray]"')
def test_two_workers_of_ray_data_give_the_same(made):
    import ray

    bundle, table = made
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    try:
        parts = ray.data.from_pandas([table[:4], table[4:]])
        kwargs = {"bundle": str(bundle), "threads": 1}
        found = parts.map_batches(predict_partition, fn_kwargs=kwargs, batch_format="pandas").to_pandas()
    finally:
        ray.shutdown()
    found = found.sort_values("ward", ignore_index=True)
    expected = predict_partition(table, bundle)
    assert found["label"].tolist() == expected["label"].tolist()
    columns = [name for name in expected if name.startswith("prob_")]
    np.testing.assert_allclose(found[columns].to_numpy(float), expected[columns].to_numpy(float), atol=1e-5)
