"""Beyond diagnosis: what else of a person can be read off a representation?

    table = traits(entrants, cohort, Table("results/ptb-xl/beyond-diagnosis.csv"), seconds=2.5)
    by_chance(train, test)                          # what answers without a look score

Age and sex, and on simulated hearts the frontal axis and how the heart lies in the chest. A cell is
one encoder, protocol, trait, budget and subset; as in `label_efficiency` it is stored as soon as it
is finished, and one that stands in the table is not computed again. Explained in the chapter
*Beyond diagnosis*.
"""

from functools import partial

import numpy as np
import pandas as pd
from torch.nn import functional as F

from .. import grid
from ..metrics import patient_weights, weighted_auc
from ..runs import Table
from .any_lead import _by_metric, _cell, _mean_and_gains
from .finetune import fine_tune, predict
from .label_efficiency import _about, _cell_hash
from .localisation import _splits
from .probe import linear_probe
from .windows import embed, over_windows

TRAITS = {  # columns of the cohort's table
    "age": ("age",),  # years
    "sex": ("sex",),  # female against male
    "axis": ("axis",),  # of the QRS in the frontal plane, degrees
    "turn": ("turn_x", "turn_y", "turn_z"),  # the heart's long axis: left, down, back, length 1
}
OLDEST = 120  # years; beyond, a number stands for something else
RIDGE = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # penalties; age is weak and needs large ones
BUDGETS = (0.1, 1.0)
SUBSETS = {0.1: 3, 1.0: 1}


