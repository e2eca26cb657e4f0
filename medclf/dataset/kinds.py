"""What the files of a data set show: kinds that do not belong among pictures, mixed kinds, and images of few levels."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.config import Frame
from medclf.dataset.identity import pseudonym
from medclf.errors import ReadError, argument, by_road
from medclf.images.dicom import Origin
from medclf.images.frame_names import file_of, one_of_several
from medclf.images.nifti import has_gaps, says_how_it_lies, value_range
from medclf.images.reading import check, probe, read_pixels
from medclf.images.windowing import STRETCH

# DICOM objects with pixels that are no pictures of a patient, by SOP class (PS3.4 B.5) and by modality (PS3.3 C.7.3.1)
_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_PICTURES = {
    f"{_IMAGE_STORAGE}66.4": "a segmentation",
    f"{_IMAGE_STORAGE}66.7": "a label map",
    f"{_IMAGE_STORAGE}66.8": "a height map",
    f"{_IMAGE_STORAGE}30": "a parametric map",
    f"{_IMAGE_STORAGE}481.2": "a radiotherapy dose",
    "SEG": "a segmentation",
    "RTDOSE": "a radiotherapy dose",
    "PMAP": "a parametric map",
}
WHOLE_SLIDE = f"{_IMAGE_STORAGE}77.1.6"
SECONDARY_CAPTURE = f"{_IMAGE_STORAGE}7"
_RADIOGRAPHS = {"CR", "DX", "RG"}
MASK_LEVELS = 4  # of 256, at most, in a mask: a few classes, drawn without shades
SHADES = 16  # of 256, at most, of a DICOM image whose window leaves few: the narrowest for CT has 40
FEW_LEVELS = 64  # of 256, below which an image of more than 8 bits has lost most of what it holds
_SAMPLE = 20
_NAMED_WINDOWS = 5


def why_no_picture(origin: Origin) -> str:
    """Why a DICOM object is none to learn from; "" where it is a picture.

    Example:
        >>> why_no_picture(Origin("SEG", "1.2.840.10008.5.1.4.1.1.66.4", "1.2"))
        'a segmentation, not a picture of a patient'
    """
    what = NO_PICTURES.get(origin.sop_class) or NO_PICTURES.get(origin.modality or "")
    return f"{what}, not a picture of a patient" if what else ""


def is_secondary_capture(sop_class: str) -> bool:
    """Whether a SOP class is one of the Secondary Captures: screens, scanned film and paper."""
    return sop_class == SECONDARY_CAPTURE or sop_class.startswith(f"{SECONDARY_CAPTURE}.")


def origin_columns(origins: Sequence[Origin | None], key: bytes) -> dict[str, pd.Series]:
    """The columns modality, sop_class (its name), study and series (pseudonyms) and instance (the Instance Number).

    None stands for what is no DICOM file, or does not say.
    """
    from pydicom.uid import UID

    def cells(of: Any) -> pd.Series:
        return pd.Series([(of(origin) or None) if origin else None for origin in origins], dtype=object)

    return {
        "modality": cells(lambda origin: origin.modality),
        "sop_class": cells(lambda origin: _standard(UID(origin.sop_class))),
        "study": cells(lambda origin: origin.study and pseudonym(origin.study, key)),
        "series": cells(lambda origin: origin.series and pseudonym(origin.series, key)),
        "instance": cells(lambda origin: origin.instance),
    }


def _standard(uid: Any) -> str:
    """Its name in the standard; an identifier that has none there could say anything, and is not shown."""
    return uid.name if uid.name != uid else "of no standard"


def kind_warnings(origins: Mapping[str, Origin]) -> list[str]:
    """What does not go together among usable DICOM files, one sentence or two each.

    Args:
        origins: by path.

    Example:
        >>> print(*kind_warnings({"a.dcm": Origin("CT", "", ""), "b.dcm": Origin("MR", "", "")}))
        the DICOM files mix modalities: 1 CT, 1 MR (a.dcm). A model may learn the modality instead of the finding; ...
    """
    sentences = []
    modalities = Counter("radiography" if one.modality in _RADIOGRAPHS else one.modality for one in origins.values())
    if len(modalities) > 1:
        rarest = min(modalities, key=lambda name: (modalities[name], str(name)))
        odd = [path for path, one in origins.items() if (one.modality or None) == rarest]
        counted = ", ".join(f"{n} {name or 'unknown'}" for name, n in modalities.most_common())
        sentences.append(
            f"the DICOM files mix modalities: {counted}{_named(odd)}. "
            "A model may learn the modality instead of the finding; keep one, or check that the classes share them"
        )
    captures = [path for path, one in origins.items() if is_secondary_capture(one.sop_class)]
    if 0 < len(captures) < len(origins):
        sentences.append(
            f"{len(captures)} of {len(origins)} DICOM files are secondary captures (screens, scanned film)"
            f"{_named(captures)}. Look whether they belong among the images"
        )
    slides = [path for path, one in origins.items() if one.sop_class == WHOLE_SLIDE]
    if slides:
        sentences.append(
            f"{len(slides)} DICOM files are whole-slide images{_named(slides)}. "
            f"Only one tile of each is used ({argument('frame')} chooses it); cut them into images first"
        )
    return sentences


def frame_warnings(frames: Mapping[str, int], frame: Frame) -> list[str]:
    """Files of several frames, pages or slices of which one is used; see `one_of_several`."""
    said = one_of_several(frames, frame)
    other = f"{argument('frame')} chooses another one; with {argument('frame', 'all')} and {argument('unit')}"
    return [f"{said}. {other} each is an image"] if said else []


def spread_warnings(spread: Mapping[str, bool]) -> list[str]:
    """DICOM images that give no window, of which each is spread over its own values.

    Args:
        spread: whether a DICOM image is, by path.

    Example:
        >>> print(*spread_warnings({"a.dcm": True, "b.dcm": False}))
        1 of 2 DICOM images gives no window (a.dcm). Without window= each such image goes from its own smallest to ...
    """
    without = [path for path, one in spread.items() if one]
    if not without:
        return []
    give = "gives" if len(without) == 1 else "give"
    return [
        f"{len(without)} of {len(spread)} DICOM images {give} no window{_named(without)}. Without "
        f"{by_road('window=', '--window')} each such image goes from its own smallest to its own largest value, so the "
        "same value may be another grey in another image"
    ]


def own_window_warnings(windows: Mapping[str, tuple[float, float]]) -> list[str]:
    """CT images that are shown through different windows of their own.

    Args:
        windows: center and width in Hounsfield units, by path.

    Example:
        >>> print(*own_window_warnings({"a.dcm": (40, 400), "b.dcm": (-600, 1500), "c.dcm": (40, 400)}))
        3 CT images are shown through 2 windows of their own: 40,400 (2 images), -600,1500 (1 image, b.dcm). The ...
    """
    by_window: dict[tuple[float, float], list[str]] = {}
    for path, window in windows.items():
        by_window.setdefault(window, []).append(path)
    if len(by_window) < 2:
        return []
    most = sorted(by_window.items(), key=lambda item: -len(item[1]))
    (center, width), _ = most[0]
    chosen = by_road(f"window=({center:g}, {width:g})", f"--window {center:g},{width:g}")
    told = [
        f"{center:g},{width:g} ({len(paths)} image{'s' * (len(paths) > 1)}{', ' + paths[0] if place else ''})"
        for place, ((center, width), paths) in enumerate(most[:_NAMED_WINDOWS])
    ]
    more = f" and {len(most) - _NAMED_WINDOWS} more" if len(most) > _NAMED_WINDOWS else ""
    return [
        f"{len(windows)} CT images are shown through {len(most)} windows of their own: {', '.join(told)}{more}. The "
        "same Hounsfield value is another grey in each, and a model may learn the window instead of the finding: "
        f"choose one for all, such as {chosen}"
    ]


def windows_shown(windows: Sequence[tuple[float, float]], n_spread: int) -> dict[str, int]:
    """How many DICOM images are shown through each window of their own in Hounsfield units, and without any.

    Example:
        >>> windows_shown([(40, 400), (40, 400)], 1)
        {'40,400': 2, 'no window': 1}
    """
    counts = Counter(f"{center:g},{width:g}" for center, width in windows)
    return dict(counts) | ({"no window": n_spread} if n_spread else {})


def other_windows(trained: Mapping[str, int], shown: Mapping[str, int]) -> list[str]:
    """What is said of images that are shown through windows of their own which no training image had.

    Args:
        trained, shown: images by window, as `windows_shown` counts them.

    Example:
        >>> other_windows({"40,400": 9}, {"40,400": 1, "-600,1500": 2})[0][:71]
        '2 images are shown through windows of their own that no training image '
    """
    others = {window: n for window, n in shown.items() if window not in trained}
    if not trained or not others:
        return []
    named, known = (
        ", ".join(sorted(counts, key=lambda one: -counts[one])[:_NAMED_WINDOWS]) for counts in (others, trained)
    )
    return [
        f"{sum(others.values())} images are shown through windows of their own that no training image had: {named}; "
        f"those of the training are {known}. The same value is another grey in them. Train with one window for all: "
        f"{argument('window')}"
    ]


def volume_warnings(volumes: Sequence[str], root: Path) -> list[str]:
    """NIfTI volumes that do not say how they lie in space, and of the first twenty those with voxels without a value.

    Args:
        volumes: paths, relative to `root`; frames of one file count once.
        root: the folder that the paths start from.
    """
    files = list(dict.fromkeys(file_of(root / path) for path in volumes))
    sentences = []
    lost = [file.relative_to(root).as_posix() for file in files if not says_how_it_lies(file)]
    if lost:
        lie = "does not say how it lies" if len(lost) == 1 else "do not say how they lie"
        sentences.append(
            f"{len(lost)} of {len(files)} NIfTI volumes {lie} in space{_named(lost)}: taken as stored from the "
            "patient's right to left, back to front and foot to head. Look whether that is so"
        )
    looked_at = files[:_SAMPLE]
    gaps = []
    for file in looked_at:
        with contextlib.suppress(ReadError):  # where pixels were not looked at
            gaps += [file.relative_to(root).as_posix()] * has_gaps(file)
    if gaps:
        have = "has" if len(gaps) == 1 else "have"
        sentences.append(
            f"{len(gaps)} of {len(looked_at)} NIfTI volumes {have} voxels without a value (NaN){_named(gaps)}: they "
            "are shown black, as background"
        )
    return sentences


def level_warnings(levels: Mapping[str, int], dicom_files: Collection[str], root: Path) -> list[str]:
    """Images that are all black, DICOM files of one grey or few, and images of more than 8 bits and of few levels.

    Args:
        levels: how many of 256 grey levels each usable image has, by path; see `levels_of`.
        dicom_files: which of the paths are DICOM files.
        root: the folder that the paths start from.
    """
    sentences = []
    black = [path for path, n in levels.items() if n == 0]
    if black:
        sentences.append(f"{len(black)} of {len(levels)} images are all black{_named(black)}. Look at the files")
    flat = [path for path, n in levels.items() if n == 1 and path in dicom_files]
    if flat:
        sentences.append(
            f"{len(flat)} of {len(levels)} images show one grey only{_named(flat)}. "
            f"Their window may be wrong: choose one with {argument('window')}, or look at the files"
        )
    few = [path for path, n in levels.items() if 1 < n <= SHADES and path in dicom_files]
    narrow = [path for path in few[:_SAMPLE] if _levels_stretched(root / path) > 2 * levels[path]]
    if narrow:
        most = max(levels[path] for path in narrow)
        sentences.append(
            f"DICOM images show few grey levels of many{_named(narrow)}: at most {most} of 256 reach the network. "
            f"Their window may be too narrow: {argument('window')} chooses another, and {argument('window', STRETCH)} "
            "shows all values"
        )
    dim = [path for path, n in levels.items() if 1 < n < FEW_LEVELS and _is_deep(root / path)]
    if dim:
        low, high = _range(root, dim)
        step = int(isinstance(low, int))  # of whole levels, the highest is one of the window's
        center, width = (low + high + step) / 2, high - low + step
        chosen = by_road(f"window=({center:g}, {width:g})", f"--window {center:g},{width:g}")
        stretched = argument("window", STRETCH)
        sentences.append(
            f"{len(dim)} of {len(levels)} images hold more than 8 bits and use little of their range{_named(dim)}. "
            f"At most {max(levels[path] for path in dim)} of 256 grey levels of them reach the network. "
            f"Their values go from {low:g} to {high:g}. Use {chosen} for all alike, or {stretched} for each by itself"
        )
    return sentences


def mask_warnings(sizes: Mapping[str, tuple[int, int]], levels: Mapping[str, int]) -> list[str]:
    """Images of a few levels that are as large as others: masks, whatever their names say.

    Args:
        sizes: width and height of each usable image, by path.
        levels: as `level_warnings`.

    Example:
        >>> mask_warnings({"1.png": (8, 8), "1b.png": (8, 8)}, {"1.png": 200, "1b.png": 2})[0][:60]
        '1 of 2 images has the few grey levels of a mask (1b.png), an'
    """
    pictures = {sizes[path] for path, n in levels.items() if n > MASK_LEVELS}
    masks = [path for path, n in levels.items() if 1 < n <= MASK_LEVELS and sizes[path] in pictures]
    if not masks:
        return []
    have = "has" if len(masks) == 1 else "have"
    return [
        f"{len(masks)} of {len(levels)} images {have} the few grey levels of a mask{_named(masks)}, and the size of "
        "other images. Look whether they are masks: a table can list the images alone"
    ]


def window_warnings(files: Sequence[Path], window: Any) -> list[str]:
    """A window that changes nothing: the files looked at, twenty at most, are pictures of 8 bits.

    Args:
        files: the images.
        window: (center, width) or a name; None and "stretch" are no window.
    """
    if window in (None, "none", STRETCH):
        return []
    for file in files[:_SAMPLE]:
        with contextlib.suppress(ReadError):
            found = probe(file)
            if found.format in ("DICOM", "NIfTI") or found.bits > 8:
                return []
    if isinstance(window, str):
        given = argument("window", window)
    else:
        given = by_road(f"window={window}", f"--window {','.join(f'{one:g}' for one in window)}")
    return [f"{given} changes nothing: the images have 8 bits, and a window is for deeper ones"] if files else []


def _levels_stretched(path: Path) -> int:
    """How many grey levels an image has from its smallest to its largest value; 0 where it is gone since."""
    try:
        return check(path, window=STRETCH).levels
    except ReadError:
        return 0


def _is_deep(path: Path) -> bool:
    """Whether a file is no DICOM file and has more than 8 bits a sample; one that is gone since has not."""
    try:
        found = probe(path)
    except ReadError:
        return False
    return found.format != "DICOM" and found.bits > 8


def _range(root: Path, paths: Sequence[str]) -> tuple[float, float]:
    """Smallest and largest value of some of the files, in their own values: whole numbers, but for volumes."""
    values: list[float] = []
    for path in paths[:: max(1, len(paths) // _SAMPLE)]:
        try:
            found, pixels = probe(root / path), read_pixels(root / path)
            volume = found.format == "NIfTI"
            black, white = value_range(root / path) if volume else (0, (1 << found.bits) - 1)
        except ReadError:
            continue
        ends = (black + int(end) * (white - black) / 65535 for end in (pixels.min(), pixels.max()))
        values += ends if volume else map(round, ends)
    return min(values, default=0), max(values, default=65535)


def _named(paths: Sequence[str], at_most: int = 5) -> str:
    more = f" and {len(paths) - at_most} more" if len(paths) > at_most else ""
    return f" ({', '.join(paths[:at_most])}{more})" if paths else ""
