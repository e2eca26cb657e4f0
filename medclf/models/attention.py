"""Attention over a unit's images, fitted on kept features: the encoder stays as it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

AXES = 128  # that features are projected on
STEPS = 200
RATE = 0.02
PENALTY = 0.01  # on the squared weights of the scores
SHARPNESS = 3.0  # r: how much more an image counts where its score is higher


class _Attention(nn.Module):
    """What `medclf.metrics.units.Attention` computes."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.out = nn.Linear(n_in, n_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, unit: Tensor, n_units: int) -> Tensor:
        scores = self.out(x)
        asked = SHARPNESS * scores
        columns = unit[:, None].expand_as(asked)
        top = torch.full((n_units, asked.shape[1]), -torch.inf).scatter_reduce(0, columns, asked.detach(), "amax")
        powers = torch.exp(asked - top[unit])
        weights = powers / torch.zeros_like(top).index_add(0, unit, powers)[unit]
        return torch.zeros_like(top).index_add(0, unit, weights * scores)


def fit_attention(
    features: np.ndarray,
    unit: np.ndarray,
    y: np.ndarray,
    *,
    n_labels: int,
    finding: int | None = None,
    multi_label: bool = False,
) -> dict[str, np.ndarray]:
    """Fit attention on the features of units' images: from 0, in a fixed number of steps, so that nothing is drawn.

    Args:
        features: (n, f) of the images.
        unit: (n,) from 0 to n_units - 1, which unit each is of.
        y: (n_units,) classes, or (n_units, n_labels) of 0 and 1, -1 where unknown.
        n_labels: outputs.
        finding: of two labels the one that is scored; the other's score stays 0.
        multi_label: whether a unit may have several labels.

    Returns:
        The arrays that `medclf.metrics.units.Attention` takes.
    """
    mean, axes = _projection(features)
    x = torch.from_numpy(((features - mean) @ axes.T).astype(np.float32))
    index, n_out = torch.from_numpy(unit.astype(np.int64)), n_labels if finding is None else 1
    target = torch.from_numpy(y if finding is None else (y == finding).astype(np.int64)[:, None])
    net = _trained(_Attention(x.shape[1], n_out), x, index, target, len(y), finding is not None or multi_label)
    with torch.no_grad():
        out = torch.cat([net.out.weight, net.out.bias[:, None]], dim=1).numpy().astype(np.float64)
    if finding is not None:
        both = np.zeros((n_labels, out.shape[1]))
        both[finding] = out[0]
        out = both
    return {"mean": mean, "axes": axes, "out": out, "r": np.array([SHARPNESS])}


def _projection(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f,) mean and (k, f) main axes of the features, each scaled so that what is projected varies by about 1."""
    mean = features.mean(0, dtype=np.float64)
    centred = features - mean
    k = max(1, min(AXES, len(features) - 1, features.shape[1]))
    few = len(features) < features.shape[1]  # then the images' own products are the smaller matrix
    values, vectors = np.linalg.eigh(centred @ centred.T if few else centred.T @ centred)
    spread = np.sqrt(np.maximum(values[::-1][:k], 0))
    axes = vectors[:, ::-1][:, :k].T
    spread = np.maximum(spread, 1e-3 * spread[0] + 1e-12)
    axes = axes @ centred / spread[:, None] if few else axes
    return mean, axes / spread[:, None] * np.sqrt(max(len(features) - 1, 1))


def _trained(net: _Attention, x: Tensor, unit: Tensor, y: Tensor, n_units: int, by_label: bool) -> _Attention:
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    known = (y >= 0).float()
    for _ in range(STEPS):
        optimiser.zero_grad()
        logits = net(x, unit, n_units)
        if by_label:
            each = nn.functional.binary_cross_entropy_with_logits(logits, y.clamp(min=0).float(), reduction="none")
            loss = (each * known).sum() / known.sum().clamp(min=1)
        else:
            loss = nn.functional.cross_entropy(logits, y.long())
        torch.autograd.backward(loss + PENALTY * (net.out.weight**2).sum())
        optimiser.step()
    return net.eval()
