"""`python -m medclf`."""

from medclf.cli import program

program()
