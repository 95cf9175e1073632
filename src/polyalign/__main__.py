"""Entry point of ``python -m polyalign``."""

from polyalign.cli import main

main()
