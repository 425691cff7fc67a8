"""Workflows: steps put together, checked once, run any number of times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from blazen._core import router as _router
from blazen._core import run as _run
from blazen._core.state import StateStore, check_types
from blazen.errors import CancelledError, ValidationError, WorkflowError
from blazen.events import (
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    StartEvent,
    StopEvent,
    UsageEvent,
    convert,
    start_event,
)
from blazen.graph import Graph, build_graph
from blazen.session import SESSION_POLICIES
from blazen.steps import check_timeout, make_spec, show, spec_of

if TYPE_CHECKING:
    from blazen.engine.handler import RunHandler
    from blazen.engine.result import WorkflowResult
    from blazen.engine.run import Run
    from blazen.migrations import ParkedRun
    from blazen.snapshot import Snapshot
    from blazen.store.base import CheckpointStore

_run.configure_errors(Event, UsageEvent, ValidationError, WorkflowError, CancelledError)
_router.configure(Event, DynamicEvent, convert, WorkflowError)

Out = TypeVar("Out")

_LONGEST_STREAM = 2**31
# What every workflow may store, besides the classes its steps mention.
_KNOWN_EVENTS: frozenset[type[Event]] = frozenset(
    {DynamicEvent, InputRequestEvent, InputResponseEvent, ProgressEvent, StartEvent, StopEvent, UsageEvent}
)


class Workflow(Generic[Out]):
    """Steps that pass typed events to each other.

    Building checks the graph and decides the routes; nothing of that is done again when it runs. A workflow never
    changes and may be run any number of times at once. `Workflow[str](...)` tells type checkers what `result` is.

    Args:
        name: Names the workflow in messages, snapshots and to peers.
        steps: Functions decorated with `@step`, or bound methods of objects whose methods are.
        timeout: Seconds a run may take, or None.
        step_timeout: Seconds each attempt of a step may take that names no `timeout` of its own, or None.
        version: Compared when a run is resumed, from a snapshot or a store.
        types: Classes of your own whose instances may be stored with `ctx.set`: dataclasses, msgspec, pydantic. And
            `BlazenState` classes defined inside a function, which cannot be found again otherwise.
        stream_keep: How many events a handler's stream keeps for late readers; None keeps all until the block is left.
        session_policy: What a snapshot does about `ctx.session`: `"pickle_or_error"`, `"warn_drop"`, `"hard_error"`.
        cleanup_grace: Seconds that `ctx.cleanup()` and threads that were told to stop have.
        migrations: How runs that earlier versions have left fit this one: by earlier version, a function that changes
            a `ParkedRun` in place. It may be called more than once for a run.
    Raises:
        ValidationError: Something is wrong with a step, with how the steps fit together, or with an argument; the
            message names it and what to do.
    """

    __slots__ = (
        "_classes",
        "_cleanup_grace",
        "_durability",
        "_events",
        "_graph",
        "_guarded",
        "_migrations",
        "_record",
        "_router",
        "_run_id",
        "_session",
        "_session_policy",
        "_store",
        "_stream_keep",
        "_timeout",
        "_types",
        "_version",
        "__weakref__",
    )

    def __init__(
        self,
        name: str,
        steps: Sequence[Callable[..., Any]],
        *,
        timeout: float | None = None,
        step_timeout: float | None = None,
        version: str = "1",
        types: Iterable[type] = (),
        stream_keep: int | None = None,
        session_policy: Literal["pickle_or_error", "warn_drop", "hard_error"] = "pickle_or_error",
        cleanup_grace: float = 5.0,
        migrations: Mapping[str, Callable[[ParkedRun], object]] | None = None,
    ) -> None:
        if isinstance(steps, str | bytes) or not isinstance(steps, Iterable):
            raise ValidationError(f"workflow {name!r}: steps must be a list of steps, got {show(steps)}")
        self._build(
            name,
            [spec_of(one) for one in steps],
            timeout=timeout,
            step_timeout=step_timeout,
            version=version,
            types=types,
            stream_keep=stream_keep,
            session_policy=session_policy,
            cleanup_grace=cleanup_grace,
            migrations=migrations,
        )

    def _build(
        self,
        name: str,
        specs: list[Any],
        *,
        timeout: float | None,
        step_timeout: float | None,
        version: str,
        types: Iterable[type],
        stream_keep: int | None,
        session_policy: str,
        cleanup_grace: float,
        migrations: Mapping[str, Callable[[ParkedRun], object]] | None,
    ) -> None:
        where = f"workflow {name!r}:"
        if isinstance(types, str | bytes) or not isinstance(types, Iterable):
            raise ValidationError(f"{where} types must be a list of classes, got {show(types)}")
        self._types = check_types(tuple(types))
        self._graph = build_graph(name, specs, self._types, version=version, step_timeout=step_timeout)
        self._timeout = check_timeout(timeout, f"{where} timeout")
        self._router = _router.Router(self._graph, step_timeout=check_timeout(step_timeout, f"{where} step_timeout"))
        self._cleanup_grace = _check_grace(cleanup_grace, where)
        if not isinstance(version, str) or not version:
            raise ValidationError(f"{where} version must be a non-empty str, got {show(version)}")
        if session_policy not in SESSION_POLICIES:
            raise ValidationError(
                f"{where} session_policy must be one of {', '.join(SESSION_POLICIES)}, got {show(session_policy)}"
            )
        if stream_keep is not None and (
            isinstance(stream_keep, bool) or not isinstance(stream_keep, int) or not 0 < stream_keep < _LONGEST_STREAM
        ):
            raise ValidationError(f"{where} stream_keep must be an int above 0 or None, got {show(stream_keep)}")
        self._version = version
        self._migrations: dict[str, Callable[[ParkedRun], object]] = {}
        if migrations is not None:
            from blazen.migrations import check_migrations

            self._migrations = check_migrations(migrations, version, where)
        self._session_policy = session_policy
        self._stream_keep = stream_keep
        self._run_id: str | None = None
        self._session: dict[str, object] | None = None
        self._events = _KNOWN_EVENTS.union(self._graph.event_classes.values())
        self._guarded = False
        self._record = False
        self._classes: Any = None
        self._store: CheckpointStore | None = None
        self._durability: str = "none"

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._graph.name

    @property
    def version(self) -> str:
        """The workflow's version."""
        return self._version

    @property
    def graph(self) -> Graph:
        """The checked graph: steps, event classes, routes."""
        return self._graph

    def options(
        self,
        *,
        timeout: float | None = None,
        run_id: str | None = None,
        session: dict[str, object] | None = None,
        store: CheckpointStore | None = None,
        durability: Literal["none", "async", "sync"] | None = None,
        cleanup_grace: float | None = None,
        record: bool | None = None,
    ) -> Workflow[Out]:
        """A cheap copy of this workflow with other settings for its runs; what is left out stays as it is.

        Args:
            timeout: Seconds a run may take.
            run_id: The id of the run, a UUID, instead of a new one.
            session: The dict that steps see as `ctx.session`; the same object.
            store: Where its runs are kept, so that they outlive this process; see `recover` and `serve`.
            durability: `"sync"`, which is what a store means if this is left out: what a step returned is dispatched
                only after it is in the store. `"async"`: the store follows within 50 ms. `"none"`: nothing is stored.
            cleanup_grace: Seconds that `ctx.cleanup()` and threads that were told to stop have.
            record: Keep a `RunRecord` of each run: the `record` of its result, its handler or its error.
        Raises:
            ValidationError: A setting is out of its range.
        """
        where = f"workflow {self.name!r}: options:"
        copy: Workflow[Out] = Workflow.__new__(type(self))
        for slot in Workflow.__slots__:
            if slot != "__weakref__":
                setattr(copy, slot, getattr(self, slot))
        if timeout is not None:
            copy._timeout = check_timeout(timeout, f"{where} timeout")
        if run_id is not None:
            copy._run_id = _check_run_id(run_id, where)
        if session is not None:
            if not isinstance(session, dict):
                raise ValidationError(f"{where} session must be a dict, got {type(session).__name__!r}")
            copy._session = session
        if store is not None:
            from blazen.store.base import CheckpointStore

            if not isinstance(store, CheckpointStore):
                raise ValidationError(f"{where} store must be a CheckpointStore such as SqliteStore, got {show(store)}")
            copy._store = store
            copy._durability = "sync"
        if durability is not None:
            if durability not in ("none", "async", "sync"):
                raise ValidationError(f"{where} durability must be 'none', 'async' or 'sync', got {show(durability)}")
            if durability != "none" and copy._store is None:
                raise ValidationError(f"{where} durability={durability!r} needs a store: give store= too")
            copy._durability = durability
        if cleanup_grace is not None:
            copy._cleanup_grace = _check_grace(cleanup_grace, where)
        if record is not None:
            if not isinstance(record, bool):
                raise ValidationError(f"{where} record must be True or False, got {show(record)}")
            copy._record = record
        return copy

    async def run(self, input: Any = None, /, **fields: Any) -> WorkflowResult[Out]:
        """Run the workflow once and return what its `StopEvent` carried. Inside trio.

        Cancelling the caller cancels the run: each step is stopped at its next checkpoint, and its cleanup has finished
        before the cancellation reaches you. Nobody can read the stream or answer questions; see `run_with_handler`.

        Args:
            input: Any object; `ev.data` of the `StartEvent`. Give either this or `fields`.
            **fields: The input as keywords.
        Raises:
            ValidationError: The input does not fit the workflow's typed `StartEvent`, or this is not called inside
                trio. No step has run.
            TimeoutError: The workflow's `timeout` ran out, or a step's; `elapsed_ms` says after how long.
            WorkflowError: A step raised, and that exception is the `__cause__`; or the run could not go on.
        """
        start = self._start(input, fields)
        if self._durability != "none":
            return await self._run_stored(start)
        return await self._new_run(None).execute(start)

    def run_sync(self, input: Any = None, /, **fields: Any) -> WorkflowResult[Out]:
        """Run the workflow once in the calling thread, without an event loop of your own.

        Ctrl-C cancels the run, and `KeyboardInterrupt` comes out once its steps have unwound.

        Args:
            input: As of `run`.
            **fields: As of `run`.
        Raises:
            ValidationError: As of `run`; or an event loop is running in this thread.
            TimeoutError: As of `run`.
            WorkflowError: As of `run`.
        """
        start = self._start(input, fields)
        from blazen.engine.calling import run_in_own_loop

        if self._durability != "none":
            return run_in_own_loop(self.name, partial(self._run_stored, start))
        return run_in_own_loop(self.name, lambda: self._new_run(None).execute(start))

    def run_with_handler(self, input: Any = None, /, **fields: Any) -> RunHandler[Out]:
        """A run to watch and steer: `async with workflow.run_with_handler(...) as handler`. Inside trio.

        Args:
            input: As of `run`.
            **fields: As of `run`.
        Raises:
            ValidationError: As of `run`.
        """
        start = self._start(input, fields)
        from blazen._core.stream import EventStream
        from blazen.engine.handler import RunHandler

        run = self._new_run(EventStream(self._stream_keep or 0))
        if self._durability != "none":
            from blazen.durability.starting import keep_new

            keep_new(run, self)
        return RunHandler(run, start)

    async def _run_stored(self, start: Event) -> WorkflowResult[Out]:
        """`run` where runs are stored."""
        return await self._see_through(self._stored_handler(start))

    def _stored_handler(self, start: Event) -> RunHandler[Out]:
        """Of a run that is stored and not watched: others may ask something of it, so it has what a handler needs."""
        from blazen._core.stream import EventStream
        from blazen.durability.starting import keep_new
        from blazen.engine.handler import RunHandler

        run = self._new_run(EventStream(1))
        keep_new(run, self)
        return RunHandler(run, start)

    async def _see_through(self, handler: RunHandler[Out]) -> WorkflowResult[Out]:
        async with handler:
            return await handler.result()

    def begin(self, input: Any, fields: dict[str, Any]) -> Callable[[], Awaitable[WorkflowResult[Out]]]:
        """Make a run now, with the caller's context variables; returns what awaits it. `blazen.asyncio` calls it."""
        start = self._start(input, fields)
        if self._durability != "none":
            return partial(self._see_through, self._stored_handler(start))
        return partial(self._new_run(None).execute, start)

    def resume(self, snapshot: Snapshot | str, *, trust_native: bool = False) -> RunHandler[Out]:
        """Go on with a run where a snapshot of it was taken: `async with workflow.resume(snapshot) as handler`.

        With `options(store=...)` also a run that is in the store, by its id, where it was left or interrupted; its
        stream is there from the start. A snapshot of a run that the store has is taken only if the store has it paused,
        and as it was then.

        Inside trio, in any process that has a workflow of this name and version. What had finished does not run again;
        an attempt that had begun begins anew, with `ctx.attempt` one higher. Time that was left is left still. The
        stream begins here, with the questions that are open. `options(timeout=, session=, run_id=)` count for the run:
        without them it has the timeout of this workflow, less the time it has used, and its own session and id.

        Args:
            snapshot: As `handler.pause()`, `handler.snapshot()` or `Snapshot.from_bytes` returned it; or the id of a
                run that is in the store.
            trust_native: Whether values that were pickled may be loaded, if `Snapshot.from_bytes` has not been told. A
                snapshot of this very process may always.
        Raises:
            ValidationError: It is of another workflow or version; a step with something to do is gone, or does not
                accept its event any more; something does not fit its class; a pickle is not trusted; it is to be
                recorded; or this is not called inside trio. Nothing has run.
        """
        from blazen._core.stream import EventStream
        from blazen._resuming import prepare, read
        from blazen.snapshot import Snapshot

        if isinstance(snapshot, str):
            return self._go_on_with(snapshot)
        if not isinstance(snapshot, Snapshot):
            raise ValidationError(
                f"workflow {self.name!r}: resume takes a Snapshot, got {show(snapshot)}; bytes become one by "
                "Snapshot.from_bytes"
            )
        if self._record:
            raise ValidationError(
                f"workflow {self.name!r}: a record begins with its run, and a run that is resumed has begun before: "
                "resume it with options(record=False)"
            )
        plan = read(
            snapshot,
            self._graph,
            self._version,
            self._class_table(),
            migrations=self._migrations,
            trust_native=trust_native,
            session=self._session is None,
        )
        copy = self.options(
            run_id=self._run_id or snapshot.run_id, session=plan.session if self._session is None else None
        )
        run = copy._new_run(EventStream(self._stream_keep or 0))
        go_on = prepare(run, plan, self._types)
        from blazen.engine.handler import RunHandler

        if self._durability == "none":
            return RunHandler(run, None, go_on)
        from blazen.durability.starting import keep_snapshot

        return RunHandler(run, None, go_on, prepare=keep_snapshot(run, copy, snapshot))

    async def result_of(self, run_id: str) -> WorkflowResult[Out]:
        """The result of a run that has ended and is in the store of `options(store=...)`.

        Raises:
            ValidationError: There is no store, no such run, or it has not ended.
            WorkflowError: It failed; the message says with what.
            CancelledError: It was cancelled.
        """
        where = f"workflow {self.name!r}: result_of:"
        if self._store is None:
            raise ValidationError(f"{where} say where the run is: options(store=...)")
        from blazen.durability.results import result_of

        return await result_of(self._store, _check_run_id(run_id, where), self._class_table())

    def _go_on_with(self, run_id: str) -> RunHandler[Out]:
        where = f"workflow {self.name!r}: resume:"
        if self._store is None:
            raise ValidationError(f"{where} to go on with a run by its id, say where it is: options(store=...)")
        if self._record:
            raise ValidationError(f"{where} a record begins with its run: resume with options(record=False)")
        from blazen.durability.starting import go_on

        return go_on(self, self._store, _check_run_id(run_id, where))

    def take_snapshot(self, run: Run) -> Snapshot:
        """A snapshot of one of this workflow's runs; `handler.snapshot()` and `handler.pause()` call it."""
        from blazen._snapshots import take

        return take(
            run, version=self._version, policy=self._session_policy, types=self._types, classes=self._class_table()
        )

    def _class_table(self) -> Any:
        if self._classes is None:
            from blazen._core.codec import ClassTable

            self._classes = ClassTable({*self._types, *self._events})
        return self._classes

    def _start(self, input: Any, fields: dict[str, Any]) -> Event:
        if fields:
            if input is not None:
                raise ValidationError(
                    f"workflow {self.name!r}: give the input either as one object or as keywords, not both"
                )
            input = fields
        elif input is None and self._graph.start_class is not None:
            input = fields
        return start_event(self._graph.start_class, input)

    def _new_run(self, stream: Any, kind: Callable[..., Run] | None = None) -> Run:
        if not self._guarded:
            _load_engine(self._graph)
            self._guarded = True
        if not _in_trio():
            raise ValidationError(
                f"workflow {self.name!r} is run outside of trio: call it inside trio.run(...), in asyncio use "
                "blazen.asyncio.run(workflow, ...), or run_sync() where no event loop runs"
            )
        run = (kind or _new_run)(
            self._router,
            StateStore(self._types, self._events),
            session={} if self._session is None else self._session,
            stream=stream,
            run_id=self._run_id,
            timeout=self._timeout,
            cleanup_grace=self._cleanup_grace,
        )
        run.origin = self
        if self._record:
            run.keep_record(self._version)
        return run

    def __repr__(self) -> str:
        return f"<blazen.Workflow {self.name!r}, {len(self._graph.specs)} steps>"


