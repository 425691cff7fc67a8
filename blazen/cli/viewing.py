"""``blazen view``: the record of a run as a page."""

from __future__ import annotations

import importlib
import os
from typing import Any

from blazen.cli.messages import Mistake, shown_path
from blazen.errors import ValidationError


def write_page(record: str, page: str | None) -> str:
    """Write the page of a record.

    Args:
        record: The file that holds the record.
        page: Where the page goes; None for the same name with ``.html``.

    Returns:
        Where it is, as people would type it.

    Raises:
        Mistake: The record cannot be read or is none, or the page cannot be written.
    """
    path = os.path.splitext(record)[0] + ".html" if page is None else page
    if os.path.realpath(path) == os.path.realpath(record):
        raise Mistake(f"{path!r} is the record itself; give another file with --output")
    html = _load(record).to_html()
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(html)
    except OSError as error:
        raise Mistake(f"{path!r} cannot be written: {error.strerror}") from None
    return shown_path(path)


def _load(record: str) -> Any:
    if not os.path.exists(record):
        raise Mistake(f"{record!r}: there is no such file")
    module: Any = importlib.import_module("blazen.record")
    try:
        return module.RunRecord.load(record)
    except ValidationError as error:
        raise Mistake(str(error)) from None
    except OSError as error:
        raise Mistake(f"{record!r} cannot be read: {error.strerror}") from None
