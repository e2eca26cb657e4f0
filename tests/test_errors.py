"""Errors speak to the user of Python in arguments, to the user of the shell in options."""

import ast
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medclf.config import TrainConfig
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfError, argument, by_road, did_you_mean, in_shell, missing
from medclf.options import options
from medclf.parallel import map_ahead

PACKAGE = Path(__file__).parents[1] / "medclf"
SHELL_ALONE, SENDERS, PYTHON_ALONE = "cli/", "serving/", ("metrics/", "learn/preprocessing.py")
OF_ONE_ROAD = (SHELL_ALONE, SENDERS, *PYTHON_ALONE)


def test_an_argument_on_each_road():
    assert argument("patient_col", "who") == 'patient_col="who"' and by_road("a", "b") == "a"
    with in_shell():
        assert argument("patient_col", "who") == "--patient-col who" and by_road("a", "b") == "b"
        assert argument("overwrite", True) == "--overwrite" and argument("audit", False) == "--no-audit"
        assert argument("n_folds", 5) == "--folds 5"
    assert argument("n_folds", 5) == "n_folds=5"


def test_the_road_is_left_after_an_error():
    with pytest.raises(MedclfError), in_shell():
        raise MedclfError("stop")
    assert by_road("python", "shell") == "python"


def test_what_is_like_nothing_gets_no_suggestion():
    assert did_you_mean("xylem", ["random", "stratified"]) == ""


def test_a_wrong_column_is_named_on_the_road(tmp_path):
    (tmp_path / "list.csv").write_text("file,finding\na.png,x\n")
    with pytest.raises(DataError, match='path_col="NAME"'):
        scan(tmp_path / "list.csv")
    with in_shell(), pytest.raises(DataError, match="--path-col NAME"):
        scan(tmp_path / "list.csv")


def messages():
    """(where, text) of each text that an error or warning of the library is made with, outside of `argument`."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix().startswith(OF_ONE_ROAD):
            continue
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
            if name.endswith(("Error", "Warning", "warnings.warn")):
                yield from ((f"{path.name}:{call.lineno}", text) for text in texts(call))


def texts(node):
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("argument", "by_road"):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def test_no_message_speaks_of_one_road_alone():
    known = "|".join(options(TrainConfig))
    spoken = re.compile(rf"--[a-z][a-z-]+|(?<![\w.])(?:{known}|overwrite|max_megapixels)=")
    found = [(where, text) for where, text in messages() if spoken.search(text)]
    assert not found
    assert spoken.search("give --label-col") and spoken.search("with split='random'")


@pytest.mark.parametrize("value", ["|", "No Finding", "a;b", "$x", "it's"])
def test_what_a_shell_would_take_otherwise_is_quoted(value):
    with in_shell():
        assert shlex.split(argument("label_delim", value)) == ["--label-delim", value]


def test_threads_of_another_road_are_not_changed():
    """The road is a thread's own, and goes with the work that it gives to others."""
    with in_shell(), ThreadPoolExecutor(1) as other:
        assert other.submit(argument, "path_col").result() == "path_col"
        assert list(map_ahead(argument, ["path_col"] * 3)) == ["--path-col"] * 3


def test_a_file_where_a_folder_is_meant_is_not_called_missing(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    assert missing(tmp_path / "results.json")[0].endswith("results.json is a file, where a folder is meant")
    assert missing(tmp_path / "none")[0].endswith("none does not exist")


def test_no_option_is_named_before_the_road_is_known():
    """What is written when a module is imported is Python's road, whatever asks for it later."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        outside = [ast.parse(path.read_text(encoding="utf-8"))]
        while outside:
            node = outside.pop()
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("argument", "by_road"):
                found.append(f"{path}:{node.lineno}")
            inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            outside += [child for child in ast.iter_child_nodes(node) if not isinstance(child, inner)]
    assert not found
