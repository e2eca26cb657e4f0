"""What is odd about the labels of a table: one image alone, two spellings, words for nothing, a class in one part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import combinations

import pandas as pd

from medclf.dataset.labels import Label, count_labels, is_missing, label_set, usable
from medclf.dataset.matching import spelling
from medclf.dataset.spelt_names import NOTHING
from medclf.errors import argument, by_road

_MAY_BE_MISSING = {*NOTHING} - {"none"}
_MAY_BE_MISSING |= set("unknown missing unlabeled unlabelled undefined ? - -- tbd n.a. () []".split())
_MAY_BE_MISSING |= set("#n/a #ref! #value! #name? #div/0! #null! #num!".split())  # a spreadsheet's errors
_YES_AND_NO = ({"1", "true", "yes", "y", "t", "positive", "pos"}, {"0", "false", "no", "n", "f", "negative", "neg"})
_MANY_LABELS = 200
_SHOWN = 5
_LONG_WORD = 4  # letters that agree
_SAYS_NONE = re.compile(
    r"(no[ _-]?(\w+[ _-])?(findings?|abnormalit(y|ies)|disease|pathology)|none|normal|healthy)", re.I
)
_STUDY_AND_LABEL = re.compile(r"(?:study|series|exam|visit|session|scan|view)[ _-]?\d+[ _-]+([^\W\d].*)", re.I)


def label_warnings(table: pd.DataFrame) -> list[str]:
    """What is odd about the labels: classes of one image, lost, alone, or spelt in two ways.

    Args:
        table: as `scan` returns it.

    Returns:
        One sentence for each oddity, naming the label.
    """
    good = usable(table)
    counts = count_labels(good["label"])
    sentences = _of_one_image([label for label, n in sorted(counts.items()) if n == 1])
    lost = sorted(set(count_labels(table["label"])) - set(counts))
    sentences += [f"label '{label}' has no usable image" for label in lost]
    if len(counts) == 1 and not table.attrs.get("multi_label"):
        sentences.append(f"all images have one label, '{next(iter(counts))}': there is nothing to tell apart")
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        spellings.setdefault(_run_together(label), []).append(label)
    sentences += [
        f"labels {', '.join(map(repr, same))} differ only in spelling: "
        f"{argument('merge', max(same, key=counts.__getitem__) + '=' + '+'.join(same))} makes them one"
        for same in spellings.values()
        if len(same) > 1
    ]
    sentences += [
        *_numbered(counts),
        *_misspelt(counts),
        *_joined_labels(counts),
        *_placeholders(counts),
        *_copies_that_differ(good),
    ]
    if table.attrs.get("multi_label"):
        everywhere = [label for label, n in sorted(counts.items()) if n == len(good) > 1]
        sentences += [f"all images have the label '{label}': there is nothing to tell it from" for label in everywhere]
        return sentences + _no_findings(good["label"])
    return sentences + _yes_and_no(counts)


def _of_one_image(labels: list[str]) -> list[str]:
    if len(labels) <= _SHOWN:
        return [f"label '{label}' has one image only" for label in labels]
    first = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    return [f"{len(labels)} labels have one image only: {first} and more. Are the labels what they should be?"]


def _run_together(label: str) -> str:
    """Its spelling without blanks, but between digits: no_tumor, noTumor and notumor are one, and so are 01 and 1."""
    return re.sub(r"^0+(?=\d+$)", "", re.sub(r"(?<!\d) | (?!\d)", "", spelling(label)))


def _numbered(counts: Mapping[str, int]) -> list[str]:
    """Labels that say which study it is before what it shows, as MURA's study1_positive and study2_positive."""
    of: dict[str, list[str]] = {}
    for label in sorted(counts):
        if found := _STUDY_AND_LABEL.fullmatch(label):
            of.setdefault(found[1], []).append(label)
    if len(of) < 2:
        return []
    merges = [f"{label}={'+'.join(same)}" for label, same in of.items()]
    merge = by_road(f"merge={merges!r}", " ".join(argument("merge", one) for one in merges))
    return [f"labels name a study before what it shows, first '{min(min(of.values()))}': {merge} leaves the study out"]


def _yes_and_no(counts: Mapping[str, int]) -> list[str]:
    """Labels that say yes, or no, in several words, as columns joined from several sources do."""
    if not {spelling(label) for label in counts} <= set().union(*_YES_AND_NO):
        return []
    same = [[label for label in sorted(counts) if spelling(label) in words] for words in _YES_AND_NO]
    return [
        f"labels {', '.join(map(repr, found))} may say the same: {argument('merge', found[0] + '=' + '+'.join(found))} "
        "makes them one"
        for found in same
        if len({spelling(label) for label in found}) > 1
    ]


def _misspelt(counts: Mapping[str, int]) -> list[str]:
    """Pairs of labels of which one may be the other with a typing mistake, as pnuemonia and cases and case."""
    if len(counts) > _MANY_LABELS:
        return []
    pairs = [
        (label, other) if counts[label] < counts[other] else (other, label)
        for label, other in combinations(sorted(counts), 2)
        if _one_letter_apart(spelling(label), spelling(other))
    ]
    return [
        f"labels '{rare}' ({counts[rare]} images) and '{other}' ({counts[other]}) differ in a letter: if they are one, "
        f"{argument('merge', f'{other}={rare}+{other}')} makes them so"
        for rare, other in pairs
    ]


