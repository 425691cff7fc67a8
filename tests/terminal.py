"""A command in a pseudo-terminal, as a person would use it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

PATIENCE = 60.0  # seconds; only a broken command needs them
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Terminal:
    """Runs a command with a terminal of its own as standard input, output and error.

    Args:
        command: What to run.
        cwd: Where.
        env: Its environment.
        size: Lines and columns.
        stdout: The standard output, if that is to be something else.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        size: tuple[int, int] = (30, 100),
        stdout: int | None = None,
    ) -> None:
        self.written = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        try:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=theirs,
                stdout=theirs if stdout is None else stdout,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """What was written, without what moves the cursor or colours the text; each return to the margin a new line."""
        return _CONTROL.sub("", self.written.replace("\r\n", "\n").replace("\r", "\n"))

    def read_until(self, text: str) -> None:
        """Read until the command has written `text`."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.text:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} was never written; but this was:\n{self.text}")

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"the command goes on and on; it has written:\n{self.text}")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # EIO: the last process with this terminal has ended
            return False
        self.written += data.decode("utf-8", "replace")
        return bool(data)
