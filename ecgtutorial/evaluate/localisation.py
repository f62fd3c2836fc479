"""Where a tachycardia begins: how well does each encoder find the origin of a ventricular beat?

    cohort = ecg.open_cohort("simulated-vt", n_patients=500, seed=0)
    table = localisation(entrants, cohort, Table("results/simulated-vt/localisation.csv"), ...)
    likely, sites = locate(encoder, train.budget(0.25), test, seconds=2.5)  # regions and mm

The answer is a region of the ventricles and, where the cohort knows them, coordinates in mm. A cell
is one encoder, protocol, number of labelled patients and subset; as in `label_efficiency` it is
stored as soon as it is finished, and one that stands in the table is not computed again. Source:
the second downstream task of paper C (Ran & Liu 2024), whose abstract names neither regions nor
metric: all of it here is our choice. Explained in the chapter *Where a tachycardia begins*.
"""

import warnings
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from .. import grid
from ..datasets.simulated_vt import neighbours
from ..heart.ventricles import SEGMENTS
from ..metrics import patient_weights
from ..runs import Table
from .any_lead import _by_metric, _cell, _mean_and_gains
from .finetune import fine_tune
from .label_efficiency import _about, _cell_hash
from .probe import PENALTIES
from .windows import embed, over_windows

PATIENTS = (10, 25, 50, 100, 200, 400)
SUBSETS = {10: 5, 25: 5, 50: 5, 100: 3, 200: 2}  # 1 of any other number
SITES = ("site_x", "site_y", "site_z")  # mm
RIDGE = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # penalties for coordinates
_FOLDS = 4


