"""The second read, the way out: a blinded sheet of the images of a RUN that are worth another look."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medclf.auditing.label_errors import label_suspects
from medclf.dataset.csv_files import save_rows
from medclf.errors import DataError, OutputError, ReadError, argument, by_road, check_count
from medclf.files import refuse_to_replace, replacing
from medclf.results.predictions import Predictions
from medclf.run.run import Run

Pictures = Literal["page", "folder", "none"]
FOLDER = "review"
SUSPECT, CONFUSED, CONTROL = ("suspect", "confused", "control")


def choose_images(
    predictions: Predictions,
    n: int = 100,
    controls: float = 0.3,
    seed: int = 0,
    doubted: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Images worth a second read, in an order that tells nothing.

    Label suspects (see `label_suspects`), the most suspect first, and the other errors, those of the most confused pair
    first, in turn; and, as controls, images that were classified correctly, each label in turn, drawn by the seed.
    Without controls a reader soon knows that every image is doubtful.

    Args:
        predictions: of images that the model was not trained on.
        n: how many at most.
        controls: their share, in [0, 1).
        seed: of the draw and of the order.
        doubted: paths of the label suspects, the most suspect first, where they were found already.

    Returns:
        row (of the predictions), path, label (actual), pred, why ("suspect", "confused" or "control").

    Raises:
        DataError: `n` or `controls` cannot be, or no label is known.
    """
    check_count(by_road("n", "--images"), n, "say how many images to read")
    if not 0 <= controls < 1:
        raise DataError(f"{argument('controls')} must be from 0 to below 1, not {controls:g}", "0.3 is 30 %")
    labels, preds = np.array(predictions.labels, object), np.array(predictions.preds, object)
    known = predictions.fully_known
    if not known.any():
        raise DataError("of no image all labels are known", "there is nothing to compare a second read with")
    suspect, margin = label_suspects(predictions.y, predictions.measured.probs, multi_label=predictions.multi_label)
    wrong = known & (labels != preds)
    suspects = [int(row) for row in np.argsort(margin, kind="stable") if suspect[row]]
    if doubted is not None:
        place = {path: row for row, path in enumerate(predictions.table["path"])}
        suspects = [place[path] for path in doubted if path in place]
        suspect = np.isin(np.arange(len(predictions)), suspects)
    pairs = Counter(zip(labels[wrong], preds[wrong], strict=True))
    others = [int(row) for row in np.flatnonzero(wrong & ~suspect)]
    others.sort(key=lambda row: (-pairs[labels[row], preds[row]], margin[row]))
    doubtful = _in_turn([suspects, others])[: n - round(n * controls)]
    rng = np.random.default_rng(seed)
    right = rng.permutation(np.flatnonzero(known & ~wrong & ~suspect))
    by_label = [[int(row) for row in right if labels[row] == label] for label in sorted(set(labels[right]))]
    wanted = round(len(doubtful) * controls / (1 - controls)) if doubtful else round(n * controls)
    chosen = [*doubtful, *_in_turn(by_label)[: min(wanted, n - len(doubtful))]]
    why = [SUSPECT if suspect[row] else CONFUSED if wrong[row] else CONTROL for row in chosen]
    frame = pd.DataFrame(
        {
            "row": chosen,
            "path": predictions.table["path"].to_numpy()[chosen],
            "label": labels[chosen],
            "pred": preds[chosen],
            "why": why,
        }
    )
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


def _in_turn(lists: list[list[int]]) -> list[int]:
    """One of each list in turn, until all are empty.

    Example:
        >>> _in_turn([[1, 2, 3], [9]])
        [1, 9, 2, 3]
    """
    longest = max((len(one) for one in lists), default=0)
    return [one[place] for place in range(longest) for one in lists if place < len(one)]


