"""Pictures in files: how their pixels are read, and what is refused with which message."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from convlane.data import Preprocessing, read_image
from convlane.data.picture import open_picture, rgb_picture

RAMP = np.linspace(0, 1, 256)[None].repeat(3, 0)
LEVELS = np.round(255 * RAMP)
PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def as_colours(path):
    """Read a file through a `Preprocessing` that changes nothing."""
    prepare = Preprocessing(crop=3, resize=3, divisor=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    return prepare(path)


def write_tiff(path, data, tags):
    """Write one strip of pixels by hand, with little-endian tags that Pillow cannot write."""
    tags = {**tags, 0x103: 1, 0x115: 1, 0x111: 8, 0x116: tags[0x101], 0x117: len(data)}
    entries = b"".join(struct.pack("<HHIHxx", tag, 3, 1, tags[tag]) for tag in sorted(tags))
    padded = data + b"\0" * (len(data) % 2)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(padded))
    path.write_bytes(head + padded + struct.pack("<H", len(tags)) + entries + b"\0" * 4)


def test_grey_files_have_three_equal_channels(tmp_path):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([PIXELS[..., 0]] * 3))


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "pgm", "12-bit tif", "inverse tif"])
def test_sixteen_bits_are_scaled_to_eight(kind, tmp_path):
    path = tmp_path / f"deep.{kind[-3:]}"
    deep = np.round(65535 * RAMP).astype(np.uint16)
    size = {0x100: 256, 0x101: 3}
    if kind == "big-endian tif":
        Image.frombytes("I;16B", (256, 3), deep.astype(">u2").tobytes()).save(path)
    elif kind == "12-bit tif":
        first, second = np.round(4095 * RAMP).astype(np.uint16).reshape(-1, 2).T
        packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8)
        write_tiff(path, packed.tobytes(), {**size, 0x102: 12, 0x106: 1})
    elif kind == "inverse tif":
        write_tiff(path, (65535 - deep).astype("<u2").tobytes(), {**size, 0x102: 16, 0x106: 0})
    else:
        Image.fromarray(deep).save(path)
    expected = np.stack([LEVELS] * 3)
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(np.asarray(open_picture(path)), LEVELS)
    np.testing.assert_array_equal(np.asarray(rgb_picture(Image.open(path))).transpose(2, 0, 1), expected)
    np.testing.assert_array_equal(as_colours(path), expected[..., 126:129])  # the middle, because the ramp is cropped


@pytest.mark.parametrize(("dtype", "message"), [(np.int32, "32-bit integers"), (np.float32, "floating-point numbers")])
def test_pixels_whose_white_is_unknown_are_refused(dtype, message, tmp_path):
    image = Image.fromarray((1000 * RAMP).astype(dtype))
    image.save(tmp_path / "deep.tif")
    for read in (read_image, as_colours, open_picture):
        with pytest.raises(ValueError, match=rf"deep\.tif: not a readable picture: its pixels are {message}"):
            read(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=message):
        as_colours(image)


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_rotated_as_their_camera_noted(orientation, tmp_path):
    turned = {
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned.get(orientation, PIXELS).transpose(2, 0, 1))


ODD_TAGS = {  # tag, type, count, value; a value of more than four bytes is stored after the tags
    "rational without a denominator": (0x11A, 10, 1, struct.pack("<ii", -1, 0)),
    "text for a number": (0x213, 2, 3, b"ab"),
    "float for an integer": (0x100, 11, 1, struct.pack("<f", 1.5)),
    "NaN": (0x11A, 11, 1, struct.pack("<f", float("nan"))),
    "negative number": (0x100, 8, 1, struct.pack("<h", -5)),
    "double for text": (0x132, 12, 1, struct.pack("<d", 1.5)),
}


@pytest.mark.parametrize("tag", ODD_TAGS.values(), ids=ODD_TAGS)
def test_odd_tags_beside_the_orientation_do_no_harm(tag, tmp_path):
    number, kind, count, value = tag
    behind = value if len(value) > 4 else b""
    odd = struct.pack("<HHI", number, kind, count) + (struct.pack("<I", 38) if behind else value.ljust(4, b"\0"))
    orientation = struct.pack("<HHIHxx", 0x112, 3, 1, 6)
    head = b"Exif\0\0II" + struct.pack("<HIH", 42, 8, 2)
    data = head + b"".join(sorted([odd, orientation], key=lambda e: e[1::-1])) + struct.pack("<I", 0) + behind
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=data)
    assert read_image(tmp_path / "a.jpg").shape == (3, 5, 4)


def test_a_damaged_orientation_tag_is_ignored(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0no tags")
    assert read_image(tmp_path / "a.jpg").shape == (3, 4, 5)


@pytest.mark.parametrize(
    "error", [struct.error("odd"), IndexError("odd"), AttributeError("odd"), ZeroDivisionError("odd")]
)
def test_every_error_of_a_decoder_becomes_one(error, monkeypatch, tmp_path):
    def fails(image):
        raise error

    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", fails)
    for read in (read_image, as_colours, open_picture):
        with pytest.raises(ValueError, match=r"a\.bmp: not a readable picture: odd"):
            read(tmp_path / "a.bmp")
    with (
        Image.open(tmp_path / "a.bmp") as image,
        pytest.raises(ValueError, match=r"a\.bmp: not a readable picture: odd"),
    ):
        as_colours(image)


def test_the_first_of_several_frames_is_read(tmp_path):
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    for name in ("a.gif", "a.tif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(read_image(tmp_path / name), PIXELS.transpose(2, 0, 1))


def test_a_memory_error_is_not_reported_as_damage(monkeypatch, tmp_path):
    def fails(image):
        raise MemoryError

    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", fails)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.bmp")


def test_names_need_not_be_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    Image.fromarray(PIXELS).save(os.fsdecode(path))
    for name in (path, os.fsdecode(path)):
        np.testing.assert_array_equal(read_image(name), PIXELS.transpose(2, 0, 1))
        assert as_colours(name).shape == (3, 3, 3)
    with open(path, "wb"):
        pass
    with pytest.raises(ValueError, match=r"caf\udce9\.png: not a readable picture"):
        read_image(path)


def test_pipes_are_refused_instead_of_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, as_colours, open_picture):
        with pytest.raises(ValueError, match=r"pipe\.png: it is not a regular file"):
            read(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="/dev/zero: it is not a regular file"):
        read_image("/dev/zero")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


def test_empty_pictures_are_refused():
    with pytest.raises(ValueError, match="no pixels"):
        as_colours(Image.new("RGB", (0, 5)))
