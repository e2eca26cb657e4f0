"""The command line as a user has it: whole runs on drawn images, and what a mistake looks like."""

import csv
import dataclasses
import gc
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from medclf.cli import app, main
from medclf.config import TrainConfig
from medclf.demo_images import draw_endoscopy
from medclf.errors import OutputError
from medclf.files import write_json

pytestmark = pytest.mark.slow


SETTINGS = "--modality endoscopy --arch efficientnet_lite0 --epochs 1 --size 64 --split stratified".split()


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def drawn(room):
    return draw_endoscopy(room / "drawn", n_per_class=10, size=(96, 96))


@pytest.fixture(scope="module")
def process(room):
    """Run the command line as the shell does; gives (exit status, stdout, stderr)."""

    def call(*arguments):
        command = [sys.executable, "-m", "medclf", *map(str, arguments)]
        env = {**os.environ, "MEDCLF_CACHE": str(room / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=room, timeout=300)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def medclf(room):
    """The same in this process, which has torch imported already."""

    def call(*arguments):
        out, error, threshold = io.StringIO(), io.StringIO(), gc.get_threshold()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
            patch.chdir(room)
            patch.setenv("MEDCLF_CACHE", str(room / "cache"))
            patch.setattr(sys, "argv", ["medclf", *map(str, arguments)])
            patch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` puts its own there
            for settled in ("settle_threads", "keep_memory"):
                patch.setattr(f"medclf.parallel.{settled}", lambda: None)
            with pytest.raises(SystemExit) as ended:
                main()
        gc.set_threshold(*threshold)
        gc.unfreeze()
        return ended.value.code or 0, out.getvalue(), error.getvalue()

    return call


@pytest.fixture(scope="module")
def run(process, drawn, room):
    whole = sorted((drawn / "polyp").glob("*.jpg"))[0].read_bytes()
    (drawn / "polyp" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (drawn / "normal" / "text.png").write_text("no picture")
    shutil.copy(get_testdata_file("rtplan.dcm"), drawn / "inflamed" / "plan.dcm")  # a DICOM file without pixels
    status, out, error = process("train", drawn, "--out", room / "RUN", *SETTINGS)
    assert status == 0, error
    return room / "RUN", out, error


def test_a_run_holds_everything(run):
    folder, _, _ = run
    assert {p.name for p in folder.iterdir()} >= {
        "run.json",
        "table.csv",
        "predictions.csv",
        "results.json",
        "report.html",
        "bundle",
    }
    facts = json.loads((folder / "results.json").read_text())
    assert {"accuracy", "balanced_accuracy", "auroc", "mcc", "per_class", "confusion_matrix", "vocab"} <= set(facts)
    assert set(facts["accuracy"]) >= {"value", "low", "high", "n"}
    assert facts["vocab"] == ["dyed", "inflamed", "normal", "polyp"]
    assert np.array(facts["confusion_matrix"]).sum() == facts["n"] == 8
    assert len(facts["training"]["history"]) == 1 and facts["training"]["linear_probe"]["n_train"] == 32
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["seed"] == 42 and len(record["table_sha256"]) == 64 and "torch" in record["versions"]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert {"path", "partition", "label", "pred", "prob_polyp"} <= set(predictions) and len(predictions) == 8


def test_files_that_cannot_be_read_are_named_and_the_run_goes_on(run):
    folder, _, error = run
    page = (folder / "report.html").read_text()
    assert all(name in page for name in ("broken.jpg", "text.png", "plan.dcm"))
    problems = pd.read_csv(folder / "table.csv").set_index("path")["problem"].dropna()
    assert set(problems.index) == {"polyp/broken.jpg", "normal/text.png", "inflamed/plan.dcm"}
    assert "truncated" in problems["polyp/broken.jpg"] and "not an image" in problems["normal/text.png"]
    assert "pixel" in problems["inflamed/plan.dcm"]
    assert all(name in error for name in ("broken.jpg", "text.png", "plan.dcm")) and "Traceback" not in error
    facts = json.loads((folder / "results.json").read_text())
    assert {p["path"] for p in facts["data"]["problems"]} == set(problems.index)


def test_predict_equals_the_run(run, medclf, drawn):
    folder, *_ = run
    wanted = pd.read_csv(folder / "predictions.csv").set_index("path")
    files = [drawn / p for p in wanted.index]
    status, out, _ = medclf("predict", folder, *files, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and len(rows) == len(files)
    for path, row in zip(wanted.index, rows, strict=True):
        assert row["label"] == wanted.loc[path, "pred"]
        for label in ("dyed", "inflamed", "normal", "polyp"):
            assert abs(float(row[f"prob_{label}"]) - wanted.loc[path, f"prob_{label}"]) < 1e-4
    status, out, _ = medclf("predict", folder, files[0], drawn / "normal" / "text.png", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert answers[0]["label"] and "not an image" in answers[1]["problem"]


def test_evaluate_and_report(run, medclf, drawn):
    folder, *_ = run
    status, _, error = medclf("evaluate", folder, "--data", drawn)
    assert status == 0, error
    facts = json.loads((folder / "evaluations" / "drawn" / "results.json").read_text())
    assert facts["n"] == 40 and facts["partition"] == "test"
    status, _, error = medclf("report", folder, "--out", folder / "again.html", "--hide-names")
    assert status == 0, error
    assert "polyp/" not in (folder / "again.html").read_text()
    status, _, error = medclf("report", folder, "--out", folder / "small.html", "--no-pictures", "--max-megabytes", 2)
    assert status == 0 and "data:image/jpeg" not in (folder / "small.html").read_text(), error


def test_a_second_read_goes_out_and_comes_back(run, medclf, room):
    folder, *_ = run
    status, out, error = medclf("review", "export", folder, "--out", "sheet.csv", "--images", 6, "--controls", 0.5)
    assert status == 0, error
    assert (room / "sheet.html").is_file() and "not for the reader" in out
    (key,) = (folder / "review").glob("key-*.csv")
    labels = pd.read_csv(key).set_index("item")["label"]
    sheet = pd.read_csv(room / "sheet.csv").set_index("item")
    sheet.assign(label=labels).to_csv(room / "sheet.csv")
    status, out, error = medclf("review", "import", folder, "sheet.csv")
    assert status == 0, error
    assert "Cohen's kappa of reader and label: 1.000" in out and "--corrections" in out
    (room / "sheet.csv").write_text("item,label\n000000-001,polyp\n")
    status, _, error = medclf("review", "import", folder, "sheet.csv")
    assert status == 2 and "no key holds its items" in error and "Traceback" not in error


def test_corrections_that_are_not_there_are_seen_before_anything_is_loaded(medclf, drawn, room):
    status, _, error = medclf("train", drawn, "--out", room / "NO", "--corrections", "nowhere.csv")
    assert status == 2 and "nowhere.csv" in error and not (room / "NO").exists()


def test_multi_label_to_the_report(medclf, drawn, room):
    paths = sorted(p.relative_to(drawn).as_posix() for p in drawn.rglob("*.jpg") if "broken" not in p.name)
    findings = {"polyp": "red|spot", "inflamed": "red", "dyed": "blue", "normal": "none"}
    cells = [findings[p.partition("/")[0]] for p in paths]
    pd.DataFrame({"file": paths, "finding": cells}).to_csv(room / "labels.csv", index=False)
    status, _, error = medclf(
        "train",
        drawn,
        "--labels",
        room / "labels.csv",
        "--path-col",
        "file",
        "--label-col",
        "finding",
        "--label-delim",
        "|",
        "--arch",
        "efficientnet_lite0",
        "--epochs",
        0,
        "--size",
        64,
        "--out",
        room / "MULTI",
    )
    assert status == 0, error
    facts = json.loads((room / "MULTI" / "results.json").read_text())
    assert facts["task"] == "multi-label" and set(facts["confusion_matrix"]) == {"blue", "none", "red", "spot"}
    assert all(0 <= row["auroc"]["low"] <= row["auroc"]["value"] <= 1 for row in facts["per_class"].values())


def test_cross_validation_predicts_every_image_once(medclf, drawn, room):
    status, _, error = medclf(
        "train",
        drawn,
        "--split",
        "kfold",
        "--folds",
        3,
        "--arch",
        "efficientnet_lite0",
        "--epochs",
        0,
        "--size",
        64,
        "--out",
        room / "FOLDS",
    )
    assert status == 0, error
    predictions = pd.read_csv(room / "FOLDS" / "predictions.csv")
    assert len(predictions) == 40 == predictions["path"].nunique() and set(predictions["fold"]) == {0, 1, 2}
    assert len(json.loads((room / "FOLDS" / "results.json").read_text())["folds"]) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "nowhere", "--out", "X"), "nowhere"),
        (("train", "drawn", "--out", "X", "--arch", "resnot34"), "resnot34"),
        (("train", "drawn", "--out", "X", "--modality", "colonoscopy"), "endoscopy"),
        (("train", "drawn", "--out", "X", "--valid-pct", "1.5"), "valid-pct"),
        (("train", "drawn", "--out", "RUN"), "--overwrite"),
        (("train", "drawn", "--out", "X", "--weights", "missing.pth", "--arch", "resnet18"), "missing.pth"),
        (("predict", "drawn", "drawn"), "drawn"),
        (("evaluate", "nowhere", "--data", "drawn"), "nowhere"),
        (("scan", "drawn", "--labels", "none.csv"), "none.csv"),
        (("predict", "RUN", ""), "FILES is an empty path"),
        (("report", "RUN", "--out", ""), "--out is an empty path"),
        (("report", "RUN", "--out", "x.html", "--max-megabytes", "inf"), "max-megabytes"),
        (("predict", "RUN", "drawn", "--csv", "--json"), "--json"),
        (("serve", "RUN", "--max-mb", "nan"), "--max-mb must be above 0"),
        (("serve", "RUN", "--max-mb", "-1"), "--max-mb must be above 0"),
        (("serve", "RUN", "--port", "0", "--token", ""), "token"),
        (("serve", "RUN", "--watch", "x", "--no-watch"), "--no-watch"),
        (("serve", "RUN", "--watch", "RUN/table.csv/w"), "none with --no-watch"),
        (("shortcuts", "RUN", "--box", "nan,0,1,1"), "--box must be 4 numbers"),
        (("cache", "--clear", "--older-than", "3"), "give one of them"),
        (("review", "export", "RUN", "--out", "x.csv", "--controls", "2"), "--controls must be from 0"),
        (("scan", "drawn", "--out", "RUN/table.csv"), "RUN/table.csv exists already"),
        (("encoders", "drawn", "--out", "RUN/table.csv"), "RUN/table.csv exists already"),
        (("evaluate", "RUN", "--data", "drawn", "--out", "RUN", "--overwrite"), "something else than an evaluation"),
        (("evaluate", "RUN", "--data", "drawn", "--out", "drawn", "--overwrite"), "something else than an evaluation"),
    ],
)
def test_a_mistake_is_a_line_or_two_and_status_2(run, medclf, arguments, says):
    status, _, error = medclf(*arguments)
    complaint = [line for line in error.splitlines() if line and not line.startswith("warning")]
    assert status == 2 and says in error and "Traceback" not in error
    assert 1 <= len(complaint) <= 2, error


def test_debug_shows_the_traceback(process):
    assert "Traceback" in process("train", "nowhere", "--out", "X", "--debug")[2]


def test_help_and_import_are_quick(process):
    times = []
    for _ in range(3):
        start = time.process_time(), time.perf_counter()
        assert process("--help")[0] == 0
        times.append(time.perf_counter() - start[1])
    heavy = ("torch", "fastai", "matplotlib", "pandas")
    loaded = f"import sys, medclf, medclf.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    light = "import sys; had = {*sys.modules}; import medclf; print({'tempfile', 'lzma'} & {*sys.modules} - had)"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"  # importlib.abc would load them
    assert min(times) < 2  # 0.5 s on a quiet machine: benchmarks/startup.py prints it


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_an_answer_that_cannot_be_written_is_said():
    """What a command printed lies in a buffer until it leaves."""
    code = (
        "import sys; from medclf import cli\n"
        "cli.app = lambda *a, **k: (sys.stdout.write('answer'), sys.exit(0))\n"
        "sys.argv = ['medclf']; cli.main()"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode and "No space left on device" in done.stderr.splitlines()[0]


@pytest.mark.skipif(os.name == "nt", reason="a shell's way to close streams")
@pytest.mark.parametrize(("closed", "status"), [("--version >&-", 0), ("scan nowhere <&- >&- 2>&-", 2)])
def test_closed_streams_are_no_mistake(closed, status):
    command = f"{shlex.quote(sys.executable)} -m medclf {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


def test_names_that_the_output_cannot_encode_are_written_as_codes():
    code = (
        "import sys; from medclf import cli\n"
        "cli.app = lambda *a, **k: (print('\\N{GREEK SMALL LETTER ALPHA}.png: polyp'), sys.exit(0))\n"
        "sys.argv = ['medclf']; cli.main()"
    )
    options = {"capture_output": True, "text": True, "check": False, "env": os.environ | {"PYTHONIOENCODING": "ascii"}}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert (done.returncode, done.stdout) == (0, "\\u03b1.png: polyp\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems hold names to be valid text")
def test_a_name_that_is_not_valid_text_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"r\xfcn")
    with pytest.raises(OutputError, match="is not valid UTF-8") as refused:
        write_json(tmp_path / "run.json", {"seed": 1, "out": str(folder)})
    assert refused.value.remedy == "rename what is called so" and not list(tmp_path.iterdir())


def test_what_the_shell_is_given_becomes_the_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("DATA").mkdir()
    plans = []
    monkeypatch.setattr("medclf.run.train.train", lambda plan, say, before, **_: plans.append(plan))
    for unwanted in ("medclf.run.terminal.show_results", "medclf.parallel.settle_machine"):
        monkeypatch.setattr(unwanted, lambda *_: None)

    def plan(*options):
        done = CliRunner().invoke(app, ["train", *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return plans.pop()

    assert plan("DATA", "--out", "RUN") == TrainConfig("DATA", "RUN")
    first = TrainConfig("DATA", "RUN", size=(96, 128), weights=None, window=(40.0, 400.0), label_col=["a", "b"])
    words = "--size 96,128 --weights none --window 40,400 --label-col a --label-col b".split()
    assert plan("DATA", "--out", "RUN", *words) == first
    Path("run.json").write_text(json.dumps({"settings": first.as_dict()}))
    again = plan("--config", "run.json", "--out", "RUN2", "--size", "64", "--split", "kfold")
    assert again == dataclasses.replace(first, out="RUN2", size=64, first_sizes=(), split="kfold")
