"""What a training step costs on this machine, measured on noise before anything is trained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from fastai.torch_core import TensorImage, default_device
from torch import Tensor, nn

from medclf.learn.batches import default_batch_size
from medclf.learn.precision import bf16, has_bf16
from medclf.models.bn_folding import folded
from medclf.models.frozen_prefix import FrozenPrefix, at_once, folded_below
from medclf.models.stages import is_chain, stages


@dataclass(frozen=True)
class Costs:
    """Seconds an image, at one size.

    Args:
        size: side in pixels.
        forward: to predict, or to compute features.
        load: to augment.
        whole: a training step of the whole network.
        last: a training step of the last stage and the head, those below run without gradients.
        kept: the same, what those below give being kept; infinite where it cannot be.
    """

    size: int
    forward: float
    load: float
    whole: float
    last: float
    kept: float

    def as_dict(self) -> dict[str, Any]:
        """For `run.json`."""
        return asdict(self)


def training_device(name: str | None) -> torch.device:
    """The device of that name; of None, the one that fastai would take."""
    return torch.device(name) if name else default_device()


def measure(
    network: nn.Sequential,
    size: int,
    *,
    batch_tfms: Sequence[Any] = (),
    n_in: int = 3,
    repeats: int = 3,
    mixed_precision: bool | None = None,
) -> Costs:
    """Time the steps of a network on its device; its weights change.

    Args:
        network: `nn.Sequential(body, head)`.
        size: side of the images in pixels.
        batch_tfms: the augmentation.
        n_in: channels.
        mixed_precision: see `med_learner`.
        repeats: how often each is timed, after once for warming up; the median counts.

    Returns:
        Seconds an image.
    """
    device = next(network.parameters()).device
    in_bf16 = has_bf16(device) if mixed_precision is None else mixed_precision
    n = default_batch_size(device)
    images = torch.rand(n, n_in, size, size, device=device).contiguous(memory_format=torch.channels_last)
    network.eval()  # the norms keep their statistics while the network is tuned
    quick = nn.Sequential(folded(network[0], images[:1]), network[1])

    def predict() -> None:
        with torch.inference_mode():
            for part in torch.split(images, at_once(device)):
                quick(part)

    pixels = (images * 255).to(torch.uint8)

    def augment() -> None:
        batch: Any = TensorImage(pixels)
        for tfm in batch_tfms:
            batch = tfm(batch, split_idx=0)

    def seconds(run: Callable[[], Any]) -> float:
        return _median(run, device, repeats) / n

    forward, load = seconds(predict), seconds(augment) if batch_tfms else 0.0
    whole = seconds(_step(network, network, images, in_bf16))
    below, cut = stages(network)[:-2], len(stages(network)) - 2
    for parameter in (parameter for stage in below for parameter in stage.parameters()):
        parameter.requires_grad_(False)
    kept = float("inf")
    chain = bool(cut) and is_chain(network)
    run = FrozenPrefix(network, cut).run_below(folded_below(network, cut)) if chain else network
    last = seconds(_step(network, run, images, in_bf16))
    if chain:
        with torch.no_grad():
            features = nn.Sequential(*below)(images)
        kept = seconds(_step(network, FrozenPrefix(network, cut), features, in_bf16))
    network.requires_grad_(True)
    return Costs(size, forward, load, whole, last, kept)


def _step(network: nn.Module, run: nn.Module, x: Tensor, in_bf16: bool) -> Callable[[], None]:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)

    def step() -> None:
        with bf16(x.device, in_bf16):
            loss = run(x).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _median(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
