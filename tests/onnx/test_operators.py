"""Operators that the tests of the package onnx hardly cover, against onnxruntime."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import convlane  # noqa: E402
from convlane.onnx import InferenceSession  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from runtimes import check_as_onnxruntime, model_of, node_model  # noqa: E402

pytestmark = pytest.mark.onnxruntime

SPECIAL = np.array([[0, -0.0, 1, -1, 0.5, -2.5, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 88.9, -104]], np.float32)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        *(
            (op, {})
            for op in ("ThresholdedRelu", "HardSwish", "HardSigmoid", "Softplus", "Selu", "Elu", "Celu", "Shrink")
        ),
        *(
            (op, {})
            for op in ("Sinh", "Cosh", "Erf", "Round", "Sign", "Reciprocal", "Sqrt", "Log", "Exp", "IsInf", "IsNaN")
        ),
        *((op, {}) for op in ("LeakyRelu", "Tanh", "Sigmoid", "Relu", "Softsign", "Mish", "Gelu")),
        ("Gelu", {"approximate": "tanh"}),
        ("ThresholdedRelu", {"alpha": -1.0}),
        ("IsInf", {"detect_negative": 0}),
        ("Shrink", {"lambd": 1.5, "bias": 1.5}),
    ],
)
def test_special_numbers(op, attributes):
    check_as_onnxruntime(node_model(op, {"x": SPECIAL}, opset=20, **attributes), {"x": SPECIAL})


@pytest.mark.parametrize("opset", [10, 19])
def test_sizes_that_scales_give(rng, opset):
    """0.7 times 10 is 7 in float32, but less in float64 if only the factor has been rounded to float32."""
    x = rng.standard_normal((2, 3, 10, 20), np.float32)
    scales = np.array([1, 1, 0.7, 0.35], np.float32)
    constants = {"scales": scales} if opset == 10 else {"roi": np.zeros(0, np.float32), "scales": scales}
    check_as_onnxruntime(node_model("Resize", {"x": x}, constants, opset=opset, mode="linear"), {"x": x})


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", [*COORDINATES, "tf_half_pixel_for_nn"])
def test_nearest_inputs(coordinates, rounding, rng):
    """The same inputs as in onnxruntime, even where two are equally near up to rounding."""
    opset = 12 if coordinates.startswith("tf") else 19
    attributes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    pairs = [(14, 1), (14, 76), (26, 61), (30, 64), (30, 72), (7, 85), (36, 61), (16, 87), (1, 3), (20, 6)]
    for before, after in [*pairs, *rng.integers(1, 60, (10, 2)).tolist()]:
        x = np.arange(before, dtype=np.float32).reshape(1, 1, 1, before)
        none = np.zeros(0, np.float32)
        sizes = {"roi": none, "scales": none, "sizes": np.array([1, 1, 1, after])}
        check_as_onnxruntime(node_model("Resize", {"x": x}, sizes, opset=opset, **attributes), {"x": x}, rtol=0)
        scale = np.float32(rng.choice([after / before, 0.6, 1 / 3, 2.4, rng.uniform(0.2, 4)]))
        if before not in (1, int(scale * np.float32(before))) and scale * before >= 1:
            scales = {"roi": none, "scales": np.array([1, 1, 1, scale], np.float32)}
            check_as_onnxruntime(node_model("Resize", {"x": x}, scales, opset=opset, **attributes), {"x": x}, rtol=0)


@pytest.mark.parametrize("scales", [(0.6, 0.6), (2, 1.5), (0.5, 2.6)])
def test_nearest_inputs_of_the_first_version(scales, rng):
    x = rng.standard_normal((1, 2, 9, 13), np.float32)
    factors = {"scales": np.array([1, 1, *scales], np.float32)}
    check_as_onnxruntime(node_model("Resize", {"x": x}, factors, opset=10), {"x": x}, rtol=0)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "GreaterOrEqual", "Equal"])
def test_pairs_of_special_numbers(op):
    feeds = {"x": SPECIAL, "z": SPECIAL.reshape(-1, 1)}
    check_as_onnxruntime(node_model(op, feeds), feeds)


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders(fmod):
    x = np.array([[7.5, -7.5, 0.25, -3]], np.float32)
    for z in ([2.0], [np.inf], [-3.0]):
        constants = {"z": np.array(z, np.float32)}
        model = node_model("Mod", {"x": x}, constants, fmod=1)
        check_as_onnxruntime(model, {"x": x}, compiled=np.isfinite(z[0]))
    whole = {"x": np.array([[7, -7, 3]]), "z": np.array([[2], [-3]])}
    check_as_onnxruntime(node_model("Mod", whole, fmod=fmod), whole, compiled=False)


def test_bounds_that_are_inputs():
    x = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    feeds = {"x": x, "low": np.array(-1, np.float32), "high": np.array(2, np.float32)}
    check_as_onnxruntime(node_model("Clip", feeds), feeds)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhwc,hkc->bhwk", [(2, 3, 4, 5), (3, 6, 5)]),
        ("b c h w, b c -> b h w", [(2, 3, 4, 5), (2, 3)]),
        ("bhid,bhjd->bhij", [(1, 2, 3, 4), (1, 2, 5, 4)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("...ij,...jk->...ik", [(2, 2, 3, 4), (2, 2, 4, 5)]),
        ("...ij,jk->...ik", [(2, 2, 3, 4), (4, 5)]),
        ("ij,kl->ik", [(2, 3), (4, 5)]),
        ("ij,ij->", [(3, 4), (3, 4)]),
        ("ijk->ki", [(2, 3, 4)]),
        ("abc,cd,de->abe", [(2, 3, 4), (4, 5), (5, 6)]),
    ],
)
def test_einsum(equation, shapes, rng):
    feeds = {f"x{i}": rng.standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}
    check_as_onnxruntime(node_model("Einsum", feeds, equation=equation), feeds)


def test_einsum_of_a_diagonal():
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    session = check_as_onnxruntime(node_model("Einsum", {"x": x}, equation="ii->i"), {"x": x}, compiled=False)
    assert "'ii->i' takes a diagonal" in session.why_not_compiled({"x": x})


@pytest.mark.parametrize("opset", [16, 20])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(mode, padding, opset, rng):
    feeds = {
        "x": rng.standard_normal((2, 3, 6, 7), np.float32),
        "grid": rng.uniform(-1.6, 1.6, (2, 5, 4, 2)).astype(np.float32),
    }
    if opset == 20:
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    for corners in (0, 1):
        model = node_model("GridSample", feeds, opset=opset, mode=mode, padding_mode=padding, align_corners=corners)
        check_as_onnxruntime(model, feeds)


BOXES = np.array(
    [[1, 1, 6, 7], [0, 0, 13, 11], [-2, -3, 5, 5], [5, 5, 5, 5], [10.5, 4.5, 20.6, 9.4], [9, 9, 2, 2]], np.float32
)
IMAGES = np.array([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 7)])
def test_roi_pooling(size, scale, rng):
    x = rng.standard_normal((2, 3, 12, 14), np.float32)
    rois = np.column_stack([IMAGES.astype(np.float32), BOXES / np.float32(scale)])
    model = node_model("MaxRoiPool", {"x": x}, {"rois": rois}, pooled_shape=size, spatial_scale=scale)
    check_as_onnxruntime(model, {"x": x}, compiled=False)


@pytest.mark.parametrize("points", [0, 2])
@pytest.mark.parametrize(
    ("opset", "attributes"), [(10, {}), (16, {}), (16, {"coordinate_transformation_mode": "output_half_pixel"})]
)
def test_roi_align(opset, attributes, points, rng):
    x = rng.standard_normal((2, 3, 12, 14), np.float32)
    attributes = {"output_height": 3, "output_width": 4, "spatial_scale": 0.5, "sampling_ratio": points, **attributes}
    constants = {"rois": BOXES[:-1] * 2, "images": IMAGES[:-1]}
    check_as_onnxruntime(
        node_model("RoiAlign", {"x": x}, constants, opset=opset, **attributes), {"x": x}, compiled=False
    )


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("bounds", [(), (5,), (5, 0.4), (100, 0.3, 0.5), (0, 0.3)])
def test_suppression(bounds, centred, rng):
    feeds = {
        "boxes": rng.uniform(0, 10, (2, 30, 4)).astype(np.float32),
        "scores": np.round(rng.uniform(0, 1, (2, 3, 30)) * 8).astype(np.float32) / 8,
    }
    constants = {
        name: np.array([value], np.int64 if name == "most" else np.float32)
        for name, value in zip(("most", "overlap", "least"), bounds, strict=False)
    }
    model = node_model("NonMaxSuppression", feeds, constants, opset=11, center_point_box=centred)
    check_as_onnxruntime(model, feeds, compiled=False)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("indices", [[[3], [1], [-4]], [[0, 1], [3, -1], [2, 2]]])
def test_scatter_nd(reduction, indices, rng):
    x, at = rng.standard_normal((4, 5, 6), np.float32), np.array(indices)
    constants = {"indices": at, "updates": rng.standard_normal((3, *x.shape[at.shape[1] :]), np.float32)}
    model = node_model("ScatterND", {"x": x}, constants, opset=18, reduction=reduction)
    check_as_onnxruntime(model, {"x": x}, compiled=False)


@pytest.mark.parametrize(
    "indices",
    [
        [[3], [1], [-4]],
        [[0, 1], [3, -1], [2, 2]],
        [[1, 2], [1, 3], [2, 2], [2, 3]],  # a block
        [[[n, c, h] for h in (0, 1, 2)] for n in range(4) for c in range(5)],
    ],
)
def test_scatter_nd_in_plans(indices, rng):
    x, at = rng.standard_normal((4, 5, 6), np.float32), np.array(indices)
    shape = (*at.shape[:-1], *x.shape[at.shape[-1] :])
    feeds = {"x": x, "updates": rng.standard_normal(shape, np.float32)}
    text = f"""g (float[{", ".join("ABC")}] x, float[{", ".join("DEF"[: len(shape)])}] updates) => (float[A, B, C] y) {{
        e = Exp(x) n = Neg(updates) y = ScatterND(e, indices, n) }}"""
    check_as_onnxruntime(model_of(text, indices=at), feeds)


@pytest.mark.parametrize(
    "indices",
    [
        [[3], [1], [-4]],
        [[0, 1], [3, -1], [2, 2]],
        [[[0, 4], [0, 1]], [[2, 4], [2, 1]], [[2, 4], [2, 1]]],  # a grid
    ],
)
def test_gather_nd_in_plans(indices, rng):
    x = rng.standard_normal((4, 5, 6), np.float32)
    check_as_onnxruntime(node_model("GatherND", {"x": x}, {"indices": np.array(indices)}), {"x": x})


def test_resampling_by_indices(rng):
    """As torch.export writes it: the sampled dimensions are moved to the front, and then back."""
    text = """g (float[N, 3, 5, 6] x) => (float[N, 3, 4, 8] y) {
        t = Transpose<perm = [2, 3, 0, 1]>(x) r = GatherND(t, indices) y = Transpose<perm = [2, 3, 0, 1]>(r) }"""
    rows, columns = np.array([0, 1, 3, 4]), np.array([0, 0, 1, 2, 3, 4, 4, 5])
    model = model_of(text, indices=np.stack(np.meshgrid(rows, columns, indexing="ij"), -1))
    session = check_as_onnxruntime(model, *({"x": rng.standard_normal((n, 3, 5, 6), np.float32)} for n in (1, 3)))
    plan = convlane.compile(session.network, (None, 3, 5, 6))  # no operation mixes the batch
    assert "permute" not in str(plan.profile(np.zeros((1, 3, 5, 6), np.float32)))


@pytest.mark.parametrize("indices", [[[1]] * 4, [[0, 2, 1]] * 3])
def test_scatter_elements_in_plans(indices, rng):
    at = np.array(indices)
    feeds = {"x": rng.standard_normal((4, 3), np.float32), "updates": rng.standard_normal(at.shape, np.float32)}
    text = """g (float[N, 3] x, float[M, K] updates) => (float[N, 3] y) {
        e = Exp(x) y = ScatterElements<axis = 1>(e, indices, updates) }"""
    check_as_onnxruntime(model_of(text, indices=at), feeds)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements_of_a_corner(axis, rng):
    x = rng.standard_normal((3, 4, 5), np.float32)
    model = node_model("GatherElements", {"x": x}, {"indices": rng.integers(-3, 3, (2, 2, 2))}, axis=axis)
    check_as_onnxruntime(model, {"x": x})


def test_indices_of_maxima_in_a_larger_picture(rng):
    text = """g (float[N, 2, H, W] x) => (float[A, B, C, D] y) <int64[4] shape = {1, 2, 7, 7}> {
        values, indices = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(values, indices, shape) }"""
    check_as_onnxruntime(model_of(text), {"x": rng.standard_normal((1, 2, 7, 7), np.float32)}, compiled=False)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms_as_pooling(p, rng):
    x = rng.standard_normal((2, 3, 5, 6), np.float32)
    check_as_onnxruntime(node_model("GlobalLpPool", {"x": x}, p=p), {"x": x})
    model = node_model("LpPool", {"x": x}, p=p, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 0, 1])
    check_as_onnxruntime(model, {"x": x})


def test_weights_of_four_bits_in_blocks(rng):
    numbers = rng.integers(-8, 8, (4, 8))
    scales = rng.uniform(0.1, 1, (4, 2)).astype(np.float32)
    text = """g (float[N, 8] x) => (float[N, 4] y) {
        v = DequantizeLinear<axis = 1, block_size = 4>(w, scales) y = Gemm<transB = 1>(x, v) }"""
    model = onnx.ModelProto.FromString(model_of(text, opset=21, scales=scales))
    model.ir_version = 10
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [4, 8], numbers.flatten().tolist()))
    x = rng.standard_normal((3, 8), np.float32)
    (found,) = InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ (numbers * np.repeat(scales, 4, 1)).T, rtol=1e-5)
    check_as_onnxruntime(model.SerializeToString(), {"x": x})


class TestIf:
    def model(self, condition):
        """A branch, nested in another one, that reads values from outside."""
        return model_of(
            f"""g (float[N, 3] x) => (float[M, 3] y) <int64 zero = {{0}}, int64 one = {{1}}, float none = {{0.0}}> {{
            r = Relu(x)
            {condition}
            z = If (c) <
                then_branch = t () => (a) {{
                    d = Identity(c)
                    a = If (d) <
                        then_branch = u () => (a1) {{ a1 = Mul(r, x) }}, else_branch = v () => (a2) {{ a2 = Neg(x) }}>
                }},
                else_branch = e () => (b) {{ b = Neg(x) }}>
            y = Exp(z) }}"""
        )

    def test_on_a_shape(self, rng):
        model = self.model("s = Shape(x) n = Gather<axis = 0>(s, zero) c = Equal(n, one)")
        check_as_onnxruntime(model, *({"x": rng.standard_normal((n, 3), np.float32)} for n in (1, 2, 5)))

    def test_numbers_that_depend_on_the_batch(self, rng):
        text = """g (float[N, 3] x) => (float[M, 3] y) <int64 zero = {0}> {
            s = Shape(x) n = Gather<axis = 0>(s, zero) f = Cast<to = 1>(n) y = Mul(x, f) }"""
        check_as_onnxruntime(model_of(text), *({"x": rng.standard_normal((n, 3), np.float32)} for n in (1, 2, 5)))

    @pytest.mark.parametrize("sign", [1, -1])
    def test_on_a_number(self, sign, rng):
        """It is computed from arrays, with the results of the plan that it reads."""
        model = self.model("s = ReduceSum<keepdims = 0>(x) c = Greater(s, none)")
        feeds = [{"x": np.abs(rng.standard_normal((n, 3), np.float32)) * np.float32(sign)} for n in (1, 3)]
        session = check_as_onnxruntime(model, *feeds, compiled=False)
        assert "nodes after a plan: 'z' (If, opset 17)" in session.why_not_compiled(feeds[0])
        with pytest.raises(ValueError, match=r"'z' \(If, opset 17\): its condition must not depend on the input"):
            convlane.compile(session.network, (1, 3))
