"""`python -m nightlab` is the command line."""

from nightlab.cli import main

main()
