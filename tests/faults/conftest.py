"""What the fault suite shares with the other tests on the cluster."""

from tests.slurm.conftest import no_directories_left, no_free_knl, pytest_pyfunc_call, runtime_directory, specs

__all__ = ["no_directories_left", "no_free_knl", "pytest_pyfunc_call", "runtime_directory", "specs"]
