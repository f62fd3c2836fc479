"""The network of contrastive predictive coding: look at every sample, then remember.

Follows Mehari & Strodthoff 2022 (paper B), "4FC + 2LSTM": four layers that see one moment each, and
a two-layer LSTM that carries what it has seen forward in time. The strided variant of the paper's
code looks at short windows and halves the rate in every layer.

    encoder = RecurrentEncoder()
    encoder(torch.randn(2, 12, 1000)).shape  # (2, 1536)
"""

import torch
from torch import nn

# Standard deviation of each lead over PTB-XL in mV, in the order of `leads.LEADS`: CPC reads leads
# of equal size (paper B, code).
LEAD_STD = (0.164, 0.165, 0.171, 0.140, 0.146, 0.147, 0.234, 0.338, 0.334, 0.306, 0.273, 0.276)


class RecurrentEncoder(nn.Module):
    """Convolutions in time, then an LSTM; mean, maximum and last state over time.

    `channels`, `hidden`: width of the convolutions and of the LSTM, 512 each in the paper.
    `kernels`, `strides`: of the convolutions; (1, 1, 1, 1) keeps the sampling rate and (10, 4, 4,
    4) with (2, 2, 2, 2) is the strided variant. With twelve leads, signals are divided by
    `LEAD_STD`. Chapter: *Contrastive predictive coding*.
    """

    def __init__(
        self, *, n_leads=12, channels=512, hidden=512, n_lstm=2, kernels=(1, 1, 1, 1),
        strides=(1, 1, 1, 1),
    ):  # fmt: skip
        super().__init__()
        if len(kernels) != len(strides):
            raise ValueError(f"{len(kernels)} kernels and {len(strides)} strides: expected as many")
        self.n_leads, self.channels, self.hidden = n_leads, channels, hidden
        scale = torch.tensor(LEAD_STD) if n_leads == 12 else torch.ones(n_leads)
        self.register_buffer("scale", scale[:, None], persistent=False)
        layers, before = [], n_leads
        for kernel, stride in zip(kernels, strides):
            layers += [
                nn.Conv1d(before, channels, kernel, stride, padding=(kernel - 1) // 2, bias=False),
                nn.BatchNorm1d(channels),
                nn.ReLU(),
            ]
            before = channels
        self.layers = nn.Sequential(*layers)
        self.lstm = nn.LSTM(channels, hidden, n_lstm, batch_first=True)
        self.stride = int(torch.tensor(strides).prod())  # samples a token
        self.width = 3 * hidden

    def local(self, signals):
        """What each moment looks like: (batch, lead, time) -> (batch, token, channels)."""
        if signals.ndim != 3 or signals.shape[1] != self.n_leads:
            raise ValueError(
                f"signals has shape {tuple(signals.shape)}: expected (batch, {self.n_leads}, time)"
            )
        return self.layers(signals / self.scale).transpose(1, 2)

    def context(self, local):
        """What has been seen up to each moment: (batch, token, channels) -> (..., hidden)."""
        return self.lstm(local)[0]

    def tokens(self, signals):
        """Context over time: (batch, lead, time) -> (batch, token, hidden)."""
        return self.context(self.local(signals)).float()

    def forward(self, signals):
        """One vector per record: (batch, lead, time) -> (batch, 3 hidden)."""
        tokens = self.tokens(signals)
        return torch.cat([tokens.mean(dim=1), tokens.amax(dim=1), tokens[:, -1]], dim=1)

    def layer_groups(self):
        """Parameters from input to output, for layer-wise rates: convolutions, then LSTM."""
        return [list(self.layers.parameters()), list(self.lstm.parameters())]
