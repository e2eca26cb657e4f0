"""The epochs of a training, as results.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LOSSES = ("train_loss", "valid_loss")


def history_metrics(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the metrics in a training history: its numbers but epoch, losses, time and rate.

    Example:
        >>> history_metrics([{"epoch": 0, "train_loss": 1.0, "accuracy": 0.7, "time": "00:04"}])
        ['accuracy']
    """
    skip = {"epoch", "time", "lr", "seconds", "size", *LOSSES}
    return list(
        dict.fromkeys(
            name
            for row in history
            for name, value in row.items()
            if name not in skip and isinstance(value, (int, float)) and not isinstance(value, bool)
        )
    )
