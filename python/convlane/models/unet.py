"""U-Net: Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015.

The paper's network classifies only the pixels in the middle of a picture, 388x388 of 572x572, because its convolutions
do not pad. Most of today's networks classify every pixel, with padded convolutions and batch norm.
"""

from __future__ import annotations

from functools import partial

from convlane import nn
from convlane.functional import cat, narrow, pad
from convlane.functional._arguments import Array, as_positive
from convlane.models.blocks import head
from convlane.models.registry import register

WIDTH = 64  # channels of the largest maps
DEPTH = 4  # how often the maps are halved


class UNet(nn.Module):
    """Pairs of 3x3 convolutions on maps that are halved and then doubled again, with shortcuts between equal sizes.

    From each size to the next smaller one, the number of channels doubles.

    Parameters
    ----------
    in_channels
        The number of channels of the pictures.
    width
        The number of channels of the largest maps.
    depth
        How often the maps are halved.
    padded
        Whether the convolutions pad, so that the result is as large as the picture. Otherwise, each removes a pixel
        on every side, and maps that are concatenated with smaller maps are cropped to their middle.
    batch_norm
        Whether batch norm follows the convolutions.
    bilinear
        Whether maps are enlarged by a 1x1 convolution and interpolation instead of a transposed 2x2 convolution.
    dropout
        The probability of dropping elements of the smallest maps in training.
    """

    def __init__(
        self,
        num_classes: int = 2,
        in_channels: int = 3,
        width: int = WIDTH,
        depth: int = DEPTH,
        padded: bool = True,
        batch_norm: bool = True,
        bilinear: bool = False,
        dropout: float = 0.0,
    ) -> None:
        width, depth = as_positive(width, "UNet", "width"), as_positive(depth, "UNet", "depth")
        pair = partial(_pair, padded=padded, batch_norm=batch_norm)
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.Sequential(*map(pair, [in_channels, *widths[:-2]], widths[:-1]))
        self.pool = nn.MaxPool2d(2)
        self.bottom = pair(widths[-2], widths[-1])
        self.dropout = nn.Dropout(dropout)
        ups = [Up(channels, pair(2 * channels, channels), padded, bilinear) for channels in widths[-2::-1]]
        self.up = nn.Sequential(*ups)
        self.classifier = head(width, num_classes, partial(nn.Conv2d, kernel_size=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.init.kaiming_normal(module.weight.shape)

    def forward(self, input: Array) -> Array:
        """Return logits (N, num_classes, H, W) for pictures (N, in_channels, H, W); without padding, H and W shrink."""
        maps, skip = input, []
        for level in self.down:
            skip.append(level(maps))
            maps = self.pool(skip[-1])
        maps = self.dropout(self.bottom(maps))
        for up in self.up:
            maps = up(maps, skip.pop())
        return self.classifier(maps)  # type: ignore[no-any-return]


class Up(nn.Module):
    """Double the size of maps, concatenate them with the earlier maps of that size, and convolve both."""

    def __init__(self, channels: int, convolutions: nn.Module, padded: bool, bilinear: bool) -> None:
        if bilinear:  # convolved first, on fewer pixels, with the same result
            conv = nn.Conv2d(2 * channels, channels, 1)
            self.double: nn.Module = nn.Sequential(conv, nn.Upsample(scale_factor=2, mode="bilinear"))
        else:
            self.double = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.convolutions, self.padded = convolutions, padded

    def forward(self, input: Array, skip: Array) -> Array:
        """Return the convolved maps."""
        doubled = self.double(input)
        sizes = doubled.shape[2:]
        rows, columns = (before - now for before, now in zip(skip.shape[2:], sizes, strict=True))
        if not self.padded:
            skip = narrow(narrow(skip, 2, rows // 2, sizes[0]), 3, columns // 2, sizes[1])
        elif rows or columns:  # an odd row or column was lost when the maps were halved
            doubled = pad(doubled, (0, columns, 0, rows))
        return self.convolutions(cat([skip, doubled], 1))  # type: ignore[no-any-return]


def _pair(in_channels: int, out_channels: int, *, padded: bool, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=int(padded), bias=not batch_norm))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers)


@register(input_shape=(3, 512, 512))
def unet(
    num_classes: int = 2,
    *,
    in_channels: int = 3,
    width: int = WIDTH,
    depth: int = DEPTH,
    padded: bool = True,
    batch_norm: bool = True,
    bilinear: bool = False,
    dropout: float = 0.0,
) -> UNet:
    """Build the network that is common today, for pictures of any size from ``2**depth`` on; see `UNet`."""
    return UNet(num_classes, in_channels, width, depth, padded, batch_norm, bilinear, dropout)


@register(input_shape=(1, 572, 572))
def unet_2015(num_classes: int = 2, *, in_channels: int = 1, dropout: float = 0.5) -> UNet:
    """Build the network of the paper, for pictures from 188x188 on, of which 4x4 pixels are classified."""
    return UNet(num_classes, in_channels, padded=False, batch_norm=False, dropout=dropout)
