"""The model card: what only people know of a data set and a model, asked once, in a YAML file."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medclf.errors import DataError
from medclf.files import write_text

QUESTIONS = {
    "background": "What is the clinical question, and what would the model be for in it?",
    "aims": "What is to be shown? Objectives, and hypotheses if there are any.",
    "design": "Were the images collected for this study (prospective) or beforehand (retrospective)?",
    "source": "Where and when were the images made? Hospitals, dates; for a public set its name, version and licence.",
    "eligibility": "Which patients and images were included and which excluded, and how were they found?",
    "deidentification": "How was what identifies patients removed before the images came here?",
    "acquisition": "How were the images made? Devices, makers, settings, protocol.",
    "reference_standard": "What is a label's truth: histology, follow-up, a reading of the image?",
    "reference_rationale": "Why this reference standard, and what are its known errors?",
    "annotators": "Who labelled the images? How many, with what training, with which tool and instructions.",
    "test_annotation": "How were the images labelled that the figures are of, if otherwise than the rest?",
    "agreement": "How far do annotators agree with each other and with themselves (kappa), and who settled disputes?",
    "registration": "Number and registry of the trial; or: not registered.",
    "limitations": "What should readers know against the results?",
    "intended_use": "Who may use the model, for whom, for what; and for what not?",
    "protocol": "Where is the full protocol?",
    "availability": "Where are the data, the code and the model to be had, and on which terms?",
    "funding": "Who paid, and what did they have a say in?",
}
_MAX_BYTES = 2**20


def read_card(source: str | Path | Mapping[str, Any]) -> dict[str, str]:
    """A card as text by key, in the order of `QUESTIONS`; questions that were left empty are left out.

    Args:
        source: a YAML file (see `write_card`), or a dict with the same keys. Case does not matter, nor whether words
            are joined by a space, a hyphen or an underscore. A value is text, a number, a date, or a list of these.

    Raises:
        DataError: the file is no YAML, or it has a key that is not asked for, or a value that is no text.

    Example:
        >>> read_card({"Intended use": "teaching", "annotators": ["two readers", "a third for disputes"], "aims": None})
        {'annotators': 'two readers; a third for disputes', 'intended_use': 'teaching'}
    """
    if isinstance(source, Mapping):
        given, origin = source, "the card"
    else:
        given, origin = _load(Path(source)), str(source)
    found: dict[str, str] = {}
    for name, value in given.items():
        key = str(name).strip().lower().replace(" ", "_").replace("-", "_")
        if key not in QUESTIONS:
            near = difflib.get_close_matches(key, QUESTIONS, 1)
            remedy = f"did you mean {near[0]}?" if near else f"it asks for {', '.join(QUESTIONS)}"
            raise DataError(f"{origin}: '{name}' is not asked for", remedy)
        text = _text(value, f"{origin}: {name}")
        if text:
            found[key] = text
    return {key: found[key] for key in QUESTIONS if key in found}


def write_card(path: str | Path) -> Path:
    """Write a card to fill in: every question with an empty answer.

    Args:
        path: of the file, such as "card.yaml".

    Returns:
        The path.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> read_card(write_card(Path(tempfile.mkdtemp()) / "card.yaml"))
        {}
    """
    lines = [
        "# What medclf cannot know of your data and model. Fill in what you can; what stays empty is MISSING in the",
        "# report's checklist (CLAIM 2024). The answers stand in the report and travel with the model. For longer",
        "# texts write | after the colon and indent the lines below it. Name no patient.",
    ]
    for key, question in QUESTIONS.items():
        lines += ["", f"# {question}", f"{key}:"]
    path = Path(path)
    write_text(path, "\n".join(lines) + "\n")
    return path


def _load(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES // 2**20} MB", "a card is a page of text")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "medclf card card.yaml writes one to fill in") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "give a text file in UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise DataError(f"{path} is not YAML{place}", "text with a colon or a quote in it goes into quotes") from error
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"{path} holds no keys and answers", "medclf card card.yaml writes one to fill in")
    return value


def _text(value: Any, what: str) -> str:
    """An answer as one line of text; what is nested deeper than a list is no answer."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "; ".join(text for text in (_scalar(item, what) for item in value) if text)
    return _scalar(value, what)


def _scalar(value: Any, what: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, (str, int, float, datetime.date)):
        return " ".join(str("" if value is None else value).split())
    raise DataError(f"{what} is not text", "write text, a number, a date, or a list of them")
