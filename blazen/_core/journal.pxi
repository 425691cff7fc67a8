# Part of run.pyx: what a run that is recorded writes down while it runs.
#
# The journal is one flat list. Each entry takes ENTRY_SIZE places: the kind, the time on the engine's clock in seconds,
# and four more:
#     NUMBERED   number of the event, its route, what is kept of it, what produced it: an attempt as a tuple
#     STARTED    the attempt: number of its event, index of its step, number of the attempt or 0 for `on_error`; unused
#     FINISHED   likewise
#     DROPPED    likewise; it has finished, and the run had ended
# Flat, because a tuple per entry would be one more object for the garbage collector to walk over, again and again: that
# made a recorded run several times as slow. What happens less than once per attempt is written by
# `blazen.engine.recording`, which also puts all of it together for whoever looks.
# A run without a journal asks for it once per event, and not at all where `_run_chain` runs its steps.

ENTRY_SIZE = 6
NUMBERED = 0
STARTED = 1
FINISHED = 2
DROPPED = 3
# What produced the first event; one from outside has None there, and the others the attempt.
START = "start"

# An event whose fields are all of these types cannot change: it is kept as it is, and written when somebody looks.
cdef frozenset _UNCHANGING = frozenset((type(None), bool, int, float))
# An event with longer text is written at once, so that the journal does not keep the text alive.
cdef Py_ssize_t LONGEST_KEPT = 1000


def keep_journal(RunCore run not None):
    """Have a run keep a journal; called before it begins."""
    run.journal = []
    run._observed = True


def kept_by(RunCore run not None, event):
    """What the journal keeps of an event: itself if it cannot change, else its payload as it is now."""
    return run._keep(event)
