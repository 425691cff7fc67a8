"""`BlazenState`: classes of states, stored field by field."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import pickle
import runpy
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import numpy
import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from reference.typed_state import Kind, Refused, Shape, TypedReference

from blazen import BlazenState, CallbackFieldStore, Context, Event, StartEvent, StopEvent, Workflow, step
from blazen._core.state import StateStore, StateValue
from blazen.errors import CancelledError, ValidationError, WorkflowError
from blazen.state import StoredState, find_state_class, put_back, stored_states

T = TypeVar("T")


class Opaque:
    pass


class Counter(BlazenState):
    count: int = 0
    cache: object = None

    class Meta:
        transient = {"cache"}


class Job(BlazenState):
    name: str
    done: list[int] = []
    child: Counter | None = None
    shared: ClassVar[list[int]] = []


class Connected(BlazenState):
    """Has an `__init__` of its own, and fields that only it knows."""

    class Meta:
        transient = {"connection"}

    def __init__(self, address: str) -> None:
        self.address = address
        self.connection: object = Opaque()

    def restore(self) -> None:
        self.connection = f"connected to {self.address} again"


@dataclasses.dataclass
class Decorated(BlazenState):
    a: int
    b: list[int] = dataclasses.field(default_factory=list)
    c: int = dataclasses.field(default=3, repr=False, kw_only=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen(BlazenState):
    a: int
    b: list[int] = dataclasses.field(default_factory=list)
    secret: str = ""

    class Meta:
        transient = {"secret"}


class Files:
    """A field store that notes what it is asked."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.calls: list[tuple[str, str, Any]] = []

    def save(self, key: str, value: Any, ctx: Any) -> None:
        self.calls.append(("save", key, ctx))
        self.kept[key] = value

    def load(self, key: str, ctx: Any) -> Any:
        self.calls.append(("load", key, ctx))
        return self.kept[key]


def large_class(files: Any) -> type[Any]:
    class Large(BlazenState):
        size: int = 0
        vectors: object = None

        class Meta:
            store_by = {"vectors": files}

    return Large


@pytest.fixture
def store() -> StateStore:
    return StateStore()


def entries(store: StateStore) -> dict[str, Any]:
    """What is stored, states left out."""
    return {key: value for key, value in store.items() if not isinstance(value, BlazenState)}


# --- classes


def test_fields_work_as_those_of_a_dataclass() -> None:
    assert Counter() == Counter(0, None) == Counter(count=0)
    assert Counter(1) != Counter(2)
    assert Counter(1) != 1
    assert repr(Counter(1, cache="c")) == "Counter(count=1, cache='c')"
    assert repr(Job("j")) == "Job(name='j', done=[], child=None)"
    assert Job.__match_args__ == ("name", "done", "child")
    for wrong in (lambda: Job(), lambda: Job("a", nmae=1), lambda: Counter(1, 2, 3), lambda: Counter(1, count=1)):
        with pytest.raises(TypeError):
            wrong()  # type: ignore[no-untyped-call]
    with pytest.raises(TypeError, match="unhashable"):
        hash(Counter())


def test_a_subclass_has_the_fields_of_its_base_first() -> None:
    class Named(Counter):
        label: str = ""

    assert repr(Named(1, None, "x")) == f"{Named.__qualname__}(count=1, cache=None, label='x')"
    assert Named(1) != Counter(1)


def test_mutable_defaults_are_not_shared() -> None:
    class Tables(BlazenState):
        rows: list[list[int]] = [[1]]
        names: dict[str, int] = {}
        seen: set[int] = set()
        raw: bytearray = bytearray(b"a")

    first, second = Tables(), Tables()
    first.rows[0].append(2)
    first.names["a"] = 1
    first.seen.add(1)
    first.raw.append(1)
    assert second == Tables([[1]], {}, set(), bytearray(b"a"))


def test_a_class_with_an_init_of_its_own_has_fresh_defaults_too() -> None:
    class Own(BlazenState):
        rows: list[int] = []

        def __init__(self, name: str) -> None:
            self.name = name

    class Further(Own):
        more: int = 1

    Own("a").rows.append(1)
    assert Own("b").rows == []
    assert Own("a") == Own("a")
    assert Own("a") != Own("b")
    assert Further("a").name == "a"
    assert repr(Further("a")) == f"{Further.__qualname__}(rows=[], more=1, name='a')"


