"""Label efficiency: how good is each encoder with how many labelled patients?

    entrants = [Entrant("supervised", 0, ...), Entrant("3kg-l", 0, ...)]
    table = label_efficiency(entrants, cohort, Table("results/ptb-xl/label-efficiency.csv"), ...)

A cell is one encoder, protocol, budget and subset. It is stored as soon as it is finished, and one
that stands in the table is not computed again. Explained in the chapter *Label efficiency*.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch

from .. import grid
from ..metrics import bootstrap_macro_auc, interval, macro_auc, patient_weights
from ..runs import Table, config_hash
from .finetune import fine_tune, predict
from .probe import linear_probe
from .windows import embed

MINIMUM = 5  # records with, and without, a statement that it needs in training and evaluation
RARE = ("all", "challenge", "challenge-2020")  # tasks with classes that miss it
BUDGETS = (0.01, 0.02, 0.05, 0.10, 0.25, 0.50, 0.60, 1.0)
SUBSETS = {0.01: 5, 0.02: 5, 0.05: 5, 0.10: 5, 0.25: 3, 0.50: 2, 0.60: 2, 1.0: 1}
PROTOCOLS = ("probe", "fine-tuned")


@dataclass
class Entrant:
    """One encoder in the comparison.

    `method`, `seed`: its name in the table and its pre-training seed. `identity`: what makes it
    this encoder, such as the hash of its run. `make`: a function without arguments that gives the
    encoder, called only if a cell of it is missing. `protocols`: those it takes part in.
    `fine_tuning`: arguments of `fine_tune` in which it differs from the others.
    """

    method: str
    seed: int
    identity: str
    make: Callable
    protocols: tuple = PROTOCOLS
    fine_tuning: dict = field(default_factory=dict)


def label_efficiency(
    entrants, cohort, table, *, seconds, overlap=0.0, task="superclass", budgets=BUDGETS,
    subsets=None, fine_tuning=None, part="test", progress=True,
    reference=("supervised", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with the macro AUC of every entrant at every label budget, and summarise it.

    `cohort` is split by patient; labels come from the training folds, answers from the test fold
    (`part="validation"` while choosing settings). `task`: as in `Cohort.targets`, its classes those
    of `scored_classes`; a table holds one task. `budgets`: shares of the training patients;
    `subsets`: {budget: number of random subsets}. `seconds`, `overlap`: windows that records are
    read in; `fine_tuning`: arguments of `fine_tune`. `reference`: method and protocol over which
    the summary gives gains, or {method: (method, protocol) it is held against}. `over`: further
    pairs of equal protocol, {name: {method: method it is held against}}.
    Returns the table as a data frame. Chapter: *Label efficiency*.
    """
    table = table if isinstance(table, Table) else Table(table)
    subsets = subsets or SUBSETS
    train, test, classes, settings = _prepare(
        cohort, task, part, seconds, overlap, dict(fine_tuning or {})
    )
    rest = train, test, classes, settings
    names = grid.fill(table, _jobs(_compute, entrants, budgets, subsets, *rest), progress)
    table.replace_summary(
        summarise(table, test, task, names, reference, classes=classes, over=over)
    )
    return table.read()


def scored_classes(train, test, task):
    """Names of the classes of a task that are trained and scored.

    Of PTB-XL's groups of statements every class. Of ``"all"`` statements and of the Challenges'
    classes those with at least `MINIMUM` positive and `MINIMUM` negative records in `train` and as
    many in `test`: the AUC of a rarer one is noise. Raises ``ValueError`` if none has.
    """
    targets = [part.targets(task) for part in (train, test)]  # 0/1 (record, class) each
    classes = targets[1].columns
    if task not in RARE:
        return list(classes)
    enough = [t.sum().between(MINIMUM, len(t) - MINIMUM)[classes].to_numpy() for t in targets]
    enough = enough[0] & enough[1]
    if not enough.any():
        raise ValueError(
            f"task {task!r}: none of {len(enough)} statements has {MINIMUM} positive records and "
            "as many negative ones in the training folds and in the evaluated fold"
        )
    return list(classes[enough])


