"""The page of a run record, in a real browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from browser import Browser, find_chromium
from recorded_runs import record_of, recorded

from blazen import Context, Event, ProgressEvent, Retry, StartEvent, StopEvent, step
from blazen.record import (
    Attempt,
    GraphShown,
    Invocation,
    RecordedEvent,
    RunRecord,
    StepShown,
    Stop,
    Usage,
)

REQUIRED = os.environ.get("BLAZEN_REQUIRE_ALL", "") not in ("", "0", "false")
HOSTILE = "</script><script>window.hurt = true</script><!-- <img src=x onerror='window.hurt = true'> \u2028 & \"'"

pytestmark = pytest.mark.slow


class Page(Event):
    url: str
    note: str = ""


class Words(Event):
    url: str
    total: int


async def pause(ev: Page, error: Exception) -> Words:
    return Words(ev.url, 0)


@step
async def find(ev: StartEvent) -> list[Page]:
    return [Page(f"page-{n}.html", HOSTILE if n == 2 else "") for n in range(4)]


@step(retries=Retry(1, initial=0.5, jitter=0.0), timeout=3.0, on_error=pause, max_concurrency=2)
async def count(ctx: Context, ev: Page) -> Words:
    await trio.sleep(1.0)
    if ev.url == "page-1.html" and ctx.attempt == 1:
        raise ConnectionError(f"reset by {HOSTILE}")
    if ev.url == "page-3.html":
        await trio.sleep(60.0)
    return Words(ev.url, 10)


@step
async def gather(ctx: Context, ev: Words) -> StopEvent | None:
    ctx.write_event_to_stream(ProgressEvent(1, 4, ev.url))
    events = ctx.collect_events(ev, 4)
    return None if events is None else StopEvent({"pages": len(events), "hostile": HOSTILE})


@step
async def beside(ev: StartEvent) -> None:
    await trio.sleep_forever()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        if REQUIRED:
            pytest.fail("no chromium is installed, and BLAZEN_REQUIRE_ALL asks for it")
        pytest.skip("no chromium is installed to show the page in")
    with Browser(path) as opened:
        opened.resize(1400, 900)
        opened.prefer("light")
        yield opened


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with retries, a timeout, a fallback and a cancelled step."""

    async def main() -> RunRecord:
        return await record_of(find, count, gather, beside)

    record = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert record.state == "completed"
    path = tmp_path_factory.mktemp("small") / "run.html"
    path.write_text(record.to_html(), encoding="utf-8")
    return path


