"""A damaged file of a RUN: every command that reads it names it and says what to do, in two lines at most."""

from __future__ import annotations

import csv
import gc
import io
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medclf.cli import main
from medclf.errors import DataError
from medclf.run.train import resume

WRITTEN = Path(__file__).parents[1] / "fixtures" / "run_0_1"
OF_PAGE = "results.json run.json predictions.csv table.csv neighbours.csv audit.csv".split()
BUNDLE = "bundle/bundle.json"
READS = {  # command -> its arguments, and which files it reads
    "report": ("report RUN", OF_PAGE),
    "compare": ("compare RUN RUN --out out.html", ["results.json", "run.json", "predictions.csv"]),
    "evaluate": ("evaluate RUN --data RUN/other --out evaluated", ["run.json", "table.csv", BUNDLE]),
    "review": ("review export RUN --out sheet.csv", ["results.json", "run.json", "predictions.csv"]),
    "shortcuts": ("shortcuts RUN", [*OF_PAGE, BUNDLE]),
    "explain": ("explain RUN RUN/other --out explained --method occlusion", [BUNDLE]),
    "predict": ("predict RUN RUN/other", [BUNDLE]),
}
NEEDED = {"results.json": "vocab", "run.json": "settings", BUNDLE: "recipe"}


def newer(whole: bytes) -> bytes:
    """Of a version that will come."""
    value = json.loads(whole)
    return json.dumps(value | {name: 999 for name in ("schema", "format") if name in value}).encode()


def other_type(file: str) -> Callable[[bytes], bytes]:
    """A field that everything else rests on holds something else."""
    return lambda whole: json.dumps(json.loads(whole) | {NEEDED[file]: 3}).encode()


def without_first_column(whole: bytes) -> bytes:
    return b"".join(line.partition(b",")[2] for line in whole.splitlines(keepends=True))


def damages(file: str) -> dict[str, Callable[[bytes], bytes]]:
    """What may have happened to a file, by name: a function from its bytes to what is left."""
    of_any = {
        "emptied": lambda whole: b"",
        "cut at half": lambda whole: whole[: len(whole) // 2],
        "binary junk": lambda whole: bytes(range(256)) * 8,
    }
    if not file.endswith(".json"):
        return of_any | {"a column is missing": without_first_column, "JSON": lambda whole: b'{"a": 1}\n'}
    return of_any | {
        "a list": lambda whole: b"[1, 2]",
        "a text": lambda whole: b'"text"',
        "null": lambda whole: b"null",
        "another type": other_type(file),
        "a later version": newer,
        "a version that is no number": lambda whole: newer(whole).replace(b"999", b'"x"'),
    }


CASES = [
    pytest.param(command, file, damage, id=f"{command}-{file}-{name}")
    for command, (_, files) in READS.items()
    for file in files
    for name, damage in damages(file).items()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a RUN whose run.json names its images as they lie here."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(WRITTEN, folder / "RUN")
    record = json.loads((folder / "RUN" / "run.json").read_text())
    (folder / "RUN" / "run.json").write_text(json.dumps(record | {"root": str(folder / "RUN" / "images")}))
    return folder


@pytest.fixture
def medclf(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable]:
    """Call the command line in this process, beside the RUN: its exit status, and what it said on stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    threshold = gc.get_threshold()

    def call(arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medclf", *arguments.split()])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    yield call
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.parametrize(("command", "file", "damage"), CASES)
def test_a_damaged_file_is_one_error_that_names_it(folder, medclf, command, file, damage):
    path = folder / "RUN" / file
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        status, said = medclf(READS[command][0])
    finally:
        path.write_bytes(whole)
    assert status == 2 and said.startswith("medclf: ") and 1 <= len(said.splitlines()) <= 2, said
    assert path.name in said.splitlines()[0], said


@pytest.mark.parametrize("file", ["results.json", "run.json", "predictions.csv"])
@pytest.mark.parametrize("command", ["report", "compare", "review"])
def test_a_missing_file_is_named(folder, medclf, command, file):
    path = folder / "RUN" / file
    kept = path.rename(folder / "kept")
    try:
        status, said = medclf(READS[command][0])
    finally:
        kept.rename(path)
    assert status == 2 and file in said.splitlines()[0] and "Traceback" not in said, said


def _other_answer(whole: str) -> str:
    """One image is predicted as another label."""
    rows = list(csv.DictReader(whole.splitlines()))
    rows[0]["pred"] = next(row["pred"] for row in rows if row["pred"] != rows[0]["pred"])
    made = io.StringIO()
    writer = csv.DictWriter(made, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def _fewer_labels(whole: str) -> str:
    results = json.loads(whole)
    return json.dumps(results | {"vocab": results["vocab"][:1]})


@pytest.mark.parametrize(
    ("command", "file", "change", "says"),
    [
        ("report RUN", "predictions.csv", _other_answer, "are of two runs"),
        ("report RUN", "results.json", _fewer_labels, "confusion_matrix"),
        ("compare RUN RUN", "results.json", _fewer_labels, "confusion_matrix"),
    ],
)
def test_files_of_two_runs_are_not_told_as_one(folder, medclf, command, file, change, says):
    path = folder / "RUN" / file
    whole = path.read_text()
    path.write_text(change(whole))
    try:
        status, said = medclf(command)
    finally:
        path.write_text(whole)
    assert status == 2 and file in said and says in said, said


def test_a_finished_run_with_predictions_of_another_is_not_shown_as_whole(folder, tmp_path):
    run = Path(shutil.copytree(folder / "RUN", tmp_path / "RUN"))
    record = json.loads((run / "run.json").read_text()) | {"finished": "2026-01-01"}
    (run / "run.json").write_text(json.dumps(record))
    assert resume(run, str) == run
    (run / "predictions.csv").write_text(_other_answer((run / "predictions.csv").read_text()))
    with pytest.raises(DataError, match="are of two runs"):
        resume(run, str)


@pytest.mark.filterwarnings("ignore:the report does not show where the model looked")
@pytest.mark.parametrize("command", READS)
def test_each_command_works_on_the_whole_run(medclf, command):
    status, said = medclf(READS[command][0])
    assert status == 0, said