def test_dataclasses_keep_what_their_decorator_says() -> None:
    assert repr(Decorated(1, c=4)) == "Decorated(a=1, b=[])"
    with pytest.raises(TypeError):
        Decorated(1, [], 4)  # type: ignore[misc]
    assert Decorated(1).b is not Decorated(1).b
    with pytest.raises(dataclasses.FrozenInstanceError):
        Frozen(1).a = 2  # type: ignore[misc]
    assert hash(Frozen(1, ())) == hash(Frozen(1, ()))  # type: ignore[arg-type]

    class Thawed(Decorated):
        d: int = dataclasses.field(default=4, compare=False)

    class Colder(Frozen):
        d: int = 4

    assert Thawed(1, d=5) == Thawed(1, d=6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Colder(1).d = 2  # type: ignore[misc]

    @dataclasses.dataclass
    class Again(Job):
        more: int = 0

    assert Again("a", [1], None, 5).more == 5


def test_a_class_of_a_file_that_was_run_and_forgotten_works_too(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.py"
    path.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from typing import ClassVar\n"
        "from blazen import BlazenState\n"
        "class Found(BlazenState):\n"
        "    a: int\n"
        "    limit: ClassVar[int] = 5\n"
        "    given: dataclasses.InitVar[int] = 0\n"
        "    rows: list[int] = []\n"
        "    def __post_init__(self, given):\n"
        "        self.rows.append(given)\n"
    )
    found = runpy.run_path(str(path))["Found"]
    assert found.__module__ not in sys.modules
    assert repr(found(1, 2)) == "Found(a=1, rows=[2])"
    assert found.__annotations__["a"] == "int"
    store = StateStore()
    store.set("f", found(1, 2))
    assert store.keys() == ["f", "f.a", "f.rows"]
    assert store.get("f") == found(1, 2)


def test_the_base_itself_has_no_instances() -> None:
    with pytest.raises(TypeError, match="the base of classes"):
        BlazenState()


def test_a_state_that_holds_itself_can_be_printed() -> None:
    job = Job("a")
    job.child = job  # type: ignore[assignment]
    assert repr(job) == "Job(name='a', done=[], child=...)"


def test_fields_that_no_dataclass_could_have_are_named_when_the_class_is_used() -> None:
    class Late(Counter):
        label: str

    with pytest.raises(ValidationError, match=r"class .*Late: non-default argument 'label' follows"):
        Late()
    with pytest.raises(ValidationError, match="Late"):
        StateStore(types=[Late])


def make(body: dict[str, Any], bases: tuple[type, ...] = (BlazenState,)) -> Any:
    return type("Made", bases, {"__annotations__": {"a": int, "b": "object"}, "a": 0, "b": None, **body})


def meta(**settings: Any) -> dict[str, Any]:
    return {"Meta": type("Meta", (), settings)}


async def async_save(key: str, value: Any, ctx: Any) -> None: ...


WRONG_CLASSES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: make(meta(transient={"c"})),
        r"class Made: Meta\.transient names 'c', which is no field; the fields are a, b",
    ),
    (lambda: make(meta(store_by={"c": Files()})), r"Meta\.store_by names 'c', which is no field"),
    (lambda: make(meta(transient="a")), r"Meta\.transient must be a set of field names.* got 'a'"),
    (lambda: make(meta(transient=None)), r"Meta\.transient must be a set of field names"),
    (lambda: make(meta(transient={5})), r"Meta\.transient must have names of fields, got 5"),
    (lambda: make(meta(store_by={"a"})), r"Meta\.store_by must be a dict from field names.* got a 'set'"),
    (
        lambda: make(meta(store_by={"a": object()})),
        r"store_by\['a'\] is a object, which has no save\(key, value, ctx\)",
    ),
    (
        lambda: make(meta(store_by={"a": type("Half", (), {"save": print})()})),
        r"store_by\['a'\] is a Half, which has no load\(key, ctx\)",
    ),
    (lambda: make(meta(store_by={"a": Files})), r"store_by\['a'\] is the class Files; give an object of it"),
    (
        lambda: make(meta(store_by={"a": type("Async", (), {"save": staticmethod(async_save)})()})),
        "Async, whose save is async",
    ),
    (lambda: make(meta(transient={"a"}, store_by={"a": Files()})), "'a' is in Meta.transient.* and in Meta.store_by"),
    (lambda: make(meta(transcient={"a"})), "Meta knows transient and store_by, not 'transcient'"),
    (lambda: make({"Meta": {"transient": {"a"}}}), "Meta must be a class, got 'dict'"),
    (lambda: make({"Meta": None}), "Meta must be a class, got None"),
    (lambda: make({"__annotations__": {"restore": int}}), "a field cannot be called 'restore'"),
    (lambda: make({"__annotations__": {"Meta": int}}), "a field cannot be called 'Meta'"),
    (lambda: make({"state_type": "x"}), "a field cannot be called 'state_type'"),
    (lambda: make({"restore": async_save}), "restore must be a plain method, without async"),
    (lambda: make({"restore": 5}), "restore must be a plain method"),
    (lambda: make({"a": numpy.zeros(2)}), "the default of 'a', a ndarray, would be shared by all instances"),
    (lambda: make({"a": Counter()}), "the default of 'a', a Counter, would be shared"),
    (lambda: make({}, (BlazenState, dict)), "a state cannot also be a dict"),
    (lambda: make({}, (BlazenState, Exception)), "a state cannot also be a Exception"),
    (
        lambda: make(meta(transient={"shared"}), (Job,)),
        "'shared', which is no field; the fields are name, done, child, a, b",
    ),
    (lambda: make(meta(store_by={"cache": Files()}), (Counter,)), "'cache' is in Meta.transient"),
]


