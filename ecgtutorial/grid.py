"""The grid of an experiment: cells computed in one process, in several, or on a Dask cluster.

    table = arrhythmias(...)                                # one process, cell after cell
    with joblib.parallel_config(n_jobs=4):                  # four processes of this machine
        table = arrhythmias(...)
    with Client("tcp://scheduler:8786"), joblib.parallel_config(backend="dask"):
        table = arrhythmias(...)                            # a cluster (`dask.distributed.Client`)

A cell is stored when it is finished, and one that stands in the table is not computed again: stop
a grid when you like and call it again. The calling process alone writes the table. Workers look
into it before they begin a cell, because a cluster asks again for every result of a worker that
died. They need the folders of cohorts, of runs and of the table, so on several machines these lie
on a shared disk.
"""

import itertools
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import joblib
from tqdm import tqdm

_ALONE = threading.Lock()  # torch's random numbers belong to the process: one cell at a time in it
_KEPT = {}  # of this process: what -> (key, value)


@dataclass
class Job:
    """Cells that come from one training: usually one, several where it is tested several times.

    `cells`: {hash: what to call it}. `entrant`: the `Entrant` they are of. `compute`: a picklable
    function, hashes of missing cells -> for each, in this order, the arguments of `Table.add`:
    rows, and if there are any scores and samples. `shown`: the row whose value the bar shows.
    """

    cells: dict
    entrant: object
    compute: Callable
    shown: int = 0


def fill(table, jobs, progress=True):
    """Compute the cells of `jobs` that `table` has not, and store each when it is finished.

    `jobs`: a list of `Job`; keep those of an entrant together. Where they run is up to
    ``joblib.parallel_config``, by default here and in their order. With several workers every
    encoder is pre-trained first, so that none waits for another to finish the same one. After an
    error no further cell is begun, those that run are finished and stored, and the error is raised
    with a note that names its cell. Returns the hashes of all cells, each once.
    """
    names = list(dict.fromkeys(name for job in jobs for name in job.cells))
    done, todo = set(table.read()["config"]), []
    n_done = len(done.intersection(names))
    for job in jobs:
        missing = [name for name in job.cells if name not in done]
        done.update(missing)  # a cell that two jobs have is the first one's
        if missing:
            todo.append((job, missing))
    tasks = [
        (", ".join(map(job.cells.get, missing)), partial(_computed, k, job.compute, missing, table))
        for k, (job, missing) in enumerate(todo)
    ]
    try:
        if todo and joblib.effective_n_jobs(None) > 1:
            _pretrain([job.entrant for job, _ in todo], progress)
        with tqdm(total=len(names), initial=n_done, desc="cells", disable=not progress) as bar:
            for k, found in _results(tasks):
                job, missing = todo[k]
                bar.update(len(missing) - len(found))  # stored by somebody else meanwhile
                for name, (rows, *arrays) in found.items():
                    table.add(rows, *arrays)
                    bar.set_postfix_str(f"{job.cells[name]}: {rows[job.shown]['value']:.3f}")
                    bar.update()
    finally:
        _KEPT.clear()
    return names


def kept(what, key, make):
    """``make()``, or what it gave last time in this process if `key` is the same as then.

    One value is kept for each `what`, so that cells that follow each other share an encoder or
    its features.
    """
    if what not in _KEPT or _KEPT[what][0] != key:
        _KEPT.pop(what, None)  # free its memory first
        _KEPT[what] = key, make()
    return _KEPT[what][1]


def encoder(entrant, cohort):
    """The encoder of `entrant`, made once for cells that follow each other.

    `cohort`: the fingerprint of the experiment's cohort.
    """
    key = entrant.identity, entrant.method, entrant.seed, cohort
    return kept("encoder", key, lambda: entrant.make().eval())


def features(entrant, cohort, windows, parts, embed):
    """``embed(encoder, part, *windows)`` of every cohort in `parts`, kept like the `encoder`."""
    model = encoder(entrant, cohort)
    key = _KEPT["encoder"][0], windows, [part.fingerprint for part in parts]
    return kept("features", key, lambda: [embed(model, part, *windows) for part in parts])


def _pretrain(entrants, progress):
    """Make every encoder once, each a task: trained ones stay in the run store."""
    each = {(one.identity, one.seed): one for one in entrants}.values()
    tasks = [(f"the encoder {one.method}, seed {one.seed}", partial(_made, one)) for one in each]
    for _ in tqdm(_results(tasks), "encoders", len(tasks), disable=not progress):
        pass


def _made(entrant):
    entrant.make()


def _computed(k, compute, missing, table):
    there = set(table.read()["config"])
    left = [name for name in missing if name not in there]
    return k, dict(zip(left, compute(left), strict=True)) if left else {}


def _results(tasks):
    """The values of tasks (name, function), in the order in which they are finished."""
    errors = []
    going_on = itertools.takewhile(lambda _: not errors, tasks)  # read as workers become free
    parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
    for value, error, trace in parallel(joblib.delayed(_run)(*task) for task in going_on):
        if error is None:
            yield value
            continue
        if error.__traceback__ is None:  # lost on the way from another process
            error.add_note(trace)
        errors.append(error)
    if errors:
        raise errors[0]


def _run(name, function):
    try:
        with _ALONE:
            return function(), None, None
    except Exception as error:
        error.add_note(f"in {name}; what is finished is stored: call again to go on from there")
        return None, error, traceback.format_exc()
