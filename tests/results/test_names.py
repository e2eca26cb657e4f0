from medclf.results.names import Names

TOLD = {"data": {"notes": ["folder 'Smith' holds no image", "2 files are masks"], "n_images": 3}}


def test_notes_are_withheld_as_a_whole_and_it_is_said():
    hidden = Names(["a/1.png"], hide=True)
    once = hidden.scrub(TOLD)
    assert "Smith" not in str(once) and "withheld" in once["data"]["notes"][0] and once["data"]["n_images"] == 3
    assert hidden.scrub(once) == once
    assert Names(["a/1.png"], hide=False).scrub(TOLD) == TOLD


def test_no_notes_are_not_said_to_be_withheld():
    assert Names([], hide=True).scrub({"data": {"notes": []}}) == {"data": {"notes": []}}
