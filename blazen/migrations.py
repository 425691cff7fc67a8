"""Runs of an earlier version of a workflow, made to fit the version that goes on with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from blazen.errors import ValidationError
from blazen.events import Event


class PendingWork(msgspec.Struct):
    """An event that a step has yet to deal with.

    Attributes:
        step: The name of the step; may be set.
        event: The event; may be set to another one.
    """

    step: str
    event: Event


class GatheredEvents(msgspec.Struct):
    """Events that `ctx.collect_events` has gathered, and that are not complete.

    Attributes:
        step: The name of the step that gathers; may be set.
        events: What it has, in the order in which the events were made; items may be replaced, not added or removed.
    """

    step: str
    events: list[Event]


class ParkedRun(msgspec.Struct):
    """A run as a migration gets it: what is in it may be changed, in place.

    Attributes:
        run_id: The run.
        workflow: The name of its workflow.
        version: The version that has written it.
        state: Its state: values by key. What was stored with `ctx.set_value` is a `StateValue`.
        work: What is to be run; items may be changed or removed, not added.
        gathered: What has been gathered.
    """

    run_id: str
    workflow: str
    version: str
    state: dict[str, Any]
    work: list[PendingWork]
    gathered: list[GatheredEvents]


Migration = Callable[[ParkedRun], object]


class Migrating(msgspec.Struct, frozen=True):
    """The migration that a run needs.

    Attributes:
        fn: The workflow's function.
        run_id: The run.
        workflow: The name of its workflow.
        version: The version that has written it.
    """

    fn: Migration
    run_id: str
    workflow: str
    version: str

    def apply(self, remembered: dict[str, Any], values: dict[str, Any]) -> None:
        """Change what was remembered of the run, as `blazen._resuming` has it, and its state.

        Raises:
            ValidationError: The function has failed, or has left what is no run.
        """
        attempts = list(remembered["attempts"])
        pending = [PendingWork(one[0], one[2]) for one in attempts]
        places = {id(work): place for place, work in enumerate(pending)}
        joins = list(remembered["joins"])
        gathered = [GatheredEvents(step, [events[seq] for seq in sorted(events)]) for step, _, events in joins]
        parked = ParkedRun(self.run_id, self.workflow, self.version, values, list(pending), list(gathered))
        try:
            self.fn(parked)
        except Exception as error:
            raise ValidationError(f"{self._what()} failed: {type(error).__name__}: {error}") from error
        work = []
        for one in parked.work:
            place = places.pop(id(one), None)
            if place is None:
                raise ValidationError(f"{self._what()} has added to the work, or has an item of it twice: {one!r}")
            _check(one.step, [one.event], self._what())
            work.append((one.step, attempts[place][1], one.event, *attempts[place][3:]))
        if not isinstance(parked.state, dict) or any(type(key) is not str for key in parked.state):
            raise ValidationError(f"{self._what()} has left a state that is no dict from strings")
        if parked.state is not values:
            content = dict(parked.state)
            values.clear()
            values.update(content)
        if [id(one) for one in parked.gathered] != [id(one) for one in gathered]:
            raise ValidationError(f"{self._what()} has added to what was gathered, or has removed from it")
        for place, (join, (_, key, events)) in enumerate(zip(gathered, joins, strict=True)):
            _check(join.step, join.events, self._what())
            if len(join.events) != len(events):
                raise ValidationError(f"{self._what()} has left {len(join.events)} of {len(events)} gathered events")
            joins[place] = (join.step, key, dict(zip(sorted(events), join.events, strict=True)))
        remembered["attempts"] = work
        remembered["joins"] = joins

    def _what(self) -> str:
        return f"the migration from version {self.version!r}"


def _check(step: object, events: list[Any], what: str) -> None:
    if type(step) is not str:
        raise ValidationError(f"{what} has left a step that is no name: {step!r}")
    for event in events:
        if not isinstance(event, Event):
            raise ValidationError(f"{what} has left what is no event for step {step!r}: {type(event).__name__}")


def check_migrations(value: object, version: str, where: str) -> dict[str, Migration]:
    """What `Workflow(migrations=...)` was given.

    Raises:
        ValidationError: It is no dict from versions to functions, or is from the workflow's own version.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValidationError(f"{where} migrations must be a dict from versions to functions, got {value!r}")
    for earlier, fn in value.items():
        if not isinstance(earlier, str) or not callable(fn):
            raise ValidationError(f"{where} migrations: from a version to a function, got {earlier!r}: {fn!r}")
        if earlier == version:
            raise ValidationError(f"{where} migrations: {earlier!r} is the version of the workflow itself")
    return dict(value)
