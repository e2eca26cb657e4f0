"""Which unlabelled images to label next: encoder, labels so far, choice and forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.label_forecast import Forecast, forecast
from medclf.auditing.labelling import STRENGTH, Probe, choose_next, self_trained, skill_of, skill_of_labels
from medclf.dataset.columns import POOR
from medclf.dataset.corrections import UNSURE as NOT_SURE
from medclf.dataset.labels import objects, usable
from medclf.dataset.scan import scan, scanned_already
from medclf.errors import DataError, argument, check_count, check_known
from medclf.images.phi import withheld_among
from medclf.inference.runtimes import bundle_in, load_model
from medclf.metrics.logits import to_probs
from medclf.models.linear_probe import fit_linear, one_thread_if_small
from medclf.run.labels_so_far import (
    Pool,
    Said,
    codes_of,
    known_labels,
    labels_said,
    notes_of,
    remarks_of,
    second_reader,
    unanswered,
    vocab_of,
)
from medclf.run.pool_features import encoder
from medclf.run.run import Run

ARCH = "efficientnet_lite0"  # its weights come with a package, so no hub is needed
DISAGREE = "the readers disagree"
_LEAST_LABELS = 10  # and two of each class on average, before a probe says where it is unsure


@dataclass(frozen=True)
class NextLabels:
    """What `label_next` says.

    Args:
        images: path, why, suggestion ("" without a model), prob (of the suggestion) and margin (of the two likeliest
            classes, all of which weigh alike, as the choice goes by it), the most wanted first.
        forecast: what the next labels are expected to bring; None where there are too few to say.
        labelled: path -> label of the images of the pool that have one already.
        poor: images of the pool that a reader called poor: they are not asked for again.
        unsure: those that a reader called unsure, without a label: they are not asked for again either.
        vocab: what an image may be called.
        root: the folder that paths are relative to.
        notes: what else there is to say.
        patients: path -> patient ID of the images whose patient is known.
        multi_label: whether an image may have several labels.
        remarks: path -> mark and note of the sheet that was given.
        ordinal: whether the classes are the model's grades, lowest first.
    """

    images: pd.DataFrame
    forecast: Forecast | None
    labelled: dict[str, str]
    poor: list[str]
    vocab: list[str]
    root: Path
    notes: list[str] = field(default_factory=list)
    patients: dict[str, str] = field(default_factory=dict)
    unsure: list[str] = field(default_factory=list)
    multi_label: bool = False
    remarks: dict[str, tuple[str, str]] = field(default_factory=dict)
    ordinal: bool = False

    @property
    def earlier(self) -> list[tuple[str, str, str, str]]:
        """Path, label, mark and note of the images that were read already, to stand in the next sheet as well.

        Images that were given no more than a note are among them, also where they are asked for again.
        """
        rows = [(path, label, *self.remarks.get(path, ("", ""))) for path, label in self.labelled.items()]
        without = [(path, POOR) for path in self.poor] + [(path, NOT_SURE) for path in self.unsure]
        rows += [(path, "", mark, self.remarks.get(path, ("", ""))[1]) for path, mark in without]
        there = {path for path, *_ in rows}
        return rows + [(path, "", "", note) for path, (_, note) in self.remarks.items() if note and path not in there]


def label_next(
    model: Any,
    items: Any,
    n: int = 50,
    *,
    labels: str | Path | Mapping[str, str] | None = None,
    second: str | Path | None = None,
    vocab: Sequence[str] | None = None,
    self_training: bool = False,
    seed: int = 0,
    arch: str = ARCH,
    weights: Any = "default",
    window: Any = None,
    frame: Any = "middle",
    only_shown: bool = False,
    progress: bool = True,
    **scan_kwargs: Any,
) -> NextLabels:
    """Choose which unlabelled images to label next, and say what their labels are expected to bring.

    Args:
        model: a learner from `med_learner`, a bundle or exported file (loaded, or its path), a RUN folder (whose
            labelled images count, too), or None: then the features of `arch` are used.
        items: the pool: what `scan` takes; labels that its folders or columns tell are not looked at.
        n: how many images.
        labels: the labels so far: a sheet that the page gave (path, label, mark), or label by path.
        second: a second reader's sheet: agreement is counted, and images on which the two differ come first.
        vocab: the classes; those of the model, else of the labels, where None.
        self_training: count the surest images as labelled, too, where that improves out-of-fold predictions.
        seed: of folds.
        arch, weights, window: of the encoder where there is no model; see `embed_table`.
        frame: which frame of a file of several; the model's own where there is one, but for "all".
        only_shown: choose no image whose picture a page withholds, since it often carries the patient's name.
        progress: show progress bars when it lasts.
        scan_kwargs: of `scan`, such as `patient_col`.

    Returns:
        A `NextLabels`.

    Raises:
        DataError: no unlabelled image, or none that can be read; an unknown label, or no classes.

    Example:
        >>> # label_next(learn, "unlabelled", n=50).images[["path", "suggestion"]]
    """
    check_count(argument("n"), n, "say how many images to choose")
    check_known(scan_kwargs, label_next, scan)
    run = opened(model)
    model = run.bundle if isinstance(run, Run) else run
    if model is not None:
        frame = frame_of(model, frame)
        _refuse_beside_a_model(arch, weights, window)
    table = _listed(items, scan_kwargs, frame, window if model is None else model.spec.preprocessing.window)
    pool = Pool(Path(table.attrs["root"]), [str(path) for path in table["path"]], list(table["sha256"]))
    multi_label = model is not None and bool(model.spec.multi_label)
    said = labels_said(labels, pool.root)
    theirs, agreement = second_reader(said, second, multi_label, labels)
    known, extra, gone, copies = known_labels(run, pool, said, theirs)
    names = vocab_of(vocab, model, [*known.values(), *said.labels.values(), *theirs.values()])
    codes_of([*theirs.values()], names, multi_label)  # an unknown label is a mistake, no disagreement
    # Images of the run that lie outside the pool teach as well; they stand behind it.
    paths = [pool.root / path for path in pool.paths] + [one.file for one in extra]
    digests = [*pool.digests, *(one.digest for one in extra)]
    encode, widths = encoder(model, arch, weights, window, frame, progress)
    features, model_probs = encode(paths, digests)
    codes = codes_of([known.get(path) for path in pool.paths] + [one.label for one in extra], names, multi_label)
    readable = np.isfinite(features).all(1) & (features.shape[1] > 0)
    if not readable[: len(pool.paths)].any():
        raise DataError("none of the images can be read", f"open one to see why, such as {paths[0]}")
    unasked = np.isin([*pool.paths, *[""] * len(extra)], [*said.poor, *said.unsure])
    kept = np.flatnonzero(readable & ~unasked)
    patients = [*objects(table, "patient"), *[None] * len(extra)]
    owners = np.array(patients, object)[kept] if any(p is not None for p in patients) else None
    notes = [text for text in (*agreement, unanswered(labels)) if text] + notes_of(model, names)
    if model_probs is not None:
        model_probs, told = _in_order_of(names, model.spec.vocab, model_probs)
        notes += told
    hidden = withheld_among(pool.root, pool.paths) if only_shown else {}
    n_hidden = sum(pool.paths[row] not in known for row in hidden)
    notes += _not_asked(said, gone, int((~readable).sum()), len(extra), n_hidden, copies)
    inside = FittedPool(features[kept], widths, codes[kept], owners, len(names), multi_label, seed)
    probs, told = inside.probs(self_training, None if model_probs is None else model_probs[kept])
    notes += told
    blocked = inside.labelled | (kept >= len(pool.paths)) | np.isin(kept, list(hidden))
    if n_hidden and blocked.all():
        text = f"all {n_hidden} images without a label often carry the patient's name in their pixels"
        raise DataError(text, f"label them all the same: {argument('show_burned_in', True)}")
    chosen = inside.choose(blocked, probs, n)
    rows = kept[chosen["row"].to_numpy(int)]
    images = chosen.assign(path=[pool.paths[row] for row in rows]).drop(columns="row")
    images = images.assign(**_suggestions(None if probs is None else probs[chosen["row"]], names, multi_label))
    images, told = _with_disagreements(images, [*theirs], n)
    return NextLabels(
        images=images[["path", "why", "suggestion", "prob", "margin"]],
        forecast=inside.forecast(len(images)),
        labelled=known,
        poor=sorted(said.poor),
        unsure=sorted(said.unsure),
        vocab=names,
        root=pool.root,
        notes=notes + told,
        patients={path: str(one) for path, one in zip(pool.paths, patients, strict=False) if one is not None},
        multi_label=multi_label,
        remarks=remarks_of(labels),
        ordinal=model is not None and bool(model.spec.ordinal) and names == list(model.spec.vocab),
    )


def _not_asked(said: Said, gone: int, broken: int, outside: int, hidden: int, copies: int) -> list[str]:
    """What there is to say of images that are not asked for, or not counted."""
    of_run, asked = ("labelled image", "of the run "), argument("show_burned_in", True)
    told = {
        f"{_are(len(said.unsure))} marked unsure without a label, and not asked for again.": len(said.unsure),
        f"{_are(gone, *of_run)} gone or changed, and not counted here.": gone,
        f"{_are(copies)} labelled already: the run has a copy.": copies,
        f"{_are(broken)} not readable, and left out.": broken,
        f"{_are(outside, *of_run)} outside the pool: counted here, and not in the sheet. To train on both, give one "
        "folder or table of both.": outside,
        f"{_are(hidden)} not asked for, since such pixels often carry the patient's name: {asked} asks for all "
        "images.": hidden,
    }
    return [sentence for sentence, n in told.items() if n]


def _are(n: int, what: str = "image", which: str = "") -> str:
    return f"{n} {what} {which}is" if n == 1 else f"{n} {what}s {which}are"


def _with_disagreements(images: pd.DataFrame, differ: Sequence[str], n: int) -> tuple[pd.DataFrame, list[str]]:
    """The n images to label, those first on which two readers differ, and what there is to say of that."""
    first = pd.DataFrame({"path": differ, "why": DISAGREE})
    found = pd.concat([first, images[~images["path"].isin(first["path"])]], ignore_index=True)[:n]
    found["suggestion"] = found["suggestion"].fillna("")
    told = []
    if len(first) > n:
        more = len(first) - n
        told = [f"{more} more images on which the readers differ have no label now: ask for more images."]
    if len(found) < n:
        told.append(f"Only {len(found)} images are left to label: all of them are chosen.")
    return found, told


def opened(model: Any) -> Any:
    """A RUN folder as a `Run`; a bundle's folder or an exported file loaded; what is no path as it is."""
    if not isinstance(model, (str, Path)):
        return model
    return load_model(model) if (bundle := bundle_in(model)) == Path(model) else Run(bundle.parent)


