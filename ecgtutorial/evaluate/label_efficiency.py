"""Label efficiency: how good is each encoder with how many labelled patients?

    entrants = [Entrant("supervised", 0, ...), Entrant("3kg-l", 0, ...)]
    table = label_efficiency(entrants, cohort, Table("results/ptb-xl/label-efficiency.csv"), ...)

A cell is one encoder, protocol, budget and subset. It is stored as soon as it is finished, and one
that stands in the table is not computed again. Explained in the chapter *Label efficiency*.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..metrics import bootstrap_macro_auc, interval, macro_auc, patient_weights
from ..runs import Table, config_hash
from .finetune import fine_tune, predict
from .probe import linear_probe
from .windows import embed

BUDGETS = (0.01, 0.02, 0.05, 0.10, 0.25, 0.50, 0.60, 1.0)
SUBSETS = {0.01: 5, 0.02: 5, 0.05: 5, 0.10: 5, 0.25: 3, 0.50: 2, 0.60: 2, 1.0: 1}
PROTOCOLS = ("probe", "fine-tuned")


@dataclass
class Entrant:
    """One encoder in the comparison.

    `method`, `seed`: its name in the table and its pre-training seed. `identity`: what makes it
    this encoder, such as the hash of its run. `make`: a function without arguments that gives the
    encoder, called only if a cell of it is missing. `protocols`: those it takes part in.
    """

    method: str
    seed: int
    identity: str
    make: Callable
    protocols: tuple = PROTOCOLS


def label_efficiency(
    entrants, cohort, table, *, seconds, task="superclass", budgets=BUDGETS, subsets=None,
    fine_tuning=None, part="test", progress=True, reference=("supervised", "fine-tuned"),
):  # fmt: skip
    """Fill `table` with the macro AUC of every entrant at every label budget, and summarise it.

    `cohort` is split by patient; labels come from the training folds, answers from the test fold
    (`part="validation"` while choosing settings). `budgets`: shares of the training patients;
    `subsets`: {budget: number of random subsets}. `seconds`: window length; `fine_tuning`:
    arguments of `fine_tune`. `reference`: method and protocol over which the summary gives gains.
    Returns the table as a data frame. Chapter: *Label efficiency*.
    """
    if part not in ("test", "validation"):
        raise ValueError(f"part is {part!r}: expected 'test' or 'validation'")
    table = table if isinstance(table, Table) else Table(table)
    subsets, fine_tuning = subsets or SUBSETS, dict(fine_tuning or {})
    train, validation, test = cohort.split()
    test = test if part == "test" else validation
    settings = {
        "cohort": cohort.fingerprint, "task": task, "part": part, "seconds": seconds,
        "fine_tuning": fine_tuning,
    }  # fmt: skip
    cells = [
        (entrant, protocol, budget, subset)
        for entrant in entrants
        for protocol in entrant.protocols
        for budget in budgets
        for subset in range(subsets[budget])
    ]
    names = [_cell_hash(settings, *cell) for cell in cells]
    done = set(table.read()["config"])
    bar = tqdm(total=len(cells), desc="cells", disable=not progress)
    for entrant in entrants:
        mine = [(n, c) for n, c in zip(names, cells) if c[0] is entrant]
        missing = [(n, c) for n, c in mine if n not in done]
        bar.update(len(mine) - len(missing))
        if missing:
            _run_cells(entrant, missing, train, test, task, seconds, fine_tuning, table, bar)
    bar.close()
    table.replace_summary(summarise(table, test, task, names, reference))
    return table.read()


def _cell_hash(settings, entrant, protocol, budget, subset):
    names = {"encoder": entrant.identity, "method": entrant.method, "seed": entrant.seed}
    names |= {"protocol": protocol, "budget": budget, "subset": subset}
    if protocol == "probe":  # fine-tuning settings change nothing in a probe
        settings = {k: v for k, v in settings.items() if k != "fine_tuning"}
    return config_hash({**settings, **names})


def _run_cells(entrant, cells, train, test, task, seconds, fine_tuning, table, bar):
    """Compute the missing cells of one entrant, each stored when done."""
    encoder = entrant.make().eval()
    target = test.targets(task).to_numpy()
    weights = patient_weights(test.table["patient_id"])
    if any(cell[1] == "probe" for _, cell in cells):
        features, test_features = embed(encoder, train, seconds), embed(encoder, test, seconds)
    row_of = pd.Series(np.arange(len(train)), index=train.table["record_id"])
    for name, (_, protocol, budget, subset) in cells:
        part = train.budget(budget, subset)
        labels = part.targets(task).to_numpy()
        if protocol == "probe":
            rows = torch.from_numpy(row_of[part.table["record_id"]].to_numpy().copy())
            patients = part.table["patient_id"]
            scores = linear_probe(features[rows], labels, patients, test_features, seed=subset)
        else:
            model = fine_tune(encoder, part, labels, seconds=seconds, seed=subset, **fine_tuning)
            scores = predict(model, test, seconds)
        low, high = interval(bootstrap_macro_auc(target, scores, weights))
        row = {
            "method": entrant.method, "task": task, "leads": 12, "budget": budget,
            "seed": str(entrant.seed), "metric": "macro_auc", "value": macro_auc(target, scores),
            "low": low, "high": high, "n_records": len(part),
            "n_patients": part.table["patient_id"].nunique(), "protocol": protocol,
            "subset": subset, "config": name,
        }  # fmt: skip
        table.add([row], {name: scores})
        bar.set_postfix_str(f"{entrant.method} {protocol} {budget:.0%}: {row['value']:.3f}")
        bar.update()


def summarise(
    table, test, task, names=None, reference=("supervised", "fine-tuned"), n_resamples=1000
):
    """Mean over seeds and subsets with a 95 % interval, and the paired gain over `reference`.

    `names`: hashes of the cells that count (default: all). Each resample draws test
    patients, pre-training seeds and label subsets with replacement, so the interval covers all
    three. Both sides of a gain see the same patients and the same subsets.
    Returns the summary rows: seed ``all``, metrics ``macro_auc`` and ``macro_auc_gain``.
    """
    cells, ranks = table.read(), table.ranks()
    known = ranks.keys() & set(names if names is not None else ranks)
    cells = cells[(cells["seed"] != "all") & cells["config"].isin(known)]
    target = test.targets(task).to_numpy()
    weights = patient_weights(test.table["patient_id"], n_resamples)
    sampled = {n: bootstrap_macro_auc(target, ranks[n], weights) for n in cells["config"]}
    groups = {key: frame for key, frame in cells.groupby(["method", "protocol", "budget"])}
    rows = []
    for (method, protocol, budget), frame in groups.items():
        values, means = _resample(frame, sampled)
        rows.append(_summary_row(frame, "macro_auc", frame["value"].mean(), means))
        other = groups.get((*reference, budget))
        if other is not None and method != reference[0]:
            both = set(frame["subset"]) & set(other["subset"])
            frame, other = (f[f["subset"].isin(both)] for f in (frame, other))
            mine, theirs = _resample(frame, sampled)[1], _resample(other, sampled)[1]
            gain = frame["value"].mean() - other["value"].mean()
            rows.append(_summary_row(frame, "macro_auc_gain", gain, mine - theirs))
    return rows


def _resample(frame, sampled):
    """Mean bootstrap value over seeds and subsets drawn with replacement: (resample,)."""
    values = np.stack([sampled[name] for name in frame["config"]])  # (cell, resample)
    n_resamples = values.shape[1]
    seeds, seed = np.unique(frame["seed"], return_inverse=True)
    subsets, subset = np.unique(frame["subset"], return_inverse=True)
    seed_draws = np.random.default_rng(1).multinomial(
        len(seeds), np.full(len(seeds), 1 / len(seeds)), n_resamples
    )  # (resample, seed)
    subset_draws = np.random.default_rng(2).multinomial(
        len(subsets), np.full(len(subsets), 1 / len(subsets)), n_resamples
    )  # the same for every method: gains are paired over subsets
    weight = (seed_draws[:, seed] * subset_draws[:, subset]).T  # (cell, resample)
    total = weight.sum(axis=0)
    mean = (values * weight).sum(axis=0) / np.where(total, total, np.nan)
    return values, mean


def _summary_row(frame, metric, value, means):
    low, high = interval(means)
    first = frame.iloc[0]
    row = {name: first[name] for name in ("method", "task", "leads", "budget", "protocol")}
    sizes = {name: round(frame[name].mean()) for name in ("n_records", "n_patients")}
    return row | sizes | {
        "seed": "all", "metric": metric, "value": value, "low": low, "high": high,
    }  # fmt: skip
