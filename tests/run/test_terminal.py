"""What the terminal shows of a run: nothing cut, the test set too, and no label taken for markup."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from medclf.auditing.decisions import decision_section
from medclf.files import finite
from medclf.metrics.intervals import as_plain
from medclf.metrics.thresholds import OperatingPoint
from medclf.reporting.checks import checks
from medclf.reporting.formatting import cautions
from medclf.results.predictions import Predictions
from medclf.results.results import summarize
from medclf.run.terminal import _per_class, matrix_table, show_results

ALIKE = [f"tissue-of-the-left-{side}-lobe" for side in ("upper", "middle", "lower", "hindmost", "foremost")]


def drawn(matrix, vocab, width):
    console = Console(width=width, markup=False)
    with console.capture() as got:
        console.print(matrix_table(matrix, vocab, console))
    return got.get()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_label_of_the_matrix_is_cut(width):
    matrix = np.arange(25).reshape(5, 5).tolist()
    text = drawn(matrix, ALIKE, width)
    assert "…" not in text
    for number, (label, row) in enumerate(zip(ALIKE, matrix, strict=True), 1):
        (line,) = [line for line in text.splitlines() if line.split()[:2][0 if width == 200 else 1] == label]
        assert [int(word) for word in line.split() if word.isdigit()] == ([] if width == 200 else [number]) + row


def test_kvasir_s_eight_names_are_whole_at_80_columns():
    names = "dyed-lifted-polyps dyed-resection-margins esophagitis normal-cecum normal-pylorus normal-z-line polyps"
    vocab = [*names.split(), "ulcerative-colitis"]
    lines = drawn((1000 * np.eye(8, dtype=int)).tolist(), vocab, 80).splitlines()
    assert len(lines) == 9 and all(len(line) <= 80 for line in lines)
    assert [line.split()[1] for line in lines[1:]] == vocab and all("1000" in line for line in lines[1:])


def test_a_matrix_without_room_says_where_it_is():
    text = drawn(np.eye(60, dtype=int).tolist(), [f"class {k}" for k in range(60)], 80)
    assert "60 labels" in text and "report.html" in text and len(text.splitlines()) == 1


def test_of_many_labels_the_worst_are_shown_one_by_one(tmp_path, capsys):
    vocab, right = [f"class {k}" for k in range(60)], np.arange(60) >= 35
    y = np.repeat(np.arange(60), 2)
    said = np.where(np.repeat(right, 2), y, (y + 1) % 60)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(120)], "partition": "valid"})
    shown = Predictions(vocab, False, y, np.eye(60)[said], np.zeros(120), table)
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(summarize(shown, n_boot=2)))))
    show_results(tmp_path)
    text = capsys.readouterr().out
    rows = [line.split()[1] for line in text.splitlines() if re.match(r"class \d+ ", line)]
    assert len(rows) == 40 and set(map(str, range(35))) < set(rows) and rows == sorted(rows, key=int)
    assert "20 more labels, none of a lower F1" in text


def test_no_digit_of_the_table_by_class_is_cut_on_a_narrow_terminal():
    shown = predictions(12, "valid", ["dyed-lifted-polyps", "normal"])
    console = Console(width=40, markup=False)
    with console.capture() as got:
        console.print(_per_class(summarize(shown, n_boot=2)))
    assert "…" not in got.get() and got.get().replace(" ", "").count("00") >= 2 * 6


def predictions(n, partition, vocab):
    y = np.arange(n) % 2
    probs = np.where(y[:, None] == np.arange(2), 0.9, 0.1)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "partition": partition})
    return Predictions(vocab, False, y, probs, np.zeros(n), table)


def test_an_external_score_is_the_run_s_own_kind_and_says_what_leaks(tmp_path, capsys):
    facts = summarize(predictions(10, "valid", ["a", "b"]), n_boot=2)
    row = {"images": "clinic", "n": 10, "accuracy": facts["accuracy"], "auroc": facts["auroc"]}
    facts["external"] = [row | {"leak_free": "4 of the 10 test images are near-duplicates of training images."}]
    for task, key in (("single-label", "accuracy"), ("multi-label", "AUROC")):
        (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts | {"task": task}))))
        show_results(tmp_path)
        text = capsys.readouterr().out
        assert f"external, clinic: {key} 1.000" in text and "4 of the 10 test images are near-duplicates" in text


def test_the_test_set_is_shown_beside_the_validation_set(tmp_path, capsys):
    vocab = ["[red]plain", "other"]
    facts = summarize(predictions(10, "valid", vocab), n_boot=2)
    facts["test"] = summarize(predictions(14, "test", vocab), partition="test", n_boot=2)
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    show_results(tmp_path)
    text = capsys.readouterr().out
    assert re.search(r"10 validation images.*14 test images.*accuracy: 1\.000", text, re.S)
    assert "[red]plain" in text


def with_leaks(partition):
    """Results of 10 validation and 14 test images, two of one of them seen in training."""
    vocab = ["plain", "other"]
    facts = summarize(predictions(10, "valid", vocab), n_boot=2)
    facts["test"] = summarize(predictions(14, "test", vocab), partition="test", n_boot=2)
    part = facts["test"] if partition == "test" else facts
    n = part["n"]
    left = {"n": n - 2, "accuracy": {"value": 0.75, "low": 0.4, "high": 0.9, "n": n - 2}}
    numbers = {"all": {"n": n, "accuracy": part["accuracy"]}, "left": left}
    part["leak_free"] = {"sentence": f"2 of {n} images leak.", "n": n, "n_leaking": 2, "numbers": numbers}
    return facts


def test_a_run_ends_in_eight_lines_with_the_score_to_believe_first(tmp_path, capsys):
    facts, tmp_path = with_leaks("valid"), tmp_path / "my run"
    tmp_path.mkdir()
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    (tmp_path / "report.html").touch()
    (tmp_path / "bundle").mkdir()
    show_results(tmp_path)
    lines = capsys.readouterr().out.rstrip().split("\n\n")[-1].splitlines()
    assert len(lines) <= 8
    assert lines[1].startswith("Accuracy without leaked images: 75 %") and "test set: 100 %" in lines[3]
    assert any(line.startswith("checks: leaks FAIL, ") for line in lines)
    assert any((tmp_path / "report.html").as_uri() in line for line in lines)
    assert lines[-1].endswith(f"medclf predict '{tmp_path}' IMAGES, or medclf serve '{tmp_path}'")


def test_a_test_set_that_leaks_is_scored_without_what_leaks(tmp_path, capsys):
    facts = with_leaks("test")
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    show_results(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "  2 of 14 images leak." in lines
    (score,) = [line for line in lines if line.startswith("Accuracy on the test set")]
    assert "without leaked images: 75 %" in score and score.endswith("12 of 14 test images")
    leaks = next(check.sentence for check in checks(facts) if check.name == "Leaks")
    assert leaks == "2 of 14 test images (14.3 %) are near-duplicates of training images."


def test_intervals_from_a_part_of_the_images_are_called_so(tmp_path, capsys, monkeypatch):
    said = "There are 14 images: intervals are resampled from a part"
    for large in (14, 13):
        monkeypatch.setattr("medclf.metrics.thinning.LARGE", large)
        monkeypatch.setattr("medclf.results.results.LARGE", large)
        facts = summarize(predictions(14, "valid", ["plain", "other"]), n_boot=2)
        (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
        show_results(tmp_path)
        assert (said in capsys.readouterr().out) == (large == 13)
        assert any(said in text for text in cautions(facts)) == (large == 13)


def test_before_the_end_stands_what_speaks_against_the_score_and_the_page_has_the_rest(tmp_path, capsys):
    facts = with_leaks("valid")
    findings = [{"finding": f"finding {number}"} for number in range(7)]
    facts |= {"audit": {"sentences": findings, "clues": []}, "calibration": {"sentence": "Of the temperature."}}
    facts["baseline"] = {"label": "plain", "accuracy": 0.5, "brier": {"model": 0.1, "frequencies": 0.2}}
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    show_results(tmp_path)
    text = capsys.readouterr().out
    against = {check.name: check.sentence for check in checks(facts) if check.state != "pass"}
    assert "Leaks" in against and all(f"{name.lower()} " in text and said in text for name, said in against.items())
    assert "The audit has 7 findings" in text and "results.json" in text
    assert "right in 50.0 % of these images" in text
    assert not any(word in text for word in ("finding 1", "temperature", "Brier"))
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize("several", [True, False])
def test_what_a_prevalence_makes_of_ppv_and_npv_is_shown_however_few_the_images(tmp_path, capsys, several):
    shown = predictions(14, "valid", ["plain", "polyp"])
    facts = summarize(shown, n_boot=2)
    point = decision_section(shown.y, shown.probs[:, 1], "polyp", OperatingPoint(0.5), None, prevalence=0.05)
    facts["operating_point"] = {"plain": {"label": "plain"}, "polyp": point} if several else point
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    show_results(tmp_path)
    assert re.search(r"polyp at a prevalence of 0\.05: PPV 1\.000 \(.*NPV 1\.000 \(", capsys.readouterr().out)


def test_labels_that_a_mean_leaves_out_are_said_once(tmp_path, capsys):
    y = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    probs = np.where(y == 1, 0.9, 0.1) * [1, 0.4, 1]  # the second label is predicted of no image
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(4)], "partition": "valid"})
    facts = summarize(Predictions(["a", "b", "c"], True, y, probs, np.zeros(4), table), n_boot=2)
    (tmp_path / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    show_results(tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "not scored" in line]
    assert [line.split(":")[0].strip() for line in lines] == ["balanced accuracy", "MCC"]
    assert lines[0].endswith("; 'c' not scored: no image has it, or every image has it")
    assert lines[1].endswith("; 'b', 'c' not scored: no image, or every image, has or was given them")
