"""How the launcher's code gets to the node: as a zip on its standard input, checked by its hash.

Both sides thus run the same version, and nothing is to be installed on the node but a Python with pyzmq. The
hash stands in the command; the command is the same for everybody and holds no secret.
"""

from __future__ import annotations

SOURCE = """\
import sys
sys.path[:1] = []
import os
if os.environ.get("SLURM_PROCID", "0") != "0":
    sys.exit(0)
if sys.version_info < (3, 11):
    sys.exit("farkernel-bootstrap: old python: %s is Python %d.%d" % (sys.executable, *sys.version_info[:2]))
import hashlib
stdin = os.fdopen(0, "rb")
code = stdin.read(int(stdin.readline() or 0))
if hashlib.sha256(code).hexdigest() != sys.argv[1]:
    sys.exit("farkernel-bootstrap: bad hash: the launcher's code did not arrive as it was sent")
memory = os.memfd_create("farkernel-launcher")
os.write(memory, code)
sys.path.insert(0, "/proc/self/fd/%d" % memory)
if sys.argv[2:] == ["keeper"]:
    from farkernel.launcher.keeper import main
else:
    from farkernel.launcher.main import main
sys.exit(main(stdin))
"""
"""Runs on the node as `python -c SOURCE HASH`; then come the zip's length in a line, the zip, and what
`farkernel.launcher.main` reads. On a login node that is reached by ssh a second word, `keeper`, starts
`farkernel.launcher.keeper` instead.

`-c` puts the working directory first on sys.path, from where a user's `random.py` would be imported: away
with it. Tasks other than the first leave at once; srun gives its input to the first alone. The zip lies in
memory, so that nothing is left on disk however this ends.
"""

LOADER = 'import os; exec(eval(os.fdopen(0, "rb", 0, closefd=False).readline()))'
"""Runs Python code that comes on the standard input, as one line of its repr(), before anything else.

What ssh runs is a shell's command line (RFC 4254, 6.5), whichever shell the user has: this one is the same for all, has
nothing that one of them would expand, and leaves the input behind the line unread.
"""
