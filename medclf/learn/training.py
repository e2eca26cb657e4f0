"""How a network is trained: fastai's Learner, with a linear probe and the backbone's own normalisation."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from fastai.callback.schedule import Learner, LRFinder
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.learner import Recorder
from fastcore.foundation import L

from medclf.config import TrainConfig
from medclf.display import Shown, listed
from medclf.errors import DataError, MedclfError, WeightsError, argument, check_known
from medclf.learn import distributed
from medclf.learn.arguments import check_callbacks, rates_asked, rates_by_group
from medclf.learn.balance import balanced_loss, draw_evenly, is_balanced
from medclf.learn.callbacks import SaveBest
from medclf.learn.checkpoint import seeded
from medclf.learn.growing_sizes import Sizes, growing
from medclf.learn.labels import class_names, is_multi_label, refuse_other_labels
from medclf.learn.measures import check_measures, ends_in_logits
from medclf.learn.normalization import normalized
from medclf.learn.partial import training_from
from medclf.learn.precision import autocast_restored, check_float32
from medclf.learn.preprocessing import spec_of
from medclf.learn.probing import Probing
from medclf.learn.weights import BlendWeights, KeepStatistics, sample_of, weights_of
from medclf.models.spec import ModelSpec, Normalization
from medclf.options import options

if TYPE_CHECKING:
    from medclf.learn.assess import Assessment

BASE_LR = 1e-4


class MedLearner(Shown, Probing):
    """fastai's `Learner`; `fine_tune` begins with the linear probe instead of frozen epochs.

    Attributes:
        arch, weights, dropout: what the network was built from.
        stats: mean and standard deviation that every loader normalises with; None for as the loaders are.
        balance, head, start: see `medclf.learn.probing`.
        history, returned_epoch, tuning: what is known of the last fit; see `medclf.learn.history`.
    """

    arch: str
    weights: str | None
    dropout: float
    stats: Normalization | None = None
    _tuned: int = 0
    _measures: tuple[Any, ...] = ()  # loss function and metrics that were checked
    _fitting: bool = False

    def _shown(self) -> tuple[str, dict[str, Any], pd.DataFrame | None]:
        vocab = getattr(self.dls, "vocab", None)
        facts = {
            "weights": getattr(self, "weights", None) or "random",
            "labels": "unknown" if vocab is None else listed(class_names(self.dls)),
            "images": f"{len(self.dls.train_ds)} training, {len(self.dls.valid_ds)} validation",
            "device": str(self.dls.device),
            "linear probe": "fitted" if self.head is not None else "not yet fitted" if self.linear_probe else "none",
            "epochs trained": len(self.history),
        }
        history = pd.DataFrame(list(self.history)).set_index("epoch") if self.history else None
        return f"{type(self).__name__} {getattr(self, 'arch', '')}".strip(), facts, history

    @property
    def dls(self) -> DataLoaders:
        """The loaders; other ones that are put here get the network's normalisation too."""
        return self._dls

    @dls.setter
    def dls(self, dls: DataLoaders) -> None:
        refuse_other_labels(getattr(self, "_dls", dls), dls)
        dls = dls if self.stats is None else normalized(dls, self.stats.mean, self.stats.std)
        before, now = (getattr(one.train, "dataset", None) for one in (getattr(self, "_dls", dls), dls))
        empty = isinstance(now, Sized) and not len(now)  # as of a learner that is exported
        if self.balance == "sampling" and not empty:
            draw_evenly(dls, len(class_names(dls)))
        self._dls = dls
        if now is before or empty:
            return
        self._warn_of_learned()
        self.head = self.head and self.head.alone()  # its features are of the images that were there
        if is_balanced(self.loss_func):  # its weights are those of the labels that were there
            self.loss_func = balanced_loss(dls, self.balance, len(class_names(dls)), is_multi_label(dls))

    @property
    def spec(self) -> ModelSpec:
        """What a bundle says of the network, looked up in the loaders now.

        Raises:
            PreprocessingError: the loaders do to validation images what a bundle cannot carry over.
        """
        return spec_of(self)

    @property
    def recipe(self) -> dict[str, Any]:
        """The name that `spec` had in 0.1, as a dict."""
        warnings.warn("learn.recipe is now learn.spec, or learn.spec.as_dict()", DeprecationWarning, stacklevel=2)
        return self.spec.as_dict()

    def fit(self, n_epoch: int, lr: Any = None, *args: Any, **kwargs: Any) -> None:
        """fastai's; the epochs are kept, since the Recorder forgets them with the next prediction."""
        if (n := distributed.launched()) > 1 and distributed.n_ranks() == 1:
            text = f"{n} processes were launched, and each would train on its own"
            raise MedclfError(text, "call what trains within: with learn.distrib_ctx():")
        self._check_balance()
        check_float32(self.model, self.cbs)
        self._check_measures()
        cbs = [*self.cbs, *L(kwargs.get("cbs"))]
        check_callbacks(self, cbs)
        before, self._fitting, ended = sample_of(self.model), True, False
        try:
            with self._same_training():
                super().fit(n_epoch, self._rates(lr), *args, **kwargs)
            ended = True
        finally:  # a training that Ctrl-C ends has trained as well
            self._fitting = False
            moved = ended or not torch.equal(before, sample_of(self.model))
            if moved and not any(isinstance(cb, LRFinder) for cb in cbs):  # which brings back what was there
                self._trained = True
                self._learn_from()
                self._note_epochs(cbs)

    def _note_epochs(self, cbs: Sequence[Any]) -> None:
        """Keep the epochs of the fit that was, as far as they were ended."""
        self._history, self._returned_epoch = (), None
        recorder = next((cb for cb in self.cbs if isinstance(cb, Recorder)), None)  # which may have been removed
        if recorder is None:
            return
        names = [name for name in recorder.metric_names if name not in {"epoch", "time"}]
        rows = [row for row in recorder.values if len(row) == len(names)]  # those of ShortEpochCallback are cut short
        self._history = [
            {
                "epoch": epoch,
                **{name: math.nan if v is None else float(v) for name, v in zip(names, row, strict=True)},
            }
            for epoch, row in enumerate(rows, 1)
        ]
        self._returned_epoch = _returned(cbs, self._history) if rows else None

    def _check_measures(self) -> None:
        """See that a loss function and metrics that were put here take these labels; see `check_measures`."""
        measures = (self.loss_func, *self.metrics)
        if len(measures) == len(self._measures) and all(a is b for a, b in zip(measures, self._measures, strict=True)):
            return
        loss_func = None if is_balanced(self.loss_func) else self.loss_func
        how = (is_multi_label(self.dls), len(class_names(self.dls)), self.dls.device)
        check_measures(loss_func, self.metrics, *how, logits=ends_in_logits(self.model))
        self._measures = measures

    def one_batch(self, *args: Any, **kwargs: Any) -> None:
        """fastai's; mixed precision ends with the batch, whatever ends that."""
        with autocast_restored(self.dls.device):
            super().one_batch(*args, **kwargs)

    def freeze_to(self, n: int) -> None:
        """fastai's, put off until there is an optimiser: the linear probe alone needs none."""
        if self.opt is None:
            self._frozen_to = n
        else:
            super().freeze_to(n)

    def create_opt(self) -> None:
        """fastai's, then frozen as was asked before."""
        super().create_opt()
        if self._frozen_to is not None:
            frozen_to, self._frozen_to = self._frozen_to, None
            super().freeze_to(frozen_to)

    def summary(self) -> Any:
        """fastai's; what is frozen is shown as such before the first fit too."""
        from fastai.callback import hook  # noqa: F401 - gives Learner its summary

        if self.opt is None:
            self.create_opt()
        return super().summary()

    def fit_one_cycle(self, n_epoch: int, lr_max: Any = None, *args: Any, **kwargs: Any) -> None:
        """fastai's; for `lr_max` as a list see `rates_by_group`."""
        super().fit_one_cycle(n_epoch, self._rates(lr_max), *args, **kwargs)

    def fit_flat_cos(self, n_epoch: int, lr: Any = None, *args: Any, **kwargs: Any) -> None:
        """fastai's; for `lr` as a list see `rates_by_group`."""
        super().fit_flat_cos(n_epoch, self._rates(lr), *args, **kwargs)

    def fit_sgdr(self, n_cycles: int, cycle_len: int, lr_max: Any = None, *args: Any, **kwargs: Any) -> None:
        """fastai's; for `lr_max` as a list see `rates_by_group`."""
        super().fit_sgdr(n_cycles, cycle_len, self._rates(lr_max), *args, **kwargs)

    def _rates(self, given: Any) -> Any:
        rates = rates_asked(given)
        if not isinstance(rates, list):
            return rates
        if self.opt is None:
            self.create_opt()
        return rates_by_group(rates, len(self.opt.hypers))

    @contextmanager
    def distrib_ctx(self, sync_bn: bool | None = None, **kwargs: Any) -> Iterator[MedLearner]:
        """fastai's, for a script that `torchrun` or `accelerate launch` starts; see `medclf.learn.distributed_trainer`.

        Args:
            sync_bn: whether BatchNorm layers share their statistics; None for yes on GPUs where they are trained.
            kwargs: of `accelerate.Accelerator`.

        Example:
            >>> # with learn.distrib_ctx(): learn.fine_tune(5)
        """
        if distributed.launched() == 1:
            yield self
            return
        from medclf.learn.distributed_trainer import together

        with together(self, sync_bn, **kwargs):
            yield self

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """fastai's; of other weights the history is not known, and they may have been trained on these images.

        Raises:
            WeightsError: they do not fit the network, which stays as it is.
        """
        if self._fitting:  # lr_find brings back what was there, SaveModelCallback the best epoch
            return super().load(*args, **kwargs)
        before = weights_of(self.model)
        try:
            result = super().load(*args, **kwargs)
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            self.model.load_state_dict(before)  # those that fit were loaded
            raise _unfit(args[0] if args else kwargs["file"], str(error), self.dls) from error
        now = self.model.state_dict()
        if any(not torch.equal(value, now[name]) for name, value in before.items()):
            self._trained = True
            self._forget_training()
        return result

    def export(self, *args: Any, **kwargs: Any) -> None:
        """fastai's; the file holds neither the training images' features nor the last assessment and its pictures."""
        own = self.__dict__
        kept: dict[str, Any] = {name: own.pop(name) for name in ("head", "start", "last_assessment") if name in own}
        self.head = kept["head"].alone() if kept.get("head") else None
        try:
            super().export(*args, **kwargs)
        finally:
            own.update(kept)

    def assessed(self) -> Assessment:
        """What is known of the network as it is now; see `medclf.assess`, which this does where it was not done."""
        from medclf.learn.assess import assessment_of

        return assessment_of(self)

    @contextmanager
    def training_from(self, stage: str, keep: bool | None = None) -> Iterator[None]:
        """A context within which fits and `lr_find` train the network from `stage` on, after the linear probe.

        The stages below get no gradient, keep their BatchNorm statistics and drop nothing out. Where nothing augments
        and the loaders have a cache, what they give is computed once for each image, kept beside the cache as float16,
        and the batches are gathered from it; else they are run without gradients.

        Args:
            stage: "layer4", say; `medclf.models.stages.stage_names(learn.model)` names them.
            keep: False never keeps anything; True insists on it.

        Raises:
            MedclfError: the network has no such stage (the message names those it has), or `keep` is asked for where
                it cannot be.

        Example:
            >>> # with learn.training_from("layer4"): learn.lr_find()
        """
        with training_from(self, stage, keep):  # first, since the head is fitted on what is kept
            if self.needs_probe:
                self.fit_head()
            yield

    def fine_tune(
        self,
        epochs: int,
        base_lr: float | slice | list[float] | tuple[float, ...] | None = None,
        freeze_epochs: int = 1,
        lr_mult: float | None = None,
        pct_start: float = 0.3,
        div: float = 5.0,
        *,
        train_from: str | None = None,
        keep: bool | None = None,
        size: Sizes | None = None,
        freeze_bn: bool = True,
        blend: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Fit the head first, then train the whole network for `epochs` with one cycle.

        With `linear_probe` off this is fastai's own `fine_tune`. With it, `fine_tune(0)` is the probe alone. The head
        is fitted once: never again in a second call, nor where weights were trained or loaded before, from which the
        training then goes on.

        The loaders' `seed` decides all that is drawn, such as dropout, so that the same call gives the same weights;
        the global random state is left alone.

        Args:
            epochs: passes over the training images with the whole network.
            base_lr: of the head; or a slice or a list, as `fit_one_cycle` takes it.
            freeze_epochs: only without the linear probe.
            train_from: the first stage that is trained, such as "layer4"; all where None. See `training_from`.
            keep: whether what the stages below give is kept; see `training_from`.
            size: sides in pixels of the training images, such as (128, 224): the epochs are shared evenly among them,
                the smaller first; the last is the loaders' own, which all validation is done at.
            blend: the share of the trained weights in the finished ones; the rest are those that this call began with.
                Below 1 it keeps more of what pretraining knew (Wortsman et al. 2022, "WiSE-FT"). The average is made
                before the last epoch is validated. `freeze_bn=False` turns it off: an average then means nothing.
            freeze_bn: the body's BatchNorm layers keep their statistics, which the head's features were made with.
            lr_mult: the first stage's learning rate is `base_lr / lr_mult`; where None 10, or fastai's 100 without the
                linear probe.
            pct_start, div: of the cycle, as fastai's.
            kwargs: of `fit_one_cycle` (`cbs`, `wd`, `div_final`, `moms`, ...).

        Raises:
            MedclfError: without the linear probe, rates by group, which fastai's `fine_tune` does not take; or an
                argument that `fit_one_cycle` has not.
            DataError: a number that cannot be.
        """
        check_known(kwargs, self.fine_tune, Learner.fit_one_cycle)
        options(TrainConfig)["epochs"].checked(epochs)
        if not 0 <= blend <= 1:
            raise DataError(f"blend must be from 0 to 1, not {blend}", "1 keeps the trained weights alone")
        base_lr = rates_asked(base_lr)
        with ExitStack() as scope:
            if train_from is not None and epochs:
                scope.enter_context(self.training_from(train_from, keep if size is None else False))
            if self.needs_probe:
                self.fit_head()
            if self.linear_probe and not epochs:
                return
            scope.enter_context(seeded(None if self.seed is None else self.seed + self._tuned))
            self._tuned += 1  # another call draws other numbers
            sizes = list(size) if isinstance(size, Sequence) else size
            top = base_lr.stop if isinstance(base_lr, slice) else base_lr
            top = top[-1] if isinstance(top, (list, tuple)) else top
            self.tuning = {"epochs": epochs, "lr": top, "train_from": train_from, "sizes": sizes}
            if size is not None:
                scope.enter_context(growing(self, size))
            cycle = {"pct_start": pct_start, "div": div}
            if not self.linear_probe:
                if isinstance(base_lr, (slice, list, tuple)):
                    raise MedclfError(
                        f"without a linear probe, fine_tune takes one number as base_lr, not {base_lr}",
                        "give one number, or call fit_one_cycle(epochs, lr_max=slice(lowest, highest))",
                    )
                base_lr = 2e-3 if base_lr is None else base_lr
                lr_mult = 100 if lr_mult is None else lr_mult
                Learner.fine_tune(self, epochs, base_lr, freeze_epochs, lr_mult, **cycle, **kwargs)
                return
            base_lr = BASE_LR if base_lr is None else base_lr
            rates = base_lr if isinstance(base_lr, (slice, list, tuple)) else slice(base_lr / (lr_mult or 10), base_lr)
            cbs = [*L(kwargs.pop("cbs", None)), *([KeepStatistics()] if freeze_bn else [])]
            if freeze_bn and blend < 1:
                self.start = weights_of(self.model)
                cbs.append(BlendWeights(blend))
            self.unfreeze()
            self.fit_one_cycle(epochs, rates, cbs=cbs, **cycle, **kwargs)


def _unfit(file: Any, said: str, dls: DataLoaders) -> WeightsError:
    """Weights that torch does not load, by what it says of their shapes."""
    shapes = re.findall(r"Size\(\[(\d+).*\]\) from checkpoint.*Size\(\[(\d+).*\]\)", said)
    vocab = class_names(dls)
    if "key(s)" in said or len(set(shapes)) != 1 or shapes[0][1] != str(len(vocab)):
        text = f"the weights of '{file}' are of another network than this learner's"
        return WeightsError(text, "make the learner with the architecture and the head that they were saved from")
    text = f"the weights of '{file}' are for {shapes[0][0]} labels, and the loaders have {len(vocab)}: {listed(vocab)}"
    own = f"med_learner takes the body alone: {argument('weights', 'FILE')}"
    return WeightsError(text, f"load them into a learner of those labels; {own}")


def _returned(cbs: Sequence[Any], history: Sequence[Mapping[str, float]]) -> int:
    """The epoch that the network is of: the last, or the best where a callback has brought that back."""
    for cb in cbs:
        if isinstance(cb, SaveBest) or (isinstance(cb, SaveModelCallback) and not cb.every_epoch and not cb.at_end):
            values = [row.get(cb.monitor) for row in history]
            if cb.best in values:
                return values.index(float(cb.best)) + 1
    return len(history)