@pytest.mark.parametrize(("define", "message"), WRONG_CLASSES, ids=[message[:50] for _, message in WRONG_CLASSES])
def test_what_is_wrong_in_a_class_is_refused_when_it_is_defined(define: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        define()


def test_what_a_method_assigns_or_caches_may_be_transient_without_being_declared() -> None:
    class Lazy(BlazenState):
        n: int = 0
        limit = 5

        class Meta:
            transient = ["squared", "connection", "limit"]

        @functools.cached_property
        def squared(self) -> int:
            return self.n**2

        def connect(self) -> None:
            def really() -> None:
                self.connection = Opaque()

            really()

    lazy = Lazy(3)
    lazy.connect()
    lazy.limit = 6
    assert lazy.squared == 9
    store = StateStore()
    store.set("lazy", lazy)
    assert store.keys() == ["lazy", "lazy.n"]
    assert store.get("lazy").limit == 5


def test_a_subclass_keeps_out_what_its_base_keeps_out() -> None:
    class Named(Counter):
        label: str = ""

        class Meta:
            transient = {"label"}

    store = StateStore()
    store.set("k", Named(1, "cached", "label"))
    assert store.keys() == ["k", "k.count"]


# --- in a store


def test_each_field_is_stored_under_a_key_of_its_own(store: StateStore) -> None:
    done = [1]
    job = Job("import", done)
    store.set("job", job)
    assert store.keys() == ["job", "job.name", "job.done", "job.child"]
    assert len(store) == 4
    assert "job.done" in store
    assert store.has("job")
    assert store.get("job.done") is done
    again = store.get("job")
    assert type(again) is Job
    assert again is not job
    assert again == job
    assert again.done is done
    assert store["job"].done is done
    assert dict(store) == {"job": job, "job.name": "import", "job.done": done, "job.child": None}
    assert store.values()[0] == job
    store.check_all()


def test_a_field_can_be_set_alone(store: StateStore) -> None:
    store.set("counter", Counter())
    store.set("counter.count", 5)
    assert store.get("counter") == Counter(5)
    with pytest.raises(ValidationError, match=r"cannot store 'counter.count': \$\[0\] is of type .*Opaque"):
        store.set("counter.count", [Opaque()])
    assert store.get("counter") == Counter(5)


def test_a_change_to_what_was_read_is_stored_only_by_set(store: StateStore) -> None:
    store.set("counter", Counter(1))
    counter = store.get("counter")
    counter.count = 2
    assert store.get("counter.count") == 1
    store.set("counter", counter)
    assert store.get("counter.count") == 2


def test_transient_fields_are_never_stored(store: StateStore) -> None:
    store.set("counter", Counter(1, cache=Opaque()))
    assert store.keys() == ["counter", "counter.count"]
    assert store.get("counter").cache is None
    writes: list[Callable[[], Any]] = [
        lambda: store.set("counter.cache", 1),
        lambda: store.set("counter.cache", Opaque()),
        lambda: store.set_bytes("counter.cache", b"s"),
        lambda: store.set_value("counter.cache", StateValue.native("s")),
        lambda: store.update({"counter.cache": 1}),
        lambda: store.update([("other", Counter()), ("other.cache", 1)]),
        lambda: store.setdefault("counter.cache", 1),
        lambda: store.__setitem__("counter.cache", 1),
    ]
    for write in writes:
        with pytest.raises(ValidationError, match=r"'cache' is a transient field of .*Counter"):
            write()
    assert store.keys() == ["counter", "counter.count"]


def test_a_transient_field_without_a_default_is_not_set_after_loading(store: StateStore) -> None:
    class Bare(BlazenState):
        lock: object
        n: int = 0

        class Meta:
            transient = {"lock"}

    store.set("bare", Bare(Opaque(), 1))
    bare = store.get("bare")
    assert not hasattr(bare, "lock")
    assert repr(bare) == f"{Bare.__qualname__}(n=1)"
    store.set("bare", bare)
    assert store.get("bare") == bare


def test_restore_is_called_at_every_load_and_init_is_not(store: StateStore) -> None:
    store.set("c", Connected("here"))
    assert store.keys() == ["c", "c.address"]
    store.set("c.address", "there")
    for _ in range(2):
        found = store.get("c")
        assert found.connection == "connected to there again"
    assert vars(found) == {"address": "there", "connection": "connected to there again"}


def test_an_error_of_restore_comes_out_and_names_the_key(store: StateStore) -> None:
    class Failing(BlazenState):
        n: int = 0

        def restore(self) -> None:
            raise OSError("no connection")

    store.set("f", Failing())
    with pytest.raises(OSError, match="no connection") as caught:
        store.get("f")
    assert caught.value.__notes__ == [f"raised by restore() of the {Failing.__qualname__} under the key 'f'"]
    with pytest.raises(OSError, match="no connection"):
        store.pop("f")
    assert store.keys() == ["f", "f.n"]


def test_a_restore_that_hands_on_what_would_have_to_be_awaited_is_refused(store: StateStore) -> None:
    class Later(BlazenState):
        n: int = 0

        def restore(self) -> Any:
            return async_save("key", self.n, None)

    store.set("f", Later())
    with pytest.raises(WorkflowError, match=r"restore\(\) of the .*Later under the key 'f' gave an awaitable; it is a"):
        store.get("f")


def test_nothing_changes_when_one_field_cannot_be_stored(store: StateStore) -> None:
    store.set("job", Job("first", [1]))
    before = store.items()
    with pytest.raises(ValidationError) as caught:
        store.set("job", Job("second", [1, Opaque()]))  # type: ignore[list-item]
    assert f"cannot store 'job.done': $[1] is of type {__name__}.Opaque" in str(caught.value)
    assert caught.value.path == "$[1]"
    with pytest.raises(ValidationError, match=r"cannot store 'job.child.count': \$ is of type"):
        store.set("job", Job("second", [], Counter(Opaque())))  # type: ignore[arg-type]
    assert store.items() == before
    with pytest.raises(ValidationError, match=r"cannot store 'new\.done'"):
        store.set("new", Job("second", [Opaque()]))  # type: ignore[list-item]
    assert store.items() == before


@pytest.mark.parametrize("value", [5, [1], b"raw", None, Counter(3)], ids=repr)
def test_overwriting_a_state_removes_its_fields(store: StateStore, value: Any) -> None:
    store.set("note", 1)
    store.set("job", Job("a", child=Counter()))
    store.set("job.remark", "mine")
    store.set("job", value)
    fields = ["job.count"] if isinstance(value, Counter) else []
    assert store.keys() == ["note", "job", "job.remark", *fields]
    assert store.get("job") == value
    store.set("job.name", "free again")


def test_overwriting_by_a_described_value_removes_the_fields_too(store: StateStore) -> None:
    for write in (
        lambda: store.set_value("k", StateValue.native(Opaque())),
        lambda: store.set_bytes("k", b"a"),
        lambda: store.update({"k": 1}),
    ):
        store.set("k", Counter())
        write()
        assert store.keys() == ["k"]


def test_deleting_a_state_deletes_its_fields_and_nothing_else(store: StateStore) -> None:
    for delete in (
        lambda: store.delete("job"),
        lambda: store.pop("job"),
        lambda: store.__delitem__("job"),
    ):
        store.set("job", Job("a", child=Counter()))
        store.set("job.remark", "mine")
        delete()
        assert store.keys() == ["job.remark"]
        assert not store.delete("job")
    store.set("job", Job("a"))
    store.clear()
    assert store.keys() == []
    store.set("job.name", 1)


def test_pop_gives_the_state_and_popitem_goes_from_the_end(store: StateStore) -> None:
    store.set("job", Job("a", child=Counter(4)))
    assert store.popitem() == ("job.child.count", 4)
    assert store.popitem() == ("job.child", Counter())
    assert store.pop("job") == Job("a")
    assert store.pop("job", "gone") == "gone"
    with pytest.raises(KeyError, match="job"):
        store.pop("job")


def test_a_field_that_was_deleted_has_its_default_again(store: StateStore) -> None:
    store.set("job", Job("a", [1]))
    assert store.delete("job.done")
    assert store.delete("job.name")
    job = store.get("job")
    assert job.done == []
    assert not hasattr(job, "name")
    store.set("job.name", "b")
    assert store.get("job") == Job("b")
    store.delete("job")
    assert store.keys() == []


def test_keys_that_somebody_else_has_set_are_not_taken_over(store: StateStore) -> None:
    for taken in ("counter.count", "counter.cache"):
        store.set(taken, "mine")
        with pytest.raises(
            ValidationError, match=f"cannot store 'counter': the key '{taken}' of its field .* holds something else"
        ):
            store.set("counter", Counter())
        assert store.items() == [(taken, "mine")]
        store.delete(taken)
    store.set("counter.remark", "mine")
    store.set("counter", Counter())
    store.delete("counter")
    assert store.items() == [("counter.remark", "mine")]


def test_a_state_in_a_field_is_stored_field_by_field_too(store: StateStore) -> None:
    store.set("job", Job("a", child=Counter(1)))
    assert store.keys() == ["job", "job.name", "job.done", "job.child", "job.child.count"]
    store.set("job.child.count", 2)
    assert store.get("job") == Job("a", child=Counter(2))
    assert store.get("job.child") == Counter(2)
    store.set("job.child", None)
    assert store.keys() == ["job", "job.name", "job.done", "job.child"]
    store.set("job.child", Counter(5))
    assert store.get("job").child == Counter(5)
    with pytest.raises(ValidationError, match="transient field"):
        store.set("job.child.cache", 1)


def test_a_state_inside_a_container_is_one_value_and_its_transient_fields_are_not_looked_at(store: StateStore) -> None:
    counter = Counter(1, cache=Opaque())
    store.set("list", [counter, {"in": counter}])
    assert store.keys() == ["list"]
    assert store.get("list")[0] is counter
    store.check_all()
    counter.count = Opaque()  # type: ignore[assignment]
    with pytest.raises(ValidationError, match=r"no longer storable: 'list': \$\[0\]\.count is of type"):
        store.check_all()
    with pytest.raises(ValidationError, match=r"cannot store 'k': \$\[0\]\.count is of type"):
        store.set("k", (counter,))
    counter.count = 0
    counter.extra = [Opaque()]  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match=r"\$\['a'\]\.extra\[0\] is of type"):
        store.set("k", {"a": counter})


