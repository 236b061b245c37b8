"""What the provisioners' tests share."""

from tests.launcher.conftest import short

__all__ = ["short"]
