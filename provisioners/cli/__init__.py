"""The `farkernel` command."""

from farkernel.provisioners.cli.app import main

__all__ = ["main"]
