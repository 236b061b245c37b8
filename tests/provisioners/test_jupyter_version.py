"""Which jupyter_client is too old."""

import pytest

from farkernel.provisioners.jupyter_version import too_old


@pytest.mark.parametrize("version", [(8, 6), (8, 6, 3), (8, 10, 0), (9, 0, 0, "dev0")])
def test_what_is_new_enough(version: tuple[int | str, ...]) -> None:
    assert too_old(version, "/usr/bin/python3") is None


@pytest.mark.parametrize("version", [(6, 1, 12), (7, 4, 9), (8, 5, 0)])
def test_what_is_too_old_is_told_with_what_to_do(version: tuple[int, ...]) -> None:
    error = too_old(version, "/usr/bin/python3")

    assert error
    assert f"/usr/bin/python3 has {'.'.join(map(str, version))}." in error.what
    assert "`/usr/bin/python3 -m pip install --upgrade 'jupyter_client>=8.6'`" in error.hint
