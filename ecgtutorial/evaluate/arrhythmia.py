"""Arrhythmias: how many labels does a pre-trained encoder need to equal full supervision?

    entrants = [Entrant("random", 0, ...), Entrant("spatio-temporal", 0, ...)]
    table = arrhythmias(entrants, cohort, Table("results/ptb-xl/arrhythmias.csv"), seconds=5.0)
    equals_full(table)                         # paper C: with 60 % of the labels

A cell is one encoder, protocol, budget and subset. As in `label_efficiency` it is stored as soon as
it is finished, and one that stands in the table is not computed again. Explained in the chapter
*Space and time*.
"""

import pandas as pd

from .. import grid
from ..metrics import class_accuracy, exact_match, patient_weights
from ..runs import Table
from .any_lead import _by_metric, _cell, _macro_auc, _mean_and_gains
from .label_efficiency import _about, _answer, _difference, _jobs, _prepare

BUDGETS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SUBSETS = {0.1: 5, 0.2: 3, 0.4: 2, 0.6: 2, 0.8: 2, 1.0: 1}


def arrhythmias(
    entrants, cohort, table, *, seconds, overlap=0.0, task="challenge-2020", budgets=BUDGETS,
    subsets=None, fine_tuning=None, part="test", progress=True,
    reference=("random", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with the scores of every entrant at every label budget, and summarise it.

    As `label_efficiency`, whose arguments these are, with three metrics over `scored_classes`:
    ``macro_auc``, ``exact_match`` and ``class_accuracy``; a class is predicted above a probability
    of 0.5. `reference`: the method trained from scratch, or {method: (method, protocol) it is held
    against}; its score with all labels, needed for `equals_full`, has budget 1.
    Raises ``ValueError`` for a budget that `subsets` has not. Returns the table as a data frame;
    see `summarise`. Source: paper C (Ran & Liu 2024); of its 27 classes 24 are distinct, see
    `datasets.challenge`. Chapter: *Space and time*.
    """
    table = table if isinstance(table, Table) else Table(table)
    subsets = subsets or SUBSETS
    unknown = [budget for budget in budgets if budget not in subsets]
    if unknown:
        raise ValueError(f"subsets has no number for the budgets {unknown}, only for {subsets}")
    train, test, classes, settings = _prepare(
        cohort, task, part, seconds, overlap, dict(fine_tuning or {})
    )
    rest = train, test, classes, settings
    names = grid.fill(table, _jobs(_compute, entrants, budgets, subsets, *rest), progress)
    table.replace_summary(summarise(table, names, reference, over))
    return table.read()


def _compute(entrant, protocol, budget, subset, train, test, classes, settings, names):
    """Compute one cell: its rows and their resamples."""
    cell, task = (entrant, protocol, budget, subset), settings["task"]
    labelled, scores = _answer(*cell, train, test, classes, settings)
    target = test.targets(task)[classes].to_numpy()
    weights = patient_weights(test.table["patient_id"])
    likely = scores > (0 if protocol == "probe" else 0.5)  # a logit of 0: probability 0.5
    found = {"macro_auc": _macro_auc(target, scores, weights)}
    for metric in (exact_match, class_accuracy):
        found[metric.__name__] = metric(target, likely), metric(target, likely, weights)
    row = _about(entrant, protocol, task, labelled)
    yield _cell(row | {"budget": budget, "subset": subset, "config": names[0]}, found)


def summarise(table, names=None, reference=("random", "fine-tuned"), over=None):
    """Mean over seeds and subsets with a 95 % interval, and differences.

    `names`: hashes of the cells that count (default: all). `reference`, `over`: as in
    `arrhythmias`. Made from the stored resamples alone. Returns summary rows: seed ``all``, of each
    metric its mean, ``<metric>_gain`` over the reference at the same budget,
    ``<metric>_over_<name>`` and ``<metric>_to_full``: the difference to the reference with all
    labels, also of the reference itself. All are paired over test patients and seeds. Gains are
    paired over subsets, too; the last, between two budgets, draws those of each side alone.
    """
    rows = []
    for metric, sampled, groups in _by_metric(table, names, "budget"):
        for key, frame in groups.items():
            rows += _mean_and_gains(key, metric, sampled, groups, reference, over)
            method, _, budget = key
            full = reference.get(method, ()) if isinstance(reference, dict) else reference
            full = groups.get((*full, 1.0))
            if full is not None:
                rows.append(
                    _difference(frame, frame, full, f"{metric}_to_full", sampled, budget == 1)
                )
    return rows


def without_a_look(targets):
    """What two answers that never look at the record score: a data frame, a metric a column.

    `targets`: 0/1 data frame (record, class). Rows ``"always no"`` and, where it is a class,
    ``"always NSR"``: sinus rhythm and nothing else. Chapter: *Space and time*.
    """
    answers = {"always no": 0 * targets}
    if "NSR" in targets:
        answers["always NSR"] = answers["always no"].assign(NSR=1)
    scores = {
        metric.__name__: [metric(targets.to_numpy(), a.to_numpy()) for a in answers.values()]
        for metric in (exact_match, class_accuracy)
    }
    return pd.DataFrame(scores, index=list(answers))


def equals_full(frame, metric="macro_auc"):
    """The smallest budget at which each method is as good as the reference with all labels.

    `frame`: a table of `arrhythmias`. Returns a data frame with a row a method and protocol.
    ``budget``: the smallest whose mean is at least the reference's. ``within``: the smallest at
    which the 95 % interval of the difference reaches 0, that is, where the two cannot be told
    apart; few patients make this easy. NaN where there is none. Raises ``ValueError`` if the table
    has no such differences. Source: paper C, which says 60 %. Chapter: *Space and time*.
    """
    rows = frame[(frame["seed"] == "all") & (frame["metric"] == f"{metric}_to_full")]
    if not len(rows):
        found = sorted(frame.loc[frame["seed"] == "all", "metric"].unique())
        raise ValueError(
            f"the table has no rows {metric}_to_full, only {found}: fill it by `arrhythmias`, the "
            "reference at budget 1 included"
        )
    first = {
        key: {"budget": one["budget"][one["value"] >= 0].min(),
              "within": one["budget"][one["high"] >= 0].min()}
        for key, one in rows.groupby(["method", "protocol"])
    }  # fmt: skip
    return pd.DataFrame(first).T.rename_axis(["method", "protocol"]).reset_index()
