"""What medclf knows for each item of the checklist, in a sentence or two; "" where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from medclf.files import is_number
from medclf.metrics.intervals import plan_size
from medclf.metrics.table import class_metrics, overall_metrics
from medclf.reporting.formatting import cautions, unit_of
from medclf.results.wording import as_sentence, counted, interval, is_metric, number, partition_name, summary

_FEW = 8  # labels that are still named


@dataclass(frozen=True)
class Known:
    """Where the answers come from.

    Args:
        results: what results.json holds.
        settings: what run.json says that was asked for, for a RUN of medclf 0.1, whose results.json does not.
    """

    results: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The learner's settings."""
        return self.results.get("settings") or {}

    @property
    def tuning(self) -> Mapping[str, Any]:
        """What `fine_tune` was asked for: epochs, lr, train_from, sizes."""
        training = self.results.get("training") or {}
        old = {name: self.settings.get(name) for name in ("epochs", "lr", "train_from")}
        asked = training.get("fine_tune") or old | {"sizes": self.settings.get("first_sizes")}
        return asked if asked["epochs"] is not None else asked | {"epochs": len(training.get("history") or [])}

    @property
    def data(self) -> Mapping[str, Any]:
        """Counts, problems and the split."""
        return self.results.get("data") or {}

    @property
    def split(self) -> Mapping[str, Any]:
        """How the data were split."""
        return self.data.get("split") or {}

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.results.get("task") == "multi-label"


def _labels(have: Known) -> str:
    vocab = [str(label) for label in have.results.get("vocab") or []]
    named = f" ({', '.join(vocab)})" if len(vocab) <= _FEW else ""
    return f"{len(vocab)} labels{named}"


def _with_interval(metric: Mapping[str, Any], key: str) -> str:
    unit = unit_of(key)
    ends = interval(metric, unit)
    return number(metric["value"], unit) + (f" ({ends})" if ends else "")


def method(have: Known) -> str:
    """1."""
    if not have.recipe.get("arch"):
        return ""
    how = "fine-tuned from pretrained weights" if have.recipe.get("weights") else "trained from random weights"
    if not have.tuning["epochs"] and (have.results.get("training") or {}).get("linear_probe"):
        how = "pretrained and kept as it was, under a linear head that was fitted"
    kind = "multi-label classification" if have.multi_label else "classification"
    return f"Deep learning: {kind} of images into {_labels(have)} by {have.recipe['arch']}, {how}."


def abstract(have: Known) -> str:
    """2."""
    if not have.data.get("n_images") or not have.results.get("n"):
        return ""
    parts = [f"Data: {number(have.data['n_images'])} images with {_labels(have)}.", f"Method: {method(have)}"]
    sentence = str(have.split.get("sentence") or "").rstrip(".")
    parts += [f"Split: {sentence}."] if sentence else []
    return " ".join([*parts, f"Result: {summary(have.results)}"])


def goal(have: Known) -> str:
    """6."""
    if not have.recipe.get("arch"):
        return ""
    more = " and on external data" if external(have) else ""
    images = f"{partition_name(have.results.get('partition')) or 'held-out'} images"
    return f"Making a model and evaluating it on {images} of its data{more}."


def preprocessing(have: Known) -> str:
    """9."""
    reading = have.recipe.get("preprocessing") or {}
    if "size" not in reading:
        return ""
    height, width = reading["size"]
    how = {"squish": "resized (squished)", "crop": "cropped to shape and resized", "pad": "padded and resized"}
    parts = [
        "Files are read as a reader would see them (DICOM rescale, window and inversion; 16 bits scaled to 8)",
        f"{how.get(str(reading.get('resize')), 'resized')} to {width} x {height} pixels "
        f"of {reading.get('channels')} channels",
    ]
    parts += [f"window {reading['window']}"] if reading.get("window") else []
    norm = have.recipe.get("normalization") or {}
    if norm:
        parts.append(f"normalised with mean {_numbers(norm['mean'])} and deviation {_numbers(norm['std'])}")
    return f"{', '.join(parts)}."


