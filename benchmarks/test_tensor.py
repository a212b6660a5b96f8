"""Operations on tensors, which are memory bound: GB/s counts every operand and the result once."""

import numpy as np
import pytest

from convlane import functional as F

ROWS = (1024, 1024)  # 4 MiB, more than a second-level cache
IMAGES = (8, 64, 56, 56)


def _dense(view):
    """Copy a view to an array of its own; the copy is what is timed."""
    return F.reshape(view, (-1,))


ONE_OPERAND = {
    "sum of rows": (lambda x: F.sum(x, 1), ROWS),
    "sum of columns": (lambda x: F.sum(x, 0), ROWS),
    "mean of images": (lambda x: F.mean(x, (2, 3)), IMAGES),
    "variance of rows": (lambda x: F.var(x, 1), ROWS),
    "maximum of rows": (lambda x: F.amax(x, 1), ROWS),
    "maximum of columns": (lambda x: F.amax(x, 0), ROWS),
    "argmax of rows": (lambda x: F.argmax(x, 1), ROWS),
    "cumsum of rows": (lambda x: F.cumsum(x, 1), ROWS),
    "cumsum of columns": (lambda x: F.cumsum(x, 0), ROWS),
    "topk 5 of rows": (lambda x: F.topk(x, 5), ROWS),
    "softmax of rows": (lambda x: F.softmax(x, 1), ROWS),
    "softmax of columns": (lambda x: F.softmax(x, 0), ROWS),
    "exp": (F.exp, ROWS),
    "transpose": (lambda x: _dense(F.transpose(x, 0, 1)), ROWS),
    "permute images": (lambda x: _dense(F.permute(x, (0, 2, 3, 1))), IMAGES),
    "flip": (lambda x: _dense(F.flip(x, 1)), ROWS),
}


@pytest.mark.parametrize("name", ONE_OPERAND)
def test_one_operand(name, report):
    call, shape = ONE_OPERAND[name]
    src = np.random.default_rng(0).standard_normal(shape, np.float32)
    results = call(src)
    written = sum(array.nbytes for array in (results if isinstance(results, tuple) else (results,)))
    report(lambda: call(src), name, moved_bytes=src.nbytes + written)


TWO_OPERANDS = {
    "mul": (F.mul, ROWS, ROWS),
    "add a row": (F.add, ROWS, ROWS[1:]),
    "add a column": (F.add, ROWS, (ROWS[0], 1)),
}


@pytest.mark.parametrize("name", TWO_OPERANDS)
def test_two_operands(name, report):
    call, *shapes = TWO_OPERANDS[name]
    random = np.random.default_rng(0)
    first, second = (random.standard_normal(shape, np.float32) for shape in shapes)
    report(lambda: call(first, second), name, moved_bytes=first.nbytes + second.nbytes + call(first, second).nbytes)


@pytest.mark.parametrize("size", [64, 512])
def test_matmul(size, report):
    first, second = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    report(lambda: F.matmul(first, second), f"matmul {size}", multiply_adds=size**3)
