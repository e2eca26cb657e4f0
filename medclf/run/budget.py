"""Minutes -> a plan: the machine is measured, then size, depth and epochs are chosen so that all of it fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
import torch

from medclf.learn import distributed
from medclf.learn.step_costs import Costs
from medclf.modalities import changes_of
from medclf.run.config import TrainConfig

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
    """

    n_train: int
    n_valid: int
    n_images: int
    trainings: int = 1
    decode_s: float = 0.0
    kept: bool = False


@dataclass(frozen=True)
class Plan:
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


def choose(costs: Sequence[Costs], job: Job, seconds: float, last_stage: str = "layer4") -> tuple[Plan, list[Plan]]:
    """The first of these that fits: all of the network, all of it on smaller images first, its last stage, its head.

    Each is given as many epochs as fit, at least three and at most ten; the linear probe comes before each.

    Args:
        costs: at the full size, then at the smaller one, if there is one.
        job: how much there is to do.
        seconds: that are left.
        last_stage: the name of the network's last stage before the head.

    Returns:
        The plan, and those that were passed over, with what each would take at least.
    """
    large = costs[0]
    passed_over: list[Plan] = []
    ways: list[tuple[tuple[Costs, ...], str | None]] = [((large,), None), ((large,), last_stage)]
    if len(costs) > 1:
        ways = [ways[0], ((costs[1], large), None), ways[1]]
        if not job.kept:
            ways.append(((costs[1], large), last_stage))
    for sizes, train_from in ways:
        for epochs in range(MOST_EPOCHS, FEWEST_EPOCHS - 1, -1):
            plan = _plan(sizes, train_from, epochs, job)
            if plan.seconds <= seconds:
                return plan, passed_over
        passed_over.append(plan)
    heads = [_plan((cost,), None, 0, job) for cost in costs]
    for plan in heads[:-1]:
        if plan.seconds <= seconds:
            return plan, passed_over
        passed_over.append(plan)
    return heads[-1], passed_over


def _plan(sizes: tuple[Costs, ...], train_from: str | None, epochs: int, job: Job) -> Plan:
    last = sizes[-1]
    once = 0.0
    tuning = 0.0
    kept = train_from is not None and job.kept and len(sizes) == 1
    forward = min(last.kept, last.forward) if kept else last.forward
    head = (job.n_train + job.n_valid) * forward
    for epoch in range(epochs):
        at = sizes[len(sizes) * epoch // epochs]
        step = at.whole if train_from is None else last.kept if kept else at.last
        tuning += job.n_train * (step + at.load) + job.n_valid * (last.kept if kept else last.forward)
    if kept:
        once = job.n_images * last.forward
    predict, features = (job.n_valid * last.forward, job.n_train * forward) if epochs else (0.0, 0.0)
    total = job.trainings * (head + tuning + predict) + once + features
    total = total * _MARGIN + _RESERVE_S + job.n_images * _RESERVE_IMAGE_S
    return Plan(tuple(cost.size for cost in sizes), train_from, epochs, total)


def within_budget(
    config: TrainConfig, table: pd.DataFrame, spent: float, say: Callable[[str], None]
) -> tuple[TrainConfig, dict[str, Any]]:
    """Settings with size, depth and epochs chosen to fit the budget, and without one, so that a repeat is the same.

    Args:
        config: with a budget.
        table: of `scan`, its images decoded.
        spent: seconds that it took so far.
        say: called with a line for the user.

    Returns:
        The settings, and for `run.json` what was measured, chosen and passed over.
    """
    assert config.budget is not None
    seconds = config.budget * 60 - spent
    facts: dict[str, Any] = distributed.from_first(lambda: _planned(config, table, spent, seconds))
    plan = Plan(**facts["chosen"] | {"sizes": tuple(facts["chosen"]["sizes"])})
    say(f"of {config.budget:g} minutes {seconds / 60:.1f} are left; chosen: {plan}, about {_minutes(plan.seconds)}")
    for other in facts["passed_over"]:
        say(f"  passed over: {Plan(**other)}, {_minutes(other['seconds'])}")
    if plan.seconds > seconds:
        say("  it is the least there is, and will take longer than the budget")
    *first, size = plan.sizes
    chosen = replace(
        config, size=size, first_sizes=tuple(first), train_from=plan.train_from, epochs=plan.epochs, budget=None
    )
    return chosen, {"budget": config.budget, **facts}


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def _planned(config: TrainConfig, table: pd.DataFrame, spent: float, seconds: float) -> dict[str, Any]:
    costs, last_stage, chain = _measured(config)
    job = _job(config, table, spent, chain)
    plan, passed_over = choose(costs, job, seconds, last_stage)
    if plan.sizes[-1] != config.size:  # its images must be decoded anew
        plan = replace(plan, seconds=plan.seconds + job.decode_s)
    return {
        "costs": [cost.as_dict() | {"kept": cost.kept if math.isfinite(cost.kept) else None} for cost in costs],
        "job": asdict(job),
        "seconds_left": seconds,
        "chosen": asdict(plan),
        "passed_over": [asdict(other) for other in passed_over],
    }


def _measured(config: TrainConfig) -> tuple[list[Costs], str, bool]:
    """The costs at the full size and a smaller one, the last stage's name, and whether the network is a chain."""
    from fastai.torch_core import default_device

    from medclf.learn.presets import tfms_for
    from medclf.learn.step_costs import measure
    from medclf.models.backbones import build_network
    from medclf.models.stages import is_chain, stage_names

    device = torch.device(config.device) if config.device else default_device()
    network = build_network(config.arch, 2, weights=None).to(device).to(memory_format=torch.channels_last)
    small = config.size * 4 // 7 // 32 * 32
    sizes = [config.size, small] if small >= 64 else [config.size]
    precision = config.mixed_precision
    tfms = {size: tfms_for(config.modality, size, **changes_of(config.aug))[1] for size in sizes}
    costs = [measure(network, size, batch_tfms=tfms[size], mixed_precision=precision) for size in sizes]
    names = stage_names(network)
    return costs, names[-2], is_chain(network)


def _job(config: TrainConfig, table: pd.DataFrame, spent: float, chain: bool) -> Job:
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
    )