def export_review(
    run: str | Path,
    out: str | Path,
    *,
    n: int = 100,
    controls: float = 0.3,
    seed: int = 0,
    pictures: Pictures = "page",
    hide_names: bool | None = None,
    show_burned_in: bool | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write a blinded sheet for a second reader: no prediction, no label, no file name, in a drawn order.

    The images are all those that something predicted which had not seen them: validation and test images by the model,
    training images by the linear probe, each by a fold without it.

    What each item is stays in RUN/review/key-ID.csv, which the reader must not have.

    Args:
        run: a RUN folder, or one that `evaluate` made.
        out: the sheet, a CSV: item, label, mark, note, the last three to be filled in.
        n, controls, seed: see `choose_images`.
        pictures: "page" writes a page beside the sheet in which it is read and downloaded filled in; "folder" a
            folder of PNG files at full size; "none" nothing: then the sheet names the files, which may tell the label.
        hide_names: refuse to name files in the sheet; as the run was made where None.
        show_burned_in: take also images that often carry the patient's name in their pixels; as the run was made where
            None.
        overwrite: replace a sheet that is there.

    Returns:
        Lines to print.

    Raises:
        DataError: the folder is no run, or no image can be shown.
        OutputError: the sheet exists, or cannot be written.
    """
    from medclf.reporting.reading_sheet import write_sheet_page
    from medclf.reporting.thumbnails import data_uri

    source, out = Run(run), Path(out)
    if pictures not in ("page", "folder", "none"):
        raise DataError(f"{argument('pictures')} must be page, folder or none, not {pictures!r}", "")
    if out.suffix.lower() != ".csv":
        raise OutputError(f"{out} does not end in .csv", f"the sheet is a CSV: give {argument('out', 'sheet.csv')}")
    refuse_to_replace(out, overwrite)
    if pictures == "page":
        refuse_to_replace(out.with_suffix(".html"), overwrite)
    if pictures == "none" and (source.hide_names if hide_names is None else hide_names):
        problem = f"{source.path} hides file names, and a sheet without pictures names the files"
        raise DataError(
            problem, f"choose {argument('pictures', 'page')}, or allow the names with {argument('hide_names', False)}"
        )
    predictions, found = source.judged, source.label_errors
    chosen = choose_images(predictions, n, controls, seed, None if found is None else list(found["path"]))
    shown, missing = _pictures(source, chosen, pictures, show_burned_in)
    chosen = chosen[[path in shown for path in chosen["path"]]].reset_index(drop=True)
    if chosen.empty:
        raise DataError(
            f"none of the {len(missing)} images can be shown: {missing[0]}", f"see {argument('pictures', 'none')}"
        )
    sheet = _identity(chosen, seed)
    chosen.insert(0, "item", [f"{sheet}-{place:03}" for place in range(1, len(chosen) + 1)])
    save_rows(source / FOLDER / f"key-{sheet}.csv", chosen.drop(columns="row"))
    blank = chosen[["item"]].assign(label="", mark="", note="")
    save_rows(out, blank.assign(path=chosen["path"]) if pictures == "none" else blank)
    lines = [f"sheet: {out} ({len(chosen)} images; labels: {', '.join(predictions.vocab)})"]
    if pictures == "page":
        items = [(item, data_uri(shown[path])) for item, path in chosen[["item", "path"]].itertuples(index=False)]
        page = write_sheet_page(
            out.with_suffix(".html"),
            items,
            predictions.vocab,
            sheet=sheet,
            file=out.name,
            multi_label=predictions.multi_label,
        )
        lines.append(f"page: {page}")
    if pictures == "folder":
        folder = out.with_name(f"{out.stem}-pictures")
        for item, path in chosen[["item", "path"]].itertuples(index=False):
            with replacing(folder / f"{item}.png") as temporary:
                temporary.write_bytes(shown[path])
        lines.append(f"pictures: {folder}")
    lines += [f"left out: {reason}" for reason in missing]
    return [*lines, f"key, not for the reader: {source / FOLDER / f'key-{sheet}.csv'}"]


def _identity(chosen: pd.DataFrame, seed: int) -> str:
    """Of a sheet, so that it is known again: six hexadecimal digits."""
    text = chosen[["path", "label", "pred"]].to_csv(index=False) + str(seed)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _pictures(
    run: Run, chosen: pd.DataFrame, kind: Pictures, show_burned_in: bool | None
) -> tuple[dict[str, bytes], list[str]]:
    """The picture of each path as JPEG or PNG, and why there is none of the others."""
    from medclf.progress import watch

    if kind == "none":
        return dict.fromkeys(chosen["path"], b""), []
    read = run.pictures(show_burned_in)
    shown, missing = {}, []
    for path in watch(list(chosen["path"]), len(chosen), "Pictures"):
        try:
            pixels = read({"path": path})
        except ReadError as error:
            missing.append(f"{path}: {error.reason}")
        else:
            shown[path] = _encoded(pixels, kind)
    return shown, missing


def _encoded(pixels: np.ndarray, kind: Pictures) -> bytes:
    import io

    from PIL import Image

    from medclf.reporting.thumbnails import LARGE_BESIDE, encode

    if kind == "page":
        return encode(pixels, LARGE_BESIDE, 88)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
