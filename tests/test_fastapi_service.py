"""The example of a FastAPI service, over real HTTP: what streams, what asks, and what becomes of a client that goes."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from in_asyncio import in_asyncio

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fastapi_service.py"


@pytest.fixture(scope="module")
def service() -> Iterator[ModuleType]:
    name = "fastapi_service_example"  # in sys.modules, where the hints of its steps and routes are looked up
    spec = importlib.util.spec_from_file_location(name, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@in_asyncio
async def test_events_arrive_while_the_run_goes_on(service: ModuleType) -> None:
    async with service.served() as client:
        async with client.stream("GET", "/reports/whales", params={"pages": 20}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            assert await anext(lines) == "event: progress"
            assert service.desks == ["whales"]  # it is still at work
            rest = [line async for line in lines]
    assert rest[0] == 'data: {"page": 1, "of": 20}'
    assert [line for line in rest if line][-2:] == ["event: done", 'data: {"report": "20 pages on whales"}']
    assert service.desks == []


@in_asyncio
async def test_a_client_that_goes_away_ends_its_step_and_no_other(service: ModuleType) -> None:
    async with service.served() as client:
        async with client.stream("GET", "/reports/bees", params={"pages": 100_000}) as stays:
            async with client.stream("GET", "/reports/ants", params={"pages": 100_000}) as goes:
                await anext(goes.aiter_lines())
                await anext(stays.aiter_lines())
                assert sorted(service.desks) == ["ants", "bees"]
            async with asyncio.timeout(5):
                while "ants" in service.desks:
                    await asyncio.sleep(0.001)
            assert service.desks == ["bees"]


@in_asyncio
async def test_64_clients_at_once(service: ModuleType) -> None:
    async with service.served() as client:
        answers = await asyncio.gather(*[client.get(f"/reports/{n}", params={"pages": 2}) for n in range(64)])
    assert all(f'"2 pages on {n}"' in answer.text for n, answer in enumerate(answers))
    assert service.desks == []


@in_asyncio
async def test_a_question_is_answered_by_another_request(service: ModuleType) -> None:
    async with service.served() as client:
        teapot, cup = [(await client.post(f"/orders/{item}")).json() for item in ("teapot", "cup")]
        assert (teapot["question"], cup["question"]) == ("teapot for 60?", "cup for 30?")
        answered = await client.post(f"/orders/{cup['order']}/answer", params={"yes": False})
        assert answered.json() == {"order": "nothing ordered"}
        answered = await client.post(f"/orders/{teapot['order']}/answer", params={"yes": True})
        assert answered.json() == {"order": "teapot is on its way"}
        assert (await client.post(f"/orders/{cup['order']}/answer", params={"yes": True})).status_code == 404
        assert service.app.state.orders == {}


@in_asyncio
async def test_a_service_that_ends_cancels_what_waits(service: ModuleType) -> None:
    async with service.served() as client:
        await client.post("/orders/teapot")
        (handler,) = service.app.state.orders.values()
        assert handler.state == "waiting"
    assert handler.state == "cancelled"
    assert service.app.state.orders == {}