def test_a_state_with_a_field_store_needs_a_key_of_its_own(store: StateStore) -> None:
    large = large_class(Files())
    with pytest.raises(ValidationError, match=r"\$\[0\] is a .*Large, whose field 'vectors' has a field store, which"):
        store.set("k", [large()])


def test_a_state_that_holds_itself_or_comes_twice_is_refused(store: StateStore) -> None:
    job = Job("a")
    job.child = job  # type: ignore[assignment]
    with pytest.raises(ValidationError, match=r"cannot store 'k.child': this .*Job is the one under 'k': it refers to"):
        store.set("k", job)

    class Two(BlazenState):
        a: Counter
        b: Counter

    counter = Counter()
    with pytest.raises(ValidationError, match=r"cannot store 'k.b': this .*Counter also goes to 'k.a'"):
        store.set("k", Two(counter, counter))
    assert store.keys() == []
    store.update({"a": counter, "b": counter})
    assert store.get("a") == store.get("b") == counter


class Link(BlazenState):
    next: Any = None


def test_states_may_be_nested_a_hundred_deep_and_no_deeper_also_in_a_small_thread() -> None:
    store = StateStore()
    outcome: list[object] = []

    def chain(levels: int) -> Link:
        link = Link()
        for _ in range(levels - 1):
            link = Link(link)
        return link

    def work() -> None:
        store.set("l", chain(100))
        outcome.append(len(store))
        try:
            store.set("l", chain(101))
        except ValidationError as error:
            outcome.append(str(error))
        store.delete("l")
        outcome.append(len(store))

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert outcome[0] == 101
    assert "states nested too deep, a key of more than 100 parts" in str(outcome[1])
    assert outcome[2] == 0


