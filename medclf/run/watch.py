"""`medclf watch`: what came to the service, whether it has drifted, and what accuracy to expect on it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medclf.auditing.labelling import choose_next
from medclf.errors import DataError, MedclfWarning, OutputError, ReadError, missing
from medclf.files import write_json
from medclf.inference.sketches import FOLDER, WHEN, is_whole, measures_of, read_sketches, sketch
from medclf.metrics.drift import (
    CLASS_SHARE,
    FALSE_ALARMS,
    HORIZON,
    STEP,
    WINDOWS,
    Alarm,
    Stream,
    estimate_accuracy,
    find_drift,
    stream_of,
)
from medclf.metrics.intervals import Estimate
from medclf.metrics.prevalence import shift_in
from medclf.parallel import map_ahead
from medclf.progress import watch as bar
from medclf.reporting.charts import Line, line_chart
from medclf.reporting.plain_page import Section, check_page, write_page
from medclf.reporting.tables import Block, table
from medclf.results.calibration import OUT_OF_DISTRIBUTION, UNSURE
from medclf.results.predictions import Predictions
from medclf.results.run_folder import IMAGES
from medclf.results.wording import number, percent
from medclf.run.evaluate import fields_of
from medclf.run.run import Run
from medclf.serving.decoder_worker import facts_of

REFERENCE, PAGE = "reference.json", "watch.html"
RECENT = 200
_MOST_REFERENCE = 1000
_BS = 32
_MOST_GROUPS = 8
_MADE = 4  # raised where what the reference holds changes: an older one is made again


def watch(
    run: str | Path,
    out: str | Path | None = None,
    *,
    folder: str | Path | None = None,
    n: int = 20,
    false_alarms: float = FALSE_ALARMS,
    progress: bool = True,
) -> list[str]:
    """Look at the sketches that a service kept, and write a page of them.

    They are compared with the images that the run did not train on, which are read again once and kept as sketches.

    Args:
        run: the RUN folder that is served.
        out: the page; RUN/watch/watch.html where None.
        folder: of the sketches; RUN/watch where None.
        n: how many images to name that should be read next.
        false_alarms: probability of a false alarm within 2,000 images.
        progress: show a progress bar when it lasts.

    Returns:
        Lines to print.

    Raises:
        DataError: there are no sketches of this model, or the run's images are gone.
        OutputError: the page cannot be written.
    """
    page = Path(out or Path(run, FOLDER, PAGE))
    check_page(page)
    source = Run(run)
    place = Path(folder) if folder else source / FOLDER
    if folder and not place.is_dir():
        raise DataError(*missing(place))
    model = source.bundle.hash[:16]
    everything = read_sketches(place)
    ours = [row for row in everything if row.get("model") == model]
    rows = [row for row in ours if is_whole(row, source.bundle.vocab)]
    if not rows:
        others = f"; it has {len(everything)} of other models" if everything else ""
        raise DataError(f"{place} has no sketch of this model{others}", "serve the run first: medclf serve RUN")
    known, right, leaks, per_unit = _reference(source, progress)
    rows, unlike = _comparable(rows, known, place)
    multi_label, vocab, decide = source.bundle.multi_label, source.bundle.vocab, source.bundle.decide
    reference, stream = (stream_of(part, vocab, multi_label, decide) for part in (known, rows))
    reference = replace(reference, per_unit=per_unit)
    alarms = find_drift(reference, stream, false_alarms=false_alarms)
    recent = stream.part(slice(max(0, len(stream) - RECENT), len(stream)))
    clean = reference if leaks.all() else reference.part(~leaks)
    accuracy = estimate_accuracy(clean, right if leaks.all() else right[~leaks], recent)
    still = bool(find_drift(reference, recent, false_alarms=false_alarms))
    told = [*_said(alarms, rows, still, vocab, len(known)), _accuracy_said(accuracy, leaks)]
    if lost := len(ours) - len(rows):
        verb = "sketch is damaged and is" if lost == 1 else "sketches are damaged and are"
        told.append(f"{lost} {verb} left out.")
    told += unlike
    if alarms and (shift := shift_in(source.bundle.calibration.get("prevalence"))):
        told.append(
            f"The images compared with are the run's: where {shift} come, as the model was told, "
            "shares of classes and confidence differ from theirs without any drift."
        )
    measured = (
        f"After every {STEP} images, the last 50, 100 and 200 are compared with {number(len(known))} images that the "
        f"model was not trained on. {_dependence(per_unit)} the chance of a false alarm is at most "
        f"{percent(false_alarms, 0)} within {number(HORIZON)} images. More images of one patient than that raise it."
    )
    sections = [
        *([_differing(alarms, rows, reference, stream, vocab)] if alarms else []),
        _next(rows, recent, vocab, n),
        *_drawn(rows, [vocab[code] for code in stream.pred], multi_label),
        Section("How this was measured", [Block("text", text=measured)]),
    ]
    write_page(page, f"Watch: {source.path.name}", told[0], sections, told[1:])
    return [*told, f"page: {page}"]


def _comparable(
    rows: list[dict[str, Any]], known: Sequence[Mapping[str, Any]], place: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The sketches of the reference's measures, and what to say of others, as another medclf took them.

    Raises:
        DataError: there are only others.
    """
    names = set(known[0]["measures"])
    found = [row for row in rows if row["measures"].keys() == names]
    if not (n := len(rows) - len(found)):
        return found, []
    differ = sorted(set.union(*(names ^ row["measures"].keys() for row in rows)))
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    which = f"{', '.join(differ[:3])}{more}"
    if not found:
        text = f"{place}: none of the {n} sketches has the measures that this medclf compares. They differ in {which}"
        raise DataError(text, "serve the run with this medclf, then look at what comes")
    of = "1 sketch of another medclf has" if n == 1 else f"{n} sketches of another medclf have"
    return found, [f"{of} other measures ({which}). They cannot be compared, and are left out."]


