"""medclf beside dcmtk, on real DICOM files: how many look the same, and why the others do not.

    python benchmarks/dicom_reference.py
    python benchmarks/dicom_reference.py --folder MY-FILES --all

The files are pydicom's, pydicom-data's and those of ../shared/data/dicom. Every file's middle frame is read by medclf
and by dcmtk's dcm2pnm, dcmj2pnm and dcml2pnm (`apt install dcmtk`), both to 8 bits. dcmtk is told to do what medclf's
rules say: the file's VOI LUT, else its first window, else nothing for 8-bit pixels without a rescale, else the smallest
to the largest value; and to draw no overlays. Two pictures are the same where no pixel differs by more than two grey
levels. Files that differ for a reason are named in EXPLAINED, each with the clause of the standard that decides. Exit
status: 1 where less than 98 % are the same or explained, or where dcmtk reads a file that medclf refuses for a reason
that is not named.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image

from medclf.errors import ReadError
from medclf.images.reading import read_pixels
from medclf.images.resize import eight_bit

WITHIN, GOAL = 2, 0.98
QUIET = ("within two grey levels", "refused by both", "dcmtk has no picture of it")
DCMTK = ("dcm2pnm", "dcmj2pnm", "dcml2pnm")

# Files that look otherwise than dcmtk has them: the part of the file's path that names it, and why
_HALF = "PS3.3 C.8.20.2: a binary segmentation's 1 means full; dcmtk shows it as 128"
_ENDIAN = "PS3.5 7.3: big-endian values of 32 bits; medclf's picture is that of its little-endian twin"
EXPLAINED: dict[str, str] = {
    "/liver": _HALF,
    "/rtdose_expb": _ENDIAN,
    "/eCT_Supplemental": "PS3.3 C.7.6.16.2.10: the frame's own window counts; dcmtk looks for one in the header alone",
    "/CT1_RLE": "PS3.3 C.7.5.1.1.2: padding of -2000 is no part of the image; dcmtk stretches from it on",
    "/RG3_JPLY": "PS3.5 8.1.1: a lossy value above Bits Stored is the largest there is; dcmtk shows it as black",
}
# Files that dcmtk reads and medclf refuses
REFUSED: dict[str, str] = {"/badVR": "PS3.5 6.2: Number of Frames holds letters; dcmtk takes it for 1"}


class Outcome(NamedTuple):
    """What became of one file: a word for the table, and more about it."""

    word: str
    detail: str = ""


def main() -> int:
    """Compare, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, nargs="*", help="look at these folders alone")
    parser.add_argument("--all", action="store_true", help="name every file, not those that differ alone")
    args = parser.parse_args()
    if missing := [tool for tool in DCMTK if not shutil.which(tool)]:
        print(f"{', '.join(missing)} missing: apt install dcmtk")
        return 2
    warnings.simplefilter("ignore")
    counts: dict[str, Counter[str]] = {}
    for source, path in files(args.folder):
        outcome = compare(path)
        counts.setdefault(source, Counter())[outcome.word] += 1
        if args.all or outcome.word not in QUIET:
            print(f"{outcome.word}: {path.name}: {outcome.detail}")
    return judge(counts)