def _numbers(values: Any) -> str:
    kinds = list(dict.fromkeys(f"{value:.3g}" for value in values))
    return kinds[0] if len(kinds) == 1 else ", ".join(f"{value:.3g}" for value in values)


def subsets(have: Known) -> str:
    """10."""
    reading = have.recipe.get("preprocessing") or {}
    if not reading:
        return ""
    frame = reading.get("frame", "middle")
    which = "each frame" if frame == "all" else f"frame {frame}" if isinstance(frame, int) else f"the {frame} frame"
    return f"Whole images, no region of interest; {which} of files that hold several."


def deidentification(have: Known) -> str:
    """11."""
    if not have.data:
        return ""
    return (
        "In the run's files patients are keyed pseudonyms and no DICOM attribute is copied; "
        "the pixels are as they came, and text burned into them is not removed."
    )


def missing_data(have: Known) -> str:
    """12."""
    if "problems" not in have.data:
        return ""
    n = len(have.data["problems"])
    left = "No file had to be left out" if not n else f"{number(n)} file{_s(n)} left out, each with its reason below"
    return f"{left}; images without a label are not used; nothing is imputed."


def _s(n: int) -> str:
    return " was" if n == 1 else "s were"


def assignment(have: Known) -> str:
    """19."""
    return str(have.split.get("sentence") or "")


_LEVELS = {
    "patient": "Patient",
    "grouped": "Linked images: patients and near-duplicates",
    "random": "Image",
    "stratified": "Image",
}


def level(have: Known) -> str:
    """20."""
    kind, both = have.split.get("kind"), have.split.get("patients_on_both_sides")
    if not kind:
        return ""
    named = _LEVELS.get(kind, "As the data give it" if kind == "folders" else "Patient" if both == 0 else "Image")
    seen = (
        "no patient IDs were given" if both is None else f"{number(both)} patients in both training and validation set"
    )
    leaks = ((have.results.get("audit") or {}).get("leaks") or {}).get(have.results.get("partition") or "") or {}
    twins = leaks.get("with_twin_in_train", leaks.get("twins"))
    more = f"; {number(twins)} images with a near-duplicate in the training set" if is_number(twins) else ""
    return f"{named} ({seen}{more})."


def sample_size(have: Known) -> str:
    """21."""
    metric: Any = have.results.get("accuracy")
    if not is_metric(metric) or not is_number(metric["value"]) or not is_number(metric["low"]):
        return ""
    expected = min(max(float(metric["value"]), 0.5), 0.99)
    width = 100 * (metric["high"] - metric["low"])
    needed = plan_size(0.05, expected=expected)
    images = counted(have.results)
    return (
        f"None was planned with medclf. The {number(metric['n'])} {images} here give the accuracy an interval of "
        f"{width:.1f} points; one of 5 points would take about {number(needed)} independent {images}."
    )


def model(have: Known) -> str:
    """22."""
    recipe = have.recipe
    if not {"arch", "n_in", "n_out", "dropout"} <= set(recipe):
        return ""
    size = (recipe.get("preprocessing") or {}).get("size") or ["?", "?"]
    ends = "one sigmoid a label" if have.multi_label else "softmax"
    pooled = " of every stage" if recipe.get("all_stages") else ""
    layers = [str(layer["layer"]) for layer in recipe.get("head") or []]
    head = f"global average pooling{pooled}, dropout {recipe['dropout']:g}, one linear layer of"
    if layers:
        head = f"a head of {', '.join(layers)} with"
    return (
        f"{recipe['arch']} as a body ({recipe['n_in']} x {size[0]} x {size[1]} in), {head} {recipe['n_out']} outputs, "
        f"{ends}."
    )


def software(have: Known) -> str:
    """23."""
    versions = have.results.get("versions") or {}
    return f"{', '.join(f'{name} {version}' for name, version in versions.items())}." if versions else ""


