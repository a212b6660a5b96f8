"""Networks from files: parameters, ways to run them, what files may contain, and what is refused."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import convlane  # noqa: E402
from convlane import functional as F  # noqa: E402
from convlane import nn, training  # noqa: E402
from convlane.graph.trace import trace  # noqa: E402
from convlane.onnx import InferenceSession, LoadError  # noqa: E402
from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402


def model_of(text, opset=17, **weights):
    """Return the bytes of a model in ONNX's text, with arrays as initialisers."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model.SerializeToString()


@pytest.fixture
def small(rng):
    """Return a network with a convolution, batch norm and a classifier, as bytes, and the same network in torch."""
    weights = {
        "conv.weight": rng.standard_normal((8, 3, 3, 3), np.float32),
        "conv.bias": rng.standard_normal(8, np.float32),
        "bn.weight": rng.uniform(0.5, 1, 8).astype(np.float32),
        "bn.bias": rng.standard_normal(8, np.float32),
        "bn.running_mean": rng.standard_normal(8, np.float32),
        "bn.running_var": rng.uniform(0.5, 1, 8).astype(np.float32),
        "fc.weight": rng.standard_normal((4, 8), np.float32),
        "fc.bias": rng.standard_normal(4, np.float32),
    }
    text = """small (float[N, 3, H, W] image) => (float[N, 4] scores) {
        a = Conv<pads = [1, 1, 1, 1]>(image, "conv.weight", "conv.bias")
        b = BatchNormalization(a, "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        c = Relu(b)
        d = GlobalAveragePool(c)
        e = Flatten(d)
        scores = Gemm<transB = 1>(e, "fc.weight", "fc.bias")
    }"""
    text = text.replace('"', "").replace(".", "_")
    model = onnx.ModelProto.FromString(model_of(text))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = next((key for key in weights if key.replace(".", "_") == name), name)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    twin = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    twin.load_state_dict(
        {
            {"conv": "0", "bn": "1", "fc": "5"}[key.partition(".")[0]] + "." + key.partition(".")[2]: array
            for key, array in weights.items()
        },
        strict=True,
    )
    return model.SerializeToString(), twin


