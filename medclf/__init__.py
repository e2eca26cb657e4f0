"""medclf: from a folder of medical images to a classifier its users can trust, explain and hand on.

The public names are imported when first used, so that `import medclf` costs nothing:

    >>> import medclf
    >>> medclf.MedclfError.__name__
    'MedclfError'
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "errors": ["MedclfError"],
    "learn.image_block": ["MedImage", "MedImageBlock", "read_image"],
    "dataset.scan": ["scan"],
    "auditing.audit": ["audit"],
    "dataset.splits": [
        "KFoldSplitter",
        "PatientSplitter",
        "RandomSplitter",
        "StratifiedGroupSplitter",
        "StratifiedSplitter",
    ],
    "learn.dataloaders": ["MedDataLoaders"],
    "learn.presets": [
        "dermoscopy_tfms",
        "endoscopy_tfms",
        "fundus_tfms",
        "histology_tfms",
        "radiograph_tfms",
        "show_augmentations",
        "tfms_for",
    ],
    "images.heatmap": ["hottest_box", "overlay"],
    "models.saliency": ["grad_cam", "occlusion"],
    "learn.learner": ["cnn_learner", "med_learner"],
    "auditing.shortcut_test": ["shortcut_test"],
    "results.subgroups": ["subgroups"],
    "learn.interpretation": ["MedInterpretation"],
    "run.compare": ["compare"],
    "run.evaluate": ["evaluate"],
    "reporting.report": ["report"],
    "inference.bundle": ["load_bundle", "save_bundle"],
    "inference.onnx": ["export_onnx"],
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
