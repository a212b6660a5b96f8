"""Blocks of published networks as people write them in torch, each with something that is easy to get wrong."""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation with sizes of the input in views and expansions."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        x = self.conv(x)
        b, c, _, _ = x.size()
        y = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).view(b, c)))).sigmoid()
        return x * y.view(b, c, 1, 1).expand_as(x)


class ChannelAndSpatialAttention(nn.Module):
    """CBAM: maxima whose indices are not used; and ECA, which treats channels as a signal."""

    def __init__(self):
        super().__init__()
        self.conv, self.places, self.signal = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(2, 1, 7, padding=3),
            nn.Conv1d(1, 1, 3, 1, 1),
        )

    def forward(self, x):
        x = self.conv(x)
        largest, _ = torch.max(x, dim=1, keepdim=True)
        x = x * self.places(torch.cat([x.mean(dim=1, keepdim=True), largest], dim=1)).sigmoid()
        y = self.signal(F.adaptive_max_pool2d(x, 1).squeeze(-1).transpose(-1, -2))
        return x * y.transpose(-1, -2).unsqueeze(-1).sigmoid()


class Temporal(nn.Module):
    """TCN: computed weights, and a result that is cropped at the end."""

    def __init__(self):
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(4, 8, 3, padding=4, dilation=2))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(F.relu(self.conv(x)[:, :, :-4].contiguous())[:, :, -1])


class Boxes(nn.Module):
    """YOLO's head: grids that are computed from the input's size, and a named tuple as result."""

    class Found(NamedTuple):
        centres: torch.Tensor
        scores: torch.Tensor

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2 * 3, 1)

    def forward(self, x):
        p = self.conv(F.max_pool2d(x, 2))
        b, _, height, width = p.shape
        p = p.view(b, 2, 3, height, width).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack((columns, rows), 2).view(1, 1, height, width, 2).float()
        return Boxes.Found(((p[..., :2] * 2 - 0.5 + grid) * 2).view(b, -1, 2), p[..., 2].view(b, -1))


class Turned(nn.Module):
    """A spatial transformer."""

    def __init__(self):
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6))
        self.locate[-1].weight.data.mul_(0.1)

    def forward(self, x):
        grid = F.affine_grid(self.locate(x).view(-1, 2, 3), x.size(), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


class Involution(nn.Module):
    """Windows of an image, weighted by kernels that are computed from it."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Conv2d(3, 9, 1)

    def forward(self, x):
        kernel = self.kernel(x)
        b, _, h, w = kernel.shape
        return (kernel.unsqueeze(1) * F.unfold(x, 3, padding=1).view(b, 3, 9, h, w)).sum(2)


class SineEncoding(nn.Module):
    """DETR's sine encoding: cumulative sums of Booleans, and constants of the input's size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        x = self.conv(x)
        empty = ~torch.zeros((x.shape[0], x.shape[2], x.shape[3]), dtype=torch.bool)
        rows, columns = empty.cumsum(1, dtype=torch.float32), empty.cumsum(2, dtype=torch.float32)
        period = 100 ** (2 * torch.div(torch.arange(4, dtype=torch.float32), 2, rounding_mode="floor") / 4)
        encoded = [
            torch.stack((each[..., 0::2].sin(), each[..., 1::2].cos()), dim=4).flatten(3)
            for each in (rows[..., None] / period, columns[..., None] / period)
        ]
        return x + torch.cat(encoded, dim=3).permute(0, 3, 1, 2)


class Shifted(nn.Module):
    """TSM: examples of several pictures, and assignments to parts of a result."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        n, t, c, h, w = x.size()
        y = self.conv(x.view(n * t, c, h, w)).view(n, t, 4, h, w)
        shifted = torch.zeros_like(y)
        shifted[:, :-1, :2] = y[:, 1:, :2]
        shifted[:, 1:, 2:] = y[:, :-1, 2:]
        return shifted.mean(1) * math.sqrt(2)


class Unpooled(nn.Module):
    """SegNet: the indices of the maxima are passed to another layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x):
        return self.unpool(*self.pool(self.conv(x)))


class Encoder(nn.Module):
    """A vision transformer of torch's own layers."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.layers(torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1))[:, 0]


BLOCKS = {
    "squeeze and excite": (SqueezeExcite, (3, 12, 12)),
    "attention": (ChannelAndSpatialAttention, (3, 12, 12)),
    "temporal": (Temporal, (4, 20)),
    "boxes": (Boxes, (3, 12, 12)),
    "turned": (Turned, (3, 16, 16)),
    "involution": (Involution, (3, 9, 9)),
    "sine encoding": (SineEncoding, (3, 10, 10)),
    "shifted": (Shifted, (3, 3, 8, 8)),
    "unpooled": (Unpooled, (3, 8, 8)),
    "encoder": (Encoder, (3, 12, 12)),
}
OPEN = {"squeeze and excite", "attention", "boxes", "sine encoding"}
"""Blocks that take pictures of any size."""
MIXING = {"shifted", "encoder"}
"""Blocks in which examples are not always the first dimension, so that plans are for whole inputs."""


def make(name):
    """Return the network in eval mode and the shape of an example."""
    torch.manual_seed(0)
    kind, shape = BLOCKS[name]
    return kind().eval(), shape
