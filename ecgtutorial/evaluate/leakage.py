"""Splits that leak, on purpose: what it is worth to meet the same patient in training and test.

    python -m ecgtutorial.evaluate.leakage --data ../shared/ptb-xl   # results/ptb-xl/leakage.csv

The learners see median beats. A split is right or wrong by one argument: the groups that it keeps
together. Explained in the chapter *Cohorts*, where the same code stands.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from scipy.signal import find_peaks

from .. import leads, metrics, runs
from ..cohort import open_cohort
from .probe import linear_probe

# --- features ---------------------------------------------------------------------------------


def beat(signals, fs):
    """Median beat of a stretch of ECG, (lead, time) in mV -> (lead, 0.64 s)."""
    slope = np.abs(np.diff(signals, axis=1)).sum(axis=0)
    width = round(0.1 * fs)
    slope = np.convolve(slope, np.ones(width) / width, "same")  # large within a QRS
    before, after = round(0.24 * fs), round(0.4 * fs)
    peaks, _ = find_peaks(slope, height=0.5 * np.quantile(slope, 0.98), distance=round(0.3 * fs))
    peaks = peaks[(peaks >= before) & (peaks + after <= signals.shape[1])]
    if not len(peaks):
        return np.zeros((len(signals), before + after))
    beats = signals[:, peaks[:, None] + np.arange(-before, after)]  # (lead, beat, time)
    beats = beats - beats[:, :, : round(0.06 * fs)].mean(axis=2, keepdims=True)
    return np.median(beats, axis=1)


def beats_of(signals, fs, pieces=1):
    """Median beats of all records, each cut into `pieces`: (record x piece, feature)."""
    signals = signals[:, leads.index(leads.INDEPENDENT)]
    cut = [part for one in signals for part in np.array_split(one, pieces, axis=1)]
    return np.stack([beat(part, fs).ravel() for part in cut])


# --- learners: features, targets, which rows are tested, groups -> scores of the tested rows ----


def neighbours(features, targets, test, groups, k=5):
    """Scores of the test rows: mean label of the k most similar training beats."""
    centred = features - features[~test].mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(length, 1e-9)
    similar = unit[test] @ unit[~test].T  # cosine (test row, training row)
    nearest = np.argpartition(-similar, k, axis=1)[:, :k]
    weight = np.take_along_axis(similar, nearest, axis=1).clip(1e-3) ** 2
    return np.einsum("nk,nkc->nc", weight, targets[~test][nearest]) / weight.sum(axis=1)[:, None]


def probe(features, targets, test, groups):
    """Scores of the test rows by the book's linear probe; `groups` cut its inner folds."""
    return linear_probe(features[~test], targets[~test], groups[~test], features[test])


# --- the trial --------------------------------------------------------------------------------


def holdout(groups, rng, share=0.2):
    """Which rows are tested: all rows of a random `share` of the groups."""
    names = rng.permutation(np.unique(groups))
    return np.isin(groups, names[: round(share * len(names))])


def shuffled(targets, patients, rng):
    """Labels shuffled over patients: all rows of a patient get the labels of another one."""
    _, first, number = np.unique(patients, return_index=True, return_inverse=True)
    return targets[first][rng.permutation(len(first))][number]


def trial(name, features, targets, patients, right, wrong, n_splits, shuffle):
    """One leak: `right` and `wrong` are (learner, groups to split by). Returns a row of numbers.

    `features` (row, feature), `targets` 0/1 (row, class), `patients` (row,). Macro AUC of the
    tested rows, mean over random splits; 95 % intervals by bootstrap over patients and splits,
    paired. `shuffle`: labels are shuffled over patients, anew for each split.
    """
    weights = metrics.patient_weights(patients)  # (resample, row)
    points, draws = {"right": [], "wrong": []}, {"right": [], "wrong": []}
    for split in range(n_splits):
        labels = shuffled(targets, patients, np.random.default_rng(split)) if shuffle else targets
        for side, (learner, groups) in (("right", right), ("wrong", wrong)):
            test = holdout(groups, np.random.default_rng(split))
            scores = learner(features, labels, test, groups)
            points[side].append(metrics.macro_auc(labels[test], scores))
            draws[side].append(metrics.bootstrap_macro_auc(labels[test], scores, weights[:, test]))
    return summed(name, shuffle, points, draws)


