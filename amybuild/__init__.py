"""amybuild: a build system for personalities."""

__version__ = "0.1.0"
