"""What is in an image: the kernel's command, its Python, its ipykernel."""

import json
import math
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from farkernel.kernelspecs.folder import KERNEL_FILE
from farkernel.kernelspecs.install import Installed, check, find_installed
from farkernel.provisioners.cli.check_launcher import last_lines, no_job, small_job
from farkernel.provisioners.cli.check_slurm import slurm_is_here
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.cli.image_probe import (
    NO_DIRECTORY,
    OVERDUE,
    SHELL,
    Answer,
    module_of,
    on_host,
    probe,
    python_of,
    read_answer,
)
from farkernel.provisioners.cli.runtimes import runtime_of
from farkernel.provisioners.commands import srun_argv, srun_env
from farkernel.provisioners.containers.base import CHECK_COMMAND, Container, Inside, python_trouble
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.effective import Effective, effective
from farkernel.provisioners.environment import for_kernel, for_submission
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.kernel_command import MODULES_FAILED, with_modules
from farkernel.provisioners.process import SRUNS_END, Finished, run
from farkernel.provisioners.refusals import explain_refusal
from farkernel.provisioners.request import Request

_OTHER_COMMAND = "Correct argv in the kernelspec, or choose another image."
_IPYKERNEL = ("-m", "ipykernel_launcher")
_LONGEST = 240  # seconds; the job has a little more
_SLACK = 15.0  # for a program that cannot be ended at once


@dataclass(frozen=True)
class Wanted:
    """What is to be looked for, and where.

    :param whole: the request, and what it was made of
    :param argv: the kernel's command
    :param env: the kernelspec's variables
    :param kernel: what Slurm's refusal names
    """

    whole: Effective
    container: Container
    argv: list[str]
    env: dict[str, str]
    kernel: str

    @property
    def request(self) -> Request:
        """What the kernelspec asks for."""
        return self.whole.request

    @property
    def limit(self) -> int:
        """How many seconds the image may take."""
        return min(math.ceil(self.request.launcher.start_timeout), _LONGEST)


def wanted(image: str | None, *, runtime: str | None, kernel: str | None, command: str | None) -> Wanted:
    """Say what is to be looked for: what the kernelspec `kernel` has, and what is given beside it.

    :raises FarkernelError: there is no such kernelspec, it is not valid, there is no image, or not one runtime for it
    """
    spec = find_installed(kernel) if kernel else None
    if spec:
        check(spec)
    config = spec.config if spec else {}
    source = spec.source if spec else "IMAGE"
    container = effective(config, source=source).request.container.model_dump(exclude_unset=True)
    if image:
        source, container["image"] = "IMAGE", image
    if "image" not in container:
        raise FarkernelError(f"The kernelspec {kernel} runs its kernels in no image.", hint="Name an IMAGE, too.")
    if runtime or container.get("runtime", "none") == "none":
        container["runtime"] = runtime or runtime_of(container["image"])
    argv, env = _command(spec)
    config = {**config, "container": container}
    whole = effective(config, source=source, env={**os.environ, **env}, server=os.environ, named=env)
    if command:
        argv = [command, *(_IPYKERNEL if python_of([command]) == command else ())]
    return Wanted(
        whole=whole,
        container=container_of(whole.request, source=source),
        argv=argv,
        env=env,
        kernel=spec.display_name if spec else container["image"],
    )


async def check_image(what: Wanted, *, wait: float | None = None) -> list[Finding]:
    """Start the image, and look.

    :param wait: on a node, whose job may wait so many seconds; None is on this host
    :raises PolicyRefused: the site's policy does not allow it
    """
    if wait is not None and not slurm_is_here():
        return [problem("image", "srun is not on PATH", "Try it on a login node, or without --on-node.")]
    what.whole.check(slurm=wait is not None)
    try:
        done = await _run(what, wait)
    except TimeoutError as error:
        if wait is None:
            return [_overdue(what, _image(what))]
        advice = "Try when nodes are idle, or wait longer: --wait."
        return [problem("image", f"{error}; the job is withdrawn", advice)]
    answer = read_answer(done.stdout)
    if failure := _failure(what, done, answer, on_node=wait is not None):
        return [failure]
    return [ok("image", f"{_image(what)}, on {answer.host}"), _command_found(what, answer), *_python(what, answer)]


async def _run(what: Wanted, wait: float | None) -> Finished:
    """Run the probe as the launcher would run the kernel."""
    kernel = what.request.kernel
    cwd = _cwd(what)
    environ = dict(os.environ)
    place = what.request.launcher.on_node
    name = f"farkernel-{secrets.token_hex(6)}"
    inside = Inside(
        argv=probe(what.argv),
        env=for_kernel({**environ, **what.env}, environ, what.env),
        home=str(Path.home()),
        cwd=[cwd],
        directory=place,
        name=name,
    )
    command = with_modules(kernel.modules, what.container.command(inside))
    argv, files = on_host(command, directory=f"{place}/{name}", cwd=cwd, limit=what.limit)
    env = for_submission(environ, environ)
    timeout = what.limit + _SLACK
    if wait is not None:
        slurm = small_job(what.request.slurm, name="farkernel-images")
        argv = srun_argv(slurm, argv, options=what.container.slurm_options())
        env, timeout = srun_env(slurm, what.whole.submitted(env)), wait + what.limit
    return await run(argv, env=env, timeout=timeout, input=files, die_by=SRUNS_END)


