from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["check_types", "configure_states"]

def check_types(types: Iterable[type]) -> frozenset[type]: ...
def configure_states(base: type, layout_of: Callable[[Any], Any]) -> None: ...
