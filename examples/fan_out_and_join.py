"""Fan-out and join: one step makes many events, many invocations run at once, one step waits for all of them.

Prices are asked for in several shops. The shops take 1 second each, and all of them together little more than that: run
on trio's mock clock, so that the example is done at once and the times it shows are exact.
"""

from __future__ import annotations

import trio
import trio.testing

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step

PRICES = {"corner shop": 3.20, "market": 2.80, "mill": 2.95, "online": 3.60}


class Ask(Event):
    shop: str


class Offer(Event):
    shop: str
    price: float


@step
async def spread(ev: StartEvent) -> list[Ask]:
    return [Ask(shop) for shop in ev.shops]


@step(max_concurrency=10, timeout=5.0)
async def ask(ev: Ask) -> Offer:
    await trio.sleep(1.0)  # the shop looks it up
    return Offer(ev.shop, PRICES[ev.shop])


@step
async def compare(ctx: Context, ev: Offer) -> StopEvent | None:
    offers = ctx.collect_events(ev, len(PRICES))
    if offers is None:
        return None  # the others are not there yet
    # In the order in which the questions were asked, whoever answered first.
    for offer in offers:
        print(f"{offer.shop:<12} {offer.price:.2f}")
    return StopEvent(result=min(offers, key=lambda offer: offer.price).shop)


cheapest: Workflow[str] = Workflow("cheapest", [spread, ask, compare])


async def main() -> None:
    result = await cheapest.run(shops=list(PRICES))
    print(f"cheapest: {result.result}, after {trio.current_time():.1f} s for {len(PRICES)} shops")


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.0))
