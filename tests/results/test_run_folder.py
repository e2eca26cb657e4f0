"""What a folder is that is given as a RUN."""

import json
import shlex

import pytest

from medclf.dataset.scan import scan
from medclf.errors import DataError, ReadError, in_shell
from medclf.results.run_folder import RunFolder, save_table


@pytest.mark.parametrize("name", ["bundle.json", "detector.json"])
@pytest.mark.parametrize("asked", ["results", "record", "table", "settings", "hide_names"])
def test_a_bundle_that_is_given_as_a_run_is_called_one(tmp_path, name, asked):
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=f"{tmp_path} is a bundle, and has no ") as error:
        getattr(RunFolder(tmp_path), asked)
    assert error.value.remedy.startswith("give the RUN folder; ")


@pytest.mark.parametrize("asked", ["results", "record", "table", "hide_names"])
def test_a_folder_that_is_neither_run_nor_bundle(tmp_path, asked):
    with pytest.raises(DataError, match="is not a RUN folder"):
        getattr(RunFolder(tmp_path), asked)


@pytest.mark.parametrize("given", [None, ["RUN"], 3])
def test_what_is_no_path_is_no_run_folder(given):
    with pytest.raises(DataError, match=f"given by its path, and this is a {type(given).__name__}"):
        RunFolder(given)


def test_a_training_that_was_stopped_is_gone_on_with(tmp_path):
    (tmp_path / "run.json").write_text('{"settings": {"data": "d", "out": "o"}}')
    with pytest.raises(DataError, match="was not finished") as error:
        _ = RunFolder(tmp_path).results
    assert "resume(" in error.value.remedy


def test_commands_to_go_on_with_hold_where_a_path_has_blanks(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    (run / "run.json").write_text('{"settings": {"data": "d", "out": "o"}}')
    with in_shell(), pytest.raises(DataError) as error:
        _ = RunFolder(run).results
    assert shlex.split(error.value.remedy.partition(": ")[2]) == ["medclf", "train", "--resume", str(run)]


def test_no_picture_of_a_file_that_has_changed_stands_beside_what_was_said_of_it(make_images, tmp_path):
    images = make_images("a.png", "b.png", root=tmp_path / "images")
    run = tmp_path / "RUN"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"root": str(images)}))
    (run / "results.json").write_text(json.dumps({"vocab": ["x", "y"], "task": "single-label", "n": 2}))
    save_table(run / "table.csv", scan(images, label_from=None, progress=False))
    (images / "b.png").write_bytes((images / "a.png").read_bytes())
    read = RunFolder(run).reader()
    assert read({"path": "a.png"}).shape == (6, 8)
    with pytest.raises(ReadError, match=r"b\.png: the file has changed since the run"):
        read({"path": "b.png"})
    (images / "b.png").unlink()
    with pytest.raises(ReadError, match=r"b\.png: (?!the file has changed)"):
        read({"path": "b.png"})
