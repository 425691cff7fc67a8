"""The dispatch loop of a run: everything that happens once per event.

A worker is a trio task that takes one event after the other and drives the step's coroutine in place, so a step costs
no task of its own. While a step waits inside trio its worker waits with it, and whoever has more work wakes or starts
another one. What happens once per run, and everything that waits, is in `blazen.engine`, which extends `RunCore`.

Who owns what: all of this belongs to the thread that runs trio. Other threads come in through `RunCore.post`.
"""

from heapq import heapify, heappop, heappush

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from blazen._core.queue cimport EventQueue, bz_record, bz_ring_len, bz_ring_peek
from blazen._core.router cimport ASKS, ENDS_RUN, Route, Router, StepInfo
from blazen._core.state cimport StateStore
from blazen._core.stream cimport EventStream


cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(PyObject *iterator, PyObject *value, PyObject **result) noexcept
    object PyContext_Copy(object context)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    unsigned long PyThread_get_thread_ident()
    bint PyCoro_CheckExact(object value)
    bint PyObject_TypeCheck(object value, PyTypeObject *kind) noexcept
    Py_ssize_t Py_REFCNT(PyObject *value) noexcept
    PyTypeObject *Py_TYPE(PyObject *value) noexcept


cdef extern from "pyglue.h":
    ctypedef int (*sendfunc)(PyObject *, PyObject *, PyObject **) except -1
    void bz_set_am_send(PyTypeObject *type, sendfunc send)
    PyObject *bz_take_exception() noexcept
    PyObject *bz_call1(PyObject *f, PyObject *a) noexcept
    PyObject *bz_call2(PyObject *f, PyObject *a, PyObject *b) noexcept
    Py_ssize_t bz_slot_offset(object descriptor)
    PyObject *bz_slot_read(PyObject *object, Py_ssize_t offset) noexcept
    Py_ssize_t bz_find_variables(object plain, object copy, object changed) noexcept


cdef extern from "bz_clock.h" nogil:
    double bz_now() noexcept
    int bz_ticks_work() noexcept
    uint64_t bz_ticks() noexcept


# Why a worker came back to Python (Worker.code).
DRY = 0                                     # nothing to do
YIELD = 1                                   # it has had the loop for long enough
SETTLE = 2                                  # outcomes wait for the next pass of the scheduler
IN_THREAD = 3                               # its step is to run in a thread
UNWOUND = 4                                 # its step was aborted; the scope it ran in is spent
ENDED = 5                                   # the run is ending
NEEDS_NURSERY = 6                           # the next step may need others beside it

# Why an invocation was aborted (Context.abort_reason).
NOT_ABORTED = 0
TIMED_OUT = 1
STEP_CANCELLED = 2
RUN_ENDING = 3

cdef enum:
    TAKEN_NOTHING = 0
    TAKEN_DONE = 1
    TAKEN_COROUTINE = 2
    TAKEN_THREAD = 3
    TAKEN_NEEDS_NURSERY = 4

# A worker gives way after this time ...
cdef double LONGEST_SLICE = 0.001
# ... or, under a clock that is not the system's, after this many events, so that a trace repeats.
cdef uint64_t LONGEST_SLICE_EVENTS = 1000
# A plain `def` step that holds the loop for longer is named in a warning.
cdef double LONGEST_BLOCK = 0.1
# How many workers may be on their way to work at once, at most.
cdef Py_ssize_t LARGEST_ALLOWANCE = 64
# The clock is read when the processor's counter has moved this far: at most 0.1 ms, on today's machines 0.02 ms.
cdef uint64_t TICKS_PER_READING = 50000
# Looking whether another step can finish in this pass is given up after this many workers, and it is assumed.
cdef Py_ssize_t WORKERS_LOOKED_AT = 16

cdef object _Cancelled = None               # trio's
cdef object _Event = None
cdef object _ValidationError = None
cdef object _WorkflowError = None
cdef object _CancelledError = None
cdef Py_ssize_t _status_offset = 0          # of Task._cancel_status
cdef Py_ssize_t _abort_offset = 0           # of Task._abort_func
cdef dict _lock_owners = None               # trio's table of tasks that hold locks
cdef bint _ticks_work = bz_ticks_work()
cdef Py_ssize_t _variables_offset = 0       # of the variables in a contextvars.Context


def configure_errors(event_class, validation_error, workflow_error, cancelled_error):
    """Hand over the classes that this module may not import."""
    global _Event, _ValidationError, _WorkflowError, _CancelledError
    _Event = event_class
    _ValidationError = validation_error
    _WorkflowError = workflow_error
    _CancelledError = cancelled_error


def configure_trio(cancelled, task_class, lock_owners):
    """Hand over what the loop needs of trio.

    Args:
        cancelled: `trio.Cancelled`.
        task_class: `trio.lowlevel.Task`. Two of its slots are read: the cancel status, to find a scope that a step left
            open, and the abort function, to know whether a task has been woken.
        lock_owners: trio's dict from a task to the locks it holds, or None.
    """
    global _Cancelled, _status_offset, _abort_offset, _lock_owners
    _Cancelled = cancelled
    _status_offset = bz_slot_offset(getattr(task_class, "_cancel_status", None))
    _abort_offset = bz_slot_offset(getattr(task_class, "_abort_func", None))
    _lock_owners = lock_owners


def _look_for_variables():
    """Find out how to see whether a step has set a context variable."""
    global _variables_offset
    from contextvars import Context as Variables, ContextVar

    probe = ContextVar("blazen_probe")
    plain = Variables()
    plain.run(probe.set, 1)
    changed = plain.copy()
    changed.run(probe.set, 2)
    _variables_offset = bz_find_variables(plain, plain.copy(), changed)


_look_for_variables()


def sees_into_contexts():
    """Whether an unchanged context can be told from a changed one; else each invocation gets a copy of its own."""
    return _variables_offset > 0


