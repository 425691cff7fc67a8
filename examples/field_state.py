"""An import job that keeps its progress as typed state.

    python examples/field_state.py

The job has a few small fields, each of which can be read and set alone; a connection, which lives in this process and
is never stored; and the rows it has read, which are many and go into a file of their own instead of into the state.

    begin -> read (a page at a time) -> report
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from blazen import BlazenState, Context, Event, StartEvent, StopEvent, Workflow, step

PAGES = [
    [{"name": "Ada", "born": "1815"}, {"name": "Alan", "born": "1912"}],
    [{"name": "Grace", "born": "1906"}, {"name": "nobody", "born": "?"}],
    [{"name": "Edsger", "born": "1930"}],
]


class Source:
    """Stands for a connection to a server: it cannot be written down, only opened again."""

    def __init__(self, address: str) -> None:
        self.address = address

    def page(self, number: int) -> list[dict[str, str]]:
        return PAGES[number]


class JsonFiles:
    """A field store: each field is a file."""

    def __init__(self) -> None:
        self.folder = Path()

    def save(self, key: str, value: Any, ctx: Context) -> None:
        self.path(key).write_text(json.dumps(value), encoding="utf-8")

    def load(self, key: str, ctx: Context) -> Any:
        return json.loads(self.path(key).read_text(encoding="utf-8"))

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


FILES = JsonFiles()


class ImportJob(BlazenState):
    address: str
    pages_done: int = 0
    rejected: list[str] = []
    people: list[dict[str, Any]] = []
    source: Source | None = None

    class Meta:
        transient = {"source"}
        store_by = {"people": FILES}

    def restore(self) -> None:
        """Called whenever the job is read: also in a process that has never seen its connection."""
        self.source = Source(self.address)


class Page(Event):
    number: int


class Read(Event):
    pass


@step
async def begin(ctx: Context, ev: StartEvent) -> Page:
    ctx.set("job", ImportJob(ev.address))
    return Page(0)


@step
async def read(ctx: Context, ev: Page) -> Page | Read:
    async with ctx.edit("job") as cell:
        job: ImportJob = cell.value
        assert job.source is not None  # restore() has opened it
        for row in job.source.page(ev.number):
            if row["born"].isdecimal():
                job.people.append({"name": row["name"], "born": int(row["born"])})
            else:
                job.rejected.append(row["name"])
        job.pages_done += 1
    print(f"page {ev.number}: {ctx.get('job.pages_done')} of {len(PAGES)} pages done")  # the file is not read for this
    return Page(ev.number + 1) if ev.number + 1 < len(PAGES) else Read()


@step
async def report(ctx: Context, ev: Read) -> StopEvent:
    print("keys:", ", ".join(ctx.keys()))
    print("file:", FILES.path("job.people").read_text(encoding="utf-8"))
    return StopEvent(result=ctx.get("job"))


importer = Workflow[ImportJob]("importer", [begin, read, report])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        FILES.folder = Path(folder)
        job = importer.run_sync(address="people.example").result
    oldest = min(job.people, key=lambda person: person["born"])
    print(f"{len(job.people)} people from {job.address}, the oldest is {oldest['name']}; rejected: {job.rejected}")


if __name__ == "__main__":
    main()
