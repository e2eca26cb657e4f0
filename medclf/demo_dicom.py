"""A drawn CT set: DICOM files of patients with and without a nodule, with headers such as scanners write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medclf.files import replacing, write_text

LABELS = ("clear", "nodule")
_AIR, _LUNG, _TISSUE, _NODULE, _BONE = -1000, -850, 40, 60, 700  # Hounsfield units
_NAMED = 9  # of so many patients, the first has the name written into the pixels


def draw_ct(folder: str | Path, n_patients: int = 30, n_slices: int = 3, size: int = 64, seed: int = 0) -> Path:
    """Draw chest slices as DICOM files, a few of each patient; every second patient has a nodule.

    The files give no window. The first patient of every nine has the name written into the pixels, and the header says
    so.

    Args:
        folder: where to draw; made if need be. Files of the same names are replaced.
        n_patients: one study and series each.
        n_slices: of each patient.
        size: side in pixels.
        seed: the same seed draws the same slices.

    Returns:
        The folder as a Path. Its labels.csv has the columns `file` and `label`; the patients stand in the headers.

    Raises:
        OutputError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = draw_ct(tempfile.mkdtemp(), n_patients=1, n_slices=2, size=32)
        >>> (folder / "labels.csv").read_text().split()
        ['file,label', 'patient-00/1.dcm,clear', 'patient-00/2.dcm,clear']
    """
    folder = Path(folder)
    lines = ["file,label"]
    for patient in range(n_patients):
        label = LABELS[patient % 2]
        chest = _Chest(np.random.default_rng([seed, patient]), size, nodule=label == "nodule")
        for number in range(1, n_slices + 1):
            pixels = chest.slice(np.random.default_rng([seed, patient, number]))
            name = f"DRAWN {patient:02d}"
            burned_in = patient % _NAMED == 0
            file = folder / f"patient-{patient:02d}" / f"{number}.dcm"
            file.parent.mkdir(parents=True, exist_ok=True)
            header = {"PatientID": name, "InstanceNumber": number, "BurnedInAnnotation": "YES" if burned_in else "NO"}
            _write(file, _with_text(pixels, name) if burned_in else pixels, [str(seed), name], header)
            lines.append(f"{file.relative_to(folder).as_posix()},{label}")
    write_text(folder / "labels.csv", "\n".join([*lines, ""]))
    return folder


class _Chest:
    """What the slices of one patient have in common."""

    def __init__(self, random: np.random.Generator, size: int, *, nodule: bool) -> None:
        self.size, self.nodule = size, nodule
        self.width = random.uniform(0.38, 0.46)  # of the body, in shares of the picture, as all that follows
        self.at = random.uniform(0.24, 0.34), random.uniform(0.38, 0.62)
        self.radius = random.uniform(0.05, 0.08)
        rows, columns = np.mgrid[:size, :size]
        self.x, self.y = (columns + 0.5) / size, (rows + 0.5) / size

    def slice(self, random: np.random.Generator) -> NDArray[np.int16]:
        """(size, size) Hounsfield units."""
        pixels = np.full((self.size, self.size), float(_AIR))
        pixels[self._within(0.5, 0.5, self.width, 0.36)] = _TISSUE
        for lung in (0.3, 0.7):
            pixels[self._within(lung, 0.5, 0.13, 0.24)] = _LUNG
        pixels[self._within(0.5, 0.76, 0.05, 0.05)] = _BONE
        for _ in range(12):  # vessels, in every patient
            place = random.choice([0.3, 0.7]) + random.uniform(-0.09, 0.09), random.uniform(0.34, 0.66)
            pixels[self._within(*place, *[random.uniform(0.008, 0.015)] * 2)] = _NODULE
        if self.nodule:
            pixels[self._within(*self.at, *[self.radius * random.uniform(0.8, 1.1)] * 2)] = _NODULE
        noisy = pixels + random.normal(0, 25, pixels.shape)
        return noisy.clip(_AIR - 24, 3071).astype(np.int16)

    def _within(self, x: float, y: float, width: float, height: float) -> NDArray[np.bool_]:
        return np.asarray(((self.x - x) / width) ** 2 + ((self.y - y) / height) ** 2 < 1)


def _with_text(pixels: NDArray[np.int16], text: str) -> NDArray[np.int16]:
    mask = Image.new("1", pixels.shape[::-1])
    ImageDraw.Draw(mask).text((1, 0), text, fill=1)
    return np.where(np.asarray(mask), _BONE, pixels).astype(np.int16)


def _write(file: Path, pixels: NDArray[np.int16], source: list[str], header: Mapping[str, object]) -> None:
    """Write one slice; `source` is what the UIDs of its study and series are made of."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.Modality, data.PatientName = CTImageStorage, "CT", "Drawn^Nobody"
    data.StudyInstanceUID, data.SeriesInstanceUID = (generate_uid(entropy_srcs=[*source, kind]) for kind in "ts")
    data.SOPInstanceUID = generate_uid(entropy_srcs=[*source, str(header["InstanceNumber"])])
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    for keyword, value in header.items():
        setattr(data, keyword, value)
    data.PixelData = (pixels + 1024).astype("<u2").tobytes()
    with replacing(file) as temporary:
        data.save_as(temporary, enforce_file_format=True)
