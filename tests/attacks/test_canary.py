"""A marker wherever a patient could be named comes out nowhere: not in outputs, caches, logs or temporary files.

What is searched is what `canary.py` made medclf write. The exceptions are documented in docs/security.md: labels, file
names where the user shows them, and the columns of the user's own table.
"""

import base64
import gzip
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("canary.py")
_spec = importlib.util.spec_from_file_location("canary", SCRIPT)
canary = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(canary)

PATIENT = {
    "text": canary.TEXT,
    "number": canary.NUMBER,
    "day": canary.DAY,
    "day with dashes": "1937-08-23",
    "day with colons": "1937:08:23",
    "clock": canary.CLOCK,
}
# Of PS3.15's Table E.1-1 (620 attributes), some of every kind; the marked files hold every attribute of pydicom's
# dictionary that can carry text, a number, a date or an identifier.
IN_THE_TABLE = """
AccessionNumber AcquisitionComments AcquisitionDate AcquisitionDateTime AcquisitionDeviceProcessingDescription
AcquisitionProtocolDescription AcquisitionTime AdditionalPatientHistory AdmissionID AdmittingDate
AdmittingDiagnosesDescription Allergies BranchOfService CassetteID ClinicalTrialSiteName
ClinicalTrialSubjectID CommentsOnThePerformedProcedureStep ConfidentialityCode ContentCreatorName ContentDate
ContentTime CountryOfResidence CurrentPatientLocation DateOfSecondaryCapture DetectorID DeviceSerialNumber DeviceUID
EthnicGroup FrameComments FrameOfReferenceUID GantryID GeneratorID ImageComments InstanceCreatorUID
InstitutionAddress InstitutionName InstitutionalDepartmentName InsurancePlanIdentification IssuerOfPatientID
MedicalAlerts MedicalRecordLocator MilitaryRank NameOfPhysiciansReadingStudy Occupation OperatorsName
OrderEnteredBy OtherPatientIDs OtherPatientNames PatientAddress PatientAge PatientBirthDate PatientBirthName
PatientBirthTime PatientComments PatientID PatientInstitutionResidence PatientMotherBirthName PatientName
PatientReligiousPreference PatientSex PatientSize PatientState PatientTelephoneNumbers PatientWeight
PerformedLocation PerformedStationAETitle PerformingPhysicianName PersonAddress PersonName
PersonTelephoneNumbers PhysiciansOfRecord PlateID ProtocolName ReasonForStudy
ReferringPhysicianAddress ReferringPhysicianName ReferringPhysicianTelephoneNumbers RegionOfResidence
RequestAttributesSequence RequestedProcedureComments RequestedProcedureID RequestingPhysician ResponsibleOrganization
ResponsiblePerson ReviewerName ScheduledPerformingPhysicianName ScheduledStationName SeriesDate SeriesDescription
SeriesInstanceUID SeriesTime ServiceEpisodeDescription SmokingStatus SOPInstanceUID SpecialNeeds StationName
StudyComments StudyDate StudyDescription StudyID StudyInstanceUID StudyTime SynchronizationFrameOfReferenceUID
TextComments TextString TimezoneOffsetFromUTC VerifyingOrganization VisitComments
"""


def needles(marker):
    """The marker as it may stand in a file: plain, UTF-16, hex, base64 at each of its three offsets; lower case."""
    plain = marker.encode()
    shifted = [base64.b64encode(b"\0" * n + plain)[n + 1 if n else 0 : -4] for n in range(3)]
    forms = [plain, marker.encode("utf-16-le"), plain.hex().encode(), *(s for s in shifted if len(s) > 8)]
    return [form.lower() for form in forms]


def layers(data, depth=3):
    """The data, and what is inside: zip members, gzip and zlib streams, base64 text."""
    yield data
    if depth == 0:
        return
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from layers(name.encode() + b"\n" + archive.read(name), depth - 1)
    for start in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", data):
        stream = zlib.decompressobj(47)
        try:
            inside = stream.decompress(memoryview(data)[start.start() :], 1 << 24)
        except zlib.error:
            continue
        if len(inside) > 3:
            yield from layers(inside, depth - 1)
    for run in re.findall(rb"[A-Za-z0-9+/]{24,}", data):
        run = run[: len(run) - (len(run) % 4 == 1)]
        yield from layers(base64.b64decode(run + b"=" * (-len(run) % 4)), depth - 1)


def found_in(data, markers):
    """Names of the markers that the data hold, in any form."""
    found = set()
    for layer in layers(data):
        low = layer.lower()
        found |= {name for name, marker in markers.items() if any(needle in low for needle in needles(marker))}
        if "text" in markers and re.search(rb"\b087Y\b", layer):
            found.add("age")
    return found


