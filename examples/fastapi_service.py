"""A FastAPI service: a report that is streamed as it is made, and an order that somebody has to confirm.

Each streamed answer is a run: a client that goes away cancels it, and the step that works for it cleans up. An order
outlives the request that places it: its run lives in the service, asks, and goes on when the answer comes in another
request. `uvicorn fastapi_service:app` serves it; run as a program, it serves and calls itself, and shows what is said.
Needs fastapi, uvicorn and httpx.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import trio
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

import blazen.asyncio as ba
from blazen import Context, Event, InputRequestEvent, ProgressEvent, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenError

# ---- the workflows

desks: list[str] = []  # what the writers of reports have at hand: a connection, a file, a model


class Topic(StartEvent):
    topic: str
    pages: int


@step
async def write(ctx: Context, ev: Topic) -> StopEvent:
    desks.append(ev.topic)
    try:
        for page in range(1, ev.pages + 1):
            await trio.sleep(0.01)  # the work; a step in trio, in the service's own thread
            ctx.write_event_to_stream(ProgressEvent(current=page, total=ev.pages, label=ev.topic))
    finally:
        desks.remove(ev.topic)
    return StopEvent(result=f"{ev.pages} pages on {ev.topic}")


class Priced(Event):
    item: str
    price: int


@step(run="asyncio", timeout=5.0)
async def price(ev: StartEvent) -> Priced:
    await asyncio.sleep(0)  # what belongs to asyncio, such as a database's pool, is awaited here
    return Priced(item=ev.item, price=len(ev.item) * 10)


@step
async def confirm(ctx: Context, ev: Priced) -> StopEvent:
    if await ctx.request_input(f"{ev.item} for {ev.price}?", schema=bool):
        return StopEvent(result=f"{ev.item} is on its way")
    return StopEvent(result="nothing ordered")


reports: Workflow[str] = Workflow("reports", [write], timeout=60.0)
orders: Workflow[str] = Workflow("orders", [price, confirm])


# ---- the service


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the runs of orders; they are cancelled, and have unwound, before the service ends."""
    async with asyncio.TaskGroup() as app.state.tasks:
        app.state.orders = {}
        try:
            yield
        finally:
            for handler in app.state.orders.values():
                handler.cancel("the service ends")


app = FastAPI(lifespan=lifespan)


async def keep(item: str, begun: asyncio.Future[ba.RunHandler[str]]) -> None:
    """Be the task an order lives in, from its first step to its last."""
    handler = ba.run_with_handler(orders, item=item)
    try:
        async with handler:
            app.state.orders[handler.run_id] = handler
            begun.set_result(handler)
    except BlazenError:
        logging.exception("order %s failed", handler.run_id)  # one that fails does not end the service
    finally:
        del app.state.orders[handler.run_id]


@app.get("/reports/{topic}")
async def report(topic: str, pages: int = 3) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        # A client that goes away cancels this generator, and so the run: the block is left once its steps are out.
        async with ba.run_with_handler(reports, topic=topic, pages=pages) as handler:
            async for event in handler.stream_events():
                assert isinstance(event, ProgressEvent)
                yield sent("progress", page=event.current, of=event.total)
            yield sent("done", report=(await handler.result()).result)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/desks")
async def who_works() -> list[str]:
    return desks


@app.post("/orders/{item}")
async def order(item: str) -> dict[str, str]:
    begun: asyncio.Future[ba.RunHandler[str]] = asyncio.get_running_loop().create_future()
    app.state.tasks.create_task(keep(item, begun))
    handler = await begun
    async for event in handler.stream_events():
        if isinstance(event, InputRequestEvent):
            return {"order": handler.run_id, "question": event.prompt}
    raise HTTPException(500, "the order ended and asked nothing")


@app.post("/orders/{run_id}/answer")
async def answer(run_id: str, yes: bool) -> dict[str, str]:
    handler = app.state.orders.get(run_id)
    if handler is None or not handler.pending_inputs():
        raise HTTPException(404, "no such order waits for an answer")
    handler.respond_to_input(handler.pending_inputs()[0].request_id, yes)
    return {"order": (await handler.result()).result}


def sent(kind: str, **data: Any) -> str:
    """A server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


# ---- the service calls itself


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[httpx.AsyncClient]:
    """The service on a free port of this machine, and a client for it."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve([listening]))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30.0) as client:
            yield client
    finally:
        server.should_exit = True
        await serving
        listening.close()


async def main() -> None:
    async with served() as client:
        async with client.stream("GET", "/reports/whales") as response:
            async for line in response.aiter_lines():
                if line:
                    print(line)

        async with client.stream("GET", "/reports/bees?pages=100000") as response:
            async for line in response.aiter_lines():
                if line:
                    break
            print("at work:", (await client.get("/desks")).json())
        while (await client.get("/desks")).json():
            await asyncio.sleep(0.001)
        print("the client has gone; at work: []")

        placed = (await client.post("/orders/teapot")).json()
        print(placed["question"])
        for _ in range(2):
            answered = await client.post(f"/orders/{placed['order']}/answer", params={"yes": True})
            print(answered.status_code, answered.json())


if __name__ == "__main__":
    asyncio.run(main())
