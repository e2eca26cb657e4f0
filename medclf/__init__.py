"""medclf: from a folder of medical images to a classifier its users can trust, explain and hand on.

The public names are imported when first used, so that `import medclf` costs nothing:

    >>> import medclf
    >>> medclf.MedclfError.__name__
    'MedclfError'
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "errors": ["MedclfError"],
    "images.med_image": ["MedImage", "MedImageBlock", "read_image"],
    "data.table": ["scan"],
    "data.audit": ["audit"],
    "data.split": [
        "KFoldSplitter",
        "PatientSplitter",
        "RandomSplitter",
        "StratifiedGroupSplitter",
        "StratifiedSplitter",
    ],
    "data.loaders": ["MedDataLoaders"],
    "data.transforms": [
        "dermoscopy_tfms",
        "endoscopy_tfms",
        "fundus_tfms",
        "histology_tfms",
        "radiograph_tfms",
        "show_augmentations",
        "tfms_for",
    ],
    "images.heat": ["hottest_box", "overlay"],
    "evaluation.saliency": ["grad_cam", "occlusion"],
    "training.learner": ["cnn_learner", "med_learner"],
    "evaluation.shortcuts": ["shortcut_test"],
    "evaluation.subgroups": ["subgroups"],
    "reporting.interpret": ["MedInterpretation"],
    "runs.compare": ["compare"],
    "runs.evaluate": ["evaluate"],
    "reporting.report": ["report"],
    "deployment.bundle": ["load_bundle", "save_bundle"],
    "deployment.onnx": ["export_onnx"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'medclf' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"medclf.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
