"""im2col and col2im against their oracles, as adjoints of each other, and as the matrix of a convolution."""

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import functional as F
from convlane.functional._op import rules
from gradients import by_rule, numeric_gradient
from layouts import LAYOUTS
from oracles import conv as oracle

GEOMETRIES = [  # kernel, dilation, padding, stride
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 2), (1, 1), (0, 0, 0, 0), (2, 2)),
    ((2, 3), (2, 1), (3, 0, 1, 4), (1, 3)),
    ((1, 5), (1, 2), (0, 2, 5, 1), (3, 1)),
    ((8, 9), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((2, 2), (9, 9), (5, 5, 5, 5), (1, 2)),
]


def images(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(("kernel", "dilation", "padding", "stride"), GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 2, 5, 17])
class TestGeometry:
    def test_im2col(self, rng, threads, channels, kernel, dilation, padding, stride):
        x = images(rng, 2, channels, 8, 9)
        y = F.im2col(x, kernel, dilation, padding, stride)
        expected, _ = oracle.im2col(x, kernel, stride, padding, dilation)
        np.testing.assert_array_equal(y, expected.astype(np.float32))
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        assert rules(F.im2col).shape(x, kernel, dilation, padding, stride) == y.shape
        np.testing.assert_array_equal(F.im2col(x[1], kernel, dilation, padding, stride), y[1])

    def test_col2im(self, rng, threads, channels, kernel, dilation, padding, stride):
        shape = rules(F.im2col).shape(np.empty((2, channels, 8, 9)), kernel, dilation, padding, stride)
        columns = images(rng, *shape)
        y = F.col2im(columns, (8, 9), kernel, dilation, padding, stride)
        expected = oracle.col2im(columns, (8, 9), kernel, stride, padding, dilation)
        assert_close(y, expected, terms=kernel[0] * kernel[1])
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        assert rules(F.col2im).shape(columns, (8, 9), kernel, dilation, padding, stride) == y.shape
        single = F.col2im(columns[1], (8, 9), kernel, dilation, padding, stride)
        np.testing.assert_array_equal(single, y[1])
        assert rules(F.col2im).shape(columns[1], (8, 9), kernel, dilation, padding, stride) == single.shape

    def test_are_adjoint(self, rng, channels, kernel, dilation, padding, stride):
        x = images(rng, 1, channels, 8, 9)
        columns = F.im2col(x, kernel, dilation, padding, stride)
        other = images(rng, *columns.shape)
        back = F.col2im(other, (8, 9), kernel, dilation, padding, stride)
        left, right = (np.vdot(a.astype(np.float64), b) for a, b in ((columns, other), (x, back)))
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)

    def test_gradients(self, rng, isa, threads, channels, kernel, dilation, padding, stride):
        """The gradient of each is the other one with the same window."""
        x, geometry = images(rng, 2, channels, 8, 9), (kernel, dilation, padding, stride)
        columns = images(rng, *rules(F.im2col).shape(x, *geometry))
        oracle_geometry = (kernel, stride, padding, dilation)
        y, found = by_rule(F.im2col, columns, x, *geometry)
        np.testing.assert_array_equal(y, F.im2col(x, *geometry))
        assert_close(found["input"], oracle.col2im(columns, (8, 9), *oracle_geometry), terms=kernel[0] * kernel[1])
        y, found = by_rule(F.col2im, x, columns, (8, 9), *geometry)
        np.testing.assert_array_equal(y, F.col2im(columns, (8, 9), *geometry))
        np.testing.assert_array_equal(found["input"], oracle.im2col(x, *oracle_geometry)[0].astype(np.float32))


class TestTextbook:
    def test_first_layer_of_alexnet(self, rng):
        x, weight = images(rng, 1, 3, 227, 227), images(rng, 96, 3, 11, 11)
        x_col, w_row = F.im2col(x, 11, stride=4)[0], weight.reshape(96, -1)
        assert x_col.shape == (363, 3025)
        assert w_row.shape == (96, 363)
        y = F.conv2d(x, weight, stride=4)
        assert y.transpose(0, 2, 3, 1).shape == (1, 55, 55, 96)
        product = w_row.astype(np.float64) @ x_col
        assert_close(y, product.reshape(1, 96, 55, 55), terms=363)


@pytest.mark.torch
def test_torch(rng):
    import torch

    x = images(rng, 2, 5, 9, 8)
    geometry = {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 2), "stride": (2, 1)}
    expected = torch.nn.functional.unfold(torch.from_numpy(x), **geometry)
    np.testing.assert_array_equal(F.unfold(x, **geometry), expected.numpy())
    columns = images(rng, *expected.shape)
    expected = torch.nn.functional.fold(torch.from_numpy(columns).double(), (9, 8), **geometry)
    assert_close(F.fold(columns, (9, 8), **geometry), expected.numpy(), terms=6)