def _dependence(per_unit: float) -> str:
    if per_unit < 1.05:  # told with one decimal
        return "If nothing changes and images do not depend on each other,"
    return (
        f"As in the run, {per_unit:.1f} images of one patient, or near-duplicates, are expected, and count as one. If "
        f"nothing changes,"
    )


def _reference(run: Run, progress: bool) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray, float]:
    """Sketches of the images that the run did not train on; of each whether it was right, and whether it leaks.

    And how many images a patient has, on average.
    """
    kept = run / FOLDER / REFERENCE
    bundle = run.bundle
    if kept.is_file():
        held = json.loads(kept.read_text(encoding="utf-8"))
        if held.get("model") == bundle.hash and held.get("made") == _MADE:
            return held["rows"], np.array(held["right"], float), np.array(held["leaks"], bool), held["per_unit"]
    predictions = _of_images(run)
    chosen = np.flatnonzero(predictions.fully_known)
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_MOST_REFERENCE])
    answered = _answered(run, predictions, chosen, progress)
    if not answered:
        raise DataError(f"{run.path}: none of its images can be read as it read them", "bring them back")
    used, rows, right = list(answered), [row for row, _ in answered.values()], [is_so for _, is_so in answered.values()]
    if lost := len(chosen) - len(used):
        text = f"{lost} of {len(chosen)} images of the run are gone or changed, and are not compared with"
        warnings.warn(MedclfWarning(text), stacklevel=3)
    groups = predictions.groups
    per_unit = 1.0 if groups is None else len(used) / len(np.unique(groups[used]))
    leaks = predictions.table["path"].iloc[used].isin(run.leaking()).tolist()
    facts = {"model": bundle.hash, "made": _MADE, "per_unit": per_unit, "rows": rows, "right": right, "leaks": leaks}
    if not lost:
        with contextlib.suppress(OutputError):  # what cannot be kept is made again the next time
            write_json(kept, facts)
    return rows, np.array(right), np.array(leaks, bool), per_unit


def _answered(
    run: Run, predictions: Predictions, chosen: np.ndarray, progress: bool
) -> dict[int, tuple[dict[str, Any], float]]:
    """By row of the predictions: an image's sketch, and whether its answer is right; of those that can be read."""
    bundle, root, y = run.bundle, run.images, np.asarray(predictions.y)
    paths, fields = predictions.table["path"], fields_of(bundle, predictions.table.iloc[chosen])[0]
    beside = dict(zip(chosen.tolist(), fields or [], strict=False))

    def read(row: int) -> Any:
        path = str(paths.iloc[row])
        try:
            run.check_unchanged(path)
            return row, bundle.prepare(root / path), facts_of(root / path)
        except ReadError:
            return None

    images = iter(bar(map_ahead(read, chosen.tolist(), ahead=_BS), len(chosen), "Reference", progress=progress))
    found: dict[int, tuple[dict[str, Any], float]] = {}
    while batch := list(islice(images, _BS)):
        if sound := [one for one in batch if one is not None]:
            pixels = np.stack([image for _, image, _ in sound])
            given = [[beside[row] for row, *_ in sound]] if fields else []
            answers, features = bundle.predict_with_features(pixels, *given)
            numbers = measures_of(bundle.detector, features, pixels)
            for (row, _, facts), answer, measures in zip(sound, answers, numbers, strict=True):
                found[row] = sketch(answer, measures, facts, bundle.hash), _is_right(answer.pred, y[row])
    return found


def _of_images(run: Run) -> Predictions:
    """The predictions of single images, which the service answers; where a patient has one answer, of its images."""
    file, bundle = run / IMAGES, run.bundle
    return Predictions.load(file, bundle.vocab, bundle.multi_label) if file.is_file() else run.predictions


