"""Subgroups of disease: which classes gain from pre-training, and which labels do views change?

    entrants = [Entrant("supervised", 0, ...), Entrant("3kg", 0, ...)]
    table = subgroups(entrants, cohort, Table("results/ptb-xl/subgroups.csv"), seconds=2.5)

The evaluation of 3KG by Gopal et al. 2021 (paper D): macro AUC and macro F1 over 23 classes, and
its figure 2, the gain of each class and of four groups of them. A cell is one encoder, protocol,
budget and subset; it is stored as soon as it is finished, and one that stands in the table is not
computed again. Explained in the chapter *3KG*.
"""

import numpy as np

from .. import grid
from ..cohort import Cohort
from ..datasets.challenge import CLASSES_2020
from ..metrics import bootstrap_macro_auc, class_auc, interval, macro_f1, patient_weights
from ..runs import Table
from .any_lead import _mean_and_gains
from .label_efficiency import _about, _answer, _jobs, _prepare, scored_classes

TASK = "challenge-23"
BUDGETS = (0.01, 0.1, 1.0)
SUBSETS = {0.01: 5, 0.1: 5, 1.0: 1}

CLASSES_23 = tuple(name for name in CLASSES_2020 if name != "LPR")  # IAVB stands for both

# Each class in one group. The names are those of paper D, figure 2; which class lies where is our
# choice. Conduction: an impulse that is late or takes another way from the atria on. Rhythm: where
# and how often it arises. Waveform: the form of a wave, which one lead shows, or, for an axis and
# for a voltage that must be low in all limb or all chest leads, only several leads together.
GROUPS = {
    "conduction": ("CLBBB", "CRBBB", "IAVB", "IRBBB", "LAnFB", "NSIVCB"),
    "rhythm": ("AF", "AFL", "Brady", "NSR", "PAC", "PR", "PVC", "SA", "SB", "STach"),
    "single-lead waveform": ("LQT", "QAb", "TAb", "TInv"),
    "multi-lead waveform": ("LAD", "LQRSV", "RAD"),
}

# Classes whose label a view of 3KG can change: turning the heart vector by up to 45 degrees, or
# scaling its three axes by factors between 1/1.5 and 1.5. From the definitions, before any result.
CHANGED_BY = {
    "rotation": {
        "LAD": "the frontal axis lies beyond -30 degrees: a turn carries it there or back",
        "RAD": "the frontal axis lies beyond 90 degrees: a turn carries it there or back",
        "LAnFB": "the frontal axis between -45 and -90 degrees is part of the definition",
        "IRBBB": "a small r' in V1 with a narrow QRS: turned away from V1, nothing is left of it",
        "LQRSV": "limb leads below 0.5 mV: a turn moves voltage between frontal and other planes",
        "QAb": "the first forces point away from a lead: turned, they point towards it",
        "TAb": "a T wave flat or negative in a given lead: another lead direction, another T wave",
        "TInv": "the sign of the T wave in a given lead: a turn can reverse it",
    },
    "scaling": {
        "LAD": "unlike factors of X and Y turn the frontal axis, from -20 to -39 degrees at 1.5",
        "RAD": "unlike factors of X and Y turn the frontal axis, from 75 to 83 degrees at 1.5",
        "LAnFB": "unlike factors of X and Y turn the frontal axis across -45 degrees",
        "LQRSV": "a limit in mV: limb leads below 0.5, chest leads below 1",
        "QAb": "limits of depth: 0.1 mV, or a quarter of an R wave that another axis carries",
        "TAb": "a flat T wave is one below a limit in mV, or below a tenth of the R wave",
    },
}


def targets(cohort):
    """The 23 classes of paper D, 0/1 (record, class), as a DataFrame of uint8.

    The 24 classes of the Challenge 2020 with first degree AV block (IAVB) and prolonged PR interval
    (LPR) as one, under the name of the first. `cohort`: see `datasets.challenge.targets`, which
    says of which labels they are made and what it raises. Chapter: *3KG*.
    """
    found = cohort.targets("challenge-2020")
    found["IAVB"] |= found["LPR"]
    return found[list(CLASSES_23)]


