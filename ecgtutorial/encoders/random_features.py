"""Thousands of random filters and three numbers of each: an encoder that never learns.

Follows the idea of ROCKET (Dempster et al. 2020): filters with random weights, leads and dilations
slide over a record, and what is kept of each is how high it came, how far it lay above zero in the
mean, and for what share of the time. Height and share are theirs; the mean is our addition.

    encoder = RandomConvolutions(n_kernels=1000)
    encoder(torch.randn(2, 12, 250)).shape  # (2, 3000)
"""

import torch
from torch import nn
from torch.nn import functional as F

from .recurrent import LEAD_STD

TAPS = 9  # samples that a filter reads
DILATIONS = (1, 2, 4, 8, 16)  # samples from tap to tap: 0.08 to 1.28 s in all at 100 Hz


class RandomConvolutions(nn.Module):
    """Random filters of `TAPS` samples, as many for each of the `DILATIONS`; nothing to train.

    Weights are normal and centred, biases uniform in (-1, 1), and a filter reads 1 to `n_leads`
    leads, few more often than many. With twelve leads, signals are divided by `LEAD_STD`.
    `n_kernels`: a multiple of 5. The vector has 3 `n_kernels` features. Raises ``ValueError`` for
    another number and for wrong leads. Source: Dempster et al. 2020; the mean of the positive part
    is our choice. Chapter: *Beyond the papers*.
    """

    def __init__(self, *, n_leads=12, n_kernels=1000):
        super().__init__()
        share, rest = divmod(n_kernels, len(DILATIONS))
        if share < 1 or rest:
            raise ValueError(f"n_kernels is {n_kernels}: expected a multiple of {len(DILATIONS)}")
        self.n_leads, self.width = n_leads, 3 * n_kernels
        scale = torch.tensor(LEAD_STD) if n_leads == 12 else torch.ones(n_leads)
        shape = (len(DILATIONS), share)
        weight = torch.randn(*shape, n_leads, TAPS)
        n_read = (n_leads ** torch.rand(*shape, 1)).round()  # leads that a filter reads
        order = torch.rand(*shape, n_leads).argsort(dim=-1)
        weight = weight * (order < n_read)[..., None]
        weight = weight - weight.mean(dim=-1, keepdim=True)  # a level says nothing
        self.register_buffer("scale", scale[:, None], persistent=False)
        self.register_buffer("weight", weight)  # (dilation, kernel, lead, tap)
        self.register_buffer("bias", 2 * torch.rand(*shape) - 1)

    def responses(self, signals):
        """What the filters answer, one dilation after the other: (batch, kernel, time) each."""
        if signals.ndim != 3 or signals.shape[1] != self.n_leads:
            raise ValueError(
                f"signals has shape {tuple(signals.shape)}: expected (batch, {self.n_leads}, time)"
            )
        for dilation, weight, bias in zip(DILATIONS, self.weight, self.bias):
            reach = dilation * (TAPS // 2)
            yield F.conv1d(
                signals / self.scale, weight, bias, padding=reach, dilation=dilation
            ).float()

    def tokens(self, signals):
        """All answers over time: (batch, lead, time) -> (batch, time, kernel)."""
        return torch.cat(list(self.responses(signals)), dim=1).transpose(1, 2)

    def forward(self, signals):
        """Maximum, mean of the positive part and share above zero: (batch, 3 kernels)."""
        numbers = [
            torch.cat([r.amax(dim=-1), r.relu().mean(dim=-1), (r > 0).float().mean(dim=-1)], dim=1)
            for r in self.responses(signals)
        ]
        return torch.cat(numbers, dim=1)
