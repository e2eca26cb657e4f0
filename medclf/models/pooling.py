"""Features of a whole image from a body's feature map or tokens."""

from __future__ import annotations

from torch import Tensor, nn

_LEAST = 1e-6  # a root has no slope at zero


class GlobalPool(nn.Module):
    """Features of the whole image: the mean over a feature map, the class token, or the mean over tokens.

    Example:
        >>> import torch
        >>> GlobalPool()(torch.ones(2, 8, 3, 3)).shape, GlobalPool()(torch.ones(2, 5, 8)).shape
        (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    def __init__(self, *, class_token: bool = False) -> None:
        super().__init__()
        self.class_token = class_token

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, N, C) or (B, C) -> (B, C)."""
        if x.ndim == 4:
            return x.mean(dim=(2, 3))
        if x.ndim == 3:
            return x[:, 0] if self.class_token else x.mean(dim=1)
        return x

    def extra_repr(self) -> str:
        """Shown by print."""
        return "class_token=True" if self.class_token else ""


class GeMPool(nn.Module):
    """The generalised mean over a feature map: high values weigh more than in the mean, which has p = 1.

    Radenović, Tolias and Chum 2018, "Fine-tuning CNN image retrieval with no human annotation", equation 3. Values
    below zero count as zero.

    Args:
        p: the power, 1 or more; the more, the nearer to the largest value.

    Example:
        >>> import torch
        >>> GeMPool(2.0)(torch.tensor([[[[1.0, 7.0]]]])).tolist()
        [[5.0]]
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, N, C) or (B, C) -> (B, C)."""
        if x.ndim < 3:
            return x
        powers = x.float().clamp(min=_LEAST).pow(self.p)
        return powers.mean(dim=(2, 3) if x.ndim == 4 else 1).pow(1 / self.p).to(x.dtype)

    def slopes(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1): what a channel's feature grows by where all of its map grows by 1."""
        x = maps.float().clamp(min=_LEAST)
        mean = x.pow(self.p).mean(dim=(2, 3), keepdim=True)
        positive = (maps > _LEAST) * x.pow(self.p - 1)
        return (positive.mean(dim=(2, 3), keepdim=True) * mean.pow(1 / self.p - 1)).to(maps.dtype)

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"p={self.p:g}"


def pooling_of(body: nn.Module, *, class_token: bool = False) -> nn.Module:
    """What makes features of what a body gives: the network's own pooling where it has one.

    Args:
        body: of `build_body`.
        class_token: see `GlobalPool`.

    Example:
        >>> pooling_of(nn.Conv2d(3, 8, 1))(Tensor(2, 8, 4, 4)).shape
        torch.Size([2, 8])
    """
    own = getattr(body, "make_pooling", None)
    return own() if callable(own) else GlobalPool(class_token=class_token)
