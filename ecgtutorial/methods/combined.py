"""What a simulator knows, taught to a network: its statements, and beside them instance contrast.

Of a simulated heart every statement is known, because the simulator put it there. A network that
learns to read them is trained on no real record. This is not self-supervision: it is supervision by
a simulator. And the simulator is no stranger to PTB-XL: how often statements occur together was
fitted to its labels (`heart.people`), and the shapes of beats to the medians of its diagnoses
(`heart.source`), over all 2,992 records that the book uses, the evaluated ones included. So labels
have come in, as averages over many records. Real records may join without labels; these learn by
SimCLR alone, in the same batches.

    method = SimulatedTruth(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from .. import augment
from ..cohort import SUPERCLASSES, open_cohort
from ..datasets import ptbxl
from ..encoders.xresnet import XResNet1d
from ..losses import nt_xent
from . import alone

# From a simulator's records to those of any machine: stretched, weaker or stronger leads, sway,
# muscle, and leads that are missing. Our choice.
VIEWS = {
    "random_resized_crop": {"low": 0.7},
    "channel_resize": {"low": 0.8, "high": 1.25},
    "baseline_wander": {"scale": 0.1},
    "em_noise": {"scale": 0.05},
    "random_lead_mask": {"p": 0.1},
}


# What there is to know: 71 statements, and the superclasses. NORM is one and the other.
TRUTHS = (*ptbxl.STATEMENTS, *(name for name in SUPERCLASSES if name not in ptbxl.STATEMENTS))


class SimulatedTruth(nn.Module):
    """Read the true statements of simulated hearts off their ECG.

    The cohort to pre-train on begins with the records of ``open_cohort("simulated",
    n_patients=hearts, seed=hearts_seed)``; those that follow have no truth and take part in the
    contrast alone. `channels`, `blocks`: of `XResNet1d`. `contrast`: weight of SimCLR's loss, over
    two views of every record; 0 leaves it out, and with it the second view. `views`: of
    `augment.apply`. `seconds`: length of a crop. Our own. Chapter: *Beyond the papers*.
    """

    def __init__(
        self, *, fs=100, channels=64, blocks=(1, 1, 1, 1), hearts=12_000, hearts_seed=7,
        contrast=0.0, views=VIEWS, seconds=2.5, temperature=0.5,
    ):  # fmt: skip
        super().__init__()
        self.encoder = XResNet1d(channels=channels, blocks=tuple(blocks))
        cohort = open_cohort("simulated", n_patients=hearts, seed=hearts_seed, fs=fs)
        self.truth = torch.from_numpy(true_targets(cohort).to_numpy())  # (record, statement)
        width = self.encoder.width
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, self.truth.shape[1]))
        self.projector = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 64))
        self.fs, self.views, self.seconds = fs, dict(views), seconds
        self.contrast, self.temperature, self.gather = contrast, temperature, alone

    def loss(self, batch):
        """Cross-entropy of the truth, NT-Xent of the views; parts ``truth``, ``pairs``."""
        n_views = 2 if self.contrast else 1
        views = [augment.apply(batch.signals, self.views, self.fs) for _ in range(n_views)]
        features = self.encoder(torch.cat(views))  # (views x batch, feature)
        record = batch.record.repeat(n_views).cpu()
        known = record < len(self.truth)
        target = self.truth[record[known]].to(features.device, torch.float32)
        truth = F.binary_cross_entropy_with_logits(self.head(features)[known], target)
        if not self.contrast:
            return truth, {"truth": truth.detach()}
        pair = torch.arange(len(batch.signals), device=features.device).repeat(2)
        pairs = nt_xent(self.projector(features), pair, self.temperature)
        return truth + self.contrast * pairs, {"truth": truth.detach(), "pairs": pairs.detach()}


def true_targets(cohort):
    """0/1 (record, truth) of simulated hearts before label noise, in the order of `TRUTHS`."""
    codes = cohort.table["true_statements"].str.split()
    there = pd.DataFrame({c: [c in some for some in codes] for c in ptbxl.STATEMENTS})
    for name, members in ptbxl.classes("superclass").items():
        there[name] = there[list(members)].any(axis=1)
    return there[list(TRUTHS)].astype("uint8")


class Reader(nn.Module):
    """Pre-trained `SimulatedTruth` networks as one encoder: all their features, then their opinion.

    (batch, lead, time) -> (batch, features of each + 5): the last five are the logits of the
    superclasses, averaged over the networks. Chapter: *Beyond the papers*.
    """

    def __init__(self, methods):
        super().__init__()
        self.encoders = nn.ModuleList(one.encoder for one in methods)
        self.heads = nn.ModuleList(one.head for one in methods)
        self.width = sum(one.width for one in self.encoders) + len(SUPERCLASSES)
        self.opinion = [TRUTHS.index(name) for name in SUPERCLASSES]

    def forward(self, signals):
        features = [encoder(signals) for encoder in self.encoders]
        logits = torch.stack([head(f) for head, f in zip(self.heads, features)]).mean(dim=0)
        return torch.cat([*features, logits[:, self.opinion].float()], dim=1)
