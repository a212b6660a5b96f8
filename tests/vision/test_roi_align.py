"""Features of boxes against the definition, point by point, and against torchvision's implementation in Python."""

import math
import sys

import numpy as np
import pytest

from convlane import vision
from torchvision_import import import_torchvision


def interpolated(image, y, x):
    """Bilinear interpolation of an image (C, H, W), with zeros from one pixel beyond its border."""
    _, height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    bottom = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def roi_align(input, boxes, size, scale, ratio, aligned):
    """The definition."""
    result = np.zeros((len(boxes), input.shape[1], *size))
    for k, (n, *corners) in enumerate(boxes):
        x1, y1, x2, y2 = (scale * corner - 0.5 * aligned for corner in corners)
        width, height = (side if aligned else max(side, 1.0) for side in (x2 - x1, y2 - y1))
        rows = ratio if ratio > 0 else math.ceil(height / size[0])
        columns = ratio if ratio > 0 else math.ceil(width / size[1])
        for i in range(size[0]):
            for j in range(size[1]):
                for p in range(rows):
                    for q in range(columns):
                        y = y1 + (i + (p + 0.5) / rows) * height / size[0]
                        x = x1 + (j + (q + 0.5) / columns) * width / size[1]
                        result[k, :, i, j] += interpolated(input[int(n)], y, x) / (rows * columns)
    return result


BOXES = np.array(
    [
        [0, 2.0, 3.0, 11.5, 9.25],
        [1, 0.0, 0.0, 20.0, 14.0],  # the whole picture
        [1, -8.0, -6.0, 40.0, 30.0],  # larger than the picture
        [0, 5.0, 5.0, 5.2, 5.1],  # less than a pixel
        [0, 60.0, 3.0, 70.0, 9.0],  # outside
    ],
    np.float32,
)
CASES = [((3, 2), 1.0, 2, False), ((2, 4), 0.5, -1, True), ((3, 3), 1.0, -1, False), ((1, 1), 1.0, 3, True)]


@pytest.mark.parametrize(("size", "scale", "ratio", "aligned"), CASES)
def test_roi_align(size, scale, ratio, aligned, rng):
    input = rng.standard_normal((2, 3, 14, 20), np.float32)
    found = vision.roi_align(input, BOXES, size, scale, ratio, aligned)
    expected = roi_align(input.astype(np.float64), BOXES.astype(np.float64), size, scale, ratio, aligned)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize(("size", "scale", "ratio", "aligned"), CASES)
def test_it_is_torchvision_s(size, scale, ratio, aligned, rng):
    import torch

    theirs = import_torchvision().ops.roi_align
    python = sys.modules[theirs.__module__]._roi_align.__wrapped__  # otherwise it would be compiled
    input = rng.standard_normal((2, 3, 14, 20), np.float32)
    boxes = BOXES[[0, 1, 3]]  # in Python it clamps points beyond the border, where its compiled operator has zeros
    expected = python(torch.tensor(input), torch.tensor(boxes), scale, *size, ratio, aligned).numpy()
    np.testing.assert_allclose(vision.roi_align(input, boxes, size, scale, ratio, aligned), expected, atol=1e-5)


def test_no_boxes(rng):
    assert vision.roi_align(rng.random((1, 3, 4, 4), np.float32), np.zeros((0, 5), np.float32), 7).shape == (0, 3, 7, 7)


def test_what_is_refused(rng):
    input = rng.random((1, 3, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"boxes must be \(K, 5\), rows \(image, x1, y1, x2, y2\), got shape \(1, 4\)"):
        vision.roi_align(input, np.zeros((1, 4), np.float32), 2)
    with pytest.raises(ValueError, match="boxes refer to images 0 to 1, but there are 1"):
        vision.roi_align(input, np.array([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]], np.float32), 2)
    with pytest.raises(ValueError, match="boxes must be finite"):
        vision.roi_align(input, np.array([[0, 0, 0, 1, np.inf]], np.float32), 2)
    with pytest.raises(ValueError, match=r"a box of 1e\+09 pixels is too large for 2 bins"):
        vision.roi_align(input, np.array([[0, 0, 0, 1, 1e9]], np.float32), 2)
    with pytest.raises(ValueError, match="output_size must be at least 1"):
        vision.roi_align(input, BOXES[:1], 0)
