"""Records as JSON and as files: the same after reading, and anything else refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import Item, make_three, recorded

from blazen import Context, Retry, StopEvent, ValidationError, step
from blazen.errors import PersistError
from blazen.record import RunRecord


@pytest.fixture(scope="module")
def text() -> str:
    @step(retries=Retry(1, initial=0.001, jitter=0.0))
    async def flaky(ctx: Context, ev: Item) -> StopEvent | None:
        if ctx.attempt == 1:
            raise ValueError("no \ud800 </script>")
        return StopEvent("ü") if ev.n == 2 else None

    record = recorded(make_three, flaky).run_sync(name="Ada").record
    assert record is not None
    return record.to_json()


def test_a_record_is_the_same_after_json(text: str) -> None:
    record = RunRecord.from_json(text)
    assert record.to_json() == text
    assert RunRecord.from_json(text.encode()) == record
    head = json.loads(text)
    assert (head["format"], head["version"]) == ("blazen.run_record", 1)


def test_a_record_is_saved_and_loaded(text: str, tmp_path: Path) -> None:
    record = RunRecord.from_json(text)
    path = tmp_path / "run.json"
    path.write_text("an older one")
    record.save(path)
    assert RunRecord.load(path) == record
    assert RunRecord.load(str(path)) == record
    assert list(tmp_path.iterdir()) == [path]


def test_saving_replaces_the_file_that_a_link_points_to(text: str, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("run.json")
    for _ in range(2):
        RunRecord.from_json(text).save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "run.json").read_text(encoding="utf-8") == text
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_file_is_written_to_and_not_replaced(text: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        RunRecord.from_json(text).save(pipe)
        assert pipe.is_fifo()
        assert os.read(reader, 1 << 20).decode() == text
    finally:
        os.close(reader)


def test_a_record_that_cannot_be_saved_says_where(text: str, tmp_path: Path) -> None:
    with pytest.raises(PersistError, match=r"cannot be written to .*missing.run\.json.*No such file"):
        RunRecord.from_json(text).save(tmp_path / "missing" / "run.json")


def test_a_file_that_is_none_says_so_in_one_line(tmp_path: Path) -> None:
    for name, data in (("a", b"hello"), ("b", b""), ("c", b"\xff\xfe"), ("d", b"[]"), ("e", b'{"workflow": "w"}')):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValidationError) as caught:
            RunRecord.load(path)
        assert repr(str(path)) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError, match="cannot be read: No such file"):
        RunRecord.load(tmp_path / "missing")
    with pytest.raises(ValidationError, match="cannot be read: Is a directory"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message", "where"),
    [
        (["version"], 2, "a newer blazen wrote it", "$.version"),
        (["version"], "1", "version '1'", "$.version"),
        (["format"], "other", "this is no run record", "$.format"),
        (["state"], "asleep", "asleep", "$.state"),
        (["events", 0, "at"], "now", "expected `float`", "$.events[0].at"),
        (["events", 0, "at"], -1.0, "not a number of seconds", "$.events[0].at"),
        (["events", 1, "number"], 7, "event 2 has the number 7", "$.events[1].number"),
        (["events", 1, "by"], [99, 0], "there is no invocation 99", "$.events[1].by"),
        (["events", 1, "by"], [0, 5], "invocation 0 has no attempt 5", "$.events[1].by"),
        (["invocations", 0, "step"], "nobody", "there is no step 'nobody'", "$.invocations[0].step"),
        (["invocations", 0, "event"], 0, "there is no event 0", "$.invocations[0]"),
        (["invocations", 0, "attempts", 0, "started"], 1e9, "not in this order", "$.invocations[0].attempts[0]"),
        (["ended_by", "event"], 400, "there is no event 400", "$.ended_by.event"),
        (["invocations", 0, "colour"], "red", "unknown field `colour`", "$.invocations[0]"),
    ],
)
def test_a_record_that_cannot_be_true_is_refused_with_the_place(
    text: str, path: list[Any], value: Any, message: str, where: str
) -> None:
    changed = json.loads(text)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValidationError) as caught:
        RunRecord.from_json(json.dumps(changed))
    assert message in str(caught.value)
    assert caught.value.path == where
    assert where in str(caught.value) or path[0] in ("version", "format")


def test_json_of_another_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="not int"):
        RunRecord.from_json(5)  # type: ignore[arg-type]


@given(st.data())
def test_a_damaged_text_is_refused_and_never_crashes(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    damaged = text[:start] + data.draw(st.text(max_size=12)) + text[end:]
    _read_or_refuse(damaged)


@given(st.integers(0, 100_000))
def test_a_text_that_is_cut_off_is_refused(text: str, length: int) -> None:
    with pytest.raises(ValidationError):
        RunRecord.from_json(text[: length % len(text)])


@given(st.data())
def test_a_record_with_a_part_exchanged_is_refused_or_can_be_shown(text: str, data: st.DataObject) -> None:
    changed = json.loads(text)
    places = [(changed, key) for key in changed]
    for holder_, key in places:
        inner = holder_[key]
        if isinstance(inner, dict):
            places.extend((inner, one) for one in inner)
        elif isinstance(inner, list):
            places.extend((inner, one) for one in range(len(inner)))
    inner, key = data.draw(st.sampled_from(places))
    inner[key] = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())
    )
    _read_or_refuse(json.dumps(changed))


def _read_or_refuse(text: str) -> None:
    try:
        record = RunRecord.from_json(text)
    except ValidationError as refused:
        message = str(refused)
    else:
        message = ""
    assert "\n" not in message
    if message:
        return
    assert RunRecord.from_json(record.to_json()) == record
    assert record.to_html().startswith("<!DOCTYPE html>")
