"""A late fusion: the network's logits and a table's columns, through one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclf.errors import BundleError
from medclf.models.tabular import Columns, Fields, TableEncoder, is_unknown

_LARGEST = 30.0  # of a logit that goes into the fusion


@dataclass(frozen=True)
class Fusion:
    """What a bundle adds to the image: the network's logits, scaled, and the encoded columns through a linear layer.

    Args:
        encoder: of the columns.
        weight: (n_out, n_out + width): of the logits, then of the columns.
        bias: (n_out,).
        multi_label: whether an image may have several labels.
    """

    encoder: TableEncoder
    weight: np.ndarray
    bias: np.ndarray
    multi_label: bool = False

    def logits(self, logits: np.ndarray, rows: Columns) -> np.ndarray:
        """(n, n_out) logits of both.

        Args:
            logits: (n, n_out) of the network.
            rows: the columns' values; those that are not given are unknown.
        """
        n = len(logits)
        given = {name: rows.get(name, [None] * n) for name in self.encoder.names}
        inputs = np.concatenate([settled(logits, self.multi_label), self.encoder.encode(given)], axis=1)
        return np.asarray(inputs @ self.weight.T + self.bias)

    def of_fields(self, logits: np.ndarray, fields: Sequence[Fields]) -> tuple[np.ndarray, np.ndarray]:
        """(n, n_out) logits of both, and (n,) whether nothing was known of an image besides itself."""
        rows = {name: [one.get(name) for one in fields] for name in self.encoder.names}
        blind = [all(is_unknown(one.get(name)) for name in self.encoder.names) for one in fields]
        return self.logits(logits, rows), np.array(blind, bool)

    def as_dict(self) -> dict[str, Any]:
        """As bundle.json has it."""
        return {"columns": self.encoder.as_dict(), "weight": self.weight.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], n_out: int, multi_label: bool) -> Fusion:
        """Back from what `as_dict` gave.

        Raises:
            BundleError: it is of another form.
        """
        try:
            encoder = TableEncoder.from_dict(values["columns"])
            weight, bias = np.array(values["weight"], np.float64), np.array(values["bias"], np.float64)
            if weight.shape != (n_out, n_out + encoder.width) or bias.shape != (n_out,):
                raise ValueError("weight")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ValueError("weight")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the table's part lacks or misstates: {error}", "save the bundle again") from error
        return cls(encoder, weight, bias, multi_label)


def settled(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Logits without the constant that softmax ignores, and within bounds."""
    found = np.asarray(logits, np.float64)
    if not multi_label:
        found = found - found.max(axis=1, keepdims=True)
        found = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
    return np.clip(found, -_LARGEST, _LARGEST)


def fusion_in(calibration: Mapping[str, Any], multi_label: bool) -> Fusion | None:
    """What a bundle's calibration holds of a table; None where the image stands alone.

    Raises:
        BundleError: it is of another form.
    """
    values = calibration.get("tabular")
    if not values:
        return None
    n_out = len(values["bias"]) if isinstance(values, Mapping) and isinstance(values.get("bias"), list) else 0
    return Fusion.from_dict(values, n_out, multi_label)
