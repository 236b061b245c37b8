"""What of the server's environment a job and a kernel see."""

import pytest

from farkernel.provisioners.environment import for_gateway, for_kernel, for_submission

SECRETS = [
    "JUPYTER_TOKEN",
    "JUPYTER_PASSWORD",
    "JUPYTER_GATEWAY_AUTH_TOKEN",
    "JUPYTER_SERVER_SECRET",
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_CLIENT_ID",
    "JUPYTERHUB_USER",
    "JPY_API_TOKEN",
    "JPY_PARENT_PID",
    "CONFIGPROXY_AUTH_TOKEN",
    "OAUTH_CLIENT_SECRET",
    "OAUTH2_TOKEN_URL",
    "KG_AUTH_TOKEN",
    "EG_AUTH_TOKEN",
    "EG_REMOTE_PWD",
    "EG_WEBHOOK_PASSWORD",
]
LOGIN_NODES = ["XDG_RUNTIME_DIR", "XDG_SESSION_ID", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "SSH_AUTH_SOCK", "TMUX"]
USERS = {
    "PATH": "/usr/bin",
    "HOME": "/home/user",
    "JUPYTER_PATH": "/home/user/kernels",
    "JPY_SESSION_NAME": "/home/user/a.ipynb",
    "XDG_DATA_HOME": "/home/user/data",
    "MY_TOKEN": "the user's own",
    "SLURM_CONF": "/etc/slurm/slurm.conf",
}


@pytest.mark.parametrize("name", SECRETS)
def test_what_gives_access_to_the_server_stays_there(name: str) -> None:
    assert for_submission(USERS | {name: "x"}, {}) == USERS
    assert for_kernel({name: "x"}, {}) == {}


@pytest.mark.parametrize("name", LOGIN_NODES)
def test_what_exists_on_the_login_node_only_stays_there(name: str) -> None:
    assert for_submission(USERS | {name: "x"}, {}) == USERS


JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "1",
    "SLURMD_NODENAME": "n1",
    "SBATCH_ACCOUNT": "a",
    "SALLOC_QOS": "q",
    "PMI_RANK": "0",
    "PMIX_RANK": "0",
}


def test_a_server_that_runs_in_a_job_does_not_pass_that_on() -> None:
    assert for_submission(USERS | JOB, {}) == USERS
    assert for_submission(USERS | {"SLURM_CLUSTERS": "c"} | JOB, {}) == USERS | {"SLURM_CLUSTERS": "c"}


def test_the_users_own_defaults_of_slurm_are_passed_on() -> None:
    defaults = {"SLURM_ACCOUNT": "physics", "SBATCH_QOS": "debug", "SLURM_TIME_FORMAT": "relative"}

    assert for_submission(USERS | defaults, {}) == USERS | defaults


def test_a_kernel_gets_what_differs_from_the_servers() -> None:
    server = {"PATH": "/usr/bin", "HOME": "/home/user", "LEVEL": "1"}
    wanted = {"PATH": "/usr/bin", "HOME": "/home/user", "LEVEL": "2", "OMP_NUM_THREADS": "68"}

    assert for_kernel(wanted, server) == {"LEVEL": "2", "OMP_NUM_THREADS": "68"}


def test_a_gateways_kernel_gets_what_everybody_needs_and_no_more() -> None:
    server = {"HOME": "/home/user", "LC_ALL": "C", "SLURM_CONF": "/etc/slurm.conf", "SECRET": "x", "USER": "user"}

    env = for_gateway({"KERNEL_ANY": "a", "HOME": "/home/other"}, server)

    assert env == {
        "HOME": "/home/other",
        "KERNEL_ANY": "a",
        "LC_ALL": "C",
        "SLURM_CONF": "/etc/slurm.conf",
        "USER": "user",
    }
