"""The recipe of *Beyond the papers*: begin with a simulator's opinion, let labels correct it.

    logit = z(x) + b + w . f(x)

z(x) is the logit that a network gave after learning from simulated hearts alone, and f(x) are its
features. Labelled records correct it in two ways, whose logits are averaged: `corrected` finds b
and w with the network frozen, and a ridge keeps w small; `continued` trains the network on, too.
"""

import copy
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from .. import augment, grid
from ..augment import crop
from ..metrics import bootstrap_macro_auc, patient_weights
from ..pretrain import _rate, has_bfloat16
from ..runs import Table
from . import label_efficiency as _cells
from .windows import embed, over_windows

STRENGTH = 50.0  # of the ridge, in records: chosen on fold 9
PROTOCOLS = ("opinion", "corrected", "continued", "recipe")


class Corrected(nn.Module):
    """A `Reader` and a linear layer that begins at 0: its opinion, corrected by its features."""

    def __init__(self, reader, n_classes):
        super().__init__()
        self.reader, self.n_classes = reader, n_classes
        width = reader.width - n_classes
        self.norm, self.layer = nn.BatchNorm1d(width), nn.Linear(width, n_classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, signals):
        features, opinion = self.reader(signals).tensor_split([-self.n_classes], dim=1)
        return opinion + self.layer(self.norm(features))


