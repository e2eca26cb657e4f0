"""Which of two labels is the finding that decisions are about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_WELL = set(
    "normal healthy negative neg no non not none nil absent without control controls clean clear unremarkable wnl "
    "unaffected uninfected uninvolved undiseased noninfected false blank empty "
    "physiologic physiological intact good wt wild wildtype hc cn nc td gesund sain sano normale norm nml absence pass "
    "kein keine ohne nein sans pas sin senza alive living survived survivor survivors off mss improbable "
    "aucun aucune correct quiescent remission negativ negativo negativa negatif négatif négative "
    "正常 阴性 陰性 无 無 否 норма нет".split()
)
_SOUND = set(
    "healthy stable typical symmetric symmetrical complete adequate sufficient even regular clear clean ok".split()
)
_WELL |= _SOUND
_HARMLESS = set(
    "benign bénin bénigne benigno benigna gutartig 良性 доброкачественная доброкачественный "
    "nevus nevi naevus naevi nv noncancerous nonmalignant seborrheic seborrhoeic".split()
)
_REST = set(
    "background other others rest remaining remainder else miscellaneous misc various unspecified unknown "
    "inconclusive indeterminate uncertain".split()
)
_LESS = set("low lower mild minor moderate early lgd lsil".split())
_LETTERS = {("n", "y"), ("n", "p"), ("n", "t"), ("f", "t"), ("b", "m")}  # no and yes, normal and tumor, benign ...
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}
_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:\.\d+)?")
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

    A name that says normal, harmless, "the rest" or mild is not the finding; of two names that differ in a number
    alone, the lower is not. Where neither name tells, or both do, the rarer label is the finding; where they are
    equally frequent, the second.

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
    first, second = map(_in_digits, vocab)
    ranks = _plainness(first, second), _plainness(second, first)
    if ranks[0] != ranks[1]:
        return Positive(vocab[int(ranks[0] > ranks[1])], "name")
    n = [(counts or {}).get(label, 0) for label in vocab]
    if n[0] != n[1]:
        return Positive(vocab[int(n[1] < n[0])], "rarer")
    return Positive(vocab[1], "order")


def _in_digits(label: str) -> str:
    """The label with a Roman number at its end in digits: grade II is grade 2."""
    return re.sub(r"(?<=[a-z][ _-])(i{1,3}|iv|vi?)$", lambda found: str(_ROMAN[found[1].lower()]), label, flags=re.I)


def _plainness(label: str, other: str) -> int:
    """How surely a label says that there is nothing: 4 normal, 3 harmless, 2 all the rest, 1 less, 0 no such thing."""
    words, others = _words(label), _words(other)
    if words == others:
        return 4 * (_height(label) < _height(other))
    if words in (["well"], ["0"]) or (len(words) > 1 and words[-1] == "free"):  # tumor-free
        return 4
    if len(words) == len(others) == 1 and (words[0], others[0]) in _LETTERS:
        return 4
    if _says_not(words, others) or any(word in _WELL or word.startswith("normo") for word in words):
        return 4
    ranks = {3: _HARMLESS, 2: _REST, 1: _LESS}
    return next((rank for rank, known in ranks.items() if not known.isdisjoint(words)), 0)


def _height(label: str) -> tuple[float, ...]:
    """The numbers in a label, then its sign: what tells apart 0.0 and 1.0, stage 1 and stage 2, HER2- and HER2+."""
    return (*map(float, _NUMBER.findall(label)), label.rstrip(" )]").endswith("+"))


def _words(label: str) -> list[str]:
    """Its words without numbers; a label of nothing but a number, such as 0.0, as that number."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # notSick -> not Sick
    return re.findall(r"[^\W\d_]+", apart.lower()) or ["0"] * (label.strip(" 0.,") == "" and "0" in label)


def _says_not(words: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a word is a negation grown together with what it negates: noncovid, unhealthy's opposite, nofinding."""
    joined = "".join(other)
    for word in [*words, "".join(words)]:
        for prefix in ("non", "not", "no", "un", "in", "a", "n"):
            rest = word.removeprefix(prefix)
            if rest == word or not rest or rest in _SOUND:  # unstable is the finding, stable is not
                continue
            if joined and (rest == joined or rest in other):
                return True
            if prefix in ("no", "non", "not") and rest.startswith(tuple(_AFTER_NO)):
                return True
    return False
