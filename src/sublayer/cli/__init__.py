"""The command line, one file a verb.  Nothing here imports torch before a verb needs it, so `--help` is quick."""

from sublayer.cli.app import main

__all__ = ["main"]
