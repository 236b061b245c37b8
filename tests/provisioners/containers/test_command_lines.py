"""What podman-hpc, Charliecloud and Apptainer are given. What the first two do with it: tests/slurm."""

import pytest

from farkernel.provisioners.containers.base import Container, Inside, NoContainer
from farkernel.provisioners.containers.registry import container_of, runtime_names
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.request import parse_request


def container(**keys: object) -> Container:
    return container_of(parse_request({"container": keys}, source="kernel.json"), source="kernel.json")


def inside(cwd: str = "/home/alice", directory: str = "/tmp", **env: str) -> Inside:
    return Inside(argv=["python3", "{connection_file}"], env=env, home="/home/alice", cwd=[cwd], directory=directory)


def complaint(**keys: object) -> str:
    with pytest.raises(RequestError) as caught:
        container(**keys)
    return str(caught.value)


def test_farkernels_own_runtimes_are_found() -> None:
    assert {"none", "shifter", "podman-hpc", "charliecloud", "apptainer"} <= set(runtime_names())


def test_a_runtime_that_does_not_exist() -> None:
    said = complaint(runtime="docker", image="x")
    assert said.startswith(
        'kernel.json: container.runtime: there is no container runtime "docker"; there are apptainer'
    )


def test_no_runtime_runs_the_command_as_it_is() -> None:
    command = container().command(inside(A="b"))
    assert isinstance(container(), NoContainer)
    assert (command.argv, command.env, command.files) == (["python3", "{connection_file}"], {"A": "b"}, {})
    assert "container.image" in complaint(image="x")


@pytest.mark.parametrize("runtime", ["shifter", "podman-hpc", "charliecloud", "apptainer"])
def test_an_image_is_needed(runtime: str) -> None:
    assert "container.image" in complaint(runtime=runtime)


@pytest.mark.parametrize("runtime", ["podman-hpc", "charliecloud", "apptainer"])
def test_what_only_shifter_knows(runtime: str) -> None:
    assert "container.spank" in complaint(runtime=runtime, image="x", spank="long")


@pytest.mark.parametrize("runtime", ["charliecloud", "apptainer"])
def test_what_has_no_modules(runtime: str) -> None:
    assert "container.modules" in complaint(runtime=runtime, image="x", modules=["mpich"])


@pytest.mark.parametrize("runtime", ["shifter", "podman-hpc", "charliecloud", "apptainer"])
def test_no_value_of_a_variable_is_in_a_command_line(runtime: str) -> None:
    command = container(runtime=runtime, image="x", env={"B": "s3cret"}).command(inside(A="s3cret", LINES="s3cret\n2"))
    assert "s3cret" not in " ".join([*command.argv, *command.cleanup])


@pytest.mark.parametrize("directory", ["/scratch", "/local/alice"])
@pytest.mark.parametrize("runtime", ["podman-hpc", "charliecloud", "apptainer"])
def test_the_launchers_directory_is_seen(runtime: str, directory: str) -> None:
    argv = container(runtime=runtime, image="x").command(inside(directory=directory)).argv
    assert {f"--volume={directory}:{directory}", f"--bind={directory}:{directory}"} & set(argv)


def test_podman_mounts_the_notebooks_directory_where_it_would_not_be_seen() -> None:
    podman = container(runtime="podman-hpc", image="x", volumes=["/global/a:/global/a", "/b:/c:ro"])
    mounted = "--volume={kernel_cwd}:{kernel_cwd}"  # the one that the node has
    for unseen in ("/scratch/n", "/opt/x/y", "/var/tmp/x", "/run/user/1000/x"):
        assert {mounted, "--workdir={kernel_cwd}"} <= set(podman.command(inside(unseen)).argv)
    for seen in ("/home/alice/n", "/tmp/n", "/global/a/n"):
        argv = podman.command(inside(seen)).argv
        assert mounted not in argv
        assert "--workdir={kernel_cwd}" in argv
    assert "--volume=/b:/c:ro" in podman.command(inside()).argv


@pytest.mark.parametrize(
    "cwd", ["/", "/usr", "/usr/local/lib/x", "/etc", "/lib64", "/opt", "/opt/conda", "/var/tmp", "/dev/shm/x", "/n:m"]
)
def test_podman_starts_at_home_where_the_notebooks_directory_cannot_be_mounted(cwd: str) -> None:
    argv = container(runtime="podman-hpc", image="x").command(inside(cwd)).argv
    assert not {"--volume={kernel_cwd}:{kernel_cwd}", f"--volume={cwd}:{cwd}"} & set(argv)
    assert "--workdir=/home/alice" in argv
    podman = container(runtime="podman-hpc", image="x", workdir="/w")
    assert "--workdir=/w" in podman.command(inside(cwd)).argv


