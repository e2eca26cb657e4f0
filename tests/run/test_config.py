"""What is wrong with the settings is said before the data are read, and before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from medclf.config import TrainConfig
from medclf.errors import MedclfError
from medclf.models.weights import package_weights
from medclf.run.config import check_early, check_machine
from medclf.run.resume import located
from medclf.run.train import train


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "gone"},
        {"labels": "gone.csv"},
        {"test": "gone"},
        {"corrections": "gone.csv"},
        {"card": "gone.yaml"},
        {"weights": "gone.pth"},
        {"window": "lugn"},
        {"window": (40, 0)},
        {"device": "gpu"},
        {"device": "cuda:first"},
    ],
)
def test_what_can_be_seen_early(tmp_path, changes):
    (given,) = changes.values()
    with pytest.raises(MedclfError) as found:
        check_early(TrainConfig(**({"data": str(tmp_path), "out": "y"} | changes)))
    assert str(given) in str(found.value)


def test_labels_may_lie_in_the_data(tmp_path):
    (tmp_path / "labels.csv").touch()
    check_early(TrainConfig(tmp_path, "y", labels="labels.csv"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "resnot34"}, "resnet34"),
        ({"device": "cuda:63"}, 'device="cpu"'),
        ({"arch": "resnet18"}, "weights=None"),
        ({"arch": "efficientnet_lite1", "weights": "LITE0"}, "does not fit"),
    ],
)
def test_what_torch_must_be_asked(changes, says, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where no weights are
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    if changes.get("weights") == "LITE0":
        changes = changes | {"weights": str(package_weights("efficientnet_lite0"))}
    with pytest.raises(MedclfError, match=says):
        check_machine(TrainConfig("x", "y", **changes))


def test_what_is_at_hand_is_not_built(monkeypatch):
    monkeypatch.setattr("medclf.models.backbones.build_body", lambda *_, **__: pytest.fail("built"))
    check_machine(TrainConfig("x", "y", arch="efficientnet_lite0"))
    check_machine(TrainConfig("x", "y", arch="resnet18", weights="none"))


MISTAKES = """\
train nowhere --out X
train . --out X --resize strech
train . --out X --window lugn
train . --out X --device gpu
train . --out X --valid-pct 20
train . --out X --splt random
train . --out .
scan . --label-co x
audit . --split stratifed
predict . x.png --runtime onx
explain . x.png --out y --method gradcam
review export . --out y.csv --pictures pages
demo --data kvasir"""

TRY_ALL = """
import sys
from medclf.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["medclf", *line.split()]
    try: main()
    except SystemExit as stop: print("status", stop.code, *{"torch", "fastai", "pandas", "timm"} & set(sys.modules))
"""


def test_an_early_mistake_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", TRY_ALL], input=MISTAKES, capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == {"status 2"}, done.stderr
    said = done.stderr.splitlines()
    n = len(MISTAKES.splitlines())
    assert sum(line.startswith("medclf: ") for line in said) == n and len(said) <= 2 * n


def test_a_mistake_leaves_the_run_that_was_to_be_overwritten(tmp_path):
    """It is seen before the old run is removed."""
    for name in ("data", "RUN"):
        (tmp_path / name).mkdir()
    (tmp_path / "RUN" / "run.json").write_text('{"settings": {}, "finished": "yes"}')
    with pytest.raises(MedclfError, match="resnot34"):
        train(TrainConfig(tmp_path / "data", tmp_path / "RUN", overwrite=True, arch="resnot34"))
    assert (tmp_path / "RUN" / "run.json").is_file()
    with pytest.raises(MedclfError, match="exists already"):
        train(TrainConfig(tmp_path / "data", tmp_path / "RUN", arch="resnot34"))


def test_labels_are_looked_for_in_the_datas_folder_too_as_scan_does(tmp_path, monkeypatch):
    """`medclf scan` and `medclf train` take the same arguments from the same place."""
    (tmp_path / "set").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set" / "labels.csv").write_text("path,label\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = TrainConfig("../set", labels="labels.csv", out="run")
    check_early(config)
    assert Path(located(config).labels).resolve() == tmp_path / "set" / "labels.csv"
    (tmp_path / "elsewhere" / "labels.csv").write_text("path,label\n")
    assert Path(located(config).labels).resolve() == tmp_path / "elsewhere" / "labels.csv"
