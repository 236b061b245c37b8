"""Who may import whom, and what nobody may do. The layers are those of docs/architecture.md."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for folder in ("launcher", "provisioners", "kernelspecs") for file in (ROOT / folder).rglob("*.py"))
LAUNCHER = [file for file in FILES if file.is_relative_to(ROOT / "launcher")]

PURE = (
    "kernelspecs/flaws.py",
    "launcher/numbering.py",
    "provisioners/commands.py",
    "provisioners/containers/apptainer.py",
    "provisioners/containers/base.py",
    "provisioners/containers/charliecloud.py",
    "provisioners/containers/podman_hpc.py",
    "provisioners/containers/shifter.py",
    "provisioners/environment.py",
    "provisioners/errors.py",
    "provisioners/image_failures.py",
    "provisioners/json_places.py",
    "provisioners/jupyter_version.py",
    "provisioners/kernel_command.py",
    "provisioners/kernel_failures.py",
    "provisioners/kinds.py",
    "provisioners/launch_failures.py",
    "provisioners/layers.py",
    "provisioners/life.py",
    "provisioners/limits.py",
    "provisioners/listing.py",
    "provisioners/per_launch.py",
    "provisioners/places.py",
    "provisioners/policy.py",
    "provisioners/policy_check.py",
    "provisioners/policy_flaws.py",
    "provisioners/policy_lines.py",
    "provisioners/policy_rules.py",
    "provisioners/records.py",
    "provisioners/refusals.py",
    "provisioners/request.py",
    "provisioners/silence.py",
    "provisioners/srun_options.py",
    "provisioners/states.py",
)
EDGES = {"asyncio", "jupyter_client", "os", "select", "socket", "subprocess", "threading", "traitlets", "zmq"}

STARTS_PROCESSES = {"launcher/keeper.py", "launcher/process.py", "provisioners/process.py"}
KNOWS_JUPYTER = {
    "kernelspecs/existing.py",
    "kernelspecs/install.py",
    "provisioners/enterprise_gateway.py",
    "provisioners/provisioner.py",
}
NEEDS_GATEWAY = "farkernel.provisioners.enterprise_gateway"
"""Cannot be imported here: tests/gateway/test_enterprise_gateway.py does so where it can."""


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("farkernel", *parts)).removesuffix(".__init__")


MODULES = [_module(file) for file in FILES if file.name != "__main__.py" and _module(file) != NEEDS_GATEWAY]


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of what is imported, `a.b` for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def _packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(_tree(file))}


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- directions ----


@pytest.mark.parametrize("file", LAUNCHER, ids=_name)
def test_the_launcher_names_the_standard_library_and_pyzmq_alone(file: Path) -> None:
    names = list(_imports(_tree(file)))
    ours = [name for name in names if name.startswith("farkernel.")]

    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names | {"zmq", "farkernel"}
    assert all(name.startswith("farkernel.launcher.") for name in ours)


_LOADED = """
import importlib, json, sys
import zmq, zmq.utils.z85
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_the_launcher_loads_the_standard_library_and_pyzmq_alone() -> None:
    modules = [_module(file) for file in LAUNCHER]
    loaded = json.loads(_run(_LOADED, *modules))

    assert set(modules) <= set(loaded)
    foreign = {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith(("farkernel.launcher.", "zmq."))} <= {
        "farkernel",
        "farkernel.launcher",
    }


_BEFORE_ZMQ = """
import sys
import farkernel.launcher.main
print([name for name in ("zmq", "asyncio") if name in sys.modules])
"""


def test_the_first_kernel_need_not_wait_for_zmq_and_asyncio() -> None:
    assert _run(_BEFORE_ZMQ) == "[]\n"


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_does_no_io(name: str) -> None:
    tree = _tree(ROOT / name)
    ours = {imported for imported in _imports(tree) if imported.startswith("farkernel.")}
    pure = {"farkernel.launcher.protocol", *(_module(ROOT / other) for other in PURE)}

    assert not _packages(ROOT / name) & EDGES
    assert {imported.rpartition(".")[0] for imported in ours} <= pure | {"farkernel.provisioners"}
    assert {imported for imported in ours if imported.rpartition(".")[0] == "farkernel.provisioners"} <= pure
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input"}


def test_a_pure_module_loads_no_edge() -> None:
    code = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    names = [_module(ROOT / name) for name in PURE]
    loaded = json.loads(_run(f"{code}print(json.dumps(list(sys.modules)))", *names))

    assert not {name.partition(".")[0] for name in loaded} & {"zmq", "traitlets", "jupyter_client"}
    assert {name for name in loaded if name.startswith("farkernel.")} == {
        *names,
        "farkernel.kernelspecs",
        "farkernel.launcher",
        "farkernel.launcher.protocol",
        "farkernel.provisioners",
        "farkernel.provisioners.containers",
    }