def leaks(files, markers):
    return {str(path): found for path in files if (found := found_in(path.read_bytes(), markers))}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    room = tmp_path_factory.mktemp("canary")
    places = {
        "HOME": "home",
        "XDG_DATA_HOME": "home",
        "XDG_CACHE_HOME": "home",
        "MPLCONFIGDIR": "home",
        "TMPDIR": "tmp",
    }
    env = {**os.environ, "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1", "MEDCLF_CACHE": str(room / "cache")}
    for variable, folder in places.items():
        (room / folder).mkdir(exist_ok=True)
        env[variable] = str(room / folder)
    with (room / "log").open("wb") as log:
        done = subprocess.run([sys.executable, SCRIPT, room], stdout=log, stderr=log, env=env, cwd=room, check=False)
    assert done.returncode == 0, (room / "log").read_text()[-3000:]
    return room


def files_below(*folders):
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def test_the_search_finds_what_is_hidden():
    secret = f"Name: {canary.TEXT}".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", secret)
    forms = [secret, secret.lower(), gzip.compress(secret), zlib.compress(secret), buffer.getvalue()]
    forms += [canary.TEXT.encode("utf-16-le"), secret.hex().encode(), b"\x89PNG" + zlib.compress(secret, 1)]
    forms += [b'"data:image/png;base64,' + base64.b64encode(form) + b'"' for form in forms[2:5]]
    forms += [base64.b64encode(b"x" * n + secret) for n in range(3)]
    for form in forms:
        assert found_in(form, PATIENT) == {"text"}, form
    assert found_in(b"nothing to see here" * 99, PATIENT) == set()


def test_the_images_are_marked(room):
    """Were the markers not in the files, finding none in the outputs would say nothing."""
    import pydicom

    sources = files_below(room / "data" / "tree", room / "data" / canary.FOLDER, room / "data" / "bad")
    assert len(sources) > 60
    assert all("text" in found_in(path.read_bytes(), PATIENT) for path in sources)
    dicom = pydicom.dcmread(room / "data" / "tree" / "alpha" / "0.dcm")
    assert [keyword for keyword in IN_THE_TABLE.split() if keyword not in dicom] == []
    assert len(dicom) > 3000
    assert dicom.preamble.startswith(b"MZ")
    raw = (room / "data" / "tree" / "alpha" / "0.dcm").read_bytes()
    assert {"text", "number", "day", "clock", "age"} <= found_in(raw, PATIENT)


def test_medclf_did_what_it_was_asked(room):
    out = room / "out"
    for run in ("dicom", "hidden", "broken", "folds", "repeated"):
        assert json.loads((out / run / "run.json").read_text())["finished"]
        assert (out / run / "bundle" / "bundle.json").is_file()
        assert "data:image/jpeg;base64," in (out / run / "report.html").read_text()
    assert (out / "again.html").is_file()
    assert (out / "model.onnx").is_file()
    assert (out / "audit" / "audit.csv").is_file()
    assert (out / "dicom" / "evaluations" / "tree" / "report.html").is_file()
    assert len(list((out / "pictures").iterdir())) > 2
    log = (room / "log").read_text()
    assert log.count("Traceback") > 40  # every error with its traceback
    assert "ReadError" in log
    assert "UnsupportedFormat" in log
    answers = re.findall(r"^uploaded \S+ (\d+)", log, re.MULTILINE)
    assert answers.count("200") >= 12 and answers.count("422") > 10
    problems = (out / "broken" / "table.csv").read_text()
    assert problems.count("header") > 5


def test_no_patient_comes_out(room):
    written = files_below(room / "out", room / "cache", room / "home", room / "tmp")
    assert len(written) > 30
    assert leaks([*written, room / "log"], PATIENT) == {}


def test_no_dicom_file_is_written(room):
    """Nor the head of one, in which a program can hide that Windows or Linux would run."""
    for path in files_below(room / "out", room / "cache", room / "home", room / "tmp"):
        head = path.read_bytes()[:132]
        assert not head.startswith((b"MZ", b"\x7fELF")) and head[128:] != b"DICM", path


def test_no_deleted_file_held_a_patient(room):
    assert "DELETED WITH A MARKER: []" in (room / "log").read_text()


def test_patients_are_told_apart_by_pseudonyms(room):
    import pandas as pd

    for run, n in (("dicom", 4), ("hidden", 6)):
        table = pd.read_csv(room / "out" / run / "table.csv", dtype=str)
        assert table["patient"].nunique() == n
        assert table["patient"].str.fullmatch("[0-9a-f]{16}").all()


def test_hidden_names_are_hidden(room):
    """The report, the numbers and the bundle; the tables and run.json join rows to files, and keep them."""
    names = {"file": canary.FILE, "folder": canary.FOLDER}
    run = room / "out" / "hidden"
    pages = [*run.rglob("*.html"), *run.rglob("results.json")]
    assert len(pages) >= 5  # of the run, the evaluation and the shortcut test
    assert leaks([*pages, *files_below(run / "bundle")], names) == {}
    for kept in ("table.csv", "predictions.csv", "run.json"):
        assert found_in((run / kept).read_bytes(), names)


def test_no_bundle_knows_where_the_images_lay(room):
    bundles = [*(room / "out").glob("*/bundle")]
    assert bundles
    for bundle in bundles:
        assert leaks(files_below(bundle), {"room": str(room)}) == {}