def test_attributes_besides_the_declared_ones_are_stored_too(store: StateStore) -> None:
    counter = Counter(1)
    counter.note = [1]  # type: ignore[attr-defined]
    store.set("c", counter)
    assert store.keys() == ["c", "c.count", "c.note"]
    assert store.get("c").note == [1]
    store.set("c.note", 2)
    assert store.get("c").note == 2
    store.set("c", Counter())
    assert store.keys() == ["c", "c.count"]
    setattr(counter, "no name", 1)
    with pytest.raises(ValidationError, match=r"named by an identifier, which 'no name' of this .*Counter is not"):
        store.set("c", counter)


class Box(BlazenState, Generic[T]):
    value: T


@pytest.mark.parametrize(
    "state",
    [Decorated(1, [2], c=5), Frozen(1, [2]), Box[int](5), Connected("here"), Job("a", [1], Counter(2)), Link()],
    ids=lambda state: type(state).__name__,
)
def test_every_kind_of_class_comes_back(store: StateStore, state: Any) -> None:
    store.set("s", state)
    found = store.get("s")
    assert type(found) is type(state)
    for name in ("a", "b", "c", "value", "address", "name", "child", "next"):
        assert getattr(found, name, None) == getattr(state, name, None)


def test_a_frozen_class_with_slots_keeps_its_secret(store: StateStore) -> None:
    state = Frozen(1, [2], "secret")
    store.set("s", state)
    assert store.keys() == ["s", "s.a", "s.b"]
    assert store.get("s").secret == ""
    assert b"s3cret" not in pickle.dumps(Frozen(1, [], "s3cret"))


def test_pickles_and_copies_leave_transient_fields_out_and_restore() -> None:
    data = pickle.dumps(Counter(1, "s3cret"))
    assert b"s3cret" not in data
    assert pickle.loads(data) == Counter(1)
    assert pickle.loads(pickle.dumps(Connected("here"))).connection == "connected to here again"
    assert copy.copy(Counter(1, "c")) == Counter(1)
    assert copy.deepcopy(Job("a", [1])) == Job("a", [1])
    store = StateStore()
    store.set_value("n", StateValue.native(Counter(1, "s3cret")))
    assert b"s3cret" not in pickle.dumps(store.get_value("n"))


def test_an_event_is_not_written_as_json_with_a_transient_field_in_it() -> None:
    class Sent(Event):
        value: object

    @dataclasses.dataclass
    class Around:
        inner: object

    for value, path in (
        (Counter(1, "s3cret"), "$.value"),
        ([Counter()], "$.value[0]"),
        (Around({"a": [Counter()]}), "$.value.inner.a[0]"),
    ):
        with pytest.raises(ValidationError, match="has transient fields, which are never written") as caught:
            Sent(value).to_json()
        assert caught.value.path == path
    assert Sent(Decorated(1)).to_json() == b'{"value":{"a":1,"b":[],"c":3}}'


def test_a_state_is_described_as_a_value_and_can_be_stored_as_such(store: StateStore) -> None:
    store.set("c", Counter(1))
    found = store.get_value("c")
    assert found is not None
    assert found.kind == "value"
    assert found.value == Counter(1)
    store.set_value("d", found)
    assert store.keys() == ["c", "c.count", "d", "d.count"]
    with pytest.raises(ValidationError, match=r"get_bytes\('c'\): the key holds a value of type .*Counter"):
        store.get_bytes("c")


def test_setdefault_stores_a_state_only_where_there_is_nothing(store: StateStore) -> None:
    first = Counter(1)
    assert store.setdefault("c", first) is first
    assert store.setdefault("c", Counter(2)) == first
    assert store.get("c.count") == 1


def test_an_update_stores_states_and_fields_in_order_all_or_nothing(store: StateStore) -> None:
    store.update([("c", Counter(1)), ("c.count", 2), ("d", Counter(3)), ("d", 4)])
    assert store.items() == [("c", Counter(2)), ("c.count", 2), ("d", 4)]
    before = store.items()
    for more in ([("c", 1), ("x", Opaque())], [("e.count", 1), ("e", Counter())]):
        with pytest.raises(ValidationError):
            store.update(more)
        assert store.items() == before


def test_an_update_sees_what_it_has_replaced_so_far(store: StateStore) -> None:
    store.set("job", Job("a", child=Counter(1)))
    store.update([("job", 5), ("job.child.cache", "mine"), ("job.child", 6)])
    assert store.items() == [("job", 5), ("job.child.cache", "mine"), ("job.child", 6)]
    with pytest.raises(ValidationError, match=r"the key 'job\.child\.cache' of its field 'cache' holds something else"):
        store.update([("job.child", Counter()), ("other", 1)])


def test_an_update_from_another_store_takes_states_over(store: StateStore) -> None:
    files = Files()
    large = large_class(files)
    store.set("job", Job("a", child=Counter(1)))
    store.set("large", large(1, "vectors"))
    store.set_value("v", StateValue.native(1))
    other = StateStore()
    other.set("job", Counter())
    other.update(store)
    assert other.keys() == store.keys()
    assert other.get("job") == Job("a", child=Counter(1))
    assert other.get("large") == large(1, "vectors")
    assert [call[:2] for call in files.calls if call[0] == "save"] == [("save", "large.vectors")]
    other.delete("large")
    assert "large.size" not in other


def test_a_class_with_a_lying_metaclass_or_no_relation_is_no_state(store: StateStore) -> None:
    with pytest.raises(ValidationError, match="not storable"):
        store.set("k", Opaque())


def test_a_store_with_states_is_collected(store: StateStore) -> None:
    class Local(BlazenState):
        n: Any = None

    local = weakref.ref(Local)
    store.set("l", Local(1))
    store.get("l")
    del Local
    store.clear()
    gc.collect()
    assert local() is None


