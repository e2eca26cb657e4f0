"""A network with the normalisation before it: from pixels to logits and features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medclf.models.heads import is_plain, pooling
from medclf.models.inputs import Inputs
from medclf.models.pooling import GeMPool, GlobalPool
from medclf.models.spec import ModelSpec


class Runnable(nn.Module):
    """uint8 pixels (B, H, W, C) -> logits (B, n_out) and pooled features (B, n_features).

    Args:
        network: of `build_network`; shared, not copied.
        spec: of the bundle.

    Example:
        >>> from medclf.images.preprocessing import Preprocessing
        >>> from medclf.models.spec import Normalization
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()))
        >>> spec = ModelSpec("", list("abcd"), Preprocessing(8, channels=1), Normalization([0.5], [0.5]))
        >>> Runnable(network, spec).run(np.zeros((2, 8, 8, 1), np.uint8))[0].shape
        (2, 4)
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.body, head = network.children()
        self.pool = pooling(head)
        self.pools_first = is_plain(head)
        self.rest = nn.Sequential(*list(head.children())[1:]) if self.pools_first else head
        device = next(network.parameters(), torch.empty(0)).device
        self.inputs = Inputs(spec.preprocessing, spec.normalization, device)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        maps = self.body(self.inputs(pixels))
        features = self.pool(maps)
        return self.rest(features if self.pools_first else maps), features

    @property
    def head(self) -> nn.Module:
        """From what the body gives to logits."""
        return nn.Sequential(self.pool, self.rest) if self.pools_first else self.rest

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and features, without gradients."""
        given = self.inputs.tensor(pixels)
        with torch.inference_mode(), torch.autocast(given.device.type, enabled=False):  # which may be the caller's
            logits, features = self(given)
        return logits.float().cpu().numpy(), features.float().cpu().numpy()


class WithMaps(nn.Module):
    """As `Runnable`, and each label's Grad-CAM before its negative part is cut off: (B, n_out, h, w).

    Behind a mean over the feature map and one linear layer, the gradient of a logit with respect to a channel is that
    layer's weight over the map's size, everywhere (Selvaraju et al. 2017, section 3.1): no backward pass is needed.
    Behind a generalised mean that weight is multiplied by `GeMPool.slopes`.
    """

    def __init__(self, runnable: Runnable, linear: nn.Linear) -> None:
        super().__init__()
        self.runnable, self.linear = runnable, linear

    @classmethod
    def of(cls, runnable: Runnable, pixels: Tensor) -> WithMaps | None:
        """None where the network does not end so."""
        if not runnable.pools_first:
            return None
        *before, linear = runnable.rest.children()
        with torch.inference_mode():
            features = runnable.body(runnable.inputs(pixels[:1]))
        simple = all(isinstance(module, (nn.Flatten, nn.Dropout)) for module in before)
        averaged = isinstance(runnable.pool, (GlobalPool, GeMPool))
        averaged = averaged and features.ndim == 4 and features.shape[2:].numel() > 1
        return cls(runnable, linear) if simple and averaged and isinstance(linear, nn.Linear) else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        maps = self.runnable.body(self.runnable.inputs(pixels))
        features = self.runnable.pool(maps)
        slopes = self.runnable.pool.slopes(maps) if isinstance(self.runnable.pool, GeMPool) else 1
        weighted = nn.functional.conv2d(maps * slopes, self.linear.weight[:, :, None, None])
        return self.runnable.rest(features), features, weighted
