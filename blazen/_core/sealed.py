"""The container of a snapshot: named sections of bytes under one length, checksum and, with a key, signature.

docs/snapshot_format.md says where each byte lies. What is damaged or altered is refused before any section is looked
at.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

__all__ = ["FORMAT_VERSION", "open_sealed", "seal"]

# 2: the section `run` of a snapshot has a part `once`.
FORMAT_VERSION = 2

# As in PNG: a byte that is no ASCII, the two line ends and an end-of-file, so that what treats it as text is found out.
_MAGIC = b"\x89BLZN\r\n\x1a\n"
_HEADER = struct.Struct("<9sBHQ")  # magic, version, flags, length of the whole
_SIGNED = 0x0001
_SIGNATURE_SIZE = 32
_CHECKSUM = struct.Struct("<I")
_SECTION = struct.Struct("<HQ")  # length of the name, length of the content


def seal(sections: Mapping[str, bytes | bytearray | memoryview], key: bytes | None = None) -> bytes:
    """Put `sections` into one piece of bytes, in their order.

    Args:
        sections: Content by name.
        key: Signs the whole with HMAC-SHA256; at least 16 bytes.
    Raises:
        ValidationError: A name is no str or longer than 65,535 bytes in UTF-8, a content is no bytes, or the key is no
            key.
    """
    parts: list[bytes | bytearray | memoryview] = [b""]
    for name, content in sections.items():
        if not isinstance(content, bytes | bytearray | memoryview):
            raise _refusal("seal", f"section {name!r} is a {type(content).__name__}, not bytes")
        title = _title(name)
        if isinstance(content, memoryview):
            content = content.tobytes()
        parts += [_SECTION.pack(len(title), len(content)), title, content]
    signature_size = 0 if key is None else _SIGNATURE_SIZE
    length = _HEADER.size + sum(map(len, parts)) + signature_size + _CHECKSUM.size
    parts[0] = _HEADER.pack(_MAGIC, FORMAT_VERSION, 0 if key is None else _SIGNED, length)
    body = b"".join(parts)
    if key is not None:
        body += _signature(key, body, "seal")
    return body + _CHECKSUM.pack(zlib.crc32(body))


def open_sealed(data: bytes | bytearray | memoryview, key: bytes | None = None) -> dict[str, bytes]:
    """Return the sections that `seal` has put together.

    Args:
        data: What `seal` returned.
        key: The key it was signed with. Without a key a signature is not looked at.
    Raises:
        ValidationError: `data` is no snapshot, of a newer version, cut off, damaged, or, with a key, unsigned, altered
            or signed with another key; the message says which.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise _refusal("open", f"it comes as bytes, not as {type(data).__name__}")
    view = memoryview(bytes(data))
    signed = _check_header(view)
    end = len(view) - _CHECKSUM.size
    (checksum,) = _CHECKSUM.unpack_from(view, end)
    intact = zlib.crc32(view[:end]) == checksum
    end -= _SIGNATURE_SIZE if signed else 0
    if key is not None:
        # First of all: nothing that could have been made by somebody else is taken apart.
        _check_signature(view, end, key, signed, intact)
    if not intact:
        raise _refusal("open", "it is damaged: its checksum does not fit")
    return _sections(view[_HEADER.size : end])


def _check_header(view: memoryview) -> bool:
    """Check magic, version, flags and length; True if there is a signature."""
    if len(view) < _HEADER.size:
        if not len(view) or not _MAGIC.startswith(bytes(view[: len(_MAGIC)])):
            raise _refusal("open", f"these {len(view)} bytes are no snapshot of blazen")
        raise _refusal("open", f"it is cut off after {len(view)} bytes, before the end of its header")
    magic, version, flags, length = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        text = magic[:1] != _MAGIC[:1] and _MAGIC[1:5] in magic
        why = "; it seems to have been copied as text" if text else ""
        raise _refusal("open", f"it does not begin like a snapshot of blazen{why}")
    if version > FORMAT_VERSION:
        raise _refusal(
            "open", f"it has format version {version} and this blazen reads up to {FORMAT_VERSION}; update blazen"
        )
    if version == 0:
        raise _refusal("open", "it is damaged: there is no format version 0")
    if len(view) < length:
        raise _refusal("open", f"it is cut off: {len(view)} bytes are left of {length}")
    if len(view) > length:
        raise _refusal("open", f"it is followed by {len(view) - length} bytes that do not belong to it")
    if flags & ~_SIGNED:
        raise _refusal("open", f"it is damaged or newer: unknown flags 0x{flags:04x}")
    signed = bool(flags & _SIGNED)
    if length < _HEADER.size + _CHECKSUM.size + (_SIGNATURE_SIZE if signed else 0):
        raise _refusal("open", f"it is damaged: {length} bytes are too few")
    return signed


def _check_signature(view: memoryview, end: int, key: bytes, signed: bool, intact: bool) -> None:
    import hmac

    if not signed:
        raise _refusal("open", "it is not signed, and a key was given: whoever made it did not have the key")
    if hmac.compare_digest(_signature(key, view[:end], "open"), bytes(view[end : end + _SIGNATURE_SIZE])):
        return
    if intact:
        raise _refusal("open", "its signature does not fit: it was altered, or signed with another key")
    raise _refusal("open", "it is damaged or altered: neither its signature nor its checksum fits")


def _sections(view: memoryview) -> dict[str, bytes]:
    sections: dict[str, bytes] = {}
    at = 0
    while at < len(view):
        if len(view) - at < _SECTION.size:
            raise _refusal("open", "it is damaged: a section has no beginning")
        title_size, size = _SECTION.unpack_from(view, at)
        at += _SECTION.size
        if title_size + size > len(view) - at:
            raise _refusal("open", "it is damaged: a section is longer than the whole")
        try:
            name = str(view[at : at + title_size], "utf-8")
        except UnicodeDecodeError:
            raise _refusal("open", "it is damaged: the name of a section is no UTF-8") from None
        if name in sections:
            raise _refusal("open", f"it is damaged: there are two sections {name!r}")
        at += title_size
        sections[name] = bytes(view[at : at + size])
        at += size
    return sections


def _title(name: object) -> bytes:
    if not isinstance(name, str):
        raise _refusal("seal", f"the name of a section is a str, not {name!r}")
    try:
        title = name.encode()
    except UnicodeEncodeError:
        raise _refusal("seal", f"the name of a section, {name!r}, is no valid Unicode") from None
    if len(title) > 0xFFFF:
        raise _refusal("seal", f"the name of a section has {len(title)} bytes, and 65,535 is the most")
    return title


def _signature(key: bytes, content: bytes | memoryview, what: str) -> bytes:
    import hmac

    if not isinstance(key, bytes | bytearray) or len(key) < 16:
        shown = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else f"a {type(key).__name__}"
        raise _refusal(what, f"a key is at least 16 bytes, such as secrets.token_bytes(32) gives; this is {shown}")
    return hmac.digest(key, content, "sha256")


def _refusal(what: str, problem: str) -> Exception:
    from blazen.errors import ValidationError

    return ValidationError(f"cannot {what} the snapshot: {problem}")