class TestGradients:
    GEOMETRY = ((3, 2), (1, 2), (1, 2, 0, 1), (2, 1))

    def test_rules_are_the_derivatives(self, rng):
        x = rng.normal(size=(1, 2, 4, 5))
        kernel, dilation, padding, stride = self.GEOMETRY

        def forward(x):
            return oracle.im2col(x, kernel, stride, padding, dilation)[0]

        gradient = images(rng, *forward(x).shape)
        found = by_rule(F.im2col, gradient, x.astype(np.float32), *self.GEOMETRY)[1]["input"]
        np.testing.assert_allclose(found, numeric_gradient(forward, x, gradient), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts_and_single_images(self, rng, layout):
        x, to = images(rng, 2, 5, 8, 9), LAYOUTS[layout]
        columns = F.im2col(x, *self.GEOMETRY)
        whole = by_rule(F.im2col, to(columns), to(x), *self.GEOMETRY)[1]["input"]
        np.testing.assert_array_equal(whole, F.col2im(columns, (8, 9), *self.GEOMETRY))
        single = by_rule(F.im2col, to(columns[1]), to(x[1]), *self.GEOMETRY)[1]["input"]
        np.testing.assert_array_equal(single, whole[1])
        whole = by_rule(F.col2im, to(x), to(columns), (8, 9), *self.GEOMETRY)[1]["input"]
        np.testing.assert_array_equal(whole, columns)
        single = by_rule(F.col2im, to(x[1]), to(columns[1]), (8, 9), *self.GEOMETRY)[1]["input"]
        np.testing.assert_array_equal(single, columns[1])

    def test_empty(self):
        x = np.zeros((2, 5, 6, 7), np.float32)
        for part in (x[:0], x[:, :0]):
            columns = F.im2col(part, 3)
            assert by_rule(F.im2col, columns, part, 3)[1]["input"].shape == part.shape
            assert by_rule(F.col2im, part, columns, (6, 7), 3)[1]["input"].shape == columns.shape

    @pytest.mark.torch
    def test_torch(self, rng):
        import torch

        x = images(rng, 2, 5, 9, 8)
        geometry = {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 2), "stride": (2, 1)}
        tensor = torch.tensor(x, requires_grad=True)
        expected = torch.nn.functional.unfold(tensor, **geometry)
        gradient = images(rng, *expected.shape)
        expected.backward(torch.from_numpy(gradient))
        _, pullback = convlane.vjp(lambda x: F.unfold(x, **geometry), x)
        assert_close(pullback(gradient)[0], tensor.grad.numpy(), terms=6)
        columns = torch.tensor(gradient, requires_grad=True)
        torch.nn.functional.fold(columns, (9, 8), **geometry).backward(torch.from_numpy(x))
        _, pullback = convlane.vjp(lambda c: F.fold(c, (9, 8), **geometry), gradient)
        np.testing.assert_array_equal(pullback(x)[0], columns.grad.numpy())


class TestCompiled:
    """Bits and layouts; `tests/graph` tests what holds for every operation."""

    GEOMETRY = ((3, 2), (1, 2), (1, 2, 0, 1), (2, 1))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_of_the_input(self, rng, threads, layout):
        x = images(rng, 2, 5, 8, 9)
        columns = F.im2col(x, *self.GEOMETRY)
        plan = convlane.compile(lambda x: F.im2col(x, *self.GEOMETRY), x.shape)
        np.testing.assert_array_equal(plan(LAYOUTS[layout](x)), columns)
        plan = convlane.compile(lambda x: F.col2im(x, (8, 9), *self.GEOMETRY), columns.shape)
        np.testing.assert_array_equal(plan(LAYOUTS[layout](columns)), F.col2im(columns, (8, 9), *self.GEOMETRY))

    def test_in_a_network(self, rng):
        """Attention over windows: each pixel's neighbours are weighted by a softmax over them."""
        x = images(rng, 2, 6, 7, 5)
        weight = images(rng, 9, 6, 1, 1)

        def network(x):
            windows = F.reshape(F.unfold(F.relu(x), 3, padding=1), (x.shape[0], 6, 9, 35))
            shares = F.softmax(F.reshape(F.conv2d(x, weight), (x.shape[0], 1, 9, 35)), 2)
            return F.fold(F.reshape(F.mul(windows, shares), (x.shape[0], 54, 35)), (7, 5), 3, padding=1)

        assert_close(convlane.compile(network, (None, *x.shape[1:]))(x), network(x), terms=9)


