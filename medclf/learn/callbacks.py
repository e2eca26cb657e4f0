"""Trainings that survive a kill, and the best model kept: fastai callbacks that write nothing but safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastai.callback.progress  # noqa: F401 - gives Learner its no_bar
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.schedule import Learner
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Recorder
from fastai.torch_core import distrib_barrier, get_model, rank_distrib
from fastcore.foundation import L

from medclf.errors import BundleError, DataError, MedclfWarning
from medclf.files import write_tensors
from medclf.learn.checkpoint import Position, apply_state, position_in, read_state, save_checkpoint
from medclf.progress import has_screen


def only_looking(learn: Any) -> bool:
    """Whether the learner is not being trained: it predicts, validates (fastai holds its lock) or looks for a rate."""
    return hasattr(learn, "gather_preds") or hasattr(learn, "lr_finder") or learn.lock.locked()


class Resumable(Callback):
    """Keep a checkpoint while training, and go on from it after a kill.

    Give it to `fit`, `fit_one_cycle` or `fine_tune` as `cbs=`. After each epoch all that the training needs is written
    to `path`. When the same script runs again and finds the file, the epochs that are done are passed over (their lines
    are printed again) and the training goes on with the next one, at its place in the schedule. The finished weights
    are bit-identical to those of an unbroken run on the same machine, versions, threads and seed.

    Args:
        path: the checkpoint, such as "run/last.safetensors".
        every: "epoch", or a number of epochs between checkpoints; after the last epoch there always is one.
        resume: False begins anew and replaces a file that is there.

    Raises:
        BundleError: when the fit begins: the file is damaged, or of another network, data, seed or number of epochs.
        OutputError: when an epoch ends: the checkpoint cannot be written.

    Example:
        >>> # learn.fine_tune(20, cbs=Resumable("run/last.safetensors"))
    """

    order = 95  # after everything that belongs to an epoch: the Recorder, trackers, early stopping

    def __init__(self, path: str | Path, every: str | int = "epoch", resume: bool = True) -> None:
        self.path, self.resume = Path(path), resume
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise DataError(f'every must be "epoch" or a number of epochs, not {every!r}', "1 or more")
        self.every = every if isinstance(every, int) else 1
        self.done = Position(fit=-1)
        self._state: dict[str, Any] | None = None

    @property
    def replaying(self) -> bool:
        """Whether the epoch that is going on was done before the kill."""
        return self._state is not None

    def before_fit(self) -> None:
        """Read the checkpoint, once; a fit that was done, or its first epochs, will be passed over."""
        self.run = not only_looking(self.learn)
        if not self.run:
            return
        if self.done.fit < 0 and self.resume and self.path.is_file():
            self._state = read_state(self.path)
            self._kept = position_in(self._state, self.path)
            self._tell()
        self.done = Position(self.done.fit + 1, 0, self.learn.n_epoch, self.done.rows[: self.done.fit + 1])
        self.done.rows.append([])
        if self._state is None or self.done.fit < self._kept.fit:
            return
        if self._kept.n_epoch not in (0, self.learn.n_epoch):
            raise BundleError(
                f"{self.path} is of a fit of {self._kept.n_epoch} epochs, this one has {self.learn.n_epoch}",
                "train for as many epochs as before, or remove it to train from the beginning",
            )
        if self._kept.epoch == 0:
            hypers = [dict(group) for group in self.learn.opt.hypers]  # as this fit has just set them
            self._restore()
            for name in hypers[0]:
                self.learn.opt.set_hyper(name, L(group[name] for group in hypers))

    def before_epoch(self) -> None:
        """Pass over an epoch that was done before the kill, with what the Recorder noted then."""
        if self._state is None:
            return
        rows = self._kept.rows[self.done.fit] if self.done.fit < len(self._kept.rows) else []
        if self.learn.epoch >= len(rows):
            raise CancelFitException  # that fit ended early
        if hasattr(self.learn, "recorder"):
            self.learn.recorder.log = L([self.learn.epoch, *rows[self.learn.epoch]])
        raise CancelEpochException

    def after_epoch(self) -> None:
        """Write the checkpoint; or, after the last epoch passed over, bring everything to where it was."""
        if self._state is not None:
            self.done.rows[-1].append(self._kept.rows[self.done.fit][self.learn.epoch])
            if self.done.fit == self._kept.fit and self.learn.epoch + 1 == self._kept.epoch:
                self._restore()
            return
        self.done.epoch = self.learn.epoch + 1
        self.done.rows[-1].append([_number(value) for value in getattr(self.learn, "final_record", [])])
        if self.done.epoch % self.every == 0 or self.done.epoch == self.learn.n_epoch:
            if not rank_distrib():
                save_checkpoint(self.learn, self.path, self.done)
            distrib_barrier()

    def after_cancel_fit(self) -> None:
        """Early stopping, passed through again: what it stopped at is in the checkpoint."""
        if self._state is not None and self.done.fit == self._kept.fit:
            self._restore()

    def _restore(self) -> None:
        assert self._state is not None
        apply_state(self.learn, self._state, self.path)
        self.done.epoch, self._state = self._kept.epoch, None

    def _tell(self) -> None:
        if self._kept.epoch:
            where = f"after epoch {self._kept.epoch} of {self._kept.n_epoch}"
            warnings.warn(MedclfWarning(f"the training goes on from {self.path}, {where}"), stacklevel=2)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


class SaveBest(TrackerCallback):
    """Keep the best model as safetensors while training, and load it at the end.

    As fastai's `SaveModelCallback`, whose reload unpickles; this one's file holds tensors alone. It can be given to
    `med_learner(weights=...)`.

    Args:
        path: the file, such as "run/best.safetensors".
        monitor: what to judge by: "valid_loss", "train_loss", or a metric's name.
        comp: numpy's comparison; `np.less` for losses and errors, else `np.greater`.
        min_delta: by how much it must be better.

    Raises:
        DataError: when the fit begins: there is no such metric.

    Example:
        >>> # learn.fine_tune(20, cbs=SaveBest("run/best.safetensors", monitor="accuracy"))
    """

    order = TrackerCallback.order + 1

    def __init__(self, path: str | Path, monitor: str = "valid_loss", comp: Any = None, min_delta: float = 0.0) -> None:
        super().__init__(monitor=monitor, comp=comp, min_delta=min_delta)
        self.path, self.best_epoch = Path(path), -1

    def before_fit(self) -> None:
        """Begin to compare."""
        names = list(self.learn.recorder.metric_names[1:])
        if self.monitor not in names:
            raise DataError(f"unknown monitor '{self.monitor}'", f"choose from {', '.join(names)}")
        super().before_fit()
        self.run, self.best_epoch = not only_looking(self.learn), -1

    def after_epoch(self) -> None:
        """Write the model where it is the best so far."""
        super().after_epoch()
        if not self.new_best:
            return
        self.best_epoch = self.learn.epoch
        passed_over = any(cb.replaying for cb in self.learn.cbs if isinstance(cb, Resumable))
        if not passed_over and not rank_distrib():
            facts = {"monitor": self.monitor, "value": str(float(self.best)), "epoch": str(self.best_epoch)}
            write_tensors(self.path, get_model(self.learn.model).state_dict(), facts)

    def after_fit(self) -> None:
        """Load the best model."""
        distrib_barrier()
        if self.best_epoch >= 0:
            load_weights(self.learn, self.path)
        super().after_fit()


def load_weights(learn: Any, path: str | Path) -> None:
    """Load a whole network's weights from the safetensors file that `SaveBest` wrote.

    Raises:
        BundleError: no such file, damaged, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        get_model(learn.model).load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise BundleError(f"{path} is damaged or of another network: {reason}", "train again") from error


