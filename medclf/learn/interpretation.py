"""MedInterpretation: fastai's ClassificationInterpretation, which predicts once and shows both probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from fastai.interpret import ClassificationInterpretation, Interpretation

from medclf import plots
from medclf.dataset.scan import with_problems
from medclf.display import Shown, listed
from medclf.errors import DataError, PreprocessingError
from medclf.images.heatmap import on_original, on_prepared, overlay
from medclf.images.phi import Pictures
from medclf.images.preprocessing import Preprocessing
from medclf.learn.labels import check_set
from medclf.learn.maps import of_learner
from medclf.learn.prediction import paths_of, predict_loader
from medclf.learn.preprocessing import described, preprocessing_of, reading_of
from medclf.learn.training import MedLearner
from medclf.metrics.classification import Metrics, classification_metrics
from medclf.metrics.intervals import as_plain
from medclf.models.saliency import learner_maps
from medclf.results.maps import LIMIT
from medclf.results.predictions import Predictions
from medclf.results.results import Results, most_confused, roc_curves, summarize
from medclf.results.subgroups import subgroups
from medclf.results.wording import metrics_frame, partition_name


class MedInterpretation(Shown, ClassificationInterpretation):
    """What a classifier gets right and wrong; every method works from one pass over the images.

    Attributes:
        predictions: path, label, pred, probability of each label and loss of each image.
        vocab: the labels in order.

    Example:
        >>> # interp = MedInterpretation.from_learner(learn)
        >>> # interp.plot_confusion_matrix(); interp.most_confused(); interp.plot_top_losses(9)
    """

    def __init__(
        self, learn: Any, dl: Any, predictions: Predictions | torch.Tensor, act: Any = None, partition: str = "valid"
    ) -> None:
        if not isinstance(predictions, Predictions):  # fastai's losses
            predictions = predict_loader(learn, dl, partition, act)
        # fastai's own __init__ one step further down asks the loader for a vocab, which unlabelled images have not
        Interpretation.__init__(self, learn, dl, torch.from_numpy(np.nan_to_num(predictions.losses)), act)
        self.predictions, self.partition = predictions, partition
        self.vocab = predictions.vocab

    @classmethod
    def from_learner(cls, learn: Any, ds_idx: int = 1, dl: Any = None, act: Any = None) -> MedInterpretation:
        """Predict once: unshuffled, unaugmented and whole, the training set too.

        Args:
            learn: a fastai `Learner`.
            ds_idx: 0 for train, 1 for valid.
            dl: any other loader, such as `learn.dls.test_dl(paths, with_labels=True)`.
            act: instead of the loss function's activation.

        Raises:
            DataError: the loaders have no such set, or `learn` is no learner.
        """
        if not hasattr(learn, "dls"):
            raise DataError(f"from_learner takes a learner, not a {type(learn).__name__}", "evaluate takes a bundle")
        if dl is None:
            check_set(learn.dls, ds_idx)
        partition = ("train", "valid")[ds_idx] if dl is None and ds_idx < 2 else "test"
        loader = (learn.dls[ds_idx] if dl is None else dl).new(shuffle=False, drop_last=False)
        ours = isinstance(learn, MedLearner)  # features are for `assess`, which then needs no pass of its own
        predictions = predict_loader(learn, loader, partition, act, features=ours)
        if len(predictions) < len(loader.dataset):  # some could no longer be read: fastai's methods see the rest
            kept = [Path(learn.dls.path) / path for path in predictions.table["path"]]
            loader = learn.dls.test_dl(kept, with_labels=True)
        return cls(learn, loader, predictions, act, partition)

    def _shown(self) -> tuple[str, dict[str, Any], pd.DataFrame | None]:
        p = self.predictions
        facts: dict[str, Any] = {f"{partition_name(self.partition)} images": len(p), "labels": listed(p.vocab)}
        if p.multi_label:
            return type(self).__name__, facts, None
        matrix, named = self.confusion_matrix(), pd.Index(p.vocab, name="actual")
        facts |= {"classified correctly": f"{np.trace(matrix)} of {matrix.sum()}"}
        confused = [f"{actual} as {predicted} ({n})" for actual, predicted, n in self.most_confused()[:3]]
        facts |= {"most confused": ", ".join(confused)} if confused else {}
        return type(self).__name__, facts, pd.DataFrame(matrix, named, pd.Index(p.vocab, name="predicted"))

    def metrics_frame(self, **kwargs: Any) -> pd.DataFrame:
        """`metrics` as a table: one row a metric, with value, low, high and n."""
        return metrics_frame(as_plain(self.metrics(**kwargs)))

    def to_frame(self) -> pd.DataFrame:
        """One row an image: path, label, pred, loss, prob_NAME, and the data's other columns."""
        return self.predictions.to_frame()

    def metrics(self, **kwargs: Any) -> Metrics:
        """Every metric with its interval; see `medclf.metrics.classification.classification_metrics`."""
        p = self.predictions
        kwargs = {"predicted": p.decided, "ordinal": p.ordinal, **kwargs}
        return classification_metrics(p.y, p.probs, p.vocab, groups=p.groups, multi_label=p.multi_label, **kwargs)

    def subgroups(self, *columns: str, n_boot: int = 2000) -> dict[str, dict[str, Any]]:
        """Metrics by group (sex, view, scanner: any column of the table); see `medclf.results.subgroups`."""
        return subgroups(self.predictions, columns, n_boot=n_boot)

    def facts(self, n_boot: int = 2000) -> Results:
        """What `results.json` holds and the report shows."""
        head = getattr(self.learn, "head", None)
        return summarize(
            self.predictions,
            partition=self.partition,
            table=self._table(),
            recipe=described(self.learn),
            history=getattr(self.learn, "history", ()),
            linear_probe=head.as_dict() if head is not None else None,
            n_boot=n_boot,
        )

    def _table(self) -> pd.DataFrame | None:
        table, problems = (getattr(self.learn.dls, name, None) for name in ("table", "problems"))
        return with_problems(table, problems) if problems else table

    def confusion_matrix(self) -> Any:
        """(n_labels, n_labels) counts, rows are the actual labels; multi-label: {label: [[tn, fp], [fn, tp]]}."""
        p = self.predictions
        if p.multi_label:
            return {
                label: np.array([[np.sum((p.y[:, k] == a) & (p.predicted[:, k] == b)) for b in (0, 1)] for a in (0, 1)])
                for k, label in enumerate(p.vocab)
            }
        n = len(p.vocab)
        known = p.y >= 0
        return np.bincount(n * p.y[known] + p.predicted[known].argmax(1), minlength=n * n).reshape(n, n)

    def plot_confusion_matrix(
        self,
        normalize: bool = False,
        title: str = "Confusion matrix",
        cmap: str = "Blues",
        norm_dec: int = 2,
        plot_txt: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Draw the matrix, or one 2x2 matrix a label for multi-label; returns the Axes.

        Args:
            normalize, title, cmap, norm_dec, plot_txt: see `plots.plot_confusion_matrix`; for one label an image.
            kwargs: `ax`, or what the new figure gets: `figsize`, `dpi`, ...
        """
        if self.predictions.multi_label:
            return plots.plot_2x2(self.confusion_matrix(), **kwargs)
        drawn = {"title": title, "cmap": cmap, "norm_dec": norm_dec, "plot_txt": plot_txt, **kwargs}
        return plots.plot_confusion_matrix(self.confusion_matrix(), self.vocab, normalize, **drawn)

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """(actual, predicted, n), the largest first."""
        return most_confused(self.confusion_matrix(), self.vocab, min_val)

    def print_classification_report(self) -> None:
        """Print scikit-learn's report, from the same one pass."""
        from sklearn.metrics import classification_report

        p = self.predictions
        pred = p.predicted if p.multi_label else p.predicted.argmax(1)
        print(classification_report(p.y, pred, labels=range(len(p.vocab)), target_names=p.vocab, zero_division=0))

    def read(self, path: str | Path) -> np.ndarray:
        """The pixels of an image of the table, (height, width[, 3]) uint8, as a reader would see it."""
        return self.reader(show_burned_in=True)({"path": path})

    def reader(self, show_burned_in: bool = False) -> Pictures:
        """A function from a row of the table to its pixels, for a page; it may withhold some, see `why_withheld`."""
        try:
            how = reading_of(self.learn.dls)
        except PreprocessingError:  # fastai's own images: shown as medclf reads them
            how = Preprocessing()
        anywhere = frozenset(str(path) for path in paths_of(self.dl))  # loaders without a path= read files from there
        return Pictures(Path(self.learn.dls.path), how, show_burned_in, anywhere)

    def similar(self, k: int = 5) -> list[list[str]]:
        """The `k` training images most similar to each image in the network's features, the nearest first."""
        from medclf.learn.neighbours import similar_training_images

        pairs = similar_training_images(self.learn, self.predictions.table["path"], k)
        found = pairs.groupby("path")["neighbour"].agg(list).to_dict()
        return [found.get(path, []) for path in self.predictions.table["path"]]

    def top_losses(self, k: int | None = None, largest: bool = True, items: bool = False) -> Any:
        """fastai's; all where there are fewer than `k`."""
        if k is not None and k < 1:
            raise DataError(f"k must be 1 or more, not {k}", "say how many losses to give")
        return super().top_losses(None if k is None else min(k, len(self.losses)), largest, items)

    def plot_top_losses(
        self,
        k: int | slice | Sequence[int] = 9,
        largest: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Draw images with their file name, actual and predicted label, and the probability of each.

        Args:
            k: how many, or which ranks.
            largest: the worst first; False for the best.
            nrows, ncols: of the grid.
            kwargs: `figsize`, `axes` of `plots.plot_images`.
        """
        chosen = self._ranks(k, largest)
        images = [self.read(self.predictions.table["path"].iloc[i]) for i in chosen]
        grid = {} if nrows is None and ncols is None else {"n_cols": ncols or -(-len(chosen) // (nrows or 1))}
        return plots.plot_images(images, [self._title(i) for i in chosen], **(grid | kwargs))

    def _ranks(self, k: int | slice | Sequence[int], largest: bool = True) -> list[int]:
        """The rows with these ranks by loss."""
        order: list[int] = self.top_losses(None, largest)[1].tolist()
        ranks, asked = np.arange(len(order)), cast(Any, k)
        try:
            if not isinstance(asked, slice) and np.ndim(asked) == 0:
                if asked < 1:
                    raise DataError(f"k must be 1 or more, not {k}", "say how many images to draw")
                asked = slice(asked)
            chosen = ranks[asked if isinstance(asked, slice) else [int(i) for i in asked]]
        except (IndexError, TypeError, ValueError):
            chosen = ranks[:0]
        if not len(chosen):
            text = f"k={k!r} chooses no ranks of the {len(order)} images"
            raise DataError(text, "say how many images to draw, or which ranks, from 0 on, as a list or slice")
        return [order[i] for i in chosen]

    def maps(self, limit: int = LIMIT) -> dict[str, str]:
        """Where the network looked, as the report shows it.

        Args:
            limit: how many images get a map: the errors first, by falling loss.

        Returns:
            {path: data URI of a PNG to lay over the image}; where there are none, {"": why}. See `map_pictures` in
            `medclf.results.maps`.
        """
        return of_learner(self.learn, self.predictions, limit)

    def plot_saliency(
        self, k: int | Sequence[int] = 9, label: str | None = None, method: str = "grad-cam", **kwargs: Any
    ) -> Any:
        """Draw the images with the highest losses, and where the network looked in them.

        Args:
            k: how many, or which ranks, as in `plot_top_losses`.
            label: what to look for; the label predicted of each image where None.
            method: "grad-cam", or "occlusion", which is slower; see `medclf.grad_cam` and `medclf.occlusion`.
            kwargs: `n_cols`, `figsize`, `axes` of `plots.plot_images`.

        Raises:
            DataError: the label is not in the vocab.
            PreprocessingError: it is not known which part of an image the loaders show.
            MedclfError: the network gives no map of the image.
        """
        how = preprocessing_of(self.learn.dls)
        p, chosen = self.predictions, self._ranks(k)
        labels = [label or p.vocab[p.probs[i].argmax()] for i in chosen]
        paths = [p.table["path"].iloc[i] for i in chosen]
        found = learner_maps(self.learn, [Path(self.learn.dls.path) / path for path in paths], labels, method)
        images = [self.read(path) for path in paths]
        shown = [
            overlay(image, on_original(on_prepared(heat, how), image.shape, how))
            for image, heat in zip(images, found, strict=True)
        ]
        titles = [f"{self._title(i)}\nlooked at for {name}" for i, name in zip(chosen, labels, strict=True)]
        return plots.plot_images(shown, titles, **kwargs)

    def _title(self, i: int) -> str:
        p = self.predictions
        name = Path(p.table["path"].iloc[i]).name
        if p.multi_label:
            return f"{name}\nactual {p.labels[i] or 'none'}\npredicted {p.preds[i] or 'none'}\nloss {p.losses[i]:.2f}"
        actual = f"actual {p.labels[i]} ({p.probs[i, p.y[i]]:.0%})" if p.y[i] >= 0 else "actual unknown"
        return f"{name}\n{actual}\npredicted {p.preds[i]} ({p.probs[i].max():.0%})\nloss {p.losses[i]:.2f}"

    def plot_roc(self, ax: Any = None, **kwargs: Any) -> Any:
        """Draw one curve a label, one against the rest; returns the Axes."""
        return plots.plot_roc(roc_curves(self.predictions), ax, **kwargs)

    def plot_training(self, ax: Any = None, **kwargs: Any) -> Any:
        """Draw loss and metrics by epoch; returns the Axes."""
        return plots.plot_training(getattr(self.learn, "history", ()), ax, **kwargs)
