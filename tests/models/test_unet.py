"""U-Net: the paper's sizes, and every variant of it against the same steps in torch."""

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.graph.trace import trace
from networks import with_statistics


def by_torch(model, x, padded, bilinear):
    """Run the network's steps as drawn in its paper."""
    import torch
    from torch.nn import functional as F

    state = {key: torch.tensor(array) for key, array in model.state_dict().items()}

    def pair(maps, path):
        for conv in range(2):
            batch_norm = f"{path}.1.running_mean" in state
            i = (3 if batch_norm else 2) * conv
            maps = F.conv2d(maps, state[f"{path}.{i}.weight"], state.get(f"{path}.{i}.bias"), padding=int(padded))
            if batch_norm:
                names = ("running_mean", "running_var", "weight", "bias")
                maps = F.batch_norm(maps, *(state[f"{path}.{i + 1}.{name}"] for name in names))
            maps = maps.relu()
        return maps

    depth, across, maps = len(model.down), [], torch.tensor(x)
    for level in range(depth):
        across.append(pair(maps, f"down.{level}"))
        maps = F.max_pool2d(across[-1], 2)
    maps = pair(maps, "bottom")
    for level in range(depth):
        path, before = f"up.{level}.double", across.pop()
        if bilinear:
            maps = F.interpolate(maps, scale_factor=2, mode="bilinear")
            maps = F.conv2d(maps, state[f"{path}.0.weight"], state[f"{path}.0.bias"])
        else:
            maps = F.conv_transpose2d(maps, state[f"{path}.weight"], state[f"{path}.bias"], 2)
        rows, columns = (before.shape[i] - maps.shape[i] for i in (2, 3))
        if padded:
            maps = F.pad(maps, (0, columns, 0, rows))
        else:
            before = before[:, :, rows // 2 :, columns // 2 :][:, :, : maps.shape[2], : maps.shape[3]]
        maps = pair(torch.cat([before, maps], 1), f"up.{level}.convolutions")
    return F.conv2d(maps, state["classifier.weight"], state["classifier.bias"]).numpy()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((2, 3, 40, 48), {}),
        ((1, 3, 45, 39), {"bilinear": True}),
        ((1, 3, 108, 92), {"padded": False, "batch_norm": False}),
        ((1, 3, 93, 101), {"padded": False, "bilinear": True}),
    ],
)
def test_its_steps_are_the_paper_s(shape, config, rng):
    model = with_statistics(models.create("unet", 3, width=4, depth=3, **config), rng, 96)
    x = rng.standard_normal(shape, np.float32)
    expected = by_torch(model, x, config.get("padded", True), config.get("bilinear", False))
    if config.get("padded", True):
        assert expected.shape == (shape[0], 3, *shape[2:])
    plan = convlane.compile(model, (None, *shape[1:]))
    for run, bound in ((model, 1e-4), (plan, 1e-3)):
        np.testing.assert_allclose(run(x), expected, atol=bound * np.abs(expected).max())
    assert expected.std() > 0.05 * np.abs(expected).max()


def test_sizes_of_the_paper():
    with nn.init.skip():
        model = models.create("unet_2015", 3)
    graph = trace(model, (1, 1, 572, 572))
    pools = [node.shape[1:3] for node in graph.nodes.values() if node.op == "max_pool2d"]
    assert pools == [(64, 284), (128, 140), (256, 68), (512, 32)]
    assert graph.output_shape == (1, 3, 388, 388)
    assert trace(model, (1, 1, 188, 188)).output_shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match="conv2d: the padded input is"):
        trace(model, (1, 1, 187, 188))


def test_a_picture_in_tiles_is_the_whole_picture(rng):
    """The paper's network classifies a pixel only by the pixels around it."""
    model = models.create("unet", 2, in_channels=1, width=2, depth=2, padded=False, batch_norm=False)
    x = rng.standard_normal((1, 1, 76, 76), np.float32)
    whole = model(x)
    assert whole.shape == (1, 2, 36, 36)
    tile = model(x[:, :, 16:, :60])
    np.testing.assert_allclose(tile, whole[:, :, 16:, :20], rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="UNet: depth must be"):
        models.create("unet", depth=0)
    with pytest.raises(TypeError, match="UNet: width must be"):
        models.create("unet", width=2.5)
