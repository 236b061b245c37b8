"""What srun of Slurm 22.05 said when it refused a job, and what the user is told."""

import pytest

from farkernel.provisioners.errors import SubmissionRefused
from farkernel.provisioners.refusals import explain_refusal

UNABLE = "srun: error: Unable to allocate resources: "
POLICY = UNABLE + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"
VERBOSE = """\
srun: defined options
srun: -------------------- --------------------
srun: constraint          : knl
srun: kill-on-bad-exit    : 0
srun: time                : 00:05:00
srun: verbose             : 1
srun: -------------------- --------------------
srun: end of defined options
"""


def refusal(stderr: str, returncode: int = 1) -> SubmissionRefused:
    return explain_refusal(stderr, returncode, kernel="Cori KNL")


@pytest.mark.parametrize(
    ("stderr", "key"),
    [
        (
            f"srun: error: invalid partition specified: X\n{UNABLE}Invalid partition name specified\n",
            "slurm.partition",
        ),
        (UNABLE + "User's group not permitted to use this partition\n", "slurm.partition"),
        (UNABLE + "Invalid account or account/partition combination specified\n", "slurm.account"),
        (UNABLE + "Invalid qos specification\n", "slurm.qos"),
        (UNABLE + "Invalid feature specification\n", "slurm.constraint"),
        (UNABLE + "Requested node configuration is not available\n", "slurm.constraint"),
        (
            "srun: error: Memory specification can not be satisfied\n"
            + UNABLE
            + "Requested node configuration is not available\n",
            "slurm.mem",
        ),
        (
            "srun: error: CPU count per node can not be satisfied\n"
            + UNABLE
            + "Requested node configuration is not available\n",
            "slurm.cpus_per_task",
        ),
        (UNABLE + "More processors requested than permitted\n", "slurm.cpus_per_task"),
        (
            UNABLE + "Requested time limit is invalid (missing or exceeds some limit)\n",
            "slurm.time",
        ),
        (UNABLE + "Node count specification invalid\n", "slurm.nodes"),
        ('srun: error: "abc" is not a valid node count\n', "slurm.nodes"),
        ("srun: error: Invalid generic resource (gres) specification\n", "slurm.gres"),
        (UNABLE + "Invalid license specification\n", "slurm.licenses"),
        (UNABLE + "Requested reservation is invalid\n", "slurm.reservation"),
        (UNABLE + "Burst Buffer request invalid\n", "slurm.burst_buffer"),
        ("srun: error: Invalid --bbf specification\n", "slurm.burst_buffer"),
        (UNABLE + "Invalid node name specified\n", "slurm.extra_args"),
        ("srun: error: Invalid --time specification\n", "slurm.time"),
        ("srun: error: Invalid --mem specification\n", "slurm.mem"),
        (
            "Invalid time specification (pos=0): xxx\nsrun: error: Invalid --begin specification\n",
            "--begin",
        ),
        (
            "srun: unrecognized option '--nosuch'\nTry \"srun --help\" for more information\n",
            "--nosuch",
        ),
        ("srun: invalid option -- 'y'\n", "the option y "),
        ("srun: option '--ex=1' is ambiguous; possibilities: '--exact' '--exclude'\n", "the option --ex=1 "),
        ("srun: fatal: No command given to execute.\n", "slurm.extra_args"),
        (
            "srun: Requested partition configuration not available now\nsrun: job 3 queued and waiting for resources\n",
            "slurm.time",
        ),
        (
            f"srun: Partition in DOWN state\nsrun: job 15 queued and waiting for resources\n"
            f"{UNABLE}Requested nodes are busy\n",
            "slurm.extra_args",
        ),
        ("srun: error: QOSMaxSubmitJobPerUserLimit\n" + POLICY, "queued and running jobs (slurm.qos)"),
        (
            "srun: error: QOSMaxWallDurationPerJobLimit\n" + POLICY,
            "QOS sets on time (slurm.qos, slurm.time)",
        ),
        ("srun: error: QOSMaxNodePerUserLimit\n" + POLICY, "slurm.qos, slurm.nodes"),
        ("srun: error: QOSMinCpuNotSatisfied\n" + POLICY, "below the least"),
        ("srun: error: AssocGrpCPUMinutesLimit\n" + POLICY, "account sets on used time (slurm.account)"),
        ("srun: error: AssocMaxSubmitJobLimit\n" + POLICY, "slurm.account"),
        (POLICY, "slurm.qos"),
        (UNABLE + "Unable to contact slurm controller (connect failure)\n", "controller does not answer"),
        (UNABLE + "Protocol authentication error\n", "authentication"),
        (
            'srun: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"\n',
            "authentication",
        ),
        (
            "srun: Job has been cancelled\n" + UNABLE + "Job/step already completing or completed\n",
            "cancelled while it waited",
        ),
    ],
)
def test_each_refusal_names_the_kernel_and_what_to_change(stderr: str, key: str) -> None:
    error = refusal(stderr)
    assert error.what.startswith("Slurm refused the job of kernel Cori KNL: ")
    assert key in error.what
    assert error.what.endswith(".")
    assert error.hint.endswith(".")
    assert error.said
    assert "srun: " not in error.said


def test_the_sites_own_words_are_kept() -> None:
    error = refusal(
        VERBOSE
        + "srun: error: No hardware architecture specified (-C)!\n"
        + "srun: error: Job request does not match any supported policy.\n"
        + UNABLE
        + "Unspecified error\n"
    )
    assert "site's own rules" in error.what
    assert error.said.splitlines() == [
        "No hardware architecture specified (-C)!",
        "Job request does not match any supported policy.",
        "Unable to allocate resources: Unspecified error",
    ]


def test_the_sites_own_words_are_known_where_no_job_was_submitted() -> None:
    error = refusal("srun: error: No hardware architecture specified (-C)!\nallocation failure: Unspecified error\n")
    assert "site's own rules" in error.what


def test_a_plugins_words_are_not_taken_for_slurms() -> None:
    error = refusal(f"srun: error: Renew your authentication first\n{UNABLE}Unspecified error\n")
    assert "site's own rules" in error.what


def test_the_noise_of_verbose_is_no_explanation() -> None:
    error = refusal(VERBOSE + "srun: job 3 queued and waiting for resources\n", 7)
    assert error.said == ""
    assert "code 7" in error.what


def test_unknown_words_are_passed_on() -> None:
    error = refusal(VERBOSE + "srun: error: shifter: no such image: docker:nersc/nope:1\n")
    assert error.said == "shifter: no such image: docker:nersc/nope:1"
    assert "Cori KNL" in error.what
    assert error.hint


def test_the_whole_text() -> None:
    assert str(refusal(UNABLE + "Invalid feature specification\n")) == (
        "Slurm refused the job of kernel Cori KNL: no node has the features it asks for (slurm.constraint).\n"
        "Unable to allocate resources: Invalid feature specification\n"
        "`sinfo -o '%P %f'` lists the features of each partition; correct slurm.constraint."
    )
