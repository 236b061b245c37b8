"""What Shifter is given, what it is not given, and how its words are read. What it does with it: tests/slurm."""

import pytest

from farkernel.provisioners.containers.base import Inside
from farkernel.provisioners.containers.shifter import Shifter, ShifterImages, full_name
from farkernel.provisioners.request import ContainerRequest

IMAGE = "docker:nersc/pyhep:2.0"
ID = "id:" + 64 * "a"


def shifter(image: str | None = IMAGE, **keys: object) -> Shifter:
    return Shifter(ContainerRequest.model_validate({"runtime": "shifter", "image": image, **keys}))


def inside(**env: str) -> Inside:
    return Inside(
        argv=["python3", "-f", "{connection_file}"], env=env, home="/home/alice", cwd=["/home/alice"], directory="/tmp"
    )


def problems(container: Shifter, directory: str = "/tmp") -> str:
    return "\n".join(container.problems(directory=directory))


# ---- what it would drop or refuse ----


@pytest.mark.parametrize("image", [IMAGE, "busybox", "local:/images/a", "custom:own", ID, "a.b/c@sha256:00"])
def test_an_image_that_shifter_understands(image: str) -> None:
    assert problems(shifter(image)) == ""


@pytest.mark.parametrize(
    "image", ["docker:busy box", "docker:a;b", "custom:a/b", "id:123", "docker:caf\u00e9", "docker:"]
)
def test_an_image_whose_name_shifter_would_change(image: str) -> None:
    assert "container.image" in problems(shifter(image))
    assert image in problems(shifter(image))


def test_an_image_that_is_missing() -> None:
    assert "container.image" in problems(shifter(None))


@pytest.mark.parametrize(
    "volume",
    [
        "/global/a:/data",
        "/global/a:/data:ro",
        "/global/a:/mnt:perNodeCache=size=10G",
        "/tmp/a:/var/tmp",
        "/global/a:/opt/a",
    ],
)
def test_a_volume_that_shifter_understands(volume: str) -> None:
    assert problems(shifter(volumes=[volume])) == ""


@pytest.mark.parametrize(
    ("volume", "why"),
    [
        ("/global/my data:/data", "would drop characters"),
        ("/global/a:/da ta", "would drop characters"),
        *((f"/global/a:{target}", "no such target") for target in ("/etc/x", "/var/lib", "/var/tmp/x", "/opt", "/")),
        ("/run/user/1:/data", "/run"),
        ("/global/a:/tmp", "would hide /tmp"),
        ("/global/a:/data:rw", '"rw"'),
        ("/global/a:/data:rec", '"rec"'),
    ],
)
def test_a_volume_that_shifter_would_change_or_refuse(volume: str, why: str) -> None:
    assert why in problems(shifter(volumes=[volume]))
    assert f'"{volume}"' in problems(shifter(volumes=[volume]))


@pytest.mark.parametrize("word", ["--image=x", "--imag=x", "--volume", "-V/a:/b", "-i", "--env-file=x", "--"])
def test_an_option_that_has_a_key(word: str) -> None:
    assert word in problems(shifter(args=[word]))


def test_a_directory_of_the_launcher_that_an_image_does_not_see() -> None:
    assert "launcher.directory" in problems(shifter(), directory="/run/user/1")


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("busybox", "docker:busybox:latest"),
        ("nersc/pyhep:2.0", "docker:nersc/pyhep:2.0"),
        ("registry:5000/a", "docker:registry:5000/a:latest"),
        ("docker:a", "docker:a:latest"),
        ("custom:own", "custom:own"),
        (ID, ID),
    ],
)
def test_the_name_that_both_slurm_and_shifter_get(image: str, full: str) -> None:
    assert full_name(image) == full


# ---- Slurm's options ----


