from collections.abc import Iterable
from typing import final

__all__ = ["ClassTable"]

@final
class ClassTable:
    @property
    def types(self) -> frozenset[type]: ...
    @property
    def events(self) -> frozenset[type]: ...
    def __init__(self, classes: Iterable[type] = ()) -> None: ...
