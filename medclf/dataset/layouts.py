"""How people lay out sets in folders: what a folder's name says, which files are masks, which CSV lies beside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, takewhile
from pathlib import Path, PurePosixPath

from medclf.dataset.folders import plain_name, without_ending
from medclf.dataset.part_names import part_named, partition_of
from medclf.errors import argument, check_count

NO_CLASS_FOLDER = "no class folder above it"
CSV_SUFFIXES = (".csv", ".tsv", ".tab")
_SHOWN = 5
_ROLE = re.compile(
    r"(images?|jpegimages|imgs?|pictures?|photos?|frames?|raw|originals?|pngs?|jpe?gs?|tiffs?|dicoms?|dcm|im[aá]genes|imagens|bilder"
    r"|immagini|图像|图片|画像)([ _-]?\d+)?",
    re.I,
)
_PIECE = re.compile(r"(.*[ _-])?(images?|imgs?|parts?|batch(es)?|folds?|chunks?|shards?|folders?)[ _-]?\d+", re.I)
_STUDY = re.compile(
    r"(stud(y|ies)|series|exams?|visits?|sessions?)[ _-]?\d+|(patient|subject|case)[ _-]?\d+.*|.*\d{4}.*"
    r"|(?=.*\d)[0-9a-f]{8,}",
    re.I,
)
_MASK_WORD = r"(?:masks?|m[aá]scaras?|masques?|masken?|mascher[ae]|掩码|掩膜|蒙版|マスク|마스크"
_MASK_WORD += r"|d?segm?|segmentations?|annotations?|annotated|labels?|gt|ground[ _-]?truths?)"
_DRAWN = r"(?:overlays?|contours?|superpixels?|heatmaps?|lesions?|rois?|bbox(?:es)?|thumb(?:nail)?s?|(?:grad-?)?cam"
_DRAWN += r"|pred(?:iction)?s?)"
_MASK = re.compile(
    rf"(?P<base>.+?)(?:[ _.-]+(?:{_MASK_WORD}|{_DRAWN})|masks?)(?:[ _-]?\d+)?|{_MASK_WORD}[ _-]+(?P<after>.+)", re.I
)
_MASK_FOLDER = re.compile(
    rf"(?:.*[ _-])?{_MASK_WORD}|.+masks?|labelst[rs]|(?:thumb(?:nail)?|overlay|heatmap|superpixel|contour)s?", re.I
)
_AUGMENTED = re.compile(
    r"(?:^|[/ _.-])aug(?:mented|mentation)?s?(?:[ _-]?\d+)?(?=[/ _.-])|(?:^|/)augmented[^/]*/", re.I
)
_CHANGE = r"[hv]?flip(?:ped)?(?:lr|ud|[ _-]?[hvxy])?|rot(?:ated?)?[ _-]?\d*|mirror(?:ed)?|[hv]mirror|copy|crop(?:ped)?"
_CHANGE += r"|resized?|small|noisy?|noise|blur(?:red)?|clahe|enhanced|bright(?:ness)?|contrast"
_ALTERED = re.compile(rf"(.+?)[ _.-]+(?:{_CHANGE}|rf\.[0-9a-f]{{16,}})", re.I)
_CHANGE += r"|kopie|copie|copia|rotation|gr[ae]y(?:scale)?|sharp(?:en(?:ed)?)?|zoom(?:ed)?|shear(?:ed)?|elastic|jitter"
_ALTERED_OF = re.compile(  # such as 1_rotate_90 and Copy of 1, of an image that is there
    rf"(?P<base>.+?)[ _.-]+(?:{_CHANGE})(?:\d+|[ _.(-][^/]*)?"
    rf"|(?P<folder>(?:.*/)?)(?:kopie von|(?:copy|copie|copia) (?:of|d[aei])|{_CHANGE})[ _.-]+(?P<after>[^/]+)",
    re.I,
)
_PATIENT = re.compile(
    r"(?:(?P<surely>patients?|pacientes?|patienten|pazient[ei]|subjects?|participants?)|pat|pt|p|cases?|subj|sub"
    r"|persons?|volunteers?|donors?|animals?|mrn|pid)[ _.-]*\d+",
    re.I,
)
_PART_WORDS = set("train training trn tr trainval val valid validation eval evaluation test testing tst ts".split())
_PART_WORDS |= {"holdout"}


def labels_of_folders(paths: Sequence[str], parent: int | None = None) -> tuple[list[str | None], list[str], list[str]]:
    """The label of each image by the folders above it.

    The label is the folder that holds the image. Where that folder tells a part or a role (train, images), it is the
    next one above that does not, if such folders give at least two labels. Where all of these are called like patients
    (patient7, case_03), it is the folder above them; if that could be several, there is no label.

    Args:
        paths: relative to the data's root, with forward slashes.
        parent: take this folder above the image instead, 1 for the one that holds it.

    Returns:
        Labels; problems, "" where there is none; and notes for people.

    Raises:
        DataError: `parent` is below 1.

    Example:
        >>> labels_of_folders(["polyp/images/1.png", "normal/images/2.png"])[0]
        ['polyp', 'normal']
        >>> labels_of_folders(["ill/ann/1.png", "well/bob/2.png"], parent=2)[0]
        ['ill', 'well']
    """
    if parent is not None:
        check_count(argument("label_from_parent"), parent, "1 is the folder that holds the image")
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    if parent is not None:
        found = [parts[-parent] if len(parts) >= parent else "" for parts in folders]
        missing = f"{NO_CLASS_FOLDER}: it has fewer than {parent} folders above it"
        others = [(n, name) for parts in folders for n, name in enumerate(reversed(parts), 1) if n != parent]
        notes = _unnamed_patients(_levels_of(others, len(folders)))
    else:
        found, missing = [_nearest_class(parts) for parts in folders], NO_CLASS_FOLDER
        further = {label for label, parts in zip(found, folders, strict=True) if label and label != parts[-1]}
        if len(further) < 2:
            found = [label if label and label == parts[-1] else "" for label, parts in zip(found, folders, strict=True)]
        notes, why = _above_patients(found, folders)
        missing = f"{missing}: {why}" if why else missing
        if not notes and not why:
            notes = [*_levels(found, folders), *(_within_classes(found, folders) or _depths(found, folders))]
    notes += [*no_classes(found), *_parts_not_read(folders), *_copies(paths), *_formats(paths)]
    labels = [plain_name(label).strip() or None for label in found]
    parts_of = [partition_of(path) for path in paths]
    problems = ["" if label or part == "test" else missing for label, part in zip(labels, parts_of, strict=True)]
    bare = [path for path, label, part in zip(paths, labels, parts_of, strict=True) if part == "test" and not label]
    tested = sum(part == "test" for part in parts_of)
    if 0 < len(bare) < tested:
        notes.append(
            f"{len(bare)} of {tested} images of the test set lie in no class folder and have no label: they are not "
            f"measured, first '{min(bare)}'"
        )
    if bare and set(parts_of) == {"test", None}:
        notes.append(
            f"{len(bare)} images are taken for a test set without labels by their folder's name, first '{min(bare)}', "
            "and no folder says train. If it is a class, rename the folder"
        )
    return labels, problems, notes


def _nearest_class(folders: Sequence[str]) -> str:
    return next((name for name in reversed(folders) if not (part_named(name) or _ROLE.fullmatch(name))), "")


def _above_patients(labels: list[str], folders: Sequence[Sequence[str]]) -> tuple[list[str], str]:
    """Take the folders above those called like patients for the labels, or none, in place.

    Returns:
        A note, and why there is no label; [] and "" where the labels are not called so.
    """
    patients = sorted(set(filter(None, labels)))
    called = [_PATIENT.fullmatch(label) for label in patients]
    if not called or not all(called):
        return [], ""
    above = [_classes_above(label, parts) if label else [] for label, parts in zip(labels, folders, strict=True)]
    deep = min(len(names) for label, names in zip(labels, above, strict=True) if label)
    levels = {level: sorted({names[level][1] for names in above if names}) for level in range(deep)}
    surely = all(found["surely"] for found in called if found)  # p16 and p53 may be stains
    levels = {n: names for n, names in levels.items() if len(names) > 1 and (surely or len(names) < len(patients))}
    if not levels and not surely:
        return [], ""
    at = next(iter(levels)) if len(levels) == 1 else None
    labels[:] = ["" if at is None or not names else names[at][1] for names in above]
    if at is not None:
        told = f"the folders {_some(patients)} are called like patients: the labels are the folders above them"
        anyway = f"{argument('label_from_parent', 1)} takes the folders that hold the images all the same"
        return [f"{told} ({_some(levels[at])}). {anyway}"], ""
    first = next(names for names in above if names or not levels)
    choices = [
        f"{argument('label_from_parent', first[level][0])} takes {_some(names)}" for level, names in levels.items()
    ]
    return [], "; ".join(["its folder is called like a patient", *choices])


def _classes_above(label: str, parts: Sequence[str]) -> list[tuple[int, str]]:
    """The folders above the one that was taken for the label, the nearest first, but for parts and roles.

    Each with how far above the image it lies, 1 for the folder that holds it.
    """
    at = len(parts) - 1 - list(reversed(parts)).index(label)
    above = enumerate(reversed(parts[:at]), start=len(parts) - at + 1)
    return [(level, name) for level, name in above if not (part_named(name) or _ROLE.fullmatch(name))]


def patients_of_folders(paths: Sequence[str]) -> list[str | None]:
    """The nearest folder above each image that is called like a patient, where there is one above each.

    Example:
        >>> patients_of_folders(["ill/patient1/a.png", "well/patient2/images/b.png"])
        ['patient1', 'patient2']
    """
    found = [next(filter(_PATIENT.fullmatch, reversed(PurePosixPath(path).parts[:-1])), None) for path in paths]
    return found if all(found) else [None] * len(paths)


def surely_patient(name: str) -> bool:
    """Whether a folder's name says patient or the like, and not p or case alone.

    Example:
        >>> surely_patient("patient7"), surely_patient("p7")
        (True, False)
    """
    found = _PATIENT.fullmatch(name)
    return bool(found and found["surely"])


def _levels(labels: Sequence[str], folders: Sequence[Sequence[str]]) -> list[str]:
    """A note where classes may lie further up: several folders above those that were taken for the labels."""
    above = [_classes_above(label, parts) for label, parts in zip(labels, folders, strict=True) if label]
    levels = _levels_of(chain.from_iterable(above), len(above))
    choices = [
        f"{argument('label_from_parent', level)} takes {_some(names)}"
        for level, names in sorted(levels.items())
        if not (set(names) == set(labels) - {""} or all(map(_PATIENT.fullmatch, names)))
    ]
    taken = _some(list(dict.fromkeys(filter(None, labels))))
    told = f"the labels are the folders that hold the images ({taken}), and there are folders above them: "
    return [told + "; ".join(choices)] * bool(choices) + _unnamed_patients(levels)


def _levels_of(places: Iterable[tuple[int, str]], n: int) -> dict[int, list[str]]:
    """The names of the folders at each height above the images where nearly all of `n` images have one of several."""
    counts: dict[int, Counter[str]] = {}
    for level, name in places:
        counts.setdefault(level, Counter())[name] += 1
    return {level: list(names) for level, names in counts.items() if len(names) > 1 and sum(names.values()) > 0.9 * n}


def _unnamed_patients(levels: dict[int, list[str]]) -> list[str]:
    """A note where folders that are not taken for classes may be patients that nobody named."""
    numbered = [names for names in levels.values() if len(names) > 2 and all(map(_may_be_patient, names))]
    if not numbered:
        return []
    return [
        f"if the folders {_some(numbered[0])} are patients, images of one may be in both training and validation set: "
        f"call the folders patient1, patient2, ..., or give a table with {argument('patient_col')}"
    ]


def _may_be_patient(name: str) -> bool:
    """Whether a folder's name has a number, and is neither called like a patient nor like a piece of the set."""
    return bool(re.search(r"\d", name)) and not (_PATIENT.fullmatch(name) or _PIECE.fullmatch(name))


