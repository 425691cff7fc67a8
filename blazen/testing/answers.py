"""Answers to what a run under test asks somebody outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from blazen.errors import ValidationError
from blazen.events import InputRequestEvent
from blazen.retry import show

if TYPE_CHECKING:
    from blazen.engine.handler import RunHandler
    from blazen.engine.run import Run

Answers = Mapping[str, object] | Sequence[object] | Callable[[InputRequestEvent], object]


class _Unanswered:
    __slots__ = ()

    def __repr__(self) -> str:
        return "UNANSWERED"


UNANSWERED: Final[Any] = _Unanswered()
"""In the place of an answer: nobody answers this question, so that the step's own `timeout` for it comes."""


class Answerer:
    """Answers the questions of one run.

    Attributes:
        given: Whether there are answers at all, be it none in particular.
        mistake: Why a question could not be answered, once there was such a one; the run has been failed with it.
    """

    def __init__(self, call: str, answers: Answers | None) -> None:
        """Take the `answers=` of a call; None: there is no answer to anything.

        Raises:
            ValidationError: It is none of the forms, or a key is no prompt.
        """
        _check(call, answers)
        self.given = answers is not None
        self.mistake: Exception | None = None
        self._call = call
        self._answers = answers
        self._asked = 0
        self._known: dict[str, object] = {}  # by the id of the question: an attempt may ask again under the same

    def answer_to(self, question: InputRequestEvent) -> object:
        """The answer, or UNANSWERED; the same one if the question has been asked before.

        Raises:
            ValidationError: None has been given for it.
            Exception: What a function raises that is to answer.
        """
        if question.request_id not in self._known:
            self._asked += 1
            self._known[question.request_id] = self._find(question)
        return self._known[question.request_id]

    def _find(self, question: InputRequestEvent) -> object:
        prompt, answers = question.prompt, self._answers
        if answers is None:
            raise self.unanswered(question)
        if isinstance(answers, Mapping):
            if prompt in answers:
                return answers[prompt]
            known = ", ".join(map(repr, answers)) or "nothing"
            raise self.unanswered(question, f"answers= has {known}; add {prompt!r}: ...")
        if isinstance(answers, Sequence):
            if self._asked <= len(answers):
                return answers[self._asked - 1]
            raise self.unanswered(question, f"it is question {self._asked}, and answers= is a list of {len(answers)}")
        answer = answers(question)
        if hasattr(answer, "__await__"):
            if hasattr(answer, "close"):
                answer.close()  # or Python warns of a coroutine nobody awaited
            raise ValidationError(f"{self._call}: answers= must be a plain function, and it is async")
        return answer

    def leaves_open(self, request_id: str) -> bool:
        """Whether a question has been looked at, and nobody is to answer it."""
        return self._known.get(request_id) is UNANSWERED

    def unanswered(self, question: InputRequestEvent, give: str | None = None) -> ValidationError:
        """The error of a question for which there is no answer; `give` says what to do."""
        if give is None:
            give = f"give answers={{{question.prompt!r}: ...}}"
        return ValidationError(f"{self._call}: {question.prompt!r} is asked, and there is no answer to it: {give}")

    def answer_open(self, handler: RunHandler[Any], run: Run) -> None:
        """Answer the open questions of a run, or fail it."""
        for question in handler.pending_inputs():
            try:
                answer = self.answer_to(question)
                if answer is UNANSWERED:
                    run.look_whether_stuck()
                    continue
                try:
                    handler.respond_to_input(question.request_id, answer)
                except ValidationError as exc:
                    raise ValidationError(
                        f"{self._call}: answers= has {show(answer)} for {question.prompt!r}, which does not fit what "
                        f"was asked for: {str(exc).rpartition('asked for: ')[2]}",
                        path=exc.path,
                    ) from None
            except Exception as exc:
                self.give_up(run, exc)
                return

    def give_up(self, run: Run, mistake: Exception) -> None:
        """End a run that goes wrong because of what the test has given, and not of what the steps do."""
        if self.mistake is None:
            self.mistake = mistake
        if not run.ending:
            run.fail(mistake)

    async def keep_answering(self, handler: RunHandler[Any], run: Run) -> None:
        """Answer whatever is asked, until the run ends."""
        async for _ in handler.stream_events(buffer=1):  # only a sign that there is something new
            if not run.ending:
                self.answer_open(handler, run)


def _check(call: str, answers: object) -> None:
    if isinstance(answers, str | bytes) or not (answers is None or isinstance(answers, Mapping | Sequence)):
        if not callable(answers) or isinstance(answers, type):
            raise ValidationError(
                f"{call}: answers must be a dict of prompt and answer, a list, or a function of the question, got "
                f"{show(answers)}"
            )
    elif isinstance(answers, Mapping):
        for prompt in answers:
            if not isinstance(prompt, str):
                raise ValidationError(f"{call}: answers: the keys are prompts, got {show(prompt)}")