def sees_into_trio():
    """Whether the two slots of trio's tasks and its table of locks were found; a test holds trio to it."""
    return _status_offset > 0 and _abort_offset > 0 and _lock_owners is not None


@cython.final
cdef class PassCounter:
    """A trio instrument that counts the passes of the scheduler."""
    cdef readonly uint64_t number

    def before_io_wait(self, timeout):
        self.number += 1


@cython.final
cdef class Join:
    """The events that `collect_events` gathers for one (step, key)."""
    cdef:
        dict _events                        # event number -> event
        dict _numbers                       # type name -> heap of event numbers

    def __cinit__(self):
        self._events = {}
        self._numbers = {}

    cdef list add(self, uint64_t seq, object event, object wanted):
        """Add an event; the complete list, or None."""
        if seq not in self._events:
            self._events[seq] = event
            heappush(self._numbers.setdefault(event.event_type, []), seq)
        if isinstance(wanted, int):
            if len(self._events) < wanted:
                return None
            numbers = sorted(self._events)[:wanted]
            if len(numbers) < len(self._events):
                self._rebuild(numbers)
            else:
                self._numbers.clear()
            return [self._events.pop(number) for number in numbers]
        names = [kind if isinstance(kind, str) else kind.event_type for kind in wanted]
        for name in set(names):
            if len(self._numbers.get(name, ())) < names.count(name):
                return None
        return [self._events.pop(heappop(self._numbers[name])) for name in names]

    cdef int _rebuild(self, list taken) except -1:
        gone = set(taken)
        for name in self._numbers:
            self._numbers[name] = [number for number in self._numbers[name] if number not in gone]
            heapify(self._numbers[name])
        return 0


@cython.final
cdef class Limit:
    """How many invocations of a limited step run, and which wait."""
    cdef:
        Py_ssize_t running
        EventQueue backlog


