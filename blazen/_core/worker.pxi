# Part of run.pyx: the loop that takes events and drives their steps.

@cython.final
cdef class Worker:
    """Takes events off the queue and drives their steps. `await worker` returns when it needs Python; see `code`."""

    def __init__(self, RunCore run not None):
        self.run = run
        run.workers[self] = None

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on; as of a generator. Only for drivers that do not use the send slot."""
        return self._drive(value, None)

    def throw(self, *error):
        """Raise an exception where the step waits; as of a generator. trio does, when a step awaits what is foreign."""
        if self._coro is None:
            raise RuntimeError("no step of this worker waits: there is nowhere to throw to")
        return self._drive(None, error)

    def close(self):
        """Close the step's coroutine; the loop has been torn down."""
        if self._coro is not None:
            coro, self._coro = self._coro, None
            self._enter()
            try:
                coro.close()
            finally:
                self._leave()

    # For tools that walk the awaits of a task: the frame of the step that runs.
    @property
    def cr_frame(self):
        return getattr(self._coro, "cr_frame", None)

    @property
    def cr_await(self):
        return getattr(self._coro, "cr_await", None)

    def retire(self):
        """Leave the run."""
        self.run.workers.pop(self, None)
        if not self._live:
            self._ctx = None

    def arrived(self):
        """Count a worker that was called as there, though it did not come for work."""
        if self._woken:
            self._woken = False
            self.run._woken -= 1

    def wait_for_thread(self):
        """Note that the worker waits for its step's thread or process; others take the work meanwhile."""
        cdef RunCore run = self.run
        self.suspended = True
        run._suspended += 1
        if run._has_work():
            run._need_spare()

    def finish_thread(self, result, error):
        """Take the outcome of a step that ran in a thread or a process."""
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

    cdef object _drive(self, object value, tuple error):
        """`send` and `throw`: returns what to hand to trio, or ends as a generator does, with the code."""
        cdef PyObject *out = NULL
        waits = _go_on(self, value, error, &out)
        result = <object> out
        Py_DECREF(result)
        if waits:
            return result
        raise StopIteration(result)

    cdef int _advance(self, object value, tuple error, PyObject **yielded) except -1:
        """Run steps; the one that waits goes on with `value`, or with `error`, the arguments of `throw`.

        1: one waits, and `yielded` is what to hand to trio. 0: see `code`.
        """
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
        if run.dozing:
            run.ledger.wake()
        if len(run._finished) > 0 and (<PassCounter> run.passes).number != run._finished_pass:
            run._settle_finished()
        self.code = DRY
        if self._coro is not None:
            step_name = self._ctx._step.name
            # Read before the step goes on: the run's own end may cancel the scope too.
            caller_cancelled = not run.ending and getattr(self.status, "effectively_cancelled", False)
            if self._resume(value, yielded) if error is None else self._throw(error, yielded):
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
            if run.held:
                self.code = self._settle_or_rest()
                break
            if run._real_clock:
                if run._last_time - run._slice_start > LONGEST_SLICE:
                    self.code = YIELD
                    break
            elif run._settled - run._slice_settled > LONGEST_SLICE_EVENTS:
                self.code = YIELD
                break
            if (
                run._suspended == 0
                and len(run._finished) == 0
                and run.journal is None
                and not run.gated
                and (run._log is None or not run._log.with_steps)
            ):
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
                or ctx.noted is not None
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
            self._ctx._worker = self             # another worker may have run its last attempt
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
            or step.off_loop
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
        elif step.has_timeout or run._observed:
            ctx.started = run._clock()
            if not ctx._handling:
                ctx.deadline = ctx.started + step.timeout
        if run._observed:
            run._note("started", ctx)
        if self._variables is None:
            self._variables = PyContext_Copy(run._context)
        if step.off_loop and not ctx._handling:
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

    cdef int _throw(self, tuple error, PyObject **yielded) except -1:
        """Likewise, with an exception raised where it waits."""
        cdef PyObject *out = NULL
        cdef PySendResult status = PYGEN_NEXT
        self._enter()
        try:
            message = self._coro.throw(*error)
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
            if ctx.abort_reason != 0:
                run.waits_aborted(ctx)
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
        if ctx.holds > 0:
            run.end_waits(ctx)                   # in tasks that are not the step's own and have outlived it
        if (
            error is None
            and ctx.deadline == INFINITY
            and ctx.abort_reason == 0
            and not run._observed
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
        # In a run that is ending nobody may come back to settle it, and the order of what is dropped does not matter.
        if not run.ending and run._must_wait_for_pass(self, ctx):
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


cdef int _go_on(Worker self, object value, tuple error, PyObject **result) except -1:
    """Let a worker go on: 1 hands a message to trio, 0 returns the code."""
    try:
        if self._advance(value, error, result):
            return 1
    except BaseException:
        self._leave()
        self.run._active = None
        raise
    cdef object code = self.code
    Py_INCREF(code)
    result[0] = <PyObject *> code
    return 0


cdef int _worker_send(PyObject *worker, PyObject *value, PyObject **result) except -1:
    """The send slot: what `await worker` calls."""
    return _go_on(<Worker> worker, <object> value, None, result)


bz_set_am_send(<PyTypeObject *> Worker, _worker_send)
