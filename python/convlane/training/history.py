"""The record of training, epoch by epoch, and its plot."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from convlane.safetensors_file import Path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["History"]


class History(Mapping[str, list[float]]):
    """Columns by name, with one number per epoch: losses, metrics, learning rates and seconds.

    The names of columns for the validation data begin with ``validation_``. ``pandas.DataFrame(dict(history))`` makes a
    table of the history.

    Attributes
    ----------
    epochs
        The number of epochs.
    best_epoch
        The epoch, counted from 1, whose weights early stopping has kept; None without early stopping.

    Examples
    --------
    >>> from convlane.training import History
    >>> history = History()
    >>> history.append({"loss": 2.0, "accuracy": 0.25})
    >>> history.append({"loss": 1.0, "accuracy": 0.5})
    >>> history["loss"]
    [2.0, 1.0]
    >>> history
    epoch  loss  accuracy
        1     2      0.25
        2     1       0.5
    """

    def __init__(self, columns: Mapping[str, list[float]] | None = None) -> None:
        self._columns = {name: [float(value) for value in values] for name, values in (columns or {}).items()}
        self.best_epoch: int | None = None

    def append(self, row: Mapping[str, float]) -> None:
        """Append an epoch with the same columns as those before it."""
        if self._columns and row.keys() != self._columns.keys():
            raise ValueError(f"History: expected the columns {', '.join(self._columns)}, got {', '.join(row)}")
        for name, value in row.items():
            self._columns.setdefault(name, []).append(float(value))

    @property
    def epochs(self) -> int:
        """Return the number of epochs."""
        return len(next(iter(self._columns.values()), []))

    def last(self) -> dict[str, float]:
        """Return the numbers of the last epoch, by name."""
        return {name: values[-1] for name, values in self._columns.items()}

    def plot(self, path: Path | None = None) -> Figure:
        """Plot losses on the left and metrics on the right, by epoch.

        Parameters
        ----------
        path
            The file to write the plot to, if any; the suffix determines the format.

        Returns
        -------
        matplotlib.figure.Figure
            The plot, which notebooks display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError:
            raise ImportError(
                "History.plot needs matplotlib, which is not installed; pip install 'convlane[plot]' installs it"
            ) from None
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        drawn = [name for name in self._columns if name not in ("learning_rate", "seconds")]
        losses = [name for name in drawn if name.endswith("loss")]
        metrics = [name for name in drawn if name not in losses]
        groups = [group for group in (losses, metrics) if group]
        epochs = range(1, self.epochs + 1)
        for column, group in enumerate(groups, 1):
            axes = figure.add_subplot(1, len(groups), column)
            for name in group:
                axes.plot(epochs, self._columns[name], label=name.replace("_", " "))
            if self.best_epoch is not None:
                axes.axvline(self.best_epoch, color="grey", linestyle=":", label="kept")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        if path is not None:
            figure.savefig(os.fspath(path))
        return figure

    def __getitem__(self, name: str) -> list[float]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        rows = [["epoch", *self._columns]]
        for epoch in range(self.epochs):
            rows.append([str(epoch + 1), *(f"{values[epoch]:.4g}" for values in self._columns.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
