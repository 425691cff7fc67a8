"""From an event to the steps that accept it.

The tables are made once, when a workflow is built. At run time a known class costs one dict lookup, and the class a
step returned last costs a pointer comparison.
"""

cimport cython

# A class that was not known when the workflow was built is remembered up to this many, so that a program that makes
# classes without end does not fill the table.
cdef enum:
    REMEMBERED_CLASSES = 4096

# Seconds. Below that, a deadline may pass between two readings of the clock by the loop that runs chains of steps.
cdef double SHORTEST_SIMPLE_TIMEOUT = 0.001

cdef object _Event = None
cdef object _DynamicEvent = None
cdef object _convert = None
cdef object _WorkflowError = None
cdef str _STOP = "blazen::StopEvent"
cdef str _ASK = "blazen::InputRequestEvent"
cdef tuple _SHOWN = ("blazen::ProgressEvent", "blazen::UsageEvent")


def configure(event_class, dynamic_class, convert, workflow_error):
    """Hand over the event classes, `convert(dynamic, cls)` and the error class."""
    global _Event, _DynamicEvent, _convert, _WorkflowError
    _Event = event_class
    _DynamicEvent = dynamic_class
    _convert = convert
    _WorkflowError = workflow_error


@cython.final
cdef class StepInfo:
    """One step as the dispatcher sees it."""

    def __init__(self, spec, int index, step_timeout):
        timeout = spec.timeout if spec.timeout is not None else step_timeout
        self.spec = spec
        self.name = spec.name
        self.fn = spec.fn
        self.on_error = spec.on_error
        self.when = spec.when
        self.retry = spec.retry
        self.index = index
        self.timeout = float("inf") if timeout is None else timeout
        self.has_timeout = timeout is not None
        self.limit = spec.max_concurrency or 0
        self.is_async = spec.is_async
        self.wants_ctx = spec.wants_ctx
        self.ctx_first = spec.ctx_first
        self.in_thread = spec.run == "thread"
        self.in_process = spec.run == "process"
        self.in_asyncio = spec.run == "asyncio"
        self.off_loop = self.in_thread or self.in_process or self.in_asyncio
        # Its on_error may be a coroutine function, and then it can wait after all.
        self.is_plain = not (self.is_async or self.off_loop or spec.on_error is not None)
        self.is_simple = not (self.limit or self.off_loop or self.timeout < SHORTEST_SIMPLE_TIMEOUT)
        self.accept_classes = {
            (a if isinstance(a, str) else a.event_type): (None if isinstance(a, str) else a) for a in spec.accepts
        }
        bases = tuple(a for a in spec.accepts if not isinstance(a, str)) if spec.subclasses else ()
        self.accept_bases = bases
        one_class = len(spec.accepts) == 1 and not isinstance(spec.accepts[0], str) and not bases
        self.accept_class = spec.accepts[0] if one_class else None
        if spec.emits is not None:
            self.emit_names = frozenset(e if isinstance(e, str) else e.event_type for e in spec.emits)


@cython.final
cdef class Route:
    """Where events of one type go."""

    def __init__(self, str event_type, int kind, tuple steps, *, bint narrowed=False):
        self.event_type = event_type
        self.kind = kind
        self.steps = steps
        self.guarded = not narrowed and any(step.when is not None for step in steps)
        self.only = steps[0] if len(steps) == 1 and kind == TO_STEPS and not self.guarded else None