def localisation(
    entrants, cohort, table, *, seconds, overlap=0.0, patients=PATIENTS, subsets=None,
    fine_tuning=None, part="test", progress=True, reference=("random", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with how well every entrant finds origins, and summarise it.

    `cohort`: with `origins`; labels come from the training folds, answers from the test fold
    (`part="validation"` while choosing settings). `patients`: numbers of labelled patients, drawn
    as in `Cohort.budget`; None: all. `subsets`: {number: random subsets of it}. `seconds`,
    `overlap`: windows that records are read in; a window may lack a single ectopic beat, so answers
    are means over windows. `fine_tuning`: arguments of `fine_tune_origin`. `reference`, `over`: as
    in `label_efficiency`. Column ``budget`` is the share of the training patients, ``n_patients``
    their number, ``leads`` 12. Metrics: see `origin_scores`, `summarise`. Returns the table as a
    data frame. Raises ``ValueError`` for a cohort without origins, for a training part of one
    patient or region, and for numbers of patients it has not. Source: paper C. Chapter: *Where a
    tachycardia begins*.
    """
    table = table if isinstance(table, Table) else Table(table)
    train, test, settings = _prepare(cohort, part, seconds, overlap, dict(fine_tuning or {}))
    whole = train.table["patient_id"].nunique()
    numbers, draws = _numbers(patients, whole), SUBSETS if subsets is None else subsets
    jobs = [
        grid.Job(
            {_cell_hash(settings, entrant, protocol, number, subset):
             f"{entrant.method} {protocol} {number}"}, entrant,
            partial(_compute, entrant, protocol, number, subset, train, test, settings),
        )
        for entrant in entrants
        for protocol in entrant.protocols
        for number in numbers
        for subset in range(1 if number == whole else draws.get(number, 1))
    ]  # fmt: skip
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, names, reference, over))
    return table.read()


def _prepare(cohort, part, seconds, overlap, fine_tuning):
    """The two parts of the cohort, and what every cell's hash holds."""
    if part not in ("test", "validation"):
        raise ValueError(f"part is {part!r}: expected 'test' or 'validation'")
    origins(cohort)  # before anything is trained
    train, validation, test = cohort.split()
    for column in ("patient_id", "region"):
        if train.table[column].nunique() < 2:
            raise ValueError(
                f"the training folds of cohort {cohort.name!r} hold one {column}, "
                f"{train.table[column].iloc[0]!r}: expected at least two"
            )
    settings = {
        "cohort": cohort.fingerprint, "task": "origin", "part": part, "seconds": seconds,
        "overlap": overlap, "fine_tuning": fine_tuning,
    }  # fmt: skip
    return train, test if part == "test" else validation, settings


def _numbers(patients, whole):
    """Numbers of labelled patients, None replaced by all; each once."""
    numbers = [whole if n is None else n for n in patients]
    strange = [n for n in numbers if n != int(n) or not 2 <= n <= whole]
    if strange:
        raise ValueError(
            f"patients holds {strange}: expected whole numbers from 2 to {whole}, the patients in "
            "the training folds, or None for all; open a larger cohort, or leave these out"
        )
    return list(dict.fromkeys(map(int, numbers)))


def origins(cohort):
    """Where the ventricular beats of each record begin, as the cohort's table says.

    Returns regions, str (record,), from the column ``region``, and sites, mm (record, 3), from
    ``site_x``, ``site_y``, ``site_z``, or None for a table without these. Raises ``ValueError`` for
    missing columns and values. Chapter: *Where a tachycardia begins*.
    """
    table = cohort.table
    wanted = ["region", *(SITES if any(name in table for name in SITES) else ())]
    absent = [name for name in wanted if name not in table]
    if absent:
        raise ValueError(
            f"cohort {cohort.name!r} lacks {', '.join(absent)}: to learn origins its table needs "
            f"the column region and, for coordinates, {', '.join(SITES)} in mm; found "
            f"{', '.join(table.columns)}"
        )
    holes = table[wanted].isna().any(axis=1)
    if holes.any():
        raise ValueError(
            f"{', '.join(wanted)}: {holes.sum()} of {len(table)} records lack a value, such as "
            f"record {table['record_id'][holes.idxmax()]!r}: leave these records out"
        )
    sites = table[list(SITES)].to_numpy(float) if len(wanted) > 1 else None
    return table["region"].to_numpy(str), sites


def _ordered(regions):
    """Their names, in the order of `SEGMENTS` if all are known there, else of the alphabet."""
    names = sorted(set(regions.tolist()))
    return sorted(names, key=SEGMENTS.index) if set(names) <= set(SEGMENTS) else names


# --- models -----------------------------------------------------------------------------------


def locate(encoder, labelled, cohort, protocol="fine-tuned", *, seconds, overlap=0.0, seed=0,
           fine_tuning=None):  # fmt: skip
    """Learn origins from the records of `labelled` and find those of `cohort`.

    `protocol`: ``"probe"`` or ``"fine-tuned"``, see `fit_origin_probe` and `fine_tune_origin`.
    Returns the chance of each region that is in `labelled`, a data frame (record, region), and
    sites in mm (record, 3), or None where `labelled` has none. Chapter: *Where a tachycardia
    begins*.
    """
    if protocol == "probe":
        features, others = (embed(encoder, part, seconds, overlap) for part in (labelled, cohort))
        return fit_origin_probe(features, labelled, seed)(others)
    options = {"seed": seed, **(fine_tuning or {})}
    find = fine_tune_origin(encoder, labelled, seconds=seconds, overlap=overlap, **options)
    return find(cohort)


def fine_tune_origin(encoder, labelled, *, seconds, overlap=0.0, site_weight=1.0, **options):
    """Train a copy of `encoder` with one linear layer for regions and coordinates.

    The loss is the cross-entropy of the region plus `site_weight` times the squared error of the
    coordinates, less their mean and divided by one standard deviation for all three, both of the
    labelled records. `options`: other arguments of `fine_tune`. Returns a function, cohort -> as
    `locate`; chances and coordinates are means over the windows of a record. The weight is our
    choice. Chapter: *Where a tachycardia begins*.
    """
    regions, sites = origins(labelled)
    names = _ordered(regions)
    n = len(names)
    targets = (regions[:, None] == np.array(names)).astype(float)  # (record, region)
    if sites is not None:
        middle, spread = sites.mean(axis=0), sites.std(axis=0)
        spread = np.sqrt((spread**2).mean()) or 1.0  # one for all axes: a mm is a mm on each
        targets = np.hstack([targets, (sites - middle) / spread])  # (record, region + 3)

    def loss(outputs, target):
        error = F.cross_entropy(outputs[:, :n], target[:, :n])
        if sites is None:
            return error
        return error + site_weight * F.mse_loss(outputs[:, n:], target[:, n:])

    model = fine_tune(encoder, labelled, targets, seconds=seconds, loss=loss, **options)

    def find(cohort):
        found = over_windows(_Answer(model, n), cohort, seconds, overlap).numpy()
        located = None if sites is None else middle + spread * found[:, n:]
        return pd.DataFrame(found[:, :n], columns=names), located

    return find


class _Answer(nn.Module):
    """Chances of `n` regions in place of their logits; coordinates as they are."""

    def __init__(self, model, n):
        super().__init__()
        self.model, self.n = model, n

    def forward(self, signals):
        outputs = self.model(signals).float()  # (batch, region + 3)
        return torch.cat([outputs[:, : self.n].softmax(dim=1), outputs[:, self.n :]], dim=1)


def fit_origin_probe(features, labelled, seed=0):
    """Read origins off frozen features: a softmax regression for regions, a ridge for coordinates.

    `features` (record, feature) of the records of `labelled`. Both penalties are chosen by
    cross-validation over the labelled patients; with fewer than four they are the largest. Returns
    a function, features (record, feature) -> as `locate`. Chapter: *Where a tachycardia begins*.
    """
    regions, sites = origins(labelled)
    features = np.asarray(features, dtype=float)
    if len(features) != len(regions):
        raise ValueError(f"{len(features)} feature rows for {len(regions)} labelled records")
    mean, deviation = features.mean(axis=0), features.std(axis=0).clip(1e-6)
    features = (features - mean) / deviation
    splits = _splits(labelled.table["patient_id"], seed)
    names, chances = _ordered(regions), _softmax(features, regions, splits)
    place = None if sites is None else _ridge(features, sites, splits)

    def find(test_features):
        test = (np.asarray(test_features, dtype=float) - mean) / deviation
        return pd.DataFrame(chances(test))[names], None if place is None else place(test)

    return find


def _splits(patients, seed):
    """Training records of each fold of patients, bool (record,); none for very few patients."""
    names, number = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < _FOLDS:
        return []
    fold = np.random.default_rng(seed).permutation(len(names)) % _FOLDS
    return [fold[number] != k for k in range(_FOLDS)]


def _softmax(features, regions, splits):
    """Penalised multinomial regression: a function, features -> {region: chance (record,)}."""
    if len(set(regions)) == 1:  # of very few patients
        return lambda test: {regions[0]: np.ones(len(test))}
    errors = np.zeros(len(PENALTIES))
    for kept in splits:
        # Of a region that is not in this fold's training records nothing can be known.
        held_out = ~kept & np.isin(regions, regions[kept])
        if len(set(regions[kept])) < 2 or not held_out.any():
            continue
        for k, penalty in enumerate(PENALTIES):
            model = _logistic(features[kept], regions[kept], penalty)
            chance = model.predict_log_proba(features[held_out])  # (record, region)
            column = np.searchsorted(model.classes_, regions[held_out])
            errors[k] -= chance[np.arange(len(chance)), column].sum()
    best = PENALTIES[errors.argmin()] if errors.any() else PENALTIES[-1]
    model = _logistic(features, regions, best)
    return lambda test: dict(zip(model.classes_, model.predict_proba(test).T))


def _logistic(features, regions, penalty):
    """Mean cross-entropy plus `penalty` times half the squared coefficients, minimised."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # Two things are as they should be: few records of many regions, and, as few records can
        # be told apart without error, steps that end by their number where the penalty is small.
        warnings.simplefilter("ignore", UserWarning)
        return LogisticRegression(C=1 / (penalty * len(features)), max_iter=200).fit(
            features, regions
        )


def _ridge(features, sites, splits):
    """Ridge regression in closed form: a function, features -> coordinates (record, 3)."""
    errors = np.zeros(len(RIDGE))
    for kept in splits:
        weights, bias = _solve(features[kept], sites[kept], RIDGE)
        error = np.einsum("nf,pfc->pnc", features[~kept], weights) + bias[:, None] - sites[~kept]
        errors += (error**2).sum(axis=(1, 2))
    best = RIDGE[errors.argmin()] if splits else RIDGE[-1]
    (weights,), (bias,) = _solve(features, sites, [best])
    return lambda test: test @ weights + bias


def _solve(features, sites, penalties):
    """Minimise mean squared error + penalty x squared weights: (penalty, feature, 3), bias."""
    mean, middle = features.mean(axis=0), sites.mean(axis=0)
    u, s, vt = np.linalg.svd(features - mean, full_matrices=False)
    shrunk = s / (s**2 + len(features) * np.asarray(penalties)[:, None] + 1e-12)  # (penalty, rank)
    weights = np.einsum("rf,pr,rc->pfc", vt, shrunk, u.T @ (sites - middle))
    return weights, middle - mean @ weights


# --- scores -----------------------------------------------------------------------------------


def origin_scores(truth, answer, weights, adjacent=True):
    """How well origins are found, in each resample: {metric: (resample,)}.

    `truth`, `answer`: regions (record,) and sites in mm (record, 3) or None; `weights`: counts of
    `patient_weights` (resample, record). ``region_accuracy``: share of records with the right
    region; ``adjacent_accuracy``: with that or one that touches it (`simulated_vt.neighbours`),
    left out unless `adjacent`; ``distance_median``, ``distance_p90``: quantiles over records of the
    distance between the sites in mm, left out without sites. A region that no labelled record has
    is never found, and counts. Chapter: *Where a tachycardia begins*.
    """
    (regions, sites), (found, located) = truth, answer
    right, total = regions == found, weights.sum(axis=1)
    scores = {"region_accuracy": weights @ right / total}
    if adjacent:
        touch = neighbours()
        rows, columns = touch.index.get_indexer(regions), touch.index.get_indexer(found)
        scores["adjacent_accuracy"] = weights @ (right | touch.to_numpy()[rows, columns]) / total
    if sites is not None:
        distance = np.linalg.norm(sites - located, axis=1)  # mm (record,)
        scores["distance_median"] = weighted_quantile(distance, weights, 0.5)
        scores["distance_p90"] = weighted_quantile(distance, weights, 0.9)
    return scores


def weighted_quantile(values, weights, q):
    """Quantile `q` of `values` (record,), each repeated as often as `weights` say.

    `weights`: whole numbers (resample, record). Returns (resample,), as
    ``np.quantile(np.repeat(values, w), q)`` for each row w.
    """
    order = np.argsort(values)
    values, upto = values[order], np.cumsum(weights[:, order], axis=1, dtype=float)
    place = q * (upto[:, -1:] - 1)  # (resample, 1), among the repeated values from 0
    below, above = (values[(upto <= end).sum(axis=1)] for end in (np.floor(place), np.ceil(place)))
    return below + (place[:, 0] % 1) * (above - below)


def by_chance(train, test):
    """What answers without a look at the record score: a data frame, a metric a column.

    Row ``"most common"``: always the region most common among `train`, and the mean of its sites.
    Row ``"drawn"``: the origin of a random record of `train`, over all such draws. Chapter: *Where
    a tachycardia begins*.
    """
    (regions, sites), (known, places) = origins(test), origins(train)
    names, counts = np.unique(known, return_counts=True)
    n, adjacent = len(regions), _all_known(known, regions)
    common = np.full(n, names[counts.argmax()]), None if places is None else places.mean(axis=0)
    i, j = (pair.ravel() for pair in np.indices((n, len(known))))  # every record, every answer
    pairs = [(regions[i], None if sites is None else sites[i]),
             (known[j], None if places is None else places[j])]  # fmt: skip
    scores = {
        "most common": origin_scores((regions, sites), common, np.ones((1, n)), adjacent),
        "drawn": origin_scores(*pairs, np.ones((1, len(i))), adjacent),
    }
    return pd.DataFrame({name: {m: v[0] for m, v in s.items()} for name, s in scores.items()}).T


def _all_known(*regions):
    return all(set(names.tolist()) <= set(SEGMENTS) for names in regions)


# --- cells and summary ------------------------------------------------------------------------


def _compute(entrant, protocol, number, subset, train, test, settings, names):
    """Compute one cell: its rows and their resamples."""
    windows = settings["seconds"], settings["overlap"]
    truth, weights = origins(test), patient_weights(test.table["patient_id"])
    adjacent = _all_known(truth[0], origins(train)[0])
    who = train.table["patient_id"]
    budget = number / who.nunique()
    labelled = train.budget(budget, subset)
    if protocol == "probe":
        known, asked = grid.features(entrant, settings["cohort"], windows, (train, test), embed)
        rows = who.isin(labelled.table["patient_id"]).to_numpy()
        chances, sites = fit_origin_probe(known.numpy()[rows], labelled, subset)(asked.numpy())
    else:
        options = {**settings["fine_tuning"], **entrant.fine_tuning}
        chances, sites = locate(
            grid.encoder(entrant, settings["cohort"]), labelled, test, protocol,
            seconds=windows[0], overlap=windows[1], seed=subset, fine_tuning=options,
        )  # fmt: skip
    answer = chances.idxmax(axis=1).to_numpy(str), sites
    value = origin_scores(truth, answer, np.ones((1, len(test))), adjacent)
    sampled = origin_scores(truth, answer, weights, adjacent)
    row = _about(entrant, protocol, "origin", labelled)
    row |= {"budget": budget, "subset": subset, "config": names[0]}
    yield _cell(row, {metric: (value[metric][0], sampled[metric]) for metric in value})


def summarise(table, names=None, reference=("random", "fine-tuned"), over=None):
    """Mean over seeds and subsets with a 95 % interval, and paired gains.

    `names`: hashes of the cells that count (default: all). `reference`, `over`: as in
    `localisation`. Made from the stored resamples alone; intervals cover patients, seeds and
    subsets. Returns summary rows: seed ``all``, of each metric its mean, ``<metric>_gain`` over the
    reference with as many labelled patients, and ``<metric>_over_<name>``. More is better in every
    gain: of a distance it is by how many mm the distance is *smaller*.
    """
    rows = []
    for metric, sampled, groups in _by_metric(table, names, "n_patients"):
        for key in groups:
            mean, *gains = _mean_and_gains(key, metric, sampled, groups, reference, over)
            if metric.startswith("distance"):  # less is better: turn differences round
                gains = [g | {"value": -g["value"], "low": -g["high"], "high": -g["low"]}
                         for g in gains]  # fmt: skip
            rows += [mean, *gains]
    return rows
