"""Minutes -> a way to train: the machine is measured, then size, depth and epochs are chosen so that all of it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from medclf.config import TrainConfig
from medclf.learn.step_costs import Costs
from medclf.learn.trial import FOLDS, VIEWS
from medclf.modalities import changes_of

MOST_EPOCHS, FEWEST_EPOCHS = 10, 3
_RESERVE_S = 10.0  # for the report, the bundle and what else is not counted
_RESERVE_IMAGE_S = 0.02  # likewise, an image: the head's fit, pictures, intervals
_MARGIN = 1.2  # steps in a training take longer than steps alone


@dataclass(frozen=True)
class Job:
    """How much there is to do.

    Args:
        n_train, n_valid: images of one training.
        n_images: all that are usable.
        trainings: 1, or those of a cross-validation and the last one.
        decode_s: what it took to decode all images.
        kept: what frozen stages give can be kept.
        passes: over the training images' features, which other linear probes that are tried take.
        trial: what trying fine-tuning first takes, as a share of fine-tuning on all training images.
    """

    n_train: int
    n_valid: int
    n_images: int
    trainings: int = 1
    decode_s: float = 0.0
    kept: bool = False
    passes: int = 0
    trial: float = 0.0


@dataclass(frozen=True)
class Way:
    """One way to train, and what it is expected to take.

    Args:
        sizes: of the images; the last one is the network's.
        train_from: the first stage that is trained; None for the whole network.
        epochs: 0 is the linear probe alone.
        seconds: expected, from now on.
    """

    sizes: tuple[int, ...]
    train_from: str | None
    epochs: int
    seconds: float

    def __str__(self) -> str:
        pixels = f"{' then '.join(map(str, self.sizes))} px"
        if not self.epochs:
            return f"the head alone at {pixels}"
        depth = "the whole network" if self.train_from is None else f"{self.train_from} and the head"
        return f"{depth} at {pixels}, {self.epochs} epochs"


def choose(costs: Sequence[Costs], job: Job, seconds: float, last_stage: str = "layer4") -> tuple[Way, list[Way]]:
    """The first of these that fits: all of the network, all of it on smaller images first, its last stage, its head.

    Each is given as many epochs as fit, at least three and at most ten; the linear probe comes before each.

    Args:
        costs: at the full size, then at the smaller one, if there is one.
        job: how much there is to do.
        seconds: that are left.
        last_stage: the name of the network's last stage before the head.

    Returns:
        The way, and those that were passed over, with what each would take at least.
    """
    large = costs[0]
    passed_over: list[Way] = []
    ways: list[tuple[tuple[Costs, ...], str | None]] = [((large,), None), ((large,), last_stage)]
    if len(costs) > 1:
        ways = [ways[0], ((costs[1], large), None), ways[1]]
        if not job.kept:
            ways.append(((costs[1], large), last_stage))
    for sizes, train_from in ways:
        for epochs in range(MOST_EPOCHS, FEWEST_EPOCHS - 1, -1):
            way = way_of(sizes, train_from, epochs, job)
            if way.seconds <= seconds:
                return way, passed_over
        passed_over.append(way)
    heads = [way_of((cost,), None, 0, job) for cost in costs]
    for way in heads[:-1]:
        if way.seconds <= seconds:
            return way, passed_over
        passed_over.append(way)
    return heads[-1], passed_over


def way_of(sizes: tuple[Costs, ...], train_from: str | None, epochs: int, job: Job) -> Way:
    """What a way takes: sizes of the epochs in turn, the first stage that is trained, how many epochs."""
    last = sizes[-1]
    once = 0.0
    tuning = 0.0
    kept = train_from is not None and job.kept and len(sizes) == 1
    forward = min(last.kept, last.forward) if kept else last.forward
    head = (job.n_train * (1 + job.passes) + job.n_valid) * forward
    for epoch in range(epochs):
        at = sizes[len(sizes) * epoch // epochs]
        step = at.whole if train_from is None else last.kept if kept else at.last
        tuning += job.n_train * (step + at.load) + job.n_valid * (last.kept if kept else last.forward)
    if kept:
        once = job.n_images * last.forward
    predict, features = (job.n_valid * last.forward, job.n_train * forward) if epochs else (0.0, 0.0)
    total = job.trainings * (head + tuning * (1 + job.trial) + predict) + once + features
    total = total * _MARGIN + _RESERVE_S + job.n_images * _RESERVE_IMAGE_S
    return Way(tuple(cost.size for cost in sizes), train_from, epochs, total)


def measured(config: TrainConfig, *, smaller: bool = True, repeats: int = 3) -> tuple[list[Costs], str, bool]:
    """The costs at the full size and, if asked for, a smaller one, the last stage's name, and whether it is a chain."""
    from medclf.learn.presets import tfms_for
    from medclf.learn.step_costs import measure, training_device
    from medclf.models.backbones import build_network
    from medclf.models.stages import is_chain, stage_names

    device = training_device(config.device)
    network = build_network(config.arch, 2, weights=None).to(device).to(memory_format=torch.channels_last)
    small = config.size * 4 // 7 // 32 * 32
    sizes = [config.size, small] if smaller and small >= 64 else [config.size]
    tfms = {size: tfms_for(config.modality, size, **changes_of(config.aug))[1] for size in sizes}
    precision = config.mixed_precision
    costs = [
        measure(network, size, batch_tfms=tfms[size], repeats=repeats, mixed_precision=precision) for size in sizes
    ]
    names = stage_names(network)
    return costs, names[-2], is_chain(network)


def job_of(config: TrainConfig, table: pd.DataFrame, spent: float, chain: bool, most_tried: int) -> Job:
    """How much there is to do, with a trial on at most so many images."""
    usable = table[(table["problem"] == "") & table["label"].notna()]
    parts = usable["partition"].value_counts()
    n = len(usable) - int(parts.get("test", 0))
    if config.split in (None, "folders") and parts.get("train") and parts.get("valid"):
        n_train, n_valid = int(parts["train"]), int(parts["valid"])
    else:
        share = 1 / config.folds if config.split == "kfold" else config.valid_pct
        n_valid = round(n * share)
        n_train = n - n_valid
    return Job(
        n_train,
        n_valid,
        len(usable),
        config.folds + 1 if config.split == "kfold" else 1,
        spent,
        config.cache is not False and config.modality is None and chain,
        2 * (config.pooling is None) + (VIEWS if config.modality and not config.views else 0),
        (FOLDS - 1) * min(1.0, most_tried / max(n_train, 1)),
    )
