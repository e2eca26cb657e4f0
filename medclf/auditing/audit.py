"""audit(): what is wrong with a data set, before any model is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.confounders import Clue, find_clues
from medclf.auditing.kinds import KINDS, PAIR_KINDS
from medclf.auditing.near_duplicates.fingerprint import take_fingerprints
from medclf.auditing.near_duplicates.search import SIMILAR, find_twins
from medclf.dataset.groups import Link, cluster, equal_images, with_clusters
from medclf.dataset.labels import count_labels, label_set, objects
from medclf.dataset.scan import is_scanned, scan
from medclf.display import Shown
from medclf.errors import DataError, argument, check_known
from medclf.escaping import for_csv
from medclf.files import replacing, write_json
from medclf.results.wording import partition_name, percent

Embed = np.ndarray | Callable[[pd.DataFrame], np.ndarray] | None

COLUMNS = ("kind", "path_a", "path_b", "similarity", "detail")
_SHOWN = 60  # pairs in the report's section; audit.csv has all


@dataclass(repr=False)
class Audit(Shown):
    """What `audit` found.

    Args:
        findings: one row a finding: kind (see `KINDS`), path_a, path_b ("" where the finding is of one image, or of
            the whole set), similarity (1 for equal pixels; for clues, how well they tell the class), detail (words).
        clusters: path -> cluster of twins, for the images that have any.
        table: the table that was audited; its column problem tells of unreadable pixels too.
        summary: counts and numbers, ready for JSON.
        made_of: the links, clues, pairs compared, ways, note and partial that `report_on` made it of.
    """

    findings: pd.DataFrame
    clusters: pd.Series
    table: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    made_of: tuple[Any, ...] = field(default=(), repr=False)

    def _shown(self) -> tuple[str, dict[str, Any], pd.DataFrame]:
        told = [one["finding"] for one in self.summary.get("sentences", ())]
        facts = {"images": self.summary.get("n_images", len(self.table)), "findings": len(self.findings)}
        counts = self.findings["kind"].value_counts().rename("findings").to_frame()
        return "Audit", facts | {str(n): text for n, text in enumerate(told, 1)}, counts

    def facts(self, most: int = _SHOWN) -> dict[str, Any]:
        """The section of a report: counts, sentences, leaks, class balance, confounders and the pairs to look at first.

        Args:
            most: pairs at most.
        """
        return {**self.summary, "pairs": self._pairs(most)}

    def _pairs(self, most: int) -> list[dict[str, Any]]:
        """Twins, those first that do harm: with different labels, then across the split, then the rest."""
        harm = {"label-conflict": 0, "twin-of-two-patients": 1, "twin-across-split": 2}
        found = self.findings[self.findings["kind"].isin([*harm, *PAIR_KINDS])]
        order = found["kind"].map(harm).fillna(3).to_numpy()
        found = found.iloc[np.lexsort((-found["similarity"].to_numpy(float), order))]
        found = found.drop_duplicates(["path_a", "path_b"])[:most]
        return list(found[["path_a", "path_b", "kind", "similarity", "detail"]].to_dict("records"))

    def twins(self) -> dict[str, list[str]]:
        """Path -> paths of the other images of its cluster."""
        members = self.clusters.groupby(self.clusters).groups
        return {path: [other for other in members[name] if other != path] for path, name in self.clusters.items()}

    def twin_in_train(self, partition: pd.Series | None = None) -> pd.Series:
        """Which images have a near-duplicate among the training images.

        Args:
            partition: of each row of the table; the table's own where None.

        Returns:
            bool by path.
        """
        part = self.table["partition"] if partition is None else partition
        paths = self.table["path"].to_numpy()
        trained = set(paths[(part == "train").to_numpy()])
        leaking = set(self.clusters[[path in trained for path in self.clusters.index]])
        held = self.clusters.reindex(paths)
        return pd.Series(held.isin(leaking).to_numpy(), index=pd.Index(paths, name="path"), name="twin_in_train")

    def save(self, folder: str | Path) -> None:
        """Write audit.csv (the findings) and audit.json (the facts and the clusters), whole or not at all."""
        folder = Path(folder)
        self.save_findings(folder / "audit.csv")
        clusters = {
            name: list(paths) for name, paths in self.clusters.groupby(self.clusters, sort=False).groups.items()
        }
        write_json(folder / "audit.json", {**self.facts(), "clusters": clusters})

    def save_findings(self, path: str | Path) -> None:
        """Write the findings as CSV, whole or not at all."""
        with replacing(path) as temporary:
            for_csv(self.findings).to_csv(temporary, index=False)


def with_groups(table: pd.DataFrame, found: Audit) -> pd.DataFrame:
    """The table with the audit's clusters as its column `group`, for `split_table(..., "grouped")`.

    Args:
        table: as `scan` returns it.
        found: the audit of it.

    Returns:
        A copy; an image without a near-duplicate has no group. A column `group` that was there stays linked as well.
    """
    return with_clusters(table, found.clusters)


def with_partition(found: Audit, partition: Any) -> Audit:
    """The audit with another split: what leaks across it is found anew, the images are not looked at again.

    Args:
        found: an audit.
        partition: "train", "valid", "test" or None for each row of `found.table`.

    Returns:
        An `Audit`.
    """
    table = found.table.assign(partition=pd.Series(list(partition), index=found.table.index, dtype=object))
    table.attrs = dict(found.table.attrs)
    links, *rest = found.made_of
    return report_on(table, links, found.clusters, *rest)


def audit(
    data: Any,
    *,
    embed: Embed = None,
    near: bool = True,
    min_similarity: float = SIMILAR,
    progress: bool = True,
    window: Any = None,
    frame: Any = "middle",
    **scan_kwargs: Any,
) -> Audit:
    """Look for what makes a data set's numbers too good, or wrong.

    Corrupt files; images that are there twice, as files, as pixels or as near-duplicates (re-encoded, cropped, turned,
    mirrored, re-lit, drawn upon); twins with different labels; twins and patients on both sides of the split; classes
    out of balance; sizes, bit depths, borders and overlays that tell the class. Nothing is changed on disk.

    Args:
        data: a table from `scan`, or what `scan` takes: a folder, a CSV, a DataFrame.
        embed: (n, features) of a backbone for the table's rows, or a function from the usable rows to them: one more
            way to find candidates. The search does not rest on it; see `medclf.models.features.embed_table`.
        near: also search near-duplicates; False looks at hashes, sizes and marks alone.
        min_similarity: from which similarity two images are twins, in [0, 1].
        progress: show progress bars when it lasts.
        window, frame: how DICOM is read; see `read_image`.
        scan_kwargs: of `scan`.

    Returns:
        An `Audit`.

    Raises:
        DataError: see `scan`; or `embed` gives no row for each image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, shade in (("a/1", 10), ("a/2", 20), ("b/1", 10), ("b/2", 30)):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     Image.new("L", (20, 20), shade).save(folder / f"{name}.png")
        >>> audit(folder).findings[["kind", "path_a", "path_b"]]
                     kind   path_a   path_b
        0       same-file  a/1.png  b/1.png
        1  label-conflict  a/1.png  b/1.png
    """
    check_known(scan_kwargs, audit, scan)
    if not 0 <= min_similarity <= 1:
        raise DataError(f"min_similarity must be from 0 to 1, not {min_similarity}", f"{SIMILAR} is the default")
    scanned = is_scanned(data)
    reading = {"window": window, "frame": frame}
    table = data.copy() if scanned else scan(data, check_pixels=False, progress=progress, **reading, **scan_kwargs)
    if scanned:
        table.attrs = dict(data.attrs)
    table = table.reset_index(drop=True)
    root = Path(table.attrs.get("root", scan_kwargs.get("root") or "."))
    rows = np.flatnonzero((table["problem"] == "").to_numpy())
    embedding = _embedding(embed, table, rows) if near else None
    prints = take_fingerprints(
        [root / table["path"][row] for row in rows], progress=progress, window=window, frame=frame
    )
    table.loc[rows[list(prints.problems)], "problem"] = list(prints.problems.values())
    readable = np.array([row for row in range(len(rows)) if row not in prints.problems], np.int64)
    if not len(readable):
        raise DataError(f"{root}: none of {len(table)} images can be read", "medclf scan names the reasons")
    links, unique = equal_images(prints.pixels, readable, table["sha256"].to_numpy()[rows])
    twins = find_twins(
        prints, unique if near else unique[:0], embedding, min_similarity=min_similarity, progress=progress
    )
    links += [Link("near-duplicate", *found) for found in zip(*twins[:4], strict=True)]
    links = [link._replace(a=int(rows[link.a]), b=int(rows[link.b])) for link in links]
    clusters = cluster(list(table["path"]), [link.a for link in links], [link.b for link in links])
    clues = clues_in(table.iloc[rows[readable]], [prints.depths[row] for row in readable], prints.marks[readable])
    ways = ["file hash", "pixel hash", *(["perceptual hash", "local features"] if near else [])]
    if embedding is not None:
        ways.append("embedding")
    return report_on(table, links, clusters, clues, twins.n_compared, ways)


def _embedding(embed: Embed, table: pd.DataFrame, rows: np.ndarray) -> np.ndarray | None:
    """(usable rows, features) float32, or None."""
    if embed is None:
        return None
    given = np.asarray(embed(table.iloc[rows].reset_index(drop=True)) if callable(embed) else embed)
    if given.ndim != 2 or len(given) not in (len(table), len(rows)):
        raise DataError(
            f"the embedding has the shape {given.shape} for {len(table)} images", "give one row of features an image"
        )
    given = given[rows] if len(given) == len(table) else given
    return np.nan_to_num(given.astype(np.float32))  # of unreadable images, which nobody searches for


def clues_in(used: pd.DataFrame, depths: Sequence[tuple[str, int, int]], marks: np.ndarray) -> list[Clue]:
    """What tells the class of the table's rows; see `find_clues`."""
    patients = objects(used, "patient")
    known = patients if any(patient is not None for patient in patients) else None
    return find_clues(objects(used, "label"), used[["width", "height"]].to_numpy(), depths, marks, known)


