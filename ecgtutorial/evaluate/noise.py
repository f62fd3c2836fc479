"""Robustness to physiological noise: what is left of a clean training when the test is not clean?

    entrants = [Entrant("supervised", 0, ...), Entrant("cpc", 0, ...)]
    table = noise_robustness(entrants, cohort, Table("results/ptb-xl/noise.csv"), seconds=2.5)

A cell is one encoder, protocol, noise level and draw of the noise. As in `label_efficiency` it is
stored as soon as it is finished, and one that stands in the table is not computed again. Explained
in the chapter *Noise robustness*.
"""

from functools import partial

import numpy as np
import torch

from .. import augment, grid
from ..cohort import Cohort
from ..metrics import patient_weights
from ..runs import Table
from .finetune import fine_tune, predict
from .label_efficiency import _cell_hash, _cell_row, _prepare, summarise
from .probe import fit_probe
from .windows import embed

_BLOCK = 256  # records made noisy at a time: bounded memory


def noise_robustness(
    entrants, cohort, table, *, seconds, overlap=0.0, task="superclass", levels=range(7),
    fine_tuning=None, part="test", draws=1, progress=True, reference=("supervised", "fine-tuned"),
):  # fmt: skip
    """Fill `table` with the macro AUC of every entrant at every noise level, and summarise it.

    Training sees clean records and all labels of the training folds; the records of the test fold
    (`part="validation"` while choosing settings) are made `noisy`, the same for every entrant.
    `levels`: 0 is clean, 1-6 are paper B's; `draws`: of the noise at a level above 0. `reference`
    and the other arguments: as in `label_efficiency`. Column ``noise`` is the level, ``subset`` the
    draw, ``budget`` 1. The summary has at each level the mean (``macro_auc``), the paired gain over
    the reference (``macro_auc_gain``) and what was lost since level 0 (``macro_auc_drop``, more is
    worse). Returns the table as a data frame. Source: paper B (Mehari & Strodthoff 2022). Chapter:
    *Noise robustness*.
    """
    table = table if isinstance(table, Table) else Table(table)
    train, test, classes, settings = _prepare(
        cohort, task, part, seconds, overlap, dict(fine_tuning or {})
    )
    tests = [(level, draw) for level in levels for draw in range(draws if level else 1)]
    jobs = []
    for entrant in entrants:
        for protocol in entrant.protocols:
            names = [
                _cell_hash({**settings, "noise": level}, entrant, protocol, 1.0, draw)
                for level, draw in tests
            ]
            called = [f"{entrant.method} {protocol} level {level}" for level, _ in tests]
            cells = dict(zip(names, tests))
            compute = partial(_compute, entrant, protocol, cells, train, test, classes, settings)
            jobs.append(grid.Job(dict(zip(names, called)), entrant, compute))
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, test, task, names, reference, classes=classes))
    return table.read()


def noisy(cohort, level, draw=0):
    """The cohort with all four noises of `augment.noise_level` on every record, before windowing.

    `level`: 0 gives the cohort itself. `draw`: 0, 1, 2 ...; a level and a draw always give the same
    records, in whole µV. Returns a `Cohort`.
    """
    if level == 0:
        return cohort
    generator = torch.Generator().manual_seed(1000 * draw + level)
    signals = np.empty(cohort.signals.shape, np.int16)  # (record, lead, time)
    for first in range(0, len(cohort), _BLOCK):
        block = slice(first, first + _BLOCK)
        clean = torch.from_numpy(cohort.millivolts(block))
        made = augment.noise_level(clean, level, cohort.fs, generator)
        signals[block] = (1000 * made).round().clamp(-32767, 32767).numpy()
    name = f"{cohort.name}, noise level {level}"
    return Cohort(signals, cohort.table, cohort.labels, cohort.fs, name, cohort.leads)


def _compute(entrant, protocol, cells, train, test, classes, settings, names):
    """Train once and compute the cells of `names`, among `cells` {hash: (level, draw)}."""
    encoder, task = grid.encoder(entrant, settings["cohort"]), settings["task"]
    target = test.targets(task)[classes].to_numpy()
    labels = train.targets(task)[classes].to_numpy()
    weights = patient_weights(test.table["patient_id"])
    score = _trained(entrant, encoder, protocol, train, labels, settings)
    for name in names:
        level, draw = cells[name]
        scores = score(noisy(test, level, draw))
        row = _cell_row(entrant, protocol, task, train, target, scores, weights)
        row |= {"budget": 1.0, "noise": level, "subset": draw, "config": name}
        yield [row], {name: scores}


def _trained(entrant, encoder, protocol, train, labels, settings):
    """A classifier trained on clean records: a function, cohort -> scores (record, class)."""
    windows = settings["seconds"], settings.get("overlap", 0.0)
    if protocol == "probe":
        patients = train.table["patient_id"]
        probe = fit_probe(embed(encoder, train, *windows), labels, patients)
        return lambda cohort: probe(embed(encoder, cohort, *windows))
    options = {**settings["fine_tuning"], **entrant.fine_tuning}
    model = fine_tune(encoder, train, labels, seconds=windows[0], **options)
    return lambda cohort: predict(model, cohort, *windows)
