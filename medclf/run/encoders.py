"""Which encoder suits one's data: a linear probe on each one's features, judged on the same held-out images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medclf.auditing.audit import with_groups
from medclf.dataset.folds import folds
from medclf.dataset.groups import groups_of, unit_of
from medclf.dataset.labels import count_labels, label_set, objects, usable
from medclf.dataset.scan import scan, scanned_already
from medclf.errors import DataError, MissingDependency, WeightsError, argument, check_count, check_known
from medclf.metrics.comparison import compare_predictions
from medclf.metrics.intervals import wilson
from medclf.metrics.logits import to_probs
from medclf.models.backbones import build_body, check_weights, describe, encoder_facts
from medclf.models.features import embed_table
from medclf.models.linear_probe import fit_linear, one_thread_if_small
from medclf.models.plain_nets import LITE_NETS
from medclf.models.pooling import pooling_of
from medclf.models.weights import package_weights
from medclf.parallel import usable_device
from medclf.run.audit import audit_table

_TIMES = 5  # predictions that are timed


@dataclass(frozen=True)
class EncoderRank:
    """How one encoder did.

    Args:
        name: as it was asked for.
        accuracy: of the linear probe on the images that it was not fitted on.
        low, high: its 95 % interval, of independent images.
        behind: points of accuracy behind the best, 0 for that; with `behind_low` and `behind_high`, over the same
            images and patients.
        behind_low, behind_high: the interval, widened for the number of encoders.
        noise: the difference from the best may be chance.
        seconds: of one prediction by the body, one image at a time on this machine.
        parameters: of the body, in millions.
        n_features: that the probe had of each image.
        licence: of its weights, where it is known.
    """

    name: str
    accuracy: float
    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float
    noise: bool
    seconds: float
    parameters: float
    n_features: int
    licence: str = ""


@dataclass(frozen=True)
class EncoderRanking:
    """What `encoders` says.

    Args:
        rows: the best first.
        n: images.
        n_folds: how often a probe was fitted for each encoder.
        unit: what was kept together, "patients" for one.
    """

    rows: list[EncoderRank]
    n: int
    n_folds: int
    unit: str

    def frame(self) -> pd.DataFrame:
        """A row an encoder."""
        return pd.DataFrame([vars(row) for row in self.rows])

    @property
    def sentences(self) -> list[str]:
        """For people."""
        best, *others = self.rows
        found = [
            f"{best.name}: {best.accuracy:.1%} of {self.n} images were classified correctly "
            f"(95 % CI {best.low:.1%} to {best.high:.1%}), by a linear probe that had not seen them."
        ]
        close = [row.name for row in others if row.noise]
        worse = [row.name for row in others if not row.noise]
        if close:
            found.append(f"No clear difference from it: {', '.join(close)}. Choose by cost and licence among these.")
        if worse:
            found.append(f"Clearly behind it: {', '.join(worse)}.")
        whole = [] if self.unit == "images" else [f"None of the {self.unit} was on both sides of a fold."]
        return [*found, *whole]


def encoders(
    data: str | Path | pd.DataFrame,
    names: Sequence[str] | str = (),
    *,
    n_folds: int = 5,
    seed: int = 42,
    near: bool = True,
    size: int | None = None,
    device: str | None = None,
    window: Any = None,
    frame: Any = "middle",
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
    **scan_kwargs: Any,
) -> EncoderRanking:
    """Rank encoders on one's data: which differences are noise, and what each costs.

    A linear probe is fitted on each encoder's features, fold by fold, and judged on the images of the other folds.
    Images of a patient, and near-duplicates, stay in one fold. Encoders are compared over the same images.

    Args:
        data: a folder of images, a CSV, or the table that `scan` returned.
        names: architectures, see `medclf.models.backbones.describe`; `NAME=FILE` for other weights, `NAME=none` for
            random ones. Those whose weights are on this machine, and a random one to compare with, where none is given.
        n_folds: folds.
        seed: of the folds.
        near: keep near-duplicates together.
        size: side of the images in pixels; what each encoder's weights were trained at where None.
        device: "cpu", "cuda", "mps" ...; the GPU if there is one where None.
        window, frame: how DICOM is read; see `read_image`.
        progress: show progress bars.
        say: called with a line for the user after each encoder.
        scan_kwargs: of `scan`.

    Returns:
        An `EncoderRanking`.

    Raises:
        DataError: too few labelled images; or as `scan`.
        MedclfError, WeightsError: an encoder cannot be had; the message names it.

    Example:
        >>> # encoders("images", ["efficientnet_lite0", "hf-hub:microsoft/rad-dino"]).frame()
    """
    check_known(scan_kwargs, encoders, scan)
    check_count(argument("n_folds"), n_folds, "5 is the default", least=2)
    check_count(argument("seed"), seed, least=0)
    if size is not None:
        check_count(argument("size"), size, "leave it out for what each encoder's weights were trained at")
    names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else [*names]
    for name in names:
        _check(name)
    listed = scanned_already(data, scan_kwargs, frame)
    table = usable(scan(data, window=window, frame=frame, **scan_kwargs) if listed is None else listed)
    table = table[[bool(label_set(label)) for label in objects(table, "label")]].reset_index(drop=True)
    vocab = sorted(count_labels(objects(table, "label")))
    if len(table) < 10 or len(vocab) < 2:
        raise DataError(
            f"{len(table)} labelled images of {len(vocab)} classes are too few", "give 10 images of 2 classes"
        )
    if near:
        table = with_groups(table, audit_table(table, embed=False, progress=progress, window=window, frame=frame)[0])
    y = _targets(table, vocab)
    groups = groups_of(table)
    fold_of = folds(y, groups, n_folds, seed=seed)
    probs: dict[str, np.ndarray] = {}
    costs: dict[str, tuple[float, float, int, str]] = {}
    for name in names or at_hand():
        arch, weights = _parted(name)
        features = embed_table(
            table, arch, weights=weights, size=size, device=device, window=window, frame=frame, progress=progress
        )
        if not np.isfinite(features).all():
            raise DataError(f"{name} gives no finite features of some images", "leave it out")
        probs[name] = _held_out(features, y, fold_of, groups, len(vocab), seed)
        seconds, parameters = _cost(arch, size, device)
        costs[name] = seconds, parameters, features.shape[1], encoder_facts(arch, weights).get("licence", "")
        say(f"{name}: {_right(probs[name], y).mean():.1%} of {len(y)} images correct, {seconds:.2f} s a prediction")
    rows = _ranked(probs, costs, y, vocab, groups)
    return EncoderRanking(rows, len(y), int(fold_of.max()) + 1, "images" if groups is None else unit_of(table))


def at_hand() -> list[str]:
    """Encoders whose weights are on this machine, and one of random weights to compare with."""
    found = []
    for name in LITE_NETS:
        try:
            package_weights(name)
        except MissingDependency:
            continue
        found.append(name)
    return [*found, "efficientnet_lite0=none"]


def _parted(name: str) -> tuple[str, Any]:
    """NAME=FILE: but the equals signs behind a question mark are the architecture's own."""
    arch, _, weights = name.rpartition("=") if "=" in name.partition("?")[0] else (name, "", "default")
    return arch, None if weights == "none" else weights


