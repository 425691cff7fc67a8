# What a run does per event: queue, dispatch, drive the steps, settle what they produce.
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from blazen._core.queue cimport EventQueue
from blazen._core.router cimport Route, Router, StepInfo
from blazen._core.state cimport StateStore
from blazen._core.stream cimport EventStream


cdef extern from "bz_timers.h" nogil:
    ctypedef uint64_t bz_timer
    ctypedef struct bz_timers:
        pass
    void bz_timers_init(bz_timers *timers)
    void bz_timers_free(bz_timers *timers)
    int bz_timers_add(bz_timers *timers, double deadline, uint64_t token, bz_timer *out)
    int bz_timers_cancel(bz_timers *timers, bz_timer timer)
    int bz_timers_next(const bz_timers *timers, double *deadline)
    int bz_timers_pop_due(bz_timers *timers, double now, uint64_t *token)


cdef class RunCore:
    cdef:
        readonly Router router
        readonly StateStore state
        public object session
        public object stream                # EventStream, or None when nobody can read it
        EventStream _log                    # the same, typed
        bint _observed                      # somebody may read the stream, or a journal is kept
        readonly list journal               # what has happened, as `journal.pxi` says; None when nobody asked for it
        object _cause                       # what produces the next event, for the journal
        EventQueue _queue
        StepInfo _next_step                 # the head of the queue, kept out of it: a chain never touches the ring
        object _next_item
        uint64_t _next_seq
        uint64_t _numbered                  # how many events have been numbered
        readonly bint ending
        readonly Py_ssize_t busy            # invocations begun and not settled
        readonly Py_ssize_t postponed       # retries that wait for their time
        Py_ssize_t _suspended               # of the busy ones, those that wait inside trio
        readonly dict workers               # in the order they came; a dict, so that leaving costs O(1)
        list _parked                        # workers without work
        Py_ssize_t _woken                   # workers on their way to work
        Py_ssize_t _allowance               # how many may be on their way at once
        uint64_t _settled                   # invocations settled so far
        list _finished                      # outcomes that wait for the end of the scheduler's pass
        uint64_t _finished_pass
        bint _settler_called                # a worker comes back in the next pass to settle them
        list _limits                        # per limited step its running count and backlog
        dict _joins                         # (step, key) -> Join
        set _sent_keys
        Worker _active
        object _context                     # the caller's context variables
        unsigned long _thread
        bint _real_clock
        object _clock                       # current_time() of a clock that is not the system's
        double _last_time                   # seconds, when the clock was last read ...
        uint64_t _last_ticks                # ... and the processor's counter then
        double _slice_start
        uint64_t _slice_settled
        bz_timers _timers
        dict _timer_targets
        uint64_t _timer_count               # the last timer's token
        public double deadline              # of the run, engine's clock; infinite when there is none
        bint _deadline_armed
        # What blazen.engine.run.Run keeps once per run; here, because unset fields of a compiled class cost nothing.
        public object id                    # RunId
        public object life                  # State
        public object outcome               # the StopEvent, or what the run failed with
        public object nursery
        public object timeout               # seconds, or None
        public object totals
        public object waits                 # engine.waits.Waits, once a step has waited in its middle
        public Py_ssize_t waiting           # invocations that wait in their middle, for an answer or an event
        public object pause                 # engine.pausing.Pause, while the run is pausing or paused
        public object origin                # the workflow, which takes the snapshots of its runs
        public bint held                    # nothing is dispatched: the run is pausing, or paused
        public bint resting                 # the run's clock stands still: it waits for answers only
        public double rested_at             # since when
        public double left                  # seconds that were left to its deadline then
        uint64_t _deadline_timer            # token of the timer that watches the run's deadline
        readonly object ledger              # durability.ledger.Ledger of a run that is stored, else None
        readonly bint gated                 # what is returned begins only once it is committed
        public bint gating                  # what is queued now goes behind the gate
        list _gate                          # (step, item, seq): waits for a commit
        public bint dozing                  # the ledger waits until something happens again
        public object loop_state
        public double cleanup_grace
        public double started
        public bint interactive             # a handler watches it
        public bint scoped                  # each worker has a cancel scope of its own
        public bint asleep                  # no worker is there: who brings work starts one
        public bint alone                   # one worker, in the caller's task, and no nursery yet
        public object passes                # PassCounter, once outcomes had to wait for a pass

    cdef double _now(self) except? -1.0
    cdef uint64_t _arm(self, double deadline, object target) except 0
    cdef int _disarm(self, uint64_t token) except -1
    cdef int _note(self, str kind, Context ctx) except -1
    cdef int _write_attempt(self, object kind, Context ctx) except -1
    cdef int _write_event(self, uint64_t seq, Route route, object event) except -1
    cdef object _keep(self, object event)
    cdef inline int _enqueue(self, StepInfo step, object item, uint64_t seq) except -1
    cdef int _enqueue_front(self, StepInfo step, object item, uint64_t seq) except -1
    cdef int _take_effect(self, Context ctx, object result, object error) except -1
    cdef int _deliver(self, Route route, object event) except -1
    cdef bint _is_awaited(self, object event) except -1
    cdef int _dispatch(self, StepInfo step, object result, bint rescued) except -1
    cdef int _settle(self, Context ctx, object result, object error) except -1
    cdef int _settle_finished(self) except -1
    cdef int _drop_finished(self, list entries) except -1
    cdef bint _must_wait_for_pass(self, Worker worker, Context ctx) except -1
    cdef bint _has_work(self) noexcept
    cdef int _need_spare(self) except -1
    cdef int _release(self, Context ctx) except -1
    cdef int _refill(self) except -1
    cdef int _look_at_clock(self, Context ctx) except -1