def report_on(
    table: pd.DataFrame,
    links: Sequence[Link],
    clusters: pd.Series,
    clues: Sequence[Clue],
    n_compared: int,
    ways: Sequence[str],
    note: str = "",
    partial: bool = False,
) -> Audit:
    """The findings in order, and their summary.

    Args:
        table: the audited one, with partitions where there are any.
        links: the twins.
        clusters: of them, by path.
        clues: see `find_clues`.
        n_compared: pairs of images that were compared closely.
        ways: what was searched by.
        note: a sentence on what was not looked at.
        partial: whether near-duplicates were searched among some pairs of images only; the note says which.
    """
    records = [("corrupt", row.path, "", np.nan, row.problem) for row in table[table["problem"] != ""].itertuples()]
    records += [(link.kind, table["path"][link.a], table["path"][link.b], *link[3:]) for link in links]
    records += _conflicts(table, links)
    records += _patients_across(table)
    records += [(clue.kind, "", "", clue.strength, clue.sentence) for clue in clues]
    order = list(KINDS)
    records.sort(key=lambda record: (order.index(record[0]), -np.nan_to_num(record[3]), record[1], record[2]))
    findings = pd.DataFrame(records, columns=list(COLUMNS))
    findings["similarity"] = findings["similarity"].astype(float).round(4)
    found = Audit(findings, clusters, table, made_of=(links, clues, n_compared, ways, note, partial))
    found.summary = _summary(found, clues, n_compared, ways, note, partial)
    return found


