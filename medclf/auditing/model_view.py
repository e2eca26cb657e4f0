"""A learner or a bundle as one thing: prepared pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclf.errors import DataError

Probs = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Model:
    """Learner or bundle: how it reads an image, and what it says of prepared pixels.

    Args:
        vocab: the labels.
        multi_label: whether an image may have several.
        preparation: arguments of `medclf.images.reading.prepare`, three channels always.
        probs: (n, H, W, 3) uint8 -> (n, n_labels) in [0, 1].
    """

    vocab: list[str]
    multi_label: bool
    preparation: dict[str, Any]
    probs: Probs

    @classmethod
    def of(cls, model: Any) -> Model:
        """What a learner from `med_learner` or a bundle says of itself.

        Raises:
            DataError: it has no recipe to read images by.
        """
        recipe = getattr(model, "recipe", None) or {}
        if "preprocessing" not in recipe:
            raise DataError(
                f"a {type(model).__name__} does not say how it reads images", "give a med_learner or a bundle"
            )
        settings = dict(recipe["preprocessing"])
        settings["size"] = tuple(settings["size"])
        if isinstance(settings.get("window"), list):
            settings["window"] = tuple(settings["window"])
        vocab, multi_label = list(recipe["vocab"]), bool(recipe["multi_label"])
        channels = int(settings["channels"])
        call = _bundle_probs if hasattr(model, "predict_pixels") else _learner_probs

        def probs(images: np.ndarray) -> np.ndarray:
            parts = [images[start : start + 32] for start in range(0, len(images), 32)]
            found = [call(model, part if channels == 3 else _grey(part)) for part in parts]
            return np.concatenate(found) if found else np.zeros((0, len(vocab)))

        return cls(vocab, multi_label, {**settings, "channels": 3}, probs)

    def decisions(self, probs: np.ndarray) -> np.ndarray:
        """(n, n_labels) bool: which labels are predicted."""
        if self.multi_label:
            return probs >= 0.5
        return np.eye(len(self.vocab), dtype=bool)[probs.argmax(1)]

    def named(self, decided: np.ndarray) -> str:
        """The labels of one row of decisions."""
        return "|".join(label for label, chosen in zip(self.vocab, decided, strict=True) if chosen)


def _grey(images: np.ndarray) -> np.ndarray:
    from medclf.images.reading import with_channels

    return np.stack([with_channels(image, 1) for image in images])


def _bundle_probs(bundle: Any, images: np.ndarray) -> np.ndarray:
    return np.array([list(answer.probs.values()) for answer in bundle.predict_pixels(images)])


def _learner_probs(learn: Any, images: np.ndarray) -> np.ndarray:
    import torch

    network = learn.model
    device = next(network.parameters()).device
    norm = learn.recipe["normalization"]
    mean, std = (torch.tensor(norm[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std"))
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
            logits = network((x - mean) / std).float()
    finally:
        network.train(training)
    probs = logits.sigmoid() if learn.recipe["multi_label"] else logits.softmax(1)
    return probs.cpu().double().numpy()
