"""The command ``blazen``: runs, draws and checks workflows. Needs the extra ``blazen[cli]``.

`main` is all there is to call. Exit codes are in `blazen.cli.messages`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; it raises nothing but ``SystemExit``.

    Args:
        arguments: What stands behind ``blazen`` on the command line; by default that of this process.
    """
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f'blazen: the command line needs {" and ".join(missing)}, not installed here: pip install "blazen[cli]"',
            file=sys.stderr,
        )
        return 2
    try:
        from blazen.cli.commands import execute
    except KeyboardInterrupt:  # while click is imported, which takes long enough to be interrupted in
        print("blazen: interrupted", file=sys.stderr)
        return 130
    return execute(arguments)
