"""The checklist of CLAIM 2024, filled from what medclf knows and from the model card; the rest is MISSING.

Source: Tejani et al. 2024, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update", Radiology:
Artificial Intelligence 6(4):e240300. The numbers are its items; the words are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medclf.reporting.card import read_card
from medclf.reporting.checklist import answers as known
from medclf.reporting.checklist.answers import Known

MISSING = "MISSING"


class Item(NamedTuple):
    """One item: what is asked, who can answer."""

    section: str
    asked: str
    answer: Callable[[Known], str] | None = None  # from what medclf knows; "" where it does not
    card: str = ""  # the card's key
    command: str = ""  # what would let medclf know


ITEMS = (
    Item("Title", "the work is named as one of AI, with the kind of method", known.method),
    Item("Abstract", "a structured summary of design, methods and results", known.abstract),
    Item("Introduction", "background, intended use and role of the model", card="background"),
    Item("Introduction", "aims and hypotheses", card="aims"),
    Item("Design", "prospective or retrospective", card="design"),
    Item("Design", "goal of the study", known.goal),
    Item("Data", "sources of the data", card="source"),
    Item("Data", "inclusion and exclusion criteria", card="eligibility"),
    Item("Data", "preprocessing", known.preprocessing),
    Item("Data", "selection of parts of the data", known.subsets),
    Item("Data", "de-identification", known.deidentification, "deidentification"),
    Item("Data", "how missing data were handled", known.missing_data),
    Item("Data", "how the images were acquired", card="acquisition"),
    Item("Reference standard", "how it was obtained", card="reference_standard"),
    Item("Reference standard", "why it was chosen", card="reference_rationale"),
    Item("Reference standard", "who annotated, and how", card="annotators"),
    Item("Reference standard", "how the test images were annotated", card="test_annotation"),
    Item("Reference standard", "agreement between and within annotators", card="agreement"),
    Item("Partitions", "how images were assigned to them", known.assignment),
    Item("Partitions", "level at which they are disjoint", known.level),
    Item("Testing data", "intended sample size", known.sample_size),
    Item("Model", "description of the model", known.model),
    Item("Model", "software and versions", known.software),
    Item("Model", "initialisation of its parameters", known.initialisation),
    Item("Training", "details of the training", known.training),
    Item("Training", "how the final model was selected", known.selection),
    Item("Training", "ensembling", known.ensembling),
    Item("Evaluation", "metrics", known.metrics),
    Item("Evaluation", "uncertainty and significance", known.uncertainty),
    Item("Evaluation", "robustness or sensitivity analysis", known.robustness, command="medclf shortcuts RUN"),
    Item("Evaluation", "explainability", known.explainability, command="medclf train --saliency 40"),
    Item("Evaluation", "internal data", known.internal),
    Item("Evaluation", "external data", known.external, command="medclf train --test FOLDER"),
    Item("Evaluation", "registration of the trial", card="registration"),
    Item("Results: data", "numbers included and excluded", known.included),
    Item("Results: data", "characteristics in each partition", known.characteristics),
    Item("Results: model", "performance with uncertainty", known.performance),
    Item("Results: model", "diagnostic performance with its precision", known.diagnostic),
    Item("Results: model", "failure analysis", known.failures),
    Item("Discussion", "limitations", known.limitations, "limitations"),
    Item("Discussion", "implications for practice, intended use", card="intended_use"),
    Item("Other", "protocol or technical details", known.protocol, "protocol"),
    Item("Other", "availability of software, model and data", known.availability, "availability"),
    Item("Other", "funding and the funders' role", card="funding"),
)


def checklist(
    results: Mapping[str, Any],
    card: str | Path | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """CLAIM 2024, item by item: what medclf knows, what the card says, or MISSING.

    Args:
        results: what results.json holds.
        card: a card's YAML file, or a dict with its keys; see `read_card`.
        settings: of a RUN of medclf 0.1, as run.json has them.

    Returns:
        standard, filled, missing, and items: one dict an item with item ("1 Title"), asked, answer, and source
        ("medclf", "card", both, or what would fill it).

    Raises:
        DataError: the card cannot be read.

    Example:
        >>> found = checklist({"task": "single-label", "n": 10}, {"funding": "none"})
        >>> found["items"][43]["answer"], found["items"][6]["answer"], len(found["items"])
        ('none', 'MISSING', 44)
    """
    said = read_card(card) if card is not None else {}
    have = Known(results, settings or {})
    items = [_row(number, item, have, said) for number, item in enumerate(ITEMS, 1)]
    missing = sum(row["answer"] == MISSING for row in items)
    return {"standard": "CLAIM 2024", "filled": len(items) - missing, "missing": missing, "items": items}


def with_card(
    results: Mapping[str, Any],
    card: str | Path | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The sections that a card adds to the facts: card (where there is one) and checklist.

    Args:
        results: what results.json holds.
        card: see `checklist`.
        settings: see `checklist`.

    Raises:
        DataError: the card cannot be read.

    Example:
        >>> sorted(with_card({"task": "single-label"}, {"aims": "to try it"}))
        ['card', 'checklist']
    """
    said = read_card(card) if card is not None else {}
    section = {"card": {key.replace("_", " "): text for key, text in said.items()}} if said else {}
    return {**section, "checklist": checklist(results, said, settings)}


def _row(number: int, item: Item, have: Known, said: Mapping[str, str]) -> dict[str, Any]:
    own, told = item.answer(have) if item.answer else "", said.get(item.card, "")
    answer = " ".join(part for part in (told, own) if part)
    source = " and ".join(name for name, part in (("card", told), ("medclf", own)) if part)
    if not answer:
        source = f"card: {item.card}" if item.card else item.command
    return {"item": f"{number} {item.section}", "asked": item.asked, "answer": answer or MISSING, "source": source}
