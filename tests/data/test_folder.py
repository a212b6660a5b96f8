"""Folders of pictures: what belongs to a class, and what is left out."""

import os

import numpy as np
import pytest
from PIL import Image

from convlane.data import ImageFolder


def add_picture(*places):
    """Write pictures that differ, and the folders that contain them."""
    for i, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (i, 2, 3)).save(place, "PNG")


def found(folder):
    return [path.relative_to(folder).as_posix() for path, _ in ImageFolder(folder).files]


def test_folders_are_classes(tmp_path):
    for name in ("cat", "eel", "dog"):
        add_picture(*(tmp_path / name / place for place in ("b.png", "a.PNG", "more/c.png")))
        (tmp_path / name / "notes.txt").write_text("no picture")
    (tmp_path / "readme.txt").write_text("no class")
    add_picture(tmp_path / "eel" / "d.png")
    data = ImageFolder(tmp_path)
    assert data.classes == ["cat", "dog", "eel"]
    assert found(tmp_path)[:3] == ["cat/a.PNG", "cat/b.png", "cat/more/c.png"]
    assert [number for _, number in data.files] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert data.counts == {"cat": 3, "dog": 3, "eel": 4}
    assert repr(data) == f"ImageFolder({str(tmp_path)!r}: 10 pictures; cat: 3, dog: 3, eel: 4)"
    image, number = data[4]
    assert number == 1
    assert data.name(4) == str(tmp_path / "dog" / "b.png")
    np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "dog" / "b.png")).transpose(2, 0, 1))


def test_what_is_hidden_is_left_out_on_every_level(tmp_path):
    add_picture(tmp_path / "cat" / "a.png", tmp_path / "cat" / "more" / "b.png")
    add_picture(*(tmp_path / place for place in (".trash/a.png", "cat/.checkpoints/a.png", "cat/more/.old/x/b.png")))
    for place in ("cat/._a.png", "cat/more/._b.png", "cat/Thumbs.db", "cat/.DS_Store"):
        (tmp_path / place).write_bytes(b"no picture")
    assert ImageFolder(tmp_path).classes == ["cat"]
    assert found(tmp_path) == ["cat/a.png", "cat/more/b.png"]


def test_links_are_followed_but_not_in_cycles(tmp_path):
    root = tmp_path / "data"
    add_picture(root / "cat" / "a.png", root / "dog" / "b.png", tmp_path / "elsewhere" / "c.png")
    for link, target in {
        "cat/file.png": tmp_path / "elsewhere" / "c.png",
        "cat/more": tmp_path / "elsewhere",
        "cat/self": root / "cat",
        "cat/up": root,
        "cat/far up": tmp_path,
        "linked": tmp_path / "elsewhere",
        "dog/lost.png": tmp_path / "missing.png",
    }.items():
        (root / link).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "cat")
    assert found(root) == [
        "cat/a.png",
        "cat/far up/elsewhere/c.png",  # and not a second time as more/c.png
        "cat/file.png",
        "dog/b.png",
        "linked/back/a.png",
        "linked/back/file.png",
        "linked/c.png",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without such files")
def test_pipes_are_left_out(tmp_path):
    add_picture(tmp_path / "cat" / "a.png")
    os.mkfifo(tmp_path / "cat" / "b.png")
    assert found(tmp_path) == ["cat/a.png"]


def test_names_need_not_be_text(tmp_path):
    place = os.path.join(os.fsencode(tmp_path), b"data\xe9", b"caf\xe9")
    os.makedirs(place)
    Image.new("L", (2, 2)).save(os.fsdecode(os.path.join(place, b"\xff.png")))
    for root in (os.path.dirname(place), os.fsdecode(os.path.dirname(place))):
        data = ImageFolder(root)
        assert data.classes == [os.fsdecode(b"caf\xe9")]
        assert data[0][0].shape == (3, 2, 2)
        assert "caf\\udce9: 1" in repr(data).encode("utf-8", "backslashreplace").decode()


def test_bad_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no subfolders"):
        ImageFolder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no pictures"):
        ImageFolder(tmp_path)
