"""Bars of work that lasts: one kind in a notebook, which leaves nothing behind, and none in a log."""

import IPython.display
import pytest

from medclf import progress


@pytest.fixture
def drawn(monkeypatch):
    """What a notebook shows, in turn."""
    found = []

    class Shown:
        def update(self, what):
            found.append(what.data)

    def display(what, display_id):
        found.append(what.data)
        return Shown()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "has_screen", lambda: True)
    monkeypatch.setattr(progress, "_REDRAWN_S", -1.0)
    return found


def test_a_notebook_is_shown_a_bar_that_goes_with_its_work(drawn, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_S", -1.0)
    assert list(progress.watch("abc", 3, "reading <files>")) == ["a", "b", "c"]
    assert drawn[0] == '<progress value="1" max="3"></progress> reading &lt;files&gt; 1/3'
    assert drawn[-2].endswith("3/3") and drawn[-1] == ""


def test_work_that_fails_takes_its_bar_away(drawn, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_S", -1.0)
    with pytest.raises(ZeroDivisionError):
        for _ in progress.watch(iter("ab"), None, "reading"):
            if drawn:
                raise ZeroDivisionError
    assert drawn[0] == "<progress></progress> reading 1/?" and drawn[-1] == ""


def test_short_work_shows_nothing(drawn, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_S", 1e9)
    assert list(progress.watch([1, 2], 2, "reading")) == [1, 2] and drawn == []
