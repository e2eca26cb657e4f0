"""Gated attention over a unit's images, fitted on kept features: the encoder stays as it is."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

AXES = 64  # that features are projected on
HIDDEN = 32
STEPS = 300
RATE = 3e-3
DECAY = 0.05
DROPOUT = 0.25


class _GatedAttention(nn.Module):
    """Ilse, Tomczak and Welling 2018, equation 9."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.v, self.u = nn.Linear(n_in, HIDDEN), nn.Linear(n_in, HIDDEN)
        self.w = nn.Linear(HIDDEN, 1, bias=False)
        self.out = nn.Linear(n_in, n_out)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, unit: Tensor, n_units: int) -> Tensor:
        x = self.drop(x)
        score = self.w(torch.tanh(self.v(x)) * torch.sigmoid(self.u(x)))[:, 0]
        top = torch.full((n_units,), -torch.inf).scatter_reduce(0, unit, score.detach(), "amax")
        powers = torch.exp(score - top[unit])
        weights = powers / torch.zeros(n_units).index_add(0, unit, powers)[unit]
        pooled = torch.zeros(n_units, x.shape[1]).index_add(0, unit, weights[:, None] * x)
        return cast(Tensor, self.out(pooled))


def fit_attention(
    features: np.ndarray,
    unit: np.ndarray,
    y: np.ndarray,
    *,
    n_labels: int,
    multi_label: bool = False,
    seed: int = 42,
) -> dict[str, np.ndarray]:
    """Fit gated attention and a linear layer on the features of units' images.

    Args:
        features: (n, f) of the images.
        unit: (n,) from 0 to n_units - 1, which unit each is of.
        y: (n_units,) classes, or (n_units, n_labels) of 0 and 1, -1 where unknown.
        n_labels: outputs.
        multi_label: whether a unit may have several labels.
        seed: of the start and of what is dropped.

    Returns:
        The arrays that `medclf.metrics.units.Attention` takes.
    """
    mean, axes = _projection(features)
    x = torch.from_numpy(((features - mean) @ axes.T).astype(np.float32))
    index, target, n_units = torch.from_numpy(unit.astype(np.int64)), torch.from_numpy(y), len(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _trained(_GatedAttention(x.shape[1], n_labels), x, index, target, n_units, multi_label)
    layers = {"v": net.v, "u": net.u, "out": net.out}
    with torch.no_grad():
        arrays = {
            name: torch.cat([layer.weight, layer.bias[:, None]], dim=1).numpy().astype(np.float64)
            for name, layer in layers.items()
        }
        return {"mean": mean, "axes": axes, "w": net.w.weight[0].numpy().astype(np.float64), **arrays}


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


def _trained(
    net: _GatedAttention, x: Tensor, unit: Tensor, y: Tensor, n_units: int, multi_label: bool
) -> _GatedAttention:
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        logits = net(x, unit, n_units)
        if multi_label:
            known = (y >= 0).float()
            each = nn.functional.binary_cross_entropy_with_logits(logits, y.clamp(min=0).float(), reduction="none")
            loss = (each * known).sum() / known.sum().clamp(min=1)
        else:
            loss = nn.functional.cross_entropy(logits, y.long())
        torch.autograd.backward(loss)
        optimiser.step()
        plan.step()
    return net.eval()
