"""What is odd about the labels of a table: one image alone, two spellings, words for nothing, a class in one part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from medclf.dataset.labels import Label, count_labels, label_set, usable
from medclf.dataset.matching import spelling
from medclf.dataset.spelt_names import NOTHING
from medclf.errors import argument

_MAY_BE_MISSING = {*NOTHING, "unknown", "missing", "unlabeled", "unlabelled", "?", "-", "tbd"} - {"none"}
_SAYS_NONE = re.compile(
    r"(no[ _-]?(\w+[ _-])?(findings?|abnormalit(y|ies)|disease|pathology)|none|normal|healthy)", re.I
)


def label_warnings(table: pd.DataFrame) -> list[str]:
    """What is odd about the labels: classes of one image, lost, alone, or spelt in two ways.

    Args:
        table: as `scan` returns it.

    Returns:
        One sentence for each oddity, naming the label.
    """
    good = usable(table)
    counts = count_labels(good["label"])
    sentences = [f"label '{label}' has one image only" for label, n in sorted(counts.items()) if n == 1]
    lost = sorted(set(count_labels(table["label"])) - set(counts))
    sentences += [f"label '{label}' has no usable image" for label in lost]
    if len(counts) == 1 and not table.attrs.get("multi_label"):
        sentences.append(f"all images have one label, '{next(iter(counts))}': there is nothing to tell apart")
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        spellings.setdefault(spelling(label), []).append(label)
    sentences += [
        f"labels {', '.join(map(repr, same))} differ only in spelling: "
        f"{argument('merge', same[0] + '=' + '+'.join(same))} makes them one"
        for same in spellings.values()
        if len(same) > 1
    ]
    several = bool(table.attrs.get("multi_label"))
    return sentences + (_no_findings(good["label"]) if several else [*_joined_labels(counts), *_placeholders(counts)])


def _placeholders(counts: Mapping[str, int]) -> list[str]:
    """Labels that may stand for a missing one."""
    return [
        f"label '{label}' ({n} images) may stand for a missing label: {argument('drop', label)} leaves its images out"
        for label, n in sorted(counts.items())
        if label.lower() in _MAY_BE_MISSING
    ]


def _no_findings(labels: Iterable[Label | None]) -> list[str]:
    """A label that says that there is none, among several that an image can have."""
    sets = [label_set(label) for label in labels]
    sentences = []
    for label in sorted({one for cell in sets for one in cell if _SAYS_NONE.fullmatch(one)}):
        n, beside = sum(label in cell for cell in sets), sum(label in cell and len(cell) > 1 for cell in sets)
        sentences.append(
            f"label '{label}' ({n} images) says that an image has no other label, and is learned like the others: "
            f"{argument('drop', label)} makes its images negatives of all"
            + (f". {beside} of them have another label as well: look at these" if beside else "")
        )
    return sentences


def _joined_labels(counts: Counter[str]) -> list[str]:
    """Labels that look like several in one: their parts stand alone elsewhere, or they keep their brackets."""
    sentences = []
    for mark in "|;,/+":
        joined = [one for one in counts if mark in one and any(part.strip() in counts for part in one.split(mark))]
        if joined:
            sentences.append(
                f"label '{joined[0]}' looks like several labels in one ({len(joined)} such): "
                f"{argument('label_delim', mark)} takes them apart"
            )
    brackets = [one for one in counts if one.startswith(("[", "(", "{")) and one.endswith(("]", ")", "}"))]
    return sentences + [f"label {one!r} has brackets: is it a list that cannot be read?" for one in brackets[:1]]


def partition_warnings(labels: Iterable[Label | None], partition: Iterable[str | None]) -> list[str]:
    """Labels that stand in one partition and not in the other, one sentence each."""
    found: dict[str | None, Counter[str]] = {"train": Counter(), "valid": Counter(), "test": Counter()}
    for label, part in zip(labels, partition, strict=True):
        found.setdefault(part if isinstance(part, str) else None, Counter()).update(label_set(label))
    if not found["train"] or None in found:  # not split yet
        return []
    sentences = []
    for part in ("valid", "test"):
        unseen = sorted(found[part].keys() - found["train"].keys())
        sentences += [f"label '{label}' is only in {part}, never in train: it cannot be learned" for label in unseen]
    if found["valid"]:
        unmeasured = sorted(found["train"].keys() - found["valid"].keys())
        sentences += [f"label '{label}' is in train and not in valid: it cannot be measured" for label in unmeasured]
    return sentences