def _is_right(pred: Any, y: Any) -> float:
    if isinstance(pred, tuple):
        return float(set(pred) == set(np.flatnonzero(np.asarray(y) == 1).tolist()))
    return float(pred == y)


def _named(what: str, vocab: Sequence[str]) -> str:
    if what.startswith(CLASS_SHARE):
        return f"share of {vocab[int(what.removeprefix(CLASS_SHARE))]}"
    if what.startswith("feature axis"):
        return f"what the network sees ({what})"
    return (f"{what} (not in the run's images)" if what.startswith("new ") else what).replace("_", " ")


def _said(
    alarms: Sequence[Alarm], rows: Sequence[dict[str, Any]], still: bool, vocab: Sequence[str], n_known: int
) -> list[str]:
    n = len(rows)
    if n < min(WINDOWS):
        came = "1 image came" if n == 1 else f"{n} images came"
        return [f"{came}: too few to look for drift, which needs {min(WINDOWS)}."]
    if not alarms and n_known < min(WINDOWS):
        held_out = "1 image" if n_known == 1 else f"{n_known} images"
        return [f"No drift was found, but the run holds out only {held_out} to compare with: too few to rule it out."]
    if not alarms:
        return [f"No drift was found: the {number(n)} incoming images are like those that the model was tested on."]
    at, last = alarms[0].at, f"The last {min(n, RECENT)} images"
    first = f"first seen after {number(at)} of {number(n)} images, on {_day(rows[at - 1]['when'])}"
    names = [_named(alarm.what, vocab) for alarm in _by_meaning(alarms)]
    more = f", and {len(names) - 6} more" if len(names) > 6 else ""
    advice = "Label some of those under Read next, and measure the accuracy: medclf evaluate RUN --data FOLDER."
    return [
        f"The incoming images have drifted: {first}.",
        f"They differ from the images that the model was tested on in: {'; '.join(names[:6])}{more}.",
        f"{last} still differ. {advice}" if still else f"{last} no longer differ.",
    ]


def _by_meaning(alarms: Sequence[Alarm]) -> list[Alarm]:
    return sorted(alarms, key=lambda alarm: alarm.what.startswith("feature axis"))  # which say least to a reader


def _day(when: str) -> str:
    return when.partition("T")[0]


def _differing(
    alarms: Sequence[Alarm], rows: Sequence[dict[str, Any]], reference: Stream, stream: Stream, vocab: Sequence[str]
) -> Section:
    """What differs, and by how much."""
    shown = []
    for alarm in _by_meaning(alarms):
        begin = alarm.at - alarm.window
        then = stream.part(slice(begin, alarm.at))
        shown.append(
            {
                "what": _named(alarm.what, vocab),
                "tested images": _level(alarm.what, reference, reference),
                "incoming images": _level(alarm.what, then, reference),
                "first seen": f"{_day(rows[alarm.at - 1]['when'])}, in images {begin + 1} to {alarm.at}",
            }
        )
    return Section("What differs", [table(shown)], note="Means, or shares of the images, when each was first seen.")


def _level(what: str, part: Stream, reference: Stream) -> str:
    """How much of something some images have: the mean of a number, the share of a kind."""
    if what in part.measures:
        return f"{part.measures[what].mean():.3g}"
    if what == "confidence":
        return percent(float(part.confidence.mean()), 0)
    if what.startswith(CLASS_SHARE):
        return percent(float((part.pred == int(what.removeprefix(CLASS_SHARE))).mean()), 0)
    for name, known in reference.kinds.items():
        theirs = part.kinds.get(name) or [""] * len(part)
        if what == f"new {name}":
            return percent(sum(kind not in set(known) for kind in theirs) / len(part), 0)
        if what.startswith(f"{name} "):
            return percent(sum(kind == what.removeprefix(f"{name} ") for kind in theirs) / len(part), 0)
    return percent(Counter(part.images).most_common(1)[0][1] / len(part), 0)  # one image again and again


def _accuracy_said(found: Estimate, leaks: np.ndarray) -> str:
    """What is said of the accuracy, and of the images that it rests on."""
    if np.isnan(found.value):
        last = "the last image" if found.n == 1 else f"the last {found.n} images"
        return f"Accuracy on {last}: cannot say ({found.note.replace('_', ' ')})."
    low, high = percent(found.low, 0), percent(found.high, 0)
    value = percent(found.value, 0)
    told = f"Accuracy on the last {found.n} images, estimated without labels: {value} (95 % CI {low} to {high})."
    return f"{told} It is optimistic: all of the run's images leak from its training." if leaks.all() else told


def _monday(when: str) -> date:
    """The first day of a sketch's week."""
    day = datetime.strptime(when, WHEN).date()
    return day - timedelta(days=day.weekday())


