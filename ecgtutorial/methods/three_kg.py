"""3KG: contrastive learning in the space of the heart vector.

Follows Gopal et al. 2021 (paper D). Two views of each ECG are made by rotating and scaling the
heart vector behind it and hiding half of each lead. A single-lead network embeds every lead of
every view. Embeddings of one ECG attract each other; embeddings of other patients repel; other
ECGs of the same patient do neither.

    method = ThreeKG(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import torch
from torch import nn

from .. import augment, encoders
from ..encoders.single_lead import SingleLeadCNN, default_strides
from ..losses import patient_contrastive
from . import alone


class ThreeKG(nn.Module):
    """3KG (``variant="L"``, every lead an embedding) and SimCG-A (``variant="A"``, their mean).

    `rotation` (degrees), `scaling` (factor), `mask` (fraction): the best values of paper D,
    table 1; 0, 1 and 0 switch each off. `heart_vector=False` leaves the detour through three
    dimensions out. `seconds`: length of a crop; the paper's 5 s, and 2.5 s where two cores train
    (our choice). `hidden`: of the projector, which the paper does not state. `residual`: keep the
    non-dipolar part of the ECG (our choice, off). `encoder`: a name of `encoders.build`; one that
    reads all leads at once gives a view one embedding, as in paper A's comparison. Chapter: *3KG*.
    """

    def __init__(
        self, *, fs=100, variant="L", rotation=45.0, scaling=1.5, mask=0.5, temperature=0.1,
        seconds=5.0, strides=None, hidden=256, heart_vector=True, residual=False,
        encoder="single-lead",
    ):  # fmt: skip
        super().__init__()
        if variant not in ("A", "L"):
            raise ValueError(f"variant is {variant!r}: expected 'A' (SimCG-A) or 'L' (SimCG-L)")
        if encoder == "single-lead":
            self.encoder = SingleLeadCNN(strides=strides or default_strides(fs))
            width = self.encoder.lead_width
        else:
            self.encoder = encoders.build(encoder, fs=fs)
            width = self.encoder.width
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 128))
        self.variant, self.temperature, self.seconds = variant, temperature, seconds
        self.rotation, self.scaling, self.mask = rotation, scaling, mask
        self.heart_vector, self.residual = heart_vector, residual
        self.gather = alone

    def view(self, signals):
        """One random view: rotate, scale, then mask. (batch, lead, time) in and out, mV."""
        if self.heart_vector:
            matrix = augment.random_scaling(signals, self.scaling)
            matrix = matrix @ augment.random_rotation(signals, self.rotation)
            signals = augment.transform_heart_vector(signals, matrix, self.residual)
        return augment.time_mask(signals, self.mask)

    def loss(self, batch):
        """The patient-contrastive loss of two views of a batch, and its parts."""
        views = torch.cat([self.view(batch.signals), self.view(batch.signals)])
        if hasattr(self.encoder, "leads"):
            leads = self.projector(self.encoder.leads(views))  # (2 batch, lead, 128)
        else:
            leads = self.projector(self.encoder(views))[:, None]  # (2 batch, 1, 128)
        if self.variant == "A":
            leads = nn.functional.normalize(leads, dim=-1).mean(dim=1, keepdim=True)
        rows = leads.shape[1]  # embeddings a view: 12, or 1 in SimCG-A
        record = batch.record.repeat(2).repeat_interleave(rows)
        patient = batch.patient.repeat(2).repeat_interleave(rows)
        loss = patient_contrastive(
            self.gather(leads.flatten(0, 1)),  # (2 batch x rows, 128)
            self.gather(record),
            self.gather(patient),
            self.temperature,
        )
        return loss, {}
