"""Prepared pixels -> the network's input, in torch: the loaders' batch transforms at validation, without fastai."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medclf.images.preprocessing import Preprocessing, Sampling
from medclf.models.spec import Normalization


class Inputs(nn.Module):
    """uint8 pixels (B, H, W, C), as `Preprocessing.prepare` gives them -> normalised float32 (B, C, h, w).

    Args:
        preprocessing: whose `sampling` is done here, since fastai does it on floating-point pixels.
        normalization: of the result.
        device: where the pixels will be.

    Example:
        >>> inputs = Inputs(Preprocessing((2, 2), channels=1), Normalization([0.5], [0.5]))
        >>> inputs(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)).tolist()
        [[[[-1.0, 1.0]]]]
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        preprocessing: Preprocessing,
        normalization: Normalization,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(normalization, name), dtype=torch.float32, device=device)
            self.register_buffer(name, values.view(1, -1, 1, 1))
        self.sampled = preprocessing.sampling is not None
        if preprocessing.sampling is not None:
            rows, columns = sampling_matrices(preprocessing.sampling, preprocessing.size)
            self.register_buffer("rows", rows.to(device))
            self.register_buffer("columns", columns.T.contiguous().to(device))

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class; channels last in memory."""
        x = pixels.permute(0, 3, 1, 2).float() / 255
        if self.sampled:
            x = (self.rows @ x @ self.columns).contiguous(memory_format=torch.channels_last)
        return (x - self.mean) / self.std

    def tensor(self, pixels: np.ndarray) -> Tensor:
        """The pixels where this is."""
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self.mean.device)


def sampling_matrices(sampling: Sampling, prepared: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(h, H) and (w, W) matrices R and C, such that R @ pixels @ C.T is what fastai's `affine_coord` gives.

    Its grid is straight, and so are bilinear and nearest weights: both axes part. Where the pixels are more than twice
    as many as wanted, fastai averages areas first; it compares the height with the width, and so does this
    (`fastai.vision.augment._grid_sample` in 2.8.12: `coords.shape[-2]` is the width, `coords.shape[-1]` is 2).

    Example:
        >>> sampling_matrices(Sampling((1, 2), align_corners=False), (2, 2))[0].tolist()
        [[0.5, 0.5]]
    """
    rows, columns = sampling.part(prepared)
    height, width = sampling.size
    shrink = min((rows.stop - rows.start) / width, (columns.stop - columns.start) / 2) / 2
    span = 2.0 if sampling.align_corners else 2 * (1 - 1 / max(height, width))
    if sampling.mode == "nearest" or shrink <= 1 or shrink * span <= 2:
        shrink = 1.0
    return _axis(sampling, prepared[0], rows, height, shrink), _axis(sampling, prepared[1], columns, width, shrink)


def _axis(sampling: Sampling, n: int, part: slice, m: int, shrink: float) -> Tensor:
    """The matrix of one axis: what the two functions make of each unit vector."""
    units = torch.eye(part.stop - part.start).view(1, -1, part.stop - part.start, 1)
    if shrink > 1:
        units = F.interpolate(units, (int(units.shape[2] * (1 / shrink)), 1), mode="area")
    places = torch.linspace(-1, 1, m) * (1 if sampling.align_corners else (m - 1) / m) if m > 1 else torch.zeros(1)
    grid = torch.stack([torch.zeros(m), places], 1).view(1, m, 1, 2)
    sampled = F.grid_sample(
        units, grid, mode=sampling.mode, padding_mode=sampling.pad_mode, align_corners=sampling.align_corners
    )
    matrix = torch.zeros(m, n)
    matrix[:, part] = sampled[0, :, :, 0].T
    return matrix
