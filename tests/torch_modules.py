"""Networks as users write them, in torch."""

import torch
from torch import nn
from torch.nn import functional as F


class LargeKernels(nn.Module):
    """Depthwise 9x9, as in ConvNeXt and RepLKNet, with PReLU and GroupNorm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 9, padding=4, groups=8)
        self.norm = nn.GroupNorm(4, 8)
        self.act = nn.PReLU(8)

    def forward(self, x):
        x = self.stem(x)
        return x + self.act(self.norm(self.depthwise(x)))


class MeansAndViews(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 4)
        self.fc2 = nn.Linear(6 * 10 * 10, 4)

    def forward(self, x):
        y = F.hardswish(self.conv(x))
        n, c, h, w = y.shape
        z = y.view(n, c, h * w).transpose(1, 2).reshape(n, -1)
        return self.fc(y.mean(dim=[2, 3])) + self.fc2(z) - y.amax((2, 3)).std(1, keepdim=True)


class Upward(nn.Module):
    """A small U-Net with a transposed convolution and an interpolation."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ELU(), nn.MaxPool2d(2))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x):
        y = self.up(self.down(x))
        y = self.out(torch.cat([x, y], dim=1))
        return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)


class Branches(nn.Module):
    """A residual connection in each branch, and a gate."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.b = nn.Conv2d(4, 4, 1)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        a = x + F.silu(self.a(x))
        b = (x - self.b(x)).clamp(-1, 1) * 0.5
        return torch.chunk(a * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(a, 1))) + b, 2, dim=1)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(7, 5)

    def forward(self, image, code):
        return F.gelu(self.conv(image) * self.fc(code)[:, :, None, None])


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classes, self.boxes = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.leaky_relu(self.body(x), 0.1)
        return {"classes": self.classes(x).softmax(1), "boxes": self.boxes(x).permute(0, 2, 3, 1).flatten(1, 2)}


class Shared(nn.Module):
    """One module that is called twice, and two modules that share a weight."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.conv(torch.tanh(self.conv(x))).sum((2, 3)) / 10
        return self.second(self.first(x))


class InPlace(nn.Module):
    """In-place operations, also on views."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        y += 1
        z = F.silu(y)
        z[:, 1:3] *= 2
        z[:, 0] = 0.5
        return z.mul_(0.5).sub_(y)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.place = nn.Parameter(torch.randn(1, 9, 8))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        y = self.norm(x)
        return (x + self.attention(y, y, y, need_weights=False)[0])[:, 0]


class Containers(nn.Module):
    """A dict and a tuple as inputs, a list as output; constants that are not parameters; a signal and an image."""

    def __init__(self):
        super().__init__()
        self.conv, self.signal = nn.Conv2d(3, 4, 3), nn.Conv1d(2, 4, 3, padding=1)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, named, pair):
        image = self.conv(named["image"] - self.mean)
        signal = F.pad(self.signal(pair[0]), (1, 1), mode="reflect").mean(-1)
        weights = torch.linspace(0, 1, 4) + pair[1]
        return [torch.where(image > 0, image, image * 0.1), (signal * weights, F.softplus(signal))]


class Masks(nn.Module):
    """Booleans joined with ``|``, ``&`` and ``^``; results that are not floating-point numbers, and statistics."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        y = self.conv(x)
        chosen = ((y > 0.3) | (y < -0.3)) & torch.isfinite(y) ^ torch.isinf(y)
        z = torch.where(chosen, y, -1.0).masked_fill(y.abs() > 1.5, 2.0)
        return {"z": z, "count": chosen.float().sum((1, 2, 3)), "spread": torch.var_mean(y, dim=(2, 3), unbiased=False)}


class Quantised(nn.Module):
    """VQ-VAE: the nearest of several vectors, with a straight-through gradient, and a target without a gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        self.register_buffer("codes", torch.randn(10, 4))

    def forward(self, x):
        z = self.conv(x).permute(0, 2, 3, 1)
        with torch.no_grad():
            target = self.conv(x.flip(-1)).sigmoid()
        q = self.codes[(z.unsqueeze(-2) - self.codes).square().sum(-1).argmin(-1)]
        return self.out((z + (q - z).detach()).permute(0, 3, 1, 2)) * target.mean(1, keepdim=True)


class Recurrent(nn.Module):
    """CRNN: an LSTM and a GRU over the columns of an image."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(10, 3)
        self.lstm = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(10, 10, batch_first=True)

    def forward(self, x):
        y = self.conv(x).flatten(1, 2).transpose(1, 2)
        return self.out(self.gru(self.lstm(y)[0])[0])