def test_charliecloud_starts_at_home_where_the_notebooks_directory_is_not_seen() -> None:
    charliecloud = container(runtime="charliecloud", image="x")
    assert "--cd={kernel_cwd}" in charliecloud.command(inside("/home/alice/n")).argv
    assert "--cd=/home/alice" in charliecloud.command(inside("/scratch/n")).argv
    assert "flags" in complaint(runtime="charliecloud", image="x", volumes=["/a:/b:ro"])


def test_a_tmpdir_does_not_take_the_place_of_the_hosts_tmp() -> None:
    """ch-run(1) shows it as /tmp, where the kernel's directory would be missing."""
    command = container(runtime="charliecloud", image="x").command(inside(TMPDIR="/scratch/t"))
    assert command.argv[:4] == ["/usr/bin/env", "--unset=TMPDIR", "HOME=/home/alice", "ch-run"]
    assert "TMPDIR=/scratch/t\n" in command.files["environment"]


def test_what_podman_would_not_read_in_a_file_is_in_the_environment() -> None:
    command = container(runtime="podman-hpc", image="x").command(inside(**{"LONG": 70_000 * "x", "#N": "1", "A": "2"}))
    assert set(command.env) == {"LONG", "#N"}
    assert {"--env=LONG", "--env=#N"} <= set(command.argv)
    assert command.files["environment"] == "PYTHONNOUSERSITE=1\nA=2\n"


@pytest.mark.parametrize("runtime", ["shifter", "podman-hpc", "charliecloud", "apptainer"])
@pytest.mark.parametrize("target", ["/tmp", "/tmp/", "/"])
def test_a_volume_that_would_hide_the_kernels_directory(runtime: str, target: str) -> None:
    assert "would hide /tmp" in complaint(runtime=runtime, image="x", volumes=[f"/data:{target}"])
    container(runtime=runtime, image="x", volumes=["/tmp:/tmp"])


def test_apptainer_gets_variables_by_its_environment() -> None:
    command = container(runtime="apptainer", image="a.sif", volumes=["/a:/b:ro"]).command(inside(PYTHONPATH="/p", E=""))
    assert command.env == {
        "APPTAINERENV_PYTHONNOUSERSITE": "1",
        "APPTAINERENV_PYTHONPATH": "/p",
        "APPTAINERENV_E": "",
    }
    argv = command.argv
    assert argv[argv.index("apptainer") :][:5] == ["apptainer", "exec", "--no-eval", "--bind=/a:/b:ro", "a.sif"]
    assert argv[-3:] == ["{kernel_directory}/pid", "python3", "{connection_file}"]
    assert "--pwd=/d" in container(runtime="apptainer", image="a.sif", workdir="/d").command(inside()).argv


@pytest.mark.parametrize(
    ("runtime", "word"),
    [("podman-hpc", "--name=x"), ("podman-hpc", "-d"), ("charliecloud", "--cd=/"), ("apptainer", "--containall")],
)
def test_options_that_would_break_it(runtime: str, word: str) -> None:
    assert word in complaint(runtime=runtime, image="x", args=[word])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("FATAL:   could not open image /x.sif: failed to retrieve path", "cannot open the image"),
        ('FATAL:   "R": executable file not found in $PATH', "no command R"),
        ("FATAL:   container creation failed: mount /n->/m error: mount source /n doesn't exist", "source /n"),
        ('Error for command "exec": unknown flag: --nope', "no option --nope"),
        ("FATAL:   something else", "something else"),
        ("/usr/bin/env: 'apptainer': No such file or directory", "no apptainer on the node"),
    ],
)
def test_apptainers_words(said: str, sentence: str) -> None:
    trouble = container(runtime="apptainer", image="x").explain(255, said)
    assert trouble
    assert sentence in trouble.sentence


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ch-run[1]: error: can't bind: destination not found: /i/etc/passwd (ch_core.c:111)", "lacks /i/etc/passwd"),
        (
            "ch-run[1]: error: can't mount tmpfs at /i/home: No such file or directory (ch_core.c:538 2)",
            "lacks /i/home",
        ),
        ("ch-run[1]: error: can't bind: source not found: /nope (ch_core.c:104)", "source /nope"),
    ],
)
def test_charlieclouds_words(said: str, sentence: str) -> None:
    trouble = container(runtime="charliecloud", image="x").explain(1, said)
    assert trouble
    assert sentence in trouble.sentence


def test_what_a_kernel_says_itself_is_not_podmans() -> None:
    podman = container(runtime="podman-hpc", image="x")
    assert podman.explain(1, "Error: there is no licence left") is None
    assert podman.explain(125, "Error: something") is not None
