"""The fused depthwise block against its operations one after the other: the same bits if none are changed."""

from dataclasses import replace

import numpy as np
import pytest

import convlane
from compare import assert_close
from convlane import _core, nn
from convlane import functional as F
from convlane.graph import passes, trace
from convlane.graph.verify import verify
from steps import run_step

NO_EXCITATION = (None, None)


def part(rng, out, per_group, kernel, groups, activation):
    weight = rng.standard_normal((out, per_group, kernel, kernel), dtype=np.float32)
    return F.pack_conv2d(weight, groups), rng.standard_normal(out).astype(np.float32), activation, 0.0


def fused(x, expand, depthwise, project, stride, padding, residual, excitation=NO_EXCITATION):
    """Return a plan whose first step copies the input into the arena, where blocks read it."""
    n, _, h, w = x.shape
    _, per_group, _, _ = depthwise[0].shape
    groups = depthwise[0].groups
    hidden = n, per_group * groups, h, w
    geometry = _core.Conv2dGeometry(hidden, depthwise[0].shape, stride, padding, (1, 1), groups)
    weights, attributes = {}, {}
    names = ("expand", "depthwise", "squeeze", "excite", "project")
    for name, given in zip(names, (expand, depthwise, *excitation, project), strict=True):
        if given is not None:
            weights |= {name: given[0], f"{name}_bias": given[1]}
            attributes |= {f"{name}_activation": given[2], f"{name}_negative_slope": given[3]}
    shape = (n, project[0].shape[0], *geometry.shape[2:])
    options = {"staged": True, "residual": residual, "weights": weights, "geometry": geometry, **attributes}
    return run_step("depthwise_block", x, shape, **options)


def separate(x, expand, depthwise, project, stride, padding, residual, excitation=NO_EXCITATION):
    y = x if expand is None else F.conv2d(x, expand[0], expand[1], activation=expand[2])
    y = F.conv2d(y, depthwise[0], depthwise[1], stride, padding, groups=depthwise[0].groups, activation=depthwise[2])
    if excitation != NO_EXCITATION:
        squeeze, excite = excitation
        factors = F.conv2d(F.global_avg_pool2d(y), squeeze[0], squeeze[1], activation=squeeze[2])
        y = F.scale(y, F.conv2d(factors, excite[0], excite[1], activation=excite[2]))
    return F.conv2d(y, project[0], project[1], activation=project[2], residual=x if residual else None)


@pytest.mark.parametrize("has_expand", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (4, 3)])
@pytest.mark.parametrize("size", [(7, 7), (30, 17), (1, 9)])
def test_same_bits_as_three_convolutions(rng, isa, threads, has_expand, kernel, stride, size):
    c = _core.tile_sizes()["lanes"] + 5
    hidden = 6 * c if has_expand else c
    expand = part(rng, hidden, c, 1, 1, "relu6") if has_expand else None
    depthwise, project = part(rng, hidden, 1, kernel, hidden, "silu"), part(rng, c, hidden, 1, 1, "none")
    x = rng.standard_normal((4, c, *size), dtype=np.float32)  # three threads compute one image each and share the last
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


# With few output channels and many pixels, the factors multiply weights; otherwise, rows of the hidden image.
@pytest.mark.parametrize(("out", "size"), [(5, (13, 9)), (70, (7, 7)), (40, (1, 9))])
@pytest.mark.parametrize("has_expand", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (4, 3)])
def test_excitation(rng, isa, threads, out, size, has_expand, kernel, stride):
    c = _core.tile_sizes()["lanes"] + 5
    hidden = 6 * c if has_expand else c
    expand = part(rng, hidden, c, 1, 1, "silu") if has_expand else None
    depthwise, project = part(rng, hidden, 1, kernel, hidden, "silu"), part(rng, out, hidden, 1, 1, "none")
    excitation = part(rng, 9, hidden, 1, 1, "relu"), part(rng, hidden, 9, 1, 1, "sigmoid")
    x = rng.standard_normal((4, c, *size), dtype=np.float32)
    p = kernel // 2
    arguments = (x, expand, depthwise, project, (stride, stride), (p, p, p, p), False, excitation)
    assert_close(fused(*arguments), separate(*arguments), terms=hidden * c)


@pytest.mark.parametrize("size", [7, 14, 40])
@pytest.mark.parametrize("excites", [False, True])
def test_same_bits_for_every_batch_split_and_number_of_threads(rng, size, excites):
    c, hidden = 40, 200
    expand, depthwise = part(rng, hidden, c, 1, 1, "silu"), part(rng, hidden, 1, 5, hidden, "silu")
    project = part(rng, c, hidden, 1, 1, "none")
    small = (part(rng, 10, hidden, 1, 1, "silu"), part(rng, hidden, 10, 1, 1, "sigmoid")) if excites else NO_EXCITATION
    x = rng.standard_normal((5, c, size, size), dtype=np.float32)

    def run(images):
        return fused(images, expand, depthwise, project, (1, 1), (2,) * 4, True, small)

    with convlane.num_threads(1):
        whole = run(x)
    for count in (1, 2, 3, 7, 16):
        with convlane.num_threads(count):
            for split in (1, 2, 5):
                singly = np.concatenate([run(x[i : i + split]) for i in range(0, 5, split)])
                np.testing.assert_array_equal(singly, whole)