def summed(name, shuffle, points, draws):
    """Means over splits with intervals; `draws[side]`: (split, resample)."""
    n_splits, n_resamples = np.shape(draws["right"])
    chosen = np.random.default_rng(3).integers(n_splits, size=(n_splits, n_resamples))
    mean = {
        side: np.take_along_axis(np.array(values), chosen, axis=0).mean(axis=0)
        for side, values in draws.items()
    }
    row = {"leak": name, "labels": "shuffled" if shuffle else "as written"}
    for side in ("right", "wrong"):
        row |= {side: np.mean(points[side])}
        row |= dict(zip((f"{side} low", f"{side} high"), metrics.interval(mean[side])))
    row["difference"] = row["wrong"] - row["right"]
    return row | dict(zip(("low", "high"), metrics.interval(mean["wrong"] - mean["right"])))


def recognised(features, who):
    """Whether the most similar other row of each row belongs to the same one."""
    unit = features - features.mean(axis=0)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -2)
    return who[similar.argmax(axis=1)] == who


# --- publication ------------------------------------------------------------------------------


def publish(cohort, path, n_splits=5):
    """The leak by segment on `cohort`, and who is recognised, into ``path`` (.csv)."""
    began, path = time.monotonic(), Path(path)
    targets = np.repeat(cohort.targets("superclass").to_numpy(), 2, axis=0)
    patient = cohort.table["patient_id"].to_numpy()
    halves, patients = beats_of(cohort.millivolts(), cohort.fs, 2), np.repeat(patient, 2)
    shared = {
        "task": "split by segment", "leads": 8, "seed": "all",
        "config": runs.config_hash({"cohort": cohort.fingerprint, "n_splits": n_splits}),
    }  # fmt: skip
    sizes = {"n_records": len(cohort), "n_patients": len(np.unique(patient))}
    rows = []
    for learner in (neighbours, probe):
        for shuffle in (False, True):
            sides = (learner, patients), (learner, np.arange(len(patients)))
            found = trial("segment", halves, targets, patients, *sides, n_splits, shuffle)
            for name, low, high in (
                ("right", "right low", "right high"), ("wrong", "wrong low", "wrong high"),
                ("difference", "low", "high"),
            ):  # fmt: skip
                rows.append(
                    {"method": learner.__name__, **shared, **sizes, "protocol": found["labels"],
                     "metric": f"macro_auc {name}", "value": found[name], "low": found[low],
                     "high": found[high]}
                )  # fmt: skip
    visits = recognised(beats_of(cohort.millivolts(), cohort.fs), patient)
    several = cohort.table["patient_id"].duplicated(keep=False).to_numpy()
    same = recognised(halves, np.repeat(np.arange(len(cohort)), 2))
    for task, hit, who in (
        ("other half of the record", same, patients),
        ("other record of the patient", visits[several], patient[several]),
    ):
        weights = metrics.patient_weights(who)
        low, high = metrics.interval(weights @ hit / weights.sum(axis=1))
        rows.append(
            {"method": "neighbours", **shared, "task": task, "metric": "recognised", "low": low,
             "value": hit.mean(), "high": high, "n_records": len(hit),
             "n_patients": len(np.unique(who))}
        )  # fmt: skip
    path.unlink(missing_ok=True)
    table = runs.Table(path)
    table.add(rows)
    table.describe(
        experiment="leakage", cohort=cohort.name, fs=cohort.fs, n_splits=n_splits,
        cohort_fingerprint=cohort.fingerprint, sizes=sizes,
        code=runs.definitions(sys.modules[__name__]), seconds=round(time.monotonic() - began),
    )  # fmt: skip
    return table.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder in PTB-XL's layout; without it PTB-XL is downloaded")
    parser.add_argument("--out", default="results")
    arguments = parser.parse_args()
    cohort = open_cohort("ptb-xl", data=arguments.data)
    table = publish(cohort, Path(arguments.out) / "ptb-xl" / "leakage.csv")
    print(table[["method", "task", "protocol", "metric", "value", "low", "high"]].to_string())


if __name__ == "__main__":
    main()
