"""What the sentences of a shortcut test come to."""

from __future__ import annotations

from collections.abc import Sequence

NO_EVIDENCE = "no evidence that predictions depend on it"
NO_CONTROL = "no other place of its size and shape is free to compare it with"


def summary(sentences: Sequence[str]) -> str:
    """What the sentences of a test come to.

    Example:
        >>> summary(["Overlay 1 (box, top) is on 9 % of 'a'; no evidence that predictions depend on it.",
        ...          "Overlay 2 (text, left) is on 100 % of every label. Masked, it changes 40 % of them."])
        'Predictions depend on 1 of 2 boxes, texts or borders: overlay 2 (text, left).'
    """
    leaning = [said.split(" is on ")[0] for said in sentences if depends(said)]
    if leaning:
        named = ", ".join(leaning).replace("Overlay", "overlay")
        return f"Predictions depend on {len(leaning)} of {len(sentences)} boxes, texts or borders: {named}."
    if len(sentences) == 1:
        return sentences[0]
    untold = sum(NO_CONTROL in said for said in sentences)
    if untold == len(sentences):
        return f"None of {untold} boxes, texts or borders could be compared with another place: none is free."
    rest = f"; {untold} more could not be compared with another place" if untold else ""
    return f"No evidence that predictions depend on any of {len(sentences) - untold} boxes, texts or borders{rest}."


def depends(sentence: str) -> bool:
    """Whether a sentence tells that predictions depend on an overlay."""
    return sentence.startswith("Overlay") and NO_EVIDENCE not in sentence and NO_CONTROL not in sentence
