"""What stores refuse, in the same words whichever store it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from blazen.errors import PersistError, ValidationError
from blazen.store.base import ENDED, OwnershipLost, RequestKind

_KINDS = get_args(RequestKind)


def no_such_run(run_id: str, where: str) -> ValidationError:
    return ValidationError(
        f"there is no run {run_id!r} in {where}: it was never stored there, or it was deleted or pruned since"
    )


def has_ended(run_id: str, state: str, where: str) -> ValidationError:
    return ValidationError(f"run {run_id} in {where} has ended ({state}): nothing more can be done with it")


def owner_lives(run_id: str, where: str) -> ValidationError:
    return ValidationError(
        f"run {run_id} in {where} is run by somebody who is alive: wait until it is released or its owner has stopped, "
        "or leave it a request"
    )


def is_live(run_id: str, where: str) -> ValidationError:
    return ValidationError(
        f"run {run_id} in {where} cannot be deleted while its owner is alive: cancel it, or stop its owner, first"
    )


def no_such_question(request_id: str, run_id: str | None, where: str) -> ValidationError:
    of_run = "" if run_id is None else f" of run {run_id}"
    return ValidationError(
        f"there is no open question {request_id!r}{of_run} in {where}: it was never asked, or it has been answered or "
        "closed since"
    )


def is_answered(request_id: str, run_id: str, where: str) -> ValidationError:
    return ValidationError(f"question {request_id!r} of run {run_id} in {where} has been answered already")


def ownership_lost(run_id: str, fence: int, now: int | None, where: str) -> OwnershipLost:
    if now is None:
        why = "it is not there any more"
    elif now > fence:
        why = f"it has been claimed again since (claim {now})"
    else:
        why = "this store does not own it, or has let go of it"
    return OwnershipLost(
        f"nothing was written of run {run_id} in {where} under claim {fence}: {why}; whoever owns it now goes on with "
        "it"
    )


def exists(run_id: str, where: str) -> PersistError:
    return PersistError(
        f"a run {run_id!r} is in {where} already: resume it there, delete it first, or give the new run another id"
    )


def first_fence(run_id: str, fence: int) -> PersistError:
    return PersistError(f"the first commit of run {run_id} makes claim 1, and names claim {fence}")


def asked_elsewhere(request_id: str, run_id: str, other: str, where: str) -> PersistError:
    return PersistError(
        f"run {run_id} asks a question with the id {request_id!r}, which run {other} in {where} is asking already"
    )


def closed(where: str) -> PersistError:
    return PersistError(f"{where} is closed: open it again")


def check_request(run_id: str | None, kind: RequestKind, key: str | None) -> None:
    """Refuse a request that no store can take."""
    if kind not in _KINDS:
        raise ValidationError(f"a request is one of {', '.join(map(repr, _KINDS))}, not {kind!r}")
    if kind == "answer" and key is None:
        raise ValidationError("a request of kind 'answer' needs as its key the id of the question that it answers")
    if kind != "answer" and run_id is None:
        raise ValidationError(f"a request of kind {kind!r} needs the id of the run that it is for")


def check_range(start: int, limit: int | None) -> None:
    """Refuse a part of a list that no list has."""
    if start < 0:
        raise ValidationError(f"start is the number of an item, 0 or more, not {start}")
    if limit is not None and limit < 0:
        raise ValidationError(f"limit is how many there may be at most, 0 or more, or None; not {limit}")


def check_ended(states: Sequence[str]) -> None:
    """Refuse to prune what has not ended."""
    for state in states:
        if state not in ENDED:
            raise ValidationError(
                f"only runs that have ended are pruned ({', '.join(sorted(ENDED))}), not {state!r} ones"
            )
