"""What 0.1 called otherwise: it still works, with a warning, and goes with 0.3."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FOLDERS = ("data", "data.twins", "training", "evaluation", "deployment", "runs")

MODULES = {
    "data.audit": "auditing.audit",
    "data.catalog": "dataset.public_data",
    "data.corrections": "dataset.corrections",
    "data.loaders": "learn.dataloaders",
    "data.short_audit": "auditing.short_audit",
    "data.split": "dataset.splits",
    "data.synthetic": "demo_images",
    "data.table": "dataset.scan",
    "data.transforms": "learn.presets",
    "deployment.bundle": "inference.bundle",
    "deployment.onnx": "inference.onnx",
    "deployment.predictor": "inference.predictor",
    "deployment.server": "serving.app",
    "evaluation.abstain": "metrics.abstention",
    "evaluation.agreement": "metrics.agreement",
    "evaluation.basis": "auditing.calibration_set",
    "evaluation.calibration": "metrics.calibration",
    "evaluation.comparison": "metrics.comparison",
    "evaluation.decisions": "auditing.decisions",
    "evaluation.intervals": "metrics.intervals",
    "evaluation.metrics": "metrics.classification",
    "evaluation.neighbours": "learn.neighbours",
    "evaluation.ood": "metrics.ood",
    "evaluation.operating": "metrics.thresholds",
    "evaluation.predictions": "results.predictions",
    "evaluation.results": "results.results",
    "evaluation.saliency": "models.saliency",
    "evaluation.shortcuts": "auditing.shortcut_test",
    "evaluation.subgroups": "results.subgroups",
    "evaluation.suspects": "auditing.label_errors",
    "evaluation.worth": "auditing.assess",
    "images.burned_in": "images.phi",
    "images.heat": "images.heatmap",
    "images.med_image": "learn.image_block",
    "images.pixels": "images.reading",
    "reporting.claim": "reporting.checklist.claim",
    "reporting.interpret": "learn.interpretation",
    "reporting.plots": "plots",
    "runs.compare": "run.compare",
    "runs.config": "run.config",
    "runs.evaluate": "run.evaluate",
    "runs.explain": "run.explain",
    "runs.review": "run.review",
    "runs.second_read": "run.second_read",
    "runs.train": "run.train",
    "training.backbones": "models.backbones",
    "training.callbacks": "learn.callbacks",
    "training.checkpoints": "learn.checkpoint",
    "training.head_start": "learn.linear_probe",
    "training.learner": "learn.learner",
    "training.stages": "models.stages",
}

NAMES = {
    "RandomSplitter": "dataset.splitters.SeededSplitter",
    "cnn_learner": "learn.learner.med_learner",
    "data.split.FolderSplitter": "dataset.splitters.FolderSplitter",
    "data.split.RandomSplitter": "dataset.splitters.SeededSplitter",
    "evaluation.basis.Basis": "auditing.calibration_set.CalibrationSet",
    "evaluation.calibration.Bin": "metrics.reliability.Bin",
    "evaluation.calibration.brier": "metrics.reliability.brier",
    "evaluation.calibration.ece": "metrics.reliability.ece",
    "evaluation.calibration.reliability": "metrics.reliability.reliability",
    "evaluation.decisions.Wishes": "auditing.decisions.DecisionPolicy",
    "evaluation.worth.Worth": "auditing.calibrate.Calibrated",
    "evaluation.worth.judge": "auditing.calibrate.calibrate",
    "runs.compare.compare_page": "run.compare.compare",
    "training.head_start.HeadStart": "learn.linear_probe.LinearProbe",
    "training.learner.cnn_learner": "learn.learner.med_learner",
}


def look_up(module: str, name: str) -> Any:
    """What now stands for a name that `module` had in 0.1.

    Raises:
        AttributeError: it never had one.

    Warns:
        DeprecationWarning: with the new name, where that has changed.
    """
    old = f"{module}.{name}".removeprefix("medclf.")
    if old in NAMES:
        home, _, new = NAMES[old].rpartition(".")
        warn(f"medclf.{old}", f"medclf.{NAMES[old]}")
    else:
        home, new = MODULES.get(module.removeprefix("medclf."), ""), name
    if not home or new.startswith("__"):  # inspect asks all modules for __file__, also while torch is being imported
        raise AttributeError(f"module '{module}' has no attribute '{name}'", name=name)
    return getattr(importlib.import_module(f"medclf.{home}"), new)


def warn(old: str, new: str) -> None:
    """Say that `old` is now `new`, at the line of whoever is neither medclf nor the import machinery."""
    frame, level = sys._getframe(1), 2
    while (name := frame.f_globals.get("__name__", "")).startswith(("medclf", "importlib")) and frame.f_back:
        frame, level = frame.f_back, level + (name != "importlib._bootstrap")  # which warnings does not count
    warnings.warn(f"{old} is now {new}, and goes with medclf 0.3", DeprecationWarning, stacklevel=level)


class _OldPaths:  # importlib.abc would make `import medclf` load tempfile and more
    """Finds the modules of 0.1: each gives what the module that took its place has."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, _, old = name.partition(".")
        if top != "medclf" or (old not in MODULES and old not in FOLDERS):
            return None
        return ModuleSpec(name, self, is_package=old in FOLDERS)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """The module is made as usual."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = MODULES.get(old.removeprefix("medclf."))
        if new is not None:
            warn(old, f"medclf.{new}")
            module.__getattr__ = lambda name: look_up(old, name)  # type: ignore[method-assign]


sys.meta_path.append(_OldPaths())
