"""The five questions that a reader of results.json asks first, each answered pass, warn or fail in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medclf.files import is_number
from medclf.results.shortcut_words import NO_CONTROL, depends, summary
from medclf.results.wording import (
    FEW_IMAGES,
    WEAK_JUDGE,
    as_sentence,
    confidence_gap,
    counted,
    is_metric,
    number,
    partition_name,
    percent,
    score_key,
    without_leaks,
)

State = Literal["pass", "warn", "fail"]
LEAKING = 0.05  # share of leaking images from which on the score is not to be believed
VERY_FEW = 5  # images of a class
WIDE = 0.1, 0.25  # widths of the score's interval: warn, fail
DOUBTFUL = 0.02, 0.1  # shares of doubtful labels
_TWINS = " are near-duplicates of training images."
_APART = " The split 'grouped' keeps them together."
GAPS = 0.05, 0.1  # average gaps between confidence and accuracy


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Args:
        name: what was asked.
        state: pass, warn or fail; what was not measured is no pass.
        sentence: what was found.
        link: the id of the page's part that says more.
    """

    name: str
    state: State
    sentence: str
    link: str


def checks(results: Mapping[str, Any]) -> list[Check]:
    """Leaks, sample size, labels, shortcuts and calibration, in this order.

    Example:
        >>> found = checks({"n": 40, "partition": "valid", "leak_free": {"n": 40, "n_leaking": 4}})
        >>> found[0].state, found[0].sentence
        ('fail', '4 of 40 validation images (10.0 %) are near-duplicates of training images.')
        >>> [check.state for check in found[2:]]
        ['warn', 'warn', 'warn']
    """
    return [one(results) for one in (_leaks, _size, _labels, _shortcuts, _calibration)]


def _graded(value: float, limits: tuple[float, float]) -> State:
    return "pass" if value <= limits[0] else "warn" if value <= limits[1] else "fail"


def _leaks(results: Mapping[str, Any]) -> Check:
    audit, partition = results.get("audit"), partition_name(results.get("partition")) or "reported"
    found = []
    for part, name, link in ((results, partition, "leak_free"), (results.get("test") or {}, "test", "test")):
        leak = part.get("leak_free") or {}
        if leak.get("n_leaking"):
            found.append((leak["n_leaking"], leak["n"], name, f"section-{link}"))
    if found:
        text = " and ".join(
            f"{number(n)} of {number(total)} {name} {counted(results)} ({percent(n / total)})"
            for n, total, name, _ in found
        )
        state: State = "fail" if any(n / total > LEAKING for n, total, *_ in found) else "warn"
        by_patient = any(part.get("n_patients") for part in (results, results.get("test") or {}))
        grouped = any((part.get("leak_free") or {}).get("n_grouped") for part in (results, results.get("test") or {}))
        by = "patient or group" if by_patient and grouped else "group" if grouped else "patient"
        text += f" were also seen in training: as a near-duplicate or by {by}." if by_patient or grouped else _TWINS
        kind = ((results.get("data") or {}).get("split") or {}).get("kind")
        mendable = found[0][2] == "validation" and kind in {"random", "stratified", "patient"}
        text += _APART if mendable and results.get("n_patients") != 1 else ""
        return Check("Leaks", state, text, found[0][-1])
    data = (results.get("data") or {}).get("split") or {}
    if data.get("patients_on_both_sides"):
        n = data["patients_on_both_sides"]
        return Check("Leaks", "fail", f"{number(n)} patients are in both training and {partition} set.", "data-section")
    if data.get("test_patients_elsewhere"):
        text = f"{number(data['test_patients_elsewhere'])} patients of the test set also have images outside it."
        return Check("Leaks", "warn", text, "data-section")
    if not audit:
        return Check("Leaks", "warn", "Near-duplicates across the split were not looked for.", "data-section")
    if not results.get("n_patients"):
        text = "No near-duplicates across the split. Without patient IDs, a patient may be on both sides."
        return Check("Leaks", "warn", text, "section-audit")
    return Check("Leaks", "pass", f"No {partition} image was seen in training.", "section-audit")


