"""`ctx.once`: an effect whose result is recorded, so that later attempts get it instead of repeating the effect."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from blazen.errors import ValidationError

if TYPE_CHECKING:
    from blazen._core.run import Context
    from blazen.engine.run import Run


class UnderWay:
    """Stands for the result while the effect is under way; others that want it wait."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = trio.Event()


async def once(run: Run, ctx: Context, key: object, fn: object) -> object:
    """`ctx.once(...)`."""
    call = f"step {ctx.step_name!r}: once"
    effect = effect_of(fn, call)
    if not run.on_own_thread():
        raise ValidationError(f"{call} is called from a thread: from there, use trio.from_thread.run(ctx.once, ...)")
    try:
        hash(key)
        run.state.check_storable(key)
    except (TypeError, ValidationError) as exc:
        raise ValidationError(f"{call}: the key {key!r} must be hashable and storable: {exc}") from None
    if run.once_kept is None:
        run.once_kept = {}
    kept = run.once_kept
    while key in kept:
        found = kept[key]
        if type(found) is not UnderWay:
            await checkpoint()
            return found
        await found.over.wait()
    await checkpoint_if_cancelled()
    under_way = kept[key] = UnderWay()
    try:
        result = effect(run.run_id, key)
        if inspect.isawaitable(result):
            result = await result
        try:
            run.state.check_storable(result)
        except ValidationError as exc:
            raise ValidationError(
                f"{call}: what the effect {key!r} returned cannot be recorded: {exc}", path=exc.path
            ) from None
    except BaseException:
        del kept[key]
        under_way.over.set()
        raise
    kept[key] = result
    try:
        if run.ledger is not None:
            # The effect has taken place: it is recorded, whoever is cancelled meanwhile.
            with trio.CancelScope(shield=True):
                is_recorded = await run.ledger.written()
            if not is_recorded:
                await checkpoint()  # the run is ending: the step is told so here, and not given what is not recorded
    finally:
        under_way.over.set()
    return result


def effect_of(fn: Any, call: str) -> Callable[[str, object], Any]:
    """`fn` as a function of the run's id and the key."""
    if not callable(fn):
        raise ValidationError(f"{call} takes a function, got {fn!r}")
    effect: Callable[[str, object], Any] = fn
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some builtins do not tell
        return effect
    try:
        signature.bind("", "")
        return effect
    except TypeError:
        pass
    try:
        signature.bind()
    except TypeError:
        raise ValidationError(
            f"{call}: {getattr(fn, '__name__', fn)!r} must take the run's id and the key, or nothing"
        ) from None
    return lambda run_id, key: fn()
