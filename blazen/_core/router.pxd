# Which steps an event goes to: decided when the workflow is built.
cimport cython


cdef enum:
    TO_STEPS = 0
    ENDS_RUN = 1
    ASKS = 2
    SHOWN = 3                               # to steps, and to the stream
    AWAITED = 4                             # to no step, but to those that wait for it in their middle


@cython.final
cdef class StepInfo:
    """One step as the dispatcher sees it; shared by all runs of a workflow."""
    cdef:
        readonly str name
        readonly object fn
        readonly object spec
        readonly object on_error
        readonly object retry
        readonly int index
        readonly double timeout             # seconds; infinite when there is none
        readonly bint has_timeout
        readonly bint is_simple             # no limit, no tiny timeout, on the loop
        readonly int limit                  # max_concurrency; 0 when there is none
        readonly bint is_async
        readonly bint wants_ctx
        readonly bint ctx_first
        readonly bint in_thread
        readonly object when                # guard: `when(event)` says whether the step takes it; or None

        readonly bint in_process
        readonly bint in_asyncio
        readonly bint off_loop              # in a thread, a process or asyncio
        readonly bint is_plain              # an inline `def`: it cannot wait
        object accept_class                 # the one class it accepts exactly, else None
        dict accept_classes                 # type name -> class; None for a type accepted by name
        tuple accept_bases                  # classes whose subclasses it accepts
        object emit_names                   # frozenset of type names it may return, or None
        object last_class                   # class of the event it returned last ...
        Route last_route                    # ... and where that goes


@cython.final
cdef class Route:
    """Where events of one type go."""
    cdef:
        readonly str event_type
        readonly int kind
        readonly tuple steps
        StepInfo only                       # the step, when there is exactly one and it takes every event
        bint guarded                        # at least one of them takes only some events


@cython.final
cdef class Router:
    cdef:
        readonly str workflow
        readonly tuple steps
        readonly bint has_timeouts
        readonly bint has_limits
        readonly bint has_threads
        readonly bint has_guards
        dict _by_class
        dict _by_name
        frozenset _awaited                  # type names that some step waits for in its middle
        tuple _subclass_routes
        dict _classes                       # type name -> class, for events known by name only

    cdef Route find(self, object event)
    cdef Route narrow(self, Route route, object event, str origin, object emitter, bint awaited)
    cdef bint lets_through(self, StepInfo step, object event) except -1
    cdef object adapt(self, StepInfo step, object event)
    cdef Route route_result(self, StepInfo step, object event, bint rescued, bint in_list, bint awaited)
