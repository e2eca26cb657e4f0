"""DATA and boxes -> RUN: a detector trained, measured, shown and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.config import TrainConfig
from medclf.dataset.boxes import N_BOXES, SIDES, Boxes, Unlisted, read_boxes, with_boxes
from medclf.dataset.csv_files import save_rows
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.errors import DataError, ReadError, argument
from medclf.files import finite, write_json
from medclf.images.heatmap import hottest_box, on_original
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle import Bundle, load_bundle
from medclf.inference.detector_bundle import DetectorBundle, FoundBoxes, save_detector
from medclf.inference.runtimes import bundle_in
from medclf.learn.callbacks import told_in_lines
from medclf.learn.checkpoint import seeded
from medclf.learn.detection import BS, EPOCHS, LR, box_learner, box_loaders, fit
from medclf.metrics.detection import Detections, centres_in
from medclf.metrics.intervals import Estimate, as_plain
from medclf.modalities import changes_of
from medclf.models.backbones import describe, origin
from medclf.models.detector import Detector, DetectorSpec, Neck, build_detector, check_chain
from medclf.models.spec import Normalization
from medclf.reporting.boxes_page import render_boxes
from medclf.results.names import Names
from medclf.results.results import versions
from medclf.results.run_folder import RESULTS, TABLE, save_table
from medclf.results.schema import RECORD, RECORD_FORMAT, SCHEMA
from medclf.results.wording import percent
from medclf.run.config import check_early
from medclf.run.resume import check_free, claimed, located

BOXES = "boxes.csv"
_IGNORED = {"audit", "linear_probe", "saliency", "cache", "folds"}  # whose defaults mean nothing here
_KNOWN = {
    *("data", "out", "overwrite", "modality", "aug", "size", "resize", "window", "frame", "arch", "weights"),
    *("from_run", "epochs", "bs", "lr", "split", "valid_pct", "seed", "hide_names", "show_burned_in", "device"),
}
_KEPT = ("path", "kind", "label", "prob", *SIDES, "outcome")

Say = Callable[[str], None]


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
    _check(config)
    check_free(config.out, config.overwrite)
    config = located(config)
    start = time.perf_counter()
    with claimed(config.out, overwrite=config.overwrite) as out:
        told = {"boxes": str(Path(boxes).absolute()), "unlisted": unlisted, "neck": neck}
        record = {"format": RECORD_FORMAT, "task": "boxes", "settings": config.as_dict(), **told}
        write_json(out / RECORD, record)
        table = scan(config.data, **_scan_options(config))
        given = read_boxes(boxes, table)
        for line in given.sentences():
            say(line)
        table = _split(with_boxes(table, given, unlisted), config)
        with seeded(config.seed):
            detector, classifier = _detector(config, given.vocab, neck)
            dls = box_loaders(
                table,
                given,
                detector.spec,
                modality=config.modality,
                aug=changes_of(config.aug),
                bs=config.bs or BS,
                device=config.device,
            )
            n_train, n_valid = len(dls.train_ds), len(dls.valid_ds)
            say(f"{n_train} images to train on, {n_valid} to validate on; {', '.join(given.vocab)}")
            learn = box_learner(dls, detector)
            with told_in_lines(learn, say):
                fit(learn, EPOCHS if config.epochs is None else config.epochs, config.lr or LR)
        record |= {"root": table.attrs["root"], "versions": versions()}
        write_json(out / RECORD, record)
        results, rows = _write(out, detector.cpu(), table, given, classifier)
        names = [name for name in learn.recorder.metric_names if name not in ("epoch", "time")]
        history = [dict(zip(names, map(float, row), strict=False)) for row in learn.recorder.values]
        results |= {"training": {"history": history}, "seconds": round(time.perf_counter() - start, 1)}
        results = Names(list(table["path"]), config.hide_names).scrub(finite(as_plain(results)))
        write_json(out / RESULTS, results)
        hidden = {"hide_names": config.hide_names, "show_burned_in": config.show_burned_in}
        render_boxes(out, results, rows, Path(table.attrs["root"]), detector.spec.preprocessing, **hidden)
        say(results["boxes"]["sentence"])
    return Path(config.out)


def _check(config: TrainConfig) -> None:
    """See that nothing was asked for that a detector does not do.

    Raises:
        DataError: something was.
    """
    scanned = set(config.scan_kwargs())
    for one in fields(config):
        if one.name in _KNOWN | _IGNORED | scanned or getattr(config, one.name) in (one.default, ()):
            continue
        raise DataError(f"{argument(one.name)} does not go with {argument('boxes')}", "leave one of them out")
    if config.split == "kfold":
        raise DataError(f"{argument('split', 'kfold')} does not go with {argument('boxes')}", "train on one split")


def _scan_options(config: TrainConfig) -> dict[str, Any]:
    """As the classifier's, but images need no label."""
    options = config.scan_kwargs()
    root = Path(config.data)
    if root.is_dir() and not config.labels and not any(one.is_dir() for one in root.iterdir()):
        options["label_from"] = None
    return options


