import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from medclf.errors import DataError
from medclf.metrics.classification import proportion
from medclf.metrics.intervals import (
    Estimate,
    Sampling,
    as_plain,
    bounded_interval,
    critical,
    difference_interval,
    gap_interval,
    plan_size,
    score_interval,
    undefined,
    wilson,
)

CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on busy machines too


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (50, 71), (1488, 1600)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_statsmodels(k, n, level):
    assert wilson(k, n, level) == pytest.approx(proportion_confint(k, n, 1 - level, "wilson"), abs=1e-12)


def test_wilson_of_published_cases():
    """Newcombe 1998, table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert all(math.isnan(end) for end in wilson(0, 0))


@CALM
@given(st.floats(0, 1), st.floats(0.5, 1e6), st.floats(0.1, 5))
def test_the_ends_of_a_score_interval_are_where_the_score_is_the_quantile(share, n, quantile):
    for end in score_interval(share, n, quantile):
        assert 0 <= end <= 1
        if 1e-9 < end < 1 - 1e-9 and abs(end - share) > 1e-9:
            assert abs(share - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(quantile, rel=1e-4)


def test_critical_is_normal_or_students():
    assert critical(0.9) == pytest.approx(1.6449, abs=1e-4)
    assert critical(0.95, 4) == pytest.approx(stats.t.ppf(0.975, 4))
    assert critical(0.95, 0.2) == critical(0.95, 1)
    for level in (0, 1, 95):
        with pytest.raises(DataError, match="confidence level"):
            critical(level)


@pytest.mark.parametrize("n", [50, 500, 5000])
def test_a_proportions_own_variance_gives_wilson_back(n):
    share = 0.9
    found = bounded_interval(share, share * (1 - share) / n, units=n)
    assert found == pytest.approx(wilson(share * n, n), abs=0.3 / n)


@CALM
@given(st.floats(0, 1), st.floats(0, 0.25), st.integers(1, 5000), st.floats(1, 200))
def test_a_bounded_interval_holds_its_value_and_has_a_width(value, variance, units, freedom):
    low, high = bounded_interval(value, variance, units=units, freedom=freedom)
    assert 0 <= low <= value <= high <= 1 and high - low > 1e-5
    wider = bounded_interval(value, variance + 0.01, units=units, freedom=freedom)
    assert wider[0] <= low + 1e-12 and high - 1e-12 <= wider[1]
    fewer = bounded_interval(value, variance, units=units, freedom=1)
    assert fewer[0] <= low + 1e-12 and high - 1e-12 <= fewer[1]


def test_a_span_is_a_change_of_scale():
    plain = bounded_interval(0.8, 0.001, units=100)
    mcc = bounded_interval(0.6, 0.004, units=100, span=(-1, 1))
    assert mcc == pytest.approx([2 * end - 1 for end in plain])


@pytest.mark.parametrize(("b", "c"), [(12, 28), (0, 3), (5, 5)])
def test_a_difference_lies_between_wald_and_bonett_and_price(b, c):
    """For discordant images b and c of n, Wald's is too narrow, and adding two whole images is cautious."""
    n = 400
    value, variance = (c - b) / n, ((b + c) / n - ((c - b) / n) ** 2) / n
    low, high = difference_interval(value, variance, units=n)
    p12, p21 = (b + 1) / (n + 2), (c + 1) / (n + 2)
    cautious = 1.959964 * math.sqrt((p12 + p21 - (p21 - p12) ** 2) / (n + 2))
    assert (low + high) / 2 == pytest.approx(value)
    assert 1.959964 * math.sqrt(variance) < (high - low) / 2 < cautious


def test_a_difference_has_limits_and_a_width():
    assert difference_interval(0.99, 0.1, units=10)[1] == 1.0
    low, high = difference_interval(0.0, 0.0, units=50)
    assert low == -high == pytest.approx(-1.96 / 50, rel=1e-3)


