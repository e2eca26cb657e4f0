"""The parts of the page: which pictures are kept, how rows are read, what plots draw."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medclf import plots
from medclf.errors import DataError
from medclf.reporting.cases import read_cases, subgroup_columns
from medclf.reporting.charts import Line, line_chart, ticks
from medclf.reporting.formatting import cautions
from medclf.reporting.tables import blocks
from medclf.reporting.thumbnails import choose, encode
from medclf.results.names import Names
from medclf.results.wording import summary

matplotlib.use("agg")
VOCAB = ["a", "b", "c"]


def cases_of(labels: list[int], preds: list[int], confidence: list[float], partitions: list[str]) -> Any:
    n = len(labels)
    probs = np.full((n, 3), 0.0)
    for row in range(n):
        probs[row] = (1 - confidence[row]) / 2
        probs[row, preds[row]] = confidence[row]
    table = {
        "path": [f"{i}.png" for i in range(n)],
        "partition": partitions,
        "label": [VOCAB[i] for i in labels],
        "pred": [VOCAB[i] for i in preds],
        **{f"prob_{name}": probs[:, c] for c, name in enumerate(VOCAB)},
    }
    return read_cases(pd.DataFrame(table), VOCAB, multi_label=False, partition="valid")


row = st.tuples(
    st.integers(0, 2), st.integers(0, 2), st.floats(0.34, 1, allow_nan=False), st.sampled_from(["train", "valid"])
)


@settings(deadline=None, max_examples=60)
@given(st.lists(row, min_size=1, max_size=60), st.integers(0, 70))
def test_the_choice_keeps_errors_and_every_stratum(drawn: list[Any], limit: int) -> None:
    labels, preds, confidence, partitions = (list(column) for column in zip(*drawn, strict=True))
    cases = cases_of(labels, preds, confidence, partitions)
    chosen = choose(cases, limit)
    wrong = [i for i in range(len(drawn)) if labels[i] != preds[i]]
    assert len(chosen) == len(set(chosen)) == min(len(drawn), max(limit, len(wrong)))
    assert set(chosen[: len(wrong)]) == set(wrong)
    right = set(range(len(drawn))) - set(wrong)
    strata = {(partitions[i], labels[i]) for i in right}
    if len(chosen) - len(wrong) >= len(strata):
        assert {(partitions[i], labels[i]) for i in chosen if i in right} == strata
    assert choose(cases, limit) == chosen


def test_the_sample_is_in_proportion_and_spans_confidence() -> None:
    confidence = np.linspace(0.4, 0.99, 300).tolist()
    labels = [0] * 200 + [1] * 80 + [2] * 20
    cases = cases_of(labels, labels, confidence, ["valid"] * 300)
    chosen = np.array(choose(cases, 60))
    counts = np.bincount(np.array(labels)[chosen])
    assert counts.tolist() == pytest.approx([40, 16, 4], abs=1)
    assert {0, 199, 200, 279, 280, 299} <= set(chosen.tolist())  # the least and most confident of each


def test_a_jpeg_holds_pixels_and_nothing_else() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (128, 1))
    for pixels in (ramp, np.stack([ramp] * 3, axis=-1), ramp.astype(np.uint16) * 257, ramp[..., None]):
        image = Image.open(io.BytesIO(encode(pixels, 64)))
        assert image.size == (64, 32) and not image.getexif() and "comment" not in image.info
        assert np.abs(np.asarray(image.convert("L"))[16].astype(int) - np.arange(1.5, 256, 4)).max() < 6


def test_multi_label_rows_are_read_from_tuples_and_text() -> None:
    table = pd.DataFrame(
        {
            "path": list("wxyz"),
            "label": [("a", "b"), "a|b", "", None],
            "pred": ["a", ("b",), "", ()],
            **{f"prob_{name}": [0.7, 0.2, 0.1, 0.4] for name in VOCAB},
        }
    )
    cases = read_cases(table, VOCAB, multi_label=True, partition="test")
    assert cases.actual.tolist() == [[True, True, False]] * 2 + [[False] * 3] * 2
    assert cases.known.tolist() == [True, True, True, False]
    assert cases.wrong.tolist() == [True, True, False, False]
    assert cases.confidence.tolist() == pytest.approx([0.3, 0.2, 0.9, 0.6])  # of the least certain label
    assert (cases.name(0), cases.name(2), cases.name(3)) == ("a, b", "none", "unknown")


def test_only_columns_to_group_by_go_into_the_page() -> None:
    n = 100
    table = pd.DataFrame(
        {
            "sex": ["f", "m"] * 50,
            "age": range(n),
            "one": "x",
            "patient_name": [f"Jane Doe {i}" for i in range(n)],
            "follow_up_id": [i % 3 for i in range(n)],
            "sha256": "0",
            "box": [(0, 1)] * n,
        }
    )
    found = subgroup_columns(table)
    assert list(found) == ["sex", "age"]
    values, codes = found["age"]
    assert len(values) == 4 and np.bincount(codes).tolist() == [25] * 4
    assert (np.diff(codes) >= 0).all()


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.13, 0.97), (0, 9), (3e-5, 8e-5), (-1, 1), (0, 123456), (0.5, 0.5), (1e6, 1e6 + 1)]
)
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 12 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[0]) if len(steps) else True


def test_a_chart_puts_points_where_they_belong() -> None:
    chart = line_chart([Line("<b>", [(0, 0), (1, 1)])], title="<t>", x_label="<x>", y_label="<y>")
    path = re.search(r'class="line c0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', chart.svg)
    assert path is not None
    x0, y0, x1, y1 = map(float, path.groups())
    assert (x0, y0, x1, y1) == (52, 256, 426, 12)  # the corners inside the margins
    assert "<t>" not in chart.svg and "&lt;x&gt;" in chart.svg


def test_the_summary_is_honest() -> None:
    ten = {"value": 1.0, "low": 0.722, "high": 1.0, "n": 10}
    facts = {"task": "single-label", "partition": "test", "n": 10, "n_patients": 4, "accuracy": ten}
    assert summary(facts) == (
        "10 of 10 test images of 4 patients were classified correctly: accuracy 100 % (95 % CI 72 to 100 %)."
    )
    assert summary({"task": "single-label", "n": 0}) == "0 images were predicted."
    facts["data"] = {"split": {"sentence": "3 of 4 patients are in both training and validation set."}}
    assert "3 of 4 patients are in both training and validation set." in cautions(facts)
    assert not any("optimistic" in text for text in cautions(facts))
    assert any("optimistic" in text for text in cautions({"partition": "valid"}))


def test_facts_of_any_shape_become_tables() -> None:
    value = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    shapes = [
        blocks({"sex": {"f": {"n": 1, "ppv": value}, "m": {"n": 2}}}),
        blocks([[1, 2], [3, 4]]),
        blocks("x"),
        blocks([]),
    ]
    assert [block.kind for block in shapes[0]] == ["heading", "table"]
    assert [[cell.text for cell in line] for line in shapes[0][1].rows] == [["f", "1", "50.0 %"], ["m", "2", ""]]
    assert [[cell.text for cell in line] for line in shapes[1][0].rows] == [["1", "2"], ["3", "4"]]
    assert shapes[2][0].text == "x"
    assert blocks({"deep": {"deeper": {"deepest": {"n": 3}}}})[-1].rows[0][1].text == "3"
    long = blocks([{"i": i} for i in range(500)])[0]
    assert len(long.rows) == 200 and long.text == "300 more in results.json"


def test_names_are_kept_unless_hidden() -> None:
    facts = {"data": {"root": "/srv/x"}, "n": 1}
    assert Names(["a.png"], hide=False).scrub(facts) is facts
    assert Names(["a.png"], hide=True).scrub(facts) == {"data": {"root": "(hidden)"}, "n": 1}


def test_plots_draw_on_the_axes_given() -> None:
    figure, ax = plots.plt.subplots()
    assert plots.plot_confusion_matrix([[3, 1], [0, 0]], ["$a$", "b"], normalize=True, ax=ax) is ax
    assert [text.get_text() for text in ax.texts] == ["0.75", "0.25", "0.00", "0.00"]
    figure.canvas.draw()  # a label between dollars is no formula
    flat = plots.plot_images([np.zeros((4, 4), np.uint16), None], ["x", "$y$ $"], n_cols=2, right=[True, False])
    assert len(flat) == 2
    flat[0].figure.canvas.draw()
    with pytest.raises(DataError, match="2 labels"):
        plots.plot_confusion_matrix(np.eye(3), VOCAB[:2])
    with pytest.raises(DataError, match="3 pictures need 3 Axes"):
        plots.plot_images([None] * 3, axes=flat)
    plots.plt.close("all")


def test_the_roc_plot_is_scikit_learns(made_up: Any) -> None:
    from sklearn.metrics import roc_auc_score

    y = made_up.rows["label"].map(made_up.vocab.index).to_numpy()
    probs = made_up.rows[[f"prob_{v}" for v in made_up.vocab]].to_numpy()
    ax = plots.plot_roc(y=y, probs=probs, vocab=made_up.vocab)
    for line, column in zip(ax.lines[1:], range(3), strict=True):
        x, height = line.get_xdata(), line.get_ydata()
        area = float(np.sum(np.diff(x) * (height[1:] + height[:-1]) / 2))
        assert area == pytest.approx(roc_auc_score(y == column, probs[:, column]))
    with pytest.raises(DataError, match="needs the curves"):
        plots.plot_roc()
    plots.plt.close("all")


def test_the_training_plot_has_losses_and_metrics(made_up: Any) -> None:
    ax = plots.plot_training(made_up.facts["training"]["history"])
    (right,) = [other for other in ax.figure.axes if other is not ax]
    assert [list(line.get_ydata()) for line in right.lines] == [[0.6, 0.7, 0.8]]
    assert list(ax.lines[0].get_ydata()) == [1.0, 0.5, pytest.approx(1 / 3)]
    plots.plt.close("all")


def test_a_rare_label_is_told_to_widen_the_means() -> None:
    facts = {"per_class": {"polyp": {"n": 300}, "ulcer": {"n": 4}}}
    assert any("'ulcer' has only 4 images" in text for text in cautions(facts))
    facts["per_class"]["ulcer"]["n"] = 10
    assert not any("has only" in text for text in cautions(facts))
