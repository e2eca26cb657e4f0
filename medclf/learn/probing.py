"""What a learner knows of its linear probe: whether it has one, needs one, and what it was fitted on."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import get_model

from medclf.config import Balance, Pooling
from medclf.dataset.groups import groups_of, trained_before
from medclf.errors import DataError, MedclfWarning, argument
from medclf.learn.balance import is_balanced
from medclf.learn.batches import refuse_empty, unread
from medclf.learn.decoding import Decoding
from medclf.learn.history import Trained
from medclf.learn.linear_probe import LinearProbe, fit_head
from medclf.learn.preprocessing import settings_of
from medclf.learn.weights import last_weight, weights_of
from medclf.models.heads import is_plain, pool_by
from medclf.models.pooling import GeMPool
from medclf.models.stage_maps import AllStages


class Probing(Trained, Decoding):
    """fastai's `Learner` of a body and a head, whose linear layer can be fitted on the frozen body's features.

    Attributes:
        balance: how rare classes are made to count; see `medclf.models.balance`.
        head: what the linear probe did, or None before it.
        start: the weights after the linear probe, or those that a `fine_tune` with `blend` began with.
    """

    balance: Balance = "none"
    head: LinearProbe | None = None
    start: dict[str, torch.Tensor] | None = None
    opt: Any
    loss_func: Any
    _frozen_to: int | None = None
    _trained: bool = False  # or loaded: the body is not the pretrained one any more
    _first_head: torch.Tensor | None = None
    _wants_probe: bool = True

    @property
    def linear_probe(self) -> bool:
        """Whether `fine_tune` fits the head first: only one linear layer can be fitted so."""
        parts = list(get_model(self.model).children())
        return self._wants_probe and len(parts) == 2 and is_plain(parts[1])

    @linear_probe.setter
    def linear_probe(self, wanted: bool) -> None:
        self._wants_probe = wanted

    @property
    def pooling(self) -> Pooling:
        """How the head makes one vector of feature maps; what comes after it is to be fitted anew where it changes."""
        if isinstance(get_model(self.model)[0], AllStages):
            return "stages"
        return "gem" if isinstance(next(get_model(self.model)[1].children(), None), GeMPool) else "mean"

    @pooling.setter
    def pooling(self, kind: Pooling) -> None:
        network = get_model(self.model)
        last, before = list(network.parameters())[-1], self.pooling
        with self._same_training():
            pool_by(network, kind)
        if kind != before:
            self.head = self.start = None
            self._first_head = last_weight(network).detach().cpu().clone()
        # an optimiser has the parameters of the layer that was there
        if list(network.parameters())[-1] is not last and self.opt is not None:
            self._frozen_to, self.opt = self.opt.frozen_idx, None

    @property
    def seed(self) -> int | None:
        """That the loaders were made with; None for fastai's own, which have none."""
        return getattr(self.dls.train, "seed", None)

    def _check_balance(self) -> None:
        """See that the loss is that of the balance: under another one no probability would be true.

        Raises:
            DataError: it was replaced.
        """
        if self.balance != "none" and not is_balanced(self.loss_func):
            text = f"{argument('balance', self.balance)} has a loss function of its own, and learn.loss_func is another"
            raise DataError(text, "make the learner without a balance, or leave its loss_func as it was made")

    def fit_head(self, progress: bool = True, *, views: int = 0) -> LinearProbe:
        """Fit the head on the frozen body's features of the training images; see `medclf.learn.linear_probe`.

        Args:
            progress: show a progress bar when it lasts.
            views: augmented views of each image to fit on besides the image itself.

        Of images that the body was trained on before, none is held out: the head's `held_out` is NaN there.

        Warns:
            MedclfWarning: the body's weights were changed since the last probe, by no fit of the learner.
        """
        self._check_balance()
        refuse_empty(self.dls.train)
        if self.linear_probe and self.head is None and not self.needs_probe:
            self._trained = True  # the head is none of ours, and nor need the body be
        if self._body_replaced:
            text = "the body has other weights than the linear probe was fitted on, maybe of a training on these images"
            warnings.warn(MedclfWarning(f"{text}: the head is fitted anew, and no fold holds one out"), stacklevel=2)
            self._trained = True
        with self._same_training():
            self.head = fit_head(
                self.model,
                self.dls.train,
                groups=self.groups(),
                seed=42 if (seed := settings_of(self.dls).seed) is None else seed,
                views=views,
                progress=progress,
                balance=self.balance,
                loss_func=self.loss_func,
            )
        seen = self._seen()  # every process asks, also where the first alone has what was held out
        if self.head.held_out is not None and seen.any():
            held_out = np.where(seen[:, None], np.nan, self.head.held_out)
            self.head = replace(self.head, held_out=held_out)
        self.start = weights_of(self.model)
        self._learn_from(anew=not self._trained)
        return self.head

    def _seen(self) -> np.ndarray:
        """(n,) which training images the body was trained on before: no fold of theirs says what it does on others."""
        read = ~unread(self.dls.train)
        table = getattr(self.dls, "table", None)
        if self._trained or table is None:
            return np.full(read.sum(), self._trained)
        seen, root = trained_before(table), self.dls.path
        if not seen:
            return np.full(read.sum(), False)
        known = [item.relative_to(root).as_posix() in seen for item in self.dls.train.dataset.items]
        return np.asarray(np.array(known, bool)[read])

    @property
    def is_probe(self) -> bool:
        """Whether the network is as the linear probe left it: neither trained since nor loaded."""
        if self.head is None or self.start is None:
            return False
        now = self.model.state_dict()
        return now.keys() == self.start.keys() and all(torch.equal(now[name], self.start[name]) for name in now)

    @property
    def _body_replaced(self) -> bool:
        """Whether the body has other weights than the linear probe was fitted on, and no fit or `load` gave it them."""
        if self.head is None or self.start is None or self._trained:
            return False
        body = {name: value for name, value in get_model(self.model).state_dict().items() if name.startswith("0.")}
        return any(name in self.start and not torch.equal(value, self.start[name]) for name, value in body.items())

    @property
    def needs_probe(self) -> bool:
        """Whether the head is still as it was made, or as fitted on a body that was replaced."""
        if not self.linear_probe:
            return False
        head = last_weight(self.model)
        if self.head is not None:
            return self._body_replaced and any(
                value.shape == head.shape and torch.equal(value, head) for value in (self.start or {}).values()
            )
        return self._first_head is None or (
            head.shape == self._first_head.shape and torch.equal(head.cpu(), self._first_head)
        )

    def groups(self, table: pd.DataFrame | None = None) -> np.ndarray | None:
        """Of the training images: those of one patient, and near-duplicates, belong together; None where none do.

        Args:
            table: instead of the loaders' own.
        """
        table = getattr(self.dls, "table", None) if table is None else table
        found = None if table is None else groups_of(table)
        if table is None or found is None:
            return None
        group = dict(zip(table["path"], found, strict=True))
        root = self.dls.path
        return np.asarray([group[p.relative_to(root).as_posix()] for p in self.dls.train.dataset.items])