def test_gaps_that_could_be_noise_start_at_zero():
    rng = np.random.default_rng(0)
    gaps, noise = rng.normal(0, 0.01, 12), rng.normal(0, 0.01, (4000, 12))
    low, high = gap_interval(gaps, gaps + noise, 0.95)
    assert low == 0.0 and high >= np.abs(gaps).sum()


def test_gaps_without_noise_are_known():
    gaps = np.array([0.05, -0.02])
    assert gap_interval(gaps, np.tile(gaps, (50, 1)), 0.95) == pytest.approx((0.07, 0.07), abs=1e-9)


def test_gaps_above_noise_agree_with_a_normal_interval():
    """Where every gap is far from 0, their absolute sum is a plain sum."""
    rng = np.random.default_rng(1)
    gaps = np.array([0.1, -0.1, 0.05])
    noise = rng.normal(0, 0.005, (20_000, 3))
    half = 1.96 * 0.005 * math.sqrt(3)
    assert gap_interval(gaps, gaps + noise, 0.95) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-3)


def test_groups_are_read():
    sampling = Sampling.of(["b", "a", None, "b", float("nan")])
    assert sampling.count == 4 and not sampling.independent
    assert sampling.codes[0] == sampling.codes[3] != sampling.codes[1]
    assert len({sampling.codes[2], sampling.codes[4], sampling.codes[0], sampling.codes[1]}) == 4
    assert Sampling.of(None, 7).independent
    kept = sampling.keep(np.array([0, 3]))
    assert (kept.count, len(kept.codes)) == (1, 2)


def test_missing_groups_of_any_kind_are_apart():
    column = pd.array(["a", None, "a", None], dtype="string")
    assert Sampling.of(column).codes.tolist() == [0, 1, 0, 2]
    assert Sampling.of(np.array([1.0, np.nan, 1.0, np.nan])).codes.tolist() == [0, 1, 0, 2]
    assert Sampling.of(pd.Series(["p", "q", "p"], index=[5, 6, 7])).codes.tolist() == [0, 1, 0]


def test_a_bundle_can_score_without_heavy_imports():
    """Cold `predict` calibrates and scores features: no pandas, no scikit-learn, no torch."""
    heavy = ("pandas", "sklearn", "torch", "fastai", "scipy.stats", "scipy.optimize")
    code = (
        "import sys, medclf.metrics.calibration, medclf.metrics.ood, medclf.metrics.thresholds\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_kish_and_units_by_hand():
    sampling = Sampling.of("aaaab")  # sizes 4 and 1
    assert sampling.groups() == pytest.approx(25 / 17)
    assert sampling.units() == pytest.approx(5 / (1 + (17 / 5 - 1) * 0.3))
    assert sampling.groups(np.array([True, True, False, False, False])) == 1
    assert sampling.groups(np.zeros(5, dtype=bool)) == sampling.units(np.zeros(5, dtype=bool)) == 0
    assert Sampling.of(None, 8).units() == 8
    rare = np.arange(1000) < 5
    assert Sampling.of(None, 1000).units(rare, ~rare) == pytest.approx(4 / (1 / 5 + 1 / 995))
    half = np.arange(1000) < 500
    assert Sampling.of(None, 1000).units(half, ~half) == pytest.approx(1000)
    assert Sampling.of(None, 1000).units(*[half] * 9) == 1000  # never more than there are


def test_satterthwaite_by_hand():
    sampling, masks = Sampling.of(None, 30), [np.arange(30) < 10, np.arange(30) >= 10]
    wanted = (1 / 10 + 1 / 20) ** 2 / (1 / (100 * 9) + 1 / (400 * 19))
    assert sampling.freedom(*masks) == pytest.approx(wanted)
    equal = [np.arange(30) < 15, np.arange(30) >= 15]
    assert sampling.freedom(*equal) == pytest.approx(28)  # Student's own for two equal samples


def test_resamples_draw_whole_patients():
    codes = np.repeat(np.arange(20), 3)
    sampling = Sampling.of(codes)
    weights = sampling.resample(lambda drawn: drawn, n_boot=200, seed=1)
    assert weights.shape == (200, 60)
    first, second, third = (weights[:, start::3] for start in range(3))
    assert (first == second).all() and (second == third).all()
    assert (first.sum(axis=1) == 20).all()
    assert first.mean() == 1.0 and 0.85 < first.var() < 1.05  # multinomial: 1 - 1/20


def test_bootstrap_variance_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(0).exponential(size=80)
    sampling = Sampling.of(None, 80)
    draws = sampling.resample(lambda w: (w @ values / w.sum(axis=1))[:, None], n_boot=20_000)
    assert sampling.variance(draws)[0] == pytest.approx(values.var(ddof=1) / 80, rel=0.03)


def test_undefined_resamples_are_passed_over():
    draws = np.array([[1.0, np.nan], [3.0, np.nan]])
    found = Sampling.of(None, 100).variance(draws)
    assert found[0] == pytest.approx(100 / 99) and math.isnan(found[1])


def test_blocks_do_not_change_the_shape_nor_the_seed(monkeypatch):
    sampling = Sampling.of(None, 50)
    whole = sampling.resample(lambda w: w, n_boot=37, seed=3)
    monkeypatch.setattr("medclf.metrics.intervals.BLOCK", 200)
    assert (sampling.resample(lambda w: w, n_boot=37, seed=3) == whole).all()


def test_design_effect_of_a_proportion_by_hand():
    # 4 patients of 5 images with 5, 5, 3, 1 right: p = 0.7, residuals 1.5, 1.5, -0.5, -2.5
    right = np.concatenate([np.arange(5) < k for k in (5, 5, 3, 1)])
    sampling, everything = Sampling.of(np.repeat(np.arange(4), 5)), np.ones(20, dtype=bool)
    variance = (1.5**2 + 1.5**2 + 0.5**2 + 2.5**2) / 20**2 * 4 / 3
    found = proportion(right, everything, sampling)
    wanted = bounded_interval(0.7, variance, units=20 / (1 + 4 * 0.3), freedom=3, at_most=20)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, *wanted))
    assert found.high - found.low > 2 * (wilson(14, 20)[1] - wilson(14, 20)[0]) * 0.7


