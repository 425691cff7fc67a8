"""Pictures of workflows: what is in the description, and that no name can break out of Mermaid or DOT."""

from __future__ import annotations

import functools
import html
import importlib
import json
import linecache
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import assume, given
from hypothesis import strategies as st

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowBuilder,
    step,
)
from blazen._drawing_text import dot_text, mermaid_text, printable
from blazen.drawing import describe, to_dot, to_mermaid
from blazen.errors import ValidationError


class A(Event):
    pass


class B(Event, type="my_app::B"):
    pass


class Base(Event):
    pass


class Derived(Base):
    pass


class Order(StartEvent):
    item: str


def workflow_of(*functions: Any) -> Workflow[Any]:
    builder = WorkflowBuilder("w")
    for function in functions:
        given = function if isinstance(function, tuple) else (function, {})
        builder.step(given[0], **given[1])
    return builder.build()


def edges_of(*functions: Any) -> list[tuple[str, str, str, str]]:
    picture = workflow_of(*functions).graph.describe()
    return [(edge["from"], edge["to"], edge["event"], edge["via"]) for edge in picture["edges"]]


def node_of(function: Any, **options: Any) -> dict[str, Any]:
    """How the step looks in a workflow where it stands beside one that begins and ends."""
    picture = workflow_of(ends, (function, options)).graph.describe()
    return next(node for node in picture["nodes"] if node["kind"] == "step" and node["label"] != "ends")


async def begin(ev: StartEvent) -> list[A | B] | StopEvent: ...


async def takes_a(ev: A) -> None: ...


async def takes_b(ev: B) -> None: ...


async def ends(ev: StartEvent) -> StopEvent: ...


# --- edges


def test_each_event_of_a_union_has_an_edge_of_its_own_to_each_step_that_accepts_it() -> None:
    async def both(ev: A | B) -> None: ...

    assert edges_of(begin, takes_a, both) == [
        ("start", "step:begin", "blazen::StartEvent", "start"),
        ("step:begin", "step:takes_a", "A", "emits"),
        ("step:begin", "step:both", "A", "emits"),
        ("step:begin", "step:both", "my_app::B", "emits"),
        ("step:begin", "stop", "blazen::StopEvent", "emits"),
    ]


def test_a_step_that_takes_subclasses_is_fed_by_them() -> None:
    async def emit(ev: StartEvent) -> Derived | Base | StopEvent: ...

    async def take(ev: Base) -> None: ...

    assert edges_of(emit, (take, {"subclasses": True}))[1:] == [
        ("step:emit", "step:take", "Derived", "subclasses"),
        ("step:emit", "step:take", "Base", "emits"),
        ("step:emit", "stop", "blazen::StopEvent", "emits"),
    ]


def test_a_name_that_could_be_of_a_subclass_is_drawn_as_possible() -> None:
    async def emit(ev: StartEvent) -> Any: ...

    async def take(ev: Base) -> None: ...

    found = edges_of((emit, {"emits": ["Somewhere"]}), (take, {"subclasses": True}), ends)
    assert ("step:emit", "step:take", "Somewhere", "possible") in found


def test_waiting_for_an_event_is_an_edge_of_its_own_kind() -> None:
    async def wait(ctx: Context, ev: A) -> None:
        await ctx.wait_for_event(B)

    assert ("step:begin", "step:wait", "my_app::B", "waits") in edges_of(begin, (wait, {"waits": [B]}))


def test_a_wait_that_only_the_code_tells_of_is_an_edge_too_if_it_stands_there_literally() -> None:
    async def wait(ctx: Context, ev: A) -> None:
        kind = Derived
        await ctx.wait_for_event(B, where=lambda event: True)
        await ctx.wait_for_event(event_type="Later")
        await ctx.wait_for_event(kind)

    assert {edge for edge in edges_of(begin, takes_b, wait) if edge[3] == "waits"} == {
        ("step:begin", "step:wait", "my_app::B", "waits"),
        ("outside", "step:wait", "Later", "waits"),
    }
    assert node_of(wait)["waits"] == ["my_app::B", "Later"]
    assert node_of(wait, waits=["Later", Base])["waits"] == ["Later", "Base", "my_app::B"]


