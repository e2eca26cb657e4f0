"""What every runtime of a bundle shares: pixels in, calibrated probabilities, a label and flags out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from medclf.config import Frame
from medclf.display import Shown, listed
from medclf.errors import BundleError, DataError, ReadError, argument, check_count, position
from medclf.images.preprocessing import Preprocessing
from medclf.images.reading import n_frames
from medclf.inference.bundle_format import biases, ood_state, temperatures
from medclf.metrics.logits import to_logits, to_probs
from medclf.metrics.prevalence import shift_in
from medclf.metrics.units import UnitRule
from medclf.models.spec import ModelSpec
from medclf.models.table_fusion import fusion_in
from medclf.models.tabular import Fields
from medclf.parallel import map_ahead
from medclf.results.calibration import FIELDS_NEW, FIELDS_UNKNOWN, OUT_OF_DISTRIBUTION, UNSURE, decided

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item
    from medclf.metrics.ood import OodDetector


_FIELDS_REMEDY = "give a dict for one image, such as {'age': 60}; for a list of images one dict each"


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Args:
        label: the chosen name of the vocab; for multi-label a tuple of all that are present, maybe empty.
        probs: probability of each label in [0, 1], in the vocab's order; calibrated where the bundle is.
        pred: position of the label in the vocab; for multi-label a tuple of positions.
        flags: "unsure" where the probability is below the bundle's limit for abstaining, and "not like the
            training images" where the features lie further from those than its limit; "fields unknown" where the model
            uses a table's columns and none of them is known of the image.
    """

    label: str | tuple[str, ...]
    probs: dict[str, float]
    pred: int | tuple[int, ...]
    flags: tuple[str, ...] = ()


class FrameOf(NamedTuple):
    """One frame, or page, of a file of several."""

    file: Item
    number: int


def frames_of(item: Item | FrameOf, frame: Frame) -> list[Item | FrameOf]:
    """Each frame of a file of several where each is an image; else the item itself."""
    if frame != "all" or not isinstance(item, (str, Path, bytes)) or (n := n_frames(item)) < 2:
        return [item]
    return [FrameOf(item, number) for number in range(n)]


@dataclass(frozen=True)
class UnitPrediction:
    """The answer for the images of one patient, study or series.

    Args:
        answer: label, probabilities and flags of the unit.
        contributions: what each image counted, in [0, 1], in the order given; None where it could not be read.
        problems: position of an image -> why it could not be read.
    """

    answer: Prediction
    contributions: list[float | None]
    problems: dict[int, str]

    @property
    def decided_by(self) -> int:
        """Position of the image that counted most."""
        return max(range(len(self.contributions)), key=lambda k: self.contributions[k] or 0.0)