def continued(
    reader, cohort, targets, *, seconds, epochs=15, min_steps=100, batch_size=64, encoder_lr=1e-3,
    head_lr=5e-4, weight_decay=0.05, views=augment.MEHARI_VIEWS, seed=0,
):  # fmt: skip
    """Train a copy of `reader` on, from its own opinion, on the labelled records of `cohort`.

    `targets`: 0/1 (record, class), in the order of the reader's last outputs. The others as in
    `finetune.fine_tune`, whose rates are higher because its layer starts from nothing. Returns a
    `Corrected`. Chapter: *Beyond the papers*.
    """
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    if len(targets) != len(cohort):
        raise ValueError(f"{len(targets)} target rows for {len(cohort)} records: expected as many")
    signals, length = torch.from_numpy(np.array(cohort.signals)), round(seconds * cohort.fs)
    steps = max(min_steps, epochs * len(cohort) // batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Corrected(copy.deepcopy(reader), targets.shape[1]).train()
        new = [*model.norm.parameters(), *model.layer.parameters()]
        groups = [{"params": list(model.reader.parameters())}, {"params": new}]
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
        for step in range(steps):
            for group, lr in zip(optimizer.param_groups, (encoder_lr, head_lr)):
                group["lr"] = lr * _rate(step, steps, 0.1, "cosine")
            rows = torch.randint(len(cohort), (batch_size,))
            starts = torch.randint(signals.shape[2] - length + 1, (batch_size,))
            batch = augment.apply(crop(signals, rows, starts, length), views, cohort.fs)
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
                logits = model(batch)
            error = F.binary_cross_entropy_with_logits(logits.float(), targets[rows])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
    return model.eval()


def corrected(prior, features, targets, test_prior, test_features, strength=STRENGTH):
    """Logits (test record, class) of a ridge logistic regression that starts at `prior`.

    `prior`: logits (record, class), `features`: (record, feature), standardised; `targets`: 0/1
    (record, class). Minimises the sum of the cross-entropies of b + prior + w . features and of
    `strength` / 2 times the squares of w; b goes free. Chapter: *Beyond the papers*.
    """
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    if not len(prior) == len(features) == len(targets) or not len(prior):
        raise ValueError(
            f"{len(prior)} rows of prior, {len(features)} of features and {len(targets)} of "
            "targets: expected as many of each, and at least one"
        )
    weights = torch.zeros(targets.shape[1], features.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        logits = bias + prior + features @ weights.T
        error = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        total = (error + strength / 2 * weights.square().sum()) / len(targets)
        total.backward()
        return total

    optimizer.step(closure)
    return (bias + test_prior + test_features @ weights.T).detach().numpy()


def recipe(
    entrants, cohort, table, *, seconds, overlap, budgets, subsets, fine_tuning=None,
    part="test", progress=True, reference=("scratch", "fine-tuned"), over=None,
):  # fmt: skip
    """`label_efficiency` of the superclasses, with four protocols more for a `Reader`.

    ``"opinion"`` needs no label, ``"corrected"`` and ``"continued"`` do, and ``"recipe"`` is the
    average of these two's logits; one training fills all. Features are standardised by all training
    records, whose labels play no part in it. Arguments and what it returns: as in
    `label_efficiency`.
    """
    table = table if isinstance(table, Table) else Table(table)
    train, test, classes, settings = _cells._prepare(
        cohort, "superclass", part, seconds, overlap, dict(fine_tuning or {})
    )
    rest = train, test, classes, settings
    jobs = []
    for one in entrants:
        if set(one.protocols) <= set(PROTOCOLS):
            jobs += _recipe_jobs(one, budgets, subsets, *rest)
        else:
            jobs += _cells._jobs(_cells._compute, [one], budgets, subsets, *rest)
    names = grid.fill(table, jobs, progress)
    rows = _cells.summarise(table, test, "superclass", names, reference, classes=classes, over=over)
    table.replace_summary(rows)
    return table.read()


def against(table, test, method, other, metric, budget=None):
    """Summary rows of `metric`: `method` less another one, at each share of the labels.

    `method`: its name, of which every protocol counts; `other`: method and protocol, at the same
    share or always at `budget`. `test`: the cohort that answered. Paired over its patients.
    """
    cells, ranks = table.read(), table.ranks()
    cells = cells[cells["config"].isin(ranks)]
    target = test.targets("superclass").to_numpy()
    weights = patient_weights(test.table["patient_id"], 1000)
    mine = cells[cells["method"] == method]
    theirs = cells[(cells["method"] == other[0]) & (cells["protocol"] == other[1])]
    sampled = {
        name: bootstrap_macro_auc(target, ranks[name], weights)
        for name in (*mine["config"], *theirs["config"])
    }
    rows = []
    for (_, share), frame in mine.groupby(["protocol", "budget"]):
        rival = theirs[theirs["budget"] == (budget or share)]
        if len(rival):
            same = share == (budget or share)
            rows.append(_cells._difference(frame, frame, rival, metric, sampled, same))
    return rows


def _recipe_jobs(entrant, budgets, subsets, *rest):
    """A job for every budget and subset, which fills the cells of all its protocols."""
    for budget in budgets:
        for subset in range(subsets[budget]):
            cells = {
                _cells._cell_hash(rest[-1], entrant, protocol, budget, subset): protocol
                for protocol in entrant.protocols
            }
            called = {name: f"{entrant.method} {p} {budget:.0%}" for name, p in cells.items()}
            compute = partial(_compute, entrant, budget, subset, *rest, cells)
            yield grid.Job(called, entrant, compute)


def _compute(entrant, budget, subset, train, test, classes, settings, cells, names):
    """Compute the cells `names` of one labelled part: their rows and their scores."""
    windows = settings["seconds"], settings.get("overlap", 0.0)
    known, asked = grid.features(entrant, settings["cohort"], windows, (train, test), embed)
    labelled, n = train.budget(budget, subset), len(classes)
    labels = labelled.targets("superclass")[classes].to_numpy()
    row_of = pd.Series(np.arange(len(train)), index=train.table["record_id"])
    rows = torch.from_numpy(row_of[labelled.table["record_id"]].to_numpy().copy())
    mean, deviation = known[:, :-n].mean(dim=0), known[:, :-n].std(dim=0).clamp_min(1e-6)
    features = [(some[:, :-n] - mean) / deviation for some in (known[rows], asked)]
    answers = {"opinion": asked[:, -n:].numpy()}
    answers["corrected"] = corrected(
        known[rows, -n:], features[0], labels, asked[:, -n:], features[1]
    )
    if {"continued", "recipe"} & {cells[name] for name in names}:
        reader = grid.encoder(entrant, settings["cohort"])
        options = {name: settings["fine_tuning"][name] for name in ("epochs", "min_steps")}
        options |= entrant.fine_tuning
        model = continued(reader, labelled, labels, seconds=windows[0], seed=subset, **options)
        answers["continued"] = over_windows(model, test, *windows).numpy()
        answers["recipe"] = (answers["corrected"] + answers["continued"]) / 2
    target = test.targets("superclass")[classes].to_numpy()
    weights = patient_weights(test.table["patient_id"])
    for name in names:
        scores, protocol = answers[cells[name]], cells[name]
        row = _cells._cell_row(entrant, protocol, "superclass", labelled, target, scores, weights)
        yield [row | {"budget": budget, "subset": subset, "config": name}], {name: scores}
