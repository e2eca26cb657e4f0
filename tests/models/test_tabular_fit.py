import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medclf.models import tabular_fit
from medclf.models.table_fusion import settled
from medclf.models.tabular import TableEncoder
from medclf.models.tabular_fit import STRENGTHS, fit_fusion


def test_fusion_is_a_logistic_regression_of_both(drawn):
    """Of two classes: the log odds of the image, scaled, are one more column, and only the columns are penalised."""
    y, logits, rows = drawn
    encoder, _ = TableEncoder.fit(rows)
    found = fit_fusion(logits, encoder, rows, y)
    table = encoder.encode(rows)
    free = 1e4  # so large a column needs so small a weight that its penalty is nothing
    x = np.concatenate([free * np.diff(settled(logits, False), axis=1), table / np.sqrt(2)], axis=1)
    given = np.diff(found.fusion.logits(logits, rows), axis=1)[:, 0]
    scores = [LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(x, y) for c in STRENGTHS]
    # two rows of weights, w / 2 and -w / 2, have half the penalty of one row w, and so have their columns
    assert max(np.corrcoef(given, model.decision_function(x))[0, 1] for model in scores) > 0.9999
    held = {"image": found.held_out.image, "table": found.held_out.table, "both": found.held_out.both}
    right = {name: ((probs[:, 1] > 0.5) == y).mean() for name, probs in held.items()}
    assert right["both"] > max(right["image"], right["table"])
    assert set(found.held_out.columns) == {"hint", "noise"}


@pytest.mark.parametrize("many", [False, True])
def test_the_gradient_of_the_fit_is_that_of_its_loss(many):
    """At its end no nearby weights do better."""
    rng = np.random.default_rng(0)
    image, x = rng.normal(size=(80, 3)), rng.normal(size=(80, 2))
    truth = rng.integers(0, 2, (80, 3)) if many else np.eye(3)[rng.integers(0, 3, 80)]
    found = tabular_fit._offset(image, x, truth, 0.3, many)

    def value(scale, weight, bias):
        probs = tabular_fit._Offset(scale, weight, bias).probs(image, x, many).clip(1e-12, 1 - 1e-12)
        loss = -(truth * np.log(probs) + many * (1 - truth) * np.log(1 - probs)).sum()
        return 0.3 * loss + (weight**2).sum() / 2 + (bias**2).sum() / 2

    least = value(*found)
    for _ in range(50):
        step = 0.01 * rng.normal(size=3) if many else np.full(3, 0.01 * rng.normal())
        weight, bias = (one + 0.01 * rng.normal(size=one.shape) for one in found[1:])
        assert value(found.scale + step, weight, bias) > least - 1e-6


def test_noise_does_not_move_what_the_image_says(drawn):
    y, logits, rows = drawn
    encoder, _ = TableEncoder.fit({"noise": rows["noise"]})
    found = fit_fusion(logits, encoder, rows, y)
    moved = np.diff(found.fusion.logits(logits, rows), axis=1) - np.diff(found.fusion.logits(logits, {}), axis=1)
    assert np.abs(moved).mean() < 0.15
