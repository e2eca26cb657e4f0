"""What tables call patients: one name each, and what is doubtful about the names."""

import pytest

from medclf.dataset.spelt_names import one_name_each


def names(*texts):
    return one_name_each(texts, "column 'id'", "patient", "patients")


def test_a_date_with_midnight_behind_it_is_the_date():
    found, notes = names("2020-01-05", "2020-01-05 00:00:00", "2020-01-05T00:00", "2020-01-05 10:30:00")
    assert len(set(found)) == 2 and "writes one patient in several ways" in notes[0]


@pytest.mark.parametrize("day", ["2020-01-{:02}", "{:02}.01.2020", "{}/1/20"])
def test_dates_are_no_names_of_patients(day):
    """Patients of one day were one, those seen twice were two, without a word."""
    _, notes = names(*[day.format(n) for n in range(1, 6)])
    assert any("holds dates, not names of patients" in note for note in notes)
    assert not names("12-34-5678", "p1", "p2")[1] and not names("1.2.840.1", "1.2.840.2")[1]


@pytest.mark.parametrize("few", [["2020-01-01"], ["2020-01-01", "2020-01-02", "p1", "p2"]])
def test_a_few_dates_among_names_are_names(few):
    assert not names(*few)[1]
