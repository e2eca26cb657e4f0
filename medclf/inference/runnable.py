"""A network with the normalisation before it: from pixels to logits and features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medclf.models.backbones import GlobalPool


class Runnable(nn.Module):
    """uint8 pixels (B, H, W, C) -> logits (B, n_out) and pooled features (B, n_features).

    Args:
        network: of `build_network`; shared, not copied.
        recipe: of the bundle.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()))
        >>> recipe = {"normalization": {"mean": [0.5], "std": [0.5]}}
        >>> Runnable(network, recipe).run(np.zeros((2, 8, 8, 1), np.uint8))[0].shape
        (2, 4)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.body, head = network.children()
        self.pool, *rest = head.children()
        self.rest = nn.Sequential(*rest)
        device = next(network.parameters(), torch.empty(0)).device
        for key in ("mean", "std"):
            values = torch.tensor(recipe["normalization"][key], dtype=torch.float32, device=device)
            self.register_buffer(key, values.view(1, -1, 1, 1))

    def normalized(self, pixels: Tensor) -> Tensor:
        """float32 (B, C, H, W) as in training, channels last in memory."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.pool(self.body(self.normalized(pixels)))
        return self.rest(features), features

    def tensor(self, pixels: np.ndarray) -> Tensor:
        """The pixels where the network is."""
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self.mean.device)

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and features, without gradients."""
        with torch.inference_mode():
            logits, features = self(self.tensor(pixels))
        return logits.float().cpu().numpy(), features.float().cpu().numpy()


class WithMaps(nn.Module):
    """As `Runnable`, and each label's Grad-CAM before its negative part is cut off: (B, n_out, h, w).

    Behind a mean over the feature map and one linear layer, the gradient of a logit with respect to a channel is that
    layer's weight over the map's size, everywhere (Selvaraju et al. 2017, section 3.1): no backward pass is needed.
    """

    def __init__(self, runnable: Runnable, linear: nn.Linear) -> None:
        super().__init__()
        self.runnable, self.linear = runnable, linear

    @classmethod
    def of(cls, runnable: Runnable, pixels: Tensor) -> WithMaps | None:
        """None where the network does not end so."""
        *before, linear = runnable.rest.children()
        with torch.inference_mode():
            features = runnable.body(runnable.normalized(pixels[:1]))
        simple = all(isinstance(module, (nn.Flatten, nn.Dropout)) for module in before)
        averaged = isinstance(runnable.pool, GlobalPool) and features.ndim == 4 and features.shape[2:].numel() > 1
        return cls(runnable, linear) if simple and averaged and isinstance(linear, nn.Linear) else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        maps = self.runnable.body(self.runnable.normalized(pixels))
        features = self.runnable.pool(maps)
        weighted = nn.functional.conv2d(maps, self.linear.weight[:, :, None, None])
        return self.runnable.rest(features), features, weighted