def test_slurm_and_shifter_get_the_same() -> None:
    container = shifter(volumes=["/g/a:/a", "/g/b:/b:ro"], modules=["mpich", "cvmfs"])

    assert container.slurm_options() == [
        f"--image={IMAGE}",
        "--volume=/g/a:/a;/g/b:/b:ro",
        "--module=mpich,cvmfs",
    ]
    argv = container.command(inside()).argv
    assert {f"--image={IMAGE}", "--volume=/g/a:/a", "--volume=/g/b:/b:ro", "--module=mpich,cvmfs"} <= set(argv)


def test_slurm_options_of_a_site_that_has_the_long_ones_or_none() -> None:
    assert shifter(spank="long").slurm_options() == [f"--shifter.image={IMAGE}"]
    assert shifter(spank="off").slurm_options() == []


def test_links_are_resolved_but_for_the_nodes_own_directories() -> None:
    container = shifter(volumes=["/scratch:/data:ro", "/tmp/a:/b", "/g:/c:perNodeCache=size=1G"])
    container = container.resolved(lambda path: f"/real{path}")

    assert container.slurm_options()[1] == "--volume=/real/scratch:/data:ro;/tmp/a:/b;/g:/c:perNodeCache=size=1G"
    assert "--volume=/real/scratch:/data:ro" in container.command(inside()).argv


# ---- the environment ----


def test_nothing_but_what_the_loader_strips_is_in_the_command_line() -> None:
    command = shifter(env={"TOKEN2": "s3cret2"}).command(
        inside(TOKEN="s3cret", LD_LIBRARY_PATH="/lib x", TMPDIR="/tmp/t")
    )

    assert "s3cret" not in " ".join(command.argv)
    assert {"--env=LD_LIBRARY_PATH=/lib x", "--env=TMPDIR=/tmp/t"} <= set(command.argv)
    assert set(command.env) == {"PYTHONNOUSERSITE", "TOKEN", "TOKEN2"}
    assert command.files["environment"].splitlines() == ["PYTHONNOUSERSITE=1", "TOKEN=s3cret", "TOKEN2=s3cret2"]


def test_what_a_file_cannot_hold_is_in_the_environment() -> None:
    command = shifter().command(inside(EMPTY="", LINES="a\nb", PADDED=" a ", QUOTED="'a'"))

    assert command.env == {"PYTHONNOUSERSITE": "1", "EMPTY": "", "LINES": "a\nb", "PADDED": " a ", "QUOTED": "'a'"}
    assert command.files["environment"] == "PYTHONNOUSERSITE=1\n"


def test_the_hosts_python_is_forgotten_unless_the_kernelspec_names_one() -> None:
    assert "--unset=PYTHONPATH" in shifter().command(inside()).argv
    assert "--unset=PYTHONPATH" not in shifter().command(inside(PYTHONPATH="/opt/image")).argv


def test_the_containers_variables_win() -> None:
    command = shifter(env={"A": "container", "PYTHONNOUSERSITE": ""}).command(inside(A="kernelspec"))

    assert command.env == {"A": "container", "PYTHONNOUSERSITE": ""}


def test_a_file_without_variables_is_not_given() -> None:
    argv = shifter(env={"PYTHONNOUSERSITE": ""}).command(inside()).argv
    assert not [word for word in argv if word.startswith("--env-file")]