def initialisation(have: Known) -> str:
    """24."""
    if "arch" not in have.recipe:
        return ""
    weights = have.recipe.get("weights")
    if not weights:
        body = "Random"
    else:
        which = "published default ones" if weights == "default" else f"those in {PurePath(str(weights)).name}"
        body = f"Body: pretrained weights, the {which} of {have.recipe['arch']}"
    head = (have.results.get("training") or {}).get("linear_probe")
    if not head:
        return f"{body}; head: random."
    return (
        f"{body}; head: logistic regression on the frozen body's features of {number(head.get('n_train', 0))} images."
    )


def training(have: Known) -> str:
    """25."""
    results = have.results.get("training")
    if results is None or "arch" not in have.recipe:
        return ""
    head, epochs = results.get("linear_probe"), have.tuning["epochs"]
    parts = []
    if head:
        folds = (
            f", by {head['cv_folds']}-fold cross-validation inside the training images" if head.get("cv_folds") else ""
        )
        strength = f"C = {head['strength']:g}" if is_number(head.get("strength")) else "C as chosen"
        parts.append(f"the head by L2-regularised logistic regression ({strength}{folds})")
    if epochs:
        rate = have.tuning["lr"]
        at = f" at a base rate of {rate:g}" if is_number(rate) else ""
        loss = "binary cross-entropy" if have.multi_label else "cross-entropy"
        modality = have.recipe.get("modality")
        augmented = f"augmented by the preset for {modality}" if modality else "not augmented"
        batch = have.recipe.get("bs")
        first = have.tuning["train_from"]
        depth = f"the network from {first} on" if first else "the whole network"
        own = max((have.recipe.get("preprocessing") or {}).get("size") or [0])
        smaller = ", ".join(str(size) for size in have.tuning["sizes"] or () if size != own)
        at += f", the first epochs at {smaller} pixels" if smaller else ""
        parts.append(
            f"then {depth} for {epochs} epochs: AdamW, one cycle{at}, {loss}, "
            f"batches of at most {batch}, training images {augmented}"
        )
    return as_sentence(f"{'; '.join(parts)}; seed {have.recipe.get('seed')}") if parts else ""


def selection(have: Known) -> str:
    """26."""
    results = have.results.get("training")
    if results is None:
        return ""
    epochs = have.tuning["epochs"]
    head = bool(results.get("linear_probe"))
    if not epochs:
        which = "the network after the linear probe"
    elif head:
        which = "the weights after the last epoch, averaged with those of the linear probe"
    else:
        which = "the weights after the last epoch"
    folds = "; after the cross-validation it is trained anew on all images" if have.results.get("folds") else ""
    return f"No choice among several: {which}{folds}."


def ensembling(have: Known) -> str:
    """27."""
    if "arch" not in have.recipe:
        return ""
    if have.results.get("folds"):
        return "None: each image is predicted by one network, that of its fold."
    return "None: one network predicts."


def metrics(have: Known) -> str:
    """28."""
    found = [metric.title for metric in overall_metrics() if is_metric(have.results.get(metric.key))]
    if not found:
        return ""
    by_class: Mapping[str, Any] = next(iter((have.results.get("per_class") or {}).values()), {})
    each = [metric.name for metric in class_metrics() if metric.key in by_class]
    tail = f"; by label {', '.join(each[:5])}" if each else ""
    return f"{', '.join(found)}{tail}; the confusion matrix."


def uncertainty(have: Known) -> str:
    """29."""
    if not is_metric(have.results.get("accuracy")):
        return ""
    unit = "patients" if have.results.get("n_patients") else "images"
    return (
        f"95 % intervals: Wilson's for proportions, from bootstrap resamples of {unit} for the other metrics. "
        "No hypothesis was tested."
    )


