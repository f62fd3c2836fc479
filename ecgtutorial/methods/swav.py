"""SwAV: sort the views of a batch into clusters, and tell each view's cluster from another view.

Follows Caron et al. 2020 with the ECG views of Mehari & Strodthoff 2022 (paper B): several views of
one length, prototypes that stand still in the first epoch, and a queue of earlier records that
helps a small batch to fill its clusters. Paper B's code ignores its own settings for learning rate
and projection size here; this one takes both.

    method = SwAV(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
    method.after_step()
"""

import torch
from torch import nn
from torch.nn import functional as F

from .. import augment, encoders
from ..losses import sinkhorn, swapped_prediction
from . import alone


class SwAV(nn.Module):
    """SwAV on 12-lead ECG.

    `encoder`: a name of `encoders.build`. `views`: of `augment.apply`; `n_views` of them, of which
    the first two are assigned to clusters. `prototypes`, `hidden`, `features`: 3000, 2048 and 128
    in paper B; the defaults fit some thousand records (our choice). `queue`: number of earlier
    records that take part in the sharing from epoch `queue_from` on, 0 for none. `epsilon`,
    `n_iterations`: of `losses.sinkhorn`, whose removal (0 iterations) makes the method collapse.
    `frozen_epochs`: in which the prototypes do not move. `seconds`: length of a crop.
    Chapter: *Instance discrimination*.
    """

    def __init__(
        self, *, fs=100, encoder="xresnet1d50-small", views=augment.MEHARI_VIEWS, n_views=6,
        prototypes=100, hidden=512, features=128, temperature=0.1, epsilon=0.05, n_iterations=3,
        queue=512, queue_from=15, frozen_epochs=1, seconds=2.5,
    ):  # fmt: skip
        super().__init__()
        if n_views < 2:
            raise ValueError(f"n_views is {n_views}: expected at least 2")
        self.encoder = encoders.build(encoder, fs=fs)
        self.projector = nn.Sequential(
            nn.Linear(self.encoder.width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, features),
        )  # fmt: skip
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, features), dim=1))
        self.fs, self.views, self.n_views, self.seconds = fs, dict(views), n_views, seconds
        self.temperature, self.epsilon, self.n_iterations = temperature, epsilon, n_iterations
        self.frozen_epochs, self.queue_from = frozen_epochs, queue_from
        self.register_buffer("queue", torch.zeros(2, queue, features))  # (assigned view, ...)
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.per_epoch = 1
        self.gather = alone

    def plan(self, n_steps, per_epoch):
        """How many steps an epoch has: prototypes and queue wait for their epoch."""
        self.per_epoch = per_epoch

    def view(self, signals):
        """One random view, (batch, lead, time) in and out, mV."""
        return augment.apply(signals, self.views, self.fs)

    def loss(self, batch):
        """Swapped prediction between the views of a batch."""
        views = torch.cat([self.view(batch.signals) for _ in range(self.n_views)])
        z = F.normalize(self.projector(self.encoder(views)).float(), dim=1)
        z = z.unflatten(0, (self.n_views, -1))  # (view, batch, feature)
        epoch, prototypes = int(self.step) // self.per_epoch, self.prototypes
        if epoch < self.frozen_epochs:  # a zero gradient, so that every process still sends one
            prototypes = prototypes.detach() + 0 * prototypes
        scores = z @ prototypes.T  # (view, batch, prototype)
        assignments = torch.stack([self._assign(z[i], i, epoch) for i in range(2)])
        return swapped_prediction(scores, assignments, self.temperature), {}

    @torch.no_grad()
    def _assign(self, z, view, epoch):
        """Share this view of the batch (of all processes, and of the queue) among prototypes."""
        everyone = self.gather(z)  # (processes x batch, feature)
        rows = everyone
        if epoch >= self.queue_from and 0 < self.queue.shape[1] <= int(self.queued):
            rows = torch.cat([everyone, self.queue[view]])
        shares = sinkhorn(rows @ self.prototypes.T, self.epsilon, self.n_iterations)
        self._enqueue(everyone, view)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return shares[rank * len(z) : (rank + 1) * len(z)]

    def _enqueue(self, rows, view):
        length = self.queue.shape[1]
        if self.training and length:
            self.queue[view] = torch.cat([rows, self.queue[view]])[:length]
            self.queued += len(rows) if view == 1 else 0  # both views are in

    @torch.no_grad()
    def after_step(self):
        """Put the prototypes back on the unit sphere."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        self.step += 1
