"""`python -m modelfmt`."""

from modelfmt.cli import main

main()