def robustness(have: Known) -> str:
    """30."""
    shortcuts = (have.results.get("shortcuts") or {}).get("sentences") or []
    parts = ["Shortcuts: " + " ".join(str(row.get("finding", "")) for row in shortcuts)] if shortcuts else []
    if have.results.get("leak_free"):
        parts.append("The figures are given again without images that have a near-duplicate in the training set.")
    if have.results.get("subgroups"):
        parts.append(f"Metrics by {', '.join(have.results['subgroups'])}, with intervals.")
    if have.results.get("folds"):
        parts.append(f"The accuracy of {len(have.results['folds'])} folds is listed.")
    return " ".join(parts)


def explainability(have: Known) -> str:
    """31."""
    found = have.results.get("saliency")
    if not isinstance(found, Mapping) or not found["n_images"]:
        return ""
    return f"{found['method']} maps of where the model looked, of {number(found['n_images'])} images in the report."


def internal(have: Known) -> str:
    """32."""
    n, partition = have.results.get("n"), have.results.get("partition")
    if not n:
        return ""
    if have.results.get("folds"):
        return f"Cross-validation: all {number(n)} images, each predicted by a network that was not trained on it."
    more = "; they also guided choices made while training" if partition == "valid" else ""
    return f"{number(n)} {partition_name(partition)} images of the same data, not trained on{more}.".replace("  ", " ")


def external(have: Known) -> str:
    """33."""
    return "See External test." if have.results.get("external") else ""


def included(have: Known) -> str:
    """35."""
    if "n_images" not in have.data:
        return ""
    out = len(have.data.get("problems") or [])
    patients = have.results.get("n_patients")
    known = f"{number(patients)} patients in the images reported on" if patients else "patients are not known"
    return f"{number(have.data['n_images'])} images included, {number(out)} excluded (list below); {known}."


def characteristics(have: Known) -> str:
    """36."""
    counts = have.data.get("counts") or {}
    if not counts:
        return ""
    parts = [
        f"{partition_name(partition)}: {', '.join(f'{label} {number(n)}' for label, n in found.items())}"
        for partition, found in counts.items()
    ]
    groups = have.results.get("subgroups") or {}
    more = f"By {', '.join(groups)}: see Subgroups." if groups else "Nothing further was given of the patients."
    return f"{'; '.join(parts)}. {more}"


def performance(have: Known) -> str:
    """37."""
    found = [
        f"{metric.title} {_with_interval(have.results[metric.key], metric.key)}"
        for metric in overall_metrics()
        if is_metric(have.results.get(metric.key)) and is_number(have.results[metric.key]["value"])
    ]
    return f"{'; '.join(found)}." if found else ""


def diagnostic(have: Known) -> str:
    """38."""
    parts = []
    for label, found in (have.results.get("per_class") or {}).items():
        both = [
            f"{name} {_with_interval(found[name], name)}"
            for name in ("sensitivity", "specificity")
            if is_metric(found.get(name)) and is_number(found[name]["value"])
        ]
        parts += [f"{label}: {', '.join(both)}"] if both else []
    return f"{'; '.join(parts)}." if parts else ""


def failures(have: Known) -> str:
    """39."""
    if "most_confused" not in have.results:
        return ""
    rows = [
        f"{a} {b}: {n}" if have.multi_label else f"{a} predicted as {b}: {n}"
        for a, b, n in have.results["most_confused"]
    ]
    said = f"Most often: {'; '.join(rows[:3])}" if rows else "No image was classified wrongly"
    return f"{said}. The images with the highest losses and all errors are in the report."


def limitations(have: Known) -> str:
    """40."""
    return " ".join(f"{text.rstrip('.')}." for text in cautions(have.results)) if have.data else ""


def protocol(have: Known) -> str:
    """42."""
    if not have.recipe:
        return ""
    return (
        "results.json holds the settings, the seed and the versions. A RUN folder's run.json adds the data's hash; "
        "medclf train --config repeats the run."
    )


def availability(have: Known) -> str:
    """43."""
    version = (have.results.get("versions") or {}).get("medclf")
    if not version:
        return ""
    model = " The trained model is shipped as a bundle, its hash in bundle.json." if have.recipe else ""
    return f"Software: medclf {version} (Apache-2.0).{model}"