def test_a_step_that_asks_in_its_middle_goes_to_a_person_and_gets_the_answer() -> None:
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("Sure?"))

    assert edges_of(ask) == [
        ("start", "step:ask", "blazen::StartEvent", "start"),
        ("step:ask", "stop", "blazen::StopEvent", "emits"),
        ("step:ask", "person", "blazen::InputRequestEvent", "asks"),
        ("person", "step:ask", "blazen::InputResponseEvent", "answer"),
    ]


def test_a_step_that_hands_its_asking_on_is_seen_to_ask() -> None:
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.request_input, "Sure?")
        return StopEvent()

    assert ("step:ask", "person", "blazen::InputRequestEvent", "asks") in edges_of(ask)


def test_a_question_goes_to_a_person_and_the_answer_to_the_step_that_takes_it() -> None:
    async def ask(ev: StartEvent) -> InputRequestEvent: ...

    async def decide(ev: InputResponseEvent) -> StopEvent: ...

    assert edges_of(ask, decide)[1:] == [
        ("step:ask", "person", "blazen::InputRequestEvent", "emits"),
        ("step:decide", "stop", "blazen::StopEvent", "emits"),
        ("person", "step:decide", "blazen::InputResponseEvent", "answer"),
    ]


def test_a_step_that_declares_nothing_gets_a_mark_and_no_edges() -> None:
    async def anything(ev: StartEvent): ...  # type: ignore[no-untyped-def]

    picture = workflow_of(anything, takes_a).graph.describe()
    assert [edge for edge in picture["edges"] if edge["from"] == "step:anything"] == []
    assert next(node for node in picture["nodes"] if node["label"] == "anything")["emits"] is None
    assert "may send anything" in to_mermaid(workflow_of(anything))
    assert re.search(r'label="anything\\nmay send anything".*dashed', to_dot(workflow_of(anything)))


def test_an_event_that_no_step_declares_comes_from_outside() -> None:
    assert ("outside", "step:takes_a", "A", "undeclared") in edges_of(ends, takes_a)


def test_a_step_that_takes_every_event_says_so_once() -> None:
    async def watch(ev: Event) -> None: ...

    found = edges_of(ends, (watch, {"subclasses": True}))
    assert ("start", "step:watch", "blazen::StartEvent", "subclasses") in found
    assert not [edge for edge in found if edge[0] in ("outside", "person")]


def test_what_an_on_error_declares_is_an_edge_and_what_it_does_not_is_a_note() -> None:
    def give_up(ev: A, exc: Exception) -> B: ...  # type: ignore[empty-body]

    def silent(ev, exc): ...  # type: ignore[no-untyped-def]

    found = edges_of(begin, (takes_a, {"on_error": give_up}), takes_b)
    assert ("step:takes_a", "step:takes_b", "my_app::B", "on_error") in found
    found = edges_of(begin, (takes_a, {"on_error": silent}), takes_b)
    assert not [edge for edge in found if edge[3] == "on_error"]
    assert node_of(takes_a, on_error=functools.partial(silent))["on_error"] == "silent"


def is_large(ev: A) -> bool:
    return True


def test_the_predicate_of_a_step_is_on_the_edges_that_lead_to_it() -> None:
    @step(when=is_large)
    async def guarded(ev: A) -> None: ...

    graph = workflow_of(begin, guarded, takes_b).graph
    picture = graph.describe()
    assert [edge.get("when") for edge in picture["edges"] if edge["to"] == "step:guarded"] == ["is_large"]
    assert not [edge for edge in picture["edges"] if "when" in edge and edge["to"] != "step:guarded"]
    assert [node["when"] for node in picture["nodes"] if node["kind"] == "step"] == [None, "is_large", None]
    assert 'label=" A [is_large] "' in graph.to_dot()
    assert '|"A [is_large]"|' in graph.to_mermaid()


