"""The description of a workflow as text: Mermaid and DOT.

Names of steps and types are whatever their author chose, so each format has one function that makes any text safe in
it. Ids in the texts are our own (``n0``, ``n1``): a step called ``end`` or ``o`` cannot mean anything to Mermaid.

Source: Mermaid documentation, "Flowcharts: Special characters that break syntax"; Graphviz documentation, "The DOT
Language" and "escString".
"""

from __future__ import annotations

import re
from typing import Any

_BUILT_IN = "blazen::"
# Edges that may or may not be taken; the others are what the steps declare, and what they ask.
_DASHED = {"on_error", "possible", "undeclared", "waits"}


def printable(text: str) -> str:
    """`text` on one line, with what cannot be seen (control characters, line ends, half a surrogate pair) escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def event_label(name: str) -> str:
    """The type name of an event as pictures show it: blazen's own are known without their prefix."""
    return "any event" if name == "*" else name.removeprefix(_BUILT_IN)


def _edge_label(edge: dict[str, Any]) -> str:
    label = event_label(edge["event"])
    if edge["via"] == "on_error":
        label += " on error"
    elif edge["via"] == "waits":
        label += " waited for"
    elif edge["via"] == "possible":
        label += " if of its class"
    return f"{label} [{edge['when']}]" if "when" in edge else label


def _lines(node: dict[str, Any]) -> list[str]:
    """What the box of a node says: its name, and for a step what is particular about it."""
    if node["kind"] != "step":
        return [node["label"]]
    lines = [node["label"]]
    if node["run"] != "inline":
        lines.append(f"in a {node['run']}")
    if node["timeout"] is not None:
        lines.append(f"timeout {node['timeout']:g} s")
    if node["retries"]:
        lines.append(f"up to {node['retries']} {'retry' if node['retries'] == 1 else 'retries'}")
    if node["max_concurrency"] is not None:
        lines.append(f"at most {node['max_concurrency']} at once")
    lines += [_join_line(join) for join in node["joins"]]
    if node["on_error"] is not None:
        lines.append(f"on error: {node['on_error']}")
    if node["emits"] is None:
        lines.append("may send anything")
    return lines


def _join_line(join: dict[str, Any]) -> str:
    if "count" in join:
        return f"joins {join['count']} {'event' if join['count'] == 1 else 'events'}"
    if "types" in join:
        return f"joins {', '.join(map(event_label, join['types']))}"
    return "joins several events"


def _classes(node: dict[str, Any]) -> list[str]:
    """The styles of a node."""
    if node["kind"] != "step":
        return [node["kind"]]
    return [name for name, given in (("join", node["joins"]), ("undeclared", node["emits"] is None)) if given]


# --- Mermaid

_MERMAID_SHAPES = {
    "start": ('(["', '"])'),
    "stop": ('(["', '"])'),
    "ask": ('[/"', '"/]'),
    "outside": ('>"', '"]'),
    "step": ('["', '"]'),
}
_MERMAID_STYLES = {
    "start": "stroke-width:2px",
    "stop": "stroke-width:2px",
    "outside": "stroke-dasharray:4 3",
    "join": "stroke-width:3px",
    "undeclared": "stroke-dasharray:6 4",
}
# Stands for itself in a quoted label: letters and digits of any script, blanks, and punctuation that means nothing to
# Mermaid, to HTML or to Markdown, which it looks for in labels. An underscore or colon only inside of a name.
_MERMAID_SAFE = re.compile(r"[^\W_]|(?<=[^\W_])_(?=[^\W_])|(?<=[^\W_])::(?=[^\W_])|(?<=[^\W_])\.(?=[^\W_])|[ ,()\[\]]")


def mermaid_text(text: str) -> str:
    """`text` for a quoted label: all but the harmless characters as entity codes, ``#34;`` for a quotation mark."""
    text = printable(text)
    found: list[str] = []
    at = 0
    # Mermaid looks for style statements with a pattern that a label with these words, a colon and a code would match.
    wary = "style" in text or "classDef" in text
    while at < len(text):
        safe = _MERMAID_SAFE.match(text, at)
        # A line that begins with a digit or a sign could be a list to Markdown.
        if safe is None or (at == 0 and not text[0].isalpha()) or (wary and ":" in safe[0]):
            found.append(f"#{ord(text[at])};")
            at += 1
        else:
            found.append(safe[0])
            at = safe.end()
    return "".join(found)


def mermaid(picture: dict[str, Any]) -> str:
    """The description as a Mermaid flowchart."""
    ids = {node["id"]: f"n{number}" for number, node in enumerate(picture["nodes"])}
    lines = ["flowchart TD"]
    styles: dict[str, list[str]] = {}
    for node in picture["nodes"]:
        opening, closing = _MERMAID_SHAPES[node["kind"]]
        label = "<br/>".join(map(mermaid_text, _lines(node)))
        lines.append(f"    {ids[node['id']]}{opening}{label}{closing}")
        for style in _classes(node):
            styles.setdefault(style, []).append(ids[node["id"]])
    for edge in picture["edges"]:
        arrow = "-.->" if edge["via"] in _DASHED else "-->"
        label = mermaid_text(_edge_label(edge))
        lines.append(f'    {ids[edge["from"]]} {arrow}|"{label}"| {ids[edge["to"]]}')
    for style, look in _MERMAID_STYLES.items():
        if style in styles:
            lines.append(f"    classDef {style} {look}")
            lines.append(f"    class {','.join(styles[style])} {style}")
    return "\n".join(lines) + "\n"


# --- DOT

_DOT_SHAPES = {"start": "oval", "stop": "oval", "ask": "parallelogram", "outside": "note", "step": "box"}


def dot_text(text: str) -> str:
    """`text` for the inside of a quoted string that is shown as a label."""
    # In a label a backslash begins an escape and an ampersand an HTML entity.
    return printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def dot(picture: dict[str, Any]) -> str:
    """The description in DOT."""
    ids = {node["id"]: f"n{number}" for number, node in enumerate(picture["nodes"])}
    lines = [
        f'digraph "{dot_text(picture["workflow"])}" {{',
        f'    label="{dot_text(picture["workflow"])}";',
        '    labelloc="t";',
        '    fontname="Helvetica";',
        '    node [fontname="Helvetica", shape=box, style=rounded];',
        '    edge [fontname="Helvetica", fontsize=10];',
    ]
    for node in picture["nodes"]:
        label = "\\n".join(map(dot_text, _lines(node)))
        attributes = [f'label="{label}"', f"shape={_DOT_SHAPES[node['kind']]}"]
        classes = _classes(node)
        if "undeclared" in classes or "outside" in classes:
            attributes.append('style="rounded,dashed"')
        if "join" in classes:
            attributes.append("penwidth=2")
        lines.append(f"    {ids[node['id']]} [{', '.join(attributes)}];")
    for edge in picture["edges"]:
        style = ", style=dashed" if edge["via"] in _DASHED else ""
        label = dot_text(_edge_label(edge))
        # The blanks keep the label off its own line and the next one's.
        lines.append(f'    {ids[edge["from"]]} -> {ids[edge["to"]]} [label=" {label} "{style}];')
    return "\n".join([*lines, "}"]) + "\n"
