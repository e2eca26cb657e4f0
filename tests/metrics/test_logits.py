import numpy as np
import pytest
from scipy import special

from medclf.metrics.logits import to_logits, to_probs


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_are_scipys_at_any_size_and_come_back(multi_label):
    logits = np.random.default_rng(0).normal(size=(50, 4)) * np.logspace(-2, 2, 50)[:, None]
    wanted = special.expit(logits) if multi_label else special.softmax(logits, axis=1)
    probs = to_probs(logits, multi_label=multi_label)
    np.testing.assert_allclose(probs, wanted, atol=1e-12)
    np.testing.assert_allclose(
        to_probs(to_logits(probs, multi_label=multi_label), multi_label=multi_label), probs, atol=1e-6
    )
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert to_probs(np.array([[1e6, -1e6]]), multi_label=multi_label).tolist() == [[1.0, 0.0]]