class Predictor(Shown):
    """Predicts with what a bundle says of preprocessing, labels and calibration; a runtime adds `forward`.

    Args:
        content: of bundle.json, checked.
        name: what to call the model.
        forward: uint8 pixels (B, H, W, C) -> logits (B, n_out) and pooled features (B, n_features).
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        name: str,
        forward: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.name, self.hash = name, str(content["hash"])
        self.spec = ModelSpec.from_dict(content["recipe"])
        self.calibration: dict[str, Any] = dict(content["calibration"])
        self.card: dict[str, Any] = dict(content["card"])
        self.vocab, self.multi_label = list(self.spec.vocab), self.spec.multi_label
        self._forward = forward
        self._detector = _detector(self.calibration)
        self._fusion = fusion_in(self.calibration, self.multi_label)
        rule = self.calibration.get("unit")
        self.unit_rule = UnitRule.from_dict(rule, multi_label=self.multi_label) if rule else None

    def _shown(self) -> tuple[str, dict[str, Any], None]:
        how, limit = self.preprocessing, (self.calibration.get("abstain") or {}).get("threshold")
        shift = shift_in(self.calibration.get("prevalence"))
        facts = {
            "network": self.spec.arch,
            "labels": listed(self.vocab) + (" (an image may have several)" if self.multi_label else ""),
            "input": f"{how.size[1]} x {how.size[0]} pixels, {how.channels} channels",
            "evaluated": self.card.get("evaluated", "not said"),
            **({} if shift is None else {"probabilities": f"for a prevalence of {shift}"}),
            "flagged unsure below": f"{limit:.0%}" if isinstance(limit, float) else "no limit",
            "out of distribution": "flagged" if self._detector else "not checked",
            "hash": self.hash[:12],
        }
        return f"{type(self).__name__} {self.name}", facts, None

    @property
    def detector(self) -> OodDetector | None:
        """What tells which images are out of distribution; None where the bundle has none."""
        return self._detector

    @property
    def fields(self) -> list[dict[str, Any]]:
        """What the model takes beside the image: name, kind ("number" or "category") and categories of each field."""
        return [] if self._fusion is None else self._fusion.encoder.described()

    def check_fields(self, fields: Fields | None) -> list[str]:
        """See that fields of an image can be used.

        Args:
            fields: by name; what is left out, or "unknown", is unknown.

        Returns:
            The fields whose category no training image had, each as NAME=VALUE, or whose number lies beyond theirs.

        Raises:
            DataError: the model takes no such field, or a number is none.
        """
        if not self.fields:
            if fields:
                text = f"the model {self.name} takes no fields beside the image, such as {next(iter(fields))!r}"
                raise DataError(text, "leave them out")
            return []
        return [] if self._fusion is None else self._fusion.encoder.check(fields or {})

    @property
    def preprocessing(self) -> Preprocessing:
        """How a file becomes what the network sees."""
        return self.spec.preprocessing

    @property
    def recipe(self) -> dict[str, Any]:
        """The name that `spec` had in 0.1, as a dict."""
        warnings.warn("bundle.recipe is now bundle.spec, or bundle.spec.as_dict()", DeprecationWarning, stacklevel=2)
        return self.spec.as_dict()

    def prepare(self, item: Item) -> np.ndarray:
        """The pixels that the network is given, before normalisation.

        Args:
            item: a file's path or bytes, an open file, a PIL image, or an array (H, W) or (H, W, 3) of uint8 or uint16.

        Returns:
            uint8 of (height, width, channels), the same as in training.

        Raises:
            ReadError: the file cannot be read, or the array is none of those.
        """
        return self.preprocessing.prepare(item)

    @overload
    def predict(self, item: Item, fields: Fields | None = None) -> Prediction: ...

    @overload
    def predict(
        self, item: list[Item] | tuple[Item, ...], fields: Sequence[Fields] | None = None
    ) -> list[Prediction]: ...

    def predict(self, item: Any, fields: Any = None) -> Prediction | list[Prediction]:
        """Predict one image, or a list of them.

        Args:
            item: see `prepare`; or a list or tuple of such.
            fields: the table's columns of the image by name, such as {"age": 60}, where the model uses any (see
                `fields`); what is not given is unknown. Of a list, a list of them.

        Returns:
            a `Prediction`, or a list of them in the same order.

        Raises:
            ReadError: an image cannot be read (`predict_stream` goes on instead).
            DataError: the model takes no such field, a number is none, or there are not as many fields as images.
        """
        single = not isinstance(item, (list, tuple))
        if fields is not None and (isinstance(fields, Mapping) != single or not (single or len(fields) == len(item))):
            raise DataError("the fields do not fit the images", _FIELDS_REMEDY)
        if single:
            return self.predict_pixels(self.prepare(item)[None], None if fields is None else [fields])[0]
        answers = []
        for answer in self.predict_stream(item, fields=fields):
            if isinstance(answer, ReadError):
                raise answer
            answers.append(answer)
        return answers

    def predict_probs(self, items: Iterable[Item], bs: int = 32) -> np.ndarray:
        """Probabilities of many images.

        Args:
            items: see `prepare`.
            bs: images at once.

        Returns:
            float64 of (n, n_labels) in [0, 1].

        Raises:
            ReadError: an image cannot be read.
        """
        rows = []
        for answer in self.predict_stream(items, bs):
            if isinstance(answer, ReadError):
                raise answer
            rows.append(list(answer.probs.values()))
        return np.array(rows, np.float64).reshape(-1, len(self.vocab))

    def predict_stream(
        self,
        items: Iterable[Item],
        bs: int = 32,
        *,
        threads: int | None = None,
        fields: Iterable[Fields] | None = None,
    ) -> Iterator[Prediction | ReadError]:
        """Predict any number of images in flat memory: decoded in threads while the network runs.

        Args:
            items: see `prepare`; taken as they are needed.
            bs: images at once.
            threads: that decode; as many as there are cores, at most 8, where None.
            fields: of each image, see `predict`.

        Yields:
            for each image, in order, its `Prediction`, or the `ReadError` that says why there is none.

        Raises:
            DataError: a field is wrong, see `predict`, or there are fewer fields than images.
        """
        images = self._all_prepared(items, bs, threads)
        known = None if fields is None else iter(fields)
        while batch := list(islice(images, bs)):  # while it is predicted, the next one is decoded
            beside = None if known is None else list(islice(known, len(batch)))
            if beside is not None and len(beside) < len(batch):
                raise DataError("there are fields of fewer images than there are images", _FIELDS_REMEDY)
            yield from self._answers(batch, beside)

    def embed_stream(
        self, items: Iterable[Item], bs: int = 32, *, threads: int | None = None
    ) -> Iterator[np.ndarray | ReadError]:
        """Pooled features of any number of images, in flat memory.

        Args:
            items, bs, threads: see `predict_stream`.

        Yields:
            for each image, in order, (n_features,) float32, or the `ReadError` that says why there are none.
        """
        for found in self.outputs_stream(items, bs, threads=threads):
            yield found if isinstance(found, ReadError) else found[1]

    def outputs_stream(
        self, items: Iterable[Item | FrameOf], bs: int = 32, *, threads: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray] | ReadError]:
        """What the network gives of any number of images, in flat memory.

        Args:
            items, bs, threads: see `predict_stream`.

        Yields:
            for each image, in order, (n_labels,) logits and (n_features,) pooled features, both float32; or the
            `ReadError` that says why there are none.
        """
        images = self._all_prepared(items, bs, threads)
        while batch := list(islice(images, bs)):
            yield from self._each(batch)

    def _each(self, batch: Sequence[np.ndarray | ReadError]) -> Iterator[tuple[np.ndarray, np.ndarray] | ReadError]:
        read = [image for image in batch if not isinstance(image, ReadError)]
        found = iter(list(zip(*self._forward(np.stack(read)), strict=True)) if read else ())
        return (image if isinstance(image, ReadError) else next(found) for image in batch)

    def predict_unit(self, items: Iterable[Item | FrameOf], bs: int = 32) -> UnitPrediction:
        """One answer for all images of a patient, study or series; an image that cannot be read is left out.

        Args:
            items: see `prepare`; or a `FrameOf` each. Of a model that takes all frames of a file of several, each of
                them counts as an item.
            bs: images at once.

        Raises:
            BundleError: the bundle answers each image alone.
            ReadError: none of the images can be read.
        """
        frame = self.preprocessing.frame
        return self._whole(list(self.outputs_stream((one for item in items for one in frames_of(item, frame)), bs)))

    def predict_unit_pixels(self, images: Sequence[np.ndarray | ReadError], bs: int = 32) -> UnitPrediction:
        """As `predict_unit`, of pixels that `prepare` gave, or the errors that say why it gave none."""
        outputs: list[tuple[np.ndarray, np.ndarray] | ReadError] = []
        for start in range(0, len(images), bs):
            outputs += self._each(images[start : start + bs])
        return self._whole(outputs)

    def _whole(self, outputs: Sequence[tuple[np.ndarray, np.ndarray] | ReadError]) -> UnitPrediction:
        """The answer for a unit, of what the network gives of each of its images."""
        rule = self.unit_rule
        if rule is None:
            text = f"the model {self.name!r} answers each image alone"
            raise BundleError(text, f"train with {argument('unit', 'patient')} for one answer a patient")
        problems = {k: one.problem for k, one in enumerate(outputs) if isinstance(one, ReadError)}
        read = [one for one in outputs if not isinstance(one, ReadError)]
        if not read:
            reason = f": {next(iter(problems.values()))}" if problems else ""
            raise ReadError("the unit", f"none of its {len(outputs)} images can be read{reason}", "give other files")
        logits, features = (np.stack(part).astype(np.float64) for part in zip(*read, strict=True))
        probs, index = to_probs(logits, multi_label=self.multi_label), np.zeros(len(read), int)
        whole = rule.probs(probs, features, index, 1)
        calibrated = to_logits(whole, multi_label=self.multi_label), features.mean(0, keepdims=True)
        (answer,) = self._calibrated(*calibrated)
        predicted = np.zeros((1, len(self.vocab)), bool)
        predicted[0, [answer.pred] if isinstance(answer.pred, int) else list(answer.pred)] = True
        parts = iter(rule.contributions(probs, features, index, predicted))
        counted = [None if isinstance(one, ReadError) else float(next(parts)) for one in outputs]
        return UnitPrediction(answer, counted, problems)

    def _all_prepared(
        self, items: Iterable[Item | FrameOf], bs: int, threads: int | None
    ) -> Iterator[np.ndarray | ReadError]:
        check_count(argument("bs"), bs, "say how many images to predict at once")
        if threads is not None:
            check_count("threads", threads, "leave it out for one a core", least=0)
        return map_ahead(self._prepared, items, threads=threads, ahead=bs)

    def _prepared(self, item: Item | FrameOf) -> np.ndarray | ReadError:
        try:
            if isinstance(item, FrameOf):
                return replace(self.preprocessing, frame=item.number).prepare(item.file)
            return self.prepare(item)
        except ReadError as error:
            return error

    def _answers(
        self, batch: Sequence[np.ndarray | ReadError], fields: Sequence[Fields] | None
    ) -> Iterator[Prediction | ReadError]:
        read = [place for place, image in enumerate(batch) if not isinstance(image, ReadError)]
        known = None if fields is None else [fields[place] for place in read]
        found = iter(self.predict_pixels(np.stack([batch[place] for place in read]), known) if read else ())  # type: ignore[misc]
        for image in batch:
            yield image if isinstance(image, ReadError) else next(found)

    def predict_pixels(self, prepared: np.ndarray, fields: Sequence[Fields] | None = None) -> list[Prediction]:
        """Predict a batch of pixels that `prepare` gave.

        Args:
            prepared: uint8 of (B, height, width, channels).
            fields: of each image, see `predict`.
        """
        return self.predict_with_features(prepared, fields)[0]

    def predict_with_features(
        self, prepared: np.ndarray, fields: Sequence[Fields] | None = None
    ) -> tuple[list[Prediction], np.ndarray]:
        """As `predict_pixels`, with the (B, n_features) pooled features that the answers were made from."""
        known = [{}] * len(prepared) if fields is None else [row or {} for row in fields]
        new = np.array([bool(self.check_fields(row)) for row in known], bool)
        logits, features = self._forward(prepared)
        blind = np.zeros(len(logits), bool)
        if self._fusion is not None:
            known = [{**row, **self._fusion.encoder.measured(one)} for row, one in zip(known, prepared, strict=True)]
            logits, blind = self._fusion.of_fields(logits, known)
        if self.unit_rule is not None and self.unit_rule.attention is not None:  # each image is a unit of its own
            logits = self.unit_rule.attention.logits(features, np.arange(len(features)), len(features))
        return self._calibrated(logits, features, {FIELDS_UNKNOWN: blind, FIELDS_NEW: new}), features

    def _calibrated(
        self, logits: np.ndarray, features: np.ndarray, of_fields: Mapping[str, np.ndarray] | None = None
    ) -> list[Prediction]:
        scaled = logits.astype(np.float64) / temperatures(self.calibration) + biases(self.calibration)
        probs = to_probs(scaled, multi_label=self.multi_label)
        if not (np.isfinite(probs).all() and np.isfinite(features).all()):
            raise BundleError(f"{self.name} gives no finite numbers for this image", "save the bundle again")
        outside = self._detector.unlike(features) if self._detector else np.zeros(len(features), bool)
        raised = {OUT_OF_DISTRIBUTION: outside, **(of_fields or {})}
        flags = [tuple(flag for flag, where in raised.items() if where[row]) for row in range(len(probs))]
        return [self._prediction(row, raised_here) for row, raised_here in zip(probs, flags, strict=True)]

    def _target(self, prepared: np.ndarray, label: str | None) -> int:
        """Position of the label that a saliency map is about: the predicted one, of several the most probable."""
        if label is not None:
            return position(self.vocab, label)
        answer = self.predict_pixels(prepared)[0]
        return answer.pred if isinstance(answer.pred, int) else int(np.argmax(list(answer.probs.values())))

    def _prediction(self, probs: np.ndarray, flags: tuple[str, ...]) -> Prediction:
        pred = self._chosen(probs)
        sure = np.maximum(probs, 1 - probs).min() if self.multi_label else probs.max()
        limit = self.calibration.get("abstain", {}).get("threshold", 0.0)
        flags = flags if sure >= limit else (UNSURE, *flags)
        named = dict(zip(self.vocab, probs.tolist(), strict=True))
        label = self.vocab[pred] if isinstance(pred, int) else tuple(self.vocab[index] for index in pred)
        return Prediction(label, named, pred, flags)

    def _chosen(self, probs: np.ndarray) -> int | tuple[int, ...]:
        (row,) = self.decide(probs[None])
        found = tuple(int(index) for index in np.flatnonzero(row))
        return found if self.multi_label else found[0]

    def decide(self, probs: np.ndarray) -> np.ndarray:
        """(n, n_labels) bool: which labels are predicted, of (n, n_labels) calibrated probabilities."""
        point = self.calibration.get("operating_point", {})
        thresholds = point.get("thresholds", {})
        if "label" in point:
            thresholds = {point["label"]: point["threshold"]}
        weights = self.calibration.get("decision", {}).get("weights", {})
        return decided(probs, self.vocab, self.multi_label, thresholds, weights)


def _detector(calibration: Mapping[str, Any]) -> OodDetector | None:
    if not calibration.get("ood"):
        return None
    from medclf.metrics.ood import OodDetector

    return OodDetector.from_state(*ood_state(calibration["ood"]))
