"""Runs that outlive their process: what is written down of a run and when, and how others go on with it.

`cut` says what a run is at one moment, as parts with names. `ledger` decides when to write which of them. `loading`
makes a run of what was written. `service` finds runs that nobody goes on with.
"""

from __future__ import annotations
