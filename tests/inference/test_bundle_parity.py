"""A bundle's prediction is `learn.predict`'s, on real files of each kind."""

import numpy as np
import pandas as pd
import pytest

from medclf.inference.bundle import load_bundle, save_bundle

pytestmark = pytest.mark.slow


def trained(**options):
    from medclf.learn.dataloaders import MedDataLoaders
    from medclf.learn.learner import med_learner

    dls = MedDataLoaders.from_df(bs=8, valid_pct=0.5, seed=1, **options)
    learn = med_learner(dls, "efficientnet_lite0")
    learn.fine_tune(0)
    return learn


def compare(learn, paths, folder):
    bundle = load_bundle(save_bundle(learn, folder / "a.bundle"))
    ours = bundle.predict(paths)
    with learn.no_bar(), learn.no_logging():
        theirs = [learn.predict(path) for path in paths]
    moved = [
        np.abs(np.array(list(one.probs.values())) - other[2].numpy()).max()
        for one, other in zip(ours, theirs, strict=True)
    ]
    assert max(moved) < 1e-4
    assert np.ptp([list(one.probs.values()) for one in ours], axis=0).max() > 0.1  # they are not all alike
    return ours, theirs


def test_radiographs_in_png(shared_data, tmp_path):
    root = shared_data / "hello-world"
    paths = sorted((root / "VAL").rglob("*.png")) + sorted((root / "TEST").rglob("*.png"))
    table = pd.DataFrame(
        {"path": [str(p.relative_to(root)) for p in paths[:10]], "label": [p.parent.name for p in paths[:10]]}
    )
    learn = trained(df=table, root=root, size=128, modality="radiograph")
    ours, theirs = compare(learn, paths, tmp_path)
    assert [answer.label for answer in ours] == [str(answer[0]) for answer in theirs]


def test_endoscopy_in_jpeg(shared_data, tmp_path):
    root = shared_data / "hyperkvasir-lower-gi"
    paths = [path for name in ("polyp", "normal-cecum") for path in sorted((root / name).glob("*.jpg"))[:12]]
    table = pd.DataFrame({"path": [str(p.relative_to(root)) for p in paths], "label": [p.parent.name for p in paths]})
    ours, _ = compare(trained(df=table, root=root, size=(96, 112), modality="endoscopy"), paths, tmp_path)
    assert len(ours) == 24


def test_dicom_in_grey(shared_data, tmp_path):
    root = shared_data / "dicom" / "siim-cxr35"
    paths = sorted(root.rglob("*.dcm"))[:8]
    if not paths:
        pytest.skip("needs DICOM files")
    table = pd.DataFrame({"path": [str(p.relative_to(root)) for p in paths], "label": ["odd", "even"] * 4})
    ours, _ = compare(trained(df=table, root=root, size=96, modality="radiograph", channels=1), paths, tmp_path)
    assert len(ours) == 8
