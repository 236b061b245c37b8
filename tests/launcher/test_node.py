"""What the launcher knows of its node."""

import socket

import pytest

from farkernel.launcher import node

# What srun of Slurm 22.05 sets for a step of one task; the values are shortened.
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_SRUN_COMM_PORT": "36000",
    "SLURM_NTASKS": "1",
    "SLURM_NPROCS": "1",
    "SLURM_TASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_GTIDS": "0",
    "SLURM_TASK_PID": "1234",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_CPU_BIND_LIST": "0x1",
    "SLURM_OVERLAP": "1",
    "SLURM_DISTRIBUTION": "cyclic",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    "SLURM_UMASK": "0022",
    "SLURM_PRIO_PROCESS": "0",
    "SLURM_TOPOLOGY_ADDR": "n1",
    "SLURMD_NODENAME": "n1",
    "SRUN_DEBUG": "3",
    "PMI_RANK": "0",
    "PMIX_RANK": "0",
}
JOB = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOBID": "12",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_JOB_ACCOUNT": "physics",
    "SLURM_JOB_CPUS_PER_NODE": "4",
    "SLURM_CPUS_ON_NODE": "4",
    "SLURM_CLUSTER_NAME": "cluster",
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "CUDA_VISIBLE_DEVICES": "0",
}
OTHERS = {"PATH": "/usr/bin", "HOME": "/home/user", "MY_SLURM_NTASKS": "3", "OMP_NUM_THREADS": "4"}


def test_a_kernel_does_not_look_like_the_launchers_step() -> None:
    assert node.without_step(STEP | JOB | OTHERS) == JOB | OTHERS


def test_an_interface_has_an_address() -> None:
    assert node.interface_addresses("lo") == ["127.0.0.1"]


def test_an_address_stays_what_it_is() -> None:
    assert node.interface_addresses("10.1.2.3") == ["10.1.2.3"]
    assert node.interface_addresses("fd00::1") == ["fd00::1"]


def test_an_interface_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(OSError, match=r"no address on network interface 'nosuch0'; there are .*lo"):
        node.interface_addresses("nosuch0")


def test_no_address_of_the_node_leads_back_to_oneself() -> None:
    found = node.names_and_addresses("node1")

    assert found[0] == "node1"
    assert socket.gethostname() in found
    assert len(set(found)) == len(found)
    assert not any(address.startswith("127.") for address in found)
    assert set(node.addresses()) < set(found)


def test_where_outgoing_connections_get_their_ports() -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())

        assert 1024 <= node.ephemeral_floor() <= client.getsockname()[1]


def test_memory_kills_are_a_number() -> None:
    assert node.out_of_memory_kills() >= 0