class WorkflowBuilder:
    """Builds a workflow call by call, in any order: `WorkflowBuilder("greeter").step(fn).timeout(30.0).build()`."""

    __slots__ = ("_name", "_options", "_specs")

    def __init__(self, name: str) -> None:
        self._name = name
        self._specs: list[Any] = []
        self._options: dict[str, Any] = {}

    def step(self, fn: Callable[..., Any], **options: Any) -> WorkflowBuilder:
        """Add a step: a decorated function as it is, or any function with the options of `@step`."""
        self._specs.append(make_spec(fn, **options))
        return self

    def step_timeout(self, seconds: float) -> WorkflowBuilder:
        """Seconds for each attempt of a step that names no timeout of its own."""
        self._options["step_timeout"] = check_timeout(seconds, f"workflow {self._name!r}: step_timeout")
        return self

    def timeout(self, seconds: float) -> WorkflowBuilder:
        """Seconds a run may take."""
        self._options["timeout"] = check_timeout(seconds, f"workflow {self._name!r}: timeout")
        return self

    def options(self, **options: Any) -> WorkflowBuilder:
        """Any other keyword of `Workflow`."""
        self._options.update(options)
        return self

    def build(self) -> Workflow[Any]:
        """The workflow.

        Raises:
            ValidationError: As of `Workflow`.
        """
        workflow: Workflow[Any] = Workflow.__new__(Workflow)
        defaults: dict[str, Any] = {
            "timeout": None,
            "step_timeout": None,
            "version": "1",
            "types": (),
            "stream_keep": None,
            "session_policy": "pickle_or_error",
            "cleanup_grace": 5.0,
            "migrations": None,
        }
        unknown = self._options.keys() - defaults.keys()
        if unknown:
            raise ValidationError(f"workflow {self._name!r}: unknown option {sorted(unknown)[0]!r}")
        workflow._build(self._name, list(self._specs), **{**defaults, **self._options})
        return workflow


# Set by the first run: the engine imports trio, which takes longer than all of blazen.
_new_run: type[Run]
_in_trio: Callable[[], bool]


def _load_engine(graph: Graph) -> None:
    global _new_run, _in_trio
    from blazen.engine.calling import in_trio, unguard_steps
    from blazen.engine.run import Run

    if any(spec.run == "process" for spec in graph.specs):
        from blazen.engine.processes import load

        load(graph.name)
    unguard_steps(graph)
    _new_run = Run
    _in_trio = in_trio


def _check_grace(value: object, where: str) -> float:
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if value is None or (isinstance(value, int | float) and not value > 0):
        raise ValidationError(f"{where} cleanup_grace must be a number of seconds, 0 or more, got {show(value)}")
    seconds = check_timeout(value, f"{where} cleanup_grace")
    assert seconds is not None
    return seconds


def _check_run_id(value: object, where: str) -> str:
    import uuid

    try:
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, str):
            return str(uuid.UUID(value))
    except ValueError:
        pass
    raise ValidationError(f"{where} run_id must be a UUID such as {str(uuid.UUID(int=0))!r}, got {show(value)}")