class TestArrays:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, rng, layout):
        x = images(rng, 2, 7, 8, 9)
        before = x.copy()
        columns = F.im2col(LAYOUTS[layout](x), 3, padding=1, stride=2)
        np.testing.assert_array_equal(columns, F.im2col(before, 3, padding=1, stride=2))
        np.testing.assert_array_equal(x, before)
        back = F.col2im(LAYOUTS[layout](columns), (8, 9), 3, padding=1, stride=2)
        np.testing.assert_array_equal(back, F.col2im(columns, (8, 9), 3, padding=1, stride=2))

    def test_broadcast(self, rng):
        x = np.broadcast_to(images(rng, 1, 1, 1, 6), (2, 5, 7, 6))
        np.testing.assert_array_equal(F.im2col(x, 3), F.im2col(x.copy(), 3))
        columns = np.broadcast_to(images(rng, 1, 9, 1), (2, 9, 20))
        np.testing.assert_array_equal(F.col2im(columns, (7, 6), 3), F.col2im(columns.copy(), (7, 6), 3))

    def test_empty(self):
        x = np.zeros((2, 5, 6, 7), np.float32)
        assert F.im2col(x[:0], 3).shape == (0, 45, 20)
        assert F.im2col(x[:, :0], 3).shape == (2, 0, 20)
        assert F.col2im(F.im2col(x[:0], 3), (6, 7), 3).shape == (0, 5, 6, 7)
        assert F.col2im(F.im2col(x[:, :0], 3), (6, 7), 3).shape == (2, 0, 6, 7)

    def test_same_bits_for_any_batch_split_and_thread_count(self, rng):
        columns = images(rng, 5, 24 * 9, 400)
        with convlane.num_threads(1):
            whole = F.col2im(columns, 22, 3)
        for count in (2, 3, 7):
            with convlane.num_threads(count):
                np.testing.assert_array_equal(F.col2im(columns, 22, 3), whole)
                np.testing.assert_array_equal(F.im2col(whole, 3), F.im2col(whole.copy(), 3))
        np.testing.assert_array_equal(np.concatenate([F.col2im(c[None], 22, 3) for c in columns]), whole)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_special_values(self, rng, value):
        x = images(rng, 1, 3, 6, 6)
        x[0, 1, 2, 3] = value
        columns = F.im2col(x, 3, padding=1)
        np.testing.assert_array_equal(columns, oracle.im2col(x, (3, 3), padding=(1,) * 4)[0].astype(np.float32))
        expected = oracle.col2im(columns, (6, 6), (3, 3), padding=(1,) * 4)
        assert_close(F.col2im(columns, 6, 3, padding=1), expected, terms=9)


X = np.zeros((1, 4, 8, 8), np.float32)
COLUMNS = np.zeros((1, 36, 36), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.im2col(X, 0), ValueError, "im2col: kernel size must be at least 1"),
        (lambda: F.im2col(X, 9), ValueError, "im2col: .*smaller than the kernel's reach"),
        (lambda: F.im2col(X, 3, stride=0), ValueError, "stride must be at least 1"),
        (lambda: F.im2col(X, 3, dilation=0), ValueError, "dilation must be at least 1"),
        (lambda: F.im2col(X, 3, padding=-1), ValueError, "padding must not be negative"),
        (lambda: F.im2col(X, 3, padding=2**61), ValueError, "overflow"),
        (lambda: F.im2col(X, 3, padding=2**40), ValueError, "overflow"),
        (lambda: F.im2col(X, 3, padding=2**22), MemoryError, None),
        (lambda: F.im2col(X[:, :, :0], 3), ValueError, "smaller than the kernel's reach"),
        (lambda: F.im2col(X[0, 0], 3), ValueError, "got 2 dimensions"),
        (lambda: F.im2col(X.astype(np.float64), 3), TypeError, r"im2col: input must be float32.*astype\(np.float32\)"),
        (lambda: F.im2col(None, 3), TypeError, "im2col: input must be a NumPy array"),
        (lambda: F.im2col(X, 1.5), TypeError, "kernel_size must be an integer"),
        (lambda: F.col2im(COLUMNS, 9, 3), ValueError, r"has \(7, 7\) = 49 positions of 36 rows.*36 columns of 36 rows"),
        (lambda: F.col2im(COLUMNS, 8, (2, 5)), ValueError, "must have a multiple of KH \\* KW rows"),
        (lambda: F.col2im(COLUMNS, 8, 0), ValueError, "must have a multiple of KH \\* KW rows"),
        (lambda: F.col2im(COLUMNS, 2, 3), ValueError, "col2im: .*smaller than the kernel's reach"),
        (lambda: F.col2im(COLUMNS, -8, 3), ValueError, "smaller than the kernel's reach"),
        (lambda: F.col2im(COLUMNS, 2**40, 3), ValueError, "overflow|positions"),
        (lambda: F.col2im(COLUMNS, 8.0, 3), TypeError, "output_size must be an integer"),
        (lambda: F.col2im(COLUMNS[0, 0], 8, 3), ValueError, "col2im: input must be"),
        (lambda: F.col2im(COLUMNS.astype(np.int32), 8, 3), TypeError, "col2im: input must be float32"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_shape_rule_of_col2im_checks_the_columns():
    with pytest.raises(ValueError, match="has columns"):
        rules(F.col2im).shape(COLUMNS, 9, 3)
