"""The audit in short, for every training: from what is in memory already, in a fraction of the training's time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from medclf.auditing.audit import Audit, clues_in, report_on
from medclf.auditing.near_duplicates.candidates import Pairs, alike
from medclf.auditing.near_duplicates.fingerprint import Fingerprints, take_fingerprints
from medclf.auditing.near_duplicates.search import Twins, verify
from medclf.dataset.groups import Link, cluster, equal_images
from medclf.dataset.image_cache import ImageStore
from medclf.errors import ReadError
from medclf.images.preprocessing import Preprocessing
from medclf.images.reading import probe
from medclf.images.rim_marks import N_MARKS, measure_marks

_NEIGHBOURS = 3  # of each image in the embedding
_ALIKE = 0.7  # cosine from which a pair of them is compared; see docs/audit.md
_MOST = 1000  # pairs compared closely, the most alike first
_NEAREST = (
    "The numbers of near-duplicates are partial: this short audit compared only the images that look most alike to the "
    "network. medclf audit DATA compares all."
)
_EQUAL_ONLY = (
    "The numbers of near-duplicates are partial: this short audit looked for equal images only. medclf audit DATA "
    "searches near-duplicates too."
)


def short_audit(
    table: pd.DataFrame,
    features: np.ndarray | None = None,
    store: ImageStore | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    progress: bool = True,
) -> Audit:
    """Look for the gravest faults of a data set with what a training has computed anyway.

    Equal files and equal pixels at the network's size; near-duplicates among the images whose features are most
    alike; twins with different labels; twins and patients on both sides of the split; classes out of balance; sizes,
    depths, borders and overlays that tell the class. The table is taken as it is: no file is found corrupt here.

    Args:
        table: as `scan` returns it, with partitions.
        features: (rows of the table, f) of the network's body, NaN where there are none; None leaves near-duplicates
            out.
        store: of the images at the network's size; None leaves equal pixels and marks out.
        preprocessing: how files are read; the store's where None.
        progress: show a progress bar when it lasts.

    Returns:
        An `Audit`.

    Example:
        >>> table = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["x", "y"], "patient": None, "problem": "",
        ...                       "partition": ["train", "valid"], "width": 9, "height": 9, "sha256": "same"})
        >>> short_audit(table).findings["kind"].tolist()
        ['same-file', 'label-conflict', 'twin-across-split']
    """
    preprocessing = preprocessing or (store.preprocessing if store else Preprocessing())
    root = Path(table.attrs.get("root", "."))
    attrs, table = table.attrs, table.reset_index(drop=True)
    table.attrs = dict(attrs)
    rows = np.flatnonzero((table["problem"] == "").to_numpy())
    paths = [root / path for path in table["path"].to_numpy()[rows]]
    digests = table["sha256"].to_numpy()[rows]
    pixels, marks = _looks(paths, store)
    side = f"{store.shape[1]} x {store.shape[2]}" if store else ""
    words = f"different files with equal pixels at {side}"
    links, unique = equal_images(pixels, np.arange(len(rows)), digests, words)
    twins = _near(paths, unique, features if features is None else features[rows], preprocessing, progress)
    links += [Link("near-duplicate", *found) for found in zip(*twins[:4], strict=True)]
    links = [link._replace(a=int(rows[link.a]), b=int(rows[link.b])) for link in links]
    clusters = cluster(list(table["path"]), [link.a for link in links], [link.b for link in links])
    clues = clues_in(table.iloc[rows], [_depth(path) for path in paths], marks)
    ways = ["file hash", *([f"pixels at {side}"] if store else []), *(["embedding"] if features is not None else [])]
    note = _EQUAL_ONLY if features is None else _NEAREST
    return report_on(table, links, clusters, clues, twins.n_compared, ways, note, partial=True)


def _looks(paths: list[Path], store: ImageStore | None) -> tuple[list[str], np.ndarray]:
    """Hash of each image's stored pixels (another for each where there is no store), and its marks."""
    marks = np.zeros((len(paths), N_MARKS), np.float32)
    places = store.rows(paths) if store is not None else None
    if store is None or places is None:
        return [f"row {row}" for row in range(len(paths))], marks
    hashes = []
    for row, (path, stored) in enumerate(zip(paths, places, strict=True)):
        image = np.asarray(store.pixels[stored])
        hashes.append(hashlib.blake2b(image.data, digest_size=16).hexdigest())
        width, height = store.full_sizes[str(path)]
        part, place = store.preprocessing.placement((height, width))
        if (part[0].stop - part[0].start, part[1].stop - part[1].start) != (height, width):  # its rim is not the file's
            continue
        shown = image[place]  # padding is no border
        marks[row] = measure_marks(shown if shown.shape[2] == 3 else shown.repeat(3, axis=2))
    return hashes, marks


def _depth(path: Path) -> tuple[str, int, int]:
    try:
        facts = probe(path)
    except ReadError:
        return "", 0, 0
    return facts.format, facts.bits, facts.channels


def _near(
    paths: list[Path], unique: np.ndarray, features: np.ndarray | None, preprocessing: Preprocessing, progress: bool
) -> Twins:
    """Near-duplicates among those that are nearest in the embedding; only these are fingerprinted."""
    none = np.zeros(0, np.int64)
    known = unique if features is None else unique[np.isfinite(features[unique]).all(axis=1)]
    if features is None or len(known) < 2:
        return Twins(none, none, np.zeros(0), [], 0)
    near = alike(features[known], _NEIGHBOURS, _ALIKE)
    near = Pairs(*(column[: 2 * _MOST] for column in near))
    involved, places = np.unique(np.concatenate([near.first, near.second]), return_inverse=True)
    if not len(involved):
        return Twins(none, none, np.zeros(0), [], 0)
    files = [paths[known[one]] for one in involved]
    how = {"window": preprocessing.window, "frame": preprocessing.frame}
    prints = take_fingerprints(files, to_search=False, progress=progress, **how)
    first, second = places.reshape(2, -1)
    readable = _readable(prints, first) & _readable(prints, second)
    found = verify(prints, Pairs(first[readable], second[readable], near.mirrored[readable]), progress=progress)
    rows = known[involved]
    return found._replace(first=rows[found.first], second=rows[found.second], n_compared=len(near) // 2)


def _readable(prints: Fingerprints, rows: np.ndarray) -> np.ndarray:
    return ~np.isin(rows, list(prints.problems))