class TestNetwork:
    def test_it_has_the_keys_of_the_file(self, small):
        network = convlane.load_onnx(small[0])
        assert set(network.state_dict()) == {
            *("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"),
            *("fc.weight", "fc.bias"),
        }
        assert [name for name, _ in network.named_parameters()][:2] == ["conv.weight", "conv.bias"]
        assert not network.training
        assert "image (N, 3, H, W)" in repr(network)

    def test_eagerly_compiled_and_of_open_sizes(self, small, rng):
        data, twin = small
        network = convlane.load_onnx(data)
        open_plan = convlane.compile(network, {"image": (None, 3, None, None)})
        for shape in [(1, 3, 8, 8), (3, 3, 7, 12)]:
            x = rng.standard_normal(shape, np.float32)
            expected = twin(x)
            np.testing.assert_allclose(network(x), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(convlane.compile(network, (None, *shape[1:]))(x), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(open_plan(x), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(open_plan(image=x), expected, rtol=1e-4, atol=1e-5)

    def test_gradients(self, small, rng):
        data, twin = small
        network = convlane.load_onnx(data)
        x, y = rng.standard_normal((4, 3, 6, 6), np.float32), rng.standard_normal((4, 4), np.float32)
        for mode in (False, True):
            network.train(mode)
            twin.train(mode)
            loss, found = convlane.value_and_grad(lambda x, y: F.mse_loss(network(x), y), network)(x, y)
            expected_loss, expected = convlane.value_and_grad(lambda x, y: F.mse_loss(twin(x), y), twin)(x, y)
            assert loss == pytest.approx(expected_loss, rel=1e-5)
            for array, other in zip(found.values(), expected.values(), strict=True):
                np.testing.assert_allclose(array, other, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(network.bn.running_mean, twin[1].running_mean, rtol=1e-5)
        network.freeze()
        network.fc.freeze(False)
        assert [name for name, _ in network.named_parameters(trainable=True)] == ["fc.weight", "fc.bias"]

    def test_it_is_saved_copied_and_pickled(self, small, rng, tmp_path):
        network = convlane.load_onnx(small[0])
        network.fc.bias = np.full(4, 7, np.float32)
        x = rng.standard_normal((1, 3, 6, 6), np.float32)
        network.save(tmp_path / "again.onnx")
        onnx.checker.check_model(tmp_path / "again.onnx", full_check=True)
        for other in (
            convlane.load_onnx(tmp_path / "again.onnx"),
            copy.deepcopy(network),
            pickle.loads(pickle.dumps(network)),
        ):
            np.testing.assert_array_equal(other(x), network(x))
        convlane.compile(network, (None, 3, 6, 6)).save(tmp_path / "network.plan")
        code = "import sys, convlane; p = convlane.load_plan(sys.argv[1]); assert 'onnx' not in sys.modules; print(p)"
        subprocess.run([sys.executable, "-c", code, tmp_path / "network.plan"], check=True)

    def test_several_inputs_and_outputs(self):
        text = """two (float[N, 3] a, float[N, 3] b) => (float[N, 3] total, float[N, 3] product) {
            total = Add(a, b) product = Mul(a, b) }"""
        network = convlane.load_onnx(model_of(text))
        a, b = np.ones((2, 3), np.float32), np.full((2, 3), 5, np.float32)
        for found in (network(a, b), network(b=b, a=a), convlane.compile(network, {"a": (2, 3), "b": (2, 3)})(a, b)):
            assert list(found) == ["total", "product"]
            np.testing.assert_array_equal(found["total"], a + b)
            np.testing.assert_array_equal(found["product"], a * b)
        with pytest.raises(TypeError, match="the network takes a, b, got 1 in order"):
            network(a)
        with pytest.raises(TypeError, match="got 1 in order, c"):
            network(a, c=b)

    def test_names_that_collide(self):
        weights = {name: np.full(2, i + 1, np.float32) for i, name in enumerate(("a", "a.b", "forward", ".", "a..b"))}
        model = onnx.ModelProto.FromString(model_of("g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }"))
        del model.graph.node[:]
        source = "x"
        for i, name in enumerate(weights):
            target = "y" if i == len(weights) - 1 else f"t{i}"
            model.graph.node.append(helper.make_node("Add", [source, name], [target]))
            source = target
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
        network = convlane.load_onnx(model.SerializeToString())
        assert len(network.state_dict()) == 5
        np.testing.assert_array_equal(network(np.zeros((1, 2), np.float32)), [[15, 15]])

    def test_summary_lists_nodes(self, small):
        network = convlane.load_onnx(small[0])
        summary = network.summary((1, 3, 8, 8))
        assert [(row.name, row.kind) for row in summary.rows[1:]] == [
            ("a", "Conv"),
            ("b", "BatchNormalization"),
            ("c", "Relu"),
            ("d", "GlobalAveragePool"),
            ("e", "Flatten"),
            ("scores", "Gemm"),
        ]
        assert [row.parameters for row in summary.rows if row.has_weights] == [8 * 27 + 8, 4 * 8 + 4]
        assert summary.parameters == network.num_parameters()
        within = nn.Sequential(network, nn.Softmax(1)).eval().summary((1, 3, 8, 8))
        assert [row.name for row in within.rows[-3:]] == ["0.e", "0.scores", "1"]


class TestHead:
    def step(self, network, rng):
        """Return the parameters that a training step changes, by name."""
        x, y = rng.standard_normal((4, 3, 6, 6), np.float32), np.array([0, 1, 2, 1])
        before = network.state_dict()
        step = convlane.value_and_grad(lambda x, y: F.cross_entropy(network(x), y), network)
        optimizer = training.SGD(network, lr=0.1)
        first, gradients = step(x, y)
        optimizer.step(gradients)
        assert step(x, y)[0] < first
        after = network.state_dict()
        return {name for name in before if not np.array_equal(before[name], after[name])}

    def test_it_is_replaced_and_trained(self, small, rng, tmp_path):
        network = convlane.load_onnx(small[0]).freeze()
        assert training.replace_head(network, 3) is network
        assert self.step(network, rng) == {"fc.weight", "fc.bias"}
        assert network.fc.weight.shape == (3, 8)
        x = rng.standard_normal((2, 3, 6, 6), np.float32)
        np.testing.assert_allclose(convlane.compile(network, (None, 3, 6, 6))(x), network(x), rtol=1e-4, atol=1e-6)
        network.save(tmp_path / "other.onnx")
        onnx.checker.check_model(tmp_path / "other.onnx", full_check=True)
        session = InferenceSession(tmp_path / "other.onnx")
        assert session.get_outputs()[0].shape == ["N", 3]
        np.testing.assert_allclose(session.run(None, {"image": x})[0], network(x), rtol=1e-4, atol=1e-6)

    def test_all_but_it_is_frozen(self, small, rng):
        network = training.freeze_all_but(convlane.load_onnx(small[0]).train())
        assert self.step(network, rng) == {"fc.weight", "fc.bias"}

    @pytest.mark.parametrize(
        "nodes",
        [
            "f = Flatten(p) m = MatMul(f, w) s = Add(m, b) scores = Softmax(s)",
            "f = Flatten(p) s = Gemm(f, w, b) scores = Softmax(s)",
            "s = Conv(p, w4, b) r = Relu(s) scores = Flatten(r)",
        ],
    )
    def test_forms(self, nodes, rng):
        text = f"g (float[N, 3, H, W] x) => (float[N, 5] scores) {{ c = Conv(x, k) p = GlobalAveragePool(c) {nodes} }}"
        weights = {
            "k": rng.standard_normal((6, 3, 3, 3), np.float32),
            "w": rng.standard_normal((6, 5), np.float32),
            "w4": rng.standard_normal((5, 6, 1, 1), np.float32),
            "b": rng.standard_normal(5, np.float32),
        }
        weights = {name: array for name, array in weights.items() if f"{name}," in nodes or f"{name})" in nodes + "k)"}
        network = convlane.load_onnx(model_of(text, **weights)).freeze()
        training.replace_head(network, 3)
        assert {name for name, _ in network.named_parameters(trainable=True)} == {"head.weight", "head.bias"}
        assert network(np.zeros((2, 3, 6, 6), np.float32)).shape == (2, 3)
        assert network.outputs[0].shape == ("N", 3)
        with pytest.raises(ValueError, match="no node has the name 'other'"):
            training.replace_head(network, 3, "other")

    @pytest.mark.parametrize("version", [3, 8])
    def test_other_sizes_that_equal_the_number_of_classes_stay(self, version, rng, tmp_path):
        text = """g (float[5, 5, 5, 5] x) => (float[5, 5, 5] maps, float[5, 5] scores, float[5, 10] pairs)
            <int64[2] shape = {5, -1}> {
            p = GlobalAveragePool(x) f = Reshape(p, shape) scores = Gemm(f, w, b)
            maps = ReduceMean<axes = [3], keepdims = 0>(x)
            both = Concat<axis = 1>(scores, scores) pairs = Reshape(both, shape) }"""
        weights = {"w": rng.standard_normal((5, 5), np.float32), "b": rng.standard_normal(5, np.float32)}
        model = onnx.ModelProto.FromString(model_of(text, **weights))
        next(node for node in model.graph.node if node.op_type == "Gemm").name = "fc"
        model.ir_version = version
        if version == 3:  # initialisers were inputs
            for tensor in model.graph.initializer:
                info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                model.graph.input.append(info)
        network = convlane.load_onnx(model.SerializeToString())
        training.replace_head(network, 3, "fc")
        x = rng.standard_normal((5, 5, 5, 5), np.float32)
        shapes = {info.name: info.shape for info in network.outputs}
        assert shapes == {name: each.shape for name, each in network(x).items()}
        assert shapes == {"maps": (5, 5, 5), "scores": (5, 3), "pairs": (5, 6)}
        network.save(tmp_path / "other.onnx")
        onnx.checker.check_model(tmp_path / "other.onnx", full_check=True)
        again = convlane.load_onnx(tmp_path / "other.onnx")
        assert {info.name: info.shape for info in again.outputs} == shapes

    def test_what_has_none(self, rng):
        weight = rng.standard_normal((3, 3), np.float32)
        none = "g (float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, w) y = Exp(a) }"
        shared = "g (float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, w) y = MatMul(a, w) }"
        for text, why in ((none, r"'y' \(Exp, opset 17\) is not a Gemm"), (shared, "shares 'w' with other nodes")):
            network = convlane.load_onnx(model_of(text, w=weight))
            with pytest.raises(ValueError, match=why):
                training.replace_head(network, 2)
            np.testing.assert_array_equal(network.w, weight)
        with pytest.raises(TypeError, match="runs the nodes of its file"):
            training.split_head(network)


class TestFiles:
    def test_weights_are_in_memory_once(self, small):
        network = convlane.load_onnx(small[0])
        graph = trace(network, (1, 3, 6, 6))
        kept = [each for node in graph.nodes.values() for each in node.attributes.values()]
        for name, array in network.named_parameters():
            assert any(each is array for each in kept), name

    def test_shapes_are_computed_on_the_way(self, rng):
        text = """g (float[N, C, H, W] x) => (float[M, K] y) <int64[1] minus = {-1}, int64 zero = {0}> {
            shape = Shape(x) n = Gather<axis = 0>(shape, zero) axes = Constant<value_ints = [0]>()
            first = Unsqueeze(n, axes) target = Concat<axis = 0>(first, minus) y = Reshape(x, target) }"""
        network = convlane.load_onnx(model_of(text))
        for shape in [(1, 2, 3, 4), (2, 3, 4, 1)]:
            x = rng.standard_normal(shape, np.float32)
            np.testing.assert_array_equal(network(x), x.reshape(shape[0], -1))
        x = rng.standard_normal((1, 2, 3, 4), np.float32)
        np.testing.assert_array_equal(convlane.compile(network, (1, 2, 3, 4))(x), x.reshape(1, -1))

    def test_a_batch_size_that_is_a_constant_of_a_reshape(self, rng):
        text = """g (float[N, 2, 3] x) => (float[N, 6] y) <int64[2] shape = {1, 6}> { y = Reshape(x, shape) }"""
        session = InferenceSession(model_of(text))
        x = rng.standard_normal((5, 2, 3), np.float32)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], x.reshape(5, 6))

    @pytest.mark.parametrize("then", [True, False])
    def test_if_with_a_constant_condition(self, then):
        text = f"""g (float[N] x) => (float[N] y) <bool c = {{{int(then)}}}> {{
            y = If (c) <then_branch = t () => (a) {{ a = Relu(x) }}, else_branch = e () => (b) {{ b = Neg(x) }}> }}"""
        session = InferenceSession(model_of(text))
        x = np.array([-1, 2], np.float32)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.maximum(x, 0) if then else -x)
        assert not session.why_not_compiled({"x": x})

    def test_identity_on_initialisers(self, rng):
        weight = rng.standard_normal((3, 2), np.float32)
        text = "g (float[N, 2] x) => (float[N, 3] y) { v = Identity(w) y = Gemm<transB = 1>(x, v) }"
        network = convlane.load_onnx(model_of(text, w=weight))
        assert [name for name, _ in network.named_parameters()] == ["w"]
        _, gradients = convlane.value_and_grad(lambda x: F.sum(network(x)), network)(np.ones((1, 2), np.float32))
        np.testing.assert_array_equal(gradients["w"], np.ones((3, 2)))

    @pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
    def test_other_floats_are_cast(self, kind):
        model = onnx.ModelProto.FromString(model_of("g (float[N, 2] x) => (float[N, 2] y) { y = Mul(x, w) }"))
        model.graph.initializer.append(helper.make_tensor("w", kind, [2], [0.5, 2.0]))
        network = convlane.load_onnx(model.SerializeToString())
        assert network.w.dtype == np.float32
        np.testing.assert_array_equal(network(np.ones((1, 2), np.float32)), [[0.5, 2]])

    def test_initialisers_that_are_also_inputs(self):
        data = model_of(
            "g (float[N, 2] x, float[2] w) => (float[N, 2] y) { y = Mul(x, w) }", w=np.full(2, 3, np.float32)
        )
        session = InferenceSession(data)
        assert [each.name for each in session.get_inputs()] == ["x"]
        assert [each.name for each in session.get_overridable_initializers()] == ["w"]
        x = np.ones((1, 2), np.float32)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[3, 3]])
        np.testing.assert_array_equal(session.run(None, {"x": x, "w": np.full(2, 4, np.float32)})[0], [[4, 4]])

    def test_external_data(self, tmp_path, rng):
        weight = rng.standard_normal((300, 2), np.float32)
        model = onnx.ModelProto.FromString(
            model_of("g (float[N, 2] x) => (float[N, 300] y) { y = Gemm<transB = 1>(x, w) }", w=weight)
        )
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        network = convlane.load_onnx(tmp_path / "m.onnx")
        np.testing.assert_array_equal(network.w, weight)
        with pytest.raises(LoadError, match="give the path of the model"):
            convlane.load_onnx((tmp_path / "m.onnx").read_bytes())

    def test_quantised_layers_are_float32_and_say_so(self, rng):
        text = """g (float[N, 2] x) => (float[N, 2] y) <float scale = {0.1}, uint8 zero = {128}> {
            q = QuantizeLinear(x, scale, zero) y = DequantizeLinear(q, scale, zero) }"""
        x = rng.uniform(-20, 20, (3, 2)).astype(np.float32)
        expected = (np.clip(np.round(x / np.float32(0.1)) + 128, 0, 255) - 128) * np.float32(0.1)
        network = convlane.load_onnx(model_of(text))
        np.testing.assert_allclose(network(x), expected, rtol=1e-6)
        with pytest.warns(UserWarning, match=r"'q' \(QuantizeLinear, opset 17\).*computed in float32"):
            plan = convlane.compile(network, (None, 2))
        np.testing.assert_allclose(plan(x), expected, rtol=1e-6)

    def test_what_no_plan_can_do_comes_after_it(self, rng):
        text = """g (float[1, 4] x) => (int64[2, K] places, float[1, 4] z) {
            y = Relu(x) z = Exp(y) places = NonZero(y) }"""
        session = InferenceSession(model_of(text))
        x = np.array([[-1, 2, 0, 3]], np.float32)
        places, z = session.run(None, {"x": x})
        np.testing.assert_array_equal(places, [[0, 0], [1, 3]])
        np.testing.assert_allclose(z, np.exp(np.maximum(x, 0)), rtol=1e-6)
        assert "1 nodes after a plan: 'places' (NonZero, opset 17)" in session.why_not_compiled({"x": x})