def test_what_is_replaced_is_released_when_the_store_is_whole_again(store: StateStore) -> None:
    found: list[Any] = []

    class Looks:
        def __del__(self) -> None:
            found.append((store.keys(), store.get("job")))

    def job() -> None:
        store.set("job", Job("a", child=Counter()))
        store.set_value("job.name", StateValue.native(Looks()))

    job()
    store.set("job", Counter(7))
    assert found.pop() == (["job", "job.count"], Counter(7))
    job()
    store.update({"job": Counter(7), "more": 1})
    assert found.pop() == (["job", "job.count", "more"], Counter(7))
    job()
    store.delete("job")
    assert found.pop() == (["more"], None)


def test_threads_may_share_a_state() -> None:
    store = StateStore()
    store.set("job", Job("a", [0], Counter(0)))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(300):
                store.set("job", Job("a", [turn], Counter(turn)))
                found = store.get("job")
                if isinstance(found, Job):
                    assert found.child is not None
                    assert found.done == [found.child.count]
                store.set("job", Counter(turn) if number else Job("a", [1], Counter(1)))
                store.set("job", Job("a", [turn], Counter(turn)))
        except BaseException as error:
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    store.set("job", 1)
    assert store.keys() == ["job"]


# --- field stores


def test_a_field_store_keeps_the_value_outside_of_the_store(store: StateStore) -> None:
    files = Files()
    large = large_class(files)
    vectors = Opaque()  # need not be storable
    store.set("large", large(2, vectors))
    assert files.kept == {"large.vectors": vectors}
    assert store.keys() == ["large", "large.size", "large.vectors"]
    assert store.get("large").vectors is vectors
    assert store.get("large.vectors") is vectors
    assert dict(store)["large.vectors"] is vectors
    store.set("large.vectors", "new")
    assert files.kept == {"large.vectors": "new"}
    files.calls.clear()
    store.get("large.size")
    store.has("large.vectors")
    store.check_all()
    assert files.calls == []
    store.set_bytes("large.vectors", b"raw")
    assert store.get_bytes("large.vectors") == b"raw"
    assert store.pop("large.vectors") == b"raw"
    assert store.get("large").vectors is None
    store.set("large.vectors", "again")
    assert files.kept == {"large.vectors": "again"}
    with pytest.raises(ValidationError, match="has a field store, which takes the value itself; use set"):
        store.set_value("large.vectors", StateValue.native(1))
    store.delete("large")
    assert store.keys() == []
    assert files.kept == {"large.vectors": "again"}  # nothing is deleted from a field store


def test_callbacks_are_a_field_store(store: StateStore) -> None:
    kept: dict[str, Any] = {}
    large = large_class(CallbackFieldStore(kept.__setitem__, kept.__getitem__))
    store.set("l", large(1, [2]))
    assert kept == {"l.vectors": [2]}
    assert store.get("l").vectors is kept["l.vectors"]
    for wrong, message in (
        ((5, print), "save_fn must be a plain function, but is a 'int'"),
        ((print, async_save), "load_fn must be a plain function, but is async"),
    ):
        with pytest.raises(ValidationError, match=message):
            CallbackFieldStore(*wrong)  # type: ignore[arg-type]


