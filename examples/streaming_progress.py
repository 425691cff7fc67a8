"""Streaming progress: what a run shows while it works, to any number of readers.

Steps write events to the stream with `ctx.write_event_to_stream`; whoever holds the handler reads them as they come. A
reader that is interested only in the newest asks for a small buffer, and is told how many it has missed.
"""

from __future__ import annotations

import trio
import trio.testing

from blazen import Context, Event, ProgressEvent, RunHandler, StartEvent, StopEvent, Workflow, step

PAGES = 8


class Scanned(Event):
    page: int


@step
async def scan(ctx: Context, ev: StartEvent) -> list[Scanned]:
    pages = []
    for page in range(1, PAGES + 1):
        await trio.sleep(0.5)  # the scanner
        ctx.write_event_to_stream(ProgressEvent(current=page, total=PAGES, label="scanning"))
        pages.append(Scanned(page))
    return pages


@step
async def bind(ctx: Context, ev: Scanned) -> StopEvent | None:
    pages = ctx.collect_events(ev, PAGES)
    return None if pages is None else StopEvent(result=f"a book of {len(pages)} pages")


scanning: Workflow[str] = Workflow("scanning", [scan, bind])


async def show_bar(handler: RunHandler[str]) -> None:
    async for event in handler.stream_events():
        if isinstance(event, ProgressEvent) and event.total:
            done = int(20 * event.current / event.total)
            print(f"{trio.current_time():4.1f} s  {event.label} [{'#' * done}{'.' * (20 - done)}]")


async def look_now_and_then(handler: RunHandler[str]) -> None:
    newest, seen = handler.stream_events(buffer=1), []
    async for event in newest:
        assert isinstance(event, ProgressEvent)
        seen.append(event.current)
        await trio.sleep(1.7)
    print(f"a reader that looks every 1.7 s has seen pages {seen}, and missed {newest.lost}")


async def main() -> None:
    async with scanning.run_with_handler() as handler, trio.open_nursery() as nursery:
        nursery.start_soon(show_bar, handler)
        nursery.start_soon(look_now_and_then, handler)
    print((await handler.result()).result)


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.0))