class TestSession:
    def test_it_describes_the_file(self, small):
        session = InferenceSession(small[0], providers=["CPUExecutionProvider"])
        (image,), (scores,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 3, "H", "W"])
        assert (scores.name, scores.shape) == ("scores", ["N", 4])
        assert session.get_providers() == convlane.onnx.get_available_providers() == ["CPUExecutionProvider"]
        assert session.get_modelmeta().graph_name == "small"
        assert session.get_modelmeta().custom_metadata_map == {}

    def test_it_runs(self, small, rng):
        data, twin = small
        options = convlane.onnx.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = convlane.onnx.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = InferenceSession(data, sess_options=options)
        for shape in [(1, 3, 8, 8), (2, 3, 8, 8), (1, 3, 9, 5)] * 2:
            x = rng.standard_normal(shape, np.float32)
            for names in (None, [], ["scores"]):
                (found,) = session.run(names, {"image": x})
                np.testing.assert_allclose(found, twin(x), rtol=1e-4, atol=1e-5)
            assert not session.why_not_compiled({"image": x})

    def test_memory_is_that_of_the_largest_size(self, small, rng):
        session = InferenceSession(small[0])
        for size in [*range(8, 108), 8]:
            session.run(None, {"image": rng.standard_normal((1, 3, size, size), np.float32)})
        alone = InferenceSession(small[0])
        alone.run(None, {"image": rng.standard_normal((1, 3, 107, 107), np.float32)})
        assert session._runner.memory_bytes <= alone._runner.memory_bytes

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
    def test_it_is_copied_and_pickled(self, small, rng, copied):
        options = convlane.onnx.SessionOptions()
        options.intra_op_num_threads = 1
        session = InferenceSession(small[0], options)
        feeds = {"image": rng.standard_normal((1, 3, 8, 8), np.float32)}
        expected = session.run(None, feeds)
        other = copied(session)
        np.testing.assert_array_equal(other.run(None, feeds), expected)
        assert not other.why_not_compiled(feeds)
        assert other.get_session_options().intra_op_num_threads == 1

    def test_what_is_refused(self, small):
        session = InferenceSession(small[0])
        x = np.zeros((1, 3, 8, 8), np.float32)
        with pytest.raises(ValueError, match=r"image.*are missing"):
            session.run(None, {})
        with pytest.raises(ValueError, match="there is no input 'other'"):
            session.run(None, {"image": x, "other": x})
        with pytest.raises(ValueError, match="there is no output 'other'"):
            session.run(["other"], {"image": x})
        with pytest.raises(TypeError, match="must be float32, got float64"):
            session.run(None, {"image": x.astype(np.float64)})
        with pytest.raises(ValueError, match=r"must have the shape \['N', 3, 'H', 'W'\]"):
            session.run(None, {"image": x[0]})


