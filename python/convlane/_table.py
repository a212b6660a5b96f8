"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(rows: Sequence[Sequence[str]], right: Collection[str]) -> list[str]:
    """Return the lines of a table whose first row is the header; the columns named in `right` are right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, rows[0], strict=True)
        ).rstrip()
        for row in rows
    ]


def sizes(shape: Sequence[int]) -> str:
    """Return a shape as written in tables: 3x224x224."""
    return "x".join(map(str, shape))
