"""The store that a command names."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import closing

import trio

from blazen import BlazenError, SqliteStore
from blazen.cli.messages import Mistake


def opened(path: str, act: Callable[[SqliteStore], Awaitable[int]], *, trust_native: bool = False) -> int:
    """Open a store that is there, and do something in it. Returns what `act` does: the exit code.

    Raises:
        Mistake: There is no such store, or it refuses what is asked.
    """
    if not os.path.isfile(path):
        what = "this is a directory" if os.path.isdir(path) else "there is no such file"
        raise Mistake(f"{path!r} is no store: {what}")

    async def main() -> int:
        with closing(SqliteStore(path, trust_native=trust_native)) as store:
            return await act(store)

    try:
        return trio.run(main)
    except BlazenError as error:
        raise Mistake(str(error)) from None
