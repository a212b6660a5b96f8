"""Boxes against brute force and against torchvision's Python."""

import numpy as np
import pytest

from convlane import vision
from torchvision_import import import_torchvision


def random_boxes(rng, count, size=50):
    corner = rng.uniform(0, size, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, size / 2, (count, 2))], 1).astype(np.float32)


def iou(a, b):
    """The definition for two boxes."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def suppressed(boxes, scores, threshold):
    """Non-maximum suppression, box by box."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def test_box_iou(rng):
    one, two = random_boxes(rng, 7).astype(np.float64), random_boxes(rng, 5).astype(np.float64)
    expected = [[iou(a, b) for b in two] for a in one]
    np.testing.assert_allclose(vision.box_iou(one.astype("f4"), two.astype("f4")), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(vision.box_area(one.astype("f4")), (one[:, 2:] - one[:, :2]).prod(1), rtol=1e-5)
    assert vision.box_iou(np.zeros((0, 4), np.float32), two.astype("f4")).shape == (0, 5)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_nms(threshold, rng):
    boxes, scores = random_boxes(rng, 60), rng.choice([0.1, 0.4, 0.7], 60).astype(np.float32)
    found = vision.nms(boxes, scores, threshold)
    assert found.dtype == np.int64
    assert found.tolist() == suppressed(boxes, scores, threshold)


def test_batched_nms(rng):
    boxes, scores = random_boxes(rng, 60, 20), rng.random(60, np.float32)
    classes = rng.integers(-1, 4, 60)
    kept = []
    for c in range(-1, 4):
        members = np.flatnonzero(classes == c)
        kept += members[suppressed(boxes[members], scores[members], 0.3)].tolist()
    found = vision.batched_nms(boxes, scores, classes, 0.3)
    assert found.tolist() == sorted(kept, key=lambda i: -scores[i])
    assert len(found) < 60


def test_no_boxes():
    none, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    assert vision.nms(none, scores, 0.5).shape == vision.batched_nms(none, scores, [], 0.5).shape == (0,)
    empty = np.zeros((2, 4), np.float32)
    assert vision.nms(empty, np.ones(2, np.float32), 0.5).tolist() == [0, 1]  # the IoU of empty boxes is NaN


def test_clip_boxes():
    boxes = np.array([[-1, 2, 9, 30], [3, -4, 5, 6]], np.float32)
    np.testing.assert_array_equal(vision.clip_boxes(boxes, (7, 8)), [[0, 2, 8, 7], [3, 0, 5, 6]])


def test_what_is_refused():
    boxes, scores = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"nms: boxes must be \(N, 4\).*got shape \(4,\)"):
        vision.nms(boxes[0], scores, 0.5)
    with pytest.raises(ValueError, match=r"nms: scores must have shape \(3,\), got \(2,\)"):
        vision.nms(boxes, scores[:2], 0.5)
    with pytest.raises(TypeError, match="nms: boxes must be float32, got float64"):
        vision.nms(boxes.astype(np.float64), scores, 0.5)
    with pytest.raises(TypeError, match="iou_threshold must be a number"):
        vision.nms(boxes, scores, "0.5")
    with pytest.raises(TypeError, match="idxs must be integers, got float64"):
        vision.batched_nms(boxes, scores, [0.0, 1.0, 1.0], 0.5)
    with pytest.raises(ValueError, match=r"idxs must have shape \(3,\), got \(2,\)"):
        vision.batched_nms(boxes, scores, [0, 1], 0.5)


def test_anchors_are_decoded_to_what_was_encoded(rng):
    boxes, anchors = random_boxes(rng, 9), random_boxes(rng, 9)
    weights = (10.0, 10.0, 5.0, 5.0)
    codes = vision.encode_boxes(boxes, anchors, weights)
    np.testing.assert_allclose(vision.decode_boxes(codes, anchors, weights), boxes, rtol=1e-4, atol=1e-3)
    huge = vision.decode_boxes(np.array([[0, 0, 1e9, 1e9]], np.float32), anchors[:1])
    np.testing.assert_allclose(huge[:, 2:] - huge[:, :2], 62.5 * (anchors[:1, 2:] - anchors[:1, :2]), rtol=1e-4)


def test_refused_anchors():
    with pytest.raises(ValueError, match="feature_size and stride must be at least 1"):
        vision.anchor_boxes((0, 2), 4, [8])
    with pytest.raises(ValueError, match="sizes must be positive"):
        vision.anchor_boxes((1, 2), 4, [])
    with pytest.raises(ValueError, match="as many boxes as anchors, got 1 and 2"):
        vision.encode_boxes(np.ones((1, 4), np.float32), np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="weights must be four numbers"):
        vision.decode_boxes(np.ones((1, 4), np.float32), np.ones((1, 4), np.float32), (1, 1))


@pytest.mark.torch
def test_boxes_are_torchvision_s(rng):
    import torch

    ops = import_torchvision().ops
    one, two = random_boxes(rng, 20), random_boxes(rng, 30)
    expected = ops.box_iou(torch.tensor(one), torch.tensor(two)).numpy()
    np.testing.assert_allclose(vision.box_iou(one, two), expected, rtol=1e-6, atol=1e-7)
    expected = ops.clip_boxes_to_image(torch.tensor(one), (20, 30)).numpy()
    np.testing.assert_array_equal(vision.clip_boxes(one, (20, 30)), expected)


@pytest.mark.torch
def test_anchors_are_torchvision_s(rng):
    import torch

    detection = import_torchvision().models.detection
    sizes, ratios = (32.0, 57.0, 100.0), (0.5, 1.0, 1.7)
    generator = detection.anchor_utils.AnchorGenerator((sizes,), (ratios,))
    images = detection.image_list.ImageList(torch.zeros(1, 3, 48, 80), [(48, 80)])
    (expected,) = generator(images, [torch.zeros(1, 8, 6, 5)])
    np.testing.assert_array_equal(vision.anchor_boxes((6, 5), (8, 16), sizes, ratios), expected.numpy())
    coder = detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes, anchors = random_boxes(rng, 8), random_boxes(rng, 8)
    codes = coder.encode_single(torch.tensor(boxes), torch.tensor(anchors)).numpy()
    np.testing.assert_allclose(vision.encode_boxes(boxes, anchors, coder.weights), codes, rtol=1e-5, atol=1e-5)
    decoded = coder.decode_single(torch.tensor(codes), torch.tensor(anchors)).numpy()
    np.testing.assert_allclose(vision.decode_boxes(codes, anchors, coder.weights), decoded, rtol=1e-5, atol=1e-4)
