"""`medclf watch`: what came to the service, whether it has drifted, and what accuracy to expect on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medclf.auditing.labelling import choose_next
from medclf.errors import DataError, ReadError
from medclf.files import write_json
from medclf.inference.sketches import FOLDER, WHEN, is_whole, measures_of, read_sketches, sketch
from medclf.metrics.drift import FALSE_ALARMS, HORIZON, Alarm, Stream, estimate_accuracy, find_drift, stream_of
from medclf.metrics.intervals import Estimate
from medclf.parallel import map_ahead
from medclf.progress import watch as bar
from medclf.reporting.charts import Line, line_chart
from medclf.reporting.plain_page import Section, write_page
from medclf.reporting.tables import Block, table
from medclf.results.calibration import OUT_OF_DISTRIBUTION, UNSURE
from medclf.results.predictions import Predictions
from medclf.results.run_folder import IMAGES
from medclf.results.wording import percent
from medclf.run.evaluate import fields_of
from medclf.run.run import Run
from medclf.serving.decoder_worker import facts_of

REFERENCE, PAGE = "reference.json", "watch.html"
RECENT = 200
_MOST_REFERENCE = 1000
_BS = 32
_MADE = 2  # raised where what the reference holds changes: an older one is made again


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
    source = Run(run)
    place = Path(folder) if folder else source / FOLDER
    model = source.bundle.hash[:16]
    everything = read_sketches(place)
    ours = [row for row in everything if row.get("model") == model]
    rows = [row for row in ours if is_whole(row, source.bundle.vocab)]
    if not rows:
        others = f"; it has {len(everything)} of other models" if everything else ""
        raise DataError(f"{place} has no sketch of this model{others}", "serve the run first: medclf serve RUN")
    known, right = _reference(source, progress)
    reference, stream = (stream_of(part, source.bundle.vocab, source.bundle.multi_label) for part in (known, rows))
    alarms = find_drift(reference, stream, false_alarms=false_alarms)
    recent = stream.part(slice(max(0, len(stream) - RECENT), len(stream)))
    accuracy = estimate_accuracy(reference, right, recent)
    told = [*_said(alarms, len(rows), false_alarms, source.bundle.vocab), _accuracy_said(accuracy)]
    if lost := len(ours) - len(rows):
        told.append(f"{lost} sketches are damaged and are left out.")
    page = Path(out) if out else source / FOLDER / PAGE
    sections = [*_drawn(rows, source.bundle.multi_label), _next(rows, recent, n)]
    measured = (
        f"After every 25 images, the last 50, 100 and 200 are compared with {len(known)} images that the model was "
        f"not trained on. If nothing changes and images do not depend on each other, the chance of a false alarm is at "
        f"most {percent(false_alarms, 0)} within {HORIZON} images. Several images of one patient in a row raise it."
    )
    sections.append(Section("How this was measured", [Block("text", text=measured)]))
    write_page(page, "Watch", told[0], sections, told[1:])
    return [*told, f"page: {page}"]


def _reference(run: Run, progress: bool) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Sketches of the images that the run did not train on, and whether each was classified correctly."""
    kept = run / FOLDER / REFERENCE
    bundle = run.bundle
    if kept.is_file():
        held = json.loads(kept.read_text(encoding="utf-8"))
        if held.get("model") == bundle.hash and held.get("made") == _MADE:
            return held["rows"], np.array(held["right"], float)
    predictions, root = _of_images(run), run.images
    chosen = np.flatnonzero(predictions.fully_known)
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_MOST_REFERENCE])
    paths = [root / str(path) for path in predictions.table["path"].iloc[chosen]]
    fields, _ = fields_of(bundle, predictions.table.iloc[chosen])
    beside = dict(zip(chosen.tolist(), fields or [], strict=False))

    def read(path: Path) -> Any:
        try:
            return bundle.prepare(path), facts_of(path)
        except ReadError:
            return None

    images = iter(bar(map_ahead(read, paths, ahead=_BS), len(paths), "Reference", progress=progress))
    rows: list[dict[str, Any]] = []
    right: list[float] = []
    at = iter(chosen.tolist())
    while batch := list(islice(images, _BS)):
        places = list(islice(at, len(batch)))
        sound = [(row, *one) for row, one in zip(places, batch, strict=True) if one is not None]
        if not sound:
            continue
        pixels = np.stack([image for _, image, _ in sound])
        given = [[beside[row] for row, *_ in sound]] if fields else []
        answers, features = bundle.predict_with_features(pixels, *given)
        numbers = measures_of(bundle.detector, features, pixels)
        for (row, _, facts), answer, measures in zip(sound, answers, numbers, strict=True):
            rows.append(sketch(answer, measures, facts, bundle.hash))
            right.append(_is_right(answer.pred, np.asarray(predictions.y)[row]))
    if not rows:
        raise DataError(f"{run.path}: none of its images can be read", "bring them back")
    write_json(kept, {"model": bundle.hash, "made": _MADE, "rows": rows, "right": right})
    return rows, np.array(right)


