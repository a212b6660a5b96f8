"""How close a float32 result has to be to its float64 oracle."""

import numpy as np

EPS = np.finfo(np.float32).eps


def assert_close(actual, expected, terms=1, factor=1, scale=None):
    """Compare with a bound that grows with the square root of the number of `terms` summed (errors walk randomly).

    The bound is relative to `scale`, by default the largest expected value: within one result, sums of large terms may
    cancel. `factor`
    widens it for algorithms that are known to round more than a direct sum.
    """
    actual = np.asarray(actual)
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    if expected.size == 0:
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite].astype(np.float32))
    if scale is None:
        scale = np.abs(expected[finite]).max(initial=0)
    bound = 8 * factor * EPS * np.sqrt(terms) * max(scale, np.finfo(np.float32).tiny)
    error = np.abs(actual[finite] - expected[finite]).max(initial=0)
    assert error <= bound, f"error {error:.3g} above the bound {bound:.3g} for {terms} terms"
