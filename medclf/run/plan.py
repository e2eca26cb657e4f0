"""A plan: what the data and the machine are, which ways to train are tried, and which is taken.

Few ways are tried, those first that cost nothing but kept features, each inside the training set alone: whole patients
and near-duplicates are held out of it, and a way is taken where it is surely better there. `plan.json` has all of it;
it can be read, changed and given to another training.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from medclf.config import TUNED_EPOCHS, Pooling, TrainConfig
from medclf.dataset.csv_files import read_rows
from medclf.dataset.groups import groups_of, unit_of
from medclf.dataset.labels import label_set
from medclf.errors import DataError, MedclfError, argument, by_road, did_you_mean
from medclf.files import finite, write_json
from medclf.learn import distributed
from medclf.learn.trial import MOST
from medclf.parallel import n_cores
from medclf.results.run_folder import TABLE
from medclf.run.budget import Way, choose, job_of, measured, way_of
from medclf.run.config import Say

PLAN = "plan.json"
FORMAT = 1
FEWEST = 120  # training images; with fewer nobody could tell whether fine-tuning helps
_KEYS = {"format", "sentence", "chosen", "candidates", "data", "machine", "budget", "folds"}


@dataclass(frozen=True)
class Chosen:
    """What a plan decides: settings of `TrainConfig`.

    Args:
        epochs: 0 is the linear probe alone.
        lr: base learning rate; None for the usual one.
        train_from: the first stage that is trained; None for the whole network.
        blend: the share of the fine-tuned weights in the finished ones.
        pooling: how a feature map becomes one vector; None for the network's own way.
        views: augmented views of each image for the linear probe.
        size: of the images, in pixels.
        first_sizes: smaller ones, which the first epochs are trained at.
        linked_by: how the features were pooled by which near-duplicates among the training images were found, which the
            linear probe's folds keep together; None where they were not looked for.
    """

    epochs: int = 0
    lr: float | None = None
    train_from: str | None = None
    blend: float = 1.0
    pooling: Pooling | None = None
    views: int = 0
    size: int = 224
    first_sizes: tuple[int, ...] = ()
    linked_by: Pooling | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str) -> Chosen:
        """Back from `plan.json`.

        Raises:
            DataError: a name that is not known, or values that cannot be together.
        """
        origin = f"{origin}, chosen"
        _check_known(values, [field.name for field in fields(cls)], origin)
        sizes, epochs = values.get("first_sizes", ()), values.get("epochs", 0)
        if not isinstance(sizes, (list, tuple)):
            raise DataError(f"{origin}: first_sizes must be a list, not {sizes!r}", "for example [128]")
        if epochs is None:
            raise DataError(f"{origin}: epochs must be a whole number, not {epochs}", "0 is the linear probe alone")
        if values.get("linked_by") not in (None, *get_args(Pooling)):
            text = f"{origin}: linked_by must be {', '.join(get_args(Pooling))} or null, not {values['linked_by']!r}"
            raise DataError(text, "null looks for no near-duplicates")
        idle = [name for name in ("lr", "train_from", "first_sizes") if values.get(name)]
        idle = [*idle, "blend"] if values.get("blend", 1) != 1 else idle
        if not epochs and idle:
            text = f"{origin}: {idle[0]} is for fine-tuning, and there are no epochs of it"
            raise DataError(text, f"leave out {idle[0]}, or say how many epochs")
        return cls(**{**values, "first_sizes": tuple(sizes)})

    def applied(self, config: TrainConfig) -> TrainConfig:
        """The settings, with what the plan decided; a repeat of them needs no plan."""
        return replace(config, recipe=None, plan=None, budget=None, **asdict(self))


@dataclass(frozen=True)
class Outline:
    """What will be tried, known before anything is trained.

    Args:
        tune: the way to fine-tune that is tried after the linear probe; None for none.
        budget: minutes; None without one.
        why_not: why nothing is fine-tuned; "" where it is tried.
        size: of the images, in pixels; None for the settings' own.
        asked_size: what the settings asked for; a repeat with other settings begins from there.
    """

    tune: Way | None
    budget: float | None = None
    why_not: str = ""
    size: int | None = None
    asked_size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the record of a run that is not finished, or has folds: a budget measured again may find another way."""
        return asdict(self)


def outlined(
    config: TrainConfig, table: pd.DataFrame, spent: float, say: Say, before: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, Outline | None]:
    """The settings, at the size that fits data and machine, and what will be tried; None where nothing is left open.

    Args:
        config: of the run.
        table: of `scan`, its images decoded.
        spent: seconds that this took.
        say: called with a line for the user: what will be tried, and how long that takes.
        before: the outline of the run that is gone on with or repeated, which is kept.
    """
    if frozen := on_frozen_features(config):
        say(frozen)
    if config.way != "auto" or not config.linear_probe:
        return config, None
    facts = distributed.from_first(lambda: dict(before or _tried(config, table, spent, say)))
    tune = facts["tune"] and Way(**facts["tune"] | {"sizes": tuple(facts["tune"]["sizes"])})
    asked = facts.get("asked_size") or config.size
    outline = Outline(tune, config.budget, facts.get("why_not", ""), facts["size"], asked)
    return replace(config, size=facts["size"]), outline


