"""``blazen runs``: what its commands do with the runs of a store."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from blazen import recover
from blazen._core.codec import decode
from blazen._snapshot_json import value_to_json
from blazen.cli import messages
from blazen.cli.inputs import parse_json
from blazen.cli.messages import Mistake, one_line, say
from blazen.cli.output import Output
from blazen.cli.runs_text import columns, condition, fields, moment
from blazen.cli.stores import opened
from blazen.cli.targets import load_module, load_workflow, no_workflow_in, parse_target, workflows_of
from blazen.store.base import ENDED, CheckpointStore, Question, Request, RunInfo

_SHORTEST = 4  # characters of an id that may stand for it
_AT_ONCE = 1000  # items of a stream


def in_store(path: str | None, act: Callable[[OpenStore], Awaitable[int]]) -> int:
    """Open the store and do something in it. Returns the exit code.

    Raises:
        Mistake: There is no such store, or it refuses what is asked.
    """
    if not path:
        raise Mistake("which store? name its file: blazen runs --store FILE ..., or set BLAZEN_STORE")
    output = Output()
    return opened(path, lambda store: act(OpenStore(store, output)))


class OpenStore:
    """A store, and where to write what is in it. Each method is a command and returns its exit code.

    Args:
        store: Where the runs are.
        output: Where to write.
    """

    def __init__(self, store: CheckpointStore, output: Output) -> None:
        self._store = store
        self._output = output

    # --- looking

    async def list_runs(
        self,
        *,
        workflow: str | None,
        states: Sequence[str],
        stranded: bool,
        since: float | None,
        limit: int | None,
        as_json: bool,
    ) -> int:
        """List runs, newest first."""
        now = time.time()
        wanted: Any = list(states) or None
        found = await self._store.runs(
            workflow=workflow,
            states=wanted,
            created_after=None if since is None else now - since * 3600,
            limit=None if stranded else limit,
        )
        if stranded:
            found = [info for info in found if info.state not in ENDED and not info.live][:limit]
        if as_json:
            for info in found:
                self._write_json(_info(info))
        elif not found:
            say("no runs")
        else:
            ids = _short([info.run_id for info in found])
            rows = [
                (
                    short,
                    info.workflow,
                    info.version,
                    info.state,
                    moment(info.created, now),
                    moment(info.updated, now),
                    condition(info, now),
                )
                for info, short in zip(found, ids, strict=True)
            ]
            head = ("RUN", "WORKFLOW", "VERSION", "STATE", "CREATED", "WRITTEN", "")
            self._output.write(columns([head, *rows]))
        return messages.DONE

    async def show(self, text: str, *, as_json: bool) -> int:
        """Show one run."""
        info = await self._find(text)
        questions = await self._store.questions(info.run_id)
        requests = await self._store.requests(info.run_id)
        if as_json:
            self._write_json(
                {
                    **_info(info),
                    "questions": [_question(question) for question in questions],
                    "requests": [_request(request) for request in requests],
                }
            )
            return messages.DONE
        now = time.time()
        owner = "none" if not info.owned else "alive" if info.live else "dead"
        shown = [
            ("run", info.run_id),
            ("workflow", f"{info.workflow}, version {info.version}"),
            ("state", info.state),
            ("", condition(info, now)),
            ("owner", owner),
            ("created", moment(info.created, now)),
            ("written", moment(info.updated, now)),
            ("stream", f"{info.streamed} item{'s' * (info.streamed != 1)}"),
        ]
        if info.result is not None:
            shown.append(("result", value_to_json(info.result)))
        if info.error is not None:
            shown.append(("error", info.error))
        for question in questions:
            shown.append(("question", f"{question.request_id}: {one_line(question.prompt)}"))
            details = json.loads(question.details)
            if details.get("metadata"):
                shown.append(("", f"metadata {json.dumps(details['metadata'], ensure_ascii=False)}"))
            if "schema" in details:
                shown.append(("", f"to be answered with {json.dumps(details['schema'], ensure_ascii=False)}"))
        for request in requests:
            what = request.kind if request.key is None else f"{request.kind} {request.key}"
            said = "not taken yet" if request.refused is None else f"refused: {one_line(request.refused)}"
            shown.append(("wanted", f"{what}, {moment(request.created, now)}, {said}"))
        self._output.write(fields(shown))
        return messages.DONE

    async def events(self, text: str, start: int, *, as_json: bool) -> int:
        """Print the stream of a run."""
        info = await self._find(text)
        while True:
            items = await self._store.stream(info.run_id, start, _AT_ONCE)
            for number, item in enumerate(items, start):
                if as_json:
                    self._write_json({"number": number, "event": json.loads(value_to_json(item))})
                else:
                    self._output.write(f"{number:>5}  {' '.join(value_to_json(item).split())}\n")
            if len(items) < _AT_ONCE:
                return messages.DONE
            start += len(items)

    # --- asking something of a run

    async def answer(self, question_id: str, text: str | None, value: str | None) -> int:
        """Answer a question."""
        if (text is None) == (value is None):
            raise Mistake("an answer is TEXT, or --value JSON; give one of them")
        question = await self._find_question(question_id)
        given: Any = text
        if text is None:
            given = parse_json(str(value), "--value")
        elif not _takes_text(question):
            try:
                given = parse_json(text, "the answer")
            except Mistake as error:
                raise Mistake(f"the question {question.prompt!r} takes no text, but JSON: {error}") from None
        await self._store.respond_to_input(question.request_id, given)
        await self._say_what_comes_of_it(question.run_id, f"answered {question.prompt!r} of run {question.run_id}")
        return messages.DONE

    async def pause(self, text: str) -> int:
        """Have a run pause."""
        info = await self._find(text)
        await self._store.pause(info.run_id)
        await self._say_what_comes_of_it(info.run_id, f"run {info.run_id} is to pause")
        return messages.DONE

    async def resume(self, text: str) -> int:
        """Let a paused run go on."""
        info = await self._find(text)
        await self._store.resume(info.run_id)
        await self._say_what_comes_of_it(info.run_id, f"run {info.run_id} is to go on")
        return messages.DONE

    async def cancel(self, text: str, reason: str | None) -> int:
        """Have a run end."""
        info = await self._find(text)
        await self._store.cancel(info.run_id, reason)
        await self._say_what_comes_of_it(info.run_id, f"run {info.run_id} is to be cancelled")
        return messages.DONE

    async def _say_what_comes_of_it(self, run_id: str, done: str) -> None:
        info = await self._store.info(run_id)
        if info.live:
            say(f"{done}; the process that runs it sees that within a second")
        else:
            say(f"{done}; no process runs it: the next `serve` or `blazen runs recover` sees that")

    # --- going on, and removing

    async def recover(self, targets: Sequence[str], *, as_json: bool) -> int:
        """Go on with runs. The exit code is that of a failure if a run failed, or could not be gone on with."""
        workflows: dict[int, Any] = {}
        for text in targets:
            target = parse_target(text)
            if target.attribute is not None:
                found = [load_workflow(text)]
            else:
                found = list(workflows_of(load_module(target)).values())
                if not found:
                    raise Mistake(no_workflow_in(target))
            workflows.update((id(workflow), workflow) for workflow in found)
        outcomes = await recover(self._store, workflows.values())
        worst = messages.DONE
        for one in outcomes:
            error = None if one.error is None else one_line(f"{type(one.error).__name__}: {one.error}")
            if error is not None and one.state != "cancelled":
                worst = messages.FAILED
            if as_json:
                self._write_json({"run_id": one.run_id, "workflow": one.workflow, "state": one.state, "error": error})
            else:
                said = "" if error is None else f"  {error}"
                self._output.write(f"{one.run_id}  {one.workflow}  {one.state}{said}\n")
        if not outcomes:
            say("nothing to do")
        return worst

    async def delete(self, texts: Sequence[str], *, unfinished: bool) -> int:
        """Remove runs: all of them, or none if one of them is unfinished or unknown."""
        found = [await self._find(text) for text in texts]
        for info in found:
            if info.live:
                raise Mistake(f"run {info.run_id} is {info.state} in a process that lives; cancel it first")
            if info.state not in ENDED and not unfinished:
                raise Mistake(f"run {info.run_id} has not ended, it is {info.state}; --unfinished removes it anyway")
        for run_id in dict.fromkeys(info.run_id for info in found):
            await self._store.delete(run_id)
            say(f"removed run {run_id}")
        return messages.DONE

    # --- ids

    async def _find(self, text: str) -> RunInfo:
        if await self._store.has(text):
            return await self._store.info(text)
        found = {info.run_id: info for info in await self._store.runs()}
        return found[_only(text, list(found), "run", "blazen runs list")]

    async def _find_question(self, text: str) -> Question:
        found = {question.request_id: question for question in await self._store.questions()}
        return (
            found[text] if text in found else found[_only(text, list(found), "open question", "blazen runs show RUN")]
        )

    def _write_json(self, value: dict[str, Any]) -> None:
        self._output.write(json.dumps(value, ensure_ascii=False) + "\n")


def _only(text: str, ids: Sequence[str], what: str, where: str) -> str:
    """The one id that begins with `text`."""
    found = [one for one in ids if one.startswith(text)] if len(text) >= _SHORTEST else []
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise Mistake(f"{text!r} is the beginning of {len(found)} ids: {listed}")
    raise Mistake(
        f"there is no {what} {text!r}; `{where}` lists them, and {_SHORTEST} or more characters of an id stand for it"
    )


def _short(ids: Sequence[str]) -> list[str]:
    """The ids cut to a length at which they still differ."""
    length = 8
    while len({one[:length] for one in ids}) < len(ids):
        length += 1
    return [one[:length] for one in ids]


def _takes_text(question: Question) -> bool:
    """Whether text is among what the question may be answered with: it has no schema, or that has strings."""
    schema = json.loads(question.details).get("schema")
    if schema is None:
        return True
    inner = schema.get("$ref", "").rpartition("/")[2]
    schema = schema.get("$defs", {}).get(inner, schema)
    options = schema.get("anyOf", [schema])
    return any(
        not option or option.get("type") == "string" or any(isinstance(one, str) for one in option.get("enum", ()))
        for option in options
    )


# --- as JSON


def _info(info: RunInfo) -> dict[str, Any]:
    return {
        "run_id": info.run_id,
        "workflow": info.workflow,
        "version": info.version,
        "state": info.state,
        "stranded": info.state not in ENDED and not info.live,
        "created": info.created,
        "updated": info.updated,
        "due": info.due,
        "owner": "alive" if info.live else "dead" if info.owned else None,
        "open_questions": info.questions,
        "streamed": info.streamed,
        "result": None if info.result is None else json.loads(value_to_json(info.result)),
        "error": info.error,
    }


def _question(question: Question) -> dict[str, Any]:
    details = json.loads(question.details)
    return {"request_id": question.request_id, "prompt": question.prompt, "asked": question.asked, **details}


def _request(request: Request) -> dict[str, Any]:
    data: Any = None
    if request.data:
        data = decode(request.data) if request.kind == "cancel" else json.loads(value_to_json(request.data))
    return {
        "number": request.number,
        "kind": request.kind,
        "key": request.key,
        "data": data,
        "created": request.created,
        "refused": request.refused,
    }