cdef class RunCore:
    """Queue, dispatch and settling of one run.

    `blazen.engine.run.Run` extends it with what happens once per run and with the hooks that are called from here:
    `on_stop`, `on_ask`, `on_failed`, `on_unwound`, `on_base_exception`, `on_blocked`, `on_scope_left_open`,
    `on_lock_left_held`, `timeout_error`, `spawn`, `wake`, `watch`, `record`, `pass_counter`, `send`, `post`,
    `post_to_stream`, `add_usage`, `edit` and `cleanup`.
    """

    def __cinit__(self):
        bz_timers_init(&self._timers)
        self._queue = EventQueue.__new__(EventQueue)
        self.workers = []
        self._parked = []
        self._finished = []
        self._allowance = 1
        self._real_clock = True
        self.deadline = INFINITY

    def __dealloc__(self):
        bz_timers_free(&self._timers)

    def prepare(self, Router router not None, StateStore state not None, session, context, EventStream stream):
        """Set the parts of the run; called once, before `bind`.

        Args:
            context: The caller's `contextvars.Context`; each invocation gets a copy of it.
            stream: Where outside events go; None when nobody can read them.
        """
        self.router = router
        self.state = state
        self.session = session
        self._context = context
        self.stream = stream
        self._log = stream
        if router.has_limits:
            self._limits = [Limit.__new__(Limit) if (<StepInfo> step).limit else None for step in router.steps]

    def bind(self, clock):
        """Note the thread and the clock that the run lives on; called in trio before anything is dispatched.

        Args:
            clock: None for the system clock, else a function that gives the clock's seconds.
        """
        self._thread = PyThread_get_thread_ident()
        self._clock = clock
        self._real_clock = clock is None

    # --- the clock

    cdef double _now(self) except? -1.0:
        if self._real_clock:
            return bz_now()
        return self._clock()

    cdef int _look_at_clock(self, Context ctx) except -1:
        """The processor's counter has moved on: read the clock, and name a plain `def` that held the loop."""
        cdef double now = bz_now()
        cdef double held = now - self._last_time
        self._last_time = now
        if _ticks_work:
            self._last_ticks = bz_ticks()
        if held > LONGEST_BLOCK and not (ctx._step.is_async or ctx._step.in_thread or ctx._handling):
            self.on_blocked(ctx, held)
        return 0

    def now(self):
        """Seconds on the engine's clock."""
        return self._now()

    # --- timers: deadlines of waiting steps, of the run, of retries and of cleanups, as data

    def add_timer(self, double deadline, target):
        """Have `due()` report `target` once `deadline` (engine's clock, seconds) has come. Returns a token."""
        return self._arm(deadline, target)

    def cancel_timer(self, uint64_t token):
        """Take a timer back; one that was reported or taken back already is left alone."""
        self._disarm(token)

    def arm_deadline(self, Context ctx not None):
        """Watch the deadline of an invocation that is about to wait, if it has one."""
        if ctx.deadline != INFINITY and ctx._timer == 0:
            ctx._timer = self._arm(ctx.deadline, ctx)

    cdef uint64_t _arm(self, double deadline, object target) except 0:
        cdef bz_timer timer
        if self._timer_targets is None:
            self._timer_targets = {}
        cdef uint64_t token = self._timer_count + 1
        if bz_timers_add(&self._timers, deadline, token, &timer) != 0:
            raise MemoryError("no memory for a timer")
        self._timer_count = token
        self._timer_targets[token] = (timer, target)
        self.watch(deadline)
        return token

    cdef int _disarm(self, uint64_t token) except -1:
        entry = self._timer_targets.pop(token, None)
        if entry is not None:
            bz_timers_cancel(&self._timers, entry[0])
        return 0

    def arm_run_deadline(self):
        """Watch the run's deadline; done when something waits for the first time."""
        if self.deadline != INFINITY and not self._deadline_armed:
            self._deadline_armed = True
            self._arm(self.deadline, self)

    def next_deadline(self):
        """The earliest deadline, infinite if there is none."""
        cdef double deadline
        if bz_timers_next(&self._timers, &deadline):
            return deadline
        return INFINITY

    def due(self):
        """The targets of all timers whose time has come, earliest first."""
        cdef uint64_t token
        targets = []
        cdef double now = self._now()
        while bz_timers_pop_due(&self._timers, now, &token):
            targets.append(self._timer_targets.pop(token)[1])
        return targets

    # --- events in

    def start(self, event):
        """Queue the run's first event."""
        self._deliver(self.router.find(event), event)

    def receive(self, event, str emitter=None):
        """Queue an event that no step returned: from outside, or sent in the middle of a step.

        Args:
            emitter: The step that sent it, for messages.
        Raises:
            WorkflowError: Nobody accepts the event. Nothing was queued.
        """
        try:
            route = self.router.find(event)
        except TypeError as exc:
            raise _ValidationError(f"send_event takes an event: {exc}") from None
        if route is None:
            sender = "from outside the run" if emitter is None else f"by step {emitter!r}"
            raise _WorkflowError(
                f"no step of workflow {self.router.workflow!r} accepts {event.event_type!r}, which was sent {sender}",
                step=emitter,
                event_type=event.event_type,
            )
        if self.ending:
            return
        self._deliver(route, event)
        if self._active is None and self._has_work():
            self._need_spare()

    def requeue(self, Context ctx not None, *, bint handle):
        """Run an invocation again: its step, or with `handle` the step's `on_error`. It goes before what is queued."""
        ctx._handling = handle
        ctx._used = True
        self._enqueue_front(ctx._step, ctx, ctx.seq)
        if self._active is None:
            self._need_spare()

    def postpone(self, Py_ssize_t change):
        """Count a retry that begins (+1) or ends (-1) waiting for its time."""
        self.postponed += change

    @property
    def has_work(self):
        """Whether events are queued or outcomes wait to be settled."""
        return self._has_work()

    @property
    def queued(self):
        """How many events wait for a worker."""
        return bz_ring_len(&self._queue._ring) + (1 if self._next_step is not None else 0)

    @property
    def numbered(self):
        """How many events the run has numbered."""
        return self._numbered

    def on_own_thread(self):
        """Whether the caller is in the thread the run lives in."""
        return PyThread_get_thread_ident() == self._thread

    def wake_for_work(self):
        """Have somebody look at the queue."""
        if self._active is None and self._has_work():
            self._need_spare()

    cdef bint _has_work(self) noexcept:
        return self._next_step is not None or bz_ring_len(&self._queue._ring) > 0 or len(self._finished) > 0

    cdef inline int _enqueue(self, StepInfo step, object item, uint64_t seq) except -1:
        if self._next_step is None and bz_ring_len(&self._queue._ring) == 0:
            self._next_step = step
            self._next_item = item
            self._next_seq = seq
            return 0
        return self._queue.put(item, seq, <uint32_t> step.index)

    cdef int _enqueue_front(self, StepInfo step, object item, uint64_t seq) except -1:
        if self._next_step is not None:
            self._queue.put_front(self._next_item, self._next_seq, <uint32_t> self._next_step.index)
        self._next_step = step
        self._next_item = item
        self._next_seq = seq
        return 0

    cdef int _deliver(self, Route route, object event) except -1:
        """Number an event and queue it for each step that accepts it."""
        cdef StepInfo step
        self._numbered += 1
        cdef uint64_t seq = self._numbered
        if route.only is not None:
            return self._enqueue(route.only, event, seq)
        if route.kind == ENDS_RUN:
            self.on_stop(event)
            return 0
        if route.kind == ASKS:
            self.on_ask(event)
        for step in route.steps:
            self._enqueue(step, event, seq)
        return 0

    # --- what steps produce

    cdef int _dispatch(self, StepInfo step, object result, bint rescued) except -1:
        """Queue what a step returned; all of it or, if something is wrong with it, nothing.

        `rescued`: it comes from `on_error`, which may return what the step itself does not declare.
        """
        if type(result) is step.last_class:
            return self._deliver(step.last_route, result)
        if type(result) is not list:
            return self._deliver(self.router.route_result(step, result, rescued), result)
        events = list(<list> result)
        for event in events:
            if type(event) is not step.last_class:
                self.router.route_result(step, event, rescued)
        for event in events:
            if self.ending:
                break
            if type(event) is step.last_class:
                self._deliver(step.last_route, event)
            else:
                self._deliver(self.router.find(event), event)
        return 0

    cdef int _settle(self, Context ctx, object result, object error) except -1:
        """The one place where an invocation's outcome takes effect."""
        self.busy -= 1
        self._settled += 1
        if ctx._holds_slot:
            self._release(ctx)
        if self._log is not None and error is None:
            self._note("finished", ctx)
        if error is not None:
            self.on_failed(ctx, error)
        elif result is not None and not self.ending:
            self._dispatch(ctx._step, result, ctx._handling)
        return 0

    cdef int _note(self, str kind, Context ctx) except -1:
        """Write a step record, if anybody wants them."""
        if self._log.with_steps:
            self.record(kind, ctx, None)
        else:
            self._log.unrecorded += 1
        return 0

    cdef int _settle_finished(self) except -1:
        """Settle the outcomes of an earlier pass in the order of their events' numbers."""
        entries, self._finished = self._finished, []
        self._settler_called = False
        entries.sort(key=_entry_order)
        cdef Py_ssize_t done = 0
        cdef Context ctx
        try:
            for ctx, result, error in entries:
                if self.ending:
                    break
                done += 1
                self._settle(ctx, result, error)
        finally:
            self._drop_finished(entries[done:])
        return 0

    cdef int _drop_finished(self, list entries) except -1:
        """Count outcomes out that the end of the run has overtaken; their errors are kept beside its own."""
        cdef Context ctx
        self.busy -= len(entries)
        for ctx, _, error in entries:
            if error is not None:
                self.on_failed(ctx, error)
        return 0

    cdef bint _must_wait_for_pass(self, Worker worker, Context ctx) except -1:
        """Whether another step may finish in this same pass and has to be taken first."""
        cdef Worker other
        cdef Py_ssize_t looked_at = 0
        if len(self._finished) > 0:
            return True
        if self._suspended == 0:
            return False
        if _abort_offset == 0:
            return True
        for other in self.workers:
            if other is worker or not other.suspended:
                continue
            looked_at += 1
            if looked_at > WORKERS_LOOKED_AT:
                return True
            # A task without an abort function has been woken: it runs in this pass or has run in it.
            if (
                bz_slot_read(<PyObject *> other.task, _abort_offset) is <PyObject *> None
                and _entry_order((other._ctx,)) < _entry_order((ctx,))
            ):
                return True
        return False

    cdef int _refill(self) except -1:
        """Move the oldest queued event to the head."""
        cdef bz_record record
        item = self._queue.take(&record)
        self._next_step = <StepInfo> (<tuple> self.router.steps)[record.route]
        self._next_item = item
        self._next_seq = record.seq
        return 0

    cdef int _release(self, Context ctx) except -1:
        """Give a limited step's place to the invocation that has waited longest."""
        cdef Limit limit = <Limit> self._limits[ctx._step.index]
        ctx._holds_slot = False
        limit.running -= 1
        if limit.backlog is not None and limit.backlog.size() > 0 and not self.ending:
            # A place, not the event: who takes it takes what has waited longest, however many places come free at once.
            self._enqueue_front(ctx._step, None, 0)
        return 0

    # --- workers

    cdef int _need_spare(self) except -1:
        """Wake or start as many workers as the work asks for.

        One at a time, so that steps that finish soon are taken by few workers; twice as many each time a worker arrives
        and nothing has been settled since it was called, so that steps that wait long all start soon.
        """
        cdef Py_ssize_t want = bz_ring_len(&self._queue._ring) + (1 if self._next_step is not None else 0)
        cdef Worker worker
        if want == 0:
            want = 1
        if want > self._allowance:
            want = self._allowance
        while self._woken < want:
            if self._parked:
                worker = <Worker> self._parked.pop()
                self.wake(worker)
            else:
                worker = <Worker> self.spawn()
            worker._woken = True
            worker._settled_at_wake = self._settled
            self._woken += 1
        return 0

    def park(self, Worker worker not None):
        """Note that a worker waits for work."""
        self._parked.append(worker)

    @property
    def parked(self):
        """How many workers wait for work."""
        return len(self._parked)

    def unpark(self, Worker worker not None):
        """Take a worker off the list of those that wait; False if it had been woken."""
        if worker in self._parked:
            self._parked.remove(worker)
            return True
        return False

    def take_parked(self):
        """All workers that wait for work, who from now on count as called."""
        parked, self._parked = self._parked, []
        return parked

    # --- the end

    def stop_dispatching(self):
        """Drop what is queued and dispatch nothing more. Returns the invocations that are still running."""
        cdef Limit limit
        cdef Worker worker
        self.ending = True
        self._next_step = None
        self._next_item = None
        self._queue.drop_all()
        entries, self._finished = self._finished, []
        entries.sort(key=_entry_order)
        self._drop_finished(entries)
        if self._limits is not None:
            for limit in self._limits:
                if limit is not None and limit.backlog is not None:
                    limit.backlog.drop_all()
        return [worker._ctx for worker in self.workers if worker._live]

    def abort(self, Context ctx not None, int reason):
        """Mark an invocation as aborted, for the first reason only. False if it was aborted or over already."""
        if ctx.abort_reason != 0 or ctx._worker is None or ctx._worker._ctx is not ctx or not ctx._worker._live:
            return False
        ctx.abort_reason = reason
        return True

    def running(self, str step_name=None):
        """The invocations that are running, all of them or those of one step."""
        cdef Worker worker
        return [
            worker._ctx for worker in self.workers
            if worker._live and (step_name is None or worker._ctx._step.name == step_name)
        ]


