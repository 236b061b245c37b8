"""The `farkernel` command."""


def main() -> None:
    """Run the `farkernel` command."""
