"""Features of a whole image from a body's feature map or tokens."""

from __future__ import annotations

from torch import Tensor, nn


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
