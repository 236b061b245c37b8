"""What is in an image: the kernel's command, its Python, its ipykernel."""

import asyncio
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from farkernel.provisioners.cli.findings import Finding, ok, problem
from farkernel.provisioners.containers.base import KERNEL_CWD, KERNEL_DIRECTORY, Container, Inside
from farkernel.provisioners.process import Finished, run

_TIMEOUT = 120.0

# Runs in the image's Python, which may be an old one.
_PROBE = """
import json, platform
facts = {"python": platform.python_version()}
for name in ("ipykernel", "IPython"):
    try:
        facts[name] = __import__(name).__version__
    except ImportError:
        pass
print(json.dumps(facts))
"""


async def check_image(container: Container, command: str) -> list[Finding]:
    """Start the image on this host, and look.

    :param command: the kernel's
    """
    if command == "python3":
        return await _check_python(container)
    try:
        done = await _inside(container, [command, "--version"])
    except TimeoutError as error:
        return [_overdue(container, error)]
    trouble = container.explain(done.returncode, done.stderr) if done.returncode else None
    if trouble:
        return [problem("command", f"{container.request.image}: {trouble.sentence}", trouble.hint)]
    return [ok("command", f"{command}: {(done.stdout.strip() or done.stderr.strip())[:200]}")]


async def _check_python(container: Container) -> list[Finding]:
    image = container.request.image
    try:
        done = await _inside(container, ["python3", "-c", _PROBE])
    except TimeoutError as error:
        return [_overdue(container, error)]
    if done.returncode:
        trouble = container.explain(done.returncode, done.stderr)
        if trouble:
            return [problem("image", f"{image}: {trouble.sentence}", trouble.hint)]
        said = done.stderr.strip()[-300:]
        return [problem("Python", f"{image}: python3 ended with code {done.returncode}\n{said}", "Try it by hand.")]
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    if "ipykernel" in facts:
        kernel = ok("ipykernel", f"{facts['ipykernel']}, IPython {facts.get('IPython', 'missing')}")
    else:
        advice = "Install it when the image is built (pip install ipykernel), or choose another image."
        kernel = problem("ipykernel", f"{image}: its Python lacks ipykernel", advice)
    return [ok("Python", facts["python"]), kernel]


def _overdue(container: Container, error: TimeoutError) -> Finding:
    advice = "Try again; if it stays so, ask the site's support."
    return problem("image", f"{container.request.image} did not start: {error}", advice)


async def _inside(container: Container, argv: list[str]) -> Finished:
    """Run a command in the image on this host, as the launcher would on a node."""
    home = str(Path.home())
    with tempfile.TemporaryDirectory(prefix="farkernel-", dir="/tmp") as directory:
        command = container.command(Inside(argv=argv, env={}, home=home, cwd=[home], directory="/tmp"))  # noqa: S108
        await asyncio.to_thread(_write, command.files, Path(directory))
        words = [word.replace(KERNEL_DIRECTORY, directory).replace(KERNEL_CWD, home) for word in command.argv]
        return await run(words, env={**os.environ, **command.env}, timeout=_TIMEOUT)


def _write(files: Mapping[str, str], directory: Path) -> None:
    for name, content in files.items():
        (directory / name).write_text(content, encoding="utf-8")