def _prepare(cohort, task, part, seconds, overlap, fine_tuning):
    """The two parts of the cohort, the classes, and what every cell's hash holds."""
    if part not in ("test", "validation"):
        raise ValueError(f"part is {part!r}: expected 'test' or 'validation'")
    train, validation, test = cohort.split()
    test = test if part == "test" else validation
    settings = {
        "cohort": cohort.fingerprint, "task": task, "part": part, "seconds": seconds,
        "fine_tuning": fine_tuning,
    }  # fmt: skip
    if overlap:  # left out where it is 0: the hashes of tables made without it stay
        settings["overlap"] = overlap
    if task in RARE:
        settings["minimum"] = MINIMUM
    return train, test, scored_classes(train, test, task), settings


def _cell_hash(settings, entrant, protocol, budget, subset):
    names = {"encoder": entrant.identity, "method": entrant.method, "seed": entrant.seed}
    names |= {"protocol": protocol, "budget": budget, "subset": subset}
    if protocol == "probe":  # fine-tuning settings change nothing in a probe
        settings = {k: v for k, v in settings.items() if k != "fine_tuning"}
    else:
        settings = settings | {"fine_tuning": {**settings["fine_tuning"], **entrant.fine_tuning}}
    return config_hash({**settings, **names})


def _jobs(compute, entrants, budgets, subsets, *rest):
    """A job for every entrant, protocol, budget and subset: ``compute(*these, *rest, hashes)``."""
    cells = [
        (entrant, protocol, budget, subset)
        for entrant in entrants
        for protocol in entrant.protocols
        for budget in budgets
        for subset in range(subsets[budget])
    ]
    return [
        grid.Job(
            {_cell_hash(rest[-1], *cell): f"{cell[0].method} {cell[1]} {cell[2]:.0%}"}, cell[0],
            partial(compute, *cell, *rest),
        )
        for cell in cells
    ]  # fmt: skip


def _compute(entrant, protocol, budget, subset, train, test, classes, settings, names):
    """Compute one cell: its row and its scores."""
    cell, task = (entrant, protocol, budget, subset), settings["task"]
    labelled, scores = _answer(*cell, train, test, classes, settings)
    target = test.targets(task)[classes].to_numpy()
    weights = patient_weights(test.table["patient_id"])
    row = _cell_row(entrant, protocol, task, labelled, target, scores, weights)
    yield [row | {"budget": budget, "subset": subset, "config": names[0]}], {names[0]: scores}


def _answer(entrant, protocol, budget, subset, train, test, classes, settings):
    """Train one cell: the labelled cohort, and scores (test record, class).

    The scores of a probe are logits, those of a fine-tuned network probabilities.
    """
    windows = settings["seconds"], settings.get("overlap", 0.0)
    labelled = train.budget(budget, subset)
    labels = labelled.targets(settings["task"])[classes].to_numpy()
    if protocol == "probe":
        known, asked = grid.features(entrant, settings["cohort"], windows, (train, test), embed)
        row_of = pd.Series(np.arange(len(train)), index=train.table["record_id"])
        rows = torch.from_numpy(row_of[labelled.table["record_id"]].to_numpy().copy())
        patients = labelled.table["patient_id"]
        return labelled, linear_probe(known[rows], labels, patients, asked, seed=subset)
    options = {**settings["fine_tuning"], **entrant.fine_tuning}
    encoder = grid.encoder(entrant, settings["cohort"])
    model = fine_tune(encoder, labelled, labels, seconds=windows[0], seed=subset, **options)
    return labelled, predict(model, test, *windows)


def _cell_row(entrant, protocol, task, labelled, target, scores, weights):
    """What the row of a cell says where macro AUC is the metric."""
    low, high = interval(bootstrap_macro_auc(target, scores, weights))
    return _about(entrant, protocol, task, labelled) | {
        "metric": "macro_auc", "value": macro_auc(target, scores), "low": low, "high": high,
    }  # fmt: skip


def _about(entrant, protocol, task, labelled):
    """What every row of a cell says, whatever the experiment and the metric."""
    return {
        "method": entrant.method, "task": task, "leads": 12, "seed": str(entrant.seed),
        "n_records": len(labelled), "n_patients": labelled.table["patient_id"].nunique(),
        "protocol": protocol,
    }  # fmt: skip


