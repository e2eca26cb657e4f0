"""Images with a marker wherever a patient could be named, and everything medclf does, done with them.

    python canary.py ROOM

ROOM/data is drawn, ROOM/out is what medclf wrote; ROOM/home, ROOM/cache and ROOM/tmp stand in for the user's. A hook
looks into each file that is deleted. `test_canary.py` runs this and searches all of it for the markers.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import struct
import sys
import traceback
import zlib
from pathlib import Path

TEXT = "CANARY7Q4ZX"  # fits every text, also a Code String
NUMBER = "1735194620"  # fits an Integer String
DAY, CLOCK, AGE = "19370823", "091742.5193", "087Y"
FOLDER, FILE = "ROOTMARK9K", "NAMEMARK3V"  # what the user may see, or may choose to hide

_VALUES = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), TEXT),
    **{"IS": NUMBER, "DS": f"{NUMBER}.481", "UI": f"1.2.826.0.1.{NUMBER}.8", "DA": DAY, "TM": CLOCK},
    **{"DT": f"{DAY}{CLOCK}", "UL": int(NUMBER), "SL": int(NUMBER), "FD": float(NUMBER), "UV": int(NUMBER)},
    **{"AS": AGE, "OB": TEXT.encode() + b" ", "UN": TEXT.encode() + b" "},
}
# What says how the pixels are stored and shown, and the header's other allowlisted attributes, stay as they are.
_LEFT = {0x00080005, 0x00080016, 0x00080060, 0x00180015, 0x00185101, 0x00280301, 0x00280004, 0x00420011, 0x52009230}
_LET_OUT = (0x00080060, 0x00180015, 0x00185101, 0x00280301, 0x00280004)  # a code that stands there may be shown
_BROKEN = {
    *(0x00280002, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102),
    *(0x00280103, 0x00280120, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056, 0x00283000, 0x00283010),
    *(*_LET_OUT, 0x00100020),
}


def watch_deletions(found: list[str]) -> None:
    """Look into each file that this process deletes: temporary files are outputs too."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.remove" and isinstance(arguments[0], (str, os.PathLike)):
            try:
                data = Path(arguments[0]).read_bytes()
            except OSError:
                return
            if any(marker.encode() in data for marker in (TEXT, NUMBER, DAY)):
                found.append(str(arguments[0]))

    sys.addaudithook(hook)


@functools.cache
def _marked_attributes() -> bytes:
    """A marker in every attribute that can hold one, nested ones and private ones too."""
    from pydicom.datadict import DicomDictionary
    from pydicom.dataset import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    nested = Dataset()
    for tag, vr, value in ((0x00100010, "PN", TEXT), (0x00100020, "LO", TEXT), (0x00204000, "LT", TEXT)):
        nested.add_new(tag, vr, value)
    shallow = nested
    for _ in range(6):
        outer = Dataset()
        outer.add_new(0x00400275, "SQ", [nested])
        outer.add_new(0x00321060, "LO", TEXT)
        nested = outer
    ds = Dataset()
    for tag, (vr, *_) in DicomDictionary.items():
        group = tag >> 16
        if (
            tag in _LEFT
            or group in (0x0000, 0x0002, 0x7FE0, 0xFFFE)
            or (group == 0x0028 and vr in ("US", "SS", "SQ", "OW"))
        ):
            continue
        if vr == "SQ":
            ds.add_new(tag, "SQ", [shallow if len(ds) % 16 else nested])  # depth in a few: pydicom takes long over it
        elif vr in _VALUES and not (group == 0x0028 and vr in ("DS", "IS")):
            ds.add_new(tag, vr, _VALUES[vr])
    for tag, vr in ((0x60004000, "LT"), (0x50002500, "LO"), (0x00990010, "LO"), (0x00991001, "UN"), (0x00991002, "PN")):
        ds.add_new(tag, vr, _VALUES[vr])  # overlay, curve and private attributes
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    write_dataset(encoded, ds)
    return encoded.getvalue()


def marked_dicom(path: Path, pixels: object, number: int, changes: dict[int, str] | None = None) -> None:
    """A DICOM file with all marked attributes, and others' values where `changes` says so."""
    from pydicom.dataelem import DataElement
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filereader import read_dataset
    from pydicom.uid import ExplicitVRLittleEndian

    ds = read_dataset(DicomBytesIO(_marked_attributes()), is_implicit_VR=False, is_little_endian=True)
    ds.PatientID = f"{TEXT}-{number // 3}"
    ds.SOPInstanceUID = f"1.2.826.0.1.{NUMBER}.{number}"
    ds.Modality, ds.BodyPartExamined, ds.SpecificCharacterSet = "CR", "CHEST", "ISO_IR 192"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 40, 40, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new(0x7FE00010, "OB", pixels.tobytes())  # type: ignore[attr-defined]
    for tag, value in (changes or {}).items():
        ds[tag] = DataElement(tag, "LO", value)
    meta = ds.file_meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = TEXT
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = f"1.2.826.0.1.{NUMBER}", TEXT.encode() + b" "
    ds.preamble = ((b"MZ", b"\x7fELF")[number % 2] + TEXT.encode()).ljust(128, b"\0")  # a program, as a virus has it
    ds.save_as(path, enforce_file_format=True)


