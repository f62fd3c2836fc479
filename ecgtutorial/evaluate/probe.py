"""Linear evaluation: how much of the answer can one linear layer read off a frozen encoder?"""

import numpy as np
import torch
from torch.nn import functional as F

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def fit_logistic(features, targets, weights, penalty, max_iter=100):
    """Several penalised logistic regressions at once, by L-BFGS.

    `features` (record, feature), standardised; `targets` 0/1 (record, class); `weights`
    (problem, record): how much each record counts in each problem; `penalty` (problem,): weight of
    half the squared coefficients. Returns coefficients (problem, class, feature + 1), bias last.
    """
    n_problems, n_classes = len(weights), targets.shape[1]
    features = F.pad(features, (0, 1), value=1.0)  # the bias reads a constant 1
    coefficients = torch.zeros(n_problems, n_classes, features.shape[1], requires_grad=True)
    share = weights / weights.sum(dim=1, keepdim=True)  # (problem, record)
    optimizer = torch.optim.LBFGS(
        [coefficients], max_iter=max_iter, history_size=10, tolerance_grad=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        logits = torch.einsum("nf,pcf->pnc", features, coefficients)
        target = targets.expand_as(logits)
        error = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=2)
        ridge = coefficients[:, :, :-1].square().sum(dim=(1, 2)) / 2  # the bias goes free
        total = ((error * share).sum(dim=1) + penalty * ridge).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return coefficients.detach()


def linear_probe(features, targets, patients, test_features, seed=0, n_folds=4):
    """Scores of a linear classifier on frozen features: `fit_probe`, then read off.

    `test_features` (test record, feature); the others as in `fit_probe`. Returns logits
    (test record, class). Chapter: *Label efficiency*.
    """
    return fit_probe(features, targets, patients, seed, n_folds)(test_features)


def fit_probe(features, targets, patients, seed=0, n_folds=4):
    """Train a linear classifier on frozen features, one penalised logistic regression a class.

    `features` (record, feature) and `targets` 0/1 (record, class) of the labelled records,
    `patients` (record,). The penalty is chosen among `PENALTIES` by cross-validation over the
    labelled *patients*, so that no label outside the budget is looked at; with fewer than `n_folds`
    patients it is the largest. A class without a positive gets the same low logit everywhere.
    Returns a function, features (record, feature) -> logits (record, class). Our choice; paper D
    trains its probe with Adam at a rate found by a range test. Chapter: *Label efficiency*.
    """
    features = torch.as_tensor(features, dtype=torch.float32)
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    if len(features) != len(targets) or not len(features):
        raise ValueError(f"{len(features)} feature rows for {len(targets)} target rows")
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-6)
    features = (features - mean) / deviation
    penalty = _choose_penalty(features, targets, patients, seed, n_folds)
    one = torch.ones(1, len(features))
    coefficients = fit_logistic(features, targets, one, torch.tensor([penalty]))[0]

    def score(test_features):
        test = (torch.as_tensor(test_features, dtype=torch.float32) - mean) / deviation
        return (F.pad(test, (0, 1), value=1.0) @ coefficients.T).numpy()

    return score


def _choose_penalty(features, targets, patients, seed, n_folds):
    """The penalty with the smallest held-out cross-entropy, all folds and penalties at once."""
    names, number = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < n_folds:
        return PENALTIES[-1]
    fold = np.random.default_rng(seed).permutation(len(names)) % n_folds
    fold = torch.from_numpy(fold[number])  # (record,)
    weights = (fold[None, :] != torch.arange(n_folds)[:, None]).float()  # (fold, record)
    penalty = torch.tensor(PENALTIES).repeat_interleave(n_folds)
    coefficients = fit_logistic(
        features, targets, weights.repeat(len(PENALTIES), 1), penalty, max_iter=40
    )
    logits = torch.einsum("nf,pcf->pnc", F.pad(features, (0, 1), value=1.0), coefficients)
    error = F.binary_cross_entropy_with_logits(
        logits, targets.expand_as(logits), reduction="none"
    ).sum(dim=2)  # (penalty x fold, record)
    held_out = 1 - weights.repeat(len(PENALTIES), 1)
    total = (error * held_out).sum(dim=1).reshape(len(PENALTIES), n_folds).sum(dim=1)
    return PENALTIES[int(total.argmin())]
