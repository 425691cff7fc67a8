"""A run written down and gone on with: what a snapshot costs, beside pickling nothing but the state in it."""

from __future__ import annotations

import gc
import pickle
import time
from typing import Any

import trio
import trio.testing

from benchmarks.conftest import Compared, Gate
from benchmarks.test_codec import KEYS, MIXED
from blazen import Context, Snapshot, StartEvent, StopEvent, Workflow, step


def test_a_run_with_mixed_keys_to_bytes_and_resumed(gate: Gate) -> None:
    values = {f"key {n}": MIXED[n % len(MIXED)](n) for n in range(KEYS)}

    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            ctx.state.update(values)
            await trio.sleep_forever()
        return StopEvent(result=len(ctx.state))

    workflow = Workflow("mixed", [begin])

    async def main() -> Compared:
        compared = Compared([], [])
        async with workflow.run_with_handler() as handler:
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(40):
                gc.collect()
                start = time.perf_counter()
                data = (await handler.snapshot()).to_bytes()
                resumed = workflow.resume(Snapshot.from_bytes(data))
                async with resumed:
                    compared.ours.append(time.perf_counter() - start)
                    assert (await resumed.result()).result == KEYS
                gc.collect()
                start = time.perf_counter()
                back: Any = pickle.loads(pickle.dumps(values, 5))
                compared.yardstick.append(time.perf_counter() - start)
                assert len(back) == KEYS
            handler.cancel()
        return compared

    gate.check("snapshot to bytes and resume, 1,000 mixed keys / pickle of them", gate.run(main), 1.5)
