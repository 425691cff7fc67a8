"""A queue of 1,000,000 events gives its memory back when it has been emptied, while the run goes on."""

from __future__ import annotations

import gc
import sys
import warnings

from counting import MIB, resident

from blazen import Context, Event, StartEvent, StopEvent, Workflow, errors, step

EVENTS = 1_000_000
held: dict[str, int] = {}


class Many(Event):
    pass


class Last(Event):
    pass


@step
def fan_out(ev: StartEvent) -> list[Many | Last]:
    held["before"] = resident()
    events: list[Many | Last] = [Many()] * EVENTS
    events.append(Last())
    return events


@step
def take(ctx: Context, ev: Many) -> None:
    if "peak" not in held:
        held["peak"] = resident()
    held["taken"] = held.get("taken", 0) + 1


@step
def last(ctx: Context, ev: Last) -> StopEvent:
    gc.collect()
    held["after"] = resident()
    return StopEvent()


# Making a million and collecting garbage hold the loop for long on a busy machine; that is not what this is about.
warnings.simplefilter("ignore", errors.BlazenWarning)
Workflow("queue", [fan_out, take, last]).run_sync()
grown = held["peak"] - held["before"]
kept = held["after"] - held["before"]
print(f"grown by {grown / MIB:.1f} MiB, kept {kept / MIB:.1f} MiB")
if held["taken"] != EVENTS:
    sys.exit(f"{held['taken']} of {EVENTS} events were taken")
if grown < 16 * MIB:
    sys.exit("the queue did not grow: this shows nothing")
if kept > 2 * MIB:
    sys.exit(f"of {grown / MIB:.1f} MiB the queue kept {kept / MIB:.1f} MiB")
