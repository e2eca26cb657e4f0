"""DATA and boxes -> RUN: a detector trained, measured, shown and saved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from medclf.config import TrainConfig
from medclf.dataset.boxes import N_BOXES, Boxes, Unlisted, read_boxes, unlisted_sentences, with_boxes
from medclf.dataset.csv_files import save_rows
from medclf.dataset.labels import usable
from medclf.dataset.scan import scan
from medclf.dataset.sources import FOLDER_OR_NONE
from medclf.dataset.splits import split_table, usual_split
from medclf.errors import DataError, MedclfError, ReadError, argument
from medclf.files import finite, write_json
from medclf.images.box_places import SIDES
from medclf.images.heatmap import hottest_box, on_original
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle import Bundle, load_bundle
from medclf.inference.detector_bundle import DetectorBundle, save_detector
from medclf.inference.runtimes import bundle_in
from medclf.learn.callbacks import told_in_lines
from medclf.learn.checkpoint import seeded
from medclf.learn.detection import BS, EPOCHS, LR, box_learner, box_loaders, fit
from medclf.metrics.detection import Detections, centres_in
from medclf.metrics.intervals import Estimate, as_plain
from medclf.modalities import changes_of
from medclf.models.backbones import describe, origin
from medclf.models.detector import Detector, build_detector, check_chain
from medclf.models.detector_spec import DetectorSpec, Neck
from medclf.models.spec import Normalization
from medclf.models.stage_maps import plain_body
from medclf.reporting.boxes_page import render_boxes
from medclf.results.names import Names
from medclf.results.provenance import describe_split, versions
from medclf.results.record import RECORD, RECORD_FORMAT, now
from medclf.results.run_folder import RESULTS, TABLE, save_table
from medclf.results.schema import SCHEMA
from medclf.results.wording import measured
from medclf.run.config import Say, check_early
from medclf.run.resume import check_free, check_not_emptied, claimed, located
from medclf.run.run import Run

BOXES = "boxes.csv"
_MAY_BE_OFF = {"audit", "linear_probe", "saliency", "cache"}  # a detector has none of them
_OF_CLASSIFIER = ("arch", "weights", "size", "resize", "window", "frame")
_KNOWN = {
    *("data", "out", "overwrite", "modality", "aug", "size", "resize", "window", "frame", "arch", "weights"),
    *("from_run", "epochs", "bs", "lr", "split", "valid_pct", "seed", "hide_names", "show_burned_in", "device"),
}
_KEPT = ("path", "kind", "label", "prob", *SIDES, "outcome")


def train_boxes(
    config: TrainConfig,
    boxes: str | Path,
    say: Say = print,
    *,
    unlisted: Unlisted = "negative",
    neck: Neck = "pyramid",
) -> Path:
    """Train a detector, as `medclf train DATA --boxes FILE` does, and leave a RUN folder.

    Args:
        config: of `train`; settings that a detector has no use for are refused. With `from_run` the backbone of that
            RUN's classifier is kept as it is, so that its labels stay what they were.
        boxes: see `medclf.dataset.box_files.read_box_file`.
        say: called with a line for the user at each step.
        unlisted: what images are that the file of boxes does not speak of; see `with_boxes`.
        neck: see `DetectorSpec`.

    Returns:
        The RUN folder: run.json, table.csv, boxes.csv (given and predicted), results.json, report.html and bundle/.

    Raises:
        DataError: the boxes, the images or the settings; the message says which.
        OutputError: RUN exists already, or cannot be written.
    """
    check_early(config)
    _check(config, unlisted, neck)
    check_free(config.out, config.overwrite)
    check_not_emptied(config, boxes=boxes)
    config = located(config)
    start = time.perf_counter()
    with claimed(config.out, overwrite=config.overwrite) as out:
        told = {"boxes": str(Path(boxes).absolute()), "unlisted": unlisted, "neck": neck}
        record: dict[str, Any] = {
            "format": RECORD_FORMAT,
            "task": "boxes",
            "settings": config.as_dict(),
            "started": now(),
            **told,
        }
        write_json(out / RECORD, record)
        table, given, notes, cautions = _data(config, boxes, unlisted, say)
        with seeded(config.seed):
            detector, classifier = _detector(config, given.vocab, neck)
            history, lost = _fitted(detector, table, given, config, say)
        record |= {"root": table.attrs["root"], "versions": versions()}
        write_json(out / RECORD, record)
        results, rows = _write(out, detector.cpu(), table, given, classifier)
        results["boxes"] |= {"data": [*notes, *lost], "cautions": cautions}
        results |= {"training": {"history": history}, "seconds": round(time.perf_counter() - start, 1)}
        names = Names(list(table["path"]), config.hide_names)
        results = names.scrub(finite(as_plain(results)))
        write_json(out / RESULTS, results)
        root, how = Path(table.attrs["root"]), detector.spec.preprocessing
        day = record["started"][:10]
        render_boxes(out, results, rows, root, how, names, show_burned_in=config.show_burned_in, day=day)
        write_json(out / RECORD, record | {"finished": now()})
        say(results["boxes"]["sentence"])
    return Path(config.out)


def _data(
    config: TrainConfig, boxes: str | Path, unlisted: Unlisted, say: Say
) -> tuple[pd.DataFrame, Boxes, list[str], list[str]]:
    """The split table, its boxes, what was found in them, and what to know before believing the numbers."""
    scanned = scan(config.data, label_from=FOLDER_OR_NONE, **config.scan_kwargs())
    given = read_boxes(boxes, scanned)
    limited = config.limit is not None
    for line in given.sentences(limited=limited):
        say(line)
    table = with_boxes(scanned, given, unlisted)
    table, split = _split(table, config)
    bad, lacking = int((scanned["problem"] != "").sum()), list(_lacking(table, given))
    for line in lacking:
        say(line)
    broken = [f"{bad} of {len(table)} images cannot be used and are left out"] if bad else []
    notes = [*given.sentences(config.hide_names, limited), *unlisted_sentences(table, given), *broken, *lacking]
    kind = "finding" if split == "stratified" else split
    told = describe_split(usable(table), {"kind": kind, "seed": config.seed})["sentence"]
    say(told)
    seen = _known_to_classifier(config, table)
    untrained = f"{argument('epochs', 0)}: this detector was not trained, and its boxes say nothing."
    seen += [untrained] if config.epochs == 0 else []
    for line in seen:
        say(line)
    return table, given, notes, [told, *seen, "Near-duplicates in both sets were not looked for; medclf audit does."]


def _known_to_classifier(config: TrainConfig, table: pd.DataFrame) -> list[str]:
    """How many reported images the classifier of `from_run` was trained on, in a sentence; [] where none."""
    if not config.from_run or not Path(config.from_run).is_dir():
        return []
    shown = usable(table)
    shown = shown[shown["partition"] != "train"]
    n = int(shown["sha256"].isin(Run(config.from_run).trained_on).sum())
    told = f"{n} of the {len(shown)} images that are not trained on here are training images of the classifier"
    return [f"{told} whose backbone is used: scores on them are optimistic."] if n else []


def _lacking(table: pd.DataFrame, given: Boxes) -> Iterator[str]:
    """Labels that a part has no box of."""
    for part, words, means in (("train", "training", "learned"), ("valid", "validation", "measured")):
        known = given.table[given.table["path"].isin(_of_part(table, part)["path"])]["label"]
        if missing := sorted(set(given.vocab) - set(known)):
            yield f"No {words} image has a box of {', '.join(missing)}, so it is not {means}."


def _fitted(
    detector: Detector, table: pd.DataFrame, given: Boxes, config: TrainConfig, say: Say
) -> tuple[list[dict[str, float]], Sequence[str]]:
    """Train the detector in place; the numbers of each epoch, and what it could not learn."""
    how: dict[str, Any] = {"modality": config.modality, "aug": changes_of(config.aug)}
    dls = box_loaders(table, given, detector.spec, **how, bs=config.bs or BS, device=config.device)
    n_train, n_valid = len(dls.train_ds), len(dls.valid_ds)
    say(f"{n_train} images to train on, {n_valid} to validate on; {', '.join(given.vocab)}")
    learn = box_learner(dls, detector)
    with told_in_lines(learn, say):
        fit(learn, EPOCHS if config.epochs is None else config.epochs, config.lr or LR)
    names = [name for name in learn.recorder.metric_names if name not in ("epoch", "time")]
    return [dict(zip(names, map(float, row), strict=False)) for row in learn.recorder.values], dls.notes


def _check(config: TrainConfig, unlisted: str, neck: str) -> None:
    """See that nothing was asked for that a detector does not do.

    Raises:
        DataError: something was.
    """
    for name, value, choices in (("unlisted", unlisted, get_args(Unlisted)), ("neck", neck, get_args(Neck))):
        if value not in choices:
            raise DataError(f"{argument(name)} must be {' or '.join(choices)}, not {value!r}", "choose one of them")
    scanned = set(config.scan_kwargs()) - {"ordinal", "label_delim"}  # of labels, which a detector has of its boxes
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name in _KNOWN | scanned or value in (one.default, ()) or (one.name in _MAY_BE_OFF and not value):
            continue
        told = argument(one.name)
        if one.name == "first_sizes":
            told = argument("size", ",".join(map(str, (*config.first_sizes, config.size))))
        raise DataError(f"{told} does not go with {argument('boxes')}", "leave one of them out")
    if config.split == "kfold":
        raise DataError(f"{argument('split', 'kfold')} does not go with {argument('boxes')}", "train on one split")
    for name in _OF_CLASSIFIER if config.from_run else ():
        if getattr(config, name) != getattr(TrainConfig, name):
            text = f"{argument(name)} does not go with {argument('from_run')}, whose classifier decides it"
            raise DataError(text, "leave one of them out")


def _split(table: pd.DataFrame, config: TrainConfig) -> tuple[pd.DataFrame, str]:
    """The table with its partition, and the kind of split; images with and without findings are shared out alike."""
    split = config.split or usual_split(table).replace("random", "stratified")
    by_finding = table.assign(label=np.where(table[N_BOXES] > 0, "finding", "no finding"))
    partition = split_table(by_finding, split, valid_pct=config.valid_pct, seed=config.seed)
    return table.assign(partition=partition), split


def _detector(config: TrainConfig, vocab: Sequence[str], neck: Neck) -> tuple[Detector, Bundle | None]:
    """A detector on published weights; or on the classifier of an earlier RUN, which it leaves as it is."""
    if config.from_run:
        bundle = load_bundle(bundle_in(config.from_run))
        known = bundle.spec
        spec = DetectorSpec(known.arch, tuple(vocab), known.preprocessing, known.normalization, neck, known.weights)
        body = plain_body(next(bundle.network.children()))
        check_chain(body, known.arch)
        return Detector(body, spec, frozen=True), bundle
    how = Preprocessing((config.size, config.size), config.resize, 3, config.window, config.frame)
    mean, std = describe(config.arch, config.weights or "none").normalization(3)
    weights = origin(config.arch, config.weights)
    spec = DetectorSpec(str(config.arch), tuple(vocab), how, Normalization(mean, std), neck, weights)
    return build_detector(spec, weights=config.weights), None


def _write(
    out: Path, detector: Detector, table: pd.DataFrame, given: Boxes, classifier: Bundle | None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Bundle, table.csv, boxes.csv; what results.json holds, and the rows of boxes.csv."""
    root, bundle = Path(table.attrs["root"]), DetectorBundle(detector)
    found, truth, predicted = _matched(bundle, root, _of_part(table, "valid"), given)
    paths, threshold = found.images, found.best_threshold()
    estimates = found.estimates(threshold)
    save_table(out / TABLE, table)
    rows = outcomes(truth, predicted, threshold)
    save_rows(out / BOXES, rows)
    boxes: dict[str, Any] = {"sentence": sentence(estimates, len(paths)), "threshold": threshold, **estimates}
    boxes |= {"n_findings": len(truth), "per_class": _by_label(found, truth, given.vocab)}
    if classifier is not None:
        boxes["saliency"] = hottest(classifier, root, paths, truth, _patients(_of_part(table, "valid")))
    test = _of_part(table, "test")
    if len(test):
        told = _matched(bundle, root, test, given)[0].estimates(threshold)
        boxes["test"] = {"sentence": sentence(told, len(test), "test"), **told}
    save_detector(detector, out / "bundle", threshold=threshold, card={"boxes": boxes["sentence"]}, overwrite=True)
    counts = table.groupby(table["partition"].fillna("left out"))["path"].count().to_dict()
    results = {
        "schema": SCHEMA,
        "task": "boxes",
        "vocab": list(detector.spec.vocab),
        "n": len(paths),
        "partition": "valid",
        "boxes": boxes,
        "data": {"n_images": len(table), "images": counts},
        "settings": {"preprocessing": detector.spec.preprocessing.as_dict(), "arch": detector.spec.arch},
        "versions": versions(),
    }
    return results, rows


