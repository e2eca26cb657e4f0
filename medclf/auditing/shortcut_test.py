"""shortcut_test(): does a model look at what stands beside the anatomy?

Overlays (boxes, text, borders) are found in the images, painted over, filled in and swapped between the labels; a model
that reads the anatomy says the same as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medclf.auditing.model_view import Model
from medclf.dataset.folds import shuffled
from medclf.dataset.labels import label_set, objects
from medclf.errors import DataError, ReadError
from medclf.images.overlays import Overlay, covered, find_overlays, inpainted, pasted
from medclf.metrics.classification import no_interval, proportion
from medclf.metrics.intervals import Estimate, Sampling, as_plain, difference_interval, undefined
from medclf.results.shortcut_words import NO_CONTROL, NO_EVIDENCE
from medclf.results.wording import percent

EDITS = {
    "masked": "painted over with the mean colour of all images",
    "inpainted": "filled in from around it",
    "inpainted elsewhere": "as much filled in at another place, to compare with",
    "swapped": "replaced by what an image of another label shows there",
    "swapped elsewhere": "as much replaced at another place, to compare with",
}
_COLUMNS = ("overlay", "edit", "label", "n", "moved", "change", "donor", "donor_carries", "towards")
_MOST = 4  # overlays tested
_SHOWN = 2  # examples of each overlay, edit and label
_PLACES = 16  # to a side, where a control is looked for


class Example(NamedTuple):
    """One image before and after an edit.

    Args:
        overlay, edit, label: as in `ShortcutTest.effects`.
        path: of the image, as in the table.
        before, after: (H, W, 3) uint8.
        watched: the label whose probability is followed: the image's own, for swaps the donor's.
        probs: of that label, before and after.
        preds: what is predicted, before and after ("|" between several).
    """

    overlay: int
    edit: str
    label: str
    path: str
    before: np.ndarray
    after: np.ndarray
    watched: str
    probs: tuple[float, float]
    preds: tuple[str, str]


@dataclass
class ShortcutTest:
    """What `shortcut_test` found.

    Args:
        overlays: one row an overlay: overlay (its number), kind, place, left, top, right, bottom (shares of the width
            and height), carriers (images), and share_LABEL: how many of the label's images carry it.
        effects: one row for each overlay, edit and label: overlay, edit (see `EDITS`), label, n, moved (share of the
            images whose prediction changes: `Estimate`), change (of the mean probability of the label: `Estimate`);
            for swaps also donor (the label whose images gave what stands there now), donor_carries (whether these
            images carry the overlay) and towards (change of the mean probability of the donor: `Estimate`).
        sentences: what it comes to.
        n_images: how many were looked at.
        masks: (overlays, H, W) bool, where the overlays are.
        examples: for each overlay, edit and label the images whose probabilities move most, before and after.
    """

    overlays: pd.DataFrame
    effects: pd.DataFrame
    sentences: list[str]
    n_images: int
    masks: np.ndarray = field(repr=False)
    examples: list[Example] = field(default_factory=list, repr=False)

    def facts(self) -> dict[str, Any]:
        """The section of a report, ready for JSON."""
        plain: dict[str, Any] = as_plain(
            {
                "n_images": self.n_images,
                "sentences": [{"finding": text} for text in self.sentences],
                "overlays": self.overlays.to_dict("records"),
                "effects": self.effects.to_dict("records"),
            }
        )
        return plain


def shortcut_test(
    model: Any,
    data: pd.DataFrame | Sequence[tuple[Any, Any]],
    *,
    boxes: Sequence[tuple[float, float, float, float]] = (),
    n_per_label: int = 60,
    thin: bool = True,
    seed: int = 42,
    level: float = 0.95,
    say: Callable[[str], object] = lambda line: None,
) -> ShortcutTest:
    """Test whether a model's predictions move when overlays are taken away, put on, or exchanged.

    Args:
        model: a `Learner` from `med_learner`, or a bundle.
        data: a table as `scan` returns it, or pairs (path, label); its images are read as the model reads them.
        boxes: further places to test, each left, top, right, bottom as shares of the width and height.
        n_per_label: at most so many images of each label, drawn by `seed` and the names alone.
        thin: use one image alone of each cluster of near-duplicates (the table's column group where it has one), since
            repeated frames stand still as overlays do.
        seed: of the draw.
        level: of the intervals; they are widened for several images of a patient.
        say: told how far it is, a line at a time.

    Returns:
        A `ShortcutTest`.

    Raises:
        DataError: the model does not say how it reads images, or no image carries a label that it knows.
    """
    network = Model.of(model)
    given = [_given(box, *network.preprocessing.size) for box in boxes]
    images, members, patients, names = _sample(network, _as_table(data), n_per_label, seed, thin)
    say(f"{len(images)} images are searched for boxes, text and borders")
    on_all = np.ones(len(images), bool)
    found = [*find_overlays(images, members, _MOST), *(Overlay("box", mask, on_all) for mask in given)]
    overlays = pd.DataFrame([_row(number, overlay, members, network.vocab) for number, overlay in enumerate(found, 1)])
    sampling = Sampling.of(patients, len(images))
    before = network.probs(images)
    trial = _Trial(network, images, members, sampling, before, level, names)
    everything = (
        np.logical_or.reduce([overlay.mask for overlay in found]) if found else np.zeros(images.shape[1:3], bool)
    )
    rows: list[dict[str, Any]] = []
    for number, overlay in enumerate(found, 1):
        say(f"testing overlay {number} of {len(found)}: {overlay.kind}, {overlay.place}")
        rows += trial.of(number, overlay, everything)
    effects = pd.DataFrame(rows, columns=list(_COLUMNS))
    masks = np.stack([overlay.mask for overlay in found]) if found else np.zeros((0, *images.shape[1:3]), bool)
    return ShortcutTest(overlays, effects, _sentences(overlays, effects), len(images), masks, trial.examples)


def _as_table(data: Any) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    pairs = list(data)
    table = pd.DataFrame({"path": [str(path) for path, _ in pairs], "label": [label for _, label in pairs]})
    table.attrs["root"] = "."
    return table


def _sample(
    network: Model, table: pd.DataFrame, n_per_label: int, seed: int, thin: bool
) -> tuple[np.ndarray, np.ndarray, list[Any] | None, list[str]]:
    """Images (n, H, W, 3), their labels (n, n_labels), their patients and their paths."""
    good = table[table["problem"] == ""] if "problem" in table else table
    sets = [label_set(label) for label in objects(good, "label")]
    held = np.array([[label in found for label in network.vocab] for found in sets], bool).reshape(len(sets), -1)
    rows = np.flatnonzero(held.any(1))
    names = [str(path) for path in good["path"]]
    order = shuffled([names[row] for row in rows], seed) if len(rows) else rows
    chosen: list[int] = []
    counts = np.zeros(len(network.vocab), int)
    groups = objects(good, "group")
    taken: set[Any] = set()
    for row in (int(rows[index]) for index in order):
        wanted = (counts[held[row]] < n_per_label).any()
        if not wanted or (thin and groups[row] is not None and groups[row] in taken):
            continue
        chosen.append(row)
        counts += held[row]
        taken.add(groups[row])
    if not chosen:
        raise DataError(f"no image carries a label of the model ({', '.join(network.vocab)})", "give labelled images")
    root = Path(table.attrs.get("root", "."))
    if thin and not any(group is not None for group in groups):
        chosen = _without_twins(chosen, [root / names[row] for row in chosen])
    images, kept = [], []
    for row in chosen:
        try:
            images.append(network.preprocessing.prepare(root / names[row]))
            kept.append(row)
        except ReadError:
            continue  # scan and audit name the file
    if not images:
        raise DataError("none of the images can be read", "medclf scan names the reasons")
    patients = objects(good, "patient")
    known = [patients[row] for row in kept]
    told = known if any(patient is not None for patient in known) else None
    return np.stack(images), held[kept], told, [names[row] for row in kept]


def _without_twins(rows: list[int], paths: list[Path]) -> list[int]:
    """The rows without those that are near-duplicates of an earlier one."""
    from medclf.auditing.near_duplicates.fingerprint import take_fingerprints
    from medclf.auditing.near_duplicates.search import find_twins

    prints = take_fingerprints(paths)
    readable = np.array([index for index in range(len(rows)) if index not in prints.problems], int)
    twins = find_twins(prints, readable)
    later = set(twins.second.tolist())
    return [row for index, row in enumerate(rows) if index not in later]


def _given(box: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """(H, W) bool: a place that the caller names."""
    left, top, right, bottom = box
    mask = np.zeros((height, width), bool)
    if all(0 <= side <= 1 for side in box):
        mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    if not mask.any() or mask.all():
        raise DataError(
            f"the box {box} covers nothing, or everything, or leaves the image",
            "give left, top, right, bottom as shares of the width and height",
        )
    return mask


def _row(number: int, overlay: Overlay, members: np.ndarray, vocab: Sequence[str]) -> dict[str, Any]:
    height, width = overlay.mask.shape
    left, top, right, bottom = overlay.box
    ends = {"left": left / width, "top": top / height, "right": right / width, "bottom": bottom / height}
    shares = {
        f"share_{label}": float(overlay.carriers[column].mean()) if column.any() else math.nan
        for label, column in zip(vocab, members.T, strict=True)
    }
    first = {"overlay": number, "kind": overlay.kind, "place": overlay.place}
    return {**first, **ends, "carriers": int(overlay.carriers.sum()), **shares}


@dataclass(frozen=True)
class _Trial:
    """The images as they are, to compare edited ones with."""

    network: Model
    images: np.ndarray
    members: np.ndarray
    sampling: Sampling
    before: np.ndarray
    level: float
    names: list[str]
    examples: list[Example] = field(default_factory=list)

    def of(self, number: int, overlay: Overlay, everything: np.ndarray) -> list[dict[str, Any]]:
        """All edits of one overlay, by label."""
        carriers = np.flatnonzero(overlay.carriers)
        shown = self.images[carriers]
        other = _elsewhere(overlay.mask, everything)
        edited = {
            "masked": covered(shown, overlay.mask, self.images.reshape(-1, 3).mean(0)),
            "inpainted": inpainted(shown, overlay.mask),
        }
        if other is not None:
            edited["inpainted elsewhere"] = inpainted(shown, other)
        rows = []
        for edit, pictures in edited.items():
            after = self.before.copy()
            after[carriers] = self.network.probs(pictures)
            for label in range(len(self.network.vocab)):
                rows.append({**self._effect(label, overlay.carriers, after), "overlay": number, "edit": edit})
                own = np.flatnonzero(self.members[carriers, label])
                self._show((number, edit), label, label, carriers[own], pictures[own], after)
        places = {"swapped": overlay.mask, "swapped elsewhere": other}
        for edit, place in places.items():
            swaps = [] if place is None else self._swaps(overlay, place, (number, edit))
            rows += [{**row, "overlay": number, "edit": edit} for row in swaps]
        return rows

    def _show(
        self, of: tuple[int, str], label: int, watched: int, rows: np.ndarray, pictures: np.ndarray, after: np.ndarray
    ) -> None:
        """Keep the images of a label whose probabilities move most."""
        number, edit = of
        if "elsewhere" in edit:
            return
        gain = (after - self.before)[rows, watched]
        decided = [self.network.decisions(probs) for probs in (self.before, after)]
        for at in np.argsort(-np.abs(gain), kind="stable")[:_SHOWN]:
            row = int(rows[at])
            probs = float(self.before[row, watched]), float(after[row, watched])
            preds = self.network.named(decided[0][row]), self.network.named(decided[1][row])
            vocab = self.network.vocab
            shown = (self.names[row], self.images[row], pictures[at].copy())
            self.examples.append(Example(number, edit, vocab[label], *shown, vocab[watched], probs, preds))

    def _swaps(self, overlay: Overlay, place: np.ndarray, of: tuple[int, str]) -> list[dict[str, Any]]:
        """Each label's images with what stands at `place` in the label that carries the overlay most differently."""
        labels = [label for label, column in enumerate(self.members.T) if column.any()]
        share = {label: float(overlay.carriers[self.members[:, label]].mean()) for label in labels}
        rows = []
        for label in labels:
            others = [donor for donor in labels if donor != label]
            if not others:
                continue
            donor = max(others, key=lambda one: abs(share[one] - share[label]))
            carries = share[donor] >= share[label]
            given = self.members[:, donor] & ~self.members[:, label]
            sources = np.flatnonzero(given & (overlay.carriers if carries else ~overlay.carriers))
            if len(sources) < 3:
                continue
            own = np.flatnonzero(self.members[:, label])
            donors = self.images[sources[np.arange(len(own)) % len(sources)]]
            after = self.before.copy()
            pictures = pasted(self.images[own], place, donors)
            after[own] = self.network.probs(pictures)
            self._show(of, label, donor, own, pictures, after)
            row = self._effect(label, self.members[:, label], after)
            towards = self._mean((after - self.before)[:, donor], self.members[:, label])
            named = self.network.vocab[donor]
            rows.append({**row, "donor": named, "donor_carries": carries, "towards": towards})
        return rows

    def _effect(self, label: int, touched: np.ndarray, after: np.ndarray) -> dict[str, Any]:
        mask = self.members[:, label] & touched
        moved = (self.network.decisions(after) != self.network.decisions(self.before)).any(1)
        return {
            "label": self.network.vocab[label],
            "n": int(mask.sum()),
            "moved": proportion(moved, mask, self.sampling, level=self.level),
            "change": self._mean((after - self.before)[:, label], mask),
            "donor": None,
            "donor_carries": None,
            "towards": None,
        }

    def _mean(self, gain: np.ndarray, mask: np.ndarray) -> Estimate:
        """The mean change with its interval; whole patients vary together."""
        n = int(mask.sum())
        if n < 2:
            return undefined(n, "too few images")
        value = float(gain[mask].mean())
        codes = self.sampling.codes[mask]
        surplus = np.bincount(codes, weights=gain[mask] - value)
        patients = len(np.unique(codes))
        if patients < 2:
            return undefined(n, no_interval(n))
        variance = float((surplus**2).sum()) / n**2 * patients / (patients - 1)
        ends = difference_interval(
            value, variance, units=self.sampling.units(mask), level=self.level, freedom=float(patients - 1)
        )
        return Estimate(value, *ends, n)


def _elsewhere(mask: np.ndarray, everything: np.ndarray) -> np.ndarray | None:
    """The mask mirrored, else moved, to where it touches the overlays least; None where it does everywhere."""
    for places in ((mask[:, ::-1], mask[::-1], mask[::-1, ::-1]), _moved(mask)):
        best = min(places, key=lambda place: int((place & everything).sum()))
        if (best & everything).sum() < 0.2 * mask.sum():
            return best
    return None


def _moved(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The mask at places all over the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    for down in np.unique(np.linspace(-rows[0], len(mask) - 1 - rows[-1], _PLACES).astype(int)):
        for across in np.unique(np.linspace(-columns[0], mask.shape[1] - 1 - columns[-1], _PLACES).astype(int)):
            yield np.roll(mask, (down, across), (0, 1))


def _sentences(overlays: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """What moves a prediction, overlay by overlay."""
    if overlays.empty:
        return ["No box, text or border was found that is the same across images."]
    texts = []
    for row in overlays.to_dict("records"):
        shares = {key.removeprefix("share_"): value for key, value in row.items() if key.startswith("share_")}
        known = {label: share for label, share in shares.items() if share == share}
        most, least = max(known, key=lambda label: known[label]), min(known, key=lambda label: known[label])
        other = "every label" if most == least and len(known) > 1 else f"'{most}'"
        start = f"Overlay {row['overlay']} ({row['kind']}, {row['place']}) is on {percent(known[most], 0)} of {other}"
        if most != least:
            start += f" and {percent(known[least], 0)} of '{least}'"
        own = effects[effects["overlay"] == row["overlay"]]
        if not own["edit"].str.endswith("elsewhere").any():
            texts.append(f"{start}; {NO_CONTROL}.")
            continue
        taken, swapped = _leaning(own)
        told, n_more = "; ".join([*taken[:1], *swapped[:1]]), len(taken[1:]) + len(swapped[1:])
        more = f"; more such effects in the tables: {n_more}" if n_more else ""
        texts.append(f"{start}. {told[0].upper()}{told[1:]}{more}." if told else f"{start}; {NO_EVIDENCE}.")
    return texts


def _leaning(effects: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Where predictions move, surely more than they do when another place is changed as much: taken away, and swapped.

    The surest comes first.
    """
    by_edit = {(row["edit"], row["label"]): row for row in effects.to_dict("records")}
    taken: list[tuple[float, str]] = []
    swapped: list[tuple[float, str]] = []
    for (edit, label), row in by_edit.items():
        if edit in ("masked", "inpainted"):
            moved, other = row["moved"], by_edit.get(("inpainted elsewhere", label), {}).get("moved")
            if other is not None and _is_more(moved, other):
                ends = f"{100 * moved.low:.0f} to {percent(moved.high, 0)}"
                changed = f"{percent(moved.value, 0)} ({ends}) of the predictions of '{label}'"
                taken.append((moved.low, f"{edit}, it changes {changed}, against {percent(other.value, 0)} elsewhere"))
        if edit == "swapped":
            gain, other = row["towards"], by_edit.get(("swapped elsewhere", label), {}).get("towards")
            if other is not None and _is_more(gain, other):
                source = f"images of '{row['donor']}' with{'' if row['donor_carries'] else 'out'} it"
                rise = f"{gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}), against {other.value:.2f} elsewhere"
                said = f"with that place taken from {source}, '{label}' gains {rise} in their probability"
                swapped.append((gain.low, said))
    return _surest_first(taken), _surest_first(swapped)


def _surest_first(found: Sequence[tuple[float, str]]) -> list[str]:
    return [text for _, text in sorted(found, key=lambda one: -one[0])]


def _is_more(found: Estimate, control: Estimate) -> bool:
    """Whether a change is told: it surely exceeds that of the control, and 0.02."""
    return math.isfinite(control.high) and found.low > max(0.02, control.high)
