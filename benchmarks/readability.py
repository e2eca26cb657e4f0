"""How the texts of report pages read: Flesch reading ease, words a sentence, and which terms of the glossary remain.

    pip install textstat==0.7.3 "setuptools<80"    # later ones count syllables by a dictionary that they download
    python benchmarks/readability.py NAME=RUN/report.html [NAME=OTHER/report.html ...]

Counted are the sentences of a page: what stands in paragraphs, lists and captions and ends as a sentence does. Flesch
reading ease is 206.835 - 1.015 words a sentence - 84.6 syllables a word: 60 to 70 is plain English, below 30 very hard.
"""

from __future__ import annotations

import argparse
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

from side_by_side import print_table

from medclf.metrics.table import METRICS

_TEXTS = {"p", "li", "figcaption", "dd"}
_SKIPPED = {"script", "style", "svg", "noscript", "kbd", "button"}
GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"


class _Sentences(HTMLParser):
    """Collects the texts that end as a sentence does."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._held: list[list[str]] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped += tag in _SKIPPED
        if tag in _TEXTS:
            self._held.append([])

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in _SKIPPED
        if tag in _TEXTS and self._held:
            text = " ".join("".join(self._held.pop()).split())
            sentences = re.split(r"(?<=[.?!]) (?=[A-Z0-9'])", text)
            self.texts += [one for one in sentences if len(one.split()) > 3 and one[-1] in ".?!"]

    def handle_data(self, data: str) -> None:
        if self._held and not self._skipped:
            self._held[-1].append(data)


def sentences_of(page: Path) -> str:
    reader = _Sentences()
    reader.feed(page.read_text(encoding="utf-8"))
    return " ".join(dict.fromkeys(reader.texts))


def glossary_terms() -> list[str]:
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    heads = [line for line, below in itertools.pairwise(lines) if below.startswith(": ")]
    return [re.sub(r" \(.*\)", "", term).strip() for head in heads for term in head.split(",")]


def main() -> None:
    from textstat import textstat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", metavar="NAME=PAGE")
    rows, texts = [], []
    for given in parser.parse_args().pages:
        name, _, page = given.partition("=")
        text = sentences_of(Path(page))
        texts.append(text)
        n, words = textstat.sentence_count(text), textstat.lexicon_count(text)
        rows.append([name, n, words, f"{words / n:.1f}", f"{textstat.flesch_reading_ease(text):.0f}"])
    print_table(["page", "sentences", "words", "words a sentence", "Flesch reading ease"], rows)
    glossary, last = GLOSSARY.read_text(encoding="utf-8").lower(), texts[-1].lower()
    used = [term for term in glossary_terms() if re.search(rf"\b{re.escape(term.lower())}", last)]
    missing = [one.title for one in METRICS.values() if one.title.lower() in last and one.title.lower() not in glossary]
    print(f"\nterms of the glossary in the last page: {', '.join(used)}")
    print(f"metrics it names that the glossary does not explain: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