def summarise(
    table, test, task, names=None, reference=("supervised", "fine-tuned"), n_resamples=1000,
    classes=None, over=None,
):  # fmt: skip
    """Mean over seeds and subsets with a 95 % interval, and the paired gain over `reference`.

    `names`: hashes of the cells that count (default: all). `classes`: those scored (default: all of
    the task). Each resample draws test patients, pre-training seeds and label subsets with
    replacement, so the interval covers all three. Both sides of a gain see the same patients and
    the same subsets. Returns the summary rows: seed ``all``, metrics ``macro_auc``,
    ``macro_auc_gain``, for every name in `over` ``macro_auc_over_<name>``, the difference to
    another method under the same protocol, and, in a table with noise levels, ``macro_auc_drop``:
    what noise costs.
    """
    cells, ranks = table.read(), table.ranks()
    known = ranks.keys() & set(names if names is not None else ranks)
    cells = cells[(cells["seed"] != "all") & cells["config"].isin(known)]
    cells = cells.drop_duplicates("config")  # two processes may have finished the same one
    target = test.targets(task)
    target = target.to_numpy() if classes is None else target[classes].to_numpy()
    weights = patient_weights(test.table["patient_id"], n_resamples)
    sampled = {n: bootstrap_macro_auc(target, ranks[n], weights) for n in cells["config"]}
    noisy = cells["noise"].notna().any()  # an empty column cannot be grouped by
    by = ["method", "protocol", "budget", *(["noise"] if noisy else [])]
    groups = {key: frame for key, frame in cells.groupby(by)}
    rows = []
    for key, frame in groups.items():
        method, protocol, budget, *level = key
        means = _resample(frame, sampled)
        rows.append(_summary_row(frame, "macro_auc", frame["value"].mean(), means))
        against = {"macro_auc_gain": _reference(reference, method)}
        for name, pairs in (over or {}).items():
            if method in pairs:
                against[f"macro_auc_over_{name}"] = (pairs[method], protocol)
        for metric, other in against.items():
            other = groups.get((*other, budget, *level))
            if other is not None and other is not frame:
                both = set(frame["subset"]) & set(other["subset"])
                mine, theirs = (f[f["subset"].isin(both)] for f in (frame, other))
                rows.append(_difference(mine, mine, theirs, metric, sampled))
        clean = groups.get((method, protocol, budget, 0)) if noisy else None
        if clean is not None and clean is not frame:
            rows.append(_difference(frame, clean, frame, "macro_auc_drop", sampled))
    return rows


def _reference(reference, method):
    """Method and protocol that `method` is held against; nothing for the reference itself."""
    if isinstance(reference, dict):
        return reference.get(method, ())
    return reference if method != reference[0] else ()


def _difference(frame, first, second, metric, sampled, same_subsets=True):
    """The summary row of `frame` for the difference `first` - `second`, paired over test patients.

    Both sides draw the same seeds and, unless they are of different budgets, the same subsets.
    """
    value = first["value"].mean() - second["value"].mean()
    means = _resample(first, sampled) - _resample(second, sampled, 2 if same_subsets else 3)
    return _summary_row(frame, metric, value, means)


def _resample(frame, sampled, subset_seed=2):
    """Mean bootstrap value over seeds and subsets drawn with replacement: (resample,)."""
    values = np.stack([sampled[name] for name in frame["config"]])  # (cell, resample)
    n_resamples = values.shape[1]
    seeds, seed = np.unique(frame["seed"], return_inverse=True)
    subsets, subset = np.unique(frame["subset"], return_inverse=True)
    seed_draws = np.random.default_rng(1).multinomial(
        len(seeds), np.full(len(seeds), 1 / len(seeds)), n_resamples
    )  # (resample, seed)
    subset_draws = np.random.default_rng(subset_seed).multinomial(
        len(subsets), np.full(len(subsets), 1 / len(subsets)), n_resamples
    )  # the same for every method: gains are paired over subsets
    weight = (seed_draws[:, seed] * subset_draws[:, subset]).T  # (cell, resample)
    total = weight.sum(axis=0)
    return (values * weight).sum(axis=0) / np.where(total, total, np.nan)


def _summary_row(frame, metric, value, means):
    low, high = interval(means)
    first = frame.iloc[0]
    same = ("method", "task", "leads", "budget", "noise", "protocol")
    row = {name: first[name] for name in same}
    sizes = {name: round(frame[name].mean()) for name in ("n_records", "n_patients")}
    return row | sizes | {
        "seed": "all", "metric": metric, "value": value, "low": low, "high": high,
    }  # fmt: skip
