"""Seeded simulation: random workflows on a seeded scheduler and a virtual clock, and what must hold for each of them.

`plans` draws a workflow and what happens to it from a seed, `steps` makes real steps of it that write what they see
into a `ledger`, `trial` runs them, `reading` and `invariants` judge the ledger.
"""