_STARTERS = {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "spawnv", "spawnl", "spawnvp"}


def _starts_processes(tree: ast.Module) -> bool:
    if "subprocess" in {name.partition(".")[0] for name in _imports(tree)}:
        return True
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(names & {"create_subprocess_exec", "create_subprocess_shell"} | names & _STARTERS)


def test_one_module_of_each_side_starts_processes() -> None:
    assert {_name(file) for file in FILES if _starts_processes(_tree(file))} == STARTS_PROCESSES


def test_few_modules_know_ssh_and_only_who_needs_it_loads_it() -> None:
    assert {_name(file) for file in FILES if "asyncssh" in _packages(file)} == {
        "provisioners/ssh.py",
        "provisioners/ssh_login.py",
        "provisioners/ssh_questions.py",
    }
    code = "import sys, farkernel.provisioners.provisioner; print('asyncssh' in sys.modules)"
    assert _run(code) == "False\n"


def test_few_modules_know_jupyter() -> None:
    know = {_name(file) for file in FILES if _packages(file) & {"traitlets", "jupyter_client", "jupyter_core"}}

    assert know >= KNOWS_JUPYTER
    assert {name for name in know - KNOWS_JUPYTER if not name.startswith("provisioners/cli/")} == set()


def test_only_the_process_proxies_know_enterprise_gateway() -> None:
    names = {_name(file) for file in FILES if "enterprise_gateway" in _packages(file)}

    assert names == {"provisioners/enterprise_gateway.py"}


def test_few_modules_know_tornado() -> None:
    names = {_name(file) for file in FILES if "tornado" in _packages(file)}

    assert names == {"provisioners/enterprise_gateway.py", "provisioners/cli/lab_connection.py"}


def test_nothing_below_the_command_line_imports_it() -> None:
    for file in FILES:
        if not file.is_relative_to(ROOT / "provisioners/cli"):
            assert not [
                name for name in _imports(_tree(file)) if f"{name}.".startswith("farkernel.provisioners.cli.")
            ], file
            assert not _packages(file) & {"typer", "rich"}, file


# ---- at import ----

ENVIRONMENT = """
import importlib, os, sys
class Watched(type(os.environ)):
    def _look(self):
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in {"os", "_collections_abc", "collections.abc", __name__}:
            frame = frame.f_back
            if frame is None:
                return
        if frame.f_globals.get("__name__", "").startswith("farkernel"):
            sys.exit(f"{frame.f_code.co_filename}:{frame.f_lineno} reads the environment")
    def __getitem__(self, name): self._look(); return super().__getitem__(name)
    def __contains__(self, name): self._look(); return super().__contains__(name)
    def __iter__(self): self._look(); return super().__iter__()
    def get(self, *a): self._look(); return super().get(*a)
    def copy(self): self._look(); return super().copy()
os.environ.__class__ = Watched
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv) - 1)
"""


def test_nothing_reads_the_environment_at_import() -> None:
    assert _run(ENVIRONMENT, *MODULES) == f"{len(MODULES)}\n"


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, *child.args.defaults, *child.args.kw_defaults):
                if part is not None:
                    yield part
                    yield from _at_import(part)
        elif not isinstance(child, ast.Lambda):
            yield child
            yield from _at_import(child)


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_a_module_does_not_look_at_its_surroundings_at_import(file: Path) -> None:
    names = {node.attr for node in _at_import(_tree(file)) if isinstance(node, ast.Attribute)}

    assert not names & {"environ", "getenv", "getcwd", "cwd", "home", "expanduser", "gethostname", "getuid"}


# ---- what nobody does ----


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_what_nobody_does(file: Path) -> None:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            assert not any(alias.name == "*" for alias in node.names), f"line {node.lineno}: import *"
        elif isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
        elif isinstance(node, ast.keyword):
            shell = node.arg == "shell" and not (isinstance(node.value, ast.Constant) and node.value.value is False)
            assert not shell, f"line {node.lineno}: a shell"


@pytest.mark.parametrize("name", ["launcher", "provisioners", "kernelspecs"])
def test_our_folders_are_no_modules_of_their_own(name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"

    assert _run(code) == "None\n"
    assert not any(name == imported.partition(".")[0] for file in FILES for imported in _imports(_tree(file)))