def _check(name: str) -> None:
    """See that an encoder can be had, before the images are read."""
    if not isinstance(name, str):
        text = f"encoders are given by name, and one is of type {type(name).__name__}"
        raise DataError(text, "register_arch(name, make) gives a network of your own a name")
    arch, weights = _parted(name)
    try:
        check_weights(arch, weights)
    except WeightsError as error:
        remedy = f"write {arch}=FILE with a file of weights, or {arch}=none for random ones; or leave it out"
        raise WeightsError(error.message, remedy) from error


def _targets(table: pd.DataFrame, vocab: list[str]) -> np.ndarray:
    """(n,) classes; (n, labels) 0/1 where an image may have several."""
    labels = [label_set(label) for label in objects(table, "label")]
    if table.attrs.get("multi_label"):
        return np.array([[name in one for name in vocab] for one in labels], int)
    return np.array([vocab.index(one[0]) for one in labels])


def _held_out(
    features: np.ndarray, y: np.ndarray, fold_of: np.ndarray, groups: np.ndarray | None, n_out: int, seed: int
) -> np.ndarray:
    """(n, n_out) probabilities of each image by the probe that did not see its fold."""
    probs = np.zeros((len(y), n_out))
    for fold in np.unique(fold_of):
        train, valid = fold_of != fold, fold_of == fold
        with one_thread_if_small(features.size):
            fitted = fit_linear(features[train], y[train], n_out, None if groups is None else groups[train], seed)
        logits = features[valid] @ fitted.weight.T + fitted.bias
        probs[valid] = to_probs(logits, multi_label=y.ndim == 2)
    return probs


def _right(probs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which images are classified correctly; of several labels, all of them."""
    return np.asarray(probs.argmax(1) == y if y.ndim == 1 else ((probs >= 0.5) == y).all(1))


def _cost(arch: str, size: int | None, device: str | None) -> tuple[float, float]:
    """Seconds of one prediction by the body, and its parameters in millions."""
    on = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    side = size or describe(arch).size
    body = build_body(arch, weights=None).eval().to(on)
    pool, x = pooling_of(body), torch.zeros(1, 3, side, side, device=on)
    seconds = []
    with torch.inference_mode():
        for _ in range(_TIMES):
            start = time.perf_counter()
            pool(body(x)).cpu()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), sum(parameter.numel() for parameter in body.parameters()) / 1e6


def _ranked(
    probs: dict[str, np.ndarray],
    costs: dict[str, tuple[float, float, int, str]],
    y: np.ndarray,
    vocab: list[str],
    groups: np.ndarray | None,
) -> list[EncoderRank]:
    order = sorted(probs, key=lambda name: (-_right(probs[name], y).mean(), costs[name][0]))
    best, rows = order[0], []
    level = 1 - 0.05 / max(1, len(order) - 1)  # as many comparisons as encoders (Bonferroni)
    for name in order:
        right = _right(probs[name], y)
        low, high = wilson(right.sum(), len(y))
        gap, ends, noise = 0.0, (0.0, 0.0), True
        if name != best:
            found = compare_predictions(
                y, probs[name], probs[best], vocab, groups=groups, multi_label=y.ndim == 2, level=level
            )["accuracy"]
            gap, ends, noise = found.value, (found.low, found.high), not found.low > 0
        seconds, parameters, n_features, licence = costs[name]
        rows.append(
            EncoderRank(
                name, float(right.mean()), low, high, gap, *ends, noise, seconds, parameters, n_features, licence
            )
        )
    return rows


def table_of(ranking: EncoderRanking) -> list[str]:
    """The ranking as lines of a terminal."""
    width = max(len(row.name) for row in ranking.rows)
    head = f"{'encoder':{width}}  accuracy  behind the best (points)  seconds  million parameters  licence"
    lines = []
    for row in ranking.rows:
        behind = f"{100 * row.behind:.1f} ({100 * row.behind_low:.1f} to {100 * row.behind_high:.1f})"
        behind = "best" if row is ranking.rows[0] else behind + (" noise" if row.noise else "")
        lines.append(
            f"{row.name:{width}}  {row.accuracy:8.1%}  {behind:24}  {row.seconds:7.3f}  {row.parameters:18.1f}  "
            f"{row.licence or '-'}"
        )
    return [head, *lines]