def test_an_error_of_a_field_store_names_the_key_and_nothing_has_changed(store: StateStore) -> None:
    class Broken:
        def save(self, key: str, value: Any, ctx: Any) -> None:
            if value == "bad":
                raise OSError("disk full")

        def load(self, key: str, ctx: Any) -> Any:
            raise KeyError(key)

    large = large_class(Broken())
    store.set("l", large(1, "good"))
    with pytest.raises(WorkflowError) as caught:
        store.set("l", large(2, "bad"))
    assert str(caught.value) == (
        f"the field store of 'l.vectors' (Broken, for {large.__qualname__}.vectors) could not save it: "
        "OSError: disk full"
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert store.get("l.size") == 1
    for load in (lambda: store.get("l"), lambda: store.get("l.vectors"), lambda: store.pop("l"), store.items):
        with pytest.raises(WorkflowError, match=r"'l\.vectors' .* could not load it: KeyError"):
            load()
    assert store.keys() == ["l", "l.size", "l.vectors"]


def test_a_field_store_is_not_asked_when_another_field_is_refused(store: StateStore) -> None:
    files = Files()
    large = large_class(files)
    with pytest.raises(ValidationError):
        store.set("l", large(Opaque(), "vectors"))
    store.set("m.size", 1)
    with pytest.raises(ValidationError):
        store.set("m", large(1, "vectors"))
    with pytest.raises(ValidationError):
        store.update([("n", large(1, "vectors")), ("o", Opaque())])
    assert files.calls == []


def test_an_awaitable_from_a_field_store_is_an_error(store: StateStore) -> None:
    async def wrong() -> None: ...

    large = large_class(CallbackFieldStore(lambda key, value: wrong(), lambda key: None))
    with pytest.raises(WorkflowError, match="its save gave an awaitable"):
        store.set("l", large())


# --- finding classes again


def test_a_class_is_found_by_its_module_and_name() -> None:
    assert Counter.state_type == f"{__name__}.Counter"
    assert find_state_class(Counter.state_type) is Counter
    assert find_state_class(Frozen.state_type) is Frozen
    assert Frozen(1).state_type == f"{__name__}.Frozen"


def test_a_local_class_is_found_only_among_the_types() -> None:
    class Local(BlazenState):
        n: int = 0

    first = Local

    class Local(BlazenState):  # type: ignore[no-redef]
        n: int = 0

    assert find_state_class(Local.state_type, [Counter, Local, int]) is Local
    with pytest.raises(ValidationError, match=r"no BlazenState class .*Local' in the modules"):
        find_state_class(Local.state_type)
    with pytest.raises(ValidationError, match="two classes in Workflow"):
        find_state_class(Local.state_type, [first, Local])


@pytest.mark.parametrize(
    "name", ["", "x", "os.system", "no.such.Class", f"{__name__}.Opaque", ".", "builtins.dict", None]
)
def test_what_is_no_state_class_is_not_found(name: Any) -> None:
    with pytest.raises(ValidationError, match="there is no BlazenState class"):
        find_state_class(name)


def test_finding_a_class_imports_nothing() -> None:
    assert "this" not in sys.modules
    with pytest.raises(ValidationError):
        find_state_class("this.Class")
    assert "this" not in sys.modules


def test_what_is_stored_as_a_state_can_be_listed_and_put_back(store: StateStore) -> None:
    files = Files()
    large = large_class(files)
    store.set("plain", 1)
    store.set("job", Job("a", child=Counter(1)))
    store.set("large", large(1, "vectors"))
    listed = stored_states(store, [large])
    assert listed == [
        StoredState("job", f"{__name__}.Job", ("name", "done", "child")),
        StoredState("job.child", f"{__name__}.Counter", ("count",)),
        StoredState("large", large.state_type, ("size", "vectors"), ("vectors",)),
    ]
    again = StateStore()
    for stored in listed:
        put_back(again, stored, [large])
    for key, value in store.items():
        if key not in {one.key for one in listed} | {"large.vectors"}:
            again.set(key, value)
    assert again.get("job") == store.get("job")
    assert again.get("large") == large(1, "vectors")
    assert sorted(again.keys()) == sorted(store.keys())
    with pytest.raises(ValidationError, match="cannot write 'large': there is no BlazenState class"):
        stored_states(store)


def test_a_class_that_another_has_replaced_cannot_be_written(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("c", Counter())
    newer = type("Counter", (BlazenState,), {"__module__": __name__, "__annotations__": {"count": int}})
    monkeypatch.setattr(sys.modules[__name__], "Counter", newer)
    with pytest.raises(ValidationError, match=r"cannot write 'c': .* is the name of another class by now"):
        stored_states(store)
    monkeypatch.undo()
    assert [stored.key for stored in stored_states(store)] == ["c"]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (StoredState("c", f"{__name__}.Counter", ("count", "cache")), "'cache' was written, and is a transient field"),
        (StoredState("c", f"{__name__}.Counter", ("count",), ("count",)), "'count' is in a field store, which"),
        (StoredState("c", f"{__name__}.Gone", ()), "there is no BlazenState class"),
    ],
    ids=["transient", "elsewhere", "gone"],
)
def test_a_class_that_has_changed_is_named(store: StateStore, stored: StoredState, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        put_back(store, stored)
    assert store.keys() == []


@pytest.mark.parametrize("base", [msgspec.Struct, Event])
def test_a_struct_cannot_be_a_state_too(base: type) -> None:
    with pytest.raises(TypeError, match="Struct"):
        type(base)("Both", (BlazenState, base), {})


def test_a_state_class_may_be_named_in_types() -> None:
    class Plain(msgspec.Struct):
        n: int

    store = StateStore(types=[Counter, Plain])
    store.set("a", [Counter(1, cache=Opaque()), Plain(1)])
    store.set("c", Counter())
    assert store.keys() == ["a", "c", "c.count"]


# --- in a run


async def test_steps_share_a_state_through_every_way_to_the_store() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("job", Job("a"))
        ctx.state["job.name"] = "b"
        async with ctx.edit("job") as cell:
            cell.value.done.append(1)
            await trio.lowlevel.checkpoint()
            cell.value.child = Counter(1, cache=Opaque())
        async with ctx.edit("job.child.count") as cell:
            cell.value += 1
        async with ctx.edit("fresh", Counter(5)) as cell:
            cell.value.count += 1
        assert ctx.state["job"] == ctx.get("job")
        assert ctx.has("job.child")
        assert ctx.delete("job.done")
        return StopEvent(result=(ctx.get("job"), ctx.get("fresh"), ctx.keys()))

    job, fresh, keys = (await Workflow("w", [only]).run()).result
    assert job == Job("b", [], Counter(2))
    assert fresh == Counter(6)
    assert keys == ["job", "job.name", "job.child", "job.child.count", "fresh", "fresh.count"]


async def test_a_refused_edit_of_a_state_leaves_it_as_it_was() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("c", Counter(1))
        with pytest.raises(ValidationError, match=r"'c\.count'"):
            async with ctx.edit("c") as cell:
                cell.value.count = Opaque()
        return StopEvent(result=ctx.get("c"))

    assert (await Workflow("w", [only]).run()).result == Counter(1)


async def test_a_thread_step_stores_states_and_its_field_stores_run_in_its_thread() -> None:
    seen: list[Any] = []

    class Here:
        def save(self, key: str, value: Any, ctx: Any) -> None:
            seen.append((key, value, threading.current_thread() is threading.main_thread(), ctx.step_name))

        def load(self, key: str, ctx: Any) -> Any:
            seen.append((key, ctx.run_id()))
            return "loaded"

    large = large_class(Here())

    @step(run="thread")
    def put(ctx: Context, ev: StartEvent) -> Event:
        ctx.set("large", large(1, "vectors"))
        ctx.state["large.vectors"] = "through the mapping"
        return Part()

    @step
    async def fetch(ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=ctx.state["large"])

    result = await Workflow("w", [put, fetch]).run()
    assert result.result == large(1, "loaded")
    assert seen == [
        ("large.vectors", "vectors", False, "put"),
        ("large.vectors", "through the mapping", False, "put"),
        ("large.vectors", result.run_id),
    ]


class Part(Event):
    pass


async def test_a_field_store_that_fails_fails_the_step_and_cancellation_passes_through() -> None:
    class Raises:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def save(self, key: str, value: Any, ctx: Any) -> None:
            raise self.error

        def load(self, key: str, ctx: Any) -> Any:
            raise self.error

    @step
    async def put(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("l", large_class(Raises(ev.data))(1))
        return StopEvent()

    workflow = Workflow("w", [put])
    with pytest.raises(WorkflowError, match=r"step 'put' .* the field store of 'l\.vectors'") as caught:
        await workflow.run(OSError("disk full"))
    assert isinstance(caught.value.__cause__, WorkflowError)
    stop = CancelledError("told to stop")
    with pytest.raises(WorkflowError) as caught:
        await workflow.run(stop)
    assert caught.value.__cause__ is stop


def test_a_state_is_kept_in_a_file_by_its_field_store(tmp_path: Path) -> None:
    large = large_class(
        CallbackFieldStore(
            lambda key, value: (tmp_path / key).write_text(value), lambda key: (tmp_path / key).read_text()
        )
    )

    @step
    def put(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("l", large(1, "long text"))
        return StopEvent(result=ctx.get("l").vectors)

    assert Workflow("w", [put]).run_sync().result == "long text"
    assert (tmp_path / "l.vectors").read_text() == "long text"


# --- beside the model


class A(BlazenState):
    x: Any = 0
    y: Any = None
    t: Any = "unset"

    class Meta:
        transient = {"t"}


class B(BlazenState):
    y: Any = 1
    z: Any = 2


KIND_A = Kind("A", {"x": 0, "y": None}, {"t": "unset"})
KIND_B = Kind("B", {"y": 1, "z": 2}, {})
CLASSES: dict[str, Any] = {"A": A, "B": B}

PLAIN = st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2) | st.builds(Opaque)
SHAPES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: Shape(KIND_A, {"x": pair[0], "y": pair[1]})),
        st.tuples(inner, inner).map(lambda pair: Shape(KIND_B, {"y": pair[0], "z": pair[1]})),
    ),
    max_leaves=4,
)
KEYS = st.lists(st.sampled_from(["x", "y", "z", "t", "k"]), min_size=0, max_size=2).flatmap(
    lambda rest: st.sampled_from(["s", "r"]).map(lambda first: ".".join([first, *rest]))
)


