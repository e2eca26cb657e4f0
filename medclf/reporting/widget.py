"""A review in a notebook: images one at a time, keys, groups; what was said stays when the group changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medclf.dataset.columns import POOR
from medclf.dataset.corrections import COLUMNS, NEW, NONE, UNSURE
from medclf.dataset.csv_files import save_rows
from medclf.errors import DataError, require


@dataclass(frozen=True)
class ReviewItem:
    """An image to review.

    Args:
        path: of the image, as the data set has it.
        picture: a data URI.
        label: its label, several joined by `|`; "" where it has none.
        suggestion: the labels that are suggested.
        group: the images that it is shown among, such as "doubtful labels".
        about: what a reader is told of it.
    """

    path: str
    picture: str
    label: str = ""
    suggestion: tuple[str, ...] = ()
    group: str = ""
    about: tuple[str, ...] = ()


@dataclass
class Review:
    """A review of images: shown by a notebook as a widget, read by `to_frame`.

    Args:
        items: the images, in the order to read them.
        vocab: what an image may be called.
        sheet: "corrections" gives what `medclf train --corrections` takes (path, label, mark, new_label, note);
            "labels" what `label_next(labels=...)` and `medclf train --labels` take (path, label, mark, note).
        multi_label: whether an image may have several labels.
        blind: show neither label, prediction, suggestion nor group.
        earlier: (path, label, mark, note) of images that were labelled already, to stand in the sheet as well.
        missing: why images are left out.

    Example:
        >>> review = Review([ReviewItem("a.png", "", "polyp")], ["normal", "polyp"])
        >>> review.answer("a.png", "normal")
        >>> review.to_frame().iloc[0].to_dict()
        {'path': 'a.png', 'label': 'polyp', 'mark': 'new label', 'new_label': 'normal', 'note': ''}
    """

    items: Sequence[ReviewItem]
    vocab: Sequence[str]
    sheet: Literal["corrections", "labels"] = "corrections"
    multi_label: bool = False
    blind: bool = False
    earlier: Sequence[tuple[str, str, str, str]] = ()
    missing: Sequence[str] = ()
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def widget(self) -> Any:
        """The widget itself.

        Raises:
            MissingDependency: anywidget is not installed.
        """
        items = [
            {
                "path": item.path,
                "picture": item.picture,
                "suggestion": [] if self.blind else list(item.suggestion),
                "group": "" if self.blind else item.group,
                "about": [] if self.blind else list(item.about),
            }
            for item in self.items
        ]
        return _widget_class()(
            items=items, vocab=list(self.vocab), several=self.multi_label, none=NONE, answers=self.answers
        )

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def answer(self, path: str, *labels: str, mark: str = "", note: str = "") -> None:
        """Say what an image shows, as the widget's keys do.

        Args:
            path: of the image.
            labels: its classes; none takes an answer back.
            mark: "unsure", "poor image" or "".
            note: free text.

        Raises:
            DataError: there is no such image, class or mark.
        """
        if path not in {item.path for item in self.items}:
            raise DataError(f"{path} is not among the images of this review", "see review.items")
        self._check({"labels": list(labels), "mark": mark})
        self._set({**self._said(), path: {"labels": list(labels), "mark": mark, "note": note}})

    def to_frame(self) -> pd.DataFrame:
        """The images that were read, with what was said of them; of `earlier` ones what was said then.

        Raises:
            DataError: the widget gave what is no class or mark.
        """
        said = self._said()
        rows: list[tuple[str, ...]] = []
        for item in self.items:
            answer = {"labels": [], "mark": "", "note": "", **said.get(item.path, {})}
            self._check(answer)
            if answer["labels"] or answer["mark"] or answer["note"]:
                rows.append(self._row(item, "|".join(answer["labels"]), answer["mark"], answer["note"]))
        if self.sheet == "labels":
            found = pd.DataFrame([*self.earlier, *rows], columns=["path", "label", "mark", "note"])
            return found.assign(earlier=["yes"] * len(self.earlier) + [""] * len(rows)) if self.earlier else found
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def to_csv(self, path: str | Path) -> Path:
        """Write `to_frame` as a CSV, for `medclf train`; gives its path."""
        save_rows(path, self.to_frame())
        return Path(path)

    def _row(self, item: ReviewItem, label: str, mark: str, note: str) -> tuple[str, ...]:
        if self.sheet == "labels":
            return item.path, "" if mark == POOR else label, mark, note
        other = bool(label) and set(label.split("|")) != set((item.label or NONE).split("|"))
        return item.path, item.label, mark or (NEW if other else ""), label if other else "", note

    def _said(self) -> dict[str, dict[str, Any]]:
        made: Any = self.__dict__.get("widget")
        return self.answers if made is None else dict(made.answers)

    def _set(self, answers: dict[str, dict[str, Any]]) -> None:
        self.answers = answers
        if (made := self.__dict__.get("widget")) is not None:
            made.answers = answers

    def _check(self, answer: Mapping[str, Any]) -> None:
        known = {*self.vocab, NONE} if self.multi_label else {*self.vocab}
        if strange := [label for label in answer["labels"] if label not in known]:
            raise DataError(f"unknown label {strange[0]!r}", f"choose of {', '.join(self.vocab)}")
        if answer["mark"] not in ("", UNSURE, POOR):
            raise DataError(f"unknown mark {answer['mark']!r}", f"choose {UNSURE!r}, {POOR!r} or ''")


@cache
def _widget_class() -> type:
    anywidget, traitlets = require("anywidget", "notebook"), require("traitlets", "notebook")
    folder = resources.files("medclf.reporting") / "templates"
    traits = {
        "items": traitlets.List().tag(sync=True),
        "vocab": traitlets.List().tag(sync=True),
        "several": traitlets.Bool().tag(sync=True),
        "none": traitlets.Unicode().tag(sync=True),
        "answers": traitlets.Dict().tag(sync=True),
        "_esm": (folder / "widget.js").read_text(encoding="utf-8"),
        "_css": (folder / "widget.css").read_text(encoding="utf-8"),
    }
    return type("ReviewWidget", (anywidget.AnyWidget,), traits)