@contextmanager
def told_in_lines(learn: Learner, say: Callable[[str], None] = print) -> Iterator[None]:
    """Within it, fits tell each epoch in a line instead of drawing bars, where the output is no terminal or notebook.

    Args:
        learn: the learner.
        say: called with the line.
    """
    if has_screen(stderr=False):
        yield
        return
    before = learn.logger

    def tell(values: Sequence[Any]) -> None:
        named = zip(learn.recorder.metric_names[1:], values[1:], strict=True)
        shown = (f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in named)
        say(f"epoch {values[0] + 1}: {', '.join(shown)}")

    learn.logger = tell
    try:
        with learn.no_bar():
            yield
    finally:
        learn.logger = before


class EpochsTracked(Callback):
    """Tells each epoch's losses, metrics and learning rate, except those that a killed run had told.

    Args:
        tell: what is given the numbers by name, and the epoch, from 1.
        prefix: before each name, such as "fold-0/".
    """

    order = Recorder.order + 1

    def __init__(self, tell: Callable[[Mapping[str, float], int], None], prefix: str = "") -> None:
        self.tell, self.prefix, self.step = tell, prefix, 0

    def after_epoch(self) -> None:
        """Tell it."""
        self.step += 1
        if any(cb.replaying for cb in self.learn.cbs if isinstance(cb, Resumable)):
            return
        recorder = self.learn.recorder
        values = dict(zip(recorder.metric_names[1:-1], recorder.values[-1], strict=False))
        values["lr"] = self.learn.opt.hypers[-1]["lr"]
        self.tell({f"{self.prefix}{name}": value for name, value in values.items()}, self.step)
