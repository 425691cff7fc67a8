"""Snapshots: all that a run is at one moment, as bytes.

A snapshot is made of sections: `meta` names the run, `run` is what the engine has to remember, `state` and `session`
are the values of the steps. docs/snapshot_format.md says where each byte lies.
"""

from __future__ import annotations

import msgspec

from blazen._core import sealed
from blazen.errors import ValidationError

__all__ = ["Snapshot"]

_SECTIONS = ("meta", "run", "state", "session")


class Meta(msgspec.Struct, frozen=True):
    """Which run it is of, readable without its workflow.

    Attributes:
        workflow: The name of the workflow.
        version: Its version.
        run_id: The run, a UUID.
        created: When the snapshot was taken: seconds since 1970, UTC.
        state: What `handler.state` was.
    """

    workflow: str
    version: str
    run_id: str
    created: float
    state: str


class Snapshot:
    """A run at one moment: what `handler.pause()` and `handler.snapshot()` return, and `Workflow.resume` takes.

    It never changes, and may be kept in a file or sent elsewhere as bytes.
    """

    __slots__ = ("_meta", "_sections", "_trust_native")

    def __init__(self, sections: dict[str, bytes], *, trust_native: bool = False) -> None:
        self._sections = sections
        self._trust_native = trust_native
        self._meta = _read_meta(sections)

    @property
    def workflow(self) -> str:
        """The name of the run's workflow."""
        return self._meta.workflow

    @property
    def version(self) -> str:
        """The version of the workflow."""
        return self._meta.version

    @property
    def run_id(self) -> str:
        """The run's id, a UUID; a run that is resumed keeps it."""
        return self._meta.run_id

    @property
    def created(self) -> float:
        """When it was taken: seconds since 1970, UTC."""
        return self._meta.created

    @property
    def sections(self) -> dict[str, bytes]:
        """What it consists of, by name."""
        return dict(self._sections)

    @property
    def trusts_native(self) -> bool:
        """Whether what was pickled may be loaded: it comes from this process, or `from_bytes` was told so."""
        return self._trust_native

    def to_bytes(self, key: bytes | None = None) -> bytes:
        """The snapshot as bytes, with a length and a checksum.

        Args:
            key: Signs it, so that whoever has the key can tell that nobody else has altered it; at least 16 bytes.
        Raises:
            ValidationError: The key is no key.
        """
        return sealed.seal(self._sections, key)

    def to_json(self) -> str:
        """Everything that is in the snapshot as JSON, for people: indented, in the sections meta, run, state, session.

        Needs none of the workflow's classes, and opens no pickle. What JSON has not is an object with a key that begins
        with ``$``, such as ``{"$tuple": [1, 2]}``; of arrays the first 100 elements are shown. Nothing reads it back.

        Raises:
            ValidationError: What is in a section is damaged; the message says in which, and how.
        """
        from blazen._snapshot_json import to_json

        return to_json(self._meta, self._sections)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, *, key: bytes | None = None, trust_native: bool = False
    ) -> Snapshot:
        """The snapshot that `to_bytes` has written.

        Args:
            data: As it was written.
            key: The key it was signed with. With it, what is not signed or was altered is refused before anything is
                read.
            trust_native: Whether values that were pickled (`StateValue.native`, `ctx.session`) may be loaded when it is
                resumed. Loading a pickle can run any code: only if you know who wrote it.
        Raises:
            ValidationError: It is no snapshot, of a newer version, cut off, damaged, or altered; the message says
                which.
        """
        if not isinstance(trust_native, bool):
            raise ValidationError(f"from_bytes: trust_native must be True or False, got {trust_native!r}")
        return cls(sealed.open_sealed(data, key), trust_native=trust_native)

    def __eq__(self, other: object) -> bool:
        return self._sections == other._sections if type(other) is Snapshot else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        size = sum(map(len, self._sections.values()))
        return f"<blazen.Snapshot of run {self.run_id} of workflow {self.workflow!r}, {size} bytes>"


def _read_meta(sections: dict[str, bytes]) -> Meta:
    unknown = sections.keys() - set(_SECTIONS)
    missing = set(_SECTIONS) - sections.keys()
    if unknown or missing:
        what = f"has no section {min(missing)!r}" if missing else f"has a section {min(unknown)!r}, which is unknown"
        raise ValidationError(f"cannot read the snapshot: it {what}; it may be of another version of blazen")
    try:
        return msgspec.json.decode(sections["meta"], type=Meta)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ValidationError(f"cannot read the snapshot: its section 'meta' is damaged: {exc}") from None
