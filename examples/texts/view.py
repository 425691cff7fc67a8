"""What the report looks like: a line of progress, tables, and nothing that a terminal could take for a command."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from blazen import StepRecord

if TYPE_CHECKING:
    from text_report import Report

WIDEST = 110


def plain(text: str) -> str:
    """`text` on one line, without characters that a terminal would obey."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def width() -> int:
    return min(WIDEST, shutil.get_terminal_size((100, 24)).columns)


def shortened(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: max(columns - 1, 0)] + "…"


class Progress:
    """How far the run is: one line that is written anew on a terminal, about ten plain lines elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rewrite = stream.isatty()
        self._last = 0

    def __enter__(self) -> Progress:
        return self

    def show(self, done: int, total: int, label: str) -> None:
        line = f"{done:>{len(str(total))}} of {total} documents  {plain(label)}"
        if self._rewrite:
            self._stream.write(f"\r{shortened(line, width() - 1)}\x1b[K")
            self._stream.flush()
        elif done == total or done * 10 // total > self._last:
            self._last = done * 10 // total
            print(line, file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rewrite:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int]) -> None:
    """Print columns two spaces apart; those named in `right` are aligned at their end."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ]
        print("  " + "  ".join(cells).rstrip())


def print_report(report: Report, folder: Path, patience: float) -> None:
    """Print what was found out."""
    words = sum(row.words for row in report.rows)
    print(f"{plain(str(folder))}: {len(report.rows)} documents, {words:,} words, {len(report.skipped)} skipped")
    if report.rows:
        print("\nDocuments")
        table(
            ("document", "words", "passages", "key terms", "nearest", "alike"),
            [
                (
                    shortened(plain(row.name), 36) + ("*" if row.cut_off else ""),
                    f"{row.words:,}",
                    str(row.passages),
                    ", ".join(shortened(term, 20) for term in row.key_terms) or "-",
                    shortened(plain(row.nearest), 36) if row.nearest else "-",
                    f"{row.similarity:.2f}" if row.nearest else "-",
                )
                for row in report.rows
            ],
            right=frozenset((1, 2, 5)),
        )
    for row in report.rows:
        if row.cut_off:
            print(
                textwrap.fill(
                    f"* The embedding of {plain(row.name)} was cut off after {patience:g} s"
                    + (
                        ": it waited for a source that does not answer. That source is staged, to show a step timeout; "
                        "nothing is wrong with the document."
                        if row.staged
                        else "."
                    )
                    + " One vector was made of the whole instead, so it is not among the passages below.",
                    width(),
                    initial_indent="  ",
                    subsequent_indent="    ",
                )
            )
    if report.pairs:
        print("\nClosest passages of documents that are alike")
        table(
            ("alike", "passage", "passage", "both speak of"),
            [
                (
                    f"{pair.similarity:.2f}",
                    *(f"{shortened(plain(name), 32)} #{number}" for name, number in (pair.left, pair.right)),
                    ", ".join(shortened(term, 20) for term in pair.shared) or "-",
                )
                for pair in report.pairs
            ],
            right=frozenset(),
        )
    if report.skipped:
        print("\nSkipped")
        for name, reason in report.skipped:
            print(f"  {plain(name)}: {reason}")
    if report.rows:
        print("\nAlike is the cosine of hashed TF-IDF vectors: 1 where the same words are used, whatever they mean.")


def print_times(records: Iterable[StepRecord]) -> None:
    """Print how often each step ran and how long it took."""
    took: dict[str, list[float]] = defaultdict(list)
    cut_off: dict[str, int] = defaultdict(int)
    for record in records:
        if record.elapsed_ms is None:
            continue
        took[record.step].append(record.elapsed_ms)
        cut_off[record.step] += record.kind in ("timed_out", "failed")
    print("\nTime per step, from its start until its result was taken; steps overlap, so the sums do too")
    table(
        ("step", "runs", "cut off", "mean ms", "longest ms", "sum ms"),
        [
            (
                name,
                str(len(times)),
                str(cut_off[name] or "-"),
                f"{sum(times) / len(times):.1f}",
                f"{max(times):.1f}",
                f"{sum(times):.1f}",
            )
            for name, times in took.items()
        ],
        right=frozenset((1, 2, 3, 4, 5)),
    )
    sys.stdout.flush()