def test_all_that_is_unsupported_is_named_at_once():
    text = """g (float[N, 2] x) => (float[N, 2] y) {
        a = Frobnicate(x) b = Frobnicate(a) c = custom.Thing(b) y = Relu(c) }"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "custom" : 3]> {text}')
    with pytest.raises(LoadError) as caught:
        convlane.load_onnx(model.SerializeToString())
    assert str(caught.value).splitlines() == [
        "3 nodes cannot be computed:",
        "  'a' (Frobnicate, opset 17), 'b' (Frobnicate, opset 17): there is no converter for this operator",
        "  'c' (custom.Thing, opset 3): there is no converter for operators of the domain 'custom'",
    ]


def test_without_the_package(tmp_path):
    code = """
import sys
sys.modules["onnx"] = None
import convlane
try:
    convlane.load_onnx(b"")
except ImportError as error:
    assert "pip install 'convlane[onnx]'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["int64", "int32", "float32"])
@pytest.mark.parametrize(
    ("op", "expected"),
    [("SumSquare", [30, 4]), ("L1", [10, 2]), ("L2", [5.477226, 2]), ("Sum", [10, -2]), ("Max", [4, 0])],
)
def test_reductions_of_integers(op, expected, kind):
    node = helper.make_node(f"Reduce{op}", ["x"], ["y"], axes=[1], keepdims=0)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [node],
        "reduced",
        [helper.make_tensor_value_info("x", element, [2, 4])],
        [helper.make_tensor_value_info("y", element, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if op == "Sum":
        model.opset_import[0].version = 11
    x = np.array([[1, 2, 3, 4], [0, 0, 0, -2]], kind)
    (found,) = InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert found.dtype == kind
    np.testing.assert_allclose(found, np.array(expected).astype(kind), rtol=1e-6)


@pytest.mark.parametrize(
    ("start", "end", "step"),
    [
        (0, 2**63 - 1, 2),
        (2**62, 2**63 - 1, 1),
        (-(2**63), 3, 1),
        (2**63 - 1, -(2**63), -2),
        (-2, -(2**63), -1),
        (1, 1, 2),
    ],
)
def test_slices_reach_beyond_the_end(start, end, step):
    text = """cut (float[2, 5] x, int64[1] starts, int64[1] ends, int64[1] axes, int64[1] steps) => (float[2, M] y) {
        y = Slice(x, starts, ends, axes, steps)
    }"""
    bounds = {"starts": [start], "ends": [end], "axes": [1], "steps": [step]}
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    feeds = {"x": x, **{name: np.array(each, np.int64) for name, each in bounds.items()}}
    (found,) = InferenceSession(model_of(text)).run(None, feeds)
    np.testing.assert_array_equal(found, x[:, start:end:step])


def test_feeds_that_are_not_arrays():
    session = InferenceSession(model_of("twice (float[N, 2] x) => (float[N, 2] y) { y = Add(x, x) }"))
    for feed in ([[1, 2.5]], np.array([[1, 2.5]], ">f4")):
        np.testing.assert_array_equal(session.run(None, {"x": feed})[0], np.float32([[2, 5]]))
    for feeds in (None, [np.zeros((1, 2), np.float32)]):
        with pytest.raises(TypeError, match="run takes a dict of arrays by the names of the inputs, got"):
            session.run(None, feeds)
