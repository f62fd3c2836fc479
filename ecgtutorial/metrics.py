"""AUC, accuracy, the Challenge's score and intervals: all vectorised over bootstrap resamples.

Missing classes, the rule everywhere in the book: a class without a positive (or without a negative)
among the evaluated records has no AUC and is left out of the mean; a bootstrap resample that misses
a class leaves it out of that resample's mean only.
"""

import numpy as np


def _check(targets, scores, name="scores"):
    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.shape != scores.shape or targets.ndim != 2:
        raise ValueError(
            f"targets {targets.shape} and {name} {scores.shape}: expected one shape (record, class)"
        )
    if not len(targets):
        raise ValueError(f"targets and {name} hold no record")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        raise ValueError(f"{name}: {bad} of {len(scores)} records hold NaN or infinity")
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("targets holds values other than 0 and 1")
    return targets, scores


def _check_predictions(targets, predictions):
    targets, predictions = _check(targets, predictions, "predictions")
    if not np.isin(predictions, (0, 1)).all():
        raise ValueError("predictions holds values other than 0 and 1: compare scores with 0.5")
    return targets, predictions


def _check_counts(counts, n_records):
    """How often each record counts in each resample; without `counts` once in a single one."""
    counts = np.ones((1, n_records)) if counts is None else np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] != n_records:
        raise ValueError(f"counts {counts.shape}: expected (resample, record), {n_records} records")
    return counts


def weighted_auc(target, score, weights):
    """Area under the ROC curve of one class for many weightings of the records at once.

    `target`: 0/1, (record,); `score`: (record,); `weights`: counts, (resample, record). The chance
    that a random positive scores above a random negative, ties counted half. Returns (resample,),
    NaN where a resample has no positive or no negative. Chapter: *Label efficiency*.
    """
    order = np.argsort(score, kind="stable")
    weights = weights.T[order]  # (record, resample), sorted by score
    positive = weights * target[order, None].astype(weights.dtype)
    negative = weights - positive
    first = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])  # starts of runs of ties
    if len(first) < len(order):
        positive = np.add.reduceat(positive, first, axis=0)
        negative = np.add.reduceat(negative, first, axis=0)
    below = np.cumsum(negative, axis=0)  # whole numbers: exact in 32 bits up to 16 million
    n_positive, n_negative = positive.sum(axis=0), below[-1].astype(np.float64)
    below -= negative / 2  # negatives strictly below, and half of those level
    below *= positive
    with np.errstate(invalid="ignore", divide="ignore"):
        return below.sum(axis=0, dtype=np.float64) / (n_positive * n_negative)


def class_auc(targets, scores):
    """AUC of each class: `targets` 0/1, `scores`: (record, class) -> (class,), NaN if missing."""
    targets, scores = _check(targets, scores)
    one = np.ones((1, len(targets)), np.float32)
    return np.array([weighted_auc(t, s, one)[0] for t, s in zip(targets.T, scores.T)])


def macro_auc(targets, scores):
    """Mean AUC over the classes that have a positive and a negative (see the rule above).

    `targets` 0/1, `scores`: (record, class). Raises ``ValueError`` if no class has both.
    """
    values = class_auc(targets, scores)
    if np.isnan(values).all():
        raise ValueError("targets: no class has both a positive and a negative record")
    return float(np.nanmean(values))


def patient_weights(patients, n_resamples=1000, seed=0):
    """How often each record counts in each bootstrap resample of *patients*.

    Patients are drawn with replacement, and all records of a patient come along, since they are
    not independent. `patients`: (record,). Returns float32 counts (resample, record).
    """
    names, number = np.unique(np.asarray(patients), return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), n_resamples)
    return counts.T.astype(np.float32)[number].T  # a record's counts lie side by side: faster