def _split(table: pd.DataFrame, config: TrainConfig) -> pd.DataFrame:
    """The table with its partition; images with and without findings are shared out alike."""
    placed = set(table["partition"].dropna())
    split = config.split or ("folders" if {"train", "valid"} <= placed else "stratified")
    by_finding = table.assign(label=np.where(table[N_BOXES] > 0, "finding", "no finding"))
    partition = split_table(by_finding, split, valid_pct=config.valid_pct, seed=config.seed)
    return table.assign(partition=partition)


def _detector(config: TrainConfig, vocab: Sequence[str], neck: Neck) -> tuple[Detector, Bundle | None]:
    """A detector on published weights; or on the classifier of an earlier RUN, which it leaves as it is."""
    if config.from_run:
        bundle = load_bundle(bundle_in(config.from_run))
        known = bundle.spec
        spec = DetectorSpec(known.arch, tuple(vocab), known.preprocessing, known.normalization, neck, known.weights)
        body = next(bundle.network.children())
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
    boxes |= {"n_findings": len(truth), "per_class": _by_label(found, truth), "data": list(given.sentences())}
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
    predicted = predict_boxes(bundle, root, paths)
    return Detections(paths, truth, predicted, _patients(rows)), truth, predicted


def predict_boxes(bundle: DetectorBundle, root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """What a detector finds in images: path, label, prob and corners, whatever the prob."""
    rows = []
    for path, answer in zip(paths, bundle.predict_stream([root / path for path in paths]), strict=True):
        if isinstance(answer, FoundBoxes):
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
    ends = f"95 % CI {percent(hits.low)} to {percent(hits.high)}"
    return (
        f"{round(hits.value * hits.n)} of {hits.n} findings were found ({percent(hits.value)}, {ends}), with "
        f"{estimates['false_alarms'].value:.2f} false alarms an image on {n_images} {part} images; "
        f"mAP50 {estimates['map50'].value:.2f}."
    )


def _by_label(found: Detections, truth: pd.DataFrame) -> dict[str, dict[str, Any]]:
    counts = truth["label"].value_counts().to_dict()
    return {
        label: {
            "n": n,
            "ap50": float(found.average_precision(label)[0]),
            "ap": float(found.average_precision(label).mean()),
        }
        for label, n in counts.items()
    }


def hottest(
    classifier: Bundle, root: Path, paths: Sequence[str], given: pd.DataFrame, patients: Any = None
) -> dict[str, Any]:
    """How often the hottest box of the classifier's Grad-CAM lies on a finding: one box an image and label.

    Returns:
        hit_rate and iou_hit_rate, to be compared with the detector's first_hit_rate; and the labels that were left out
        since the classifier does not know them.
    """
    known = given[given["label"].isin(classifier.vocab)]
    rows = []
    for path, label in known[["path", "label"]].drop_duplicates().itertuples(index=False):
        try:
            image = classifier.preprocessing.read(root / path)
        except ReadError:
            continue
        heat = on_original(classifier.saliency(root / path, label), image.shape, classifier.preprocessing)
        if (box := hottest_box(heat)) is not None:
            rows.append({"path": path, "label": label, "prob": 1.0, **dict(zip(SIDES, box, strict=True))})
    if known.empty:
        return {"note": f"the classifier knows none of the labels {', '.join(sorted(set(given['label'])))}"}
    shown = pd.DataFrame(rows, columns=["path", "label", "prob", *SIDES])
    found = Detections(list(paths), known, shown, patients).estimates(0.5)
    return {name: found[name] for name in ("hit_rate", "iou_hit_rate", "first_hit_rate")}