def _of_part(table: pd.DataFrame, part: str) -> pd.DataFrame:
    return table[(table["problem"] == "") & (table["partition"] == part)]


def _patients(rows: pd.DataFrame) -> list[Any] | None:
    return list(rows["patient"]) if rows["patient"].notna().any() else None


def _matched(
    bundle: DetectorBundle, root: Path, rows: pd.DataFrame, given: Boxes
) -> tuple[Detections, pd.DataFrame, pd.DataFrame]:
    """Given and predicted boxes of some images, matched; and both as tables."""
    paths = list(rows["path"])
    truth = given.table[given.table["path"].isin(paths)]
    predicted = _predicted(bundle, root, paths)
    return Detections(paths, truth, predicted, _patients(rows)), truth, predicted


def _predicted(bundle: DetectorBundle, root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """What a detector finds in images: path, label, prob and corners, whatever the prob.

    Raises:
        DataError: an image broke since the scan; its findings would count as missed.
    """
    rows = []
    for path, answer in zip(paths, bundle.predict_stream([root / path for path in paths]), strict=True):
        if isinstance(answer, ReadError):
            raise DataError(f"{root / path} cannot be read any more: {answer.reason}", "scan the images again")
        rows += [{"path": path, **asdict(box)} for box in answer.boxes]
    return pd.DataFrame(rows, columns=["path", "label", "prob", *SIDES])


def outcomes(given: pd.DataFrame, predicted: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of boxes.csv: given boxes found or missed, predicted ones hit or false alarm, or below the threshold."""
    rows = []
    for path in dict.fromkeys([*given["path"], *predicted["path"]]):
        truth, found = given[given["path"] == path], predicted[predicted["path"] == path]
        same = found["label"].to_numpy()[:, None] == truth["label"].to_numpy()[None]
        inside = centres_in(found[list(SIDES)].to_numpy(float), truth[list(SIDES)].to_numpy(float)) & same
        shown = found["prob"].to_numpy() >= threshold
        hit = np.where(shown, np.where(inside.any(1), "hit", "false alarm"), "below threshold")
        seen = np.where((inside & shown[:, None]).any(0), "found", "missed")
        rows += [truth.assign(kind="given", prob=np.nan, outcome=seen), found.assign(kind="predicted", outcome=hit)]
    return pd.DataFrame(pd.concat(rows, ignore_index=True) if rows else [], columns=list(_KEPT))


def sentence(estimates: Mapping[str, Estimate], n_images: int, part: str = "validation") -> str:
    """What it comes to on the images of a part."""
    hits = estimates.get("hit_rate")
    if hits is None:
        return f"None of the {n_images} {part} images has a finding: nothing was measured."
    return (
        f"{round(hits.value * hits.n)} of {hits.n} findings on {n_images} {part} images were found: sensitivity "
        f"{measured(hits.as_dict())}, with {estimates['false_alarms'].value:.2f} false alarms an image; "
        f"mAP50 {estimates['map50'].value:.2f}."
    )


def _by_label(found: Detections, truth: pd.DataFrame, vocab: Sequence[str]) -> dict[str, dict[str, Any]]:
    counts, per_label = truth["label"].value_counts().to_dict(), {}
    for label in vocab:
        ap = found.average_precision(label) if label in counts else np.array([np.nan])
        per_label[label] = {"n": counts.get(label, 0), "ap50": float(ap[0]), "ap": float(ap.mean())}
    return per_label


def hottest(
    classifier: Bundle, root: Path, paths: Sequence[str], given: pd.DataFrame, patients: Any = None
) -> dict[str, Any]:
    """How often the hottest box of the classifier's Grad-CAM lies on a finding: one box an image and label.

    Returns:
        hit_rate and iou_hit_rate, to be compared with the detector's first_hit_rate; and a note that names the labels
        that the classifier does not know.
    """
    known = given[given["label"].isin(classifier.vocab)]
    strange = sorted(set(given["label"]) - set(classifier.vocab))
    note = {"note": f"The classifier does not know {', '.join(strange)}: not looked for."} if strange else {}
    if known.empty:
        return note
    rows: list[dict[str, Any]] = []
    for path, label in known[["path", "label"]].drop_duplicates().itertuples(index=False):
        image = classifier.preprocessing.read(root / path)
        try:
            seen = classifier.saliency(root / path, label)
        except MedclfError as error:
            return {"note": " ".join([*note.values(), f"Where the classifier looks is not measured: {error.message}."])}
        heat = on_original(seen, image.shape, classifier.preprocessing)
        if (box := hottest_box(heat)) is not None:
            rows.append({"path": path, "label": label, "prob": 1.0, **dict(zip(SIDES, box, strict=True))})
    shown = pd.DataFrame(rows, columns=["path", "label", "prob", *SIDES])
    found = Detections(list(paths), known, shown, patients).estimates(0.5)
    return {name: found[name] for name in ("hit_rate", "iou_hit_rate", "first_hit_rate")} | note