def _week(monday: date) -> str:
    year, week, _ = monday.isocalendar()
    return f"{year}-W{week:02}"


def _facts(rows: Sequence[dict[str, Any]], preds: Sequence[str], multi_label: bool) -> dict[str, Any]:
    shares = {
        name: sum(flag in row["flags"] for row in rows) / len(rows)
        for name, flag in (("unsure", UNSURE), ("unlike", OUT_OF_DISTRIBUTION))
    }
    most = ", ".join(f"{label} {percent(count / len(rows), 0)}" for label, count in Counter(preds).most_common(4))
    return {
        "images": len(rows),
        "mean confidence": percent(_confidence(rows, multi_label), 0),
        "unsure": percent(shares["unsure"], 0),
        "not like the training images": percent(shares["unlike"], 0),
        _called(multi_label): most,
    }


def _called(multi_label: bool) -> str:
    return "likeliest label" if multi_label else "predicted"


def _confidence(rows: Sequence[dict[str, Any]], multi_label: bool) -> float:
    return float(stream_of(rows, list(rows[0]["probs"]), multi_label).confidence.mean())


def _drawn(rows: Sequence[dict[str, Any]], preds: Sequence[str], multi_label: bool) -> list[Section]:
    def facts(places: Sequence[int]) -> dict[str, Any]:
        return _facts([rows[place] for place in places], [preds[place] for place in places], multi_label)

    by_week: dict[date, list[int]] = {}
    for place, row in enumerate(rows):
        by_week.setdefault(_monday(row["when"]), []).append(place)
    weeks = {monday: [rows[place] for place in by_week[monday]] for monday in sorted(by_week)}
    told = [{"week": _week(monday), **facts(by_week[monday])} for monday in weeks]
    found = [Section("By week", [*_chart(weeks, multi_label), table(told)])]
    for name, heading in (("scanner", "By scanner"), ("size", "By image size")):
        groups: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            groups.setdefault(row["kinds"].get(name, ""), []).append(place)
        if set(groups) - {""}:
            largest = sorted(groups, key=lambda one: -len(groups[one]))[:_MOST_GROUPS]
            shown = table([{name: one or "unknown", **facts(groups[one])} for one in largest])
            left = f"The {_MOST_GROUPS} most frequent of {len(groups)}." if len(groups) > _MOST_GROUPS else ""
            found.append(Section(heading, [shown], note=left))
    return found


def _chart(weeks: dict[date, list[dict[str, Any]]], multi_label: bool) -> list[Block]:
    if len(weeks) < 2:
        return []
    measures: dict[str, Callable[[list[dict[str, Any]]], float]] = {
        "mean confidence": lambda part: _confidence(part, multi_label),
        "unsure": lambda part: sum(UNSURE in row["flags"] for row in part) / len(part),
        "not like the training images": lambda part: sum(OUT_OF_DISTRIBUTION in r["flags"] for r in part) / len(part),
    }
    first, *_, last = weeks
    place = {monday: (monday - first).days // 7 + 1 for monday in weeks}  # a week in which nothing came leaves a gap
    lines = [
        Line(name, [(float(place[monday]), value(part)) for monday, part in weeks.items()], marks=True)
        for name, value in measures.items()
    ]
    title, x_label = f"by week, {_week(first)} to {_week(last)}", f"week (1 is {_week(first)})"
    drawn = line_chart(
        lines,
        title=title,
        x_label=x_label,
        y_label="share",
        x_range=(1, float(place[last])),
        whole_x=True,
    )
    return [Block("chart", text=title, chart=drawn)]


def _next(rows: Sequence[dict[str, Any]], recent: Stream, vocab: Sequence[str], n: int) -> Section:
    """The recent images whose reading would tell most: unlike, unsure, and each of another kind."""
    values = np.stack([np.asarray(column, float) for column in recent.measures.values()], axis=1)
    spread = values.std(0)
    scaled = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    given: Any = {"probs": recent.probs, "multi_label": recent.multi_label}
    chosen = choose_next(scaled, np.zeros(len(scaled), bool), min(n, len(scaled)), **given)
    tail = rows[len(rows) - len(recent) :]
    shown = [
        {
            "sketch": row["id"],
            "when": row["when"].replace("T", " ").replace("Z", " UTC"),
            _called(recent.multi_label): vocab[code],
            "probability": percent(row["probs"][vocab[code]], 0),
            "flags": ", ".join(row["flags"]),
        }
        for row, code in ((tail[place], recent.pred[place]) for place in chosen["row"])
    ]
    note = (
        "Labels of these images would tell most. The service keeps no images and no names, only sketches. Its answer "
        "to each image carried the sketch's id: whoever sent the image can find it by that."
    )
    return Section("Read next", [table(shown)], note=note)
