"""Health: what does a representation look like, on records the encoder was not trained on?

    found = health(encoder, test, seconds=2.5)     # deviation, rank, alignment, uniformity
    table = fill_health(entrants, cohort, Table("results/ptb-xl/health.csv"), seconds=2.5)
    predicts(table, load_results("ptb-xl", "all-methods")[0], "macro_auc", 1.0)

No label is looked at. A cell is one encoder; as in `label_efficiency` it is stored as soon as it is
finished, and one that stands in the table is not computed again. Explained in the chapter
*Pre-training*.
"""

from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F

from .. import grid, pretrain
from ..cohort import Cohort
from ..metrics import interval, patient_weights
from ..runs import Table, config_hash
from .label_efficiency import _about, _resample, _summary_row
from .windows import embed

MEASURES = ("deviation", "rank", "alignment", "uniformity")


def health(encoder, cohort, seconds, overlap=0.0):
    """Four measures of how the records of `cohort` lie on the sphere of normalised embeddings.

    `seconds`, `overlap`: windows that records are read in. Returns a dictionary. ``deviation`` and
    ``rank``: as in `pretrain.health`, of all records' embeddings, each a mean over windows; a
    rank is at most the number of records less 1. Then, of the first and the last window of each
    record, ``alignment``: mean squared distance of the two, 0 to 4, where less is closer; and
    ``uniformity``: logarithm of the mean of exp(-2 d^2) over pairs of different patients, 0 where
    all are one point, -8 at least, where less is more evenly spread. The pair is the same for every
    method, nothing in it is augmented. Raises ``ValueError`` for a single patient, whose records
    have no others to differ from, and for records shorter than two windows.
    Source: Wang & Isola 2020, with their exponents 2. Chapter: *Pre-training*.
    """
    values, _ = _measured(encoder, cohort, seconds, overlap, n_resamples=0)
    return values


def _measured(encoder, cohort, seconds, overlap, n_resamples=1000):
    """The measures, and the values of all but the rank in resamples of patients."""
    ends = _first_and_last(cohort, seconds)
    patients = cohort.table["patient_id"].to_numpy()
    if len(np.unique(patients)) < 2:
        raise ValueError(
            f"cohort {cohort.name!r} holds {len(cohort)} records of one patient: "
            "expected at least two patients to compare"
        )
    records = F.normalize(embed(encoder, cohort, seconds, overlap), dim=1)  # (record, feature)
    first, last = (F.normalize(embed(encoder, end, seconds), dim=1).numpy() for end in ends)

    def measures(weights):
        return {
            "deviation": _deviation(records.numpy(), weights),
            "alignment": _alignment(first, last, weights),
            "uniformity": _uniformity(first, last, patients, weights),
        }

    values = {name: float(v[0]) for name, v in measures(np.ones((1, len(patients)))).items()}
    # Its spectrum would have to be found a thousand times, and of patients drawn twice is smaller.
    values["rank"] = pretrain.health(nn.Identity(), records)["rank"]
    sampled = measures(patient_weights(patients, n_resamples)) if n_resamples else {}
    return {name: values[name] for name in MEASURES}, sampled


def _first_and_last(cohort, seconds):
    """Two cohorts: the first `seconds` of every record, and the last."""
    length, n_samples = round(seconds * cohort.fs), cohort.signals.shape[2]
    if 2 * length > n_samples:
        raise ValueError(
            f"seconds is {seconds:g}: two windows do not fit side by side in the records of "
            f"{cohort.name!r}, which last {n_samples / cohort.fs:g} s; take at most half of that"
        )
    return [
        Cohort(cohort.signals[..., part], cohort.table, None, cohort.fs, cohort.name, cohort.leads)
        for part in (slice(length), slice(n_samples - length, None))
    ]


# --- measures: embeddings of length 1 (record, feature), weights (resample, record) -> (resample,)


def _deviation(records, weights):
    """Root of the total variance, which of vectors of length 1 is 1 - |mean|^2."""
    mean = weights @ records.astype(float) / weights.sum(axis=1, keepdims=True)
    length = weights @ np.square(records, dtype=float).sum(axis=1) / weights.sum(axis=1)
    return np.sqrt((length - (mean**2).sum(axis=1)).clip(0))


def _alignment(first, last, weights):
    return weights @ ((first - last).astype(float) ** 2).sum(axis=1) / weights.sum(axis=1)


def _uniformity(first, last, patients, weights):
    """Over all pairs of windows of different patients; of a patient drawn twice, too."""
    _, start, number = np.unique(patients, return_index=True, return_inverse=True)
    belongs = np.tile(number[:, None] == np.arange(len(start)), (2, 1)).astype(np.float32)
    windows = np.concatenate([first, last])  # (window, feature)
    length = np.square(windows).sum(axis=1)  # 1, or 0 of an encoder that gives nothing
    potential = np.exp(-2 * (length[:, None] + length - 2 * windows @ windows.T))  # exp(-2 d^2)
    potential = (belongs.T @ potential @ belongs).astype(float)  # sums (patient, patient)
    size = belongs.sum(axis=0, dtype=float)
    pairs = np.outer(size, size)  # numbers of pairs of windows
    np.fill_diagonal(potential, 0)
    np.fill_diagonal(pairs, 0)
    counts = weights[:, start].astype(float)  # how often each patient is drawn
    total, n = (np.einsum("rp,rp->r", counts @ m, counts) for m in (potential, pairs))
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one patient has no pair
        return np.log(total / n)


