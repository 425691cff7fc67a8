from collections.abc import Iterable

__all__ = ["check_types"]

def check_types(types: Iterable[type]) -> frozenset[type]: ...
