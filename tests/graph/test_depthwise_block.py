"""The fused depthwise block gives the bits of its three convolutions done one after the other."""

import numpy as np
import pytest

import convlane
from convlane import _core, nn
from convlane import functional as F
from convlane.graph import passes, trace


def part(rng, out, per_group, kernel, groups, activation):
    weight = rng.standard_normal((out, per_group, kernel, kernel), dtype=np.float32)
    return F.pack_conv2d(weight, groups), rng.standard_normal(out).astype(np.float32), activation, 0.0


def fused(x, expand, depthwise, project, stride, padding, residual):
    """A plan whose first step brings the input into the arena, where blocks read it."""
    _, c, h, w = x.shape
    hidden = (1, depthwise[0].shape[0], h, w)
    _, _, oh, ow = _core.conv2d_shape(hidden, depthwise[0].shape, stride, padding, (1, 1), hidden[1])
    plan = _core.Plan((1, c, h, w), [project[0].shape[0], oh, ow], c * h * w)
    identity = F.pack_conv2d(np.eye(c, dtype=np.float32)[:, :, None, None])
    plan.conv2d(-1, (1, c, h, w), 0, identity, None, (1, 1), (0, 0, 0, 0), (1, 1), "auto", "none", 0.0, None)
    plan.depthwise_block(
        0, (1, c, h, w), -2, expand, depthwise, stride, padding, (1, 1), project, 0 if residual else None
    )
    return plan.run(x)


def separate(x, expand, depthwise, project, stride, padding, residual):
    y = x if expand is None else F.conv2d(x, expand[0], expand[1], activation=expand[2])
    y = F.conv2d(y, depthwise[0], depthwise[1], stride, padding, groups=depthwise[0].groups, activation=depthwise[2])
    return F.conv2d(y, project[0], project[1], activation=project[2], residual=x if residual else None)


@pytest.mark.parametrize("has_expand", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (4, 3)])
@pytest.mark.parametrize("size", [(7, 7), (30, 17), (1, 9)])
def test_same_bits_as_three_convolutions(rng, isa, threads, has_expand, kernel, stride, size):
    c = _core.tile_sizes()["lanes"] + 5
    hidden = 6 * c if has_expand else c
    expand = part(rng, hidden, c, 1, 1, "relu6") if has_expand else None
    depthwise, project = part(rng, hidden, 1, kernel, hidden, "silu"), part(rng, c, hidden, 1, 1, "none")
    x = rng.standard_normal((3, c, *size), dtype=np.float32)
    p = kernel // 2
    arguments = (x, expand, depthwise, project, (stride, stride), (p, p, p, p), stride == 1 and kernel % 2 == 1)
    np.testing.assert_array_equal(fused(*arguments), separate(*arguments))


def test_bands_and_ring(rng):
    """Rows so wide that a band is a single output row and the ring wraps at every step."""
    c = 24
    expand, depthwise = part(rng, 144, c, 1, 1, "relu6"), part(rng, 144, 1, 3, 144, "relu6")
    project = part(rng, c, 144, 1, 1, "none")
    x = rng.standard_normal((2, c, 9, 300), dtype=np.float32)
    for count in (1, 2, 5):
        with convlane.num_threads(count):
            arguments = (
                x,
                expand,
                depthwise,
                project,
                (1, 1),
                (1,) * 4,
                True,
            )
            np.testing.assert_array_equal(fused(*arguments), separate(*arguments))


def test_parts_that_do_not_fit_are_refused(rng):
    x = np.zeros((1, 8, 5, 5), np.float32)
    good = part(rng, 16, 8, 1, 1, "none"), part(rng, 16, 1, 3, 16, "none"), part(rng, 8, 16, 1, 1, "none")
    wrong_project = part(rng, 8, 12, 1, 1, "none")
    with pytest.raises(ValueError, match="pointwise weights do not fit"):
        fused(x, good[0], good[1], wrong_project, (1, 1), (1,) * 4, False)
    with pytest.raises(ValueError, match="not depthwise"):
        fused(x, good[0], part(rng, 32, 1, 3, 16, "none"), good[2], (1, 1), (1,) * 4, False)


class Inverted(nn.Module):
    """An inverted residual block as MobileNet v2 has it."""

    def __init__(self, channels, expansion, kernel=3, stride=1, depthwise_groups=None):
        hidden = channels * expansion
        groups = depthwise_groups or hidden
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=groups)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        hidden = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        return F.add(x, self.project(hidden))


def fused_ops(model, shape=(1, 8, 9, 9)):
    before = trace(model.eval(), shape)
    for optimization in passes.PASSES[: passes.PASSES.index(passes.fuse_depthwise_block)]:
        before = optimization(before)
    after = passes.fuse_depthwise_block(before)
    return [node.op for node in before.nodes.values()], [node.op for node in after.nodes.values()]


def test_pass_joins_three_convolutions():
    before, after = fused_ops(Inverted(8, 3))
    assert before == ["input", "conv2d", "conv2d", "conv2d"]
    assert after == ["input", "depthwise_block"]


def test_pass_joins_depthwise_and_pointwise():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 1))
    assert fused_ops(block)[1] == ["input", "depthwise_block"]


def test_pass_leaves_grouped_convolutions_alone():
    assert "depthwise_block" not in fused_ops(Inverted(8, 2, depthwise_groups=4))[1]


def test_pass_leaves_shared_results_alone():
    class Shared(Inverted):
        def forward(self, x):
            hidden = F.relu6(self.expand(x))
            return F.add(hidden, F.relu6(self.depthwise(hidden)))

    assert "depthwise_block" not in fused_ops(Shared(8, 2))[1]


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1)])
def test_compiled_block_equals_eager(rng, threads, batch, kernel, stride):
    model = Inverted(12, 6, kernel, stride).eval()
    x = rng.standard_normal((batch, 12, 11, 13), dtype=np.float32)
    plan = convlane.compile(model, (None, 12, 11, 13))
    np.testing.assert_allclose(plan(x), model(x), rtol=1e-5, atol=1e-5)
