"""What a trial says besides its verdict; how it decides is tested through the plan."""

import warnings

import pytest

from medclf.errors import MedclfWarning
from medclf.learn.trial import told_once


def test_warnings_of_folds_are_given_once_but_those_that_were_said_before():
    said = {"window changes nothing"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            with told_once(said):
                for text in ("window changes nothing", "a.png: it is left out from here on"):
                    warnings.warn(MedclfWarning(text), stacklevel=1)
    (one,) = caught
    assert one.category is MedclfWarning
    assert str(one.message) == "in a trial on parts of the training images: a.png: it is left out from here on"


def test_warnings_of_others_stay_what_they_are_and_an_error_hides_none():
    with pytest.warns(FutureWarning, match="^theirs$"), pytest.warns(MedclfWarning, match="ours$"):  # noqa: SIM117
        with pytest.raises(ZeroDivisionError), told_once(set()):
            warnings.warn("theirs", FutureWarning, stacklevel=1)
            warnings.warn(MedclfWarning("ours"), stacklevel=1)
            raise ZeroDivisionError
