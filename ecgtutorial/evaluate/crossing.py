"""Crossing points: what share of the labels is as good as all of them without pre-training?

    crossing_points(Table("results/ptb-xl/label-efficiency-all.csv"), test, classes, reference)

Explained in the chapter *Label efficiency*.
"""

import numpy as np
import pandas as pd

from ..metrics import bootstrap_macro_auc, patient_weights
from .label_efficiency import _reference, _resample


def crossing_points(
    table, test, classes, reference=("supervised", "fine-tuned"), *, task="superclass",
    n_resamples=1000,
):  # fmt: skip
    """The smallest share of the labels at which each method reaches full supervision.

    `table`: of `label_efficiency`, a `runs.Table`; `test`: the records it was scored on; `classes`:
    those of the `task` that were scored; `reference`: as there. Full supervision is the reference
    with all labels. Between two budgets the score is taken to rise evenly with the logarithm of the
    share. Returns a data frame with the columns method, protocol, ``share``, ``low`` and ``high``:
    the crossing of the mean curve, and the 2.5 % and 97.5 % quantiles of the crossings of curves
    over resampled patients, seeds and label draws. A share of infinity: it never gets there; the
    smallest budget: it was there from the start, or earlier.
    Raises ``ValueError`` where the table lacks the reference with all labels.
    Source: papers B and C state such shares, without intervals. Chapter: *Label efficiency*.
    """
    ranks, cells = table.ranks(), table.read()
    cells = cells[(cells["seed"] != "all") & cells["config"].isin(ranks.keys())]
    cells = cells.drop_duplicates("config")
    target, patients = test.targets(task)[classes].to_numpy(), test.table["patient_id"]
    weights = patient_weights(patients, n_resamples)
    sampled = {n: bootstrap_macro_auc(target, ranks[n], weights) for n in cells["config"]}
    means, draws = {}, {}  # (method, protocol) -> {budget: mean}, {budget: (resample,)}
    for (method, protocol, budget), frame in cells.groupby(["method", "protocol", "budget"]):
        means.setdefault((method, protocol), {})[budget] = frame["value"].mean()
        draws.setdefault((method, protocol), {})[budget] = _resample(frame, sampled)
    rows = []
    for (method, protocol), mean in means.items():
        whom = _reference(reference, method) or (method, protocol)
        if 1.0 not in means.get(whom, {}):
            raise ValueError(
                f"the table has no cell of {whom} with all labels, whom {method!r} is held "
                f"against: found {sorted(means)}"
            )
        budgets = np.array(sorted(mean))
        curve = np.stack([draws[method, protocol][b] for b in budgets])  # (budget, resample)
        share = _crossing(budgets, np.array([[mean[b]] for b in budgets]), means[whom][1.0])
        found = _crossing(budgets, curve, draws[whom][1.0])
        low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")  # may be infinite
        rows.append((method, protocol, share[0], low, high))
    return pd.DataFrame(rows, columns=["method", "protocol", "share", "low", "high"])


def _crossing(budgets, curve, level):
    """Where each curve first reaches `level`: (resample,), infinite where it never does.

    `budgets` rise; `curve`: (budget, resample); `level`: a number, or (resample,).
    """
    above = curve >= level
    first = above.argmax(axis=0)  # of no True: 0
    before = np.maximum(first - 1, 0)
    columns = np.arange(curve.shape[1])
    low, high = curve[before, columns], curve[first, columns]
    rise = np.where(high > low, high - low, 1.0)
    way = np.clip((level - low) / rise, 0, 1)
    logs = np.log(budgets)
    share = np.exp(logs[before] + way * (logs[first] - logs[before]))
    share = np.where(first == 0, budgets[0], share)
    return np.where(above.any(axis=0), share, np.inf)