def test_means_of_long_rows_are_exact_enough(rng):
    """The factors are the means themselves, and the projection is the identity."""
    c = 16
    x = rng.uniform(1, 2, (1, c, 50, 300)).astype(np.float32)
    eye = np.eye(c, dtype=np.float32)[:, :, None, None]
    centre = np.zeros((c, 1, 3, 3), np.float32)
    centre[:, :, 1, 1] = 1
    identity = F.pack_conv2d(eye), None, "none", 0.0
    depthwise = F.pack_conv2d(centre, c), None, "none", 0.0
    y = fused(x, None, depthwise, identity, (1, 1), (1,) * 4, False, (identity, identity))
    assert_close(y, x * x.astype(np.float64).mean((2, 3), keepdims=True), terms=350)


def test_parts_that_do_not_fit_are_refused(rng):
    x = np.zeros((1, 8, 5, 5), np.float32)
    expand, depthwise = part(rng, 16, 8, 1, 1, "none"), part(rng, 16, 1, 3, 16, "none")
    project, squeeze, excite = (part(rng, *channels, 1, 1, "none") for channels in ((8, 16), (4, 16), (16, 4)))

    def refuse(message, expand=expand, depthwise=depthwise, project=project, excitation=(squeeze, excite)):
        with pytest.raises(ValueError, match=message):
            fused(x, expand, depthwise, project, (1, 1), (1,) * 4, False, excitation)

    refuse("pointwise weights do not fit", project=part(rng, 8, 12, 1, 1, "none"))
    refuse("must be depthwise", depthwise=part(rng, 32, 1, 3, 16, "none"))
    refuse("given together", excitation=(squeeze, None))
    refuse("given together", excitation=(None, excite))
    refuse("squeeze-and-excitation do not fit", excitation=(excite, squeeze))
    refuse("squeeze-and-excitation do not fit", excitation=(squeeze, part(rng, 16, 5, 1, 1, "none")))
    refuse("squeeze-and-excitation do not fit", excitation=(squeeze, part(rng, 12, 4, 1, 1, "none")))
    refuse("squeeze-and-excitation do not fit", excitation=(part(rng, 4, 16, 3, 1, "none"), excite))
    refuse(
        "excite_bias must be contiguous float32 of shape", excitation=(squeeze, (excite[0], squeeze[1], "none", 0.0))
    )


class Inverted(nn.Module):
    """An inverted residual block of MobileNet v2."""

    def __init__(self, channels, expansion, kernel=3, stride=1, depthwise_groups=None):
        hidden = channels * expansion
        groups = depthwise_groups or hidden
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=groups)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        hidden = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        return F.add(x, self.project(hidden))


def joined_graph(model, shape=(1, 8, 9, 9)):
    before = trace(model.eval(), shape)
    for optimization in passes.PASSES:
        if optimization.__name__ == passes.fuse_depthwise_block.__name__:
            break
        before = optimization(before)
    return before, passes.fuse_depthwise_block(before)


def fused_ops(model, shape=(1, 8, 9, 9)):
    return [[node.op for node in graph.nodes.values()] for graph in joined_graph(model, shape)]


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


class MBConv(nn.Module):
    """A block of EfficientNet; what is between the depthwise and the last convolution can be replaced."""

    def __init__(self, channels, expansion=1, kernel=3, stride=1, excitation=None):
        hidden = channels * expansion
        self.expand = nn.Identity() if expansion == 1 else nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.SiLU())
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self.excitation = excitation or nn.SqueezeExcitation(hidden, 3, activation=nn.SiLU)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.has_residual = stride == 1

    def forward(self, x):
        y = self.project(self.excitation(F.silu(self.depthwise(self.expand(x)))))
        return F.add(y, x) if self.has_residual else y


@pytest.mark.parametrize("expansion", [1, 4])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_pass_joins_excitation(expansion, kernel, stride):
    before, after = fused_ops(MBConv(8, expansion, kernel, stride))
    small = ["global_avg_pool2d", "conv2d", "conv2d", "scale"]
    assert before == ["input", *["conv2d"] * (1 + (expansion > 1)), *small, "conv2d"]
    assert after == ["input", "depthwise_block"]


def fused_names(model, shape=(1, 8, 9, 9)):
    (step,) = convlane.compile(model.eval(), shape).describe().steps[1:]  # after the copy into the arena
    return step.op


