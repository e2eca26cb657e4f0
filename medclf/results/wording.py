"""How a number and the main sentence of results.json are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medclf.config import UNIT_PLURALS
from medclf.files import is_number

if TYPE_CHECKING:
    import pandas as pd

_PARTITIONS = {"train": "training", "valid": "validation"}


RULES = {  # the ways to choose labels, in tables
    "accuracy": "by highest probability",
    "balanced": "by share in training",
    "threshold": "by operating point",
}


def partition_name(partition: str | None) -> str:
    """A partition's name in sentences.

    Example:
        >>> partition_name("valid"), partition_name("test"), partition_name(None)
        ('validation', 'test', '')
    """
    return _PARTITIONS.get(partition or "", partition or "")


def counted(results: Mapping[str, Any], n: int = 2) -> str:
    """What the numbers count: images, or patients, studies, series ... where these have one answer each.

    Example:
        >>> counted({}), counted({"units": {"by": "study"}}, 1), counted({"units": {"by": "exam"}})
        ('images', 'study', 'units')
    """
    return counted_as((results.get("units") or {}).get("by"), n)


def counted_as(unit: str | None, n: int = 2) -> str:
    """What answers are for: images, where `unit` is None; or patients, studies, series, folders, files, units.

    Example:
        >>> counted_as(None), counted_as("study", 1), counted_as("file"), counted_as("exam")
        ('images', 'study', 'files', 'units')
    """
    if unit is None:
        return "image" if n == 1 else "images"
    unit = unit if unit in UNIT_PLURALS else "unit"
    return unit if n == 1 else UNIT_PLURALS.get(unit, "units")


def of_several(n: int, unit: str, by: str = "headers") -> str:
    """What is said where the images that get one answer name several patients, studies or series.

    Example:
        >>> of_several(2, "study")
        'the headers of these images name 2 studies, and all of them get one answer: give those of one study at a time'
    """
    text = f"the {by} of these images name {n} {counted_as(unit)}, and all of them get one answer"
    return f"{text}: give those of one {unit} at a time"


def is_metric(value: Any) -> bool:
    """Whether `value` is a metric: {"value", "low", "high", "n"}.

    Example:
        >>> is_metric({"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}), is_metric({"n": 3})
        (True, False)
    """
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def without_leaks(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers without leaked images; {} where none leaks, or where nothing else is left.

    Example:
        >>> without_leaks({"leak_free": {"numbers": {"all": {"n": 40}, "without leaks": {"n": 36}}}}), without_leaks({})
        ({'n': 36}, {})
    """
    numbers = list(((results.get("leak_free") or {}).get("numbers") or {}).values())
    return numbers[-1] if len(numbers) > 1 else {}


def of_validation(results: Mapping[str, Any]) -> str:
    """What is to be said of scores on validation images; "" of others.

    Example:
        >>> of_validation({"partition": "test"})
        ''
        >>> of_validation({"partition": "valid"})
        'The validation set was used during training, so these scores are optimistic.'
    """
    if results.get("partition") != "valid":
        return ""
    training = results.get("training") or {}
    if results.get("folds") or (training.get("linear_probe") and not training.get("history")):
        return "Each image was scored by a model not fitted on it. Scores that models are chosen by are optimistic."
    return "The validation set was used during training, so these scores are optimistic."


def score_key(results: Mapping[str, Any]) -> str:
    """The metric that a run's score is told by: mean AUROC where an image may have several labels, else accuracy.

    Example:
        >>> score_key({"task": "multi-label"}), score_key({"task": "single-label"})
        ('auroc', 'accuracy')
    """
    return "auroc" if results.get("task") == "multi-label" else "accuracy"


def labels_scored(results: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> str:
    """How many labels a mean AUROC is of; "" where accuracy is told, all count, or it is not known.

    A label that no image has, or every image, has no AUROC.

    Args:
        results: the run's.
        found: the numbers on other images of it, such as those that do not leak; `results` where None.

    Example:
        >>> labels_scored({"task": "multi-label", "vocab": ["a", "b", "c"]}, {"labels_scored": 2})
        '2 of 3 labels'
    """
    found, n = results if found is None else found, len(results.get("vocab") or [])
    if results.get("task") != "multi-label":
        return ""
    scored = n_scored(found) if found.get("per_class") else found.get("labels_scored", n)
    return f"{scored} of {n} labels" if scored < n else ""


def n_scored(results: Mapping[str, Any]) -> int:
    """How many labels a mean AUROC is of: all but those that have none."""
    found = [row.get("auroc") for row in (results.get("per_class") or {}).values()]
    return sum(not is_metric(auroc) or auroc["value"] is not None for auroc in found)


def metrics_frame(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row a metric: value, low, high and n; those of one label under "METRIC of LABEL".

    Args:
        results: of `classification_metrics`, or what results.json holds.

    Example:
        >>> auroc = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40}
        >>> metrics_frame({"auroc": auroc, "per_class": {"polyp": {"sensitivity": auroc}}}).value.to_dict()
        {'auroc': 0.9, 'sensitivity of polyp': 0.9}
    """
    import pandas as pd

    found = {name: value for name, value in results.items() if is_metric(value)}
    for label, section in dict(results.get("per_class") or {}).items():
        found |= {f"{name} of {label}": value for name, value in section.items() if is_metric(value)}
    columns = ["value", "low", "high", "n"]
    rows = [[value.get(column) for column in columns] for value in found.values()]
    return pd.DataFrame(rows, pd.Index(found, name="metric"), columns)


WEAK_JUDGE = 0.9  # share of the labels that a judge agrees with: with less, what it doubts may be its own errors
FEW_IMAGES = 10  # of a label, below which a mean over the labels is told to rest on them


def rests_on_few(results: Mapping[str, Any]) -> str:
    """A sentence on the label that makes the means over the labels uncertain; "" where each has enough images.

    Example:
        >>> rests_on_few({"per_class": {"polyp": {"n": 40}, "ulcer": {"n": 4}}})
        "'ulcer' has only 4 images here: balanced accuracy and the other means over the labels rest on them, ..."
        >>> rests_on_few({"per_class": {"polyp": {"n": 40}, "ulcer": {"n": 30}}})
        ''
    """
    counts = {label: row["n"] for label, row in (results.get("per_class") or {}).items() if row.get("n")}
    label = min(counts, key=lambda one: counts[one], default="")
    if counts.get(label, FEW_IMAGES) >= FEW_IMAGES:
        return ""
    images, them = counted(results, counts[label]), "them" if counts[label] > 1 else "it"
    return (
        f"'{label}' has only {counts[label]} {images} here: balanced accuracy and the other means over the labels "
        f"rest on {them}, and their intervals are wide."
    )


def as_sentence(text: str) -> str:
    """A clause with a capital letter before it and a full stop behind.

    Example:
        >>> as_sentence("one cycle")
        'One cycle.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def percent(share: Any, digits: int = 1) -> str:
    """A share as a percentage; a dash where there is none.

    Nothing short of all reads as 100 %, and nothing above none as 0 %.

    Example:
        >>> percent(0.9464), percent(1.0), percent(0.9999), percent(0.0001), percent(None), percent(0.997, 0)
        ('94.6 %', '100 %', '>99.9 %', '<0.1 %', '–', '>99 %')
    """
    if not is_number(share):
        return "–"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    step = 10.0**-digits  # in percent
    if not step / 200 <= share < 1 - step / 200 and 0 < share < 1:
        return f">{100 - step:g} %" if share > 0.5 else f"<{step:g} %"
    return f"{100 * share:.{digits}f} %"


def number(value: Any, unit: str = "") -> str:
    """A number as a reader wants it: counts whole with thin spaces, the rest with three decimals.

    Example:
        >>> number(12345), number(0.98765), number(0.5, "%"), number(None), number(3e-5)
        ('12\\u202f345', '0.988', '50.0 %', '–', '<0.001')
    """
    if unit == "%":
        return percent(value)
    if not is_number(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def interval(metric: Any, unit: str = "", digits: int = 1) -> str:
    """The ends of a metric's interval; `digits` are those of percentages.

    Example:
        >>> interval({"value": 0.93, "low": 0.916, "high": 0.941, "n": 1600}, "%")
        '91.6 to 94.1 %'
    """
    if not is_metric(metric) or not (is_number(metric["low"]) and is_number(metric["high"])):
        return ""
    if unit == "%":
        low, high = (f"{100 * metric[end]:.{digits}f}".replace("100.0", "100") for end in ("low", "high"))
        return f"{low} to {high} %"
    return f"{metric['low']:.3f} to {metric['high']:.3f}"


def confidence_gap(ece: Mapping[str, Any]) -> str:
    """How far confidence and accuracy differ, for a sentence that says where.

    Example:
        >>> confidence_gap({"value": 0.161, "low": 0.058, "high": 0.219, "n": 50})
        'confidence and accuracy differ by 16 points on average (95 % CI 6 to 22)'
    """
    gap, ends = round(100 * ece["value"]), interval(ece, "%", 0)
    text = f"confidence and accuracy differ by {gap} point{'' if gap == 1 else 's'} on average"
    return text + (f" (95 % CI {ends.removesuffix(' %')})" if ends else "")


def measured(metric: Mapping[str, Any]) -> str:
    """A share with its interval, in no more digits than the interval allows.

    Example:
        >>> measured({"value": 0.92, "low": 0.804, "high": 0.97, "n": 50})
        '92 % (95 % CI 80 to 97 %)'
        >>> measured({"value": 0.9312, "low": 0.9262, "high": 0.9358, "n": 10000})
        '93.1 % (95 % CI 92.6 to 93.6 %)'
    """
    ends = interval(metric, "%")
    digits = 0 if ends and metric["high"] - metric["low"] >= 0.02 else 1
    return percent(metric["value"], digits) + (f" (95 % CI {interval(metric, '%', digits)})" if ends else "")


def sensitivities(results: Mapping[str, Any]) -> dict[str, str]:
    """How often each class is recognised, in words.

    Example:
        >>> found = {"value": 0.9, "low": 0.596, "high": 0.982, "n": 10}
        >>> sensitivities({"per_class": {"polyp": {"n": 10, "sensitivity": found}, "ulcer": {"n": 0}}})
        {'polyp': '90 % (95 % CI 60 to 98 %) of 10 images', 'ulcer': 'not measured: no images'}
    """
    return {
        label: f"{measured(row['sensitivity'])} of {number(row['n'])} {counted(results, row['n'])}"
        if row.get("n") and is_metric(row.get("sensitivity"))
        else f"not measured: no {counted(results)}"
        for label, row in (results.get("per_class") or {}).items()
    }


def summary(results: Mapping[str, Any]) -> str:
    """One sentence that says how good the model is, and how sure that is.

    Example:
        >>> accuracy = {"value": 0.9, "low": 0.596, "high": 0.982, "n": 10}
        >>> summary({"task": "single-label", "partition": "valid", "n": 10, "accuracy": accuracy})
        '9 of 10 validation images were classified correctly: accuracy 90 % (95 % CI 60 to 98 %).'
    """
    n, partition = results.get("n", 0), partition_name(results.get("partition"))
    images = f"{number(n)} {partition} {counted(results, n)}".replace("  ", " ")
    patients = results.get("n_patients")
    if patients and counted(results) != "patients":
        images += f" of {number(patients)} patient{'' if patients == 1 else 's'}"
    accuracy, auroc = results.get("accuracy") or {}, results.get("auroc") or {}
    if results.get("task") == "multi-label":
        labels = f"{len(results.get('vocab', []))} labels"
        if not is_metric(auroc) or auroc["value"] is None:
            return f"{images} with {labels} were predicted."
        mean = f"{number(auroc['value'])} (95 % CI {interval(auroc)})"
        return f"Mean AUROC of {labels_scored(results) or labels} on {images}: {mean}."
    if not is_metric(accuracy) or accuracy["value"] is None:
        return f"{images} were predicted."
    right = round(accuracy["value"] * accuracy.get("n", n))
    verb = "was" if right == 1 else "were"
    return f"{number(right)} of {images} {verb} classified correctly: accuracy {measured(accuracy)}."


def summary_without_leaks(results: Mapping[str, Any]) -> str:
    """`summary` of the images to believe: those that do not leak, where some leak and others are left.

    Example:
        >>> accuracy = {"value": 0.75, "low": 0.301, "high": 0.954, "n": 4}
        >>> clean = {"numbers": {"all": {"n": 10}, "without leaks": {"n": 4, "accuracy": accuracy}}}
        >>> summary_without_leaks({"task": "single-label", "partition": "valid", "n": 10, "leak_free": clean})
        'Without leaked images, 3 of 4 validation images were classified correctly: accuracy 75 % (95 % CI 30 to 95 %).'
    """
    clean = without_leaks(results)
    if not clean:
        return summary(results)
    text = summary({**results, "per_class": {}, "n_patients": None, **clean})
    return f"Without leaked images, {text[0].lower()}{text[1:]}"


def beside_guessing(results: Mapping[str, Any], images: str = "images") -> str:
    """Sentences that hold a model against one that sees no image: accuracy, Brier score and log loss.

    Args:
        results: with accuracy and baseline.
        images: what is counted.

    Example:
        >>> accuracy = {"value": 0.563, "low": 0.52, "high": 0.60, "n": 500}
        >>> guessed = {"label": "nv", "accuracy": 0.65, "brier": {"model": 0.6, "frequencies": 0.55}}
        >>> beside_guessing({"accuracy": accuracy, "baseline": guessed})[:62]
        "Always predicting 'nv' would be right in 65.0 % of these image"
    """
    guessed, accuracy = results.get("baseline") or {}, results.get("accuracy") or {}
    found = []
    if is_number(guessed.get("accuracy")) and is_number(accuracy.get("value")):
        share = percent(guessed["accuracy"])
        text = f"Always predicting '{guessed.get('label')}' would be right in {share} of these {images}"
        if not guessed.get("label"):
            text = f"Always giving each label its more frequent answer would be right in {share} of the answers"
        low, value = accuracy.get("low"), accuracy["value"]
        if value <= guessed["accuracy"]:
            text += ": the model's accuracy is no better"
        elif is_number(low) and low <= guessed["accuracy"]:
            text += ": the model is not shown to be better"
        found.append(f"{text}.")
    for key, name in (("brier", "Brier score"), ("log_loss", "Log loss")):
        row = guessed.get(key) or {}
        if is_number(row.get("model")) and is_number(row.get("frequencies")):
            text = f"{name} {number(row['model'])}; guessing by class frequency gives {number(row['frequencies'])}"
            text += ". The model is no better." if row["model"] >= row["frequencies"] else " (lower is better)."
            found.append(text)
    return " ".join(found)
