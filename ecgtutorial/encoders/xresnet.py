"""The narrow xresnet1d50: a residual network that reads all leads together.

Follows Mehari & Strodthoff 2022 (paper B): the residual network of He et al. 2016 with the stem,
the averaging shortcut and the zero start of He et al. 2019 ("bag of tricks"), in one dimension and
with every stage equally wide. At the paper's size the body has 886,400 parameters; the reference
has 32 more, a bias in its first convolution that the batch normalisation behind it takes out again.

    encoder = XResNet1d()
    encoder(torch.randn(2, 12, 250)).shape  # (2, 512)
"""

import torch
from torch import nn
from torch.nn import functional as F

EXPANSION = 4  # a block's output is this much wider than its middle
KERNEL = 5


class XResNet1d(nn.Module):
    """Stem, four stages of bottleneck blocks, then maximum and mean over time.

    `channels`: width of a block's middle, 64 in the paper. `blocks`: number of blocks in the four
    stages, (3, 4, 6, 3) in the paper. A token covers 32 samples: the stem halves the rate twice,
    the last three stages once each. `width`: 8 `channels` features. Chapter: *The supervised
    baseline*.
    """

    def __init__(self, *, n_leads=12, channels=64, blocks=(3, 4, 6, 3)):
        super().__init__()
        self.n_leads = n_leads
        half, wide = channels // 2, EXPANSION * channels
        self.stem = nn.Sequential(
            _convolution(n_leads, half, KERNEL, stride=2),
            _convolution(half, half, KERNEL),
            _convolution(half, channels, KERNEL),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList()
        for stage, count in enumerate(blocks):
            first = _Block(wide if stage else channels, channels, stride=2 if stage else 1)
            rest = [_Block(wide, channels) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(first, *rest))
        self.width = 2 * wide

    def maps(self, signals):
        """Features over time: (batch, lead, time) -> (batch, 4 channels, token)."""
        if signals.ndim != 3 or signals.shape[1] != self.n_leads:
            raise ValueError(
                f"signals has shape {tuple(signals.shape)}: expected (batch, {self.n_leads}, time)"
            )
        features = self.stem(signals)  # (batch, channels, time / 4)
        for stage in self.stages:
            features = stage(features)
        return features  # (batch, 4 channels, time / 32)

    def tokens(self, signals):
        """Features over time: (batch, lead, time) -> (batch, token, 4 channels)."""
        return self.maps(signals).float().transpose(1, 2)

    def forward(self, signals):
        """One vector per record: (batch, lead, time) -> (batch, width)."""
        features = self.maps(signals).float()
        return torch.cat([features.amax(dim=-1), features.mean(dim=-1)], dim=1)

    def layer_groups(self):
        """Parameters from input to output, for layer-wise learning rates: stem, then stages."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


class _Block(nn.Module):
    """Bottleneck: narrow, convolve, widen, and add what came in."""

    def __init__(self, before, channels, stride=1):
        super().__init__()
        after = EXPANSION * channels
        self.body = nn.Sequential(
            _convolution(before, channels, 1),
            _convolution(channels, channels, KERNEL, stride),
            _convolution(channels, after, 1, activation=False),
        )
        # At the start the body adds nothing, and 50 layers train like a few.
        nn.init.zeros_(self.body[-1][1].weight)
        shortcut = []
        if stride > 1:
            shortcut.append(nn.AvgPool1d(2, stride=2, ceil_mode=True))
        if before != after:
            shortcut.append(_convolution(before, after, 1, activation=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x):  # (batch, before, time) -> (batch, 4 channels, time / stride)
        return F.relu(self.body(x) + self.shortcut(x))


def _convolution(before, after, kernel, stride=1, activation=True):
    layers = [
        nn.Conv1d(before, after, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm1d(after),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activation else []))
