"""Which bundle a RUN folder stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medclf.errors import BundleError
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.runtimes import bundle_in
from medclf.run.explain import explain
from medclf.run.predict import predict


def _run(folder: Path, record: str, bundle: str) -> Path:
    (folder / "bundle").mkdir()
    (folder / "run.json").write_text(record)
    (folder / "bundle" / "bundle.json").write_text(bundle)
    return folder


def test_a_bundle_of_another_run_is_refused(tmp_path: Path) -> None:
    run = _run(tmp_path, json.dumps({"bundle_hash": "a"}), json.dumps({"hash": "b"}))
    with pytest.raises(BundleError, match="is not the bundle that the training"):
        bundle_in(run)
    assert bundle_in(run / "bundle") == run / "bundle"  # by itself it may be used


def test_a_bundle_that_was_loaded_is_taken_as_it_is_and_what_is_none_is_named(learn, images, tmp_path):
    """`predict(bundle, files)` ended in a TypeError."""
    loaded = load_bundle(save_bundle(learn, tmp_path / "a.bundle", calibration={}))
    answer = predict(loaded, images[:2])
    assert [one.probs for one in answer] == [one.probs for one in predict(tmp_path / "a.bundle", images[:2])]
    assert len(explain(loaded, images[:1], tmp_path / "maps", method="occlusion")) == 1
    with pytest.raises(BundleError, match="not a dict"):
        predict({}, images[:2])


@pytest.mark.parametrize(
    ("record", "bundle"),
    [
        ('{"bundle_hash": "a"}', '{"hash": "a"}'),
        ("{}", '{"hash": "b"}'),
        ("{", '{"hash": "b"}'),
        ('{"bundle_hash": "a"}', "["),
    ],
    ids=["its own", "of 0.1", "damaged record", "damaged bundle"],
)
def test_else_it_is_the_run_s_bundle(tmp_path: Path, record: str, bundle: str) -> None:
    assert bundle_in(_run(tmp_path, record, bundle)) == tmp_path / "bundle"


def test_a_run_without_a_bundle_is_called_so(tmp_path):
    """An evaluation's folder, or that of a training that was stopped."""
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BundleError, match="holds no bundle"):
        bundle_in(tmp_path)
