"""Answers to the open questions of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blazen.engine.waits import check_answer
from blazen.errors import ValidationError
from blazen.events import InputResponseEvent

if TYPE_CHECKING:
    from blazen.engine.run import Run
    from blazen.events import InputRequestEvent


def open_questions(run: Run) -> list[InputRequestEvent]:
    """The questions that may be answered, oldest first. One that is not in the store yet may not."""
    if run.ledger is None:
        return list(run.questions.values())
    return [question for question in run.questions.values() if not run.ledger.is_hidden(question.request_id)]


def respond(run: Run, request_id: object, response: object) -> None:
    """Answer an open question. A step that asked in its middle goes on with it; else it becomes an event.

    Raises:
        ValidationError: There is no such question, it has been answered, or the answer does not fit its schema. The run
            is undisturbed.
    """
    found = {question.request_id for question in open_questions(run)}
    if not isinstance(request_id, str) or request_id not in found or run.over:
        raise ValidationError(
            f"respond_to_input: no open question has the id {request_id!r}; open are "
            f"{', '.join(map(repr, sorted(found))) or 'none'}"
        )
    if run.dozing:
        run.ledger.wake()
    entry = run.reopened.pop(request_id, None)
    if entry is not None:  # asked before a snapshot, by a step that has not come to it again
        del run.questions[request_id]
        entry.answer_unchecked(response)
        if run.ledger is not None:
            run.ledger.stir()
    elif (asked := None if run.waits is None else run.waits.question(request_id)) is not None:
        value = check_answer(asked.schema, response, request_id)
        del run.questions[request_id]
        if asked.schema is not None:
            asked.entry.given = response
        run.gating = run.gated
        try:
            asked.finish(value)
        finally:
            run.gating = False
        if run.ledger is not None:
            run.ledger.stir()
    else:
        answer = InputResponseEvent(request_id=request_id, response=response)
        run.check_accepted(answer, None)
        question = run.questions.pop(request_id)  # first: what is written down has the question or the answer
        try:
            run.send(answer, None, None)
        except BaseException:
            run.questions[request_id] = question
            raise
