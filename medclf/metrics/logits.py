"""Probabilities to logits and back, with NumPy alone: whoever predicts needs no more."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_logits(probs: Any, *, multi_label: bool = False) -> np.ndarray:
    """Logits that give these probabilities: log p (equal to the network's up to a constant), or log p / (1 - p).

    Example:
        >>> softmax(to_logits([[0.8, 0.2]])).round(3).tolist()
        [[0.8, 0.2]]
    """
    values = np.asarray(probs, dtype=np.float64)
    if multi_label:
        values = np.clip(values, 1e-7, 1 - 1e-7)  # beyond it float32 knows only 0 and 1
        return np.asarray(np.log(values) - np.log1p(-values))
    return np.log(np.maximum(values, 1e-12))


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, L) logits to probabilities of which each row adds up to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits to probabilities, one by one.

    Example:
        >>> sigmoid(np.array([0.0, 1e6])).tolist()
        [0.5, 1.0]
    """
    return 0.5 * (1 + np.tanh(0.5 * logits))


def to_probs(logits: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """Logits to probabilities: softmax over an image's labels, or sigmoid of each.

    Example:
        >>> to_probs(np.array([[1.0, 1.0]])).tolist(), to_probs(np.array([[0.0]]), multi_label=True).tolist()
        ([[0.5, 0.5]], [[0.5]])
    """
    return sigmoid(logits) if multi_label else softmax(logits)
