"""BYOL: predict what a slowly moving copy of yourself says about another view. No negatives.

Follows Grill et al. 2020 with the ECG views of Mehari & Strodthoff 2022 (paper B). Left out of what
paper B's code does, as a mistake: there the moving average covers only tensors with "weight" in
their name, so biases and the statistics of batch normalisation never reach the target. Here it
covers every parameter and every statistic.

    method = BYOL(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
    method.after_step()
"""

import copy
import math

import torch
from torch import nn

from .. import augment, encoders
from ..losses import byol_loss


class BYOL(nn.Module):
    """BYOL on 12-lead ECG.

    `encoder`: a name of `encoders.build`. `views`: of `augment.apply`. `momentum`: of the target at
    the first step, 0.996 in the paper; it rises to 1 along a half cosine over the run. `hidden`,
    `features`: of projector and predictor, 512 and 16 in paper B's code. `seconds`: length of a
    crop. Two switches show what keeps it from collapse: `predictor=False` leaves the predictor out,
    `stop_gradient=False` lets the network be its own target and learn through both sides.
    Chapter: *Instance discrimination*.
    """

    def __init__(
        self, *, fs=100, encoder="xresnet1d50-small", views=augment.MEHARI_VIEWS, momentum=0.996,
        hidden=512, features=16, seconds=2.5, predictor=True, stop_gradient=True,
    ):  # fmt: skip
        super().__init__()
        self.encoder = encoders.build(encoder, fs=fs)
        self.projector = _head(self.encoder.width, hidden, features)
        self.predictor = _head(features, hidden, features) if predictor else nn.Identity()
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.projector))
        self.target.requires_grad_(False)
        self.fs, self.views, self.seconds = fs, dict(views), seconds
        self.momentum, self.stop_gradient = momentum, stop_gradient
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.n_steps = 1

    def plan(self, n_steps, per_epoch):
        """How long the run will be: the momentum reaches 1 at its end."""
        self.n_steps = n_steps

    def view(self, signals):
        """One random view, (batch, lead, time) in and out, mV."""
        return augment.apply(signals, self.views, self.fs)

    def loss(self, batch):
        """Distance of each view's prediction to the target of the other, both ways."""
        views = torch.cat([self.view(batch.signals), self.view(batch.signals)])
        embeddings = self.projector(self.encoder(views))  # (2 batch, feature)
        predictions = self.predictor(embeddings)
        if not self.stop_gradient:
            first, second = embeddings.chunk(2)
            cosine = nn.functional.cosine_similarity(predictions, torch.cat([second, first]))
            return 2 * (2 - 2 * cosine.float().mean()), {}
        with torch.no_grad():
            first, second = self.target(views).chunk(2)
        return 2 * byol_loss(predictions, torch.cat([second, first])), {}

    @torch.no_grad()
    def after_step(self):
        """Move the target a little towards the network: all its weights and statistics."""
        done = min(1.0, int(self.step) / self.n_steps)
        keep = 1 - (1 - self.momentum) * (math.cos(math.pi * done) + 1) / 2
        online = nn.Sequential(self.encoder, self.projector).state_dict()
        for name, value in self.target.state_dict().items():
            if value.is_floating_point():
                value.lerp_(online[name], 1 - keep)
            else:  # batch normalisation counts its batches in whole numbers
                value.copy_(online[name])
        self.step += 1


def _head(before, hidden, after):
    return nn.Sequential(
        nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, after)
    )