def _conflicts(table: pd.DataFrame, links: Sequence[Link]) -> Iterator[tuple[str, str, str, float, str]]:
    """Twins that differ in what must be equal, or stand where only one of them may."""
    paths = list(table["path"])
    labels = [set(label_set(label)) for label in objects(table, "label")]
    named = ["|".join(sorted(label)) for label in labels]
    partition, patient = objects(table, "partition"), objects(table, "patient")
    for link in links:
        a, b = link.a, link.b
        ends = (paths[a], paths[b], link.similarity)
        if labels[a] and labels[b] and labels[a] != labels[b]:
            yield ("label-conflict", *ends, f"'{named[a]}' and '{named[b]}'; {link.detail}")
        if partition[a] and partition[b] and partition[a] != partition[b]:
            yield ("twin-across-split", *ends, f"{partition[a]} and {partition[b]}; {link.detail}")
        if patient[a] is not None and patient[b] is not None and patient[a] != patient[b]:
            yield ("twin-of-two-patients", *ends, link.detail)


def _patients_across(table: pd.DataFrame) -> Iterator[tuple[str, str, str, float, str]]:
    good = table[(table["problem"] == "") & table["patient"].notna() & table["partition"].notna()]
    for patient, images in good.groupby("patient", sort=False):
        counts = Counter(images["partition"])
        if len(counts) > 1:
            ends = images.drop_duplicates("partition")["path"].tolist()[:2]
            words = ", ".join(f"{n} in {part}" for part, n in sorted(counts.items()))
            yield ("patient-across-split", *ends, np.nan, f"patient {patient}: {words}")