def frame_of(model: Any, frame: Any) -> Any:
    """Which frame of a file of several is an image: each where either says so, else what the model was trained with.

    Raises:
        DataError: it is no model of medclf.
    """
    if not hasattr(model, "spec"):
        text = f"label_next takes a learner of med_learner, a bundle or a RUN, not a {type(model).__name__}"
        raise DataError(text, "make the learner with med_learner(dls, arch)")
    return frame if frame == "all" else model.spec.preprocessing.frame


def _refuse_beside_a_model(arch: str, weights: Any, window: Any) -> None:
    own = {"arch": arch != ARCH, "weights": weights != "default", "window": window is not None}
    if given := [argument(name) for name, is_given in own.items() if is_given]:
        raise DataError(f"{given[0]} is for an encoder without a model, which has its own", "leave it out")


def _listed(items: Any, scan_kwargs: dict[str, Any], frame: Any, window: Any) -> pd.DataFrame:
    """The usable images of the pool: labels that its folders or columns tell are not looked at."""
    table = scanned_already(items, scan_kwargs, frame)
    if table is None:
        how = {"label_col": None, "label_from": None, "check_pixels": False, "frame": frame, "window": window}
        table = scan(items, **{**how, **scan_kwargs})
    return usable(table).reset_index(drop=True)


