"""A training told to an experiment tracker: epochs as they come, then scores with intervals, and the report."""

# ruff: noqa: D102  # what the trackers' methods do stands at Tracker
from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from medclf.config import TrainConfig
from medclf.errors import MedclfWarning
from medclf.learn.callbacks import EpochsTracked
from medclf.metrics.table import overall_metrics
from medclf.models.hub_folders import is_repository
from medclf.options import options
from medclf.reporting.report import report
from medclf.results.run_folder import PAGE
from medclf.results.wording import is_metric, without_leaks
from medclf.run.run import Run

PROJECT = "medclf"
_UNTOLD = {"out", "labels", "weights", "where"}  # may hold a path, or a patient; so may all that names a file


class Tracker(Protocol):
    """What is asked of a tracker. To add one, add a class and its row in `TRACKERS`."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Begin a run of the name of `folder`."""

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers, of an epoch where `step` says which."""

    def attach(self, page: Path, shareable: Path) -> None:
        """The report: the page of the RUN, and a copy without pictures and file names."""

    def close(self) -> None:
        """The run is over."""


class TensorBoard:
    """Into RUN/tensorboard; it keeps no files, so it gets the page's address."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))
        rows = "\n".join(f"| {name} | {value.replace('|', '/')} |" for name, value in settings.items())
        self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step or 0)

    def attach(self, page: Path, shareable: Path) -> None:
        self.writer.add_text("report", page.resolve().as_uri())

    def close(self) -> None:
        self.writer.close()


class Mlflow:
    """A run of the active experiment, at the tracking address that mlflow's own settings name."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        import mlflow

        self.mlflow = mlflow
        tags = {"mlflow.source.name": PROJECT}  # else it is the script's path
        mlflow.start_run(run_name=folder.name, tags=tags, nested=True)  # below one's own that is active
        mlflow.log_params(dict(settings))

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.mlflow.log_metrics(dict(values), step=step)

    def attach(self, page: Path, shareable: Path) -> None:
        self.mlflow.log_artifact(str(shareable))

    def close(self) -> None:
        self.mlflow.end_run()


class Wandb:
    """A run of the project medclf; what the terminal shows and what machine, folder and command it was stay here."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        import wandb

        self.wandb = wandb
        kept_here = wandb.Settings(console="off", disable_code=True, disable_git=True, x_disable_meta=True)
        options: dict[str, Any] = {"config": dict(settings), "dir": str(folder), "settings": kept_here}
        # create_new: beside a run of the user's own
        self.run = wandb.init(project=PROJECT, name=folder.name, reinit="create_new", **options)

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            self.run.summary.update(dict(values))
        else:
            self.run.log(dict(values), step=step)

    def attach(self, page: Path, shareable: Path) -> None:
        artifact = self.wandb.Artifact(f"report-{self.run.id}", type="report")
        artifact.add_file(str(shareable))
        self.run.log_artifact(artifact)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the project medclf; it keeps no files, so it gets the page's name among the settings."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        import trackio

        self.trackio = trackio
        trackio.init(project=PROJECT, name=folder.name, config={**settings, "report": f"{folder.name}/{PAGE}"})

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.trackio.log(dict(values)) if step is None else self.trackio.log(dict(values), step=step)

    def attach(self, page: Path, shareable: Path) -> None:
        pass

    def close(self) -> None:
        self.trackio.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
    "wandb": Wandb,
    "trackio": Trackio,
}


class Tracking:
    """A tracker that never costs a training: it begins with the first number, and what it raises is a warning.

    Args:
        config: of the training; its `track` names the tracker.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.name, self.folder, self.settings = config.track or "", Path(config.out), shown_settings(config)
        self._tracker: Tracker | None = None
        self._over = False

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers; those that are none are left out."""
        finite = {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        if self._over:
            return
        with self._kept_off():
            self._begun().log(finite, step)

    def finish(self, run: Run) -> None:
        """Scores with the ends of their intervals, and the report."""
        self.log(scores_of(run.results))
        if self._over:
            return
        with self._kept_off(), tempfile.TemporaryDirectory() as temporary:
            shareable = report(run.path, Path(temporary) / PAGE, pictures=False, hide_names=True)
            self._begun().attach(run / PAGE, shareable)

    def close(self) -> None:
        """End the tracker's run."""
        if self._tracker is not None:
            with self._kept_off():
                self._tracker.close()

    def _begun(self) -> Tracker:
        if self._tracker is None:
            self._tracker = TRACKERS[self.name](self.folder, self.settings)
        return self._tracker

    @contextlib.contextmanager
    def _kept_off(self) -> Iterator[None]:
        """Within it the tracker is spoken to; the first thing that it raises is the last that is heard of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # a server that is down is no reason to lose a training
            text = f"tracking by {self.name} failed: {error}. The training goes on without it"
            if not self._over:
                warnings.warn(MedclfWarning(text), stacklevel=4)
            self._over = True


_active: ContextVar[Tracking | None] = ContextVar("medclf_tracking", default=None)


@contextlib.contextmanager
def tracked(config: TrainConfig) -> Iterator[Tracking | None]:
    """Within it the fits of a training are told to the tracker that its settings name; None where they name none."""
    if not config.track:
        yield None
        return
    tracking = Tracking(config)
    before = _active.set(tracking)
    try:
        yield tracking
    finally:
        _active.reset(before)
        tracking.close()


def epochs_tracked(part: str = "") -> list[EpochsTracked]:
    """The callbacks that a fit needs: one where there is a tracker.

    Args:
        part: of a cross-validation, such as "fold-0"; "" for the only fit.
    """
    tracking = _active.get()
    return [EpochsTracked(tracking.log, f"{part}/" if part else "")] if tracking else []


def scores_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Every overall score with the ends of its interval, by name; those of a test set and without leaks too.

    Example:
        >>> scores_of({"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}, "test": {"auroc": None}})
        {'accuracy': 0.9, 'accuracy_low': 0.8, 'accuracy_high': 0.95}
    """
    parts = {"": results, "leak_free/": without_leaks(results), "test/": results.get("test") or {}}
    found: dict[str, float] = {}
    for prefix, part in parts.items():
        for metric in overall_metrics():
            if is_metric(value := part.get(metric.key, {})):
                ends = {"": value["value"], "_low": value["low"], "_high": value["high"]}
                found |= {f"{prefix}{metric.key}{end}": one for end, one in ends.items() if one is not None}
    return found


def shown_settings(config: TrainConfig) -> dict[str, str]:
    """The settings that were given, without a path of this machine and without what may name a patient."""
    values = config.as_dict() | ({"arch": "a folder of weights"} if _is_folder(config.arch) else {})
    known = options(type(config))
    untold = _UNTOLD | {"track"} | {name for name, one in known.items() if one.option.exists}
    return {name: str(values[name]) for name in known if name not in untold and values[name] is not None}


def _is_folder(arch: str) -> bool:
    return is_repository(arch) and not arch.startswith("hf-hub:")
