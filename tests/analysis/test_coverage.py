"""How often pixels are used, compared with the gradient of the sum of a convolution of ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convlane
from convlane import analysis
from convlane.functional import conv2d

small = st.integers(1, 4)
PAIR = st.tuples(small, small)


@given(PAIR, PAIR, PAIR, st.tuples(*[st.integers(0, 3)] * 4), PAIR)
def test_uses_are_the_gradient_of_the_sum(more, kernel, stride, padding, dilation):
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    height, width = reach[0] + more[0], reach[1] + more[1]
    image, weight = np.ones((1, 1, height, width), np.float32), np.ones((1, 1, *kernel), np.float32)
    value, pullback = convlane.vjp(lambda x: conv2d(x, weight, None, stride, padding, dilation), image)
    expected = pullback(np.ones_like(value))[0][0, 0]
    result = analysis.coverage(height, width, kernel, stride, padding, dilation)
    np.testing.assert_array_equal(result.map, expected)
    assert sum(result.histogram.values()) == height * width
    assert sum(uses * pixels for uses, pixels in result.histogram.items()) == result.map.sum()


def test_maps_of_the_textbook():
    # Stride 1: the same for all pixels of the interior and, with padding, nearly the same at the edge.
    padded = analysis.coverage(7, 7, 3, padding=1)
    assert padded.histogram == {4: 4, 6: 20, 9: 25}
    assert analysis.coverage(7, 7, 3).map[0].tolist() == [1, 2, 3, 3, 3, 2, 1]
    # Stride 2 with a kernel of 3: columns alternate. With a kernel of 4 they do not.
    assert analysis.coverage(1, 9, (1, 3), 2).map.tolist() == [[1, 1, 2, 1, 2, 1, 2, 1, 1]]
    assert set(analysis.coverage(12, 12, 4, 2, 1).map[1:-1, 1:-1].ravel().tolist()) == {4}


def test_transposed_convolutions_have_a_checkerboard():
    result = analysis.coverage(4, 4, 3, 2, transposed=True)
    assert result.map.shape == (9, 9)
    assert result.map[1:8, 1:8].tolist() == [
        [2 ** (i % 2 == 0) * 2 ** (j % 2 == 0) for j in range(1, 8)] for i in range(1, 8)
    ]
    np.testing.assert_array_equal(result.map, analysis.coverage(9, 9, 3, 2).map)
    assert analysis.coverage(4, 4, 3, 2, 1, transposed=True).map.shape == (7, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 3), "height"),
        ((5, 5, 0), "kernel_size"),
        ((5, 5, 3, 0), "stride"),
        ((5, 5, 3, 1, -1), "padding"),
        ((5, 5, 3, 1, 0, 0), "dilation"),
        ((2, 5, 3), "does not fit"),
        ((2**31, 5, 3), "too large"),
        ((5, 5, 2**31, 1, 2**31), "too large"),
        ((5, 5, 3, 2**31, 0, 2**31), "does not fit"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.coverage(*arguments)
    with pytest.raises(ValueError, match="leaves no output"):
        analysis.coverage(1, 1, 2, 1, 1, transposed=True)
    with pytest.raises(ValueError, match="too large"):
        analysis.coverage(5, 5, 3, 2**31, transposed=True)


def test_text():
    assert str(analysis.coverage(4, 5, 3, padding=1)).splitlines()[1] == "6 9 9 9 6"
