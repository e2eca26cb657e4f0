"""An option is declared once: a field of the settings, and the command line has it."""

import re
import signal
import subprocess
import sys
import warnings
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from medclf import cli
from medclf.cli.options import OF_SCAN, checked, with_options
from medclf.config import TrainConfig
from medclf.errors import MedclfError, MedclfWarning, OutputError, argument, in_shell
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
        (["train"], "DATA (a folder of images, or a CSV) is missing"),
        (["train", "--resume", "RUN", "--epochs", "3"], "give --resume RUN alone"),
        (["review"], "medclf review --help"),
    ],
)
def test_a_mistake_is_a_line_or_two(monkeypatch, capsys, words, says):
    text = said(monkeypatch, capsys, *words)
    assert says in text and len(text.splitlines()) <= 2


class Browser:
    """Stands in for the browser, and keeps what it was asked to open."""

    def __init__(self, opens: bool = True) -> None:
        self.opens, self.seen = opens, list[str]()

    def open(self, address: str) -> bool:
        self.seen.append(address)
        return self.opens


def trained(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[list[TrainConfig], Any]:
    """`medclf train` with a stand-in for the training: the settings it got, and what the shell said."""
    plans: list[TrainConfig] = []

    def train(plan: TrainConfig, say: Any, before: Any, **named: Any) -> Path:
        plans.append(plan)
        Path(plan.out).mkdir(parents=True, exist_ok=True)
        return Path(plan.out)

    monkeypatch.setattr("medclf.run.train.train", train)
    for unwanted in ("medclf.run.terminal.show_results", "medclf.parallel.settle_machine"):
        monkeypatch.setattr(unwanted, lambda *_: None)
    return plans, CliRunner().invoke(cli.app, ["train", *words])


def test_without_out_the_run_is_counted_up_and_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    places = []
    for place in ("runs/images-1", "runs/images-2"):
        plans, done = trained(monkeypatch, "images")
        assert done.output.splitlines() == [f"RUN: {place}"]
        places.append(Path(plans[0].out).as_posix())
    assert places == ["runs/images-1", "runs/images-2"]
    assert trained(monkeypatch, "images", "--hide-names")[0][0].out == str(Path("runs/run-1"))
    assert trained(monkeypatch, "images", "--out", "RUN")[1].output == ""
    monkeypatch.setenv("WORLD_SIZE", "2")  # each process would count for itself
    assert isinstance(trained(monkeypatch, "images")[1].exception, OutputError)


def test_open_shows_the_page_and_is_refused_where_nobody_sits(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    browser = Browser()
    monkeypatch.setattr("webbrowser.get", lambda: browser)
    monkeypatch.setattr("webbrowser.open", lambda address: browser.open(address))
    monkeypatch.delenv("CI", raising=False)
    _, done = trained(monkeypatch, "images", "--open")
    page = (tmp_path / "runs" / "images-1" / "report.html").as_uri()
    assert browser.seen == [page] and done.output.splitlines()[-1] == f"opened: {page}"
    browser.opens = False
    assert trained(monkeypatch, "images", "--open")[1].output.splitlines()[-1].startswith("the browser did not open: ")
    monkeypatch.setenv("CI", "true")
    plans, done = trained(monkeypatch, "images", "--open")
    assert not plans and "CI" in str(done.exception)
    monkeypatch.delenv("CI")
    monkeypatch.setattr("webbrowser.get", no_browser)
    plans, done = trained(monkeypatch, "images", "--open")
    assert not plans and "no browser was found" in str(done.exception)


def no_browser() -> None:
    raise webbrowser.Error("could not locate runnable browser")


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


def test_a_warning_is_shown_once_from_wherever_it_comes(monkeypatch, capsys):
    def scan(*_: Any, **__: Any) -> None:
        for line in range(2):
            warnings.warn_explicit("too few", MedclfWarning, "a.py", line)
        raise MedclfError("stop")

    monkeypatch.setattr("medclf.dataset.scan.scan", scan)
    assert said(monkeypatch, capsys, "scan", ".").count("warning: too few") == 1
    assert said(monkeypatch, capsys, "scan", ".").count("warning: too few") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict R a.png --bs 0", "--bs must be 1 or more, not 0"),
        ("predict R a.png --threshold 2", "--threshold must be 1 or less, not 2"),
        ("predict R a.png --bs x", "--bs must be a whole number, not x"),
        ("train d --lr x", "--lr must be a number, not x"),
    ],
)
def test_a_number_that_an_option_cannot_have_is_told_as_by_the_settings(words, said):
    with pytest.raises(typer.TyperException) as wrong:
        cli.app(words.split(), standalone_mode=False)
    assert cli._words(wrong.value) == [said]


def test_trainings_that_begin_at_once_take_a_folder_each_and_leave_none_after_a_mistake(tmp_path):
    """They chose the same name, and the second one stopped when it had loaded everything."""
    code = (
        "import sys; from medclf.run.resume import next_run; print(next_run('images'), flush=True); sys.stdin.read(); "
        "sys.exit(2)"
    )
    ask = {"cwd": tmp_path, "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen([sys.executable, "-c", code], **ask) for _ in range(2)]
    places = {Path(one.stdout.readline().strip()).as_posix() for one in both}
    assert places == {"runs/images-1", "runs/images-2"}
    for one in both:
        one.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_begins_with_a_hyphen_is_no_option(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    Path("-R").mkdir()
    for words, says in ((["-R"], "write ./-R for the file or folder of that name"), (["-Q"], "see medclf scan --help")):
        monkeypatch.setattr(sys, "argv", ["medclf", "scan", *words])
        with pytest.raises(SystemExit):
            cli.main()
        assert says in capsys.readouterr().err