@CALM
@given(st.floats(0.02, 0.5), st.floats(0, 1), st.sampled_from([0.9, 0.95]))
def test_planned_size_is_the_least_that_suffices(width, expected, level):
    n = plan_size(width, expected, level)

    def found(size):
        low, high = proportion_confint(expected * size, size, 1 - level, "wilson")
        return high - low

    assert found(n) <= width + 1e-9
    assert n == 1 or found(n - 1) > width - 1e-9


def test_planned_size_with_patients():
    assert plan_size(0.1, 0.8, design_effect=2.2) == math.ceil(2.2 * plan_size(0.1, 0.8))
    for wrong in (
        {"wished_width": 0},
        {"wished_width": 0.1, "expected": 2},
        {"wished_width": 0.1, "design_effect": 0.5},
    ):
        with pytest.raises(DataError, match="no size"):
            plan_size(**wrong)


def test_estimates_as_words_and_json():
    assert str(Estimate(0.5, math.nan, math.nan, 3, "why")) == "0.500 (no interval), n = 3"
    assert str(undefined(0, "why")) == "undefined (why), n = 0"
    nested = {"a": [Estimate(0.5, 0.25, 0.75, 8)], "b": np.array([1.0, np.nan]), "c": np.int64(3)}
    assert as_plain(nested) == {"a": [{"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}], "b": [1.0, None], "c": 3}


@pytest.fixture(scope="module")
def coverage():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["100 images, near perfect", "70 patients, uneven, good"])
def test_intervals_hold_the_truth(coverage, name):
    """A small slice of benchmarks/coverage.py; 200 sets tell 0.95 from 0.90, not from 0.93."""
    scenario = next(s for s in coverage.SCENARIOS if s.name == name)
    held = coverage.cover(scenario, sets=200, n_boot=200, paired=False)
    shares = [held[metric.format(scenario.vocab[-1])] for metric in coverage.COLUMNS]
    assert min(shares) >= 0.91
    assert 0.93 <= np.mean(shares) <= 0.98