def subgroups(
    entrants, cohort, table, *, seconds, overlap=0.0, budgets=BUDGETS, subsets=None,
    fine_tuning=None, part="test", progress=True, reference=("supervised", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with the scores of every entrant by class and by group, and summarise it.

    As `label_efficiency`, whose arguments these are, on the `targets` with `MINIMUM` positive
    records in training and test. Metrics: ``macro_auc``, ``macro_f1`` and, with the class or group
    in column ``statement``, ``auc``, of a group the mean of its classes. A class with no positive,
    or no negative, among the labelled records has one score for all: an AUC of 0.5. For F1 see
    `as_many`. Raises ``ValueError`` for a budget that `subsets` has not. Returns the table as a
    data frame; see `summarise`. Source: paper D, tables 1 and 2, figure 2. Chapter: *3KG*.
    """
    table = table if isinstance(table, Table) else Table(table)
    subsets = subsets or SUBSETS
    unknown = [budget for budget in budgets if budget not in subsets]
    if unknown:
        raise ValueError(f"subsets has no number for the budgets {unknown}, only for {subsets}")
    train, test, _, settings = _prepare(
        cohort, "challenge-2020", part, seconds, overlap, dict(fine_tuning or {})
    )
    classes = scored_classes(_merged(train), _merged(test), "all")
    rest = train, test, classes, settings | {"task": "all", "labels": TASK}
    names = grid.fill(table, _jobs(_compute, entrants, budgets, subsets, *rest), progress)
    table.replace_summary(summarise(table, names, reference, over))
    return table.read()


def _merged(cohort):
    """The same records with the 23 classes as their labels."""
    part = Cohort.__new__(Cohort)
    part.__dict__.update(cohort.__dict__)
    part.labels = targets(cohort)
    return part


def _compute(entrant, protocol, budget, subset, train, test, classes, settings, names):
    """Compute one cell: its rows and their resamples."""
    cell, test = (entrant, protocol, budget, subset), _merged(test)
    labelled, scores = _answer(*cell, _merged(train), test, classes, settings)
    share = labelled.labels[classes].mean().to_numpy()  # positives among the labelled: (class,)
    scores = np.where((share > 0) & (share < 1), scores, 0)
    weights = patient_weights(test.table["patient_id"])
    found = _scores(classes, test.labels[classes].to_numpy(), scores, share, weights)
    row = _about(entrant, protocol, TASK, labelled)
    yield _cell(row | {"budget": budget, "subset": subset, "config": names[0]}, found)


def _scores(classes, target, scores, share, weights):
    """{(metric, statement): value and (resample,) values} of one cell's answers."""
    value = dict(zip(classes, class_auc(target, scores)))
    sampled = {
        name: bootstrap_macro_auc(target[:, [i]], scores[:, [i]], weights)
        for i, name in enumerate(classes)
    }

    def mean(names):
        values = np.stack([sampled[name] for name in names])  # (class, resample)
        there = ~np.isnan(values)  # a resample may hold no positive of a class
        total = np.where(there, values, 0).sum(axis=0)
        known = np.where(there.any(axis=0), np.maximum(there.sum(axis=0), 1), np.nan)
        return np.mean([value[name] for name in names]), total / known

    likely = as_many(scores, share)
    found = {("macro_auc", None): mean(classes)}
    found["macro_f1", None] = macro_f1(target, likely), macro_f1(target, likely, weights)
    for group, members in GROUPS.items():
        there = [name for name in members if name in classes]
        if there:
            found["auc", group] = mean(there)
    return found | {("auc", name): (value[name], sampled[name]) for name in classes}


def as_many(scores, share):
    """Predict each class for the highest scored records, as many as its share of positives.

    `scores`: (record, class); `share`: of positives among the *labelled* records, (class,). No
    label of the records themselves is used, and like an AUC it asks for the order of the scores
    only, so that it treats probabilities, logits and badly calibrated networks alike. Of records
    level at the limit none is taken. Returns 0/1 (record, class). Our choice: paper D does not
    state its threshold. Chapter: *3KG*.
    """
    n = len(scores)
    taken = np.rint(np.asarray(share) * n).astype(int)  # (class,)
    ordered = np.sort(scores, axis=0)
    limit = np.take_along_axis(ordered, np.maximum(n - taken - 1, 0)[None], axis=0)  # (1, class)
    return ((scores > limit) | (taken == n)).astype(np.uint8)


def _cell(row, found):
    """A row for each metric and statement of one cell, no scores, and samples."""
    rows, samples = [], {}
    for (metric, statement), (value, sampled) in found.items():
        low, high = interval(sampled)
        about = {"metric": metric, "statement": statement}
        rows.append(row | about | {"value": value, "low": low, "high": high})
        if statement:  # there are many: ten bits of each halve the file
            sampled = np.round(sampled * 1024) / 1024
        samples[_key(row["config"], metric, statement)] = sampled
    return rows, None, samples


def _key(config, metric, statement):
    """What the resamples of a cell are stored under."""
    return f"{config}:{metric}:{statement}" if statement else f"{config}:{metric}"


def summarise(table, names=None, reference=("supervised", "fine-tuned"), over=None):
    """Mean over seeds and subsets with a 95 % interval over patients, seeds and subsets, and gains.

    `names`: hashes of the cells that count (default: all). `reference`, `over`: as in `subgroups`.
    Made from the stored resamples alone. Returns summary rows: seed ``all``, of each metric and
    statement its mean, ``<metric>_gain`` over the reference at the same budget and
    ``<metric>_over_<name>``, paired over test patients, seeds and subsets.
    """
    cells, samples = table.read(), table.samples()
    cells = cells[cells["seed"] != "all"].drop_duplicates(["config", "metric", "statement"])
    cells = cells if names is None else cells[cells["config"].isin(names)]
    cells = cells.assign(statement=cells["statement"].fillna(""))
    rows = []
    for (metric, statement), one in cells.groupby(["metric", "statement"], sort=False):
        sampled = {name: samples[_key(name, metric, statement)] for name in one["config"]}
        groups = {key: frame for key, frame in one.groupby(["method", "protocol", "budget"])}
        for key in groups:
            new = _mean_and_gains(key, metric, sampled, groups, reference, over)
            rows += [row | {"statement": statement or None} for row in new]
    return rows
