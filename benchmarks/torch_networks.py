"""torch's versions of convlane's networks, by name: those of torchvision, and others that torchvision does not have.

The keys of their ``state_dict`` are the same as convlane's.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for torchvision_import and networks


def torch_network(name, **config):
    """Build a network, whose weights have to be loaded afterwards."""
    if name in _OWN:
        return _OWN[name](**config)
    from networks import torchvision_network

    return torchvision_network(name, **config)


def torchvision():
    """Import torchvision, which needs a workaround with torch's CPU build."""
    from torchvision_import import import_torchvision

    return import_torchvision()


def _lenet5(num_classes=10):
    from torch import nn

    def convolution(inputs, outputs):
        return nn.Conv2d(inputs, outputs, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)

    hidden = (nn.Linear(400, 120), nn.ReLU(inplace=True), nn.Linear(120, 84), nn.ReLU(inplace=True))
    features = nn.Sequential(*convolution(1, 6), *convolution(6, 16))
    classifier = nn.Sequential(*hidden, nn.Linear(84, num_classes))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


def _unet(num_classes=2, width=64, depth=4):
    """Return the padded form with batch norm, for pictures whose sides are multiples of ``2**depth``."""
    import torch
    from torch import nn

    def pair(inputs, outputs):
        layers = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)

    class Up(nn.Module):
        def __init__(self, channels):
            super().__init__()
            # The key is `double`, which cannot be the attribute's name, because modules have a method of that name.
            self.doubled = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
            self.convolutions = pair(2 * channels, channels)
            self.register_state_dict_post_hook(lambda _, state, prefix, __: rename(state, prefix, "doubled", "double"))
            self.register_load_state_dict_pre_hook(
                lambda _, state, prefix, *__: rename(state, prefix, "double", "doubled")
            )

        def forward(self, maps, across):
            return self.convolutions(torch.cat([across, self.doubled(maps)], 1))

    def rename(state, prefix, old, new):
        for key in [key for key in state if key.startswith(f"{prefix}{old}.")]:
            state[f"{prefix}{new}{key.removeprefix(prefix + old)}"] = state.pop(key)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [width << level for level in range(depth + 1)]
            self.down = nn.Sequential(*map(pair, [3, *widths[:-2]], widths[:-1]))
            self.pool = nn.MaxPool2d(2)
            self.bottom = pair(widths[-2], widths[-1])
            self.up = nn.Sequential(*map(Up, widths[-2::-1]))
            self.classifier = nn.Conv2d(width, num_classes, 1)

        def forward(self, maps):
            across = []
            for level in self.down:
                across.append(level(maps))
                maps = self.pool(across[-1])
            maps = self.bottom(maps)
            for up in self.up:
                maps = up(maps, across.pop())
            return self.classifier(maps)

    return UNet()


_OWN = {"lenet5": _lenet5, "unet": _unet}