def _of_images(run: Run) -> Predictions:
    """The predictions of single images, which the service answers; where a patient has one answer, of its images."""
    file, bundle = run / IMAGES, run.bundle
    return Predictions.load(file, bundle.vocab, bundle.multi_label) if file.is_file() else run.predictions


def _is_right(pred: Any, y: Any) -> float:
    if isinstance(pred, tuple):
        return float(set(pred) == set(np.flatnonzero(np.asarray(y) == 1).tolist()))
    return float(pred == y)


def _named(what: str, vocab: Sequence[str]) -> str:
    kind, _, code = what.rpartition("class ")
    return f"share of {vocab[int(code)]}" if kind == "share of " else what


def _said(alarms: Sequence[Alarm], n: int, false_alarms: float, vocab: Sequence[str]) -> list[str]:
    if not alarms:
        rate = f"false-alarm rate {percent(false_alarms, 0)} in {HORIZON} images"
        return [f"{n} images came. No drift was found ({rate})."]
    first = alarms[0]
    names = [_named(alarm.what, vocab) for alarm in alarms]
    names.sort(key=lambda name: name.startswith("feature axis"))  # which say least to a reader
    return [
        f"The incoming images have drifted: first seen after {first.at} of {n} images.",
        f"What differs from the images that the model was tested on: {', '.join(names[:6])}.",
    ]


def _accuracy_said(found: Estimate) -> str:
    if np.isnan(found.value):
        return f"Accuracy on the last {found.n} images: cannot say ({found.note})."
    low, high = percent(found.low, 0), percent(found.high, 0)
    value = percent(found.value, 0)
    return f"Accuracy on the last {found.n} images, estimated without labels: {value} (95 % interval {low} to {high})."


def _monday(when: str) -> date:
    """The first day of a sketch's week."""
    day = datetime.strptime(when, WHEN).date()
    return day - timedelta(days=day.weekday())


def _week(monday: date) -> str:
    year, week, _ = monday.isocalendar()
    return f"{year}-W{week:02}"


def _facts(rows: Sequence[dict[str, Any]], multi_label: bool) -> dict[str, Any]:
    shares = {
        name: sum(flag in row["flags"] for row in rows) / len(rows)
        for name, flag in (("unsure", UNSURE), ("unlike", OUT_OF_DISTRIBUTION))
    }
    called = Counter(max(row["probs"], key=row["probs"].__getitem__) for row in rows)
    most = ", ".join(f"{label} {percent(count / len(rows), 0)}" for label, count in called.most_common(4))
    return {
        "images": len(rows),
        "mean confidence": percent(_confidence(rows, multi_label), 0),
        "unsure": percent(shares["unsure"], 0),
        "not like the training images": percent(shares["unlike"], 0),
        "likeliest label" if multi_label else "predicted": most,
    }


def _confidence(rows: Sequence[dict[str, Any]], multi_label: bool) -> float:
    return float(stream_of(rows, list(rows[0]["probs"]), multi_label).confidence.mean())


def _drawn(rows: Sequence[dict[str, Any]], multi_label: bool) -> list[Section]:
    by_week: dict[date, list[dict[str, Any]]] = {}
    for row in rows:
        by_week.setdefault(_monday(row["when"]), []).append(row)
    weeks = {monday: by_week[monday] for monday in sorted(by_week)}
    told = [{"week": _week(monday), **_facts(part, multi_label)} for monday, part in weeks.items()]
    found = [Section("By week", [*_chart(weeks, multi_label), table(told)])]
    for name, heading in (("scanner", "By scanner"), ("size", "By image size")):
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["kinds"].get(name, ""), []).append(row)
        if set(groups) - {""}:
            largest = sorted(groups, key=lambda one: -len(groups[one]))[:12]
            found.append(
                Section(
                    heading, [table([{name: one or "unknown", **_facts(groups[one], multi_label)} for one in largest])]
                )
            )
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
    title = f"by week, {_week(first)} to {_week(last)}"
    drawn = line_chart(
        lines, title=title, x_label="week", y_label="share", x_range=(1, float(place[last])), whole_x=True
    )
    return [Block("chart", text=title, chart=drawn)]


def _next(rows: Sequence[dict[str, Any]], recent: Stream, n: int) -> Section:
    """The recent images whose reading would tell most: unlike, unsure, and each of another kind."""
    values = np.stack([np.asarray(column, float) for column in recent.measures.values()], axis=1)
    spread = values.std(0)
    scaled = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    chosen = choose_next(scaled, np.zeros(len(scaled), bool), min(n, len(scaled)), probs=recent.probs)
    tail = rows[len(rows) - len(recent) :]
    shown = [
        {"sketch": row["id"], "when": row["when"], "predicted": max(row["probs"], key=row["probs"].__getitem__)}
        | {"probability": percent(max(row["probs"].values()), 0), "flags": ", ".join(row["flags"])}
        for row in (tail[place] for place in chosen["row"])
    ]
    note = "The service's answer carried the sketch's id: whoever sent the image can find it. No name is kept here."
    return Section("Read next", [table(shown)], note=note)
