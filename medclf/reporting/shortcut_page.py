"""The page of a shortcut test: what stands still in the images, and how predictions move when it is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medclf.auditing.shortcut_test import EDITS
from medclf.reporting.plain_page import Exhibit, Section, Shot, write_page
from medclf.reporting.tables import Block, table
from medclf.reporting.thumbnails import data_uri, encode
from medclf.results.names import Names
from medclf.results.shortcut_words import depends, summary
from medclf.results.wording import percent

_SIDE = 256
_OUTLINE = (255, 64, 200)


def render_shortcuts(
    test: Any,
    path: str | Path,
    *,
    title: str = "Shortcuts",
    hide_names: bool = False,
    pictures: bool = True,
    cautions: Sequence[str] = (),
) -> Path:
    """Write the page of a shortcut test.

    Args:
        test: what `shortcut_test` returns.
        path: of the page.
        title: of the page.
        hide_names: call images by the order in which they are shown.
        pictures: show images before and after.
        cautions: what to know beside it.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written.
    """
    names = Names(list(dict.fromkeys(example.path for example in test.examples)), hide_names)
    sentences = list(test.sentences)
    sections = [Section("Findings", [Block("list", items=sentences)])] if len(sentences) > 1 else []
    for number, overlay in enumerate(test.overlays.to_dict("records"), 1):
        sections.append(_section(test, number, overlay, names, pictures))
    told = [
        f"{test.n_images} images were looked at, near-duplicates left out.",
        "Elsewhere is the control: the same edit at the mirrored position, or at another one where that is free.",
        "Only effects clearly larger than the control suggest a shortcut.",
        "A model may also rely on what this test cannot find: colour, sharpness, compression.",
    ]
    return write_page(path, title, summary(sentences), sections, [*cautions, *told])


def _section(test: Any, number: int, overlay: Mapping[str, Any], names: Names, pictures: bool) -> Section:
    shares = {
        key.removeprefix("share_"): value
        for key, value in overlay.items()
        if key.startswith("share_") and value == value
    }
    ranked = sorted(shares, key=lambda label: -shares[label])
    carried = "; ".join(f"{label} {percent(shares[label], 0)}" for label in ranked)
    rows = test.effects[test.effects["overlay"] == overlay["overlay"]].to_dict("records")
    blocks = [Block("text", text=f"Share of the images that carry it: {carried}.")]
    for edits, heading, columns in (
        (("masked", "inpainted", "inpainted elsewhere"), "Taken away", ("edit", "label", "n", "moved", "change")),
        (("swapped", "swapped elsewhere"), "Exchanged", ("edit", "label", "n", "moved", "from", "towards")),
    ):
        told = [row for row in rows if row["edit"] in edits and row["n"]]
        chosen = [
            _effect(row, columns) for row in sorted(told, key=lambda row: row["label"])
        ]  # each beside its control
        if chosen:
            blocks += [Block("heading", text=heading), table(chosen)]
    examples = [example for example in test.examples if example.overlay == overlay["overlay"]]
    mask = test.masks[number - 1]
    leans = any(said.startswith(f"Overlay {overlay['overlay']} ") and depends(said) for said in test.sentences)
    telling = _telling(examples, 8 if leans else 3) if pictures else []
    shown = [_exhibit(example, mask, names) for example in telling]
    return Section(f"Overlay {overlay['overlay']}: {overlay['kind']}, {overlay['place']}", blocks, shown)


def _effect(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """One row of a table: moved is the share of predictions that change, change and towards are of probabilities."""
    plain = {key: value.as_dict() if hasattr(value, "as_dict") else value for key, value in row.items()}
    if row.get("donor"):
        plain["from"] = f"{row['donor']}, {'with' if row['donor_carries'] else 'without'} it"
    return {key: plain[key] for key in columns if key in plain and plain[key] is not None}


def _telling(examples: Sequence[Any], most: int) -> list[Any]:
    """Those that move furthest, one of each edit and label first."""
    ranked = sorted(examples, key=lambda example: -abs(example.probs[1] - example.probs[0]))
    first: dict[tuple[str, str], Any] = {}
    for example in ranked:
        first.setdefault((example.edit, example.label), example)
    rest = [example for example in ranked if not any(example is one for one in first.values())]
    return [*first.values(), *rest][:most]


def _exhibit(example: Any, mask: np.ndarray, names: Names) -> Exhibit:
    shots = [
        Shot(data_uri(encode(_outlined(example.before, mask), _SIDE)), "before"),
        Shot(data_uri(encode(example.after, _SIDE)), example.edit),
    ]
    before, after = example.preds
    said = (
        f"predicted {before or 'none'} before and after"
        if before == after
        else f"{before or 'none'} → {after or 'none'}"
    )
    watched = f"probability of {example.watched}: {percent(example.probs[0])} → {percent(example.probs[1])}"
    place = f"actual {example.label}; {EDITS[example.edit]}"
    return Exhibit(names.of_path(example.path), shots, [said, watched, place])


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the mask's outline."""
    result = image.copy()
    result[ndimage.binary_dilation(mask) & ~mask] = _OUTLINE
    return result