def _exif() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    for tag in (0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x013C, 0x8298, 0x9C9B, 0x9C9F):
        exif[tag] = TEXT.encode("utf-16-le") if tag > 0x9C00 else TEXT
    exif[0x0132] = f"{DAY[:4]}:{DAY[4:6]}:{DAY[6:]} 09:17:42"
    exif.get_ifd(0x8769).update({0x9286: b"ASCII\0\0\0" + TEXT.encode(), 0xA430: TEXT, 0x927C: TEXT.encode()})
    exif.get_ifd(0x8825).update({0x001D: TEXT, 0x001B: TEXT.encode()})
    return exif.tobytes()


def marked_raster(path: Path, pixels: object) -> None:
    """A PNG, JPEG or TIFF with a marker in each of the places that hold text."""
    from PIL import Image, PngImagePlugin, TiffImagePlugin

    image = Image.fromarray(pixels)  # type: ignore[arg-type]
    profile = b"\0" * 128 + TEXT.encode()
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Patient", TEXT)
        info.add_text("Comment", TEXT, zip=True)
        info.add_itxt("XML:com.adobe.xmp", f"<x>{TEXT}</x>")
        info.add_text(TEXT, "a key, too")
        image.save(path, pnginfo=info, exif=_exif(), icc_profile=profile)
    elif path.suffix == ".jpg":
        xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{TEXT}</x:xmpmeta>".encode()
        image.save(path, exif=_exif(), comment=TEXT, icc_profile=profile, xmp=xmp, quality=95)
    else:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for tag in (269, 270, 271, 272, 285, 305, 315, 316, 33432):
            tags[tag] = TEXT
        image.save(path, tiffinfo=tags, icc_profile=profile)


def broken_rasters(folder: Path) -> None:
    """Files that cannot be read, with a marker where the reader stumbles."""
    folder.mkdir()
    png = b"\x89PNG\r\n\x1a\n"

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 0))
    (folder / "text.png").write_text(TEXT)
    (folder / "chunk.png").write_bytes(png + header + chunk(b"tEXt", b"a\0" + TEXT.encode()) + TEXT.encode())
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xfe\x00\x0d" + TEXT.encode() + b"\xff\xdb")
    (folder / "tags.tif").write_bytes(b"II*\0\x08\0\0\0\x01\0\x00\x01" + TEXT.encode() * 3)
    (folder / "head.dcm").write_bytes(b"\0" * 128 + b"DICM" + TEXT.encode() * 9)
    bmp = io.BytesIO(b"BM" + TEXT.encode() * 9)
    (folder / "other.png").write_bytes(bmp.getvalue())


