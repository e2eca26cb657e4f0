"""The forecast: the truth within its interval where the law is known, and nothing said where there is too little."""

from dataclasses import replace

import numpy as np
import pytest

from medclf.auditing.label_forecast import Forecast, _at_least, _carried_on, forecast
from medclf.auditing.labelling import Probe
from medclf.metrics.intervals import Estimate


def draw(n, seed, gap=1.2, f=20):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return rng.normal(size=(n, f)) + gap * np.eye(f)[y], y


def test_a_power_law_is_carried_on_exactly():
    sizes = np.array([30.0, 45.0, 67.0, 100.0])
    errors = np.stack([2 * sizes**-0.5, np.full(4, 0.2)])
    now, later = _carried_on(sizes, errors, 120, 400)
    np.testing.assert_allclose(now, [1 - 2 * 120**-0.5, 0.8])
    np.testing.assert_allclose(later, [1 - 2 * 400**-0.5, 0.8])


def test_the_score_is_told_as_the_least_that_a_test_set_of_100_images_shows():
    told = _at_least(Estimate(0.9, 0.9, 0.9, 50), 0.9)
    half = 1.644854 * (0.9 * 0.1 / 100) ** 0.5  # of the normal approximation
    np.testing.assert_allclose([told.low, told.value, told.high], [0.9 - half, 0.9, 1.0], rtol=1e-5)
    wider = _at_least(Estimate(0.9, 0.8, 0.95, 50), 0.9)
    assert wider.low < told.low and wider.low < 0.8
    sure = Estimate(0.9, 0.82, 1.0, 50)
    said = Forecast(60, 40, sure, replace(sure, low=0.86), Estimate(0.03, -0.02, 0.06, 60), False).sentences()
    assert "60 labels: at least 82 % accuracy" in said[0] and "100 images" in said[0]
    assert (
        said[1]
        == "40 more labels should bring +3.0 points (90 % interval on such a test set -2.0 to +6.0), and at least 86 %."
    )


@pytest.mark.slow
def test_most_intervals_hold_what_more_labels_brought():
    held = []
    for seed in range(8):
        features, y = draw(400, seed)
        probe = Probe(features, 0.01, 3)
        known = np.full(400, -1)
        known[:60] = y[:60]
        said = forecast(probe, known, 50, seed=seed)
        test = np.arange(110, 400)
        right = probe.probs(np.arange(110), y[:110], test).argmax(1) == y[test]
        truth = right.mean()
        held.append(said.later.low <= truth <= said.later.high)
        assert said.now.low <= said.now.value <= said.now.high and said.gain.low <= said.gain.value <= said.gain.high
    assert np.mean(held) >= 0.75


def test_the_gains_interval_holds_what_a_test_set_of_100_images_would_measure():
    rng = np.random.default_rng(0)
    easy, y_easy = draw(400, 0, gap=8.0)
    features, y = draw(400, 0, gap=0.0)  # nothing can be told: fits on other labels differ
    probe, known = Probe(features, 0.01, 3), np.full(400, -1)
    known[:60] = y[:60]
    said = forecast(probe, known, 50)
    assert said.gain.high - said.gain.low > 2 * 1.645 * np.sqrt(0.2 / 100)
    known[:60] = y_easy[:60]
    sure = forecast(Probe(easy, 0.01, 3), known, 50)
    assert sure.gain.high - sure.gain.low < 0.06
    rest = np.arange(110, 400)
    now, later = (probe.probs(np.arange(n), y[:n], rest).argmax(1) == y[rest] for n in (60, 110))
    drawn = [rng.permutation(len(rest))[:100] for _ in range(50)]
    measured = [later[test].mean() - now[test].mean() for test in drawn]
    assert np.mean([said.gain.low <= one <= said.gain.high for one in measured]) >= 0.9


def test_a_task_that_is_learned_says_stop_and_one_that_is_not_says_go_on():
    easy, y = draw(300, 0, gap=8.0)
    known = np.full(300, -1)
    known[:100] = y[:100]
    assert forecast(Probe(easy, 0.01, 3), known).stop
    hard, y = draw(300, 0, gap=1.5)
    known = np.full(300, -1)
    known[:30] = y[:30]
    found = forecast(Probe(hard, 0.01, 3), known)
    assert not found.stop and "Go on" in found.sentences()[-1]


def test_nothing_is_said_of_too_few_labels():
    features, y = draw(100, 0)
    known = np.full(100, -1)
    known[:15] = y[:15]
    assert forecast(Probe(features, 0.01, 3), known) is None
    known[:] = 0
    known[:5] = -1
    assert forecast(Probe(features, 0.01, 3), known) is None
