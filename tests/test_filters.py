"""Filters of pictures, which have SciPy's borders, types and sums, against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from convlane import filters

MODES = ["reflect", "mirror", "nearest", "wrap", "constant", "grid-mirror", "grid-wrap", "grid-constant"]
TYPES = [np.uint8, np.float32, np.float64]
BOUND = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}


def picture(rng, shape, dtype):
    values = rng.uniform(0, 255, shape)
    return values.astype(dtype)


def expected(image, kernel, **border):
    kernel = np.asarray(kernel)
    return ndimage.correlate(image, kernel if image.ndim == 2 else kernel[:, :, None], **border)


def assert_alike(actual, wanted, scale=1.0):
    """Sums of bytes may be on either side of a whole number."""
    assert actual.dtype == wanted.dtype
    assert actual.shape == wanted.shape
    if actual.dtype == np.uint8:
        apart = (actual.astype(int) - wanted + 128) % 256 - 128
        assert np.abs(apart).max(initial=0) <= 1
        assert np.count_nonzero(apart) <= 1 + apart.size // 100
    else:
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=BOUND[actual.dtype] * 255 * scale)


class TestCorrelate:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dtype", TYPES)
    def test_borders(self, rng, dtype, mode, isa, threads):
        for shape in [(7, 9), (5, 6, 3), (1, 1), (2, 40, 1)]:
            image = picture(rng, shape, dtype)
            for size in [(3, 3), (4, 2), (1, 6), (5, 1), (1, 1)]:
                kernel = rng.normal(size=size)
                wanted = expected(image, kernel, mode=mode, cval=7)
                assert_alike(filters.correlate(image, kernel, mode, 7), wanted, np.abs(kernel).sum())

    def test_rows_around_whole_vectors(self, rng, isa):
        for width in (3, 4, 5, 15, 16, 17, 31, 33, 127, 128, 129, 150):
            for dtype in TYPES:
                image, kernel = picture(rng, (6, width), dtype), rng.normal(size=(3, 5))
                assert_alike(filters.correlate(image, kernel), expected(image, kernel), np.abs(kernel).sum())

    @pytest.mark.parametrize("mode", MODES[:5])
    def test_a_kernel_larger_than_the_picture(self, rng, mode):
        image, kernel = picture(rng, (4, 3), np.float64), rng.normal(size=(13, 12))
        # SciPy wraps only once before a picture, so compare with the definition, index by index.
        wanted = np.zeros_like(image)
        padded = np.pad(
            image, [(6, 6), (6, 6)], {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge"}.get(mode, mode)
        )
        for y, x in np.ndindex(image.shape):
            wanted[y, x] = (padded[y : y + 13, x : x + 12] * kernel).sum()
        assert_alike(filters.correlate(image, kernel, mode), wanted, np.abs(kernel).sum())

    @pytest.mark.parametrize("dtype", TYPES)
    def test_the_product_of_a_column_and_a_row(self, rng, dtype):
        image = picture(rng, (23, 40, 3), dtype)
        for column, row in [([1, 2, 1], [1, 0, -1]), (rng.normal(size=5), rng.normal(size=4)), ([0, 1], [0, 0, 2])]:
            kernel = np.outer(column, row)
            assert filters._column_and_row(kernel, 1e-15) is not None
            for mode in ("mirror", "constant"):
                wanted = expected(image, kernel, mode=mode, cval=3)
                assert_alike(filters.correlate(image, kernel, mode, 3), wanted, np.abs(kernel).sum())

    def test_what_is_nearly_a_product_is_not_one_in_float64(self, rng):
        kernel = np.outer([1.0, 2, 1], [1.0, 3, 1])
        kernel[0, 0] += 1e-9
        image = picture(rng, (9, 9), np.float64)
        assert_alike(filters.correlate(image, kernel), expected(image, kernel), 20)

    @pytest.mark.parametrize("mode", ["reflect", "constant"])
    @pytest.mark.parametrize("dtype", TYPES)
    def test_fourier_transforms(self, rng, dtype, mode, monkeypatch, threads):
        monkeypatch.setattr(filters, "_FOURIER_PER_LANE", 0)
        monkeypatch.setattr(filters, "_FOURIER_PER_LANE_DOUBLE", 0)
        monkeypatch.setattr(filters, "_SMALLEST_TILE", 16)
        for shape, size in [((50, 61), (7, 10)), ((5, 40, 3), (9, 3)), ((1, 1), (2, 2))]:
            image, kernel = picture(rng, shape, dtype), rng.normal(size=size)
            wanted = expected(image, kernel, mode=mode, cval=5)
            assert_alike(filters.correlate(image, kernel, mode, 5), wanted, 4 * np.abs(kernel).sum())

    def test_large_kernels_go_through_fourier_transforms_if_the_picture_is_finite(self, rng, monkeypatch):
        taken = []
        by_fourier = filters._by_fourier
        monkeypatch.setattr(filters, "_by_fourier", lambda *args: taken.append(1) or by_fourier(*args))
        image, kernel = picture(rng, (20, 20), np.float32), rng.normal(size=(61, 61))
        assert_alike(filters.correlate(image, kernel), expected(image, kernel), 200)
        filters.correlate(image, kernel[:9, :9])
        image[3, 3] = np.nan
        assert np.isnan(filters.correlate(image, kernel)).all()
        assert len(taken) == 1

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_coefficient_of_zero_ignores_its_pixels(self, dtype, isa):
        image = np.zeros((5, 5), dtype)
        image[2, 2] = np.nan
        got = filters.correlate(image, [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
        np.testing.assert_array_equal(got, expected(image, [[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
        assert np.isnan(got).sum() == 4
        image[2, 2] = np.inf
        np.testing.assert_array_equal(filters.correlate(image, np.ones((3, 3))), expected(image, np.ones((3, 3))))

    def test_whole_sums_of_bytes_are_whole(self, isa):
        image = np.full((9, 33), 200, np.uint8)
        for size in (3, 5, 11):
            np.testing.assert_array_equal(filters.correlate(image, np.full((size, size), 1 / size**2)), image)
            bell = np.exp(-((np.arange(size) - size // 2) ** 2) / 4)
            kernel = np.outer(bell, bell) + np.eye(size)
            np.testing.assert_array_equal(filters.correlate(image, kernel / kernel.sum()), image)

    def test_bytes_wrap_around(self, isa):
        image = np.arange(256, dtype=np.uint8)[None]
        for kernel in ([[3]], [[-1]], [[-1, 0, 2]], [[1e12]], [[-1e12]]):
            if abs(kernel[0][0]) < 10:
                np.testing.assert_array_equal(filters.correlate(image, kernel), expected(image, kernel))
            assert filters.correlate(image, kernel).dtype == np.uint8

    def test_any_layout(self, rng):
        whole = picture(rng, (20, 22, 6), np.float32)
        kernel = rng.normal(size=(3, 3))
        for view in (
            whole[::-1, ::2],
            whole[..., ::2],
            whole.transpose(1, 0, 2),
            np.asfortranarray(whole),
            whole[:, :, 0],
        ):
            assert_alike(filters.correlate(view, kernel), expected(view, kernel), 10)
            swapped = view.astype(">f4")
            np.testing.assert_array_equal(filters.correlate(swapped, kernel), filters.correlate(view, kernel))

    def test_the_same_bits_whatever_the_threads(self, rng):
        import convlane

        image, kernel = picture(rng, (200, 301), np.float32), rng.normal(size=(5, 5))
        once = [filters.correlate(image, kernel), filters.gaussian(image, 2)]
        with convlane.num_threads(1):
            again = [filters.correlate(image, kernel), filters.gaussian(image, 2)]
        np.testing.assert_array_equal(once, again)

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3), (3, 4, 0)])
    def test_empty_pictures(self, shape):
        assert filters.correlate(np.empty(shape, np.float32), np.ones((3, 3))).shape == shape
        assert filters.gaussian(np.empty(shape, np.uint8), 1).shape == shape

    @pytest.mark.parametrize(
        ("image", "kernel", "options", "kind", "message"),
        [
            (np.zeros((3, 3), np.int64), [[1]], {}, TypeError, "image must be uint8, float32 or float64, got int64"),
            (np.zeros((3, 3), np.float16), [[1]], {}, TypeError, "got float16; convert it"),
            (np.ma.zeros((3, 3)), [[1]], {}, TypeError, "masked"),
            (np.zeros(3), [[1]], {}, ValueError, r"\(H, W\) or \(H, W, C\), got shape \(3,\)"),
            (np.zeros((1, 1, 3, 3)), [[1]], {}, ValueError, r"got shape \(1, 1, 3, 3\)"),
            (np.zeros((3, 3)), [1], {}, ValueError, r"kernel must be \(height, width\)"),
            (np.zeros((3, 3)), np.zeros((0, 3)), {}, ValueError, "at least"),
            (np.zeros((3, 3)), [[1j]], {}, TypeError, "real numbers, got complex128"),
            (np.zeros((3, 3)), [["a"]], {}, TypeError, "real numbers"),
            (np.zeros((3, 3)), [[1]], {"mode": "edge"}, ValueError, "mode must be one of reflect"),
            (np.zeros((3, 3)), [[1]], {"mode": None}, ValueError, "got None"),
            (np.zeros((3, 3)), [[1]], {"cval": "a"}, TypeError, "cval must be a number"),
        ],
    )
    def test_bad_input(self, image, kernel, options, kind, message):
        with pytest.raises(kind, match=f"correlate: .*{message}"):
            filters.correlate(image, kernel, **options)


@pytest.mark.parametrize("size", [15, 25])
def test_large_sums_of_bytes_are_not_rounded_up(rng, size, isa):
    image, kernel = picture(rng, (60, 70), np.uint8), rng.standard_normal((size, size))
    apart = filters.correlate(image, kernel).astype(int) - expected(image, kernel, mode="reflect")
    assert np.count_nonzero(apart) <= apart.size // 1000


class TestGaussian:
    @pytest.mark.parametrize("dtype", TYPES)
    def test_as_scipy(self, rng, dtype, isa):
        for shape in [(30, 41), (17, 20, 3)]:
            image = picture(rng, shape, dtype)
            for sigma, truncate in [(1.5, 4.0), ((0.7, 2), 3.0), ((0, 1), 4.0), (0, 4.0), (0.1, 4.0)]:
                pair = sigma if isinstance(sigma, tuple) else (sigma, sigma)
                whole = image.astype(np.float64)  # SciPy truncates bytes after each axis
                wanted = ndimage.gaussian_filter(whole, (*pair, 0)[: image.ndim], mode="nearest", truncate=truncate)
                if dtype == np.uint8:
                    wanted += 1e-9
                assert_alike(filters.gaussian(image, sigma, "nearest", truncate=truncate), wanted.astype(dtype))

    @pytest.mark.parametrize(
        ("sigma", "truncate", "kind"),
        [
            (-1, 4, ValueError),
            (np.inf, 4, ValueError),
            ("a", 4, TypeError),
            ((1, 2, 3), 4, ValueError),
            (1, -1, ValueError),
        ],
    )
    def test_bad_input(self, sigma, truncate, kind):
        with pytest.raises(kind, match=r"gaussian: (sigma|truncate) must"):
            filters.gaussian(np.zeros((3, 3)), sigma, truncate=truncate)


class TestSobel:
    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("axis", [0, 1])
    def test_as_scipy(self, rng, dtype, axis):
        image = picture(rng, (20, 31), dtype)
        for mode in MODES[:5]:
            assert_alike(filters.sobel(image, axis, mode), ndimage.sobel(image, axis, mode=mode), 8)
        colours = np.stack([image] * 3, -1)
        np.testing.assert_array_equal(filters.sobel(colours, axis)[..., 2], filters.sobel(image, axis))

    def test_bad_input(self):
        with pytest.raises(ValueError, match="axis must be 0 or 1, got -1"):
            filters.sobel(np.zeros((3, 3, 3)), -1)
        with pytest.raises(ValueError, match="axis=2 is out of range"):
            filters.sobel(np.zeros((3, 3)), 2)


class TestGabor:
    def test_the_definition(self, rng):
        image = picture(rng, (25, 30), np.float64)
        frequency, theta, deviations, offset = 0.15, 0.6, (2.0, 3.0), 0.3
        kernel = filters.gabor_kernel(frequency, theta, 1, *deviations, 3, offset)
        height, width = (size // 2 for size in kernel.shape)
        assert (height, width) == (8, 6)
        for y, x in [(0, 0), (3, -2), (-height, width)]:
            along = x * np.cos(theta) + y * np.sin(theta)
            across = -x * np.sin(theta) + y * np.cos(theta)
            bell = np.exp(-0.5 * ((along / 2) ** 2 + (across / 3) ** 2)) / (2 * np.pi * 2 * 3)
            wave = np.exp(1j * (2 * np.pi * frequency * along + offset))
            np.testing.assert_allclose(kernel[y + height, x + width], bell * wave, rtol=1e-12)
        for got, part in zip(
            filters.gabor(image, frequency, theta, 1, *deviations, 3, offset), (kernel.real, kernel.imag), strict=True
        ):
            assert_alike(got, ndimage.convolve(image, part))

    def test_the_deviation_that_bandwidth_and_frequency_give(self):
        octave = filters.gabor_kernel(0.2, bandwidth=1)
        given = 3 * np.sqrt(np.log(2) / 2) / np.pi / 0.2
        np.testing.assert_array_equal(octave, filters.gabor_kernel(0.2, sigma_x=given, sigma_y=given))

    @pytest.mark.parametrize("name", ["frequency", "bandwidth", "n_stds", "sigma_x", "sigma_y"])
    @pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (np.nan, ValueError), ("a", TypeError)])
    def test_bad_input(self, name, value, kind):
        with pytest.raises(kind, match=f"gabor: {name} must be"):
            filters.gabor(np.zeros((3, 3)), **{"frequency": 0.2, name: value})
