"""Networks as other libraries export them: heads of detectors, channels last, arithmetic with shapes."""

import io
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import convlane  # noqa: E402
from onnx import ValueInfoProto, helper, numpy_helper  # noqa: E402
from runtimes import check_as_onnxruntime  # noqa: E402

pytestmark = pytest.mark.onnxruntime


class ChannelsLast:
    """Writes graphs as tf2onnx does: a transpose before and after every operator that needs channels first."""

    def __init__(self, rng):
        self.rng, self.nodes, self.weights, self.count = rng, [], {}, 0

    def constant(self, value):
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value)
        return name

    def add(self, op, *inputs, **attributes):
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.count += 1
        self.nodes.append(helper.make_node(op, names, [f"t{self.count}"], **attributes))
        return f"t{self.count}"

    def first(self, op, x, *others, **attributes):
        y = self.add(op, self.add("Transpose", x, perm=[0, 3, 1, 2]), *others, **attributes)
        return self.add("Transpose", y, perm=[0, 2, 3, 1])

    def conv(self, x, before, behind, size, stride=1, depthwise=False, activation="Relu6", pad="SAME_UPPER"):
        shape = (behind, 1 if depthwise else before, size, size)
        weight = self.rng.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        options = {"strides": [stride] * 2, "auto_pad": pad, "group": before if depthwise else 1}
        y = self.first("Conv", x, weight, **options)
        y = self.add("Mul", y, self.rng.uniform(0.5, 1.5, behind).astype(np.float32))
        y = self.add("Add", y, self.rng.standard_normal(behind, np.float32))
        if activation == "Relu6":
            return self.add("Min", self.add("Max", y, np.float32(0)), np.float32(6))
        return self.add(activation, y) if activation else y

    def model(self, outputs):
        info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", "H", "W", 3])
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "g", [info], [ValueInfoProto(name=name) for name in outputs], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def test_channels_last(rng):
    g = ChannelsLast(rng)
    x = g.add("Sub", g.add("Mul", "x", np.float32(1 / 127.5)), np.float32(1))
    x = g.conv(x, 3, 8, 3, 2)
    for _ in range(3):
        y = g.conv(g.conv(x, 8, 24, 1), 24, 24, 3, depthwise=True)
        x = g.add("Add", x, g.conv(y, 24, 8, 1, activation=""))
    gate = g.conv(g.add("ReduceMean", x, axes=[1, 2], keepdims=1), 8, 4, 1, activation="Relu")
    x = g.add("Mul", x, g.conv(gate, 4, 8, 1, activation="Sigmoid"))
    x = g.conv(g.add("Pad", x, np.array([0, 1, 1, 0, 0, 1, 1, 0])), 8, 8, 3, pad="VALID")
    small = g.first("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
    small = g.conv(small, 8, 8, 3)
    middle = [np.array([at]) for at in (1, 3, 0)]
    channels = g.add(
        "Slice", g.add("Shape", g.add("Transpose", small, perm=[0, 3, 1, 2])), *(np.array([at]) for at in (0, 2, 0))
    )
    sizes = g.add("Concat", channels, g.add("Slice", g.add("Shape", x), *middle), axis=0)
    none = np.zeros(0, np.float32)
    large = g.first("Resize", small, none, none, sizes, mode="linear")
    x = g.conv(g.add("Concat", x, large, axis=3), 16, 8, 1, activation="")
    x = g.add(
        "Mul",
        g.add("Mul", x, g.add("Clip", g.add("Add", x, np.float32(3)), np.float32(0), np.float32(6))),
        np.float32(1 / 6),
    )
    boxes = g.conv(x, 8, 8, 3, activation="")
    count = g.add(
        "Cast", g.add("Slice", g.add("Cast", g.add("Shape", boxes), to=6), *(np.array([at]) for at in (0, 1, 0))), to=7
    )
    boxes = g.add("Reshape", boxes, g.add("Concat", count, np.array([-1, 4]), axis=0))
    means = g.add("ReduceMean", x, axes=[1, 2], keepdims=0)
    scores = g.add("MatMul", means, rng.standard_normal((8, 5), np.float32))
    scores = g.add("Softmax", g.add("Add", scores, rng.standard_normal(5, np.float32)), axis=-1)
    shapes = [(1, 32, 32, 3), (2, 32, 32, 3), (1, 33, 47, 3)]
    feeds = [{"x": rng.uniform(0, 255, shape).astype(np.float32)} for shape in shapes]
    session = check_as_onnxruntime(g.model([x, boxes, scores]), *feeds)
    assert session._runner._turned == {"x"}  # which plans read in this layout
    lines = str(convlane.compile(session.network, shapes[0]).profile(feeds[0]["x"])).splitlines()
    operations = [line.split()[1] for line in lines[1:] if line.split()[0].isdigit()]
    assert sum(node.op_type == "Transpose" for node in g.nodes) > 30
    assert operations.count("permute") == 3  # of the input, and of two outputs
    assert operations.count("depthwise_block") == 3
    assert not {"batch_norm", "maximum", "minimum", "pad", "clamp"} & {*operations}


def exported(module, *shapes):
    """Return the file that torch's older exporter writes, with open sizes."""
    import torch

    names = [f"x{i}" for i in range(len(shapes))]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(torch.randn(shape) for shape in shapes),
            file,
            input_names=names,
            opset_version=17,
            dynamic_axes={name: {0: "n", 2: "h", 3: "w"} for name in names},
            dynamo=False,
        )
    return file.getvalue()


