"""``python -m amybuild``."""

from amybuild.cli import run

run()
