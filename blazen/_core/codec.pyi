from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final

from blazen._core.codec_classes import ClassTable

__all__ = ["ClassTable", "UnopenedNative", "decode", "encode", "register_extension"]

_T = TypeVar("_T")

@final
class UnopenedNative:
    @property
    def data(self) -> bytes: ...
    def __init__(self, data: bytes) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def encode(value: object, *, classes: ClassTable | Iterable[type] = ()) -> bytes: ...
def decode(
    data: bytes | bytearray | memoryview,
    *,
    classes: ClassTable | Iterable[type] = (),
    trust_native: bool = False,
) -> Any: ...
def register_extension(
    tag: int, base: type[_T], write: Callable[[_T], object], read: Callable[[Any, ClassTable], _T]
) -> None: ...
