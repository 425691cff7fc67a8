"""Finding text documents, reading them, cutting them into passages and counting their words."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".md", ".txt", ".rst")
LARGEST_FILE = 20 * 1024 * 1024  # bytes
PASSAGE_WORDS = 80  # a passage ends with the paragraph after so many ...
LONGEST_PASSAGE_WORDS = 160  # ... and at any end of a line after so many

# A word begins with a letter and has two characters or more; `collect_events` is one word.
WORD = re.compile(r"\b[^\W\d_]\w+")

# Words that say nothing about what an English text is about.
COMMON = """
    about above after again all also an and any are as at be because been before being below between both but by
    can could did do does doing done down each else for from further had has have having he her here hers him his how
    if in into is it its itself just like may me might more most must my no nor not now of off on once one only or
    other our out over own same she should so some such than that the their them then there these they this those
    through to too two under until up upon us use used uses using very was we were what when where whether which while
    who whom whose why will with without would yet you your
"""
COMMON_WORDS = frozenset(COMMON.split())


class Unreadable(Exception):
    """A file is no text document; the message says why."""


class Place(NamedTuple):
    """A file that was found, and its name in the report: the path below the folder."""

    name: str
    path: str
    size: int


class Refused(NamedTuple):
    """A file or folder that cannot be used, and why."""

    name: str
    reason: str


def find(folder: Path) -> Iterator[Place | Refused]:
    """Every text document below `folder`, in the order of their names. Hidden folders are passed over."""
    refused: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        while refused:
            yield _refused(folder, refused.pop())
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                path = os.path.join(parent, name)
                try:
                    size = os.stat(path).st_size
                except OSError as error:
                    yield Refused(os.path.relpath(path, folder), f"cannot be read: {error.strerror}")
                else:
                    yield Place(os.path.relpath(path, folder), path, size)
    while refused:
        yield _refused(folder, refused.pop())


def _refused(folder: Path, error: OSError) -> Refused:
    return Refused(f"{os.path.relpath(error.filename, folder)}{os.sep}", f"cannot be read: {error.strerror}")


def read(path: str) -> str:
    """The text of a document.

    Raises:
        Unreadable: It is too large, no regular file, binary, not UTF-8, without any words, or cannot be opened.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("is no regular file")
        if found.st_size > LARGEST_FILE:
            raise Unreadable(f"is larger than {LARGEST_FILE // 1024**2} MiB")
        data = Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise Unreadable("looks like a binary file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}") from error
    if not WORD.search(text):
        raise Unreadable("has no words in it")
    return text


def cut(text: str) -> list[str]:
    """Passages of whole lines: of 80 words or more, and of whole paragraphs where those are short enough."""
    passages: list[str] = []
    lines: list[str] = []
    words = 0
    for line in text.splitlines():
        lines.append(line)
        words += len(WORD.findall(line))
        if words >= (LONGEST_PASSAGE_WORDS if line.strip() else PASSAGE_WORDS):
            passages.append("\n".join(lines).strip())
            lines, words = [], 0
    if words:
        passages.append("\n".join(lines).strip())
    return passages


def count_words(text: str) -> int:
    """How many words a text has."""
    return len(WORD.findall(text))


def count_terms(text: str) -> Counter[str]:
    """How often each term is in a text: words in lower case, without the common ones."""
    words = (word.lower() for word in WORD.findall(text))
    return Counter(word for word in words if word not in COMMON_WORDS)