def test_a_predicate_that_is_a_lambda_is_told_by_what_it_says() -> None:
    limit = "b"

    @step(when=lambda ev: ev.event_type < limit)
    async def small(ev: A) -> None: ...

    @step(
        when=lambda ev: (
            not ev.event_type.startswith(("a", "b"))  # one of the letters
        ),
    )
    async def letter(ev: A) -> None: ...

    @step(when=lambda ev: ev.event_type in ["something", "that", "is", "rather", "long"])
    async def listed(ev: A) -> None: ...

    nodes = workflow_of(begin, small, letter, listed, takes_b).graph.describe()["nodes"]
    assert [node["when"] for node in nodes if node["kind"] == "step"][1:4] == [
        "ev.event_type < limit",
        "not ev.event_type.startswith(('a', 'b'))",
        "ev.event_type in ['something', 'that', …",
    ]


def test_of_a_lambda_that_its_source_does_not_tell_beyond_doubt_nothing_is_said() -> None:
    # fmt: off
    either, other = (lambda ev: ev.event_type < "a"), (lambda ev: ev.event_type > "a")
    # fmt: on
    typed = eval("lambda ev: True")
    nodes = [node_of(takes_a, when=when) for when in (either, other, typed)]
    # The two differ in what they do, so each is found; of the third there is no source.
    assert [node["when"] for node in nodes] == ["ev.event_type < 'a'", "ev.event_type > 'a'", "<lambda>"]