# --- many encoders ----------------------------------------------------------------------------


def fill_health(entrants, cohort, table, *, seconds, overlap=0.0, part="test", progress=True):
    """Fill `table` with the `health` of every entrant, a row a measure, and summarise it.

    `cohort`: split by patient, its test fold looked at, or with ``part="validation"`` the other.
    Other arguments: as in `label_efficiency`. Intervals are over patients; of ``rank`` there is
    none. Column ``budget`` is 0 and ``protocol`` "frozen"; summary rows have seed ``all`` and the
    mean over seeds. Returns the table as a data frame. Chapter: *Pre-training*.
    """
    table = table if isinstance(table, Table) else Table(table)
    if part not in ("test", "validation"):
        raise ValueError(f"part is {part!r}: expected 'test' or 'validation'")
    records = cohort.split()[2 if part == "test" else 1]
    settings = {"cohort": cohort.fingerprint, "task": "health", "part": part, "seconds": seconds,
                "overlap": overlap}  # fmt: skip
    jobs = []
    for one in entrants:
        name = {"encoder": one.identity, "method": one.method, "seed": one.seed}
        name = config_hash({**settings, **name})
        compute = partial(_compute, one, records, settings)
        jobs.append(grid.Job({name: f"{one.method} seed {one.seed}"}, one, compute, shown=-1))
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, names))
    return table.read()


def _compute(entrant, records, settings, names):
    """Compute one cell: its rows and their resamples."""
    encoder = grid.encoder(entrant, settings["cohort"])
    values, sampled = _measured(encoder, records, settings["seconds"], settings["overlap"])
    row = _about(entrant, "frozen", "health", records)
    row |= {"budget": 0.0, "subset": 0, "config": names[0]}
    rows = [row | {"metric": metric, "value": value} for metric, value in values.items()]
    for one in rows:
        if one["metric"] in sampled:
            one["low"], one["high"] = interval(sampled[one["metric"]])
    yield rows, None, {f"{names[0]}:{metric}": v for metric, v in sampled.items()}


def summarise(table, names=None):
    """Mean over seeds of every measure, with a 95 % interval over patients and seeds.

    `names`: hashes of the cells that count (default: all). Made from the stored resamples alone.
    Returns the summary rows; the interval of ``rank`` is empty.
    """
    cells, samples, rows = table.read(), table.samples(), []
    cells = cells[cells["seed"] != "all"].drop_duplicates(["config", "metric"])
    cells = cells if names is None else cells[cells["config"].isin(names)]
    for (_, metric), frame in cells.groupby(["method", "metric"]):
        value = frame["value"].mean()
        if metric == "rank":
            rows.append(_summary_row(frame, metric, value, [value]) | {"low": None, "high": None})
        else:
            sampled = {name: samples[f"{name}:{metric}"] for name in frame["config"]}
            rows.append(_summary_row(frame, metric, value, _resample(frame, sampled)))
    return rows


def predicts(health_frame, probe_frame, metric, budget, n_resamples=1000):
    """Does a look without labels foretell the probe? Rank correlation across methods.

    `health_frame`: a table of `fill_health`; `probe_frame`: any table with cells of protocol
    ``probe``, of which `metric` at `budget` is taken. Both are means over the seeds they share, and
    over subsets. Returns a data frame with a row a measure: ``spearman``, the correlation with the
    probe's score, its 95 % interval ``low``, ``high`` over methods drawn with replacement, and
    ``n``, the number of methods. With the handful of methods of this book the interval is wide, and
    a bootstrap of so few is still too narrow: read it as a hint. Negative is good of ``alignment``
    and ``uniformity``, which fall as they improve. Raises ``ValueError`` for fewer than three
    methods. Chapter: *Pre-training*.
    """
    measures = health_frame[health_frame["seed"] != "all"]
    measures = measures.pivot_table("value", ["method", "seed"], "metric")
    probe = probe_frame[(probe_frame["seed"] != "all") & (probe_frame["protocol"] == "probe")]
    probe = probe[(probe["metric"] == metric) & np.isclose(probe["budget"].astype(float), budget)]
    probe = probe.groupby(["method", "seed"])["value"].mean().rename("probe")
    both = measures.join(probe, how="inner").groupby("method").mean()
    if len(both) < 3:
        raise ValueError(
            f"{len(both)} methods {list(both.index)} have both health and a probe's {metric} at "
            f"budget {budget:g}, with a seed in common: expected at least three"
        )
    draws = np.random.default_rng(0).integers(len(both), size=(n_resamples, len(both)))
    draws = np.concatenate([np.arange(len(both))[None], draws])  # first as they are
    rows = []
    for measure in MEASURES:
        r = _spearman(both[measure].to_numpy()[draws], both["probe"].to_numpy()[draws])
        low, high = interval(r[1:]) if np.isfinite(r[0]) else (np.nan, np.nan)  # constant
        row = {"measure": measure, "spearman": r[0], "low": low, "high": high, "n": len(both)}
        rows.append(row)
    return pd.DataFrame(rows)


def _spearman(x, y):
    """Of each row of (resample, method); NaN where one is constant."""
    x, y = (rankdata(values, axis=1) for values in (x, y))
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
