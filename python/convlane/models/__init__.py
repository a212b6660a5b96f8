"""Networks with torchvision's names, state dict keys, numerics and initialisation; one file per family.

>>> from convlane import models
>>> models.list("resnet1*")
['resnet101', 'resnet110', 'resnet152', 'resnet18']
>>> models.create("resnet18", num_classes=10).fc
Linear(in_features=512, out_features=10, bias=True)
"""

from convlane.models import (  # noqa: F401  (importing registers the networks)
    alexnet,
    convnext,
    densenet,
    efficientnet,
    efficientnet_lite,
    efficientnet_v2,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    lenet,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    regnet,
    resnet,
    resnet_cifar,
    segmentation,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    zfnet,
)
from convlane.models.efficientnet import efficientnet_for
from convlane.models.fully_convolutional import to_fully_convolutional
from convlane.models.registry import create, input_shape, register
from convlane.models.registry import list_models as list
from convlane.models.saved import load

__all__ = ["create", "efficientnet_for", "input_shape", "list", "load", "register", "to_fully_convolutional"]