def test_blocks_name_their_parts():
    assert fused_names(MBConv(8, 4)) == "depthwise_block + expand + depthwise + squeeze + excite + project + add"
    assert fused_names(MBConv(8, stride=2)) == "depthwise_block + depthwise + squeeze + excite + project"
    assert fused_names(Inverted(8, 2)) == "depthwise_block + expand + depthwise + project + add"


class Excitation(nn.Module):
    """Squeeze-and-excitation written in other ways, or with one thing changed."""

    def __init__(self, form, channels=8):
        self.form, self.channels = form, channels
        self.squeeze, self.excite = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)
        self.wide = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, x):
        pool = {"adaptive": lambda y: F.adaptive_avg_pool2d(y, 1), "max": F.global_max_pool2d}
        means = pool.get(self.form, F.global_avg_pool2d)(F.relu(x) if self.form == "mean of another" else x)
        squeezed = F.hardswish(self.squeeze(means))
        factors = F.sigmoid((self.wide if self.form == "3x3" else self.excite)(squeezed))
        shared = {"image": x, "means": means, "squeezed": squeezed, "factors": factors}
        multiply = F.mul if self.form == "mul" else F.scale
        y = multiply(F.relu(x) if self.form == "scaling of another" else x, factors)
        if self.form == "scaled":
            return F.add(y, F.relu(y))
        if self.form not in shared:
            return y
        other = shared[self.form]
        if self.form == "squeezed":
            other = F.sigmoid(self.excite(other))
        return F.add(y, other) if self.form == "image" else F.scale(y, other)


@pytest.mark.parametrize("form", ["scale", "mul", "adaptive"])
def test_pass_recognises_other_forms_of_excitation(rng, form):
    model = MBConv(8, excitation=Excitation(form)).eval()
    assert fused_ops(model)[1] == ["input", "depthwise_block"]
    x = rng.standard_normal((2, 8, 9, 9), dtype=np.float32)
    assert_close(convlane.compile(model, (None, 8, 9, 9))(x), model(x), terms=80)


@pytest.mark.parametrize(
    "form",
    [
        *("max", "3x3", "mean of another", "scaling of another"),
        *("image", "means", "squeezed", "factors", "scaled"),  # has two readers
    ],
)
def test_pass_leaves_other_excitations_alone(rng, form):
    model = MBConv(8, excitation=Excitation(form)).eval()
    before, after = fused_ops(model)
    assert after == before
    x = rng.standard_normal((2, 8, 9, 9), dtype=np.float32)
    assert_close(convlane.compile(model, (None, 8, 9, 9))(x), model(x), terms=80)


def test_pass_leaves_an_image_that_is_returned_alone():
    class Hidden(MBConv):
        def forward(self, x):
            hidden = self.depthwise(x)
            self.project(self.excitation(hidden))
            return hidden

    graph = trace(Hidden(8).eval(), (1, 8, 9, 9))
    assert passes.fuse_depthwise_block(graph).nodes == passes.remove_dead_code(graph).nodes


@pytest.mark.parametrize("expansion", [1, 3])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_compiled_excitation_equals_eager(rng, threads, batch, expansion):
    model = MBConv(12, expansion, 5).eval()
    x = rng.standard_normal((batch, 12, 11, 13), dtype=np.float32)
    plan = convlane.compile(model, (None, 12, 11, 13))
    np.testing.assert_allclose(plan(x), model(x), rtol=1e-5, atol=1e-5)


def test_one_plan_serves_any_number_of_threads_in_turn(rng):
    plan = convlane.compile(MBConv(40, 6).eval(), (None, 40, 9, 9))
    x = rng.standard_normal((3, 40, 9, 9), dtype=np.float32)
    expected = plan(x)
    for count in (1, 4, 2, 5, 1):
        with convlane.num_threads(count):
            np.testing.assert_array_equal(plan(x), expected)
            np.testing.assert_array_equal(plan(x[:2]), expected[:2])


@pytest.mark.parametrize("model", [MBConv(8), MBConv(8, 3, stride=2), MBConv(8, 2), Inverted(8, 2)])
def test_blocks_can_be_taken_apart(model):
    before, after = joined_graph(model)
    block = after.nodes[after.output]
    apart = passes.unjoin(block, after.output, passes.results_between(block))
    assert dict(apart) == {value: node for value, node in before.nodes.items() if node.op != "input"}


@pytest.mark.parametrize("missing", range(7))
def test_blocks_from_elsewhere_must_be_whole(missing):
    _, graph = joined_graph(MBConv(8, 2, stride=2))
    assert verify(graph) == graph
    block = graph.nodes[graph.output]
    parts = [part for i, part in enumerate(block.attributes["parts"]) if i != missing]
    broken = replace(block, attributes={"parts": tuple(parts)})
    with pytest.raises(ValueError, match=r"depthwise_block|conv2d|scale"):
        verify(replace(graph, nodes={**graph.nodes, graph.output: broken}))
