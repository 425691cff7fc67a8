# Part of run.pyx: the events that `collect_events` gathers.

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
