"""Which of two labels is the finding that decisions are about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_WELL = set(
    "normal healthy negative neg no non not none nil absent without control controls clean clear unremarkable wnl "
    "unaffected uninfected uninvolved undiseased noninfected false blank empty 0 "
    "physiologic physiological intact good wt wild hc cn nc td gesund sain sano normale".split()
)
_SOUND = set("healthy stable typical symmetric symmetrical complete adequate sufficient even".split())
_WELL |= _SOUND
_HARMLESS = set("benign nevus nevi naevus naevi nv noncancerous nonmalignant seborrheic seborrhoeic".split())
_REST = set(
    "background other others rest remaining remainder else miscellaneous misc various unspecified unknown".split()
)
_AFTER_NO = (
    "abnormalit anomal cancer cardiomegal dement disease effusion fibros find fractur hemorrhag haemorrhag infect "
    "lesion malignan mass mets metasta nodul opacit patholog pneumo polyp tb tuberculos tumor tumour ulcer"
).split()


class Positive(NamedTuple):
    """The label that decisions are about, and why it was chosen: "name", "rarer", or "order" where nothing tells."""

    label: str
    by: str


def positive_label(vocab: Sequence[str], counts: Mapping[str, int] | None = None) -> Positive:
    """Of two labels the one that is a finding.

    A name that says normal, harmless or "the rest" is not the finding. Where neither name tells, or both do, the rarer
    label is the finding; where they are equally frequent, the second.

    Args:
        vocab: the two labels.
        counts: images of each label.

    Example:
        >>> positive_label(["COVID", "non-COVID"]).label, positive_label(["Parasitized", "Uninfected"]).label
        ('COVID', 'Parasitized')
        >>> positive_label(["cardiomegaly", "other"]).label, positive_label(["melanoma", "nevus"]).label
        ('cardiomegaly', 'melanoma')
        >>> positive_label(["chest", "hand"], {"chest": 5, "hand": 90})
        Positive(label='chest', by='rarer')
    """
    first, second = vocab
    ranks = _plainness(first, second), _plainness(second, first)
    if ranks[0] != ranks[1]:
        return Positive(vocab[int(ranks[0] > ranks[1])], "name")
    n = [(counts or {}).get(label, 0) for label in vocab]
    if n[0] != n[1]:
        return Positive(vocab[int(n[1] < n[0])], "rarer")
    return Positive(second, "order")


def _plainness(label: str, other: str) -> int:
    """How surely a label says that there is nothing: 3 normal, 2 harmless, 1 all the rest, 0 says no such thing."""
    words = _words(label)
    if words == ["well"] or (len(words) > 1 and words[-1] == "free"):  # tumor-free
        return 3
    if _says_not(words, _words(other)) or not _WELL.isdisjoint(words):
        return 3
    if not _HARMLESS.isdisjoint(words):
        return 2
    return int(not _REST.isdisjoint(words))


def _words(label: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # notSick -> not Sick
    return re.findall(r"[^\W\d_]+|\d+", apart.lower())


def _says_not(words: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a word is a negation grown together with what it negates: noncovid, unhealthy's opposite, nofinding."""
    joined = "".join(other)
    for word in [*words, "".join(words)]:
        for prefix in ("non", "not", "no", "un", "in", "a"):
            rest = word.removeprefix(prefix)
            if rest == word or not rest or rest in _SOUND:  # unstable is the finding, stable is not
                continue
            if joined and (rest == joined or rest in other):
                return True
            if prefix in ("no", "non", "not") and rest.startswith(tuple(_AFTER_NO)):
                return True
    return False
