"""What the sentences of a shortcut test come to."""

from medclf.results.shortcut_words import NO_CONTROL, NO_EVIDENCE, depends, summary

LEANS = (
    "Overlay 1 (box, top) is on 9 % of 'a'. Masked, it changes 40 % of the predictions of 'a', against 0 % elsewhere."
)
CLEARED = f"Overlay 2 (text, left) is on 100 % of every label; {NO_EVIDENCE}."
OPEN = f"Overlay 3 (border, middle) is on 100 % of every label; {NO_CONTROL}."
NOTHING = "No box, text or border was found that is the same across images."


def test_a_sentence_depends_only_where_it_tells_an_effect():
    assert [depends(said) for said in (LEANS, CLEARED, OPEN, NOTHING)] == [True, False, False, False]


def test_what_leans_is_named_and_what_was_not_compared_is_counted():
    assert summary([CLEARED, LEANS, OPEN]).endswith("1 of 3 boxes, texts or borders: overlay 1 (box, top).")
    assert summary([CLEARED, CLEARED, OPEN]) == (
        "No evidence that predictions depend on any of 2 boxes, texts or borders; "
        "1 more could not be compared with another place."
    )
    assert summary([OPEN, OPEN]).startswith("None of 2 boxes")
    assert summary([NOTHING]) == NOTHING