@cython.final
cdef class Router:
    """The routing tables of one workflow."""

    def __init__(self, graph, *, step_timeout=None):
        """Make the tables from a checked graph.

        Args:
            graph: As `blazen.graph.build_graph` returns it.
            step_timeout: Seconds for steps that name no timeout of their own, or None.
        """
        cdef StepInfo info
        self.workflow = graph.name
        self.steps = tuple(StepInfo(spec, index, step_timeout) for index, spec in enumerate(graph.specs))
        for info in self.steps:
            self.has_timeouts |= info.timeout != float("inf")
            self.has_limits |= info.limit > 0
            self.has_threads |= info.in_thread
            self.has_guards |= info.when is not None
        self._subclass_routes = tuple(graph.subclass_routes)
        self._classes = graph.event_classes
        self._by_name = {}
        for event_type, indices in graph.routes.items():
            kind = ASKS if event_type == _ASK else SHOWN if event_type in _SHOWN else TO_STEPS
            self._by_name[event_type] = Route(event_type, kind, tuple(self.steps[i] for i in indices))
        self._by_name[_STOP] = Route(_STOP, ENDS_RUN, ())
        if _ASK not in self._by_name:
            self._by_name[_ASK] = Route(_ASK, ASKS, ())
        for spec in graph.specs:
            for event_type in spec.waits_names:
                if event_type not in self._by_name:
                    self._by_name[event_type] = Route(event_type, AWAITED, ())
        self._awaited = frozenset(name for spec in graph.specs for name in spec.waits_names)
        self._by_class = {}

    def lookup(self, event):
        """The names of the steps that receive `event`, in the order of the workflow; None if nobody accepts it."""
        route = self.find(event)
        if route is None:
            return None
        return tuple(info.name for info in (<Route> route).steps)

    def accepts(self, event):
        """Whether an event from outside would find a step that accepts its type.

        Raises:
            WorkflowError: It would, and the guards of all of them refuse it.
        """
        route = self.find(event)
        if route is None:
            return False
        if route.guarded:
            self.narrow(route, event, "was sent from outside the run", None, False)
        return True

    def known_class(self, str event_type):
        """The class that the workflow knows under a type name, or None."""
        return self._classes.get(event_type)

    cdef Route find(self, object event):
        """The route of an event; None if nobody accepts it. Raises TypeError for something that is no event."""
        cls = type(event)
        route = self._by_class.get(cls)
        if route is not None:
            return <Route> route
        if not isinstance(event, _Event):
            raise TypeError(f"{cls.__name__!r} object is not an event")
        route = self._by_name.get(event.event_type)
        if self._subclass_routes and (route is None or (<Route> route).kind != ENDS_RUN):
            # An event known by name only counts as the class that the workflow knows under this name.
            known = self._classes.get(event.event_type, cls) if cls is _DynamicEvent else cls
            by_base = [self.steps[index] for base, index in self._subclass_routes if issubclass(known, base)]
            if by_base:
                named = () if route is None else (<Route> route).steps
                kind = TO_STEPS if route is None else (<Route> route).kind
                steps = tuple(step for step in self.steps if step in named or step in by_base)
                route = Route(event.event_type, kind, steps)
        if route is not None and cls is not _DynamicEvent and len(self._by_class) < REMEMBERED_CLASSES:
            self._by_class[cls] = route
        return <Route> route

    cdef Route narrow(self, Route route, object event, str origin, object emitter, bint awaited):
        """A guarded route without the steps whose guards refuse this event.

        Args:
            origin: Where the event comes from, for the message: "step 'a' returned".
            emitter: The step it comes from, or None.
            awaited: A step waits for this event in its middle, so that no step has to accept it.
        """
        cdef StepInfo step
        kept = tuple(step for step in route.steps if step.when is None or self.lets_through(step, event))
        if not kept and (awaited or route.event_type in self._awaited):
            return Route(route.event_type, AWAITED, ())
        if not kept and route.kind != ASKS:
            refused = ", ".join(repr(step.name) for step in route.steps)
            raise _WorkflowError(
                f"no step of workflow {self.workflow!r} takes the event {route.event_type!r}, which {origin}: it is "
                f"refused by the guard (when=) of {refused}; let one step take what the others refuse",
                step=emitter,
                event_type=route.event_type,
            )
        return Route(route.event_type, route.kind, kept, narrowed=True)

    cdef bint lets_through(self, StepInfo step, object event) except -1:
        """Ask the guard of a step."""
        event = self.adapt(step, event)
        try:
            answer = step.when(event)
            if hasattr(answer, "__await__"):
                if hasattr(answer, "close"):
                    answer.close()               # or Python warns about a coroutine nobody awaited
                raise TypeError("the guard must be a plain function that returns True or False, and it is async")
            return bool(answer)
        except Exception as exc:
            error = _WorkflowError(
                f"the guard (when=) of step {step.name!r} of workflow {self.workflow!r} failed on an event "
                f"{event.event_type!r}: {type(exc).__name__}: {exc}",
                step=step.name,
                event_type=event.event_type,
            )
            raise error from exc

    cdef object adapt(self, StepInfo step, object event):
        """The event as `step` is to receive it: a dynamic event is converted for a step typed with a class."""
        cls = type(event)
        event_type = event.event_type
        wanted = step.accept_classes.get(event_type)
        if wanted is None and cls is _DynamicEvent and step.accept_bases:
            known = self._classes.get(event_type)
            if known is not None and issubclass(known, step.accept_bases):
                wanted = known
        if wanted is None or wanted is cls:
            return event
        if cls is _DynamicEvent:
            try:
                return _convert(event, wanted)
            except Exception as exc:
                error = _WorkflowError(
                    f"step {step.name!r} of workflow {self.workflow!r} cannot take the event {event_type!r}: {exc}",
                    step=step.name,
                    event_type=event_type,
                )
                raise error from exc
        if isinstance(event, wanted):
            return event
        raise _WorkflowError(
            f"step {step.name!r} of workflow {self.workflow!r} accepts {_full_name(wanted)}, and the event is a "
            f"{_full_name(cls)}: two different classes with the type name {event_type!r}; rename one or give it type=",
            step=step.name,
            event_type=event_type,
        )

    cdef Route route_result(self, StepInfo step, object event, bint rescued, bint in_list, bint awaited):
        """The route of an event that `step` returned; refuses what it did not declare, unless its `on_error` did.

        `awaited`: a step waits for this event in its middle, so that no step has to accept it.
        """
        who = f"{'on_error of ' if rescued else ''}step {step.name!r}"
        cls = type(event)
        try:
            route = self.find(event)
        except TypeError:
            hint = "declare the step with `async def`" if hasattr(event, "__await__") else (
                "put only events into it" if in_list else
                "return a list of events, not a tuple or set" if isinstance(event, (tuple, set, frozenset)) else
                "return an event, a list of events or None"
            )
            if hasattr(event, "close") and hasattr(event, "cr_code"):
                event.close()                    # or Python warns about a coroutine nobody awaited
            raise _WorkflowError(
                f"{who} of workflow {self.workflow!r} returned a {'list with a ' if in_list else ''}{cls.__name__!r} "
                f"object: {hint}",
                step=step.name,
            ) from None
        event_type = event.event_type
        if not rescued and step.emit_names is not None and event_type not in step.emit_names:
            declared = ", ".join(sorted(step.emit_names)) or "nothing"
            raise _WorkflowError(
                f"{who} of workflow {self.workflow!r} returned {event_type!r} and declares {declared}: "
                "correct the return hint or emits=",
                step=step.name,
                event_type=event_type,
            )
        if route is None and awaited:
            return Route(event_type, AWAITED, ())
        if route is None:
            raise _WorkflowError(
                f"no step of workflow {self.workflow!r} accepts {event_type!r}, which {who} returned",
                step=step.name,
                event_type=event_type,
            )
        if route.guarded:
            return self.narrow(route, event, f"{who} returned", step.name, awaited)
        if cls is not _DynamicEvent and not rescued:
            step.last_class = cls
            step.last_route = route
        return route


def _full_name(cls):
    return f"{cls.__module__}.{cls.__qualname__}"
