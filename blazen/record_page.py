"""The page that shows a run record: one HTML file that needs nothing else.

The parts stand in `blazen/viewer`. They are put together here: the record goes into a block of JSON that no browser
runs, and a policy in the page itself allows only the script and the style that it came with, and no network at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blazen.record import RunRecord

__all__ = ["page_of"]

_SCRIPTS = ("layout.js", "lanes.js", "timeline.js", "details.js", "graph.js", "page.js")


def page_of(record: RunRecord) -> str:
    """The page of one record."""
    import html

    script = "".join(_part(name) for name in _SCRIPTS)
    style = _part("page.css")
    return _fill(
        _part("page.html"),
        {
            "policy": f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'",
            "title": html.escape(f"{record.workflow}: {record.state}"),
            "style": style,
            "record": _inert(record.to_json()),
            "script": script,
        },
    )


def _part(name: str) -> str:
    from importlib.resources import files

    return files("blazen").joinpath("viewer", name).read_text(encoding="utf-8")


def _fill(template: str, parts: dict[str, str]) -> str:
    """Put each part in the place of its name; what stands in a part is never looked at."""
    pieces = template.split("<!--[")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("]-->")
        filled += [parts[name], rest]
    return "".join(filled)


def _inert(json: str) -> str:
    """JSON text that cannot end the block it stands in. These characters occur in JSON only inside strings."""
    for character in "<>&\u2028\u2029":
        json = json.replace(character, f"\\u{ord(character):04x}")
    return json


def _digest(text: str) -> str:
    """How a policy names a script or style that stands in the page."""
    import base64
    import hashlib

    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
