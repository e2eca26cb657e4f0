"""Drift: silent where nothing changes, soon heard where something does; accuracy within its interval, or not said."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ks_2samp

from medclf.errors import DataError
from medclf.metrics.drift import Stream, _ks, differences, estimate_accuracy, find_drift, stream_of


def draw(n, seed, shift=0.0, share=0.3, images=None, sharpness=2.0, kind="400x300"):
    """Images of two classes, told by one number whose log odds are what the model says: calibrated by construction."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    signal = rng.normal(size=n) + sharpness * (y - 0.5)
    p = 1 / (1 + np.exp(-(sharpness * signal + np.log(0.3 / 0.7))))
    probs = np.stack([1 - p, p], axis=1)
    measures = {f"axis {axis}": rng.normal(size=n) + shift * (axis == 0) for axis in range(4)}
    pictures = [f"{seed}-{number}" for number in range(n)] if images is None else images
    return Stream(measures, probs, probs.argmax(1), {"size": [kind] * n}, pictures), y


def joined(a, b):
    return Stream(
        {name: np.concatenate([values, b.measures[name]]) for name, values in a.measures.items()},
        np.concatenate([a.probs, b.probs]),
        np.concatenate([a.pred, b.pred]),
        {name: [*values, *b.kinds[name]] for name, values in a.kinds.items()},
        [*a.images, *b.images],
    )


def test_the_p_value_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=150), rng.normal(0.4, size=120)
    assert _ks(a, b, 1.0) == pytest.approx(ks_2samp(a, b, method="asymp").pvalue, rel=0.15)
    assert _ks(a, b, 3.0) > _ks(a, b, 1.0)


def test_images_like_the_reference_raise_no_alarm():
    reference, _ = draw(200, 0)
    assert not [seed for seed in range(1, 6) if find_drift(reference, draw(600, seed)[0])]


def test_sizes_that_are_all_different_are_no_drift():
    def cropped(n, seed):  # sizes as of images cropped by hand: most of a stream's are not in the reference
        images, _ = draw(n, seed)
        sizes = np.random.default_rng(seed).integers(500, 700, (n, 2))
        return replace(images, kinds={"size": [f"{width}x{height}" for width, height in sizes]})

    assert find_drift(cropped(60, 0), cropped(400, 1)) == []
    fixed = joined(draw(100, 2, kind="512x512")[0], draw(100, 3, kind="512x512")[0])
    assert "new size" in {alarm.what for alarm in find_drift(draw(60, 4)[0], fixed)}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"shift": 1.5}, "axis 0"),
        ({"share": 0.9}, "share of class 1"),
        ({"kind": "512x512"}, "new size"),
        ({"images": ["the same"] * 250}, "one image again and again"),
    ],
)
def test_a_change_is_found_within_200_images(changes, what):
    reference, _ = draw(300, 0)
    alarms = find_drift(reference, joined(draw(300, 1)[0], draw(250, 2, **changes)[0]))
    assert what in {alarm.what for alarm in alarms}
    assert 300 < alarms[0].at <= 500


def test_accuracy_is_within_its_interval_as_often_as_said():
    held, said = 0, 0
    for seed in range(60):
        reference, y = draw(300, 1000 + seed)
        stream, truth = draw(200, seed)
        found = estimate_accuracy(reference, reference.pred == y, stream)
        if found.value == found.value:
            said += 1
            held += found.low <= (stream.pred == truth).mean() <= found.high
    assert said >= 50 and held / said >= 0.88


def test_of_drifted_images_nothing_is_said_and_why():
    reference, y = draw(300, 0)
    found = estimate_accuracy(reference, reference.pred == y, draw(200, 1, shift=2.0)[0])
    assert np.isnan(found.value) and "axis 0" in found.note
    assert "fewer than" in estimate_accuracy(reference, reference.pred == y, draw(20, 1)[0]).note


def test_sketches_of_other_measures_make_no_stream():
    rows = [{"probs": {"a": 1.0}, "measures": {name: 0.5}, "kinds": {}, "image": "0"} for name in ("x", "x", "y")]
    assert stream_of(rows[:2], ["a"]).measures["x"].tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="1 of 3 sketches have other measures"):
        stream_of(rows, ["a"])


def test_images_of_one_patient_count_for_less():
    reference, _ = draw(300, 0)
    stream, _ = draw(200, 1, shift=0.5)
    alone = differences(reference, stream)["axis 0"]
    linked = Stream(
        reference.measures, reference.probs, reference.pred, reference.kinds, reference.images, per_unit=4.0
    )
    assert differences(linked, stream)["axis 0"] > alone