def traits(
    entrants, cohort, table, *, seconds, overlap=0.0, which=None, budgets=BUDGETS, subsets=None,
    fine_tuning=None, part="test", progress=True, reference=("random", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with how well every entrant reads every trait, and summarise it.

    `which`: names of `TRAITS` (default: all that the cohort's table has). Records without a value
    are left out, see `trait_values`; a budget is a share of the training patients that have one.
    Other arguments: as in `label_efficiency`. Column ``statement`` is the trait. Metrics: of age
    ``mae`` (years) and ``r2``, of axis and turn ``mae`` (mean angle to the truth, degrees), of sex
    ``auc``; see `trait_scores`, `summarise`. Returns the table as a data frame. Raises
    ``ValueError`` for a budget that `subsets` has not, an unknown trait, a cohort without its
    columns, and one in which the training or evaluated records all have the same value, or none.
    Our choice of task. Chapter: *Beyond diagnosis*.
    """
    table = table if isinstance(table, Table) else Table(table)
    subsets = subsets or SUBSETS
    unknown = [budget for budget in budgets if budget not in subsets]
    if unknown:
        raise ValueError(f"subsets has no number for the budgets {unknown}, only for {subsets}")
    whole, parts, settings = _prepare(
        cohort, which, part, seconds, overlap, dict(fine_tuning or {})
    )
    jobs = [
        grid.Job(
            {_cell_hash({**settings, "trait": trait}, entrant, protocol, budget, subset):
             f"{entrant.method} {protocol} {trait} {budget:.0%}"}, entrant,
            partial(_compute, entrant, protocol, trait, budget, subset, whole, known, settings),
        )
        for entrant in entrants
        for protocol in entrant.protocols
        for trait, known in parts.items()
        for budget in budgets
        for subset in range(subsets[budget])
    ]  # fmt: skip
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, names, reference, over))
    return table.read()


def _prepare(cohort, which, part, seconds, overlap, fine_tuning):
    """Training and evaluated records, of each trait those that have it, and what hashes hold."""
    if part not in ("test", "validation"):
        raise ValueError(f"part is {part!r}: expected 'test' or 'validation'")
    which = _there(cohort) if which is None else which
    train, validation, test = cohort.split()
    whole = train, test if part == "test" else validation
    parts = {
        trait: (_known(whole[0], trait, "training folds"), _known(whole[1], trait, f"{part} fold"))
        for trait in which
    }
    settings = {
        "cohort": cohort.fingerprint, "task": "traits", "part": part, "seconds": seconds,
        "overlap": overlap, "fine_tuning": fine_tuning,
    }  # fmt: skip
    return whole, parts, settings


def _there(*cohorts):
    """The traits whose columns all of `cohorts` have."""
    found = [t for t, names in TRAITS.items() if all(set(names) <= set(c.table) for c in cohorts)]
    if not found:
        wanted = ", ".join(name for names in TRAITS.values() for name in names)
        raise ValueError(
            f"cohort {cohorts[0].name!r} has no trait: its table needs some of the columns "
            f"{wanted}, found {', '.join(cohorts[0].table.columns)}"
        )
    return found


def _known(cohort, trait, where):
    """The records of `cohort`, the part called `where`, that have `trait`: two values or more."""
    values = trait_values(cohort, trait)
    known = ~np.isnan(values).any(axis=1)
    if len(np.unique(values[known], axis=0)) < 2:
        found = cohort.table.loc[known, list(TRAITS[trait])].iloc[:1].to_numpy().tolist()
        raise ValueError(
            f"{trait} in the {where} of cohort {cohort.name!r}: {known.sum()} of {len(cohort)} "
            f"records have a value, {f'always {found[0]}' if found else 'none usable'}; expected "
            "at least two different ones: open more records, or leave the trait out of `which`"
        )
    return cohort.select(known)


def trait_values(cohort, trait):
    """A trait of every record, as numbers to learn: (record, number), NaN where it is not known.

    Age in years; sex, 1 for female; axis and turn as vectors of length 1, (cosine, sine) and
    (left, down, back). PTB-XL writes an age of 300 for patients over 89: that is not known, nor any
    age above `OLDEST`, so nothing is said about the very old. Children stay. Raises ``ValueError``
    for an unknown trait and missing columns.
    """
    if trait not in TRAITS:
        raise ValueError(f"trait {trait!r}: expected one of {', '.join(TRAITS)}")
    absent = [name for name in TRAITS[trait] if name not in cohort.table]
    if absent:
        raise ValueError(
            f"cohort {cohort.name!r} lacks {', '.join(absent)}: its table needs that to learn "
            f"{trait}; found {', '.join(cohort.table.columns)}"
        )
    columns = cohort.table[list(TRAITS[trait])]
    if trait == "sex":
        columns = columns["sex"].map({"female": 1, "male": 0}).to_frame()
    values = columns.to_numpy(float)
    if trait == "age":
        return np.where(values > OLDEST, np.nan, values)
    if trait == "axis":
        return np.hstack([np.cos(np.radians(values)), np.sin(np.radians(values))])
    return values if trait == "sex" else _direction(values)


def _direction(vectors):
    """At length 1; without a direction, 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


# --- models -----------------------------------------------------------------------------------


def _probed(trait, features, labelled, others, seed):
    """Answers (other record, number) read off frozen features by a linear model."""
    values, patients = trait_values(labelled, trait), labelled.table["patient_id"]
    if trait == "sex":
        return linear_probe(features, values, patients, others, seed=seed)
    mean, deviation = features.mean(axis=0), features.std(axis=0).clip(1e-6)
    features, others = (((x - mean) / deviation).astype(float) for x in (features, others))
    return _ridge(features, values, patients, seed).predict(others).reshape(len(others), -1)


def _ridge(features, values, patients, seed):
    """Mean squared error + penalty x squared weights, minimised; features are standardised.

    The penalty has the smallest error in cross-validation over `patients`; with fewer than four
    it is the largest.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    penalties = len(features) * np.array(RIDGE)
    splits = [(np.flatnonzero(kept), np.flatnonzero(~kept)) for kept in _splits(patients, seed)]
    if not splits:
        return Ridge(penalties[-1]).fit(features, values)
    model = RidgeCV(penalties, cv=splits, scoring="neg_mean_squared_error")
    return model.fit(features, values)


def _tuned(trait, encoder, labelled, cohort, seconds, overlap, **options):
    """Answers (record, number) of a copy of `encoder` trained with one linear layer.

    Of numbers the loss is the squared error of what is left when their mean is taken off and they
    are divided by one standard deviation for all; answers are means over windows.
    """
    values = trait_values(labelled, trait)
    if trait == "sex":
        model = fine_tune(encoder, labelled, values, seconds=seconds, **options)
        return predict(model, cohort, seconds, overlap)
    middle = values.mean(axis=0)
    spread = np.sqrt(((values - middle) ** 2).mean()) or 1.0
    model = fine_tune(
        encoder, labelled, (values - middle) / spread, seconds=seconds, loss=F.mse_loss, **options
    )
    return middle + spread * over_windows(model, cohort, seconds, overlap).numpy()


# --- scores -----------------------------------------------------------------------------------


def trait_scores(trait, values, answers, weights):
    """How good `answers` are in each resample: {metric: (resample,)}.

    `values`, `answers`: (record, number), see `trait_values`; `weights`: counts (resample, record)
    of `patient_weights`. Of sex ``auc``; else ``mae``, the mean absolute error in years, or of axis
    and turn the mean angle between truth and answer in degrees (0 to 180; 90 for an answer without
    direction). Of age also ``r2``, 1 less the squared error over that of the evaluated records' own
    mean: 0 for who always answers that, below for who does worse. Chapter: *Beyond diagnosis*.
    """
    if trait == "sex":
        return {"auc": weighted_auc(values[:, 0], answers[:, 0], weights)}
    total = weights.sum(axis=1)
    if trait != "age":
        cosine = (_direction(values) * _direction(answers)).sum(axis=1).clip(-1, 1)
        return {"mae": weights @ np.degrees(np.arccos(cosine)) / total}
    values, error = values[:, 0], answers[:, 0] - values[:, 0]  # years (record,)
    middle = weights @ values / total  # (resample,)
    spread = weights @ values**2 / total - middle**2
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one age has none
        r2 = np.where(spread > 1e-6, 1 - weights @ error**2 / total / spread, np.nan)
    return {"mae": weights @ np.abs(error) / total, "r2": r2}


def by_chance(train, test):
    """What answers without a look at the record score: a data frame, a row a trait.

    The answer is the mean of the records of `train`, of axis and turn the mean direction; columns
    ``mae``, ``r2``, ``auc`` are `trait_scores` on the records of `test`. Of the traits that both
    have. Chapter: *Beyond diagnosis*.
    """
    rows = {}
    for trait in _there(train, test):
        known, asked = (
            trait_values(_known(part, trait, where), trait)
            for part, where in ((train, "training records"), (test, "test records"))
        )
        answers = np.tile(known.mean(axis=0), (len(asked), 1))
        scores = trait_scores(trait, asked, answers, np.ones((1, len(asked))))
        rows[trait] = {metric: value[0] for metric, value in scores.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mae", "r2", "auc"])


# --- cells and summary ------------------------------------------------------------------------


def _compute(entrant, protocol, trait, budget, subset, whole, known, settings, names):
    """Compute one cell: its rows and their resamples. `known`: the records that have the trait."""
    windows, (train, test) = (settings["seconds"], settings["overlap"]), known
    labelled = train.budget(budget, subset)
    if protocol == "probe":
        features = grid.features(entrant, settings["cohort"], windows, whole, embed)
        features, others = (
            x.numpy()[every.table["record_id"].isin(some.table["record_id"])]
            for x, every, some in zip(features, whole, (labelled, test))
        )
        answers = _probed(trait, features, labelled, others, subset)
    else:
        encoder = grid.encoder(entrant, settings["cohort"])
        options = {**settings["fine_tuning"], **entrant.fine_tuning}
        answers = _tuned(trait, encoder, labelled, test, *windows, seed=subset, **options)
    values, weights = trait_values(test, trait), patient_weights(test.table["patient_id"])
    one = trait_scores(trait, values, answers, np.ones((1, len(test)), np.float32))
    sampled = trait_scores(trait, values, answers, weights)
    row = _about(entrant, protocol, "traits", labelled) | {"statement": trait}
    row |= {"budget": budget, "subset": subset, "config": names[0]}
    yield _cell(row, {metric: (one[metric][0], sampled[metric]) for metric in one})


def summarise(table, names=None, reference=("random", "fine-tuned"), over=None):
    """Mean over seeds and subsets with a 95 % interval, and paired gains, trait by trait.

    `names`: hashes of the cells that count (default: all). `reference`, `over`: as in `traits`.
    Made from the stored resamples alone; intervals cover patients, seeds and subsets. Returns
    summary rows: seed ``all``, of each metric its mean, ``<metric>_gain`` over the reference at the
    same budget, and ``<metric>_over_<name>``. More is better in every gain: of ``mae`` it is by how
    much the error is *smaller*.
    """
    cells, rows = table.read(), []
    cells = cells if names is None else cells[cells["config"].isin(names)]
    for trait, one in cells[cells["seed"] != "all"].groupby("statement", sort=False):
        for metric, sampled, groups in _by_metric(table, set(one["config"]), "budget"):
            for key in groups:
                mean, *gains = _mean_and_gains(key, metric, sampled, groups, reference, over)
                if metric == "mae":  # less is better: turn differences round
                    gains = [g | {"value": -g["value"], "low": -g["high"], "high": -g["low"]}
                             for g in gains]  # fmt: skip
                rows += [row | {"statement": trait} for row in (mean, *gains)]
    return rows
