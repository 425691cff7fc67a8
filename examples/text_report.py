"""Reports on a folder of text documents: their key terms, which are alike, and which passages are closest.

    python examples/text_report.py [folder]

Each document goes its own way through the workflow, all of them at once: read in a thread, cut into passages, then
counted and embedded side by side. When the last one is through, they are compared.

    find -> read -> cut -> count -> pair -> gather -> compare
                        -> embed ->

What each step did is written to a page for the browser. Everything is computed here, without the network. One thing is
staged: the embedding of the largest document waits for a source that never answers, to show what becomes of a step that
takes too long.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from blazen import Context, Event, ProgressEvent, StartEvent, StepRecord, StopEvent, Workflow, step
from blazen.record import RunRecord

try:
    from texts import documents, vectors
    from texts.view import Progress, plain, print_report, print_times
except ModuleNotFoundError as missing:
    if missing.name != "numpy":
        raise
    sys.exit("This example needs NumPy, which is not installed: python -m pip install numpy")

PATIENCE = 0.8  # seconds that one embedding may take
CLOSEST = 3  # pairs of passages in the report


class Folder(StartEvent):
    path: str


class Found(Event):
    name: str
    path: str


class Text(Event):
    name: str
    text: str


class Passages(Event):
    name: str
    passages: list[str]


class Counted(Event):
    name: str
    words: int
    terms: Counter[str]


class Embedded(Event):
    name: str
    rows: Any  # one vector for each passage; of a document that was cut off, one for the whole
    cut_off: bool = False


class Profile(Event):
    name: str
    passages: list[str]
    counted: Counted
    embedded: Embedded


class Skipped(Event):
    name: str
    reason: str


class AllIn(Event):
    profiles: list[Profile]
    skipped: list[Skipped]


@dataclass
class Row:
    """What the report says about one document."""

    name: str
    words: int
    passages: int
    key_terms: list[str]
    nearest: str | None
    similarity: float
    cut_off: bool
    staged: bool


@dataclass
class Pair:
    """Two passages of different documents that are alike."""

    similarity: float
    left: tuple[str, int]  # document, number of the passage
    right: tuple[str, int]
    shared: list[str]  # the most telling terms that both use


@dataclass
class Report:
    rows: list[Row]
    pairs: list[Pair]
    skipped: list[tuple[str, str]]


@step(run="thread")
def find(ctx: Context, ev: Folder) -> list[Found | Skipped] | StopEvent:
    """Look for documents, and send each on its way."""
    found: list[Found | Skipped] = []
    largest = -1
    for entry in documents.find(Path(ev.path)):
        ctx.check_cancelled()  # a thread cannot be stopped from outside: it looks whether it should
        if isinstance(entry, documents.Refused):
            found.append(Skipped(entry.name, entry.reason))
            continue
        found.append(Found(entry.name, entry.path))
        if entry.size > largest:
            largest = entry.size
            ctx.set("staged", entry.name)
    if not found:
        return StopEvent(Report([], [], []))
    ctx.set("expected", len(found))
    return found


@step(run="thread", max_concurrency=8)
def read(ev: Found) -> Text | Skipped:
    """Read one document. A file that is no text does not spoil the report on the others."""
    try:
        return Text(ev.name, documents.read(ev.path))
    except documents.Unreadable as error:
        return Skipped(ev.name, str(error))


@step(run="thread", max_concurrency=4)
def cut(ev: Text) -> Passages:
    """Cut a document into passages; two steps take them from here."""
    return Passages(ev.name, documents.cut(ev.text))


@step(run="thread", max_concurrency=4)
def count(ev: Passages) -> Counted:
    """Count the words and terms of a document."""
    text = "\n".join(ev.passages)
    return Counted(ev.name, documents.count_words(text), documents.count_terms(text))


def rows_of(passages: list[str]) -> vectors.Vectors:
    """One vector for each passage."""
    return vectors.embed([documents.count_terms(passage) for passage in passages])


async def answer_of_the_staged_source() -> None:
    """Stands for a service that does not answer."""
    await trio.sleep_forever()


async def embed_whole(ev: Passages, error: Exception) -> Embedded:
    """What `embed` falls back to: one vector for the whole document."""
    whole = "\n".join(ev.passages)
    return Embedded(ev.name, await trio.to_thread.run_sync(rows_of, [whole]), cut_off=True)


@step(timeout=PATIENCE, on_error=embed_whole, max_concurrency=8)
async def embed(ctx: Context, ev: Passages) -> Embedded:
    """Make a vector of each passage."""
    if ev.name == ctx.get("staged"):
        await answer_of_the_staged_source()
    return Embedded(ev.name, await trio.to_thread.run_sync(rows_of, ev.passages))


@step
def pair(ctx: Context, ev: Passages | Counted | Embedded) -> Profile | None:
    """Put together what belongs to one document."""
    parts = ctx.collect_events(ev, [Passages, Counted, Embedded], key=ev.name)
    if parts is None:
        return None
    passages, counted, embedded = parts
    return Profile(ev.name, passages.passages, counted, embedded)


@step
def gather(ctx: Context, ev: Profile | Skipped) -> AllIn | None:
    """Wait for every document, and say how far it is."""
    expected = ctx.get("expected")
    through = ctx.get("through", 0) + 1
    ctx.set("through", through)
    ctx.write_event_to_stream(ProgressEvent(through, expected, label=ev.name))
    events = ctx.collect_events(ev, expected)
    if events is None:
        return None
    return AllIn(
        profiles=sorted((one for one in events if isinstance(one, Profile)), key=lambda one: one.name),
        skipped=sorted((one for one in events if isinstance(one, Skipped)), key=lambda one: one.name),
    )


@step(run="thread")
def compare(ctx: Context, ev: AllIn) -> StopEvent:
    """Compare all documents, and the passages of those that are most alike."""
    profiles = ev.profiles
    skipped = [(one.name, one.reason) for one in ev.skipped]
    if not profiles:
        return StopEvent(Report([], [], skipped))
    whole = vectors.stack([profile.embedded.rows.sum(axis=0) for profile in profiles])
    weights = vectors.inverse_frequency(whole)
    nearest = vectors.nearest(vectors.weigh(whole, weights))
    used_by = Counter(term for profile in profiles for term in profile.counted.terms)
    rows = []
    for profile, neighbour in zip(profiles, nearest, strict=True):
        ctx.check_cancelled()
        rows.append(
            Row(
                name=profile.name,
                words=profile.counted.words,
                passages=len(profile.passages),
                key_terms=vectors.key_terms(profile.counted.terms, used_by, len(profiles)),
                nearest=profiles[neighbour[0]].name if neighbour else None,
                similarity=neighbour[1] if neighbour else 0.0,
                cut_off=profile.embedded.cut_off,
                staged=profile.name == ctx.get("staged"),
            )
        )
    return StopEvent(Report(rows, closest_passages(profiles, nearest, weights, used_by), skipped))


def closest_passages(
    profiles: list[Profile],
    nearest: list[tuple[int, float] | None],
    weights: vectors.Vectors,
    used_by: Counter[str],
) -> list[Pair]:
    """The closest two passages of each of the pairs of documents that are most alike, closest first."""
    likeness = {
        (min(one, other[0]), max(one, other[0])): other[1]
        for one, other in enumerate(nearest)
        if other and not (profiles[one].embedded.cut_off or profiles[other[0]].embedded.cut_off)
    }
    found = []
    for left, right in sorted(likeness, key=lambda both: -likeness[both])[:CLOSEST]:
        one, other = profiles[left], profiles[right]
        row, column, similarity = vectors.closest_pair(
            vectors.weigh(one.embedded.rows, weights), vectors.weigh(other.embedded.rows, weights)
        )
        shared = documents.count_terms(one.passages[row]) & documents.count_terms(other.passages[column])
        telling = vectors.key_terms(shared, used_by, len(profiles))
        found.append(Pair(similarity, (one.name, row + 1), (other.name, column + 1), telling))
    return sorted(found, key=lambda pair: -pair.similarity)


report_on: Workflow[Report] = Workflow("text_report", [find, read, cut, count, embed, pair, gather, compare])


async def watch(folder: Path) -> tuple[Report, list[StepRecord], RunRecord]:
    """Run the workflow, show how far it is, and keep what its steps took and did."""
    records: list[StepRecord] = []
    with Progress(sys.stderr) as progress:
        async with report_on.options(record=True).run_with_handler(path=str(folder)) as handler:
            async for event in handler.stream_events(lifecycle=True):
                if isinstance(event, ProgressEvent):
                    progress.show(int(event.current), int(event.total or 0), event.label)
                elif isinstance(event, StepRecord):
                    records.append(event)
            result = await handler.result()
    assert result.record is not None
    return result.result, records, result.record


def write_page(record: RunRecord, path: Path) -> None:
    """Write the page that shows the run, and say where it is. Without it the report is none the worse."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.to_html(), encoding="utf-8")
    except OSError as error:
        print(f"text_report: {str(path)!r} cannot be written: {error.strerror}", file=sys.stderr)
        return
    print(f"\nWhat each step did and when, to open in a browser: {plain(os.path.relpath(path))}", flush=True)


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal need not know every character
    parser = argparse.ArgumentParser(
        description="Report on a folder of text documents: key terms, neighbours, closest passages.",
        epilog=f"Reads {', '.join(documents.SUFFIXES)} in the folder and below; hidden folders are passed over.",
    )
    own = Path(os.path.relpath(Path(__file__).resolve().parent.parent / "docs"))
    parser.add_argument("folder", nargs="?", type=Path, default=own, help="default: the documentation of blazen")
    page = Path(__file__).resolve().parent.parent / "build" / "text_report.html"
    parser.add_argument(
        "--page", type=Path, default=page, help=f"where the run is shown; default: {os.path.relpath(page)}"
    )
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    try:
        os.scandir(folder).close()
    except OSError as error:
        print(f"text_report: the folder {str(folder)!r} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    try:
        report, records, record = trio.run(partial(watch, folder))
    except KeyboardInterrupt:
        print("text_report: interrupted; every step has stopped.", file=sys.stderr)
        return 130
    if not report.rows and not report.skipped:
        print(f"text_report: no {', '.join(documents.SUFFIXES)} files in {str(folder)!r} or below", file=sys.stderr)
        return 1
    print_report(report, folder, PATIENCE)
    print_times(records)
    write_page(record, options.page)
    return 0 if report.rows else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