def bootstrap_macro_auc(targets, scores, weights):
    """Macro AUC in each resample: `weights` of `patient_weights` -> (resample,).

    Two methods scored with the same `weights` are paired: subtract, then take the quantiles.
    """
    targets, scores = _check(targets, scores)
    if weights.shape[1] != len(targets):
        raise ValueError(f"weights are for {weights.shape[1]} records, targets hold {len(targets)}")
    blocks = np.array_split(weights, max(1, len(weights) // 100))  # each fits the processor's cache
    values = np.stack(
        [
            np.concatenate([weighted_auc(target, score, block) for block in blocks])
            for target, score in zip(targets.T, scores.T)
        ]
    )
    with np.errstate(invalid="ignore"):
        missing = np.isnan(values)  # (class, resample)
        total = np.where(missing, 0, values).sum(axis=0)
        return total / (~missing).sum(axis=0)


def exact_match(targets, predictions, counts=None):
    """Accuracy of whole records: the share of those in which every class is right.

    `targets`, `predictions`: 0/1 (record, class). Returns a float, or (resample,) with `counts` of
    `patient_weights` (resample, record). One class amiss and a record is lost, so that it falls as
    classes are added. Raises ``ValueError`` for shapes that do not fit and values other than 0 and
    1. Our reading of the accuracy of paper C (Ran & Liu 2024). Chapter: *Space and time*.
    """
    targets, predictions = _check_predictions(targets, predictions)
    return _share((targets == predictions).all(axis=1), counts)


def class_accuracy(targets, predictions, counts=None):
    """Accuracy of single answers: the mean over classes of the share of records that are right.

    Arguments, value and errors as in `exact_match`, which it is never below. With many rare classes
    a predictor that always says no is near 1, namely 1 less the mean share of positives: compare
    with that. The other reading of paper C's accuracy. Chapter: *Space and time*.
    """
    targets, predictions = _check_predictions(targets, predictions)
    return _share((targets == predictions).mean(axis=1), counts)


def macro_f1(targets, predictions, counts=None):
    """Mean over classes of F1, the harmonic mean of precision and sensitivity.

    Twice the true positives over twice these and all errors. Arguments, value and errors as in
    `exact_match`. A class with no positive and none predicted counts 0, also in a resample that
    misses it: unlike the AUC of a missing class it is not left out.
    Source: paper D (Gopal et al. 2021), tables 1 and 2. Chapter: *3KG*.
    """
    targets, predictions = _check_predictions(targets, predictions)
    weights = _check_counts(counts, len(targets))
    found = weights @ (targets * predictions).astype(float)  # true positives: (resample, class)
    either = weights @ (targets.astype(float) + predictions)  # 2 TP + errors
    values = np.divide(2 * found, either, out=np.zeros_like(found), where=either > 0).mean(axis=1)
    return float(values[0]) if counts is None else values


def _share(right, counts):
    """Mean of `right`, (record,): a float, or (resample,) with `counts`."""
    weights = _check_counts(counts, len(right))
    with np.errstate(invalid="ignore"):  # a resample without a record has none
        values = weights @ right.astype(float) / weights.sum(axis=1)
    return float(values[0]) if counts is None else values


def challenge_gain(targets, predictions, weights):
    """What each record adds to the Challenge's sum, before that is normalised.

    `targets`, `predictions`: 0/1 (record, class); `weights`: (class, class), what a predicted class
    is worth in place of a true one. The weights of all pairs of a label and a prediction are summed
    and divided by the number of classes in either; a record with neither adds 0. Returns (record,).
    Raises ``ValueError`` for shapes that do not fit and values other than 0 and 1.
    Source: Perez Alday et al. 2020, Reyna et al. 2021. Chapter: *Any lead*.
    """
    targets, predictions = _check_predictions(targets, predictions)
    weights = np.asarray(weights, dtype=float)
    if weights.shape != 2 * targets.shape[1:]:
        n = targets.shape[1]
        raise ValueError(f"weights {weights.shape}: expected ({n}, {n}), a row and column a class")
    targets, predictions = targets.astype(float), predictions.astype(float)
    pairs = (targets @ weights * predictions).sum(axis=1)
    return pairs / np.maximum(1, np.maximum(targets, predictions).sum(axis=1))


def challenge_score(targets, predictions, weights, normal, counts=None):
    """Score of the PhysioNet/CinC Challenge: 1 for perfect, 0 for always "sinus rhythm" alone.

    `targets`, `predictions`, `weights`: as in `challenge_gain`; `normal`: the column of sinus
    rhythm. Returns a float, or (resample,) with `counts` of `patient_weights` (resample, record).
    The gain of the predictions, less that of always answering `normal`, over the gain of the
    targets themselves, less the same. Where the two below are equal, because no record has a label
    but `normal`, there is no score: ``ValueError``, or NaN in a resample, which `interval` ignores.
    Source: Perez Alday et al. 2020, Reyna et al. 2021. Chapter: *Any lead*.
    """
    targets = np.asarray(targets)
    always = np.zeros_like(targets)
    always[..., normal] = 1
    gains = [challenge_gain(targets, p, weights) for p in (predictions, targets, always)]
    one = _check_counts(counts, len(targets))
    above = np.stack([gains[0] - gains[2], gains[1] - gains[2]], axis=1)  # (record, 2)
    found, best = (one @ above).T  # (resample,)
    score = np.divide(found, best, out=np.full(len(one), np.nan), where=np.abs(best) > 1e-9)
    if counts is not None:
        return score
    if np.isnan(score[0]):
        raise ValueError("targets: no record has a label but sinus rhythm, so there is no score")
    return float(score[0])


def interval(values, level=0.95):
    """Lower and upper end of the central interval that holds `level` of bootstrap values."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
