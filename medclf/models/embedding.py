"""A table's images as vectors of a pretrained backbone: near each other where the pictures are alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medclf.errors import ReadError
from medclf.images.reading import prepare
from medclf.models.backbones import GlobalPool, build_body, describe
from medclf.models.bn_folding import folded
from medclf.parallel import map_ahead
from medclf.progress import watch


def embed_table(
    table: pd.DataFrame,
    arch: str = "efficientnet_lite0",
    *,
    weights: Any = "default",
    size: int | None = None,
    bs: int = 8,
    device: str | torch.device | None = None,
    window: Any = None,
    frame: Any = "middle",
    progress: bool = True,
) -> np.ndarray:
    """Pooled features of each image from the body of a pretrained backbone.

    Args:
        table: as `scan` returns it; its images are read below `table.attrs["root"]`.
        arch, weights: see `build_body`; `efficientnet_lite0` needs no model hub.
        size: side in pixels that images are resized to; what the weights were trained at where None.
        bs: images at once.
        device: "cpu", "cuda", ...; the GPU if there is one where None.
        window, frame: how DICOM is read; see `read_image`.
        progress: show a progress bar when it lasts.

    Returns:
        (n, features) float32; NaN in the rows of images that cannot be read.

    Raises:
        WeightsError, MissingDependency: the weights cannot be had; the remedy names the ways out.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("L", (40, 30), 90).save(folder / "a.png")
        >>> table = pd.DataFrame({"path": ["a.png", "missing.png"], "problem": ["", ""]})
        >>> table.attrs["root"] = str(folder)
        >>> found = embed_table(table, "resnet18", weights=None, size=32)
        >>> found.shape, np.isnan(found).any(1).tolist()
        ((2, 512), [False, True])
    """
    backbone = describe(arch)
    side = size or backbone.size
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    body = folded(build_body(arch, weights=weights).eval(), torch.zeros(1, 3, side, side))
    network = nn.Sequential(body, GlobalPool(class_token=backbone.class_token))
    network = network.to(on).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values, device=on).view(1, 3, 1, 1) * 255 for values in backbone.normalization())
    paths = [Path(table.attrs["root"]) / path for path in table["path"]]
    read = partial(_read, size=side, window=window, frame=frame)
    result = np.full((len(paths), backbone.n_features), np.nan, np.float32)
    with torch.inference_mode():
        batches = watch(_batches(paths, read, bs), -(-len(paths) // bs), "Computing features", progress=progress)
        for start, batch in enumerate(batches):
            rows = start * bs + np.flatnonzero([image is not None for image in batch])
            if len(rows):
                x = torch.from_numpy(np.stack([image for image in batch if image is not None])).to(on)
                result[rows] = network(_normalised(x, mean, std)).float().cpu().numpy()
    return result


def _read(path: Path, size: int, window: Any, frame: Any) -> np.ndarray | None:
    try:
        return prepare(path, size, window=window, frame=frame)
    except ReadError:
        return None  # NaN in the result; scan and audit name the file


def _batches(paths: list[Path], read: Any, bs: int) -> Iterator[list[np.ndarray | None]]:
    """Batches read in threads, the next one while the last is computed."""
    images = map_ahead(read, paths, threads=2, ahead=bs)
    while batch := list(islice(images, bs)):
        yield batch


def _normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """NHWC uint8 -> normalised NCHW float in channels-last memory."""
    return (x.permute(0, 3, 1, 2).float() - mean) / std