def files(folders: list[Path] | None) -> Iterator[tuple[str, Path]]:
    """Each file with the name of its set."""
    root = Path(os.environ.get("MEDCLF_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    sets = (
        [(folder.name, folder) for folder in folders]
        if folders
        else [*pydicom_sets(), ("../shared/data", root / "dicom")]
    )
    for name, folder in sets:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and (path.suffix.lower() in (".dcm", "") or path.read_bytes()[128:132] == b"DICM"):
                yield name, path


def pydicom_sets() -> list[tuple[str, Path]]:
    """The test files of pydicom, and those of pydicom-data where it is installed."""
    found = [("pydicom", Path(pydicom.__file__).parent / "data" / "test_files")]
    try:
        import data_store
    except ImportError:
        return found
    return [*found, ("pydicom-data", Path(next(iter(data_store.__path__))))]


def compare(path: Path) -> Outcome:
    """One file by both."""
    try:
        ours = eight_bit(read_pixels(path)).astype(int)
    except ReadError as error:
        return beside_a_refusal(path, error)
    theirs = reference(path)
    if theirs is None:
        return Outcome("dcmtk has no picture of it")
    if ours.shape != theirs.shape:
        return explained(path, f"{ours.shape} beside dcmtk's {theirs.shape}")
    apart = np.abs(ours - theirs)
    if apart.max() <= WITHIN:
        return Outcome("within two grey levels", f"at most {apart.max()}")
    return explained(path, f"up to {apart.max()}, {(apart > WITHIN).mean():.1%} of pixels beyond {WITHIN}")


def explained(path: Path, difference: str) -> Outcome:
    """A difference, with its reason where EXPLAINED has one."""
    reason = next((why for name, why in EXPLAINED.items() if name in path.as_posix()), "")
    return Outcome("explained by a clause" if reason else "differs", f"{difference}. {reason}")


def beside_a_refusal(path: Path, error: ReadError) -> Outcome:
    """What dcmtk makes of a file that medclf refuses."""
    if reference(path) is None:
        return Outcome("refused by both", error.reason)
    why = next((why for name, why in REFUSED.items() if name in path.as_posix()), "")
    word = "refused by medclf for a named reason" if why else "refused by medclf alone"
    return Outcome(word, f"{error.reason}. {why}")


def reference(path: Path) -> np.ndarray | None:
    """dcmtk's picture of the middle frame, (H, W) or (H, W, 3); None where it has none."""
    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        frame = int(header.get("NumberOfFrames") or 1) // 2 + 1
        voi = voi_options(header)
    except Exception:  # noqa: BLE001 - a broken file of the test sets: dcmtk is asked all the same
        frame, voi = 1, []
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture"
        for tool in DCMTK:
            command = [tool, "-O", "+F", str(frame), *voi, str(path), str(picture)]
            done = subprocess.run(command, capture_output=True, timeout=120, check=False)
            if done.returncode == 0 and picture.exists() and picture.stat().st_size:
                image = Image.open(picture)
                return np.asarray(image.convert("RGB" if image.mode == "RGB" else "L")).astype(int)
    return None


def voi_options(header: pydicom.Dataset) -> list[str]:
    """The options that make dcmtk follow medclf's rules."""
    if not str(header.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        return []
    if header.get("VOILUTSequence"):
        return ["+Wl", "1"]
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        return ["+Wi", "1"]
    rescaled = (float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)) != (1.0, 0.0)
    shallow = int(header.get("BitsStored", 16)) <= 8 and not rescaled and "ModalityLUTSequence" not in header
    return ["-W"] if shallow else ["+Wm"]


def judge(counts: dict[str, Counter[str]]) -> int:
    """Print the table; 1 where the goal is missed."""
    total: Counter[str] = sum(counts.values(), Counter())
    print("\n| | " + " | ".join(counts) + " | all |")
    print("|---|" + "---|" * (len(counts) + 1))
    for word in (
        "within two grey levels",
        "explained by a clause",
        "differs",
        "refused by medclf for a named reason",
        "refused by medclf alone",
        "refused by both",
        "dcmtk has no picture of it",
    ):
        print(f"| {word} | " + " | ".join(str(each[word]) for each in (*counts.values(), total)) + " |")
    compared = total["within two grey levels"] + total["explained by a clause"] + total["differs"]
    same = (compared - total["differs"]) / max(1, compared)
    print(f"\n{same:.1%} of {compared} files with a reference are within two grey levels or explained")
    return int(same < GOAL or total["refused by medclf alone"] > 0)


if __name__ == "__main__":
    sys.exit(main())