def test_a_lambda_whose_file_has_been_edited_since_is_not_told_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "edited_since.py"
    source.write_text("when = lambda ev: ev.n < 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    when = importlib.import_module("edited_since").when
    assert node_of(takes_a, when=when)["when"] == "ev.n < 5"
    for text in ("when = lambda ev: ev.n > 5\n", "when = lambda ev: ev.m < 5\n", "when = (\n", ""):
        source.write_text(text)
        linecache.clearcache()
        assert node_of(takes_a, when=when)["when"] == "<lambda>"


def test_a_workflow_and_its_graph_have_one_picture() -> None:
    workflow = Workflow("w", [step(ends)], version="7")
    assert describe(workflow) == describe(workflow.graph) == workflow.graph.describe()
    assert describe(workflow)["version"] == "7"
    assert (to_dot(workflow), to_mermaid(workflow)) == (workflow.graph.to_dot(), workflow.graph.to_mermaid())
    assert json.loads(json.dumps(describe(workflow))) == describe(workflow)
    with pytest.raises(ValidationError, match="only a Workflow or its graph can be drawn, got 3"):
        describe(3)  # type: ignore[arg-type]


def test_a_typed_start_event_gives_the_start_its_name() -> None:
    async def take(ev: Order) -> StopEvent: ...

    assert workflow_of(take).graph.describe()["nodes"][0] == {"id": "start", "kind": "start", "label": "Order"}


# --- nodes


def test_a_node_tells_the_options_of_its_step() -> None:
    def work(ev: A | B) -> None: ...

    node = node_of(work, name="x", run="thread", timeout=2, retries=3, max_concurrency=4, waits=["W"])
    assert node == {
        "id": "step:x",
        "kind": "step",
        "label": "x",
        "run": "thread",
        "timeout": 2.0,
        "retries": 3,
        "max_concurrency": 4,
        "accepts": ["A", "my_app::B"],
        "subclasses": False,
        "emits": [],
        "waits": ["W"],
        "when": None,
        "on_error": None,
        "joins": [],
    }


def test_the_step_timeout_of_the_workflow_is_that_of_a_step_without_one() -> None:
    workflow = WorkflowBuilder("w").step(begin).step(takes_a, timeout=1).step(takes_b).step_timeout(5).build()
    times = [node["timeout"] for node in describe(workflow)["nodes"] if node["kind"] == "step"]
    assert times == [5.0, 1.0, 5.0]


# --- joins


def test_a_join_is_seen_in_the_code_with_what_it_literally_waits_for() -> None:
    async def join(ctx: Context, ev: A | B) -> None:
        ctx.collect_events(ev, 3)
        if ctx.collect_events(ev, [A, B], key="k") is None and ctx.collect_events(ev, wanted=("A", B)):
            return
        ctx.collect_events(ev, len("abc"))

    assert node_of(join)["joins"] == [
        {"count": 3},
        {"types": ["A", "my_app::B"]},
        {"types": ["A", "my_app::B"]},
        {},
    ]


def test_a_join_inside_a_nested_function_counts() -> None:
    async def join(ev: A, ctx: Context) -> None:
        def inner() -> object:
            return ctx.collect_events(ev, 2)

        inner()

    assert node_of(join)["joins"] == [{"count": 2}]


def test_a_join_in_a_comprehension_counts() -> None:
    async def join(ctx: Context, ev: A) -> None:
        [ctx.collect_events(ev, 2, key=key) for key in "ab"]

    assert node_of(join)["joins"] == [{"count": 2}]


def test_a_method_joins_and_its_own_collect_events_is_none() -> None:
    class Steps:
        def collect_events(self, ev: Event, n: int) -> None: ...

        def join(self, ctx: Context, ev: A) -> None:
            self.collect_events(ev, 5)
            ctx.collect_events(ev, 2)

    assert node_of(Steps().join)["joins"] == [{"count": 2}]


def test_without_its_source_a_join_is_known_but_not_of_what() -> None:
    namespace: dict[str, Any] = {"Context": Context, "A": A}
    exec("async def join(ctx: Context, ev: A) -> None:\n    ctx.collect_events(ev, 2)\n", namespace)
    assert node_of(namespace["join"])["joins"] == [{}]


def test_names_that_hold_something_else_at_run_time_are_not_taken_for_literals() -> None:
    wanted = 2

    async def join(ctx: Context, ev: A) -> None:
        kind = A
        ctx.collect_events(ev, wanted)
        ctx.collect_events(ev, [kind])
        ctx.collect_events(ev, [Event])
        ctx.collect_events(ev, *[2])

    assert node_of(join)["joins"] == [{}, {}, {}, {}]


def test_a_step_without_context_or_call_is_no_join() -> None:
    async def plain(ctx: Context, ev: A) -> None:
        ctx.get("collect_events")

    assert node_of(plain)["joins"] == []
    assert node_of(takes_a)["joins"] == []


def test_joins_are_marked_in_both_texts() -> None:
    async def join(ctx: Context, ev: A | B) -> None:
        ctx.collect_events(ev, [A, B])

    workflow = workflow_of(begin, join)
    assert '["join<br/>joins A, my_app::B"]' in to_mermaid(workflow)
    assert "class n2 join" in to_mermaid(workflow)
    assert 'label="join\\njoins A, my_app::B", shape=box, penwidth=2' in to_dot(workflow)


# --- any name, any format

# One label of each statement, in quotes; nothing in it but what stands for itself and entity codes.
LABEL = r'"(?:[^"#&<>`%;\\|{}$*]|<br/>|#\d+;)*"'
MERMAID_LINE = re.compile(
    rf"flowchart TD|    (?:n\d+(?:\(\[{LABEL}\]\)|\[/{LABEL}/\]|>{LABEL}\]|\[{LABEL}\])"
    rf"|n\d+ -\.?->\|{LABEL}\| n\d+|classDef [a-z]+ [a-z]+(?:-[a-z]+)?:[\w ]+|class n\d+(?:,n\d+)* [a-z]+)"
)
DOT_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
names = st.text(min_size=1).filter(lambda name: bool(name.strip()))
NASTY = [
    "end",
    'a"b',
    "a]b",
    "a\nb",
    "1. first",
    "- x",
    "%%{init: {}}%%",
    "style x: #y;",
    "style a::b#y",
    "classDef a: b;",
    "fa:fa-car",
    "`a`",
    "a\\",
    "a\\n",
    "<b>&amp;</b>",
    "#35;",
    "ﬂ°°35¶ß",
    "$$x$$",
    "a|b",
    "\ud800",
    "\x00",
    "\u202e",
    "é 漢",
    "__init__",
    "a::b",
    "::",
    "x:::y",
]


def decode_mermaid(label: str) -> str:
    return re.sub(r"#(\d+);", lambda code: chr(int(code[1])), label)


def check_mermaid(name: str) -> None:
    text = mermaid_text(name)
    assert re.fullmatch(LABEL, f'"{text}"')
    assert decode_mermaid(text) == printable(name)
    assert not text[:1].isdigit()
    # What Mermaid takes for a style statement, whose last semicolon it drops, and for an icon.
    assert not re.search(r"(?:style|classDef).*:\S*#.*;", text)
    assert not re.search(r"fa[bklrs]?:fa-", text)


def check_dot(name: str) -> None:
    quoted = f'"{dot_text(name)}"'
    assert DOT_STRING.fullmatch(quoted)
    assert html.unescape(re.sub(r"\\(.)", r"\1", quoted[1:-1])) == printable(name)


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_name_that_means_something_to_a_format_is_only_a_name_in_it(name: str) -> None:
    check_mermaid(name)
    check_dot(name)


@given(names)
def test_any_name_is_one_label_in_mermaid_and_comes_back(name: str) -> None:
    check_mermaid(name)


@given(names)
def test_any_name_is_one_string_in_dot_and_comes_back(name: str) -> None:
    check_dot(name)


@given(st.lists(names | st.sampled_from(NASTY), min_size=3, max_size=3, unique=True))
def test_any_workflow_gives_lines_of_the_documented_syntax(three: list[str]) -> None:
    async def first(ev: StartEvent) -> StopEvent | None: ...

    async def second(ev: Any) -> None: ...

    name, step_name, event = three
    assume(not event.startswith("blazen::"))  # these mean something to the workflow
    builder = WorkflowBuilder(name).step(first, name=step_name)
    workflow = builder.step(second, name=step_name + "2", accepts=[event], waits=[event + "2"]).build()
    mermaid = to_mermaid(workflow)
    mermaid.encode()
    for line in mermaid.removesuffix("\n").split("\n"):
        assert MERMAID_LINE.fullmatch(line), line
    dot = to_dot(workflow)
    dot.encode()
    bare = DOT_STRING.sub("S", dot)
    assert '"' not in bare
    assert re.fullmatch(r"[\w\s{}\[\]=;,>-]+", bare)


def test_a_text_shows_what_cannot_be_seen() -> None:
    assert printable("a\nb\x1b\u202e\ud800é") == "a\\nb\\x1b\\u202e\\ud800é"
    assert mermaid_text("end") == "end"
    assert mermaid_text('say "hi"') == "say #34;hi#34;"
    assert mermaid_text("my_app::B") == "my_app::B"
    assert mermaid_text("1. a") == "#49;#46; a"


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it() -> None:
    workflow = workflow_of(begin, (takes_a, {"name": 'a "b" \\ & <c> \n'}), takes_b)
    done = subprocess.run(["dot", "-Tplain"], input=to_dot(workflow), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_drawing_needs_neither_click_nor_rich_nor_trio() -> None:
    code = (
        "import sys\nfrom blazen import StartEvent, StopEvent, Workflow, step\n"
        "@step\nasync def go(ev: StartEvent) -> StopEvent: ...\n"
        "graph = Workflow('w', [go]).graph\n"
        "assert 'blazen.drawing' not in sys.modules\n"
        "graph.describe(), graph.to_mermaid(), graph.to_dot()\n"
        "print(sorted({'click', 'rich', 'trio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