# ---- its words ----


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("FAILED to lookup docker image nope/x:1\nusage", "does not know the image"),
        ("error: Failed to lookup image.  Aborting.", "does not know the image"),
        ("FAILED to find requested image.", "no image of that name"),
        ("FAILED permission denied to image", "you may not use"),
        ("FAILED to mount image /x\nFAILED to setup image.", "could not mount"),
        ('FAILED to find real path for volume "from": /x\nFAILED to setup image.', "source /x"),
        ("Invalid Volume Map: /a:/etc/b, aborting! 1\nFailed to parse volume map options", "volumes: /a:/etc/b"),
        ("Failed to parse or invalid/disallowed volume map request: /a:/etc", "refuses one of its volumes: /a:/etc"),
        ('FAILED to create volume "to": /u//a/b, cannot create\nFAILED to setup image.', "make none there: /u//a/b"),
        ("Mount request path /u/mnt not on an approved device for volume mounts.", "where another one"),
        ("BIND MOUNT FAILED from /u//home/a to /u/home\nFAILED to setup image.", "file system is: /u/home"),
        ('FAILED "from" location is not directory: /u/f\nFAILED to setup image.', "not a directory: /u/f"),
        ("FAILED to set perNodeCache name\nFAILED to setup image.", "could not make the cache"),
        ("FAILED to setup user-requested mounts.\nFAILED to setup image.", "could not mount one of its volumes"),
        ("Unknown flag: bad\ufffd", "does not know the flag"),
        ("Unknown shifter module: x", "no module x"),
        ("Invalid shifter module selection: x", "no module x"),
        ("FAILED to open env-file: /l/farkernel-a/1.1/environment", "not seen inside: /l/farkernel-a"),
        ("No image specified, or specified incorrectly!", "given no image"),
        ("Not running with root privileges, will fail.", "no privileges"),
        ("shifter: python3: No such file or directory", "no command python3"),
        ("shifter: /opt/kernel: Permission denied", "/opt/kernel is no program that can be run: Permission denied"),
        ("shifter: python3: Exec format error", "python3 is no program that can be run: Exec format error"),
        ("shifter: unrecognized option '--nosuch'\nMissing an argument!", "unrecognized option '--nosuch'"),
        ("shifter: invalid option -- 'x'\n\nUsage:", "does not take: invalid option -- 'x'"),
        ("/usr/bin/env: \u2018shifter\u2019: No such file or directory", "no shifter on the node"),
        ("srun: unrecognized option '--image=docker:x'", "no options for Shifter images"),
        ("/usr/bin/python3: No module named ipykernel_launcher", "lacks ipykernel"),
    ],
)  # fmt: skip
def test_each_failure_has_a_sentence(said: str, sentence: str) -> None:
    trouble = shifter().explain(1, said)

    assert trouble
    assert sentence in trouble.sentence
    assert trouble.hint.endswith((".", ")"))


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ('FAILED to create volume "to": /var/udiMount//a/b, cannot create', ": /data:/a/b"),
        ("Mount request path /var/udiMount/mnt not on an approved device", ": /tmp:/mnt:ro"),
        ('FAILED "from" location is not directory: /var/udiMount/data', ": /data:/a/b"),
        ("shifter: R: No such file or directory", "no command R"),
    ],
)
def test_a_volume_is_named_as_the_kernelspec_has_it(said: str, named: str) -> None:
    trouble = shifter(volumes=["/data:/a/b", "/tmp:/mnt:ro"]).explain(1, said)

    assert trouble
    assert trouble.sentence.endswith(named)


def test_what_has_nothing_to_do_with_the_image_is_not_explained() -> None:
    assert shifter().explain(1, "there is no licence left") is None
    assert shifter().explain(1, "Unable to allocate resources: Invalid qos specification") is None


def test_images_are_listed() -> None:
    text = (
        "cori       docker     READY    8b485a3da7   2024-10-27T03:33:20 ns/pysci:2.0   \n"
        "cori       docker     PENDING  8b485a3da8   2024-10-27T03:33:20 ns/pysci:3.0   \n"
    )
    (image,) = ShifterImages().parse_list(text)

    assert (image.name, image.identity, image.pulled) == ("docker:ns/pysci:2.0", "8b485a3da7", "2024-10-27 03:33:20")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\r\x1b[2K1 Pulling Image: docker:x, status: PULLING\r\x1b[2K2 Pulling Image: docker:x, status: READY\n", ""),
        ("\r\x1b[2K2024 Pulling Image: docker:x, status: FAILURE\n", "FAILURE"),
        ("ERROR: failed to contact the image gateway.\n", "does not answer"),
        ("", "said nothing"),
    ],
)  # fmt: skip
def test_a_pull_that_ends_with_0_may_have_failed(text: str, problem: str) -> None:
    assert problem in ShifterImages().pull_problem(0, text)
    assert bool(ShifterImages().pull_problem(0, text)) == bool(problem)