def _in_order_of(names: Sequence[str], known: Sequence[str], probs: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """A model's probabilities with a column for each name: 0 where it does not know the class.

    None where it knows a class that has no name here, and what there is to say of that.
    """
    if other := sorted(set(known) - set(names)):
        return None, [f"The model's class '{other[0]}' is none of those named, so the model has no part in the choice."]
    found = np.zeros((len(probs), len(names)))
    found[:, [names.index(label) for label in known]] = probs
    return found, []


class FittedPool:
    """The readable images, what is known of them, and the probe fitted on that.

    Args:
        features: (n, f), and `widths` how many columns each stage has, () where they are of one.
        y: (n,) classes or (n, n_classes) 0 and 1; -1 where unknown.
        owners: (n,) patient of each image, or None.
        n_classes, multi_label: of the vocab.
        seed: of folds.
    """

    def __init__(
        self,
        features: np.ndarray,
        widths: tuple[int, ...],
        y: np.ndarray,
        owners: np.ndarray | None,
        n_classes: int,
        multi_label: bool = False,
        seed: int = 0,
    ) -> None:
        self.features, self.widths, self.y, self.owners = features, widths, y, owners
        self.n_classes, self.multi_label, self.seed = n_classes, multi_label, seed
        self.taught, self.skill = y, 1.0
        self.labelled = y >= 0 if y.ndim == 1 else y.min(1) >= 0
        self.rows = np.flatnonzero(self.labelled)

    @property
    def enough(self) -> bool:
        """Whether the labels are enough to fit a probe."""
        spread = len(self.rows) and len(np.unique(self.y[self.rows], axis=0)) > 1
        return bool(spread and len(self.rows) >= max(_LEAST_LABELS, 2 * self.n_classes))

    def probs(self, self_training: bool, model_probs: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
        """(n, n_classes) of the probe, else of the model, else None; and what there is to say."""
        y, rows = self.y, self.rows
        if not self.enough:
            return model_probs, []
        found, told = self._fit(rows, y), []
        if self_training and not self.multi_label:
            filled, sentence = self_trained(self._probe, y, self.owners, self.seed)
            told = [sentence]
            if (filled != y).any():
                self.taught = filled
                found = self._fit(np.flatnonzero(filled >= 0), filled)
        return found, told

    def _fit(self, rows: np.ndarray, y: np.ndarray) -> np.ndarray:
        with one_thread_if_small(self.features.size):
            owners = None if self.owners is None else _units(self.owners[rows])
            fit = fit_linear(self.features[rows], y[rows], self.n_classes, owners, widths=self.widths)
        if self.multi_label:
            self.skill = skill_of_labels(fit.held_out, y[rows])
        logits = self.features.astype(float) @ fit.weight.T.astype(float) + fit.bias
        return to_probs(logits, multi_label=self.multi_label)

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self.features, STRENGTH, self.n_classes, self.widths)

    def choose(self, blocked: np.ndarray, probs: np.ndarray | None, n: int) -> pd.DataFrame:
        """See `choose_next`; `probs` count where an image may have several labels, or too few have one for a probe."""
        if self.enough and not self.multi_label:
            rows = np.flatnonzero(self.taught >= 0)
            probs = self._probe.probs(rows, self.taught[rows], np.arange(len(self.taught)))
            self.skill = skill_of(self._probe, self.y, self.owners, self.seed)
        given: Any = {"patients": self.owners, "multi_label": self.multi_label, "skill": self.skill}
        return choose_next(self._probe.x, blocked, n, probs=probs, **given)

    def forecast(self, more: int) -> Forecast | None:
        """What so many more labels are expected to bring; None of several labels, or where there are too few."""
        if self.multi_label or not self.enough:
            return None
        return forecast(self._probe, self.y, more, groups=self.owners, seed=self.seed)


def _units(owners: np.ndarray) -> np.ndarray:
    from medclf.dataset.folds import group_codes

    return group_codes(owners, len(owners))


def _suggestions(probs: np.ndarray | None, names: Sequence[str], multi_label: bool) -> dict[str, Any]:
    if probs is None:
        return {"suggestion": "", "prob": np.nan}
    if multi_label:
        called = ["|".join(name for name, p in zip(names, row, strict=True) if p >= 0.5) for row in probs]
        return {"suggestion": called, "prob": np.maximum(probs, 1 - probs).min(1)}
    return {"suggestion": [names[code] for code in probs.argmax(1)], "prob": probs.max(1)}
