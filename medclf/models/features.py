"""Images as vectors: what a body's pooled feature map says of each, near each other where the pictures are alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medclf.dataset.labels import root_of
from medclf.errors import ReadError
from medclf.images.reading import prepare
from medclf.models.backbones import build_body, describe, fitted_to
from medclf.models.bn_folding import folded
from medclf.models.heads import pooling
from medclf.models.pooling import pooling_of
from medclf.models.stage_maps import widths_of, with_all_stages
from medclf.parallel import map_ahead, usable_device
from medclf.progress import watch


def extract(
    body: nn.Module, pooling: nn.Module, batches: Iterable[Tensor], *, step: int | None = None, in_bf16: bool = False
) -> np.ndarray:
    """Pooled features of images, by a copy of the body that only predicts (see `folded`).

    Args:
        body: in eval mode, from normalised images or from what lies below it, to a feature map, tokens or features.
        pooling: from what the body gives to (B, n_features).
        batches: (B, C, H, W) each, where the body is.
        step: images at once, where not whole batches.
        in_bf16: compute them in bfloat16.

    Returns:
        (n, n_features) float32, in the order of the batches; (0, 0) without any.

    Example:
        >>> extract(nn.Conv2d(3, 8, 1), nn.Flatten(), [torch.zeros(2, 3, 1, 1), torch.zeros(1, 3, 1, 1)]).shape
        (3, 8)
    """
    quick: nn.Module | None = None
    found: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            images = batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
            quick = quick or folded(body, images[:1])
            with torch.autocast(images.device.type, torch.bfloat16, enabled=in_bf16):
                found.extend(pooling(quick(part)).float().cpu() for part in torch.split(images, step or len(images)))
    return torch.cat(found).numpy() if found else np.zeros((0, 0), np.float32)


@contextmanager
def pooled_features(network: nn.Sequential) -> Iterator[list[Tensor]]:
    """Within it, the pooled features of all images that `network` predicts are kept, batch by batch.

    Args:
        network: `nn.Sequential(body, head)`.

    Yields:
        A list that fills with (batch, n_features) float32 tensors.
    """
    kept: list[Tensor] = []
    pool = pooling(network[1])
    hook = network[1].register_forward_pre_hook(lambda _, inputs: kept.append(pool(inputs[0].detach()).float().cpu()))
    try:
        yield kept
    finally:
        hook.remove()


def embed_table(
    table: pd.DataFrame,
    arch: Any = "efficientnet_lite0",
    *,
    weights: Any = "default",
    size: int | None = None,
    bs: int = 8,
    device: str | torch.device | None = None,
    window: Any = None,
    frame: Any = "middle",
    all_stages: bool = False,
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
        all_stages: of the maps of every stage, the first stage's first, where `stage_widths` tells several; else of
            the last one alone.
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
    root = root_of(table)
    side = size or describe(arch).size
    arch = fitted_to(arch, (side, side))
    backbone = describe(arch, weights)
    on = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    body = build_body(arch, weights=weights)
    body = (with_all_stages(body) if all_stages else body).eval()
    body = body.to(on).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values, device=on).view(1, 3, 1, 1) * 255 for values in backbone.normalization())
    paths = [root / path for path in table["path"]]
    read = partial(_read, size=side, window=window, frame=frame)
    images = watch(map_ahead(read, paths, threads=2, ahead=bs), len(paths), "Computing features", progress=progress)
    readable = ((row, image) for row, image in enumerate(images) if image is not None)
    rows: list[int] = []

    def batches() -> Iterator[Tensor]:
        while batch := list(islice(readable, bs)):
            rows.extend(row for row, _ in batch)
            yield _normalised(torch.from_numpy(np.stack([image for _, image in batch])).to(on), mean, std)

    result = np.full((len(paths), sum(widths_of(body)) or backbone.n_features), np.nan, np.float32)
    features = extract(body, pooling_of(body, class_token=backbone.class_token), batches())
    if rows:
        result[rows] = features
    return result


def stage_widths(arch: Any = "efficientnet_lite0") -> tuple[int, ...]:
    """How many columns each stage has in `embed_table(..., all_stages=True)`; () of a network that is no chain of them.

    Example:
        >>> stage_widths("resnet18"), stage_widths("vit_b_16")
        ((64, 64, 128, 256, 512), ())
    """
    return widths_of(with_all_stages(build_body(arch, weights=None)))


def _read(path: Path, size: int, window: Any, frame: Any) -> np.ndarray | None:
    try:
        return prepare(path, size, window=window, frame=frame)
    except ReadError:
        return None  # NaN in the result; scan and audit name the file


def _normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """NHWC uint8 -> normalised NCHW float in channels-last memory."""
    return (x.permute(0, 3, 1, 2).float() - mean) / std