def networks():
    """Return networks in the styles of several families."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def conv(before, behind, size=3, **options):
        return nn.Conv2d(before, behind, size, padding=size // 2, **options)

    class Yolo8(nn.Module):
        """Boxes from sums over softmaxes of distances, around the points of a grid that follows from the sizes."""

        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([conv(4, 8, stride=2), conv(8, 8, stride=2)])
            self.heads = nn.ModuleList([conv(8, 64 + 3), conv(8, 64 + 3)])
            self.dfl = nn.Conv2d(16, 1, 1, bias=False)

        def forward(self, x):
            found, points, strides = [], [], []
            for i, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
                x = F.silu(stage(x))
                y = head(x)
                h, w = y.shape[2:]
                gy, gx = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
                points.append(torch.stack((gx, gy), -1).view(-1, 2))
                strides.append(torch.full((h * w, 1), float(2 << i)))
                found.append(y.view(y.shape[0], 67, -1))
            boxes, classes = torch.cat(found, 2).split((64, 3), 1)
            b, _, count = boxes.shape
            d = self.dfl(boxes.view(b, 4, 16, count).transpose(2, 1).softmax(1)).view(b, 4, count)
            near, far = d.chunk(2, 1)
            at = torch.cat(points).T.unsqueeze(0)
            low, high = at - near, at + far
            boxes = torch.cat(((low + high) / 2, high - low), 1) * torch.cat(strides).T
            return torch.cat((boxes, classes.sigmoid()), 1)

    class Yolo5(nn.Module):
        """Boxes decoded in place, which is exported as ScatterND."""

        def __init__(self):
            super().__init__()
            self.head = conv(4, 24, stride=2)
            self.register_buffer("anchors", torch.rand(1, 3, 1, 1, 2) * 10)

        def forward(self, x):
            y = self.head(x)
            n, _, h, w = y.shape
            y = y.view(n, 3, 8, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack((gx, gy), 2).expand(1, 3, h, w, 2).float()
            y[..., 0:2] = (y[..., 0:2] * 2 - 0.5 + grid) * 8
            y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors
            return y.view(n, -1, 8)

    class Windows(nn.Module):
        """Attention in windows of 4x4, shifted by two."""

        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 24), nn.Linear(8, 4)

        def forward(self, x):
            n, c, h, w = x.shape
            y = torch.roll(x, (-2, -2), (2, 3)).view(n, c, h // 4, 4, w // 4, 4)
            y = y.permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
            q, k, v = self.qkv(y).view(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
            y = self.out(y.transpose(1, 2).reshape(-1, 16, 8))
            y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
            return x + torch.roll(y, (2, 2), (2, 3))

    class Pyramid(nn.Module):
        """Maps that are resized to each other's sizes, padded to fit and shuffled, and slices with computed bounds."""

        def __init__(self):
            super().__init__()
            self.a, self.b = conv(4, 8, stride=2), conv(8, 8, stride=2)
            self.up = nn.ConvTranspose2d(8, 8, 2, 2)
            self.norms = nn.Sequential(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8))

        def forward(self, x):
            a = self.norms(self.a(x))
            b = self.b(a)
            up = self.up(b)
            dh, dw = a.shape[2] - up.shape[2], a.shape[3] - up.shape[3]
            up = F.pad(up, (dw // 2, dw - dw // 2, dh // 2, dh - dh // 2))
            y = a + up + F.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)
            n, c, h, w = y.shape
            mixed = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            return (
                F.pixel_shuffle(mixed, 2),
                y[:, :, h // 4 : h // 4 + h // 2, 1:-1],
                F.hardswish(y).flatten(2).mean(-1),
            )

    return {"yolo8": Yolo8(), "yolo5": Yolo5(), "windows": Windows(), "pyramid": Pyramid()}


@pytest.mark.torch
@pytest.mark.parametrize("name", ["yolo8", "yolo5", "windows", "pyramid"])
def test_torch(name, rng):
    shapes = [(1, 4, 16, 16), (2, 4, 16, 16), (1, 4, 20, 24)]
    model = exported(networks()[name], (2, 4, 16, 16))
    check_as_onnxruntime(model, *({"x0": rng.standard_normal(shape, np.float32)} for shape in shapes), rtol=5e-4)
