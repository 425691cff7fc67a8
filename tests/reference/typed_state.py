"""A slow, obvious model of typed state in a store: a plain dict in which a state is a mark and its fields are entries.

It knows two classes by their tables of fields, and neither checks values nor calls anything of the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Refused(Exception):
    """The store must raise ValidationError."""


class Kind(NamedTuple):
    """A class of states: the default of each stored field, and of each transient one."""

    name: str
    fields: dict[str, Any]
    transient: dict[str, Any]


class Shape(NamedTuple):
    """A state: its class and the values of its stored fields, which may be shapes again."""

    kind: Kind
    values: dict[str, Any]


class Mark(NamedTuple):
    kind: Kind


class TypedReference:
    def __init__(self, unstorable: type) -> None:
        self.entries: dict[str, Any] = {}
        self.unstorable = unstorable

    def below(self, key: str) -> Iterator[str]:
        mark = self.entries.get(key)
        if isinstance(mark, Mark):
            for name in mark.kind.fields:
                if f"{key}.{name}" in self.entries:
                    yield f"{key}.{name}"
                    yield from self.below(f"{key}.{name}")

    def flat(self, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, self.unstorable):
            raise Refused
        if isinstance(value, Shape):
            yield key, Mark(value.kind)
            for name, inner in value.values.items():
                yield from self.flat(f"{key}.{name}", inner)
        else:
            yield key, value

    def set(self, key: str, value: Any) -> None:
        above, _, name = key.rpartition(".")
        owner = self.entries.get(above)
        if isinstance(owner, Mark) and name in owner.kind.transient:
            raise Refused
        new = dict(self.flat(key, value))
        gone = set(self.below(key))
        for place, mark in new.items():
            if isinstance(mark, Mark):
                for name in (*mark.kind.fields, *mark.kind.transient):
                    if f"{place}.{name}" in self.entries and f"{place}.{name}" not in gone:
                        raise Refused
        for place in gone - new.keys():
            del self.entries[place]
        self.entries.update(new)

    def update(self, pairs: list[tuple[str, Any]]) -> None:
        before = dict(self.entries)
        try:
            for key, value in pairs:
                self.set(key, value)
        except Refused:
            self.entries = before
            raise

    def delete(self, key: str) -> bool:
        if key not in self.entries:
            return False
        for place in [*self.below(key), key]:
            del self.entries[place]
        return True

    def get(self, key: str, default: Any) -> Any:
        if key not in self.entries:
            return default
        mark = self.entries[key]
        if not isinstance(mark, Mark):
            return mark
        # A field that was deleted has its default again.
        values = {name: self.get(f"{key}.{name}", preset) for name, preset in mark.kind.fields.items()}
        return Shape(mark.kind, {**values, **mark.kind.transient})