def _one_letter_apart(one: str, other: str) -> bool:
    """Whether a letter of a long word was added, replaced or swapped; atypical and type b are no slips."""
    short, long = sorted((one, other), key=len)
    start = _shared(short, long)
    end = _shared(short[start:][::-1], long[start:][::-1])
    left, right = short[start : len(short) - end], long[start : len(long) - end]
    before, after = re.search(r"[^\W\d_]*$", short[:start]), re.match(r"[^\W\d_]*", short[len(short) - end :])
    head, tail = before[0] if before else "", after[0] if after else ""
    if not head or len(head + tail) < _LONG_WORD or re.search(r"[\d\s+-]", left + right):
        return False
    added = not left and len(right) == 1 and bool(tail or right not in "ivx")  # grades in Roman numbers are no slips
    swapped = len(left) == 2 and left == right[::-1]
    return added or swapped or (len(left) == len(right) == 1 and bool(tail))


def _shared(one: str, other: str) -> int:
    """How many letters two texts begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _copies_that_differ(table: pd.DataFrame) -> list[str]:
    """Files of the same bytes under different labels: at least one of the labels is wrong."""
    if "sha256" not in table:
        return []
    first: dict[str, tuple[str, frozenset[str]]] = {}
    clashes = []
    for path, digest, label in zip(table["path"], table["sha256"], table["label"], strict=True):
        if not digest or is_missing(label):
            continue
        other, labels = first.setdefault(digest, (path, frozenset(label_set(label))))
        if labels != frozenset(label_set(label)):
            clashes.append((other, path))
    if not clashes:
        return []
    one, other = clashes[0]
    return [f"{len(clashes)} files are exact copies of files with another label, first '{one}' and '{other}'"]


def _placeholders(counts: Mapping[str, int]) -> list[str]:
    """Labels that may stand for a missing one."""
    missing, flags = _MAY_BE_MISSING, {label for label in counts if label.removesuffix(".0") in ("0", "1")}
    if len(flags) == 2 and (uncertain := {*counts} - flags) <= {"-1", "-1.0"}:  # as CheXpert has them
        missing = missing | uncertain
    return [
        f"label '{label}' ({n} images) may stand for a missing label: {argument('drop', label)} leaves its images out"
        for label, n in sorted(counts.items())
        if label.lower() in missing
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


def several_in_one(labels: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Labels of which a part stands alone elsewhere, or several with | or ;, by the mark between the parts.

    Example:
        >>> list(several_in_one(["polyp", "polyp;ulcer", "ulcer"]))
        [(';', ['polyp;ulcer'])]
    """
    for mark in ("|", ";", ",", "/", "+", "&", " and "):
        with_mark = [one for one in labels if mark in one]
        joined = [one for one in with_mark if any(part.strip() in labels for part in one.split(mark))]
        if mark in "|;" and len(with_mark) > 1:  # signs that no name of one finding has
            joined = with_mark
        if joined:
            yield mark, joined


def _joined_labels(counts: Counter[str]) -> list[str]:
    """Labels that look like several in one: their parts stand alone elsewhere, or they keep their brackets."""
    sentences = [
        f"label '{joined[0]}' looks like several labels in one ({len(joined)} such): "
        f"{argument('label_delim', mark)} takes them apart"
        for mark, joined in several_in_one(counts)
    ]
    brackets = [one for one in counts if one.startswith(("[", "(", "{")) and one.endswith(("]", ")", "}"))]
    return sentences + [f"label {one!r} has brackets: is it a list that cannot be read?" for one in brackets[:1]]


def partition_warnings(labels: Iterable[Label | None], partition: Iterable[str | None], remedy: str = "") -> list[str]:
    """Which labels stand in one partition and not in the other, a sentence for all of a kind.

    Args:
        labels: of each image.
        partition: of each image.
        remedy: what to do about labels that training or validation lacks.
    """
    found: dict[str | None, Counter[str]] = {"train": Counter(), "valid": Counter(), "test": Counter()}
    for label, part in zip(labels, partition, strict=True):
        found.setdefault(part if isinstance(part, str) else None, Counter()).update(label_set(label))
    if not found["train"] or None in found:  # not split yet
        return []
    sentences = []
    aside = remedy and "Put images of it into the training set"
    for part in ("valid", "test"):
        unseen = sorted(found[part].keys() - found["train"].keys())
        sentences += _lacking(
            unseen, f"only in {part}, never in train", "learned", remedy if part == "valid" else aside
        )
    if found["valid"]:
        unmeasured = sorted(found["train"].keys() - found["valid"].keys())
        sentences += _lacking(unmeasured, "in train and not in valid", "measured", remedy)
    return sentences


def _lacking(labels: list[str], where: str, done: str, remedy: str) -> list[str]:
    if not labels:
        return []
    named = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    named += f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    said = f"label {named} is {where}: it" if len(labels) == 1 else f"labels {named} are {where}: they"
    return [f"{said} cannot be {done}{remedy and '. '}{remedy}"]
