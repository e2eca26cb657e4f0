"""What a learner says of images: labels and probabilities under every loss function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastcore.foundation import L

from medclf.errors import DataError, MedclfError
from medclf.images.reading import content_of
from medclf.learn.labels import check_set, has_labels, is_multi_label, refuse_other_labels
from medclf.learn.precision import check_float32


class Decoding(Learner):
    """fastai's `Learner`, whose `predict` and `show_results` do not need a loss function that can decode."""

    loss_func: Any

    def predict(self, item: Any, *args: Any, **kwargs: Any) -> Any:
        """fastai's: of one image; a label and probabilities under torch's own loss functions too."""
        if getattr(self.dls, "table", None) is not None and (item is None or isinstance(item, (list, tuple, L))):
            raise MedclfError(
                f"predict takes one image, not a {type(item).__name__}",
                "give a path, bytes, an array or a PIL image; of many: learn.get_preds(dl=learn.dls.test_dl(files))",
            )
        with self._decoding():
            return super().predict(content_of(item), *args, **kwargs)

    def show_results(self, ds_idx: int = 1, dl: Any = None, *args: Any, **kwargs: Any) -> None:
        """fastai's; see `predict`."""
        self._check_loader("show_results", ds_idx, dl)
        with self._decoding():
            super().show_results(ds_idx, dl, *args, **kwargs)

    def validate(self, ds_idx: int = 1, dl: Any = None, *args: Any, **kwargs: Any) -> Any:
        """fastai's."""
        self._check_loader("validate", ds_idx, dl)
        return super().validate(ds_idx, dl, *args, **kwargs)

    def get_preds(self, ds_idx: int = 1, dl: Any = None, *args: Any, **kwargs: Any) -> Any:
        """fastai's."""
        self._check_loader("with_loss=True" if kwargs.get("with_loss") else "", ds_idx, dl)
        return super().get_preds(ds_idx, dl, *args, **kwargs)

    def _check_loader(self, compares: str, ds_idx: int, dl: Any) -> None:
        """See that there is such a set, of the network's labels, and with labels where predictions are held to them."""
        if not isinstance(dl, list):  # batches that are handed in are of the type that they are wanted in
            check_float32(self.model, self.cbs)
        if dl is None:
            check_set(self.dls, ds_idx)
            return
        refuse_other_labels(self.dls, dl)
        if compares and not has_labels(dl):
            raise DataError(
                f"{compares} holds predictions against labels, and these images have none",
                "give dl=learn.dls.test_dl(files, with_labels=True), or learn.get_preds(dl=...) for its answers alone",
            )

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Within it a loss function that cannot make labels of outputs gives way to fastai's, which can."""
        own = self.loss_func
        if not hasattr(own, "activation"):
            self.loss_func = (BCEWithLogitsLossFlat if is_multi_label(self.dls) else CrossEntropyLossFlat)()
        try:
            yield
        finally:
            self.loss_func = own
