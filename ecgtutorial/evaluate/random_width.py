"""How good is an encoder that never learned, if it is only wide enough?

    entrants = [*random_entrants(WIDTHS, seeds=(0, 1, 2)), *pretrained_ones]
    table = random_width(entrants, cohort, Table("results/ptb-xl/random-width.csv"), ...)

The baseline "random encoder" of a table has the width of the method beside it. A wider one costs no
training either. Explained in the chapter *Beyond the papers*.
"""

import math
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from .. import grid
from ..encoders.random_features import RandomConvolutions
from ..encoders.xresnet import XResNet1d
from ..metrics import patient_weights
from ..runs import Table
from .label_efficiency import Entrant, _cell_row, _jobs, _prepare, summarise
from .probe import _choose_penalty, fit_logistic
from .windows import embed

KERNELS = (30, 100, 300, 1000, 3000)  # random filters, three features each
CHANNELS = (32, 64, 128)  # of an untrained xresnet, eight features each
USUAL = 256  # features for which the probe's penalties are meant


def random_entrants(kernels=KERNELS, channels=CHANNELS, seeds=(0,)):
    """Untrained encoders of growing width, for the probe.

    Methods are called ``kernels-300``, ``xresnet-32`` and so on, and ``xresnet-32-awake`` for the
    network whose residual bodies take part: at their start they add nothing.
    """
    for seed in seeds:
        for n in kernels:
            yield _entrant(f"kernels-{n}", seed, partial(RandomConvolutions, n_kernels=n))
        for n in channels:
            network = partial(XResNet1d, channels=n, blocks=(1, 1, 1, 1))
            yield _entrant(f"xresnet-{n}", seed, network)
            yield _entrant(f"xresnet-{n}-awake", seed, partial(_awake, network))


def _entrant(name, seed, make):
    return Entrant(name, seed, name, partial(_with_seed, make, seed), ("probe",))


def _with_seed(make, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def _awake(make):
    """The network with every scale at 1 that begins at 0."""
    encoder = make()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.ones_(module.weight)
    return encoder


def random_width(
    entrants, cohort, table, *, seconds, overlap=0.0, task="superclass", budgets=(1.0,),
    subsets=None, part="test", progress=True, over=None,
):  # fmt: skip
    """Fill `table` with the macro AUC of a `wide_probe` on every entrant, and summarise it.

    Arguments as in `label_efficiency`; column ``method`` says how wide. Returns the table as a data
    frame. Chapter: *Beyond the papers*.
    """
    table = table if isinstance(table, Table) else Table(table)
    train, test, classes, settings = _prepare(cohort, task, part, seconds, overlap, {})
    settings["usual_width"] = USUAL
    subsets = subsets or dict.fromkeys(budgets, 1)
    jobs = _jobs(_compute, entrants, budgets, subsets, train, test, classes, settings)
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, test, task, names, {}, classes=classes, over=over))
    return table.read()


def _compute(entrant, protocol, budget, subset, train, test, classes, settings, names):
    """Compute one cell: its row and its scores."""
    task, windows = settings["task"], (settings["seconds"], settings.get("overlap", 0.0))
    labelled = train.budget(budget, subset)
    labels = labelled.targets(task)[classes].to_numpy()
    known, asked = grid.features(entrant, settings["cohort"], windows, (train, test), embed)
    row_of = pd.Series(np.arange(len(train)), index=train.table["record_id"])
    rows = torch.from_numpy(row_of[labelled.table["record_id"]].to_numpy().copy())
    scores = wide_probe(known[rows], labels, labelled.table["patient_id"], asked, seed=subset)
    target = test.targets(task)[classes].to_numpy()
    weights = patient_weights(test.table["patient_id"])
    row = _cell_row(entrant, protocol, task, labelled, target, scores, weights)
    yield [row | {"budget": budget, "subset": subset, "config": names[0]}], {names[0]: scores}


def wide_probe(features, targets, patients, test_features, seed=0, n_folds=4):
    """`linear_probe` for any width: the same classifier, fast and as strictly penalised.

    More features than `USUAL` are scaled down together, so that a penalty weighs as much as at that
    width. More features than records are turned until all but as many are zero: distances and
    angles stay, so the classifier is the same, and its cost is that of few features.
    Arguments and value as in `linear_probe`. Chapter: *Beyond the papers*.
    """
    features = torch.as_tensor(features, dtype=torch.float32)
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-6)
    deviation = deviation * math.sqrt(max(1.0, features.shape[1] / USUAL))
    known = (features - mean) / deviation
    asked = (torch.as_tensor(test_features, dtype=torch.float32) - mean) / deviation
    if known.shape[1] > len(known):
        known, asked = turned(known, asked)
    penalty = _choose_penalty(known, targets, patients, seed, n_folds)
    one = torch.ones(1, len(known))
    coefficients = fit_logistic(known, targets, one, torch.tensor([penalty]))[0]
    return (F.pad(asked, (0, 1), value=1.0) @ coefficients.T).numpy()


def turned(known, asked):
    """Both in the axes that the records `known` span: (record, feature) -> (record, fewer).

    All products ``known @ known.T`` and ``asked @ known.T`` stay what they are.
    """
    values, vectors = torch.linalg.eigh((known @ known.T).double())  # (record, record)
    kept = values > 1e-6 * values[-1]
    root = values[kept].sqrt()
    along = (asked @ known.T).double() @ vectors[:, kept] / root
    return (vectors[:, kept] * root).float(), along.float()
