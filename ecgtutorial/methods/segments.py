"""Contrast without augmentation: neighbouring segments, leads and recordings as positives.

Follows CLOCS (Kiyasseh et al. 2021: CMSC, CMLC and CMSMLC) and the patient contrast of PCLR
(Diamant et al. 2022), the methods that paper D compares 3KG with. Encoder, projector and loss are
those of `three_kg`, so that only the choice of the positives differs.

    method = SegmentContrast(fs=100, positives="segments")
    loss, parts = method.loss(Batch(signals, record, patient))

    method = SegmentContrast(fs=100, positives="patients")
    pretrain(method, paired(cohort))
"""

import numpy as np
import torch
from torch import nn

from .. import encoders
from ..cohort import Cohort
from ..encoders.single_lead import SingleLeadCNN, default_strides
from ..losses import patient_contrastive
from . import alone

POSITIVES = ("segments", "leads", "both", "patients")


class SegmentContrast(nn.Module):
    """CMSC, CMLC, CMSMLC and a patient contrast, with the encoder and the loss of 3KG.

    `positives`: ``"segments"`` two neighbouring segments of a record, each the mean of its lead
    embeddings (CMSC); ``"leads"`` the twelve leads of one segment (CMLC); ``"both"`` the leads of
    both segments (CMSMLC); ``"patients"`` a segment each of two recordings of a patient, for a
    cohort made by `paired`, whose records last `record_seconds`. `seconds`: length of a segment;
    paper D's 5 s, and 2.5 s where two cores train (our choice). `hidden`: of the projector.
    `encoder`: a name of `encoders.build`; one that reads all leads at once has no lead embeddings
    and so serves ``"segments"`` and ``"patients"`` only. Negatives are other patients, as in 3KG.
    Raises ``ValueError`` for unknown positives, for leads of an encoder without and for segments
    that do not fit. Chapter: *3KG*.
    """

    def __init__(
        self, *, fs=100, positives="segments", encoder="single-lead", seconds=2.5,
        temperature=0.1, hidden=256, record_seconds=10.0,
    ):  # fmt: skip
        super().__init__()
        if positives not in POSITIVES:
            raise ValueError(f"positives is {positives!r}: expected one of {', '.join(POSITIVES)}")
        if encoder == "single-lead":
            self.encoder = SingleLeadCNN(strides=default_strides(fs))
            width = self.encoder.lead_width
        else:
            self.encoder = encoders.build(encoder, fs=fs)
            width = self.encoder.width
        if positives in ("leads", "both") and not hasattr(self.encoder, "leads"):
            raise ValueError(
                f"encoder {encoder!r} reads all leads at once and has no lead embeddings: "
                f"positives={positives!r} need encoder='single-lead'"
            )
        if positives == "patients" and record_seconds < 2 * seconds:
            raise ValueError(
                f"seconds is {seconds}: a half of a paired record of {record_seconds} s is shorter"
            )
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 128))
        self.positives, self.temperature = positives, temperature
        self.length = round(seconds * fs)  # samples of a segment
        cropped = {"leads": seconds, "patients": record_seconds}
        self.seconds = cropped.get(positives, 2 * seconds)  # what `pretrain` crops to
        self.gather = alone

    def segments(self, signals):
        """The segments to compare: (batch, lead, time) -> a list of (batch, lead, segment)."""
        if signals.shape[2] < self.length * (1 if self.positives == "leads" else 2):
            raise ValueError(
                f"signals of {signals.shape[2]} samples: {self.positives!r} need crops of "
                f"{self.seconds} s, that hold their segments of {self.length}"
            )
        if self.positives == "leads":
            return [signals]
        if self.positives != "patients":
            return [signals[..., : self.length], signals[..., -self.length :]]
        middle = signals.shape[2] // 2  # where the second recording begins
        return [self._moment(signals[..., :middle]), self._moment(signals[..., middle:])]

    def _moment(self, signals):
        """A random segment of each record: (batch, lead, time) -> (batch, lead, segment)."""
        batch, n_leads, time = signals.shape
        start = torch.randint(time - self.length + 1, (batch, 1, 1), device=signals.device)
        sample = start + torch.arange(self.length, device=signals.device)  # (batch, 1, segment)
        return signals.gather(2, sample.expand(-1, n_leads, -1))

    def loss(self, batch):
        """The patient-contrastive loss of the positives of a batch, and its parts."""
        segments = self.segments(batch.signals)
        signals = torch.cat(segments)  # (segments x batch, lead, segment)
        if hasattr(self.encoder, "leads"):
            leads = self.projector(self.encoder.leads(signals))  # (segments x batch, lead, 128)
        else:
            leads = self.projector(self.encoder(signals))[:, None]  # (segments x batch, 1, 128)
        if self.positives in ("segments", "patients"):
            leads = nn.functional.normalize(leads, dim=-1).mean(dim=1, keepdim=True)
        rows = leads.shape[1]  # embeddings a segment: 12, or 1
        # Two paired records of one patient in a batch are positives, too.
        record = batch.patient if self.positives == "patients" else batch.record
        record, patient = (
            whose.repeat(len(segments)).repeat_interleave(rows) for whose in (record, batch.patient)
        )
        loss = patient_contrastive(
            self.gather(leads.flatten(0, 1)),  # (segments x batch x rows, 128)
            self.gather(record),
            self.gather(patient),
            self.temperature,
        )
        return loss, {}


def paired(cohort):
    """A cohort in memory whose records join two recordings of a patient, for ``"patients"``.

    Record i is the first half of record i of `cohort` and the second half of the patient's next
    recording, that of the last being the first. Of a patient with a single recording both halves
    are its own, and the positive is another moment of the same: most of PTB-XL. Length, table and
    labels stay those of record i, so do folds, and ``partner`` names the other recording.
    Returns a `Cohort`. Source: Diamant et al. 2022; the halves are our choice. Chapter: *3KG*.
    """
    rows = np.arange(len(cohort))
    by_patient = cohort.table.groupby("patient_id", sort=False).indices.values()
    partner = rows.copy()
    for own in by_patient:
        partner[own] = np.roll(own, -1)
    signals = np.array(cohort.signals)  # (record, lead, time)
    middle = signals.shape[2] // 2
    several = rows[partner != rows]
    signals[several, :, middle:] = cohort.signals[partner[several], :, middle:]
    table = cohort.table.assign(partner=cohort.table["record_id"].to_numpy()[partner])
    name = f"{cohort.name}, paired"
    return Cohort(signals, table, cohort.labels, cohort.fs, name, cohort.leads)
