# Part of run.pyx: what a step knows of its run.

cdef object _NO_DEFAULT = object()


@cython.final
cdef class Context:
    """What a step knows of its run: shared state, events, the stream.

    Valid while the step runs. `set`, `get`, `send_event` and `write_event_to_stream` are plain calls and work from
    thread steps too. They act at once and are not undone when the step fails.
    """

    def __init__(self):
        raise TypeError("a Context is handed to steps and cannot be made")

    # --- the shared state

    def set(self, key, value):
        """Store a value under a key for all steps of the run. Nothing is copied.

        A `BlazenState` is stored field by field, under `key.field`.

        Raises:
            ValidationError: The value, or something inside it, cannot be stored; names the key, the path and the type.
            WorkflowError: The field store of one of its fields could not save it.
        """
        self._check()
        self._run.state.put(key, value, self)

    def get(self, key, default=None):
        """The value stored under `key`, or `default`. A `BlazenState` is made anew from its fields.

        Raises:
            WorkflowError: A field store could not load a field.
        """
        if self._refused:
            self._check()
        return self._run.state.fetch(key, default, self)

    def set_bytes(self, key, data):
        """Store bytes.

        Raises:
            ValidationError: `data` is not bytes-like.
        """
        self._check()
        self._run.state.seen_from(self).set_bytes(key, data)

    def get_bytes(self, key):
        """The bytes stored under `key`, or None.

        Raises:
            ValidationError: The key holds something else.
        """
        self._check()
        return self._run.state.seen_from(self).get_bytes(key)

    def set_value(self, key, value):
        """Store a `StateValue`."""
        self._check()
        self._run.state.seen_from(self).set_value(key, value)

    def get_value(self, key):
        """What is stored under `key` as a `StateValue`, or None."""
        self._check()
        return self._run.state.seen_from(self).get_value(key)

    def delete(self, key):
        """Remove a key. Returns whether it was there."""
        self._check()
        return self._run.state.delete(key)

    def has(self, key):
        """Whether the key is there; None is a value."""
        self._check()
        return self._run.state.has(key)

    def keys(self):
        """The keys there are, as a list."""
        self._check()
        return self._run.state.keys()

    def edit(self, key, default=None):
        """Hold a key while its value is changed over an await: `async with ctx.edit("n") as cell: cell.value += 1`.

        Others that edit the same key wait; other keys, and plain `get` and `set`, do not. The value is stored when the
        block is left normally, and not when it is left by an exception.

        Raises:
            ValidationError: On leaving: the value cannot be stored.
        """
        self._check()
        return self._run.edit(self, key, default)

    @property
    def state(self):
        """The shared state as a mapping."""
        self._check()
        return self._run.state.seen_from(self)

    @property
    def session(self):
        """Live objects of this process, by identity; not checked. What a snapshot does about them is the workflow's
        `session_policy`."""
        self._check()
        return self._run.session

    # --- the run

    def run_id(self):
        """The run's id, a UUID."""
        return self._run.run_id

    @property
    def step_name(self):
        """The name of the step that runs."""
        return self._step.name

    @property
    def workflow_name(self):
        """The name of the workflow."""
        return self._run.router.workflow

    @property
    def cancelled(self):
        """Whether this step has been told to stop. A thread step looks here, or calls `check_cancelled`."""
        return self.abort_reason != 0

    def check_cancelled(self):
        """Raise `CancelledError` if this step has been told to stop; for loops in thread steps."""
        if self.abort_reason != 0:
            raise _CancelledError(run_id=self._run.run_id)

    def cleanup(self):
        """`async with ctx.cleanup():` a block that may await although the step was aborted.

        It has the workflow's `cleanup_grace` (seconds); then it is cancelled too, and a warning names the step.
        """
        return self._run.cleanup(self)

    # --- events

    def send_event(self, event, key=None):
        """Queue an event now, in the middle of the step.

        Args:
            key: If given, an event is sent once per key in a run; later ones are ignored.
        Raises:
            WorkflowError: No step accepts the event.
        """
        self._check()
        _check_key(self._step, "send_event", key)
        cdef RunCore run = self._run
        if PyThread_get_thread_ident() != run._thread:
            run.post(event, key, self._step.name, self._place())
            return
        run.send(event, key, self._step.name, self._place())

    def write_event_to_stream(self, event):
        """Show an event to whoever reads the run's stream. Nobody can read a plain `run()`: then it costs nothing.

        Raises:
            ValidationError: `event` is not an event.
        """
        cdef RunCore run = self._run
        if self._refused:
            self._check()
        if not PyObject_TypeCheck(event, <PyTypeObject *> _Event):
            raise _ValidationError(
                f"step {self._step.name!r}: write_event_to_stream takes an event, got a {type(event).__name__!r} object"
            )
        cdef EventStream log = run._log
        if type(event) is _UsageEvent:
            self.emit_usage(event)               # it counts whichever way it comes
            return
        if not run._observed:
            return
        if run.ledger is not None:
            self._used = True
            run.ledger.write_to_stream(self, event)
        if PyThread_get_thread_ident() != run._thread:
            run.post_to_stream(event, self._place())
            return
        if run.journal is not None:
            run.show(event, self._place())
            return
        log._items.append(event)
        if log._keep > 0 or len(log._waiting) > 0:
            log._has_grown()

    def emit_usage(self, event):
        """Count a `UsageEvent` in the run's totals and write it to the stream.

        Raises:
            ValidationError: `event` is no `UsageEvent`.
        """
        self._check()
        cdef RunCore run = self._run
        run.add_usage(event, self._step.name, self._place())
        if run.ledger is not None:
            self._used = True
            run.ledger.write_to_stream(self, event)

    def collect_events(self, event, wanted, *, key=None):
        """Gather events that reach this step until all wanted ones are there.

        Args:
            event: The event the step was given.
            wanted: How many events, or a list of event types (classes or names).
            key: Keeps gatherings of the same step apart.
        Returns:
            None until complete; then the events: in the order of their numbers, or for types in the order given. The
            gathering is empty after that. An event counts once, however often its step is retried.
        Raises:
            ValidationError: `event` is not the step's event, or `wanted` is not a positive number or a list of types.
        """
        self._check()
        cdef RunCore run = self._run
        if event is not self._event:
            raise _ValidationError(
                f"step {self._step.name!r}: collect_events takes the event the step was given, got "
                f"{type(event).__name__!r}"
            )
        _check_key(self._step, "collect_events", key)
        _check_wanted(self._step, wanted)
        if run._joins is None:
            run._joins = {}
        place = (self._step.index, key)
        join = run._joins.get(place)
        self._used = True
        if self._joined is None:
            self._joined = {}
        elif key in self._joined:
            # Asked again, by this attempt or a later one: the event has been counted.
            events = self._joined[key]
            if events is not None:
                return list(events)
            if join is None or self.seq not in (<Join> join)._events:
                return None
        self._joined[key] = None
        if join is None:
            join = run._joins[place] = Join.__new__(Join)
        events = (<Join> join).add(self.seq, event, wanted)
        if events is None:
            return None
        if not (<Join> join)._events:
            del run._joins[place]
        self._joined[key] = events
        return list(events)

    def once(self, key, fn):
        """Record an effect at most once: `await ctx.once("charge", charge)` returns what the first call returned.

        The result is kept under `key` for all steps of the run and for its later attempts, also after a restart where
        the run is stored: then it is in the store when this returns. A crash after the effect and before that makes
        the next attempt call `fn` again; it is given what the far side needs to tell that it is the same.

        Args:
            key: Names the effect within the run: a str, or another value that can be stored and hashed.
            fn: Called as `fn(run_id, key)`, or as `fn()` if it takes no arguments; async or not.
        Raises:
            ValidationError: `key` or `fn` cannot be used, or what `fn` returned cannot be stored; it has been called.
            PersistError: The result could not be written.
        """
        self._check()
        self._used = True
        return self._run.once(self, key, fn)

    def on_commit(self, fn):
        """Have `fn(connection)` called in the commit that marks this attempt finished: what it writes into the store's
        database is there exactly once.

        It runs on the thread that writes, in a savepoint of its own, after the attempt has ended well; not at all if it
        fails. If it raises, nothing of the commit takes effect, and the run fails.

        Args:
            fn: Takes the store's connection: of a `SqliteStore` a `sqlite3.Connection`. It may neither commit nor roll
                back.
        Raises:
            ValidationError: The run is not stored, or `fn` cannot be called.
        """
        self._check()
        self._used = True
        self._run.on_commit(self, fn)

    def wait_for_event(self, event_type, *, where=None, timeout=None, **fields):
        """Wait in the middle of the step until an event comes, and return it: `await ctx.wait_for_event(Paid, id=7)`.

        Only this step waits. Its timeout stands still meanwhile. The event goes to every step that waits for it, and
        also to those that accept it. One that no step accepts, of a type that some step names in `waits=`, is kept
        until a step waits for it.

        Args:
            event_type: An event class, or a type name.
            where: If given, only an event for which `where(event)` is true.
            timeout: Seconds to wait at most; None waits for as long as it takes.
            **fields: Only an event whose fields have these values.
        Raises:
            TimeoutError: No such event came in time.
            ValidationError: An argument is wrong, or the call comes from a thread.
        """
        self._check()
        self._used = True
        return self._run.wait_for_event(self, event_type, where, timeout, fields)

    def request_input(self, prompt, *, schema=None, timeout=None, default=_NO_DEFAULT, metadata=None):
        """Ask somebody outside and wait for the answer: `await ctx.request_input("Ship it?", schema=bool)`.

        Only this step waits. Its timeout stands still meanwhile. The question is an `InputRequestEvent` on the
        handler's stream, open until `handler.respond_to_input` answers it; the answer goes to this step alone. A retry
        of the step gets the same answers again, in the order of its calls.

        Args:
            prompt: What is asked, for a person to read.
            schema: The type the answer must have, such as `bool`, `list[int]` or a dataclass; it is converted to it.
            timeout: Seconds to wait at most; None waits for as long as it takes.
            default: What is returned when the time is over; without it that is a `TimeoutError`.
            metadata: What a program needs to ask well, as a dict.
        Raises:
            TimeoutError: Nobody answered in time, and there is no default.
            WorkflowError: Nobody can answer, because this is a plain `run()`.
            ValidationError: An argument is wrong, or the call comes from a thread.
        """
        self._check()
        self._used = True
        given = {} if default is _NO_DEFAULT else {"default": default}
        return self._run.request_input(self, prompt, schema, timeout, metadata, **given)

    cdef int _renew(self) noexcept:
        """Make a context that no step has kept as good as new."""
        self._used = False
        self.abort_reason = 0
        self.deadline = INFINITY
        self.attempt = 1
        self._joined = None
        self.replay = None
        self.noted = None
        self.holds = 0
        self.error = None
        self._handling = False
        self._timer = 0
        self._refused = False
        self.abandoned = False
        self.thread_scope = None
        return 0

    cdef int _check(self) except -1:
        if self._refused:
            raise _CancelledError(
                f"step {self._step.name!r} was told to stop and did not; its run has gone on without it",
                run_id=self._run.run_id,
            )
        return 0

    cdef tuple _place(self):
        """What the journal calls this attempt; None where none is kept."""
        if self._run.journal is None:
            return None
        return (self.seq, self._step.index, 0 if self._handling else self.attempt)

    # --- for the engine

    @property
    def place(self):
        """What the journal calls this attempt: its event's number, its step's index, and its own number, which is 0 for
        `on_error`. None where no journal is kept.
        """
        return self._place()

    @property
    def event(self):
        """The event the step was given."""
        return self._event

    @property
    def joined(self):
        """The gatherings that its event has been counted in: key -> the events, where it completed one; or None."""
        return self._joined

    @property
    def step(self):
        """The step's `StepInfo`."""
        return self._step

    @property
    def worker(self):
        """The worker that runs this invocation."""
        return self._worker

    def refuse(self):
        """Refuse whatever this invocation does from now on."""
        self._refused = True
        self.abandoned = True

    def fail_with(self, error):
        """Note what the last attempt failed with, for `on_error`."""
        self.error = error

    @property
    def handling(self):
        """Whether `on_error` runs instead of the step."""
        return self._handling

    def __repr__(self):
        return f"<blazen.Context of step {self._step.name!r}, attempt {self.attempt}>"


cdef int _check_key(StepInfo step, str call, object key) except -1:
    if key is None or type(key) is str:
        return 0
    try:
        hash(key)
    except TypeError:
        raise _ValidationError(
            f"step {step.name!r}: {call}: key must be hashable, such as a str or a tuple, got {type(key).__name__!r}"
        ) from None
    return 0


cdef int _check_wanted(StepInfo step, object wanted) except -1:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if wanted > 0:
            return 0
    elif isinstance(wanted, (list, tuple)) and wanted:
        for kind in wanted:
            if not (isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, _Event))):
                raise _ValidationError(
                    f"step {step.name!r}: collect_events takes event types, got {kind!r} among them"
                )
        return 0
    raise _ValidationError(
        f"step {step.name!r}: collect_events takes a number above 0 or a list of event types, got {wanted!r}"
    )
