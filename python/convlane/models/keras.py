"""What Keras's networks compute otherwise than torchvision's, where both have one: paddings, epsilons and strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convlane import nn
from convlane.models.resnet import Bottleneck

EPSILON, RESNET_EPSILON = 1e-3, 1.001e-5


def as_keras(network: nn.Module, name: str) -> nn.Module:
    """Change a network so that it computes what Keras's does with the same weights; return it.

    Raises
    ------
    ValueError
        It is none that Keras's weights are known for.
    """
    if name not in KERAS:
        raise ValueError(f"create: {name} is none of the networks that can compute as Keras's ({', '.join(KERAS)})")
    for change in KERAS[name]:
        network.apply(change)
    return network


def _epsilon(value: float) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = value

    return change


def _pad_as_tensorflow(module: nn.Module) -> None:
    """TensorFlow's padding "same": where one side has to get more, that is the right or the lower one."""
    if isinstance(module, nn.Conv2d) and module.stride != (1, 1) and module.kernel_size != (1, 1):
        module.padding = "same_tf"


def _count_pixels_alone(module: nn.Module) -> None:
    """TensorFlow's averages leave out the padding."""
    if isinstance(module, nn.AvgPool2d):
        module.count_include_pad = False


def _stride_first(module: nn.Module) -> None:
    """As in the first version of the paper, the first convolution of a block has the stride, not the second."""
    if isinstance(module, Bottleneck):
        module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride


def keras_defaults(name: str) -> dict[str, Any]:
    """Return arguments of a family that are others in Keras."""
    return {"aux_logits": False} if name == "inception_v3" else {}


KERAS: dict[str, tuple[Callable[[nn.Module], None], ...]] = {
    "efficientnet_b0": (_epsilon(EPSILON), _pad_as_tensorflow),
    "inception_v3": (_epsilon(EPSILON), _count_pixels_alone),
    "mobilenet_v1": (_epsilon(EPSILON), _pad_as_tensorflow),
    "mobilenet_v2": (_epsilon(EPSILON), _pad_as_tensorflow),
    "resnet50": (_epsilon(RESNET_EPSILON), _stride_first),
    "vgg16": (),
}
