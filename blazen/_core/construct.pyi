from typing import TypeVar

__all__ = ["call_like_base", "construct_plain_form"]

_T = TypeVar("_T", bound=type)

def call_like_base(metaclass: _T) -> _T: ...
def construct_plain_form(cls: type) -> None: ...