def _entry_order(entry):
    cdef Context ctx = <Context> entry[0]
    return ctx.seq, ctx._step.index


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

        Raises:
            ValidationError: The value, or something inside it, cannot be stored; names the key, the path and the type.
        """
        self._check()
        self._run.state.put(key, value)

    def get(self, key, default=None):
        """The value stored under `key`, or `default`."""
        return self._run.state.fetch(key, default)

    def set_bytes(self, key, data):
        """Store bytes.

        Raises:
            ValidationError: `data` is not bytes-like.
        """
        self._check()
        self._run.state.set_bytes(key, data)

    def get_bytes(self, key):
        """The bytes stored under `key`, or None.

        Raises:
            ValidationError: The key holds something else.
        """
        return self._run.state.get_bytes(key)

    def set_value(self, key, value):
        """Store a `StateValue`."""
        self._check()
        self._run.state.set_value(key, value)

    def get_value(self, key):
        """What is stored under `key` as a `StateValue`, or None."""
        return self._run.state.get_value(key)

    def delete(self, key):
        """Remove a key. Returns whether it was there."""
        self._check()
        return self._run.state.delete(key)

    def has(self, key):
        """Whether the key is there; None is a value."""
        return self._run.state.has(key)

    def keys(self):
        """The keys there are, as a list."""
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
        return self._run.state

    @property
    def session(self):
        """Live objects of this process, by identity; never checked, never written anywhere."""
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
            run.post(event, key, self._step.name)
            return
        run.send(event, key, self._step.name)

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
        if log is None:
            return
        if PyThread_get_thread_ident() != run._thread:
            run.post_to_stream(event)
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
        self._run.add_usage(event, self._step.name)

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

    cdef int _renew(self) noexcept:
        """Make a context that no step has kept as good as new."""
        self._used = False
        self.abort_reason = 0
        self.deadline = INFINITY
        self.attempt = 1
        self._joined = None
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

    # --- for the engine

    @property
    def event(self):
        """The event the step was given."""
        return self._event

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


@cython.final
cdef class Worker:
    """Takes events off the queue and drives their steps. `await worker` returns when it needs Python; see `code`."""

    def __init__(self, RunCore run not None):
        self.run = run
        run.workers.append(self)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on; as of a generator. Only for drivers that do not use the send slot."""
        cdef PyObject *yielded = NULL
        waits = _worker_send(<PyObject *> self, <PyObject *> value, &yielded)
        result = <object> yielded
        Py_DECREF(result)
        if waits:
            return result
        raise StopIteration(result)

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where the step waits; as of a generator."""
        cdef PyObject *yielded = NULL
        error = kind if value is None else value
        if isinstance(error, type):
            error = error()
        if self._coro is None:
            raise error
        try:
            self._throw(error, &yielded)
        except BaseException:
            self._leave()
            self.run._active = None
            raise
        if yielded is not NULL:
            result = <object> yielded
            Py_DECREF(result)
            return result
        return self.send(None)

    def close(self):
        """Close the step's coroutine; the loop has been torn down."""
        if self._coro is not None:
            coro, self._coro = self._coro, None
            coro.close()

    # For tools that walk the awaits of a task: the frame of the step that runs.
    @property
    def cr_frame(self):
        return getattr(self._coro, "cr_frame", None)

    @property
    def cr_await(self):
        return getattr(self._coro, "cr_await", None)

    def retire(self):
        """Leave the run."""
        if self in self.run.workers:
            self.run.workers.remove(self)
        if not self._live:
            self._ctx = None

    def arrived(self):
        """Count a worker that was called as there, though it did not come for work."""
        if self._woken:
            self._woken = False
            self.run._woken -= 1

    def wait_for_thread(self):
        """Note that the worker waits for its step's thread; others take the work meanwhile."""
        cdef RunCore run = self.run
        self.suspended = True
        run._suspended += 1
        if run._has_work():
            run._need_spare()

    def finish_thread(self, result, error):
        """Take the outcome of a step that ran in a thread."""
        cdef RunCore run = self.run
        self.suspended = False
        run._suspended -= 1
        run._active = self
        run._last_time = bz_now()
        try:
            if len(run._finished) > 0 and (<PassCounter> run.passes).number != run._finished_pass:
                run._settle_finished()
            self._complete(result, error)
        finally:
            self._leave()
            run._active = None

    def lose_step(self):
        """Let go of the step after an error of the engine itself; returns its context or None."""
        ctx = self._ctx if self._live or self._settling else None
        self._ctx = None
        self._live = False
        self._settling = False
        self._coro = None
        self._variables = None
        return ctx

    @property
    def ctx(self):
        """The running invocation, or None."""
        return self._ctx if self._live else None

    @property
    def variables(self):
        """The context variables of the running invocation."""
        return self._variables

    # --- the loop

    cdef int _advance(self, object value, PyObject **yielded) except -1:
        """Run steps. 1: one waits, and `yielded` is what to hand to trio. 0: see `code`."""
        cdef RunCore run = self.run
        cdef int taken
        run._active = self
        run._last_time = bz_now()
        if _ticks_work:
            run._last_ticks = bz_ticks()
        run._slice_start = run._last_time
        run._slice_settled = run._settled
        if self._woken:
            self._woken = False
            run._woken -= 1
            if run._settled != self._settled_at_wake:
                run._allowance = 1
            elif run._allowance < LARGEST_ALLOWANCE:
                run._allowance *= 2
        if self.suspended:
            self.suspended = False
            run._suspended -= 1
        if len(run._finished) > 0 and (<PassCounter> run.passes).number != run._finished_pass:
            run._settle_finished()
        self.code = DRY
        if self._coro is not None:
            step_name = self._ctx._step.name
            # Read before the step goes on: the run's own end may cancel the scope too.
            caller_cancelled = not run.ending and getattr(self.status, "effectively_cancelled", False)
            if self._resume(value, yielded):
                return 1
            if self.code == UNWOUND:
                self._leave()
                run._active = None
                return 0
            if caller_cancelled:
                run.on_outlived(step_name, run._now() - self._suspended_at)
        while True:
            if run.ending:
                self.code = ENDED
                break
            if run._real_clock:
                if run._last_time - run._slice_start > LONGEST_SLICE:
                    self.code = YIELD
                    break
            elif run._settled - run._slice_settled > LONGEST_SLICE_EVENTS:
                self.code = YIELD
                break
            if run._suspended == 0 and len(run._finished) == 0 and (run._log is None or not run._log.with_steps):
                taken = self._run_chain(yielded)
                if taken == TAKEN_COROUTINE:
                    return 1
                if taken == TAKEN_DONE:
                    if self.code == UNWOUND:
                        break
                    continue
            taken = self._take_next()
            if taken == TAKEN_NOTHING:
                self.code = self._settle_or_rest()
                break
            if taken == TAKEN_COROUTINE:
                if self._resume(None, yielded):
                    return 1
            elif taken == TAKEN_THREAD:
                self.code = IN_THREAD
                break
            elif taken == TAKEN_NEEDS_NURSERY:
                self.code = NEEDS_NURSERY
                break
            if self.code == UNWOUND:
                break
        self._leave()
        run._active = None
        return 0

    cdef inline int _enter(self) except -1:
        """Make the invocation's context variables the current ones. Steps that follow each other stay inside."""
        if not self._entered:
            PyContext_Enter(self._variables)
            self._entered = True
        return 0

    cdef inline int _leave(self) except -1:
        if self._entered:
            self._entered = False
            PyContext_Exit(self._variables)
        return 0

    cdef int _take_next(self) except -1:
        """Take the next event and begin its step."""
        cdef RunCore run = self.run
        cdef StepInfo step
        cdef Context ctx
        cdef Limit limit
        cdef bz_record record
        cdef object item
        if run._next_step is not None:
            step = run._next_step
            if run.alone and not step.is_plain and self._may_need_others(step):
                return TAKEN_NEEDS_NURSERY
            item = run._next_item
            record.seq = run._next_seq
            run._next_step = None
            run._next_item = None
        elif run.alone and bz_ring_len(&run._queue._ring) > 0:
            run._refill()
            return TAKEN_DONE
        elif bz_ring_len(&run._queue._ring) > 0:
            item = run._queue.take(&record)
            step = <StepInfo> (<tuple> run.router.steps)[record.route]
        else:
            return TAKEN_NOTHING
        if step.limit > 0:
            limit = <Limit> run._limits[step.index]
            if limit.running >= step.limit:
                if limit.backlog is None:
                    limit.backlog = EventQueue.__new__(EventQueue)
                if item is not None:
                    limit.backlog.put(item, record.seq, <uint32_t> step.index)
                return TAKEN_DONE
            if item is None:
                if limit.backlog.size() == 0:
                    return TAKEN_DONE
                item = limit.backlog.take(&record)
        if type(item) is Context:
            ctx = <Context> item
            ctx._worker = self
            self._ctx = ctx
            if not ctx._handling:
                ctx.attempt += 1
        else:
            if type(item) is not step.accept_class:
                item = run.router.adapt(step, item)
            ctx = self._renewed_context()
            ctx._step = step
            ctx._event = item
            ctx.seq = record.seq
        ctx.abort_reason = 0
        if step.limit > 0:
            limit.running += 1
            ctx._holds_slot = True
        self._live = True
        run.busy += 1
        return self._begin(step, ctx)

    cdef int _settle_or_rest(self) except -1:
        """What a worker without work does: the first one comes back in the next pass if outcomes wait for it."""
        if len(self.run._finished) == 0 or self.run._settler_called:
            return DRY
        self.run._settler_called = True
        return SETTLE

    cdef int _run_chain(self, PyObject **yielded) except -1:
        """Run steps one after the other for as long as they come from the queue and nothing else is going on.

        Does what `_take_next`, `_begin` and `_complete` do, with less bookkeeping in between. Whatever is out of the
        ordinary is left to them.

        Returns TAKEN_NOTHING if it could not even begin, TAKEN_COROUTINE if a step waits, TAKEN_DONE otherwise.
        """
        cdef RunCore run = self.run
        cdef Context ctx = self._renewed_context()
        # Borrowed: the router keeps the steps alive, and counting references would cost more than the checks.
        cdef PyObject *step = self._take_simple(ctx)
        cdef PyObject *following
        cdef PyObject *out
        cdef PyObject *sent
        cdef PySendResult status
        if step is NULL:
            return TAKEN_NOTHING
        run.busy += 1
        self._live = True
        while True:
            if <PyObject *> ctx._step is not step:
                ctx._step = <StepInfo> step
            if (<StepInfo> step).has_timeout:
                ctx.started = run._last_time
                ctx.deadline = run._last_time + (<StepInfo> step).timeout
            if run._log is not None:
                run._log.unrecorded += 1
            if self._variables is None:
                self._variables = PyContext_Copy(run._context)
            if not self._entered:
                PyContext_Enter(self._variables)
                self._entered = True
            if not (<StepInfo> step).wants_ctx:
                out = bz_call1(<PyObject *> (<StepInfo> step).fn, <PyObject *> ctx._event)
            elif (<StepInfo> step).ctx_first:
                out = bz_call2(<PyObject *> (<StepInfo> step).fn, <PyObject *> ctx, <PyObject *> ctx._event)
            else:
                out = bz_call2(<PyObject *> (<StepInfo> step).fn, <PyObject *> ctx._event, <PyObject *> ctx)
            if (<StepInfo> step).is_async and out is not NULL:
                if not PyCoro_CheckExact(<object> out):
                    awaitable = <object> out
                    Py_DECREF(awaitable)
                    awaitable = awaitable.__await__()
                    Py_INCREF(awaitable)
                    out = <PyObject *> awaitable
                sent = NULL
                status = PyIter_Send(out, <PyObject *> None, &sent)
                if status == PYGEN_NEXT:
                    self._coro = <object> out
                    Py_DECREF(<object> out)
                    self._after_send(status, sent, yielded)
                    return TAKEN_COROUTINE
                Py_DECREF(<object> out)
                out = sent if status == PYGEN_RETURN else NULL
            if out is NULL:
                error = <object> bz_take_exception()
                Py_DECREF(error)
                self._complete(None, error)
                return TAKEN_DONE
            # From here as in _complete, for the ordinary case.
            following = <PyObject *> None
            if <PyObject *> Py_TYPE(out) is <PyObject *> (<StepInfo> step).last_class:
                following = <PyObject *> (<StepInfo> step).last_route.only
            if (
                (following is <PyObject *> None and out is not <PyObject *> None)
                or ctx.abort_reason != 0
                or run.ending
                or len(run._finished) > 0
                or run._suspended > 0
                # A step whose time may be over, or a `def` that may have held the loop: then the clock is asked.
                or ((<StepInfo> step).is_plain or (<StepInfo> step).has_timeout or (run._settled & 15) == 0)
                and (not _ticks_work or bz_ticks() - run._last_ticks > TICKS_PER_READING)
                or (not run._real_clock and run._settled - run._slice_settled > LONGEST_SLICE_EVENTS)
                or (run._log is not None and run._log.with_steps)
                or _variables_offset == 0
                or bz_slot_read(<PyObject *> self._variables, _variables_offset)
                is not bz_slot_read(<PyObject *> run._context, _variables_offset)
                or bz_slot_read(<PyObject *> self.task, _status_offset) is not <PyObject *> self.status
                or len(_lock_owners) > 0
            ):
                result = <object> out
                Py_DECREF(result)
                self._complete(result, None)
                return TAKEN_DONE
            run._settled += 1
            if run._log is not None:
                run._log.unrecorded += 1
            ctx.deadline = INFINITY
            if out is not <PyObject *> None:
                run._numbered += 1
                if (
                    run._next_step is None
                    and bz_ring_len(&run._queue._ring) == 0
                    and self._is_simple(following, (<StepInfo> step).last_class)
                ):
                    # Straight on to the step that this one leads to.
                    if ctx._used or Py_REFCNT(<PyObject *> ctx) != 2:
                        ctx = self._renewed_context()
                    ctx._event = <object> out
                    Py_DECREF(<object> out)
                    ctx.seq = run._numbered
                    step = following
                    continue
                result = <object> out
                Py_DECREF(result)
                run._enqueue(<StepInfo> following, result, run._numbered)
                result = None
            else:
                Py_DECREF(<object> out)
            if ctx._used or Py_REFCNT(<PyObject *> ctx) != 2:
                ctx = self._renewed_context()
            step = self._take_simple(ctx)
            if step is NULL:
                self._live = False
                run.busy -= 1
                return TAKEN_DONE

    cdef inline bint _is_simple(self, PyObject *step, object event_class) noexcept:
        """Whether `_run_chain` may run this step on an event of this class."""
        cdef RunCore run = self.run
        return (
            (<StepInfo> step).is_simple
            and <PyObject *> (<StepInfo> step).accept_class is <PyObject *> event_class
            and (run._real_clock or not (<StepInfo> step).has_timeout)
            and (not run.alone or (<StepInfo> step).is_plain or not self._may_need_others(<StepInfo> step))
        )

    cdef PyObject *_take_simple(self, Context ctx) except? NULL:
        """Take the head of the queue into `ctx` if `_run_chain` may run it. Returns its step, borrowed, or NULL."""
        cdef RunCore run = self.run
        cdef const bz_record *head
        cdef bz_record record
        cdef PyObject *step
        if run._next_step is not None:
            step = <PyObject *> run._next_step
            if not self._is_simple(step, type(run._next_item)):
                return NULL
            ctx._event = run._next_item
            ctx.seq = run._next_seq
            run._next_step = None
            run._next_item = None
            return step
        if bz_ring_len(&run._queue._ring) == 0:
            return NULL
        head = bz_ring_peek(&run._queue._ring)
        step = <PyObject *> (<tuple> run.router.steps)[head.route]
        if run.alone and not (<StepInfo> step).is_plain:
            return NULL
        if not self._is_simple(step, type(run._queue._slots[head.slot])):
            return NULL
        ctx._event = run._queue.take(&record)
        ctx.seq = record.seq
        return step

    cdef Context _renewed_context(self):
        """A context for the next invocation: the last one again, unless a step has kept it."""
        cdef Context ctx
        if self._ctx is not None and Py_REFCNT(<PyObject *> self._ctx) == 1:
            if self._ctx._used:
                self._ctx._renew()
            return self._ctx
        ctx = Context.__new__(Context)
        ctx._run = self.run
        ctx._worker = self
        ctx.attempt = 1
        ctx.deadline = INFINITY
        self._ctx = ctx
        return ctx

    cdef bint _may_need_others(self, StepInfo step) noexcept:
        """Whether something may have to go on while this step waits: other events, a timer, or what it sends."""
        cdef RunCore run = self.run
        return (
            step.wants_ctx
            or step.in_thread
            or bz_ring_len(&run._queue._ring) > 0
            or step.timeout != INFINITY
            or run.deadline != INFINITY
        )

    cdef int _begin(self, StepInfo step, Context ctx) except -1:
        """Call the step."""
        cdef RunCore run = self.run
        cdef PyObject *out
        ctx.deadline = INFINITY
        if run._real_clock:
            ctx.started = run._last_time
            if step.has_timeout and not ctx._handling:
                ctx.deadline = ctx.started + step.timeout
        elif step.has_timeout or run._log is not None:
            ctx.started = run._clock()
            if not ctx._handling:
                ctx.deadline = ctx.started + step.timeout
        if run._log is not None:
            run._note("started", ctx)
        if self._variables is None:
            self._variables = PyContext_Copy(run._context)
        if step.in_thread and not ctx._handling:
            return TAKEN_THREAD
        self._enter()
        if ctx._handling:
            out = bz_call2(<PyObject *> step.on_error, <PyObject *> ctx._event, <PyObject *> ctx.error)
        else:
            out = self._call(step, ctx)
        if out is NULL:
            error = <object> bz_take_exception()
            Py_DECREF(error)
            self._complete(None, error)
            return TAKEN_DONE
        result = <object> out
        Py_DECREF(result)
        if step.is_async if not ctx._handling else hasattr(result, "__await__"):
            self._coro = result if PyCoro_CheckExact(result) else result.__await__()
            return TAKEN_COROUTINE
        self._complete(result, None)
        return TAKEN_DONE

    cdef inline PyObject *_call(self, StepInfo step, Context ctx) noexcept:
        if not step.wants_ctx:
            return bz_call1(<PyObject *> step.fn, <PyObject *> ctx._event)
        if step.ctx_first:
            return bz_call2(<PyObject *> step.fn, <PyObject *> ctx, <PyObject *> ctx._event)
        return bz_call2(<PyObject *> step.fn, <PyObject *> ctx._event, <PyObject *> ctx)

    cdef int _resume(self, object value, PyObject **yielded) except -1:
        """Let the step's coroutine go on. 1: it waits. 0: it has ended and is settled."""
        cdef PyObject *out = NULL
        cdef PySendResult status
        self._enter()
        status = PyIter_Send(<PyObject *> self._coro, <PyObject *> value, &out)
        return self._after_send(status, out, yielded)

    cdef int _throw(self, object error, PyObject **yielded) except -1:
        cdef PyObject *out = NULL
        cdef PySendResult status = PYGEN_NEXT
        self._enter()
        try:
            message = self._coro.throw(error)
            Py_INCREF(message)
            out = <PyObject *> message
        except StopIteration as stop:
            status = PYGEN_RETURN
            message = stop.value
            Py_INCREF(message)
            out = <PyObject *> message
        except BaseException as exc:
            self._complete(None, exc)
            return 0
        return self._after_send(status, out, yielded)

    cdef int _after_send(self, int status, PyObject *out, PyObject **yielded) except -1:
        cdef RunCore run = self.run
        cdef Context ctx = self._ctx
        if status == PYGEN_NEXT:
            yielded[0] = out
            self._leave()
            self.suspended = True
            self.waited = True
            self._suspended_at = run._now()
            run._suspended += 1
            run._active = None
            if ctx.deadline != INFINITY and ctx._timer == 0:
                ctx._timer = run._arm(ctx.deadline, ctx)
            if run.deadline != INFINITY and not run._deadline_armed:
                run.arm_run_deadline()
            if run._has_work():
                run._need_spare()
            return 1
        if status == PYGEN_RETURN:
            result = <object> out
            Py_DECREF(result)
            self._complete(result, None)
            return 0
        error = <object> bz_take_exception()
        Py_DECREF(error)
        self._complete(None, error)
        return 0

    cdef int _complete(self, object result, object error) except -1:
        """The step is out. Decide what its outcome is, and settle it now or with the others of this pass."""
        cdef RunCore run = self.run
        cdef Context ctx = self._ctx
        cdef StepInfo step = ctx._step
        if not _ticks_work or bz_ticks() - run._last_ticks > TICKS_PER_READING:
            run._look_at_clock(ctx)
        if self._coro is not None:
            self._coro = None
        if (
            _variables_offset == 0
            or bz_slot_read(<PyObject *> self._variables, _variables_offset)
            is not bz_slot_read(<PyObject *> run._context, _variables_offset)
        ):
            # The step has set a context variable, which is its own: the next step gets a fresh copy.
            self._leave()
            self._variables = None
        if _status_offset > 0 and bz_slot_read(<PyObject *> self.task, _status_offset) is not <PyObject *> self.status:
            error = run.on_scope_left_open(ctx, error)
        if len(_lock_owners) > 0 and len(_lock_owners.get(self.task, ())) != self.locks:
            error = run.on_lock_left_held(ctx, error)
        if (
            error is None
            and ctx.deadline == INFINITY
            and ctx.abort_reason == 0
            and run._log is None
            and run._suspended == 0
            and len(run._finished) == 0
        ):
            # Nothing is against settling it here and now.
            self._live = False
            run.busy -= 1
            run._settled += 1
            if ctx._holds_slot:
                run._release(ctx)
            if result is not None and not run.ending:
                if (
                    type(result) is step.last_class
                    and step.last_route.only is not None
                    and run._next_step is None
                    and bz_ring_len(&run._queue._ring) == 0
                ):
                    run._numbered += 1
                    run._next_seq = run._numbered
                    run._next_step = step.last_route.only
                    run._next_item = result
                else:
                    self._settling = True
                    run._dispatch(step, result, ctx._handling)
                    self._settling = False
            return 0
        return self._complete_slowly(result, error)

    cdef int _complete_slowly(self, object result, object error) except -1:
        """The same where an error, a deadline, an abort, an observer or other steps have to be heeded."""
        cdef RunCore run = self.run
        cdef Context ctx = self._ctx
        ctx._used = True
        if ctx._timer != 0:
            run._disarm(ctx._timer)
            ctx._timer = 0
        if ctx.abort_reason != 0:
            if self.scope is not None:
                self.code = UNWOUND
            if ctx.abort_reason != TIMED_OUT or ctx.abandoned:
                self._let_go(ctx)
                run.on_unwound(ctx, error)
                return 0
            result = None
            error = run.timeout_error(ctx, error)
        elif error is not None and not isinstance(error, Exception):
            self._let_go(ctx)
            run.on_base_exception(ctx, error)
            return 0
        elif ctx.deadline != INFINITY and (run._last_time if run._real_clock else run._clock()) >= ctx.deadline:
            result = None
            error = run.timeout_error(ctx, error)
        self._live = False
        if run._must_wait_for_pass(self, ctx):
            if run.passes is None:
                run.passes = run.pass_counter()
            if len(run._finished) == 0:
                run._finished_pass = (<PassCounter> run.passes).number
            run._finished.append((ctx, result, error))
            return 0
        self._settling = True
        run._settle(ctx, result, error)
        self._settling = False
        return 0

    cdef int _let_go(self, Context ctx) except -1:
        """Count an invocation out that produces nothing."""
        cdef RunCore run = self.run
        self._live = False
        run.busy -= 1
        run._settled += 1
        if ctx._holds_slot:
            run._release(ctx)
        return 0


cdef int _worker_send(PyObject *worker, PyObject *value, PyObject **result) except -1:
    """`await worker` goes on: 1 hands a message to trio, 0 returns the code."""
    cdef Worker self = <Worker> worker
    try:
        if self._advance(<object> value, result):
            return 1
    except BaseException:
        self._leave()
        self.run._active = None
        raise
    cdef object code = self.code
    Py_INCREF(code)
    result[0] = <PyObject *> code
    return 0


bz_set_am_send(<PyTypeObject *> Worker, _worker_send)