def to_state(value: Any) -> Any:
    if isinstance(value, Shape):
        transient = {name: Opaque() for name in value.kind.transient}
        fields = {name: to_state(inner) for name, inner in value.values.items()}
        return CLASSES[value.kind.name](**fields, **transient)
    return value


def stored(value: Any) -> Any:
    """A shape without its transient fields, also in the shapes in it."""
    if isinstance(value, Shape):
        return Shape(value.kind, {name: stored(value.values[name]) for name in value.kind.fields})
    return value


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, Shape):
        return (
            type(found) is CLASSES[expected.kind.name]
            and vars(found).keys() == expected.values.keys()
            and all(same(getattr(found, name), value) for name, value in expected.values.items())
        )
    return found is expected


class TypedStateBesideItsModel(RuleBasedStateMachine):
    """A store with states and a plain dict of fields take the same calls and must give the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.store = StateStore()
        self.model = TypedReference(Opaque)

    def both(self, real: Callable[[], Any], expected: Callable[[], Any]) -> None:
        try:
            answer = expected()
        except Refused:
            with pytest.raises(ValidationError):
                real()
        else:
            assert same(real(), answer)

    @rule(key=KEYS, value=SHAPES)
    def set(self, key: str, value: Any) -> None:
        self.both(lambda: self.store.set(key, to_state(value)), lambda: self.model.set(key, value))

    @rule(pairs=st.lists(st.tuples(KEYS, SHAPES), max_size=3))
    def update(self, pairs: list[tuple[str, Any]]) -> None:
        states = [(key, to_state(value)) for key, value in pairs]
        self.both(lambda: self.store.update(states), lambda: self.model.update(pairs))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        missing = object()
        self.both(lambda: self.store.get(key, missing), lambda: self.model.get(key, missing))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.both(lambda: self.store.delete(key), lambda: self.model.delete(key))

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        expected = self.model.get(key, None)
        self.model.delete(key)
        assert same(self.store.pop(key, None), expected)

    @rule(key=KEYS)
    def set_back_what_was_got(self, key: str) -> None:
        found = self.store.get(key)
        if isinstance(found, BlazenState):
            # A field that was deleted, also of a state in a field, has come back with its default.
            self.both(
                lambda: self.store.set(key, found), lambda: self.model.set(key, stored(self.model.get(key, None)))
            )

    @invariant()
    def hold_the_same(self) -> None:
        assert sorted(self.store.keys()) == sorted(self.model.entries)
        for key, value in self.store.items():
            assert same(value, self.model.get(key, None)), key

    @invariant()
    def a_field_comes_after_its_state(self) -> None:
        keys = self.store.keys()
        for key, _, names, _ in self.store.states():
            for name in names:
                if f"{key}.{name}" in keys:
                    assert keys.index(key) < keys.index(f"{key}.{name}")


TestTypedStateBesideItsModel = TypedStateBesideItsModel.TestCase
