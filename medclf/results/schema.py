"""What stands in a run's results.json: its version, its shape, and what 0.1 called otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medclf.errors import DataError
from medclf.metrics.table import overall_metrics
from medclf.results.record import REMEDY, read_json, rename
from medclf.results.shapes import (
    COUNT,
    NUMBER,
    OBJECT,
    TEXT,
    Shape,
    by_name,
    either,
    fields,
    list_of,
    maybe,
    one_of,
    row_of,
)

SCHEMA = 2  # of results.json

_METRIC = fields(
    {"value": maybe(NUMBER), "low": maybe(NUMBER), "high": maybe(NUMBER)}, {"n": maybe(COUNT), "note": maybe(TEXT)}
)
_METRICS = {metric.key: _METRIC for metric in overall_metrics()}
_SENTENCE = {"sentence": maybe(TEXT)}
_MATRIX = list_of(list_of(COUNT))
_BARS = list_of(fields({"low": NUMBER, "high": NUMBER, "confidence": maybe(NUMBER), "frequency": _METRIC}))
_CURVE = dict.fromkeys(("coverage", "accuracy", "low", "high"), list_of(NUMBER))
_POINT = fields(
    {},
    {
        **_SENTENCE,
        "label": TEXT,
        "threshold": maybe(NUMBER),
        "table": by_name(COUNT),
        "by": TEXT,
        "wish": maybe(by_name(NUMBER)),
        "prevalence": NUMBER,
    },
)
_SHIFT: dict[str, Shape] = {"label": TEXT, "fitted": NUMBER, "prevalence": NUMBER}
_WAY = fields({}, {"thresholds": by_name(NUMBER), "weights": by_name(NUMBER)})
_DATA = fields(
    {},
    {
        "n_images": COUNT,
        "counts": by_name(by_name(COUNT)),
        "images": by_name(COUNT),
        "problems": list_of(fields({"path": TEXT, "problem": TEXT})),
        "notes": list_of(TEXT),
        "split": fields({}, _SENTENCE),
    },
)
_SECTIONS: dict[str, Shape] = {
    "audit": fields(
        {},
        {
            "sentences": list_of(fields({"finding": TEXT})),
            "pairs": list_of(fields({"path_a": TEXT, "path_b": TEXT, "kind": TEXT}, {"similarity": maybe(NUMBER)})),
            "found": by_name(COUNT),
            "classes": either(list_of(OBJECT), by_name(OBJECT)),
            "sizes": either(list_of(OBJECT), by_name(OBJECT)),
            "leaks": by_name(OBJECT),
        },
    ),
    "leak_free": fields({}, {**_SENTENCE, "numbers": by_name(fields({}, _METRICS))}),
    "calibration": fields({}, {**_SENTENCE, "reliability": by_name(_BARS), "prevalence": fields(_SHIFT, _SENTENCE)}),
    "abstain": fields({}, {**_SENTENCE, "numbers": OBJECT, "curve": fields({}, _CURVE)}),
    "decision": fields({}, {**_SENTENCE, "ways": by_name(_WAY)}),
    "operating_point": either(by_name(_POINT), _POINT),
    "ood": fields({}, _SENTENCE),
    "ordinal": fields({}, {**_SENTENCE, "order": list_of(TEXT), "off_by": by_name(COUNT)}),
    "tabular": fields(
        {}, {**_SENTENCE, "numbers": by_name(OBJECT), "notes": list_of(TEXT), "shortcuts": list_of(TEXT)}
    ),
    "external": list_of(fields({"images": TEXT, "n": COUNT}, _METRICS)),
    "subgroups": by_name(OBJECT),
    "folds": list_of(OBJECT),
    "fold_spread": by_name(OBJECT),
    "corrections": OBJECT,
    "shortcuts": OBJECT,
    "saliency": OBJECT,
    "plan": fields({}, {**_SENTENCE, "candidates": list_of(OBJECT)}),
    "augmentation": fields({}, _SENTENCE),
    "card": by_name(TEXT),
    "checklist": fields({}, {"items": list_of(OBJECT)}),
    "test": OBJECT,
}
RESULTS = fields(
    {"vocab": list_of(TEXT), "task": one_of("single-label", "multi-label"), "n": COUNT},
    {
        **_METRICS,
        **{name: maybe(shape) for name, shape in _SECTIONS.items()},
        "partition": TEXT,
        "n_groups": maybe(COUNT),
        "n_patients": maybe(COUNT),
        "per_class": by_name(fields({}, {"n": COUNT})),
        "confusion_matrix": either(_MATRIX, by_name(_MATRIX)),
        "most_confused": list_of(row_of(TEXT, TEXT, COUNT)),
        "roc": by_name(fields({"fpr": list_of(NUMBER), "tpr": list_of(NUMBER)})),
        "training": fields({}, {"history": list_of(OBJECT), "linear_probe": maybe(OBJECT)}),
        "data": _DATA,
        "settings": fields({}, {"preprocessing": OBJECT}),
        "versions": by_name(TEXT),
    },
)
_BOXES = fields({"task": one_of("boxes"), "boxes": OBJECT})


def read_results(path: str | Path) -> dict[str, Any]:
    """results.json, checked, with the names of today.

    Raises:
        DataError: the file is missing or damaged, or of a later medclf.
    """
    results = read_json(path, either(_BOXES, RESULTS), version="schema", newest=SCHEMA)
    if results.get("task") == "boxes":
        raise DataError(
            f"{path} is of a detector, which gives boxes and no labels",
            "its page is report.html; medclf predict RUN FILES prints its boxes",
        )
    rename(results.get("training"), "head_start", "linear_probe")  # as 0.1 called it
    matrix, n = results.get("confusion_matrix"), len(results["vocab"])
    if isinstance(matrix, list) and {len(matrix), *map(len, matrix)} != {n}:
        raise DataError(f"{path} is damaged: its confusion_matrix is not of its {n} labels", REMEDY)
    return results