def _failure(what: Wanted, done: Finished, answer: Answer, *, on_node: bool) -> Finding | None:
    """Say why the probe told nothing; None if it did."""
    if done.returncode == 0 and (answer.python or python_of(what.argv) != what.argv[0]):
        return None
    image = f"{_image(what)}, on {answer.host}" if answer.host else _image(what)
    said = last_lines(done.stderr)
    if done.returncode == OVERDUE:
        return _overdue(what, image)
    if done.returncode == MODULES_FAILED:
        advice = "`module avail` lists what there is; correct kernel.modules in the kernelspec."
        return problem("modules", f"The environment modules cannot be loaded on {answer.host}\n{said}", advice)
    if done.returncode == NO_DIRECTORY:
        sentence = f"The kernel cannot be started on {answer.host} in the directory {_cwd(what)}: there is none"
        return problem("directory", sentence, "Correct kernel.cwd in the kernelspec.")
    if trouble := what.container.explain(done.returncode, done.stderr):
        advice = {CHECK_COMMAND: _OTHER_COMMAND}.get(trouble.hint, trouble.hint)
        if trouble.sentence.endswith(f" {SHELL}"):
            advice = f"{what.argv[0]} is looked for by the image's own shell: try by hand, or choose another image."
        return problem("image", f"{image}: {trouble.sentence}", advice)
    if on_node and no_job(done):
        refusal = explain_refusal(done.stderr, done.returncode, kernel=what.kernel)
        return problem("image", f"{refusal.what}\n{refusal.said}", refusal.hint)
    advice = f"Run {what.argv[0]} in the image by hand to see more."
    return problem("image", f"{image}: it told nothing (exit code {done.returncode})\n{said}", advice)


def _overdue(what: Wanted, image: str) -> Finding:
    advice = (
        "The start of an image may hang: a slow file system, a volume that is a link, an image gateway that does not"
        " answer. Try again; if it stays so, raise launcher.start_timeout in the kernelspec, or ask the site's support."
    )
    return problem("image", f"{image}: it did not start and answer within {what.limit} s", advice)


def _command_found(what: Wanted, answer: Answer) -> Finding:
    name = what.argv[0]
    place = answer.python["executable"] if python_of(what.argv) == name else answer.command
    if not place:
        return problem("command", f"the image has no command {name}", _OTHER_COMMAND)
    return ok("command", name if name == place else f"{name} ({place})")


def _python(what: Wanted, answer: Answer) -> list[Finding]:
    """Judge Python and what it lacks; a command that is no Python may find another one than the probe."""
    python, module = python_of(what.argv), module_of(what.argv)
    told = answer.python
    flawed = problem if python == what.argv[0] else warning
    if not told:
        if not module:
            return [ok("Python", f"there is no {python} in the image; the kernel's command names none")]
        return [flawed("Python", f"there is no {python} in the image", _OTHER_COMMAND)]
    found = ok("Python", f"{told['python']} ({told['executable']})")
    if flaw := told.get("flaw"):
        trouble = python_trouble(1, flaw)
        sentence = trouble.sentence if trouble else f"{module} cannot be imported: {flaw}"
        advice = trouble.hint if trouble else "Mend it when the image is built, or choose another image."
        return [found, flawed("ipykernel" if module == "ipykernel_launcher" else module, sentence, advice)]
    if "ipykernel" not in told:
        return [found, ok("ipykernel", "not in the image; the kernel's command names none")]
    return [found, ok("ipykernel", f"{told['ipykernel']}, IPython {told.get('IPython', 'missing')}")]


def _cwd(what: Wanted) -> str:
    return what.request.kernel.cwd or str(Path.home())


def _image(what: Wanted) -> str:
    return f"{what.request.container.image} ({what.request.container.runtime})"


def _command(spec: Installed | None) -> tuple[list[str], dict[str, str]]:
    """Return a kernelspec's command and variables; those of the usual Python without one."""
    if spec is None:
        return ["python3", *_IPYKERNEL], {}
    content = json.loads((spec.folder / KERNEL_FILE).read_text(encoding="utf-8"))
    names = {"{resource_dir}": str(spec.folder), "{prefix}": sys.prefix}
    argv = list(content["argv"])
    for name, value in names.items():
        argv = [word.replace(name, value) for word in argv]
    return argv, {name: str(value) for name, value in content.get("env", {}).items()}