def _within_classes(labels: Sequence[str], folders: Sequence[Sequence[str]]) -> list[str]:
    """A note where folders of one class lie within the folder of another, as patients' do beside loose images."""
    label_of = {tuple(parts): label for label, parts in zip(labels, folders, strict=True) if label}
    within = [
        (label, above)
        for parts, label in label_of.items()
        for above in {label_of.get(parts[:n], label) for n in range(1, len(parts))} - {label}
    ]
    if not within:
        return []
    inner, outer = within[0]
    return [
        f"{len(within)} class folders lie within the folder of another class, first '{inner}' within '{outer}': "
        f"{argument('label_from_parent')} says how far above its image a class's folder is"
    ]


def _depths(labels: Sequence[str], folders: Sequence[Sequence[str]]) -> list[str]:
    """A note where some class folders lie within a folder that is no class, and others do not: ill/grade1 and well."""
    above: dict[str, set[str]] = {}
    for label, parts in zip(labels, folders, strict=True):
        if label:
            over = parts[: len(parts) - 1 - list(reversed(parts)).index(label)]
            named = [name for name in over if not (part_named(name) or _ROLE.fullmatch(name))]
            above.setdefault(label, set()).add(named[-1] if named else "")
    deep = sorted(label for label, found in above.items() if "" not in found)
    flat = [label for label, found in above.items() if found == {""}]
    if not deep or not flat:
        return []
    upper = sorted(set().union(*(above[label] for label in deep)))
    return [
        f"class folders lie at different depths: {_some(flat)} at the top, {_some(deep)} within {_some(upper)}. "
        "Each folder that holds images was taken for a class. If the upper folders are the classes, "
        f"{argument('merge')} joins the lower"
    ]


