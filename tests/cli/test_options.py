"""An option is declared once: a field of the settings, and the command line has it."""

import re
import signal
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from medclf import cli
from medclf.cli.options import OF_SCAN, checked, with_options
from medclf.config import TrainConfig
from medclf.errors import MedclfError, argument, in_shell
from medclf.options import option, options


@dataclass(frozen=True)
class Extended(TrainConfig):
    """The settings with one option more."""

    stain: Literal["macenko", "vahadane"] | None = option(None, "Images", "normalise the stain", or_none=True)


def shell(*fields, config=Extended):
    """A command line of one command that leaves what it was called with."""
    app, called = typer.Typer(), []

    @app.command()
    @checked
    @with_options(*fields, config=config)
    def command(**given: Any) -> None:
        called.append(given)

    def run(*words):
        done = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, words)
        if isinstance(done.exception, MedclfError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return called.pop() if called else done.output

    return run


def test_a_field_more_is_an_option_more():
    run = shell("stain", "epochs")
    page = run("--help")
    assert "macenko|vahadane" in page and "normalise the stain" in page and "Images" in page
    assert run("--stain", "macenko") == {"stain": "macenko"}
    assert run() == {}
    with pytest.raises(MedclfError, match="did you mean 'macenko'"):
        run("--stain", "macenk")
    assert Extended("DATA", "RUN", stain="none") == Extended("DATA", "RUN")


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--size 224", {"size": (224,)}),
        ("--size 128,224", {"size": (128, 224)}),
        ("--window 40,400", {"window": (40.0, 400.0)}),
        ("--window lung", {"window": "lung"}),
        ("--frame 3", {"frame": 3}),
        ("--frame last", {"frame": "last"}),
        ("--weights none", {"weights": None}),
        ("--weights none.pth", {"weights": "none.pth"}),
        ("--no-cache --no-audit", {"cache": False, "audit": False}),
        ("--full-precision --hide-names", {"mixed_precision": False, "hide_names": True}),
        ("--label-col a --label-col b --subgroup sex", {"label_col": ["a", "b"], "subgroup": ["sex"]}),
        ("--label-col a --strict", {"label_col": "a", "strict": True}),
        ("--prevalence 0.01 --bs 8", {"prevalence": 0.01, "bs": 8}),
    ],
)
def test_texts_become_values(words, given):
    assert shell(*options(TrainConfig), config=TrainConfig)(*words.split()) == given


@pytest.mark.parametrize("words", ["--size 128,", "--size big", "--frame 1.5", "--split kfolds", "--resize none"])
def test_texts_that_stand_for_nothing(words):
    with pytest.raises(MedclfError, match=f"{words.split()[1]}|''"):
        shell(*options(TrainConfig), config=TrainConfig)(*words.split())


COMMANDS = ["demo", "scan", "audit", "train", "evaluate", "report", "card", "compare", "shortcuts"]
COMMANDS += ["predict", "explain", "serve", "export", "cache", "review export", "review import"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_each_command_has_short_and_long_help(command):
    pages = [CliRunner(env={"COLUMNS": "100"}).invoke(cli.app, [*command.split(), flag]) for flag in ("-h", "--help")]
    assert pages[0].exit_code == 0 and "Usage" in pages[0].output and pages[0].output == pages[1].output


def test_every_option_is_shown_in_its_group():
    page = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"}).invoke(cli.app, ["train", "--help"]).output
    panels = dict(re.findall(r"╭─ (\w+) ─+╮\n(.*?)╰", page, re.S))
    for name, known in options(TrainConfig).items():
        if name != "data":
            with in_shell():
                assert argument(name) in panels[known.option.group], name


def test_what_reads_a_table_takes_what_scan_takes():
    for command in ("scan", "audit", "train", "evaluate", "shortcuts"):
        page = CliRunner(env={"COLUMNS": "160"}).invoke(cli.app, [command, "--help"]).output
        assert all(f"--{name.replace('_', '-')}" in page for name in OF_SCAN)


def said(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["medclf", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--splt", "random"], "did you mean '--split'"),
        (["trian"], "'train'"),
        (["scan", ".", "--epochs", "3"], "--epochs"),
        (["train", ".", "--out", "RUN", "--epochs", "-1"], "--epochs must be 0 or more, not -1"),
        (["train", ".", "--out", "RUN", "--epochs", "many"], "--epochs"),
        (["train", "."], "--out (the RUN folder to make) is missing"),
        (["train", "--resume", "RUN", "--epochs", "3"], "give --resume RUN alone"),
        (["review"], "medclf review --help"),
    ],
)
def test_a_mistake_is_a_line_or_two(monkeypatch, capsys, words, says):
    text = said(monkeypatch, capsys, *words)
    assert says in text and len(text.splitlines()) <= 2


def test_the_old_name_of_an_option_is_taken(monkeypatch, capsys, tmp_path):
    text = said(monkeypatch, capsys, "train", str(tmp_path / "gone"), "--out", "RUN", "--no-head-start")
    assert "gone does not exist" in text


def test_ctrl_c_is_told(monkeypatch, capsys):
    def stop(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("medclf.dataset.scan.scan", stop)
    monkeypatch.setattr("sys.argv", ["medclf", "scan", "."])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with pytest.raises(SystemExit) as end:
        cli.main()
    signal.signal(signal.SIGINT, before)
    assert end.value.code == 130 and capsys.readouterr().err.strip() == "medclf: stopped"
