"""Fine-tuning, and with a random start the supervised baseline: the same code for both."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .. import augment
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
    head_lr=5e-4, weight_decay=0.05, mask=0.3, views=None, layer_decay=1.0, head_share=0.0, seed=0,
    device="cpu", loss=F.binary_cross_entropy_with_logits,
):  # fmt: skip
    """Train a copy of `encoder` with a new linear layer on the labelled records of `cohort`.

    `targets`: 0/1 (record, class). `seconds`: length of the random crops, of which `mask` is the
    share hidden in each lead (`augment.time_mask`), unless `views` are given (`augment.apply`).
    `encoder_lr`, `head_lr`: they follow a cosine after a tenth of the steps of warm-up; the head is
    wide, so it goes slower. `layer_decay`: each of the encoder's `layer_groups` learns this many
    times as fast as the one above it; the uppermost at `encoder_lr`. `head_share`: in this share of
    the steps, the first ones, the head learns alone (gradual start): the encoder gets no gradient
    and works as in a probe, with the batch statistics it came with; then its own warm-up begins.
    Training lasts `epochs` over the labelled records, but at least `min_steps`; nothing is selected
    on held-out labels, so a budget stays the budget. AdamW. `loss`: a
    function of the layer's outputs and the rows of `targets`, (batch, output) both; with another
    one targets may be any numbers. Returns the `Classifier`. Raises ``ValueError`` for targets that
    do not fit, a share outside [0, 1] or an encoder without `layer_groups` where `layer_decay` is
    not 1.
    Rates by layer and gradual start: paper B. Chapter: *Label efficiency*.
    """
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    if len(targets) != len(cohort) or not len(cohort):
        raise ValueError(f"{len(targets)} target rows for {len(cohort)} records")
    if not 0 <= head_share <= 1:
        raise ValueError(f"head_share is {head_share}: expected between 0 and 1")
    length = round(seconds * cohort.fs)
    steps = max(min_steps, epochs * len(cohort) // batch_size)
    alone = round(head_share * steps)  # steps of the head alone
    signals = torch.from_numpy(np.array(cohort.signals))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(copy.deepcopy(encoder), targets.shape[1]).to(device)
        groups, peaks = _groups(model, encoder_lr, head_lr, layer_decay)
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
        precision = has_bfloat16(torch.device(device).type)
        model.train()
        for step in range(steps):
            if step in (0, alone):
                _let_learn(model.encoder, step == alone)
            _set_rates(optimizer, peaks, step, steps, alone)
            rows = torch.randint(len(cohort), (batch_size,), generator=generator)
            starts = torch.randint(
                signals.shape[2] - length + 1, (batch_size,), generator=generator
            )
            batch = crop(signals, rows, starts, length).to(device)
            if views is None:
                batch = time_mask(batch, mask)
            else:
                batch = augment.apply(batch, views, cohort.fs)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision):
                logits = model(batch)
            error = loss(logits.float(), targets[rows].to(device))
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        _let_learn(model.encoder, True)
    return model.eval()


def _groups(model, encoder_lr, head_lr, layer_decay):
    """The optimizer's parameter groups, the head's last, and the peak rate of each."""
    layers = [list(model.encoder.parameters())]
    if layer_decay != 1:
        if not hasattr(model.encoder, "layer_groups"):
            raise ValueError(
                f"layer_decay is {layer_decay}: {type(model.encoder).__name__} has no "
                "layer_groups(), expected 1"
            )
        n_parameters, layers = len(layers[0]), model.encoder.layer_groups()
        if sum(map(len, layers)) != n_parameters:
            raise ValueError(
                f"layer_groups() of {type(model.encoder).__name__} has {sum(map(len, layers))} "
                f"parameters: expected each of the encoder's {n_parameters} once"
            )
    peaks = [encoder_lr * layer_decay**above for above in reversed(range(len(layers)))]
    head = [*model.norm.parameters(), *model.head.parameters()]
    return [{"params": list(p)} for p in (*layers, head)], [*peaks, head_lr]


def _set_rates(optimizer, peaks, step, steps, alone):
    """Warm-up and cosine: the head's over all steps, the encoder's from step `alone` on."""
    *encoder_groups, head = optimizer.param_groups
    share = _rate(step - alone, steps - alone, 0.1, "cosine") if step >= alone else 0.0
    for group, peak in zip(encoder_groups, peaks):
        group["lr"] = peak * share
    head["lr"] = peaks[-1] * _rate(step, steps, 0.1, "cosine")


def _let_learn(encoder, learns):
    """Freeze an encoder, its batch statistics and dropout included, or let all of it learn."""
    encoder.train(learns).requires_grad_(learns)


def predict(model, cohort, seconds, overlap=0.0):
    """Probability of each class, averaged over the windows of each record: (record, class)."""
    return over_windows(nn.Sequential(model, nn.Sigmoid()), cohort, seconds, overlap).numpy()
