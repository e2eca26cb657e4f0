"""The solver, against scikit-learn's on the same objective."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medclf.models.logistic import fit_path, principal_axes


def drawn(n, f, k, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, f)) * 0.3
    y = np.arange(n) % k
    mixed = rng.normal(size=(n, f)) @ (rng.normal(size=(f, f)) / np.sqrt(f))  # correlated features
    return (mixed + centres[y]).astype(np.float64), y


@pytest.mark.parametrize(("n", "f", "k"), [(300, 20, 2), (300, 20, 5), (60, 100, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_path_is_scikit_learns(n, f, k, weighted):
    x, y = drawn(n, f, k)
    weights = np.where(y == 0, 3.0, 1.0) if weighted else None
    axes = principal_axes(x)
    strengths = [1e-3, 1e-2, 1.0]
    path = fit_path(x @ axes.T, y, k, strengths, weights=weights, tolerance=1e-12)
    for strength, found in zip(strengths, path, strict=True):
        peer = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x, y, sample_weight=weights)
        np.testing.assert_allclose(found.weight @ axes, peer.coef_, atol=2e-4)
        np.testing.assert_allclose(found.probs(x @ axes.T), peer.predict_proba(x), atol=2e-4)


def test_single_precision_is_enough_for_probabilities():
    x, y = drawn(400, 64, 4)
    axes = principal_axes(x.astype(np.float32))
    (found,) = fit_path(x.astype(np.float32) @ axes.T, y, 4, [0.1])
    peer = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(found.probs(x.astype(np.float32) @ axes.T), peer.predict_proba(x), atol=3e-3)


def test_axes_are_orthonormal_and_uncorrelated():
    x, _ = drawn(50, 80, 2)
    axes = principal_axes(x)
    assert axes.shape == (50, 80)
    np.testing.assert_allclose(axes @ axes.T, np.eye(50), atol=1e-8)
    gram = (x @ axes.T).T @ (x @ axes.T)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6)
    np.testing.assert_allclose(x @ axes.T @ axes, x, atol=1e-8)
