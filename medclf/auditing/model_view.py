"""A learner or a bundle as one thing: prepared pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.images.preprocessing import Preprocessing
from medclf.models.spec import ModelSpec
from medclf.results.calibration import Calibration, decided

Probs = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Model:
    """Learner or bundle: how it reads an image, and what it says of prepared pixels.

    Args:
        vocab: the labels.
        multi_label: whether an image may have several.
        preprocessing: how it reads an image, in three channels always.
        probs: (n, H, W, 3) uint8 -> (n, n_labels) in [0, 1].
        calibration: by which a bundle decides.
    """

    vocab: list[str]
    multi_label: bool
    preprocessing: Preprocessing
    probs: Probs
    calibration: Calibration | None = None

    @classmethod
    def of(cls, model: Any) -> Model:
        """What a learner from `med_learner` or a bundle says of itself.

        Raises:
            DataError: it does not say how it reads images.
        """
        spec = getattr(model, "spec", None)
        if not isinstance(spec, ModelSpec):
            raise DataError(
                f"a {type(model).__name__} does not say how it reads images", "give a med_learner or a bundle"
            )
        call = _bundle_probs if hasattr(model, "predict_pixels") else partial(_learner_probs, spec)

        def probs(images: np.ndarray) -> np.ndarray:
            parts = [images[start : start + 32] for start in range(0, len(images), 32)]
            found = [call(model, part if spec.n_in == 3 else _grey(part)) for part in parts]
            return np.concatenate(found) if found else np.zeros((0, spec.n_out))

        own = getattr(model, "calibration", None)  # of a bundle
        rule = Calibration.from_dict(own, multi_label=spec.multi_label) if isinstance(own, dict) else None
        return cls(list(spec.vocab), spec.multi_label, replace(spec.preprocessing, channels=3), probs, rule)

    def decisions(self, probs: np.ndarray) -> np.ndarray:
        """(n, n_labels) bool: which labels are predicted."""
        rule = self.calibration or Calibration()
        return decided(probs, self.vocab, self.multi_label, rule.thresholds, rule.weights)

    def named(self, decided: np.ndarray) -> str:
        """The labels of one row of decisions."""
        return "|".join(label for label, chosen in zip(self.vocab, decided, strict=True) if chosen)


def _grey(images: np.ndarray) -> np.ndarray:
    from medclf.images.resize import with_channels

    return np.stack([with_channels(image, 1) for image in images])


def _bundle_probs(bundle: Any, images: np.ndarray) -> np.ndarray:
    return np.array([list(answer.probs.values()) for answer in bundle.predict_pixels(images)])


def _learner_probs(spec: ModelSpec, learn: Any, images: np.ndarray) -> np.ndarray:
    import torch

    from medclf.models.inputs import Inputs

    network = learn.model
    inputs = Inputs(spec.preprocessing, spec.normalization, next(network.parameters()).device)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            logits = network(inputs(inputs.tensor(images))).float()
    finally:
        network.train(training)
    probs = logits.sigmoid() if spec.multi_label else logits.softmax(1)
    return np.asarray(probs.cpu().double().numpy())
