"""Pictures in folders, one for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from convlane.data.picture import PicturePath, read_image

__all__ = ["ImageFolder"]

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """Picture files in one folder per class; the classes are numbered in the order of their names.

    Parameters
    ----------
    path
        The folder with the classes' folders. The data are all files in these and in their subfolders whose names have
        the suffix of a picture (``.png``, ``.jpg`` and so on, in any case), in the order of their paths. Links to files
        and folders are followed, but within a class no folder is entered twice, so that cycles of links end. Hidden
        files and folders (whose names begin with a dot) are left out, as are pipes and other files that are not
        regular.
    read
        A function from a file's path to a picture (C, H, W), float32 or uint8; by default `read_image`. It runs in the
        loader's threads.

    Attributes
    ----------
    classes
        The names of the classes.
    counts
        The number of pictures of each class, by its name; the object's repr also shows them.
    files
        Pairs of a path and the number of its class.

    Raises
    ------
    OSError
        If there is no such folder, or one below it cannot be read.
    ValueError
        If there are no classes, or a class has no pictures.

    Notes
    -----
    Reading needs Pillow: ``pip install 'convlane[data]'``.
    """

    def __init__(self, path: PicturePath, read: Callable[[Path], Any] | None = None) -> None:
        self.path = Path(os.fsdecode(path))
        self.read = read_image if read is None else read
        folders = sorted(entry for entry in self.path.iterdir() if entry.is_dir() and not _hidden(entry.name))
        if not folders:
            raise ValueError(f"ImageFolder: {self.path} has no subfolders, each of which would be a class")
        self.classes = [folder.name for folder in folders]
        self.counts: dict[str, int] = {}
        self.files: list[tuple[Path, int]] = []
        for number, folder in enumerate(folders):
            files = sorted(_pictures(folder, self.path))
            if not files:
                raise ValueError(
                    f"ImageFolder: {folder} has no pictures; known suffixes: {', '.join(sorted(_SUFFIXES))}"
                )
            self.counts[folder.name] = len(files)
            self.files += [(file, number) for file in files]

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {count}" for name, count in self.counts.items())
        return f"ImageFolder({str(self.path)!r}: {len(self)} pictures; {counts})"

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Read a picture and return it with its class."""
        file, number = self.files[index]
        return self.read(file), number

    def name(self, index: int) -> str:
        """Return the path of a picture."""
        return str(self.files[index][0])


def _pictures(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the pictures in a folder and its subfolders, without following links that lead back."""
    entered = {_identity(root)}
    for path, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        if _identity(path) in entered:
            folders.clear()
            continue
        entered.add(_identity(path))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        files = (Path(path, name) for name in names if not _hidden(name))
        yield from (file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file())


def _identity(folder: PicturePath) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _raise(error: OSError) -> NoReturn:
    raise error
