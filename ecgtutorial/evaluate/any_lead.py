"""Any lead: what does an encoder still say when most leads are missing?

    entrants = [Entrant("random", 0, ...), Entrant("w2v-cmsc-rlm", 0, ...)]
    table = any_lead(entrants, cohort, Table("results/ptb-xl/any-lead.csv"), seconds=5.0)

A cell is one encoder, protocol and lead set. As in `label_efficiency` it is stored as soon as it is
finished, and one that stands in the table is not computed again. Explained in the chapter *Any
lead*.
"""

from functools import partial

import numpy as np

from .. import grid
from ..cohort import Cohort
from ..datasets.challenge import NORMAL, WEIGHTS
from ..leads import SUBSETS, canonical
from ..metrics import bootstrap_macro_auc, challenge_score, interval, macro_auc, patient_weights
from ..runs import Table
from .label_efficiency import (
    _about,
    _cell_hash,
    _difference,
    _prepare,
    _reference,
    _resample,
    _summary_row,
)  # fmt: skip
from .noise import _trained


def any_lead(
    entrants, cohort, table, *, seconds, task="challenge", lead_sets=(12, 6, 3, 2, 1),
    fine_tuning=None, part="test", by_segment=False, progress=True,
    reference=("random", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with the scores of every entrant at every lead set, and summarise it.

    Each cell trains on all labels of the training folds and answers to the test fold
    (`part="validation"` while choosing settings), both `padded` to one of `lead_sets`, sizes in
    `leads.SUBSETS`. Metrics: ``macro_auc`` over `scored_classes` and, where `task` is
    ``"challenge"``, ``challenge_score`` over all 26 classes with a class predicted above a
    probability of 0.5 and one that is not trained never. `by_segment`: the flawed split of paper
    A's code. It deals `segments` of `seconds` to training and test whatever recording they are
    from, so the test is of known patients; compare it with ``segments(cohort, seconds)`` split
    rightly, in another table. `fine_tuning`, `reference`, `over`: as in `label_efficiency`. Column
    ``leads`` is the size, ``budget`` 1. Returns the table as a data frame; see `summarise`.
    Source: paper A (Oh et al. 2022), table 1. Chapter: *Any lead*.
    """
    strange = [size for size in lead_sets if size not in list(SUBSETS)]
    if strange:
        raise ValueError(f"lead_sets holds {strange}: expected sizes among {list(SUBSETS)}")
    table = table if isinstance(table, Table) else Table(table)
    train, test, classes, settings = _prepare(
        cohort, task, part, seconds, 0.0, dict(fine_tuning or {})
    )
    if by_segment:  # the same classes, so that the split is all that differs
        train, test = _dealt(segments(cohort, seconds), part)
        settings["by_segment"] = True
    jobs = [
        grid.Job(
            {_cell_hash({**settings, "leads": size}, entrant, protocol, 1.0, 0):
             f"{entrant.method} {protocol} {size}"}, entrant,
            partial(_compute, entrant, protocol, size, train, test, classes, settings), shown=-1,
        )
        for entrant in entrants
        for protocol in entrant.protocols
        for size in lead_sets
    ]  # fmt: skip
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, names, reference, over))
    return table.read()


def padded(cohort, leads):
    """The cohort with all leads but some at zero, as if they had not been recorded.

    `leads`: a size in `leads.SUBSETS`, or a sequence of lead names. All of them give the cohort
    itself. Returns a `Cohort`, still with a row for every lead. Raises ``ValueError`` for other
    sizes, for unknown names and for none. Source: paper A, section 4. Chapter: *Any lead*.
    """
    kept = _names(leads)
    rows = [row for row, name in enumerate(cohort.leads) if name in kept]
    if len(rows) < len(kept):
        raise ValueError(
            f"leads {sorted(kept - set(cohort.leads))} are not in cohort {cohort.name!r}: it has "
            f"{', '.join(cohort.leads)}"
        )
    if len(rows) == len(cohort.leads):
        return cohort
    signals = np.zeros(cohort.signals.shape, np.int16)  # (record, lead, time)
    signals[:, rows] = cohort.signals[:, rows]
    name = f"{cohort.name}, leads {' '.join(cohort.leads[row] for row in rows)}"
    return Cohort(signals, cohort.table, cohort.labels, cohort.fs, name, cohort.leads)


def _names(leads):
    """The standard names of a lead set given by its size or its names."""
    if isinstance(leads, (int, np.integer)):
        if leads not in SUBSETS:
            raise ValueError(
                f"leads is {leads}: expected a size among {list(SUBSETS)}, or lead names"
            )
        leads = SUBSETS[leads]
    if isinstance(leads, str) or not len(leads):
        raise ValueError(f"leads is {leads!r}: expected a sequence of lead names, such as ('I',)")
    return {canonical(name) for name in leads}


def segments(cohort, seconds):
    """The records cut into segments of `seconds`, a shorter rest left off.

    A segment has the labels, patient and fold of its record, so that `Cohort.split` keeps those of
    one patient together; ``segment`` counts them from 0. Returns a `Cohort`. Raises ``ValueError``
    for records shorter than a segment. Chapter: *Any lead*.
    """
    n_records, n_leads, n_samples = cohort.signals.shape
    length = round(seconds * cohort.fs)
    n = n_samples // length  # segments of a record
    if not n:
        raise ValueError(f"segments of {length} samples do not fit records of {n_samples}")
    cut = cohort.signals[:, :, : n * length].reshape(n_records, n_leads, n, length)
    cut = cut.swapaxes(1, 2).reshape(-1, n_leads, length)  # (record x segment, lead, time)
    row, number = np.repeat(np.arange(n_records), n), np.tile(np.arange(n), n_records)
    table = cohort.table.iloc[row].reset_index(drop=True).assign(segment=number)
    table["record_id"] = [f"{record}/{k}" for record, k in zip(table["record_id"], number)]
    labels = cohort.labels.iloc[row].reset_index(drop=True)
    name = f"{cohort.name}, segments of {seconds:g} s"
    return Cohort(cut, table, labels, cohort.fs, name, cohort.leads)


def _dealt(cut, part):
    """Training and evaluated segments, dealt 8:1:1 without regard to record or patient: a leak."""
    fold = 1 + np.random.default_rng(42).permutation(len(cut)) % 10  # in place of the table's
    return cut.select(fold <= 8), cut.select(fold == (10 if part == "test" else 9))


def _compute(entrant, protocol, size, train, test, classes, settings, names):
    """Compute one cell: its rows and their resamples."""
    encoder, task = grid.encoder(entrant, settings["cohort"]), settings["task"]
    labels, target = train.targets(task)[classes].to_numpy(), test.targets(task)
    weights = patient_weights(test.table["patient_id"])
    score = _trained(entrant, encoder, protocol, padded(train, size), labels, settings)
    scores = score(padded(test, size))  # (record, scored class): logits of a probe
    found = {"macro_auc": _macro_auc(target[classes].to_numpy(), scores, weights)}
    if task == "challenge":
        likely = scores > (0 if protocol == "probe" else 0.5)  # a logit of 0: probability 0.5
        found["challenge_score"] = _challenge_score(target, classes, likely, weights)
    row = _about(entrant, protocol, task, train)
    yield _cell(row | {"leads": size, "budget": 1.0, "subset": 0, "config": names[0]}, found)


def _cell(row, found):
    """A row for each metric of one cell, no scores, samples; `found`: value and resamples."""
    rows, samples = [], {}
    for metric, (value, sampled) in found.items():
        low, high = interval(sampled)
        rows.append(row | {"metric": metric, "value": value, "low": low, "high": high})
        samples[f"{row['config']}:{metric}"] = sampled
    return rows, None, samples


def _macro_auc(target, scores, weights):
    """Value and (resample,) values."""
    return macro_auc(target, scores), bootstrap_macro_auc(target, scores, weights)


def _challenge_score(target, classes, likely, weights):
    """Value and (resample,) values over all classes of `target`, a data frame of 0/1.

    `likely`: (record, scored class), whether a class is predicted.
    """
    predicted = np.zeros(target.shape, np.uint8)  # (record, class)
    predicted[:, target.columns.get_indexer(classes)] = likely
    answers = target.to_numpy(), predicted, WEIGHTS, NORMAL
    return challenge_score(*answers), challenge_score(*answers, weights)


def summarise(table, names=None, reference=("random", "fine-tuned"), over=None):
    """Mean over seeds with a 95 % interval over patients and seeds, and paired differences.

    `names`: hashes of the cells that count (default: all). `reference`, `over`: as in `any_lead`.
    Made from the stored resamples alone. Returns summary rows: seed ``all``, of each metric its
    mean, ``<metric>_gain`` over the reference at the same lead set, ``<metric>_over_<name>`` and
    ``<metric>_drop``: what a method loses against its own 12 leads (more is worse).
    """
    rows = []
    for metric, sampled, groups in _by_metric(table, names, "leads"):
        for key, frame in groups.items():
            rows += _mean_and_gains(key, metric, sampled, groups, reference, over)
            whole = groups.get((*key[:2], 12))
            if whole is not None and whole is not frame:
                rows.append(_difference(frame, whole, frame, f"{metric}_drop", sampled))
    return rows


def _by_metric(table, names, varied):
    """Of each metric its name, {hash: resamples} and {(method, protocol, `varied`): cells}."""
    cells, samples = table.read(), table.samples()
    cells = cells[cells["seed"] != "all"].drop_duplicates(["config", "metric"])
    cells = cells if names is None else cells[cells["config"].isin(names)]
    for metric, one in cells.groupby("metric", sort=False):
        sampled = {name: samples[f"{name}:{metric}"] for name in one["config"]}
        groups = {key: frame for key, frame in one.groupby(["method", "protocol", varied])}
        yield metric, sampled, groups


def _mean_and_gains(key, metric, sampled, groups, reference, over):
    """Summary rows of the cells at `key`: their mean, and what is gained over others there."""
    (method, protocol, level), frame = key, groups[key]
    rows = [_summary_row(frame, metric, frame["value"].mean(), _resample(frame, sampled))]
    against = {"gain": _reference(reference, method)}
    for name, pairs in (over or {}).items():
        if method in pairs:
            against[f"over_{name}"] = (pairs[method], protocol)
    for name, other in against.items():
        other = groups.get((*other, level))
        if other is not None and other is not frame:
            both = set(frame["subset"]) & set(other["subset"])
            mine, theirs = (f[f["subset"].isin(both)] for f in (frame, other))
            rows.append(_difference(mine, mine, theirs, f"{metric}_{name}", sampled))
    return rows
