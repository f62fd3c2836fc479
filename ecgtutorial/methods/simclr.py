"""SimCLR: two views of one record, found again among all others.

Follows Chen et al. 2020 with the ECG views of Mehari & Strodthoff 2022 (paper B): random resized
crop, then time-out. Here it is 3KG's baseline and wears 3KG's encoder, so that the two differ in
their views and their loss alone.

    method = SimCLR(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import torch
from torch import nn

from .. import augment
from ..encoders.single_lead import SingleLeadCNN, default_strides
from ..losses import nt_xent
from . import alone


class SimCLR(nn.Module):
    """SimCLR on 12-lead ECG with signal-space views.

    `encoder`: any encoder of the book (default: 3KG's single-lead network, read out as the mean
    over leads). `temperature` 0.5 and two-layer projector as in paper B's code. `seconds`: length
    of a crop. Chapter: *3KG*.
    """

    def __init__(self, *, fs=100, encoder=None, temperature=0.5, seconds=2.5, hidden=256):
        super().__init__()
        self.encoder = encoder or SingleLeadCNN(strides=default_strides(fs))
        self.projector = nn.Sequential(
            nn.Linear(self.encoder.width, hidden), nn.ReLU(), nn.Linear(hidden, 128)
        )
        self.temperature, self.seconds = temperature, seconds
        self.gather = alone

    def view(self, signals):
        """One random view: resized crop, then time-out. (batch, lead, time) in and out, mV."""
        return augment.time_out(augment.random_resized_crop(signals))

    def loss(self, batch):
        """NT-Xent of two views of a batch, and its parts."""
        views = torch.cat([self.view(batch.signals), self.view(batch.signals)])
        z = self.projector(self.encoder(views))  # (2 batch, 128)
        # A record drawn twice into one batch would have two partners: number the rows instead.
        pair = torch.arange(len(batch.signals), device=z.device).repeat(2)
        return nt_xent(self.gather(z), self.gather_pairs(pair), self.temperature), {}

    def gather_pairs(self, pair):
        """Pair numbers of all processes, made distinct by the rows that came before."""
        gathered = self.gather(pair)
        block = torch.arange(len(gathered), device=pair.device) // len(pair)  # process number
        return gathered + block * len(pair)