def _tried(config: TrainConfig, table: pd.DataFrame, spent: float, say: Say) -> dict[str, Any]:
    n = job_of(config, table, spent, False, MOST).n_train
    if n < FEWEST and not config.budget:
        why_not = _too_few(n)
        say(f"plan: the linear probe alone; {why_not}")
        return {"size": config.size, "tune": None, "why_not": why_not}
    costs, last_stage, chain = measured(config, smaller=bool(config.budget), repeats=3 if config.budget else 1)
    job = job_of(config, table, spent, chain, MOST)
    if config.budget:
        left = config.budget * 60 - spent
        way, passed_over = choose(costs, job, left, last_stage)
        say(f"of {config.budget:g} minutes {left / 60:.1f} are left")
        for other in passed_over:
            say(f"  passed over: {other}, {_minutes(other.seconds)}")
        if way.seconds > left:
            say("  it is the least there is, and will take longer than the budget")
    else:
        way = way_of((costs[0],), None, TUNED_EPOCHS, job)
        way = replace(way, sizes=(*config.first_sizes, *way.sizes))  # smaller ones take less, so it is at most that
    if not way.epochs or n < FEWEST:
        why_not = _too_few(n) if n < FEWEST else f"no fine-tuning fits a budget of {config.budget:g} minutes"
        say(f"plan: the linear probe alone at {way.sizes[-1]} px, about {_minutes(way.seconds)}; {why_not}")
        return {"size": way.sizes[-1], "tune": None, "why_not": why_not}
    say(
        f"plan: the linear probe; then {way}, tried on a part of the training set, and made on all of it "
        f"where that helps; at most about {_minutes(way.seconds)}"
    )
    return {"size": way.sizes[-1], "tune": asdict(way)}


def _too_few(n: int) -> str:
    return f"{n} training images are too few to tell whether fine-tuning helps: {FEWEST} are needed"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def sentence_of(candidates: list[dict[str, Any]]) -> str:
    """What was chosen, and what each of the others came to.

    Example:
        >>> rows = [{"name": "linear probe", "chosen": True}]
        >>> sentence_of([*rows, {"name": "fine-tuning", "chosen": False, "problem": "too few"}])
        'Chosen inside the training set: linear probe. Not tried: fine-tuning (too few).'
    """
    told = [f"Chosen inside the training set: {candidates[_chosen_row(candidates)]['name']}."]
    told += [row["sentence"] for row in candidates if "sentence" in row]
    told += [f"Not tried: {row['name']} ({row['problem']})." for row in candidates if row.get("problem")]
    return " ".join(told)


def fingerprint_of(table: pd.DataFrame, config: TrainConfig) -> dict[str, Any]:
    """What the data are: all that a plan may rest on."""
    good = table[(table["problem"] == "") & table["label"].notna()]
    labels = pd.Series([label for cell in good["label"] for label in label_set(cell)], dtype=object).value_counts()
    groups = groups_of(good)
    sides = {name: int(good[name].median()) for name in ("width", "height") if name in good and len(good)}
    return {
        "images": len(good),
        "partitions": {str(name): int(n) for name, n in good["partition"].value_counts().items()},
        "groups": None if groups is None else {"of": unit_of(good), "n": len(np.unique(groups))},
        "labels": {str(name): int(n) for name, n in labels.items()},
        "imbalance": round(float(labels.max() / labels.min()), 1) if len(labels) else None,
        "multi_label": bool(table.attrs.get("multi_label")),
        "median_size": sides,
        "modality": config.modality,
    }


def write_plan(
    out: str | Path,
    chosen: Chosen,
    candidates: list[dict[str, Any]],
    *,
    table: pd.DataFrame,
    config: TrainConfig,
    device: Any,
    fold: int | None = None,
) -> dict[str, Any]:
    """Write `plan.json` into a RUN, or add a fold's to it, and return what it holds.

    Args:
        out: the RUN.
        chosen, candidates: from `decide`.
        table: of the data, split.
        config: of the run.
        device: it trains on.
        fold: which of a cross-validation; None for the network that is kept.
    """
    path = Path(out) / PLAN
    before = read_plan(path) if path.is_file() else {}
    mine = {"chosen": asdict(chosen), "candidates": candidates}
    if fold is not None:
        plan = {**before, "format": FORMAT, "folds": {**before.get("folds", {}), str(fold): mine}}
    else:
        plan = {
            **before,
            "format": FORMAT,
            "sentence": sentence_of(candidates),
            **mine,
            "data": fingerprint_of(table, config),
            "machine": {"cores": n_cores(), "device": str(device)},
            "budget": config.budget,
        }
    write_json(path, finite(plan))
    return plan