def no_classes(labels: Sequence[str | None]) -> list[str]:
    """A note where the folders taken for classes are called like pieces of one set, or like patients or studies.

    Example:
        >>> no_classes(["polyp", "normal"]), no_classes(["study1", "study2"])[0][:41]
        ([], 'the labels study1, study2 are called like')
    """
    names = sorted(set(filter(None, labels)))
    kinds = {"pieces of one set": _PIECE, "patients or studies": _STUDY}
    called = [kind for kind, pattern in kinds.items() if len(names) > 1 and all(map(pattern.fullmatch, names))]
    numbered = [re.fullmatch(r"(.*[^\W\d]{2}.*?)[ _-]*\(?\d+\)?", name) for name in names]
    times = Counter(found and found[1] for found in numbered)
    if len(times) > 1 and None not in times and min(times.values()) > 1:  # benign_1, benign_2, malignant_1, malignant_2
        called.append("patients or studies")
    return [
        f"the labels {_some(names)} are called like {kind}, not like classes: give a table with the images' labels "
        f"with {argument('labels')}"
        for kind in called[:1]
    ]


def _parts_not_read(folders: Sequence[Sequence[str]]) -> list[str]:
    """A note where folders' names speak of a partition in words that are not understood, such as 1_train_final."""
    names = {name: None for parts in folders for name in parts if part_named(name) is None}
    found = {name: re.findall("[A-Z]?[a-z]+|[A-Z]+", name) for name in names}
    words = {name: {re.sub("(set|data)$", "", word.lower()) for word in parts} for name, parts in found.items()}
    alike = [name for name in names if _PART_WORDS & words[name]]
    if not alike:
        return []
    return [
        f"folders whose names speak of a partition are not taken for one: {_some(alike)}. Name them train, valid or "
        f"test, or write the partition into a table and name its column with {argument('partition_col')}"
    ]