class Cell(nn.Module):
    """A step of a ConvLSTM, whose state is an input and an output."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(7, 16, 3, padding=1)

    def forward(self, x, h, c):
        i, f, g, o = torch.split(self.conv(torch.cat([x, h], 1)), 4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


class ResponseNorm(nn.Module):
    """ConvNeXt V2: a norm over positions, channels last, and a scaled residual."""

    def __init__(self):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.gamma, self.scale = nn.Parameter(torch.randn(1, 1, 1, 32)), nn.Parameter(0.1 * torch.ones(8))

    def forward(self, x):
        y = F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        g = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = self.gamma * (y * (g / (g.mean(dim=-1, keepdim=True) + 1e-6))) + y
        return x + (self.scale * self.down(y)).permute(0, 3, 1, 2)


class Dynamic(nn.Module):
    """Computed weights: standardised, and different ones for each example."""

    def __init__(self):
        super().__init__()
        self.conv, self.route = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)
        self.weights = nn.Parameter(0.2 * torch.randn(2, 8, 3, 3, 3))

    def forward(self, x):
        w = self.conv.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        x = F.conv2d(x, w, self.conv.bias, padding=1)
        n, _, height, width = x.shape
        mixed = (self.route(x.mean((2, 3))).sigmoid() @ self.weights.view(2, -1)).view(n * 8, 3, 3, 3)
        return F.conv2d(x.reshape(1, n * 3, height, width), mixed, padding=1, groups=n).view(n, 8, height, width)


class Volume(nn.Module):
    """A three-dimensional U-Net."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1, bias=False), nn.InstanceNorm3d(4), nn.LeakyReLU(0.1))
        self.bottom = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.up, self.out = nn.ConvTranspose3d(8, 4, 2, 2), nn.Conv3d(8, 3, 1)

    def forward(self, x):
        x = self.down(x)
        return self.out(torch.cat((x, self.up(self.bottom(F.max_pool3d(x, 2)))), 1))


NETWORKS = {
    "large kernels": (LargeKernels, lambda n: (torch.randn(n, 3, 18, 18),)),
    "means and views": (MeansAndViews, lambda n: (torch.randn(n, 3, 12, 12),)),
    "upward": (Upward, lambda n: (torch.randn(n, 3, 12, 12),)),
    "branches": (Branches, lambda n: (torch.randn(n, 4, 9, 9),)),
    "two inputs": (TwoInputs, lambda n: (torch.randn(n, 3, 8, 8), torch.randn(n, 7))),
    "two outputs": (TwoOutputs, lambda n: (torch.randn(n, 3, 8, 8),)),
    "shared": (Shared, lambda n: (torch.randn(n, 3, 8, 8),)),
    "in place": (InPlace, lambda n: (torch.randn(n, 3, 8, 8),)),
    "attention": (Attention, lambda n: (torch.randn(n, 3, 12, 12),)),
    "containers": (
        Containers,
        lambda n: ({"image": torch.randn(n, 3, 8, 8)}, (torch.randn(n, 2, 9), torch.randn(n, 4))),
    ),
    "masks": (Masks, lambda n: (torch.randn(n, 3, 9, 9),)),
    "quantised": (Quantised, lambda n: (torch.randn(n, 3, 6, 6),)),
    "recurrent": (Recurrent, lambda n: (torch.randn(n, 3, 4, 9),)),
    "cell": (Cell, lambda n: (torch.randn(n, 3, 8, 8), torch.randn(n, 4, 8, 8), torch.randn(n, 4, 8, 8))),
    "response norm": (ResponseNorm, lambda n: (torch.randn(n, 8, 9, 9),)),
    "dynamic": (Dynamic, lambda n: (torch.randn(n, 3, 8, 8),)),
    "volume": (Volume, lambda n: (torch.randn(n, 2, 8, 8, 8),)),
}
"""By name: a function that makes the network, and a function that makes inputs for a number of examples."""


def make(name, n=2):
    """Return a network whose statistics are not trivial, and its inputs."""
    torch.manual_seed(0)
    kind, inputs = NETWORKS[name]
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return network, inputs(n)