def large_record(count: int) -> RunRecord:
    """A record of two steps with `count` invocations together, made without running them."""
    half = count // 2
    events = [RecordedEvent(number=1, type="blazen::StartEvent", at=0.0, by="start", payload={"data": None})]
    invocations = [
        Invocation(
            step="find",
            event=1,
            queued=0.0,
            attempts=[Attempt(queued=0.0, started=0.0, ended=0.0, outcome="finished")],
            produced=list(range(2, half + 2)),
        )
    ]
    for n in range(half):
        events.append(RecordedEvent(number=n + 2, type="Page", at=0.0, by=(0, 0), payload={"url": f"page-{n}.html"}))
    for n in range(half):
        start, number = (n // 16) * 0.1, half + 2 + n
        events.append(RecordedEvent(number=number, type="Words", at=start + 0.09, by=(n + 1, 0), payload={"count": n}))
        invocations.append(
            Invocation(
                step="fetch",
                event=n + 2,
                queued=0.0,
                attempts=[Attempt(queued=0.0, started=start, ended=start + 0.09, outcome="finished")],
                produced=[number],
            )
        )
    for n in range(half):
        start = (n // 16) * 0.1 + 0.09
        stop = Stop(by="cancel_step", at=start + 0.04, step="keep") if n % 500 == 0 else None
        invocations.append(
            Invocation(
                step="keep",
                event=half + 2 + n,
                queued=start,
                attempts=[
                    Attempt(
                        queued=start,
                        started=start,
                        ended=start + 0.05,
                        outcome="finished" if stop is None else "cancelled",
                        stopped=stop,
                    )
                ],
                produced=[],
            )
        )
    steps = [
        StepShown(name="find", run="inline", accepts=["blazen::StartEvent"], emits=["Page"]),
        StepShown(name="fetch", run="inline", accepts=["Page"], emits=["Words"], max_concurrency=16),
        StepShown(name="keep", run="inline", accepts=["Words"]),
    ]
    return RunRecord(
        workflow="large",
        workflow_version="1",
        run_id="00000000-0000-4000-8000-000000000000",
        state="cancelled",
        duration=(half // 16 + 1) * 0.1 + 0.2,
        usage=Usage(),
        graph=GraphShown(steps=steps),
        events=events,
        invocations=invocations,
        stream=[],
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = large_record(10_000)
    assert RunRecord.from_json(record.to_json()) == record
    path = tmp_path_factory.mktemp("large") / "run.html"
    path.write_text(record.to_html(), encoding="utf-8")
    return path


def shown(browser: Browser) -> tuple[float, float]:
    """The part of the run that the timeline shows, in seconds."""
    found = browser.evaluate("(({from, to}) => [Number(from), Number(to)])(document.getElementById('shown').dataset)")
    return found[0], found[1]


def details(browser: Browser) -> str:
    text: str = browser.evaluate("document.getElementById('details').innerText")
    return text


def box_of(browser: Browser, condition: str) -> dict[str, float]:
    """Where the first attempt is drawn for which a condition on `bar` holds."""
    code = f"recordPage.timeline.boxOf(recordPage.model.bars.find((bar) => {condition}))"
    box: dict[str, float] = browser.evaluate(code)
    return box


def click_on(browser: Browser, condition: str) -> None:
    box = box_of(browser, condition)
    browser.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def plot(browser: Browser) -> tuple[float, float]:
    """A place in the middle of the timeline."""
    box = browser.evaluate("document.getElementById('scroll').getBoundingClientRect().toJSON()")
    return round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)


def search(browser: Browser, words: str) -> None:
    browser.key("/")
    browser.type(words)
    browser.key("Enter")


# --- by itself


def test_the_page_needs_nothing_but_itself_and_complains_of_nothing(browser: Browser, small: Path) -> None:
    browser.open(small)
    search(browser, "page-2")
    browser.key("Escape")
    assert browser.requests() == [small.as_uri()]
    assert browser.complaints() == []


def test_nothing_in_a_record_can_become_part_of_the_page(browser: Browser, small: Path) -> None:
    browser.open(small)
    assert browser.evaluate("window.hurt") is None
    # Two scripts: the data, which is not run, and the page's own.
    assert browser.evaluate("document.scripts.length") == 2
    click_on(browser, "bar.attempt.error")
    assert f"ConnectionError: reset by {HOSTILE}".replace("\u2028", "") in details(browser).replace("\u2028", "")
    assert browser.evaluate("document.querySelectorAll('#details img, #details script').length") == 0
    record = browser.evaluate("JSON.stringify(recordPage.model.record.result)")
    assert json.loads(record)["hostile"] == HOSTILE
    assert browser.evaluate("window.hurt") is None
    assert browser.complaints() == []


def test_a_script_from_elsewhere_is_refused_by_the_pages_own_policy(
    browser: Browser, small: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.html"
    page = small.read_text(encoding="utf-8")
    changed.write_text(page.replace("</body>", "<script>window.hurt = true</script></body>"), encoding="utf-8")
    browser.open(changed)
    assert browser.evaluate("window.hurt") is None
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


# --- the graph and the rows


def test_each_step_has_a_node_and_a_row(browser: Browser, small: Path) -> None:
    browser.open(small)
    steps = ["find", "count", "gather", "beside"]
    assert (
        browser.evaluate("[...document.querySelectorAll('.node[data-step]')].map((node) => node.dataset.step)") == steps
    )
    assert browser.evaluate("[...document.querySelectorAll('#rows button')].map((row) => row.dataset.step)") == steps
    assert browser.evaluate("[...document.querySelectorAll('.node.end text')].map((node) => node.textContent)") == [
        "start",
        "end",
    ]


def test_the_edges_are_the_events_that_happened_and_those_declared(browser: Browser, small: Path) -> None:
    browser.open(small)
    edges = browser.evaluate(
        "recordPage.graph.edges.map((edge) => [recordPage.graph.nodes[edge.from].title, "
        "recordPage.graph.nodes[edge.to].title, edge.texts.join(), edge.count])"
    )
    assert sorted(edges) == [
        ["count", "gather", "Words ×4", 4],
        ["find", "count", "Page ×4", 4],
        ["gather", "end", "StopEvent", 1],
        ["start", "beside", "StartEvent", 1],
        ["start", "find", "StartEvent", 1],
    ]


def test_nodes_do_not_overlap_also_where_the_graph_has_cycles(browser: Browser, small: Path) -> None:
    browser.open(small)
    overlaps = browser.evaluate(
        """(() => {
          const found = [];
          let seed = 1;
          const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
          for (let round = 0; round < 60; round++) {
            const nodes = Array.from({ length: 2 + random(14) }, () => ({ w: 40 + random(120), h: 26 + random(40) }));
            const end = () => random(nodes.length);
            const edge = () => ({ from: end(), to: end(), w: 30 + random(60), h: 16 });
            const edges = Array.from({ length: random(30) }, edge);
            layOut(nodes, edges);
            nodes.forEach((a, i) => nodes.slice(i + 1).forEach((b, j) => {
              const apart = Math.abs(a.x - b.x) >= (a.w + b.w) / 2 || Math.abs(a.y - b.y) >= (a.h + b.h) / 2;
              if (!apart) found.push([round, i, i + 1 + j]);
            }));
            for (const edge of edges) if (!edge.points.flat().every(Number.isFinite)) found.push([round, 'edge']);
          }
          return found;
        })()"""
    )
    assert overlaps == []


def test_choosing_a_node_shows_the_step_and_marks_its_row(browser: Browser, small: Path) -> None:
    browser.open(small)
    browser.evaluate("document.querySelector('.node[data-step=count]').focus()")
    browser.key("Enter")
    text = details(browser)
    assert "Step count" in text
    assert "timed out" in text
    assert "3 s" in text
    assert browser.evaluate("document.querySelector('#rows .chosen').dataset.step") == "count"


# --- attempts and events


def test_clicking_an_attempt_shows_its_payload_times_cause_and_consequences(browser: Browser, small: Path) -> None:
    browser.open(small)
    click_on(browser, "bar.step.name === 'count' && bar.invocation.event === 4")
    text = details(browser)
    assert "Payload of Page #4" in text
    assert 'url: "page-2.html"' in text
    facts = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#details dl.facts dt')].map((dt) => "
        "[dt.textContent, dt.nextSibling.textContent]))"
    )
    assert facts["Waited"] == "1 s"
    assert facts["Ran"] == "1 s"
    assert facts["Caused by"].strip().startswith("find on #1")
    assert "Words #" in text
    assert browser.evaluate("recordPage.timeline.chosen.invocation.event") == 4


def test_the_links_lead_to_cause_and_consequence(browser: Browser, small: Path) -> None:
    browser.open(small)
    click_on(browser, "bar.step.name === 'count' && bar.invocation.event === 2")
    link = "[...document.querySelectorAll('#details a')].find((link) => link.textContent === 'gather').click()"
    browser.evaluate(link)
    assert browser.evaluate("recordPage.timeline.chosen.step.name") == "gather"
    assert "total: 10" in details(browser)
    link = (
        "[...document.querySelectorAll('#details a')].find((link) => link.textContent.startsWith('count on')).click()"
    )
    browser.evaluate(link)
    assert browser.evaluate("recordPage.timeline.chosen.step.name") == "count"
    browser.evaluate(
        "[...document.querySelectorAll('#details a')].find((link) => link.textContent.startsWith('Page #2')).click()"
    )
    assert "Taken by (1)" in details(browser)


def test_an_error_is_shown_with_its_traceback(browser: Browser, small: Path) -> None:
    browser.open(small)
    click_on(browser, "bar.outcome === 'retrying'")
    assert browser.evaluate("document.querySelector('#details pre.traceback').textContent").startswith("Traceback")
    assert "attempt 1" in details(browser)
    assert "retrying" in details(browser)


def test_who_stopped_an_attempt_is_said(browser: Browser, small: Path) -> None:
    browser.open(small)
    click_on(browser, "bar.outcome === 'timed_out'")
    assert browser.evaluate("document.querySelector('#details .who').textContent") == "the timeout of step “count”"
    search(browser, "is:cancelled")
    assert browser.evaluate("document.querySelector('#details .who').textContent") == (
        "the StopEvent of step “gather”, which ended the run"
    )


def test_the_run_itself_is_shown_at_first_and_again_after_escape(browser: Browser, small: Path) -> None:
    browser.open(small)
    first = details(browser)
    assert "The run" in first
    assert "the StopEvent of step “gather”" in first
    assert "pages: 4" in first
    assert "On the stream (4)" in first
    click_on(browser, "bar.outcome === 'timed_out'")
    assert details(browser) != first
    browser.key("Escape")
    assert details(browser) == first


# --- searching


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("count", 4),  # the step
        ("words", 4),  # the event type
        ("page-3.html", 2),  # in payloads
        ("connectionerror", 1),  # an error
        ("count page-3", 1),  # all words
        ("is:timed_out", 1),
        ("stopevent", 2),  # what one produced, and what had another stop
        ("nothing like it", 0),
    ],
)
def test_search_finds(browser: Browser, small: Path, words: str, found: int) -> None:
    browser.open(small)
    browser.key("/")
    browser.type(words)
    browser.painted()
    assert browser.evaluate("document.getElementById('matches').textContent") == f"{found} of 10"
    assert f"{found} match" in details(browser)


def test_enter_goes_from_match_to_match_and_back(browser: Browser, small: Path) -> None:
    browser.open(small)
    search(browser, "words")
    first = browser.evaluate("recordPage.timeline.chosen.index")
    assert browser.evaluate("document.getElementById('matches').textContent") == "1 of 4"
    browser.key("Enter")
    assert browser.evaluate("document.getElementById('matches').textContent") == "2 of 4"
    browser.evaluate("document.getElementById('previous').click()")
    assert browser.evaluate("recordPage.timeline.chosen.index") == first


# --- time


def test_the_wheel_zooms_at_the_pointer(browser: Browser, small: Path) -> None:
    browser.open(small)
    before = shown(browser)
    x, y = plot(browser)
    under = f"recordPage.timeline.time({x} - document.getElementById('scroll').getBoundingClientRect().left)"
    pointed = browser.evaluate(under)
    browser.wheel(x, y, -200)
    after = shown(browser)
    assert after[1] - after[0] < 0.8 * (before[1] - before[0])
    assert browser.evaluate(under) == pytest.approx(pointed)
    browser.wheel(x, y, 5000)
    browser.wheel(x, y, 5000)
    assert shown(browser) == pytest.approx(before)


def test_dragging_moves_what_is_shown(browser: Browser, small: Path) -> None:
    browser.open(small)
    x, y = plot(browser)
    for _ in range(4):
        browser.wheel(x, y, -200)
    before = shown(browser)
    browser.drag((x, y), (x - 100, y))
    after = shown(browser)
    assert after[0] > before[0]
    assert after[1] - after[0] == pytest.approx(before[1] - before[0])


def test_the_keys_zoom_move_and_go_from_attempt_to_attempt(browser: Browser, small: Path) -> None:
    browser.open(small)
    whole = shown(browser)
    browser.evaluate("document.getElementById('scroll').focus()")
    for _ in range(3):
        browser.key("+")
    near = shown(browser)
    assert near[1] - near[0] == pytest.approx((whole[1] - whole[0]) * 0.6**3)
    browser.key("ArrowRight")
    assert shown(browser)[0] > near[0]
    browser.key("ArrowLeft")
    assert shown(browser) == pytest.approx(near)
    browser.key("-")
    assert shown(browser)[1] - shown(browser)[0] > near[1] - near[0]
    browser.key("0")
    assert shown(browser) == pytest.approx(whole)
    seen = []
    for _ in range(3):
        browser.key("n")
        seen.append(browser.evaluate("recordPage.timeline.chosen.place"))
    browser.key("p")
    assert [*seen, browser.evaluate("recordPage.timeline.chosen.place")] == [0, 1, 2, 1]
    browser.key("Enter")
    assert browser.evaluate("document.activeElement.id") == "details"


def test_everything_can_be_reached_with_the_tab_key(browser: Browser, small: Path) -> None:
    browser.open(small)
    reached = set()
    for _ in range(40):
        browser.key("Tab")
        reached.add(browser.evaluate("document.activeElement.id || document.activeElement.dataset.step || ''"))
    assert {"search", "next", "theme", "in", "out", "fit", "scroll", "count"} <= reached


# --- looks


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_follows_the_persons_preference_and_can_be_switched(browser: Browser, small: Path, theme: str) -> None:
    brightness = "Math.min(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number))"
    browser.prefer(theme)
    try:
        browser.open(small)
        assert (browser.evaluate(brightness) > 128) == (theme == "light")
        before = browser.screenshot()
        browser.evaluate("document.getElementById('theme').click()")
        browser.painted()
        assert (browser.evaluate(brightness) > 128) == (theme == "dark")
        assert browser.screenshot() != before
    finally:
        browser.prefer("light")


def test_bars_are_drawn_in_the_colour_of_their_outcome(browser: Browser, small: Path) -> None:
    browser.open(small)
    for outcome in ("finished", "retrying"):
        code = f"""(() => {{
          const {{ timeline, model }} = recordPage;
          const bar = model.bars.find((one) => one.outcome === '{outcome}' && one.end > one.start);
          const at = timeline.boxOf(bar), box = timeline.scroll.getBoundingClientRect();
          const x = Math.round(at.x + at.width - 6 - box.left), y = Math.round(at.y + at.height - 4 - box.top);
          const colour = (pen, x, y) => [...pen.getImageData(x, y, 1, 1).data];
          const pen = document.createElement('canvas').getContext('2d');
          pen.fillStyle = timeline.colours['{outcome}'];
          pen.fillRect(0, 0, 1, 1);
          return [colour(timeline.canvas.getContext('2d'), x, y), colour(pen, 0, 0)];
        }})()"""
        drawn, wanted = browser.evaluate(code)
        assert drawn == wanted, outcome


# --- size, and odd runs


def test_ten_thousand_steps_open_answer_and_zoom(browser: Browser, large: Path) -> None:
    browser.open(large)
    assert browser.evaluate("recordPage.model.bars.length") == 10_001
    assert "10,001 finished" not in details(browser)
    before = shown(browser)
    x, y = plot(browser)
    for _ in range(10):
        browser.wheel(x, y, -240)
    after = shown(browser)
    assert after[1] - after[0] < (before[1] - before[0]) / 100
    search(browser, "page-4321.html")
    assert browser.evaluate("document.getElementById('matches').textContent") == "1 of 1"
    assert browser.evaluate("recordPage.timeline.chosen.invocation.event") == 4323
    assert 'url: "page-4321.html"' in details(browser)
    click_on(browser, "bar === recordPage.timeline.chosen")
    assert browser.evaluate("recordPage.timeline.chosen.invocation.event") == 4323
    assert browser.complaints() == []
    # The fan-out of one event is listed in part.
    browser.evaluate("recordPage.chooseBar(recordPage.model.bars[0], true)")
    assert "and 4,800 more" in details(browser)


@pytest.mark.parametrize("count", [0, 1])
def test_a_run_in_which_next_to_nothing_happened_is_shown(browser: Browser, tmp_path: Path, count: int) -> None:
    record = large_record(2)
    record.duration = 0.0
    if count == 0:
        record.events, record.invocations = [], []
    else:
        record.events, record.invocations = record.events[:1], record.invocations[:1]
        record.invocations[0].produced = []
    path = tmp_path / "run.html"
    path.write_text(RunRecord.from_json(record.to_json()).to_html(), encoding="utf-8")
    browser.open(path)
    assert browser.evaluate("document.querySelectorAll('#rows button').length") == 3
    browser.evaluate("document.getElementById('scroll').focus()")
    for key in ("n", "+", "-", "0", "Escape"):
        browser.key(key)
    search(browser, "page")
    assert browser.complaints() == []


async def test_a_run_that_goes_on_is_shown_as_far_as_it_has_come(
    browser: Browser, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with recorded(find, count, gather, beside).run_with_handler() as handler:
        await trio.sleep(1.5)
        record: Any = handler.record
        handler.cancel()
    path = tmp_path / "run.html"
    path.write_text(record.to_html(), encoding="utf-8")
    browser.open(path)
    click_on(browser, "bar.outcome === 'running' && bar.step.name === 'beside'")
    assert "1.5 s so far" in details(browser)
    assert browser.complaints() == []
