"""Which of the server's environment variables go where."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

# What belongs to the notebook server alone: tokens that give access to it and to its hub. What names a kernel's
# notebook (JPY_SESSION_NAME) is no secret, and IPython shows it as `__session__`.
_SERVERS_OWN = re.compile(
    r"""JUPYTERHUB_.* | JUPYTER_(TOKEN|GATEWAY_.*|.*(TOKEN|PASSWORD|SECRET).*) | JPY_(?!SESSION_NAME$).*
    | CONFIGPROXY_AUTH_TOKEN | OAUTH2?_.* | KG_.*(TOKEN|PASSWORD).* | EG_.*(TOKEN|PASSWORD|PWD).*""",
    re.VERBOSE,
)

# What names something that exists on the login node only.
_LOGIN_NODES_OWN = re.compile(
    r"""XDG_RUNTIME_DIR | XDG_SESSION_.* | XDG_SEAT | XDG_VTNR | DBUS_SESSION_BUS_ADDRESS | DISPLAY | XAUTHORITY
    | WAYLAND_DISPLAY | SSH_.* | TMUX.* | STY | INVOCATION_ID | JOURNAL_STREAM | NOTIFY_SOCKET | LISTEN_.*
    | WINDOWID""",
    re.VERBOSE,
)

# What Slurm set for the job that the server itself runs in: srun would make a step of *that* job.
_ANOTHER_JOBS = re.compile(r"(SLURM|SLURMD|SRUN|SBATCH|SALLOC|PMI|PMI2|PMIX)_.*")
_KEPT_OF_ANOTHER_JOB = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})


# What Shifter and its plugin of Slurm have set for another job or container, or take for options: it would beat this
# job's image, or add its volumes.
_ANOTHER_CONTAINERS = re.compile(r"SHIFTER_.* | SLURM_SPANK_.* | _SLURM_SPANK_OPTION_.*", re.VERBOSE)

# What chose something for one start (`per_launch`): a kernel that is started from this one is another one.
_CHOICES = re.compile(r"KERNEL_(SLURM|CONTAINER|JOB|LAUNCHER|KERNEL)_.*")

# What changes any program, or any Python: the kernelspec's are for the kernel, and not for srun and the launcher.
_EVERY_PROGRAMS = re.compile(r"LD_.* | PYTHON.*", re.VERBOSE)

# What Slurm's commands and about every program look for.
_EVERYBODYS = re.compile(r"HOME | LANG | LC_.* | LOGNAME | SHELL | SLURM_CONF | TZ | USER", re.VERBOSE)


def for_gateway(env: Mapping[str, str], server: Mapping[str, str]) -> dict[str, str]:
    """Complete what a gateway wants a kernel to have: often no more than what its client has sent.

    :param server: the gateway's own environment; the rest of it is not for kernels
    """
    return {**{name: value for name, value in server.items() if _EVERYBODYS.fullmatch(name)}, **env}


def for_submission(env: Mapping[str, str], server: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that srun is started with, and that it gives to the job (srun(1), --export).

    :param env: what Jupyter wants the kernel to have: the server's, the kernelspec's and the session's variables
    :param server: the server's own environment
    """
    mixed = {
        **{name: value for name, value in env.items() if not _EVERY_PROGRAMS.fullmatch(name)},
        # and PATH, on which srun, the launcher and an image's runtime are found
        **{name: value for name, value in server.items() if name == "PATH" or _EVERY_PROGRAMS.fullmatch(name)},
    }
    return _fit_for_a_job(mixed)


def _fit_for_a_job(env: Mapping[str, str]) -> dict[str, str]:
    inside_a_job = "SLURM_JOB_ID" in env or "SLURM_JOBID" in env
    return {
        name: value
        for name, value in env.items()
        if not _SERVERS_OWN.fullmatch(name)
        and not _LOGIN_NODES_OWN.fullmatch(name)
        and not _ANOTHER_CONTAINERS.fullmatch(name)
        and not _CHOICES.fullmatch(name)
        and not (inside_a_job and name not in _KEPT_OF_ANOTHER_JOB and _ANOTHER_JOBS.fullmatch(name))
    }


def for_kernel(env: Mapping[str, str], server: Mapping[str, str], named: Collection[str] = ()) -> dict[str, str]:
    """Return what a kernel has on top of its job's environment. The arguments are those of `for_submission`.

    :param named: the variables of the kernelspec: in an image they may differ from the job's even so
    """
    wanted = _fit_for_a_job(env)
    return {name: value for name, value in wanted.items() if name in named or server.get(name) != value}
