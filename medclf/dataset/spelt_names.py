"""Names of patients and other units as tables spell them: one for each, none for a word such as "unknown"."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

NOTHING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat"})
NO_PATIENT = NOTHING | set("unknown unk missing - -1 ? #n/a n.a. anonymous anonymized anonymised anon removed".split())
NO_PATIENT |= {"not available", "not known", "redacted", "deidentified", "de-identified"}
SHOWN = 5
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d\d))([ T]\d.*)?")


def one_name_each(texts: Sequence[str], where: str, what: str, many: str) -> tuple[list[str | None], list[str]]:
    """The name of each row's patient or other unit; 7, 7.0 and 007 are one, and words that name nobody are none.

    Args:
        texts: as the table has them.
        where: what holds them, for the sentences.
        what: one of those that they name: "patient".
        many: several of them.

    Returns:
        The names, None where there is none; and what is to be said of them.

    Example:
        >>> one_name_each(["7", "07", "unknown"], "column 'id'", "patient", "patients")[0]
        ['7', '7', None]
    """
    texts = [unicodedata.normalize("NFC", text) for text in texts]
    none = Counter(text for text in texts if text.lower() in NO_PATIENT)
    notes = []
    if words := ", ".join(f"'{text}' ({n} image{'s' * (n > 1)})" for text, n in none.items() if text):
        notes.append(f"{where} says {words}: they count as without a {what}")
    spelt: dict[str, set[str]] = {}
    for text in texts:
        spelt.setdefault(number_key(text), set()).add(text)
    shown = {key: min(found, key=lambda text: (len(text), text)) for key, found in spelt.items()}
    if joined := [" and ".join(map(repr, sorted(found))) for found in spelt.values() if len(found) > 1]:
        notes.append(f"{where} writes one {what} in several ways: {some(joined)}")
    notes.extend(_doubtful(where, set(texts) - set(none), many))
    return [None if text in none else shown[number_key(text)] for text in texts], notes


def _doubtful(where: str, names: Collection[str], many: str) -> Iterator[str]:
    """What is said of names that may be one patient's, or several patients'."""
    alike: dict[str, set[str]] = {}
    for name in names:
        alike.setdefault(without_signs(name), set()).add(name)
    same = [" and ".join(map(repr, sorted(found))) for found in alike.values() if len({*map(number_key, found)}) > 1]
    if same:
        yield f"{where} has {many} whose names differ in case or signs alone, and count as several: {some(same)}"
    if rounded := sorted(name for name in names if re.fullmatch(r"\d([.,]\d+)?E\+\d+", name, re.I)):
        yield f"{where} has numbers that a spreadsheet rounded, which can make several {many} one: {some(rounded)}"
    dates = sorted(filter(_DATE.fullmatch, names))
    if len(dates) > 1 and len(dates) > len(names) / 2:
        text = f"two {many} of one day count as one, and one of two days as two"
        yield f"{where} holds dates, not names of {many}, so that {text}: {some(dates)}"


def without_signs(name: str) -> str:
    """What names have in common that differ in case, blanks, hyphens and underscores alone.

    Example:
        >>> without_signs("PAT-07 a") == without_signs("pat_07A")
        True
    """
    return re.sub(r"[\s_-]", "", name.casefold())


def some(texts: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def number_key(text: str) -> str:
    """What 7, 7.0 and 007 have in common, and a date with midnight behind it or not; any other text as it is."""
    text = re.sub(r"^(\d{4}-\d\d-\d\d)[ T]00:00(:00(\.0+)?)?$", r"\1", text)
    return re.sub(r"^0*(\d+?)(\.0+|,0{1,2})?$", r"\1", text)


def without_letter(name: str) -> str:
    """A long number without the letter that folders have before it, and tables may not have.

    Example:
        >>> without_letter("s50414267"), without_letter("p7")
        ('50414267', 'p7')
    """
    return re.sub(r"^[a-z](?=\d{5,}$)", "", name)
