"""Pictures for notebooks and papers: every function takes numbers and an optional Axes, and returns the Axes.

The only module of medclf that imports matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from medclf.errors import DataError
from medclf.results.history import LOSSES, history_metrics

RIGHT, WRONG, GREY = "#1f6f8b", "#c2571a", "#8a8f98"
Size = tuple[float, float]


def _plain(text: str) -> str:
    """`text` as it stands: matplotlib would read what stands between two dollars as a formula."""
    return str(text).replace("$", r"\$")


class Panels(np.ndarray):
    """A flat array of Axes, which a notebook does not print above the figure."""

    def _ipython_display_(self) -> None:
        """Nothing: the figure is shown already."""


def _axes(ax: Axes | None, figsize: Size | None = None, **figure: Any) -> Axes:
    if ax is None:
        ax = plt.subplots(figsize=figsize, layout="constrained", **figure)[1]
    vars(ax)["_ipython_display_"] = _shown_already
    return ax


def _shown_already() -> None:
    """What a notebook calls to show an Axes: it shows the figure anyway."""


def _grid(n: int, n_cols: int, axes: Any, figsize: Size | None, cell: Size) -> np.ndarray:
    """`n` Axes as a flat array: the caller's, or new ones in rows of `n_cols`."""
    if axes is not None:
        flat = np.asarray(axes, dtype=object).ravel()
        if len(flat) < n:
            raise DataError(f"{n} pictures need {n} Axes, but {len(flat)} were given", "give more, or none")
        return flat.view(Panels)
    n_cols = max(1, min(n_cols, n))
    n_rows = -(-n // n_cols)
    figsize = figsize or (cell[0] * n_cols, cell[1] * n_rows)
    made = plt.subplots(n_rows, n_cols, figsize=figsize, squeeze=False, layout="constrained")[1]
    return np.asarray(made).ravel().view(Panels)


def _write_counts(ax: Axes, shares: np.ndarray, texts: Sequence[Sequence[str]]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.55 else "black"
        ax.text(column, row, texts[row][column], ha="center", va="center", color=color, fontsize="small")


def plot_confusion_matrix(
    matrix: ArrayLike,
    vocab: Sequence[str],
    normalize: bool = False,
    ax: Axes | None = None,
    *,
    title: str = "Confusion matrix",
    cmap: str = "Blues",
    norm_dec: int = 2,
    plot_txt: bool = True,
    figsize: Size | None = None,
    **figure: Any,
) -> Axes:
    """Draw a confusion matrix: a row an actual label, a column a predicted one, colour by share of the row.

    Args:
        matrix: (C, C) counts, rows actual.
        vocab: the C labels in order.
        normalize: write shares of the row instead of counts.
        ax: where to draw; a new figure when None.
        title: the heading.
        cmap: matplotlib's name of the colours.
        norm_dec: decimal places of the shares.
        plot_txt: write the counts or shares into the cells.
        figsize: of the new figure, in inches.
        figure: of the new figure (`dpi`, `facecolor`, ...).

    Returns:
        The Axes.

    Raises:
        DataError: the matrix is not (C, C).

    Example:
        >>> ax = plot_confusion_matrix([[8, 2], [1, 9]], ["normal", "polyp"])
        >>> ax.get_xlabel(), [t.get_text() for t in ax.texts]
        ('Predicted', ['8', '2', '1', '9'])
    """
    counts, n = np.asarray(matrix), len(vocab)
    if counts.shape != (n, n):
        raise DataError(f"a matrix of shape {counts.shape} does not fit {n} labels", f"it must be ({n}, {n})")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    ax = _axes(ax, figsize or (2.5 + 0.6 * n, 2 + 0.6 * n), **figure)
    ax.imshow(shares, cmap=cmap, vmin=0, vmax=1)
    texts = [[f"{s:.{norm_dec}f}" for s in r] for r in shares] if normalize else counts.astype(str).tolist()
    if plot_txt:
        _write_counts(ax, shares, texts)
    ax.set_xticks(range(n), vocab, rotation=45 if n > 2 else 0, ha="right" if n > 2 else "center")
    ax.set_yticks(range(n), vocab)
    ax.set(xlabel="Predicted", ylabel="Actual", title=title)
    return ax


def plot_2x2(
    matrices: Mapping[str, ArrayLike], axes: Any = None, *, n_cols: int = 4, figsize: Size | None = None
) -> np.ndarray:
    """Draw one 2x2 matrix a label, as multi-label results have them.

    Args:
        matrices: {label: [[tn, fp], [fn, tp]]}.
        axes: as many Axes as labels; new ones when None.
        n_cols: panels in a row.
        figsize: of the new figure, in inches.

    Returns:
        A flat array of the Axes, in the order of `matrices`.

    Example:
        >>> axes = plot_2x2({"effusion": [[80, 5], [4, 11]]})
        >>> axes[0].get_title(), [t.get_text() for t in axes[0].texts]
        ('effusion', ['TN 80', 'FP 5', 'FN 4', 'TP 11'])
    """
    flat = _grid(len(matrices), n_cols, axes, figsize, (2.4, 2.4))
    for ax, (label, matrix) in zip(flat, matrices.items(), strict=False):
        counts = np.asarray(matrix)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros((2, 2)), where=totals > 0)
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [["TN", "FP"], ["FN", "TP"]]
        _write_counts(ax, shares, [[f"{names[r][c]} {counts[r, c]}" for c in (0, 1)] for r in (0, 1)])
        ax.set_xticks([0, 1], ["no", "yes"])
        ax.set_yticks([0, 1], ["no", "yes"])
        ax.set(xlabel="Predicted", ylabel="Actual", title=_plain(label))
    for ax in flat[len(matrices) :]:
        ax.set_axis_off()
    return flat


def _curves(y: ArrayLike, probs: ArrayLike, vocab: Sequence[str]) -> dict[str, dict[str, Any]]:
    """One-against-rest curves of every label that has both positives and negatives."""
    from sklearn.metrics import roc_auc_score, roc_curve

    actual, scores = np.asarray(y), np.asarray(probs, dtype=float)
    truth = actual if actual.ndim == 2 else actual[:, None] == np.arange(len(vocab))
    curves = {}
    for column, label in enumerate(vocab):
        if 0 < truth[:, column].sum() < len(truth):
            fpr, tpr, _ = roc_curve(truth[:, column], scores[:, column])
            auroc = roc_auc_score(truth[:, column], scores[:, column])
            curves[label] = {"fpr": fpr, "tpr": tpr, "auroc": float(auroc)}
    return curves


def plot_roc(
    curves: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Axes | None = None,
    *,
    y: ArrayLike | None = None,
    probs: ArrayLike | None = None,
    vocab: Sequence[str] | None = None,
    figsize: Size | None = (5, 5),
) -> Axes:
    """Draw a ROC curve a label: sensitivity against 1 - specificity.

    Args:
        curves: {label: {"fpr", "tpr"[, "auroc"]}}, as in results.json; `auroc` may be a number or a
            metric with a "value". None when `y`, `probs` and `vocab` are given.
        ax: where to draw; a new figure when None.
        y: (n,) label indices, or (n, C) 0/1 where images may have several labels.
        probs: (n, C) probabilities.
        vocab: the C labels.
        figsize: of the new figure, in inches.

    Returns:
        The Axes.

    Raises:
        DataError: neither curves nor all of y, probs and vocab.

    Example:
        >>> ax = plot_roc(y=[0, 0, 1, 1], probs=[[.9, .1], [.6, .4], [.7, .3], [.2, .8]], vocab=["a", "b"])
        >>> [t.get_text() for t in ax.get_legend().get_texts()]
        ['a (AUROC 0.750)', 'b (AUROC 0.750)']
    """
    if curves is None:
        if y is None or probs is None or vocab is None:
            raise DataError("plot_roc needs the curves, or y, probs and vocab", "see results.json for the curves")
        curves = _curves(y, probs, vocab)
    ax = _axes(ax, figsize)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for label, curve in curves.items():
        auroc = curve.get("auroc")
        auroc = auroc.get("value") if isinstance(auroc, Mapping) else auroc
        name = label if auroc is None else f"{label} (AUROC {auroc:.3f})"
        ax.plot(curve["fpr"], curve["tpr"], label=name, linewidth=1.6)
    ax.set(xlabel="1 - specificity", ylabel="Sensitivity", title="ROC", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.set_aspect("equal")
    if curves:
        ax.legend(loc="lower right", fontsize="small")
    return ax


def plot_training(
    history: Sequence[Mapping[str, Any]], ax: Axes | None = None, *, figsize: Size | None = (7, 4)
) -> Axes:
    """Draw loss and metrics by epoch, as figure 9 of Lakhani et al. 2018 does.

    Args:
        history: one dict an epoch: "epoch", "train_loss", "valid_loss" and any metric.
        ax: where to draw the losses; the metrics get a second scale on its right. A new figure when None.
        figsize: of the new figure, in inches.

    Returns:
        The Axes of the losses.

    Example:
        >>> ax = plot_training([{"epoch": 0, "train_loss": 0.9, "valid_loss": 0.7, "accuracy": 0.6},
        ...                     {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.4, "accuracy": 0.9}])
        >>> [t.get_text() for t in ax.get_legend().get_texts()]
        ['train loss', 'valid loss', 'accuracy']
    """
    ax = _axes(ax, figsize)
    lines = []
    for name, color in zip(LOSSES, (GREY, WRONG), strict=True):
        lines += _draw_history(ax, history, name, color=color, linewidth=1.6)
    metrics = history_metrics(history)
    if metrics:
        right = ax.twinx()
        right.set(ylabel="Metric", ylim=(0, 1.02))
        colors = [RIGHT, "#6a4c93", "#2a9134", "#a4243b"]
        for index, name in enumerate(metrics):
            color = colors[index % len(colors)]
            lines += _draw_history(right, history, name, color=color, linestyle="--", linewidth=1.6)
    ax.set(xlabel="Epoch", ylabel="Loss", title="Training")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if lines:
        ax.legend(handles=lines, loc="best", fontsize="small")
    return ax


def _draw_history(ax: Axes, history: Sequence[Mapping[str, Any]], name: str, **style: Any) -> list[Any]:
    points = [(row.get("epoch", i), row[name]) for i, row in enumerate(history) if row.get(name) is not None]
    if not points:
        return []
    return ax.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="o", markersize=3, **style)


def plot_images(
    images: Sequence[ArrayLike | None],
    titles: Sequence[str] | None = None,
    axes: Any = None,
    *,
    n_cols: int = 3,
    right: Sequence[bool] | None = None,
    figsize: Size | None = None,
) -> np.ndarray:
    """Draw images in a grid with their titles.

    Args:
        images: (H, W) grey or (H, W, 3) RGB arrays, uint8 or uint16; None leaves its place empty.
        titles: one an image.
        axes: as many Axes as images; new ones when None.
        n_cols: images in a row.
        right: one an image; a title is drawn in blue where True and in orange where False.
        figsize: of the new figure, in inches.

    Returns:
        A flat array of the Axes.

    Example:
        >>> axes = plot_images([np.zeros((8, 8), np.uint8), None], ["a.png", "missing.png"])
        >>> [ax.get_title() for ax in axes]
        ['a.png', 'missing.png']
    """
    flat = _grid(len(images), n_cols, axes, figsize, (3.2, 3.4))
    for index, (ax, image) in enumerate(zip(flat, images, strict=False)):
        if image is not None:
            pixels = np.asarray(image)
            top = 65535 if pixels.dtype == np.uint16 else 255
            ax.imshow(pixels / top, cmap="gray" if pixels.ndim == 2 else None, vmin=0, vmax=1)
        if titles is not None:
            color = "black" if right is None else (RIGHT if right[index] else WRONG)
            ax.set_title(_plain(titles[index]), fontsize="small", color=color)
    for ax in flat:
        ax.set_axis_off()
    return flat