def _chosen_row(candidates: list[dict[str, Any]]) -> int:
    return max(row for row, one in enumerate(candidates) if one["chosen"])


def read_plan(path: str | Path) -> dict[str, Any]:
    """What a plan.json holds.

    Args:
        path: the file, or the RUN that has it.

    Raises:
        DataError: there is none, it is damaged, of a later medclf, or has a key that is not known.
    """
    path = Path(path) / PLAN if Path(path).is_dir() else Path(path)
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{argument('plan')}: {path} cannot be read: {error}", f"give the {PLAN} of a RUN") from error
    if not isinstance(plan, dict):
        raise DataError(f"{argument('plan')}: {path} holds no JSON object", f"give the {PLAN} of a RUN")
    _check_known(plan, _KEYS, str(path))
    if plan.get("format") != FORMAT:
        remedy = "update medclf" if "format" in plan else f'write "format": {FORMAT} into it'
        raise DataError(f"{path} has the format {plan.get('format')!r}; this medclf reads {FORMAT}", remedy)
    return plan


def chosen_in(plan: Mapping[str, Any], origin: str, fold: int | None = None) -> Chosen | None:
    """What a plan decided for the network that is kept, or for a fold; None where it does not say.

    Raises:
        DataError: a name that is not known.
    """
    part: Any = plan
    for name in () if fold is None else ("folds", str(fold)):
        part = part.get(name) if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(part.get("chosen"), dict):
        return None
    return Chosen.from_dict(part["chosen"], origin)


def planned(config: TrainConfig, said: Collection[str] = ()) -> TrainConfig:
    """The settings, as the file that `plan` names has them; what it leaves open is as `config` says.

    Args:
        config: of the run.
        said: settings that the user named, which count also where they have their usual value.

    Raises:
        DataError: the file cannot be read, decides nothing, or has what cannot be or goes against `config`.
    """
    if not config.plan:
        return config
    plan = read_plan(config.plan)
    chosen = chosen_in(plan, str(config.plan))
    if chosen is None:
        raise DataError(
            f"{config.plan} does not say what was chosen", f'it needs "format": {FORMAT} and "chosen": {{"epochs": 5}}'
        )
    for name in ("size", "first_sizes", "views", "pooling", "blend"):
        given, there = getattr(config, name), getattr(chosen, name)
        if name not in plan["chosen"]:
            chosen = replace(chosen, **{name: given})
        elif given != there and (name in said or given != getattr(TrainConfig, name)):
            text = f"{argument(name, given)} does not go with {config.plan}, which has {there or 'another'}"
            raise DataError(text, "leave out one of the two")
    path = Path(config.plan)
    made_by_a_run = str(path if path.is_dir() else path.parent) if "data" in plan else None
    try:
        return replace(chosen.applied(config), planned_in=made_by_a_run)
    except (MedclfError, TypeError) as error:
        remedy = by_road("see help(medclf.TrainConfig)", "see medclf train --help")
        raise DataError(f"{config.plan}: {error}", remedy) from error


def planned_on(config: TrainConfig) -> set[str] | None:
    """The SHA-256 of the images that an earlier run's plan chose the settings on; None where that is not known.

    To be asked before a RUN is emptied: its own plan may be the earlier one.
    """
    if config.planned_in is None:
        return set()
    file = Path(config.planned_in) / TABLE
    if not file.is_file():
        return None
    rows = read_rows(file, ["sha256", "partition"])
    return set(rows.loc[rows["partition"] == "train", "sha256"])


def reported_again(earlier: set[str] | None, table: pd.DataFrame, split: str | None) -> str:
    """What to say of reported images that the settings were chosen on; "" where there are none.

    Args:
        earlier: from `planned_on`.
        table: of the run, at its end.
        split: of the run; with folds, training images are reported as well.
    """
    if earlier is None:
        text = f"The settings are those of another run's plan, beside which there is no {TABLE}"
        return f"{text}: whether they were chosen on images that are reported here is not known."
    parts = ["train", "valid", "test"] if split == "kfold" else ["valid", "test"]
    shown = table[table["partition"].isin(parts) & (table["problem"] == "")]
    n = int(shown["sha256"].isin(earlier).sum())
    if not n:
        return ""
    text = f"The settings were chosen by a plan on images of which {n} are among the {len(shown)} that are"
    return f"{text} reported here, so the scores are somewhat optimistic."


def _check_known(values: Mapping[str, Any], known: Any, origin: str) -> None:
    for name in values:
        if name not in known:
            remedy = did_you_mean(name, known) or f"there are {', '.join(sorted(known))}"
            raise DataError(f"{origin}: {name!r} is not known", remedy)


def on_frozen_features(config: TrainConfig) -> str:
    """Why nothing but the linear probe was tried, where another setting than the recipe decides that; else ""."""
    if config.way != "probe" or config.recipe or config.epochs is not None:
        return ""
    name = argument("unit") if config.unit else argument("tabular")
    return f"{name} stands on frozen features: the linear probe is fitted, and nothing is fine-tuned"
