"""A process beside a test that uses the same store: started, told what to do line by line, killed.

Run as a program it is that process. Each line of its input is a command, each line of its output what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class StoreProcess:
    """The other process. `ask` waits for an answer; `kill` is ``kill -9``."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )
        assert self.read() == "open"

    def ask(self, *command: object) -> Any:
        self.tell(*command)
        return self.read()

    def tell(self, *command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the other process has ended"
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._end()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._end()

    def _end(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.wait(30)
        self._process.stdout.close()
        self._process.stdin.close()


def answer(what: object) -> None:
    print(json.dumps(what), flush=True)


async def main(path: str) -> None:
    import trio

    from blazen.errors import BlazenError
    from blazen.store import SqliteStore
    from blazen.testing.store_base import change, first, write

    store = SqliteStore(path)
    answer("open")
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        name, *arguments = json.loads(line)
        result: object = None
        try:
            if name == "first":
                await write(store, first(arguments[0], state=arguments[1]))
            elif name == "write":
                await write(store, change(arguments[0], arguments[1], head=arguments[2].encode()))
            elif name == "release":
                await write(store, change(arguments[0], arguments[1], state="waiting", release=True))
            elif name == "claim":
                result = (await store.claim(arguments[0], force=arguments[1])).fence
            elif name == "request":
                result = (await store.request(arguments[0], "event", data=arguments[1].encode())).number
            elif name == "listen":
                store.listen(arguments[0], lambda found: [answer([time.time(), one.data.decode()]) for one in found])
            elif name == "live":
                result = (await store.info(arguments[0])).live
            elif name == "close":
                store.close()
            elif name == "flood":  # writes on and on, and says after each that is acknowledged what it was
                for number in range(10**6):
                    text = str(number).encode()
                    await write(store, change(arguments[0], head=text, put=[("n", text)], stream=[text]))
                    answer(number)
        except BlazenError as exc:
            result = f"{type(exc).__name__}: {exc}"
        answer(result)
    store.close()


if __name__ == "__main__":
    import trio

    trio.run(main, sys.argv[1])
