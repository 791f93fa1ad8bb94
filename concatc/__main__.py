"""``python -m concatc``."""

from concatc.cli import main

main()
