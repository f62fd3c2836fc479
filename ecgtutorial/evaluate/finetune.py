"""Fine-tuning, and with a random start the supervised baseline: the same code for both."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..augment import crop, time_mask
from ..pretrain import _rate, has_bfloat16
from .windows import over_windows


class Classifier(nn.Module):
    """An encoder and one linear layer: signals (batch, lead, time) -> logits (batch, class)."""

    def __init__(self, encoder, n_classes):
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm1d(encoder.width)  # features of any encoder at one scale
        self.head = nn.Linear(encoder.width, n_classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, signals):
        return self.head(self.norm(self.encoder(signals)))


def fine_tune(
    encoder, cohort, targets, *, seconds, epochs=6, min_steps=80, batch_size=64, encoder_lr=3e-3,
    head_lr=5e-4, weight_decay=0.05, mask=0.3, seed=0, device="cpu",
):  # fmt: skip
    """Train a copy of `encoder` with a new linear layer on the labelled records of `cohort`.

    `targets`: 0/1 (record, class). `seconds`: length of the random crops, of which `mask` is the
    share hidden in each lead (`augment.time_mask`). `encoder_lr`, `head_lr`: they follow a cosine
    after a tenth of the steps of warm-up; the head is wide, so it goes slower. Training lasts
    `epochs` over the labelled records, but at least `min_steps`; nothing is selected on held-out
    labels, so a budget stays the budget. AdamW on binary cross-entropy. Returns the `Classifier`.
    Chapter: *Label efficiency*.
    """
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    if len(targets) != len(cohort) or not len(cohort):
        raise ValueError(f"{len(targets)} target rows for {len(cohort)} records")
    length = round(seconds * cohort.fs)
    steps = max(min_steps, epochs * len(cohort) // batch_size)
    signals = torch.from_numpy(np.array(cohort.signals))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(copy.deepcopy(encoder), targets.shape[1]).to(device)
        rates = [encoder_lr, head_lr]
        head = [*model.norm.parameters(), *model.head.parameters()]
        optimizer = torch.optim.AdamW(
            [{"params": list(model.encoder.parameters())}, {"params": head}],
            weight_decay=weight_decay,
        )
        precision = has_bfloat16(torch.device(device).type)
        model.train()
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * _rate(step, steps, 0.1, "cosine")
            rows = torch.randint(len(cohort), (batch_size,), generator=generator)
            starts = torch.randint(
                signals.shape[2] - length + 1, (batch_size,), generator=generator
            )
            batch = crop(signals, rows, starts, length).to(device)
            batch = time_mask(batch, mask)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision):
                logits = model(batch)
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def predict(model, cohort, seconds, overlap=0.0):
    """Probability of each class, averaged over the windows of each record: (record, class)."""
    return over_windows(nn.Sequential(model, nn.Sigmoid()), cohort, seconds, overlap).numpy()