def _copies(paths: Sequence[str]) -> list[str]:
    """A note where names say that images are altered copies of others, which a random split puts on both sides."""
    altered = set(_altered(paths))
    copies = [path for path in paths if path in altered or _AUGMENTED.search(path)]
    if not 0 < len(copies) < len(paths):
        return []
    return [
        f"{len(copies)} of {len(paths)} images are augmented copies by their names, first '{min(copies)}'. Leave them "
        "out: medclf augments by itself, and a copy in the validation set is no new image "
        f"({argument('split', 'grouped')} keeps those together that it finds)"
    ]


def _formats(paths: Sequence[str]) -> list[str]:
    """A note where files differ in their endings alone: one image in two formats, or an image and its mask."""
    of: dict[str, list[str]] = {}
    for path in paths:
        if re.search(r"\.\d+$", path):  # IM.001 and 1.2.840.113 are names without an ending
            continue
        of.setdefault(without_ending(path), []).append(path)
    several = {name: files for name, files in of.items() if len(files) > 1}
    if not several:
        return []
    one, other = sorted(several[min(several)])[:2]
    return [
        f"{len(several)} images are there with several endings, first '{one}' and '{other}': keep one of each, or they "
        "may be in both training and validation set"
    ]


def _altered(paths: Sequence[str]) -> list[str]:
    """Those called like turned or mirrored copies of an image that is there, or of one that has several copies."""
    stems = {path: without_ending(path) for path in paths}
    found = {path: match[1] for path, stem in stems.items() if (match := _ALTERED.fullmatch(stem))}
    there, times = set(stems.values()), Counter(found.values())
    loose = ((path, _ALTERED_OF.fullmatch(stem)) for path, stem in stems.items())
    bases = {path: of["base"] or of["folder"] + of["after"] for path, of in loose if of}
    return [path for path in stems if bases.get(path) in there or times[found.get(path, "")] > 1]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