@cython.final
cdef class Context:
    cdef:
        RunCore _run
        StepInfo _step
        object _event
        readonly uint64_t seq
        readonly int attempt
        readonly int abort_reason
        readonly double started             # engine's clock, seconds
        readonly double deadline            # likewise; infinite when there is none
        bint _refused                       # abandoned: whatever it does is refused
        bint _handling                      # runs on_error instead of the step
        bint _used                          # more than one attempt's plain fields have been set
        bint _waits_aborted                 # has waited since it was aborted
        bint _holds_slot                    # counted in its step's max_concurrency
        readonly object error               # what the last attempt failed with
        public object noted                 # durability.ledger.Noted: what is written down once it has ended; or None
        public object replay                # engine.waits.Replay: what it has been answered; or None
        readonly int holds                  # waits in its middle that are going on
        double _left                        # seconds that were left to its deadline when the first of them began
        double _held_at                     # when that was
        dict _joined                        # joins this event completed, for its retries
        Worker _worker
        uint64_t _timer                     # token of the timer that watches the deadline; 0 when none does
        public object thread_scope          # cancel scope around a thread or process step
        public bint thread_started
        public bint abandoned

    cdef int _renew(self) noexcept
    cdef int _check(self) except -1
    cdef tuple _place(self)


@cython.final
cdef class Worker:
    cdef:
        readonly RunCore run
        Context _ctx                        # the invocation it runs, or has run last and may use again
        bint _live                          # it runs
        public object task                  # the trio task that drives this worker's steps
        public object scope                 # cancel scope of its own, or None
        public object status                # the task's cancel status outside of any step
        public Py_ssize_t locks             # trio locks the task held before any step
        public bint surplus                 # it may leave before the run ends
        readonly int code
        readonly bint suspended
        readonly bint waited                # a step of this worker has waited inside trio
        bint _woken
        double _suspended_at                # engine's clock, when its step began to wait
        object _coro
        object _variables                   # context variables of the running invocation
        bint _entered                       # they are the current ones
        bint _settling                      # the outcome of its invocation takes effect right now
        uint64_t _settled_at_wake

    cdef object _drive(self, object value, tuple error)
    cdef int _advance(self, object value, tuple error, PyObject **yielded) except -1
    cdef int _enter(self) except -1
    cdef int _leave(self) except -1
    cdef Context _renewed_context(self)
    cdef int _settle_or_rest(self) except -1
    cdef bint _is_simple(self, PyObject *step, object event_class) noexcept
    cdef PyObject *_take_simple(self, Context ctx) except? NULL
    cdef int _run_chain(self, PyObject **yielded) except -1
    cdef bint _may_need_others(self, StepInfo step) noexcept
    cdef int _take_next(self) except -1
    cdef int _begin(self, StepInfo step, Context ctx) except -1
    cdef int _resume(self, object value, PyObject **yielded) except -1
    cdef PyObject *_call(self, StepInfo step, Context ctx) noexcept
    cdef int _throw(self, tuple error, PyObject **yielded) except -1
    cdef int _after_send(self, int status, PyObject *out, PyObject **yielded) except -1
    cdef int _complete(self, object result, object error) except -1
    cdef int _complete_slowly(self, object result, object error) except -1
    cdef int _let_go(self, Context ctx) except -1
