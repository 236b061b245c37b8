"""The command that is run on the node, from the one in the kernelspec. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from farkernel.provisioners.containers.base import Command

MODULES_FAILED = 96
"""The exit code of a command whose modules cannot be loaded."""

# `module` is a function of the shell. Where a site has not exported it, its profile defines it; a whole login shell
# would set PATH anew as well. The modules and the command come as arguments: nothing of them is shell text.
_LOAD_MODULES = """\
failed=$1 count=$2; shift 2
if ! type module >/dev/null 2>&1; then
  for init in "$MODULESHOME/init/bash" "$LMOD_PKG/init/bash" /etc/profile.d/{modules,lmod,z00_lmod}.sh \
      /usr/share/{modules,lmod/lmod}/init/bash /opt/{modules/default,cray/pe/lmod/lmod}/init/bash; do
    if [ -r "$init" ]; then . "$init"; break; fi
  done
fi
module load "${@:1:count}" || exit "$failed"
shift "$count"
exec "$@"
"""


def with_modules(modules: Sequence[str], command: Command) -> Command:
    """Return the command that loads the site's environment modules (module(1)) and then becomes `command`."""
    if not modules:
        return command

    def loading(argv: Sequence[str]) -> list[str]:
        shell = ["/bin/bash", "-c", _LOAD_MODULES, "farkernel", str(MODULES_FAILED)]
        return [*shell, str(len(modules)), *modules, *argv]

    cleanup = loading(command.cleanup) if command.cleanup else []
    return replace(command, argv=loading(command.argv), cleanup=cleanup)
