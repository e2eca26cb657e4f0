"""`python -m medclf`."""

from medclf.cli import main

main()
