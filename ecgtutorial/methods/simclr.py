"""SimCLR: two views of one record, found again among all others.

Follows Chen et al. 2020 with the ECG views of Mehari & Strodthoff 2022 (paper B): random resized
crop, then time-out. By default it wears 3KG's encoder, so that the two differ in their views and
their loss alone; paper B's own is ``encoder="xresnet1d50", hidden=512, features=16``. That paper's
code ignores the weight decay it is given; `pretrain` does not.

    method = SimCLR(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import torch
from torch import nn

from .. import augment, encoders
from ..losses import nt_xent
from . import alone


class SimCLR(nn.Module):
    """SimCLR on 12-lead ECG with signal-space views.

    `encoder`: a name of `encoders.build`. `views`: of `augment.apply`. `temperature` 0.5 and a
    two-layer projector, `hidden` then `features`, without batch normalisation, as in paper B's
    code. `seconds`: length of a crop. Chapters: *3KG*, *Instance discrimination*.
    """

    def __init__(
        self, *, fs=100, encoder="single-lead", views=augment.MEHARI_VIEWS, temperature=0.5,
        seconds=2.5, hidden=256, features=128,
    ):  # fmt: skip
        super().__init__()
        self.encoder = encoders.build(encoder, fs=fs)
        self.projector = nn.Sequential(
            nn.Linear(self.encoder.width, hidden), nn.ReLU(), nn.Linear(hidden, features)
        )
        self.fs, self.views = fs, dict(views)
        self.temperature, self.seconds = temperature, seconds
        self.gather = alone

    def view(self, signals):
        """One random view, (batch, lead, time) in and out, mV."""
        return augment.apply(signals, self.views, self.fs)

    def loss(self, batch):
        """NT-Xent of two views of a batch, and its parts."""
        views = torch.cat([self.view(batch.signals), self.view(batch.signals)])
        z = self.projector(self.encoder(views))  # (2 batch, feature)
        # A record drawn twice into one batch would have two partners: number the rows instead.
        pair = torch.arange(len(batch.signals), device=z.device).repeat(2)
        return nt_xent(self.gather(z), self.gather_pairs(pair), self.temperature), {}

    def gather_pairs(self, pair):
        """Pair numbers of all processes, made distinct by the rows that came before."""
        gathered = self.gather(pair)
        block = torch.arange(len(gathered), device=pair.device) // len(pair)  # process number
        return gathered + block * len(pair)
