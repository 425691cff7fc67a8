from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final

from blazen._core.codec_classes import ClassTable

__all__ = ["ClassTable", "Described", "UnopenedNative", "decode", "describe", "encode", "register_extension"]

_T = TypeVar("_T")

@final
class UnopenedNative:
    @property
    def data(self) -> bytes: ...
    def __init__(self, data: bytes) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Described:
    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def values(self) -> tuple[Any, ...]: ...
    def __init__(self, name: str, fields: tuple[str, ...], values: tuple[object, ...]) -> None: ...

def encode(value: object, *, classes: ClassTable | Iterable[type] = ()) -> bytes: ...
def decode(
    data: bytes | bytearray | memoryview,
    *,
    classes: ClassTable | Iterable[type] = (),
    trust_native: bool = False,
) -> Any: ...
def describe(data: bytes | bytearray | memoryview) -> Any: ...
def register_extension(
    tag: int,
    base: type[_T],
    write: Callable[[_T, ClassTable], object],
    read: Callable[[Any, ClassTable], _T],
    describe: Callable[[Any], tuple[str, tuple[str, ...], tuple[object, ...]]],
) -> None: ...
