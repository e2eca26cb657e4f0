"""The page of all commands and their options, from what `medclf --help` says of them.

python docs/write_commands.py
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import typer.main
from typer.core import TyperCommand, TyperGroup

from medclf.cli import app

PAGE = Path(__file__).parent / "commands.md"
HEAD = """# Commands and options

`medclf COMMAND -h` says the same in the terminal. In Python the option `--patient-col` is the argument `patient_col`:
see the [API](api.md). `--debug`, anywhere, shows the traceback of an error.
"""


def section(command: TyperCommand | TyperGroup, name: str) -> str:
    """A command with its options, by the panels that the terminal shows."""
    context = typer.Context(command, info_name=name)
    if isinstance(command, TyperGroup):
        return "\n".join(section(one, f"{name} {key}") for key, one in command.commands.items())
    panels: dict[str, list[str]] = defaultdict(list)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and parameter.name != "help":
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel = getattr(parameter, "rich_help_panel", None) or kind
            panels[panel].append(f"- `{record[0]}`: {record[1]}\n")
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"**{panel}**\n\n{''.join(lines)}" for panel, lines in panels.items()]
    return "\n".join([f"## {name}\n\n{command.help}\n\n```sh\n{usage}\n```\n", *parts])


def page() -> str:
    """The whole page."""
    commands = typer.main.get_group(app).commands
    return "\n".join([HEAD, *(section(command, f"medclf {name}") for name, command in commands.items())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