def _summary(
    found: Audit, clues: Sequence[Clue], n_compared: int, ways: Sequence[str], note: str, partial: bool
) -> dict[str, Any]:
    counts = found.findings["kind"].value_counts()
    good = found.table[found.table["problem"] == ""]
    leaks = _leaks(found)
    return {
        "n_images": len(good),
        "searched_by": list(ways),
        "n_pairs_compared": n_compared,
        "partial": partial,
        "found": {kind: int(counts[kind]) for kind in KINDS if kind in counts},
        "clusters_of_twins": found.clusters.nunique(),
        "images_with_a_twin": len(found.clusters),
        "sentences": [{"finding": text} for text in _sentences(found, counts, leaks, note, partial)],
        "leaks": leaks,
        "classes": {
            label: {"n": n, "share": n / len(good)} for label, n in sorted(count_labels(good["label"]).items())
        },
        "sizes": _sizes(good),
        "clues": [{"kind": clue.kind, "strength": clue.strength, **clue.facts} for clue in clues],
    }


def _leaks(found: Audit) -> dict[str, dict[str, Any]]:
    """By partition that is evaluated on: images, and those with a near-duplicate in train."""
    good = found.table[found.table["problem"] == ""]
    twin = found.twin_in_train()
    leaks = {}
    for part in ("valid", "test"):
        paths = good.loc[good["partition"] == part, "path"]
        if len(paths) and (good["partition"] == "train").any():
            n = int(twin[paths].sum())
            leaks[part] = {"n": len(paths), "with_twin_in_train": n, "share": n / len(paths)}
    return leaks


def _sizes(good: pd.DataFrame) -> list[dict[str, Any]]:
    """The most frequent sizes with their labels."""
    named = pd.Series(["|".join(label_set(label)) or "(no label)" for label in good["label"]], index=good.index)
    rows = []
    for (width, height), labels in sorted(
        named.groupby([good["width"], good["height"]]), key=lambda item: (-len(item[1]), item[0])
    )[:10]:
        by_label = labels.value_counts().head(6)
        words = ", ".join(f"{label} {n}" for label, n in by_label.items())
        rows.append({"size": f"{width} x {height}", "n": len(labels), "labels": words})
    return rows


def _sentences(
    found: Audit, counts: pd.Series, leaks: dict[str, dict[str, Any]], note: str, partial: bool
) -> Iterator[str]:
    """The findings as an analyst reads them, gravest first."""
    for part, leak in leaks.items():
        n, total = leak["with_twin_in_train"], leak["n"]
        if n:
            least = "At least " if partial else ""
            yield (
                f"{least}{n} of {total} {partition_name(part)} images ({percent(n / total, 0)}) have a near-duplicate "
                f"in the training set. Scores on them measure memory, not skill. {_remedy(part)}"
            )
        else:
            yield f"No near-duplicate of a training image was found among the {partition_name(part)} images."
    if partial:
        yield note
    for kind in ("patient-across-split", "label-conflict", "twin-of-two-patients", "corrupt"):
        if kind in counts:
            yield f"{_counted(kind, counts[kind])}."
    clued = found.findings[found.findings["kind"].str.endswith("-tells-class")]
    yield from clued["detail"]
    twins = [_counted(kind, counts[kind]) for kind in PAIR_KINDS if kind in counts]
    if twins:
        n = found.clusters.nunique()
        yield f"{', '.join(twins)}: {len(found.clusters)} images in {n} group{'s' * (n > 1)}."
    shares = sorted(
        count_labels(found.table.loc[found.table["problem"] == "", "label"]).items(), key=lambda item: item[1]
    )
    if len(shares) > 1 and shares[-1][1] >= 5 * shares[0][1]:
        (rare, few), (common, many) = shares[0], shares[-1]
        yield f"The classes are imbalanced: {many} images of '{common}', {few} of '{rare}'. Accuracy alone says little."
    if note and not partial:
        yield note


def _remedy(part: str) -> str:
    """What to do about copies on both sides: no split moves the images of the data's own test set."""
    if part == "test":
        return "Leave them out of the test set, or out of training."
    return f"Retrain with {argument('split', 'grouped')}."


def _counted(kind: str, n: int) -> str:
    return f"{n} {KINDS[kind][int(n > 1)]}"