def masks_among(paths: Sequence[str]) -> list[str]:
    """The files drawn on another image, by their name or folder: `1_mask.png` beside `1.png`, `masks/1.png`.

    Example:
        >>> masks_among(["a/1.png", "a/1_mask.png", "a/no_mask.png", "masks/2.png", "images/2.png"])
        ['a/1_mask.png', 'masks/2.png']
    """
    spelt = [(path, PurePosixPath(without_ending(path))) for path in paths]
    folders = [bare.parts[:-1] for _, bare in spelt]
    around = zip(min(folders, default=()), max(folders, default=()), strict=False)
    whole = sum(1 for _ in takewhile(lambda names: names[0] == names[1], around))  # such as Kvasir-SEG/
    in_folder = {path for path, bare in spelt if any(map(_MASK_FOLDER.fullmatch, bare.parts[whole:-1]))}
    named = ((path, _MASK.fullmatch(bare.name)) for path, bare in spelt)
    by_name = {path: found["base"] or found["after"] for path, found in named if found}
    images = {bare.name for path, bare in spelt if path not in in_folder and path not in by_name}
    images |= {re.sub(r"_\d{4}$", "", name) for name in images}  # nnU-Net's number of the channel
    beside = {str(bare) for _, bare in spelt}
    volumes = Counter(
        bare.with_name(bare.name.rpartition("_")[0] or "_") for path, bare in spelt if ".nii" in path[-7:]
    )
    beside |= {str(name) for name, n in volumes.items() if n > 1}  # x_seg.nii beside x_t1.nii and x_t2.nii
    masks = []
    for path, bare in spelt:
        base = by_name.get(path, bare.name)
        of_other = path in by_name and (str(bare.with_name(base)) in beside or base in images)
        if of_other or (path in in_folder and (base in images or bare.name in images)):
            masks.append(path)
    return masks


def where_labels_are(root: Path) -> str:
    """Which tables beside the images may have their labels, with their columns; "" where there are none."""
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.suffix.lower() in CSV_SUFFIXES and path.is_file():
            with path.open(encoding="utf-8-sig", errors="replace") as file:
                found.append(f"{argument('labels', path.name)} (its columns: {file.readline(500).strip()})")
    columns = f"{argument('path_col')} and {argument('label_col')}"
    told = f"if a table beside the images has their labels, name it, and with {columns} its columns: "
    return f"{told}{'; '.join(found[:_SHOWN])}" if found else ""