def draw(room: Path) -> None:
    """ROOM/data: a DICOM tree, a folder of rasters with odd names, broken files of both kinds, CSVs of patients."""
    import numpy as np
    from pydicom import config

    config.settings.writing_validation_mode = config.IGNORE
    config.settings.reading_validation_mode = config.IGNORE
    rng = np.random.default_rng(0)
    tree, named, bad = room / "data" / "tree", room / "data" / FOLDER, room / "data" / "bad"
    (bad / "alpha").mkdir(parents=True)
    rows = []
    for place, label in enumerate(("alpha", "beta")):
        (tree / label).mkdir(parents=True)
        (named / label).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 99, (40, 40), dtype=np.uint8) + np.uint8(120 * place)
            marked_dicom(tree / label / f"{number}.dcm", pixels, 6 * place + number)
            name = f"{label}/{FILE}-{number}{('.png', '.jpg', '.tif')[number % 3]}"
            marked_raster(named / name, pixels)
            rows.append(f"{name},{label},{TEXT}-{number // 2}{label},{TEXT}@example.org")
    (named / "alpha" / f"{FILE}-cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + TEXT.encode())
    rows.append(f"alpha/{FILE}-cut.png,alpha,{TEXT}-0alpha,")
    (room / "data" / "patients.csv").write_text("path,label,who\n" + "\n".join(r.rpartition(",")[0] for r in rows))
    for tag in sorted(_BROKEN):
        marked_dicom(bad / "alpha" / f"{tag:08x}.dcm", pixels, 0, {tag: TEXT})
    marked_dicom(bad / "alpha" / "cut.dcm", pixels, 0)
    (bad / "alpha" / "cut.dcm").write_bytes((bad / "alpha" / "cut.dcm").read_bytes()[:-900])
    broken_rasters(bad / "beta")
    for label in ("alpha", "beta"):
        for path in sorted((tree / label).iterdir()):
            shutil.copy(path, bad / label / f"good-{path.name}")


def run(*arguments: object) -> None:
    """One call of the command line, twice where it fails: as users see it, and with the traceback."""
    from medclf import cli

    for more in ([], ["--debug"]):
        sys.argv = ["medclf", *map(str, arguments), *more]
        print("$", *sys.argv, flush=True)
        try:
            cli.main()
            return
        except SystemExit as end:
            if not end.code:
                return
        except Exception:  # noqa: BLE001 - whatever it is, what it prints is what is looked at
            traceback.print_exc()


def serve(bundle: Path, files: list[Path]) -> None:
    """Every file as an upload: what the service answers and counts is looked at, too."""
    import httpx

    from medclf.inference.bundle import load_bundle
    from medclf.serving.app import create_app, running

    app = create_app(load_bundle(bundle))
    with running(app, log_level="debug") as url, httpx.Client(timeout=60) as client:
        for path in files:
            kind = "application/dicom" if path.suffix == ".dcm" else "image/png"
            place = f"{url}/v1/predict?preview=true&saliency=true"
            answer = client.post(place, content=path.read_bytes(), headers={"Content-Type": kind})
            print("uploaded", path.name, answer.status_code, answer.headers, answer.text)
        for place in ("/metrics", "/v1/model", "/docs"):
            print(place, client.get(url + place).text)


def everything(room: Path) -> None:
    """scan, train, report, evaluate, predict and every error, on the marked files."""
    from medclf.errors import MedclfError
    from medclf.images.dicom import patient_key, safe_header
    from medclf.images.reading import check, probe, read_pixels

    data, out = room / "data", room / "out"
    tree, named, bad = data / "tree", data / FOLDER, data / "bad"
    small = ["--arch", "test_resnet", "--weights", "none", "--epochs", 1, "--size", 64, "--bs", 4]
    usual = ["--arch", "efficientnet_lite0", "--epochs", 1, "--size", 64, "--bs", 4]  # all else as users have it
    run("scan", tree, "--out", out / "scan.csv")
    run("scan", bad, "--out", out / "bad.csv")
    run("scan", bad, "--strict")
    run("audit", tree, "--out", out / "audit", "--split", "random")
    run("audit", bad)
    run("train", tree, "--out", out / "dicom", "--split", "patient", "--test", tree, *usual)
    run("train", tree, "--out", out / "folds", "--split", "kfold", "--folds", 2, *small)
    run("train", bad, "--out", out / "broken", *small)
    run("report", out / "dicom", "--out", out / "again.html")
    run("report", out / "dicom", "--out", out / "beside.html", "--assets", out / "pictures")
    who = ["--labels", data / "patients.csv", "--patient-col", "who"]
    hidden = ["--hide-names", "--split", "patient", "--test", named]
    run("train", named, "--out", out / "hidden", *hidden, *who, *small)
    run("shortcuts", out / "hidden", "--box", "0,0,0.5,0.5")
    run("report", out / "hidden", "--out", out / "hidden" / "report.html", "--hide-names")
    run("shortcuts", out / "dicom", "--box", "0,0,0.5,0.5")
    run("train", named, "--out", out / "hidden", *who, *small)
    run("train", "--resume", out / "dicom")
    run("train", "--config", out / "folds" / "run.json", "--out", out / "repeated")
    run("evaluate", out / "dicom", "--data", tree, "--out", out / "evaluated")
    run("compare", out / "dicom", out / "folds", "--out", out / "compared.html")
    run("compare", out / "dicom", out / "hidden")
    run("card", out / "card.yaml")
    run("report", out / "folds", "--card", out / "card.yaml")
    run("export", out / "broken", "--out", out / "model.onnx")
    run("cache")
    serve(out / "dicom" / "bundle", [*tree.rglob("*.dcm"), *bad.rglob("*.*")])
    for form in ([], ["--csv"], ["--json"]):
        run("predict", out / "dicom", tree, bad, *form)
    run("predict", out / "dicom", *sorted((bad / "beta").glob("*.png")))
    table = (data / "patients.csv").read_text().splitlines()
    (data / "twice.csv").write_text("\n".join([*table, table[1].replace(f"{TEXT}-0", f"{TEXT}-1")]))
    run("train", named, "--out", out / "twice", "--labels", data / "twice.csv", "--patient-col", "who", *small)
    run("train", named, "--out", out / "column", "--labels", data / "patients.csv", "--label-col", "finding", *small)
    run("train", tree, "--out", out / "few", "--split", "kfold", "--folds", 9, *small)
    for path in sorted([*tree.rglob("*.dcm"), *bad.rglob("*.*")]):
        jobs = [probe, check, read_pixels, lambda p: patient_key(p, b"k" * 32)]
        if path.stem not in {f"{tag:08x}" for tag in _LET_OUT}:
            jobs.append(safe_header)
        for job in jobs:
            try:
                print(path.name, str(job(path))[:300])
            except MedclfError as error:
                print(repr(error), error, error.args)
                traceback.print_exc()


def main(room: Path) -> None:
    """Draw, run, and say which deleted files held a marker."""
    deleted: list[str] = []
    draw(room)
    (room / "out").mkdir()
    watch_deletions(deleted)
    everything(room)
    print("DELETED WITH A MARKER:", deleted)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