def _size(results: Mapping[str, Any]) -> Check:
    classes = {label: row["n"] for label, row in (results.get("per_class") or {}).items() if is_number(row.get("n"))}
    label = min(classes, key=lambda one: classes[one], default="")
    few = classes.get(label, FEW_IMAGES)
    clean = without_leaks(results)  # the score that the page and the terminal tell first
    score = (clean or results).get(score_key(results)) or {}
    has_ends = is_number(score.get("low")) and is_number(score.get("high"))
    wide = score["high"] - score["low"] if has_ends else 0.0
    state: State = _graded(wide, WIDE) if has_ends or not score else "warn"
    state = "fail" if few < VERY_FEW else "warn" if few < FEW_IMAGES and state == "pass" else state
    text = f"{number(results.get('n', 0))} {counted(results, results.get('n', 0))}"
    text += f", {number(few)} of the rarest class '{label}'" if label else ""
    text += f"; {number(clean['n'])} without leaked images" if "n" in clean else ""
    text += f"; the score's interval is {100 * wide:.0f} points wide" if wide else ""
    text += "; the score has no interval" if score and not has_ends else ""
    return Check("Sample size", state, f"{text}.", "numbers-section")


def _labels(results: Mapping[str, Any]) -> Check:
    found = results.get("label_errors") or {}
    untold, vocab = found.get("labels_not_judged") or [], results.get("vocab") or []
    if untold and len(untold) == len(vocab):
        return Check("Labels", "warn", "The labels were not checked: the model hardly tells any of them.", "labels")
    if not found.get("n_judged"):
        return Check("Labels", "warn", "The labels were not checked.", "labels")
    n, total = found.get("n_doubtful", 0) + found.get("n_conflicts", 0), found["n_judged"]
    text = f"{number(n) if n else 'None'} of {number(total)} labels {'is' if n < 2 else 'are'} doubtful."
    text += f" {number(found['n_unjudged'])} were not judged." if found.get("n_unjudged") else ""
    text += f" {len(untold)} of the {len(vocab)} classes were not judged." if untold else ""
    state, agrees = _graded(n / total, DOUBTFUL), found.get("judge_agrees", 1.0)
    if state in ("warn", "fail") and agrees < WEAK_JUDGE:
        state, text = "warn", f"{text} What judged them agrees with {percent(agrees, 0)} of all labels."
    return Check("Labels", "warn" if untold and state == "pass" else state, text, "labels")


def _shortcuts(results: Mapping[str, Any]) -> Check:
    tested, clues = results.get("shortcuts") or {}, (results.get("audit") or {}).get("clues")
    sentences = [row["finding"] for row in tested.get("sentences") or []]
    if sentences:
        leans, untold = any(map(depends, sentences)), any(NO_CONTROL in text for text in sentences)
        state: State = "fail" if leans else "warn" if untold else "pass"
        return Check("Shortcuts", state, summary(sentences), "section-shortcuts")
    if clues is None:
        return Check("Shortcuts", "warn", "Shortcuts were not looked for.", "section-audit")
    if clues:
        text = f"{len(clues)} things beside the content predict the class. Test the model: medclf shortcuts RUN."
        text = text.replace("1 things beside the content predict", "Something beside the content predicts")
        return Check("Shortcuts", "warn", text, "section-audit")
    text = "Image size, format, borders and colour do not predict the class."
    return Check("Shortcuts", "pass", text, "section-audit")


def _calibration(results: Mapping[str, Any]) -> Check:
    section = results.get("calibration") or {}
    gaps, told = section.get("ece") or {}, str(section.get("sentence") or "")
    if not gaps and told.startswith("Not calibrated"):
        return Check("Calibration", "warn", f"{told.partition('. ')[0].removesuffix('.')}.", "section-calibration")
    found = next((gaps[when] for when in ("after", "here") if is_metric(gaps.get(when))), None)
    found = found or next((one for one in (gaps, results.get("ece")) if is_metric(one)), None)
    if found is None or not is_number(found["value"]):
        return Check(
            "Calibration", "warn", "Whether probabilities mean what they say was not measured.", "numbers-section"
        )
    place = "section-calibration" if results.get("calibration") else "numbers-section"
    state = _graded(found["value"], GAPS)
    if state == "fail" and is_number(found["low"]) and found["low"] <= GAPS[0]:
        state = "warn"  # too few images to say so
    return Check("Calibration", state, as_sentence(confidence_gap(found)), place)
