"""The single-lead convolutional network of 3KG.

Follows Gopal et al. 2021 (paper D), appendix A: six layers, each convolution -> LeakyReLU(0.2) ->
batch normalisation, then the mean over time. It sees one lead at a time and does not know which:
all twelve leads share its 150,784 parameters.

    encoder = SingleLeadCNN()
    encoder(torch.randn(2, 12, 500)).shape  # (2, 256)
"""

from torch import nn
from torch.nn import functional as F

CHANNELS = (16, 32, 64, 64, 128, 256)
KERNELS = (7, 7, 5, 3, 3, 3)


class SingleLeadCNN(nn.Module):
    """One lead in, 256 features out; twelve leads are read by the same weights.

    `strides`: of the six layers. The paper's are (4, 3, 2, 1, 1, 1) at 500 Hz, a feature every
    48 ms; see `default_strides` for 100 Hz. `readout`: how the leads become one vector, ``"mean"``
    of the normalised lead embeddings (paper D, section 4: 256 features) or ``"concat"`` in the
    order of the leads (our choice: 256 features a lead, and the head knows which lead is which).
    Padding is half a kernel (our choice; the paper does not say). Chapter: *3KG*.
    """

    def __init__(self, *, strides=(4, 3, 2, 1, 1, 1), readout="mean", n_leads=12):
        super().__init__()
        if len(strides) != len(CHANNELS):
            raise ValueError(f"strides has {len(strides)} values: expected {len(CHANNELS)}")
        layers = []
        for before, after, kernel, stride in zip((1, *CHANNELS), CHANNELS, KERNELS, strides):
            layers += [
                nn.Conv1d(before, after, kernel, stride, padding=kernel // 2),
                nn.LeakyReLU(0.2),
                nn.BatchNorm1d(after),
            ]
        self.layers = nn.Sequential(*layers)
        self.n_leads = n_leads
        self.lead_width = CHANNELS[-1]
        self.set_readout(readout)

    def set_readout(self, readout):
        """Choose how the leads become one vector: ``"mean"`` or ``"concat"``. No weight changes."""
        if readout not in ("mean", "concat"):
            raise ValueError(f"readout is {readout!r}: expected 'mean' or 'concat'")
        self.readout = readout
        self.width = self.lead_width * (self.n_leads if readout == "concat" else 1)

    def maps(self, signals):
        """Features of every lead over time: (batch, lead, time) -> (batch, lead, 256, token)."""
        if signals.ndim != 3 or signals.shape[1] != self.n_leads:
            raise ValueError(
                f"signals has shape {tuple(signals.shape)}: expected (batch, {self.n_leads}, time)"
            )
        batch, n_leads, time = signals.shape
        features = self.layers(signals.reshape(batch * n_leads, 1, time))
        return features.unflatten(0, (batch, n_leads))  # (batch, lead, 256, token)

    def leads(self, signals):
        """One embedding per lead: (batch, lead, time) -> (batch, lead, 256)."""
        return self.maps(signals).float().mean(dim=-1)

    def tokens(self, signals):
        """Features over time, averaged over leads: (batch, lead, time) -> (batch, token, 256)."""
        return self.maps(signals).float().mean(dim=1).transpose(1, 2)

    def forward(self, signals):
        """One vector per record: (batch, lead, time) -> (batch, width)."""
        leads = F.normalize(self.leads(signals), dim=-1)  # (batch, lead, 256)
        return leads.mean(dim=1) if self.readout == "mean" else leads.flatten(1)


def default_strides(fs):
    """Strides for a sampling rate: the paper's from 250 Hz up, a total of 16 below (our choice).

    At 500 Hz the paper's total stride of 24 is one feature every 48 ms. The same total at 100 Hz
    would be one every 240 ms, longer than a QRS complex; 16 gives one every 160 ms.
    """
    return (4, 3, 2, 1, 1, 1) if fs >= 250 else (4, 2, 2, 1, 1, 1)


def parameter_count(module):
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

