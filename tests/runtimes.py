"""ONNX files on onnxruntime and on convlane, eagerly and through a session."""

import numpy as np

from convlane.onnx import InferenceSession


def model_of(text, opset=17, **weights):
    """Return the bytes of a model in ONNX's text, with arrays as initialisers."""
    import onnx

    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    return model.SerializeToString()


def node_model(op, feeds, constants=None, *, opset=17, outputs=("y",), **attributes):
    """Return the bytes of a model of one node, whose inputs are the fed arrays, followed by the constants."""
    from onnx import ValueInfoProto, helper, numpy_helper

    constants = constants or {}
    node = helper.make_node(op, [*feeds, *constants], list(outputs), **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), [None] * x.ndim)
        for name, x in feeds.items()
    ]
    declared = [ValueInfoProto(name=name) for name in outputs]
    weights = [numpy_helper.from_array(np.asarray(w), name) for name, w in constants.items()]
    graph = helper.make_graph([node], op, inputs, declared, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9).SerializeToString()


def check_as_onnxruntime(data, *all_feeds, rtol=1e-4, compiled=True):
    """Run a model on each of several feeds, and compare with onnxruntime; return the session.

    Parameters
    ----------
    data
        The bytes of the model, or its path.
    all_feeds
        Arrays by the names of the inputs.
    rtol
        The tolerance of each number, relative to itself and to the largest one.
    compiled
        Whether all of it has to be part of a plan.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    theirs = onnxruntime.InferenceSession(data, options)
    session = InferenceSession(data)
    for feeds in all_feeds:
        expected = theirs.run(None, feeds)
        eager = session.network(**feeds)
        if not isinstance(eager, dict):
            eager = {session.network.outputs[0].name: eager}
        for arrays in (eager.values(), session.run(None, feeds)):
            for found, reference in zip(arrays, expected, strict=True):
                assert found.shape == reference.shape
                finite = np.abs(reference[np.isfinite(reference)]) if reference.dtype.kind == "f" else np.zeros(0)
                near = rtol * max(finite.max(initial=0), 1e-3)
                np.testing.assert_allclose(found, reference, rtol=rtol, atol=near)
        if compiled:
            assert not session.why_not_compiled(feeds)
    return session
