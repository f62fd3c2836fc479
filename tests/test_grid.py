import functools
import os
import pickle
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial import grid
from ecgtutorial.cohort import Cohort, open_store, write_store
from ecgtutorial.evaluate import label_efficiency as experiment
from ecgtutorial.leads import LEADS
from ecgtutorial.runs import Table


def note(log, *words):
    with open(log, "a") as file:  # a short line is appended whole
        print(*words, os.getpid(), file=file)


def notes(log):
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def make(log, name):
    note(log, "made", name)


def cell(log, number, seconds, names):
    """One toy cell a name: its value is its number."""
    note(log, "begun", number)
    if (log.parent / f"fail-{number}").exists():
        raise ValueError(f"no convergence of {number}")
    if (log.parent / f"stop-{number}").exists():
        raise KeyboardInterrupt
    time.sleep(seconds)
    for name in names:
        row = {"method": "toy", "seed": "0", "metric": "m", "value": number, "config": name}
        yield [row], {name: np.arange(6.0).reshape(3, 2) * number}
    note(log, "ended", number)


def toys(log, n=6, seconds=0.0):
    """Jobs of one cell each, two of each encoder."""
    return [
        grid.Job(
            {f"hash{k}": f"toy probe {k}"},
            SimpleNamespace(
                identity=f"run{k // 2}", method="toy", seed=0,
                make=functools.partial(make, log, f"run{k // 2}"),
            ),
            functools.partial(cell, log, k, seconds),
        )
        for k in range(n)
    ]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "table.csv")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def rows(table):
    return sorted(zip(table.read()["config"], table.read()["value"]))


ALL = [(f"hash{k}", k) for k in range(6)]


def happened(log, what):
    return [words[1] for words in notes(log) if words[0] == what]


def test_by_default_cells_run_here_in_order_and_never_again(table, log):
    assert grid.fill(table, toys(log), progress=False) == [name for name, _ in ALL]
    assert rows(table) == ALL and set(table.ranks()) == dict(ALL).keys()
    assert [(w[0], w[1]) for w in notes(log)] == [
        (what, str(k)) for k in range(6) for what in ("begun", "ended")
    ]  # no encoder is made by the grid: cells do that
    assert {int(words[-1]) for words in notes(log)} == {os.getpid()}
    grid.fill(table, toys(log), progress=False)
    assert len(notes(log)) == 12 and rows(table) == ALL
    assert grid.fill(table, [], progress=False) == []


def test_two_processes_fill_the_same_table(table, log):
    with joblib.parallel_config(n_jobs=2):
        grid.fill(table, toys(log, seconds=0.1), progress=False)
        again = len(notes(log))
        grid.fill(table, toys(log), progress=False)
    assert rows(table) == ALL and len(notes(log)) == again
    assert os.getpid() not in {int(words[-1]) for words in notes(log)}
    assert sorted(happened(log, "ended")) == list("012345")
    assert sorted(happened(log, "made")) == ["run0", "run1", "run2"]
    assert {words[0] for words in notes(log)[:3]} == {"made"}, "encoders before cells"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_names_its_cell_and_keeps_the_others(table, log, n_jobs):
    (log.parent / "fail-3").touch()
    with pytest.raises(ValueError, match="no convergence of 3") as caught:
        with joblib.parallel_config(n_jobs=n_jobs):
            grid.fill(table, toys(log, n=20, seconds=0.1), progress=False)
    told = "\n".join(caught.value.__notes__)
    assert "in toy probe 3; what is finished is stored" in told
    if n_jobs == 2:
        assert "test_grid.py" in told  # the traceback of the other process
    finished = happened(log, "ended")
    assert sorted(f"hash{k}" for k in finished) == sorted(table.read()["config"])
    assert {"0", "1", "2"} <= set(finished) and len(finished) < 12, "no further cell is begun"
    (log.parent / "fail-3").unlink()
    grid.fill(table, toys(log, n=20), progress=False)
    assert rows(table) == sorted((f"hash{k}", k) for k in range(20))
    assert sorted(happened(log, "ended"), key=int) == [str(k) for k in range(20)]


def test_a_failed_pre_training_says_which(table, log):
    jobs = toys(log)
    for job in jobs[2:4]:  # both of its cells
        job.entrant.make = functools.partial(int, "x")
    with joblib.parallel_config(n_jobs=2), pytest.raises(ValueError, match="literal") as caught:
        grid.fill(table, jobs, progress=False)
    assert "in the encoder toy, seed 0" in caught.value.__notes__[0]
    assert not happened(log, "begun")


def test_a_grid_that_was_stopped_goes_on(table, log):
    (log.parent / "stop-4").touch()
    with pytest.raises(KeyboardInterrupt):
        grid.fill(table, toys(log), progress=False)
    assert rows(table) == ALL[:4]
    (log.parent / "stop-4").unlink()
    grid.fill(table, toys(log), progress=False)
    assert rows(table) == ALL and happened(log, "ended") == list("012345")


def test_threads_of_a_process_take_turns(table, log):
    with joblib.parallel_config(backend="threading", n_jobs=3):
        grid.fill(table, toys(log, seconds=0.02), progress=False)
    cells = [words[1] for words in notes(log) if words[0] != "made"]
    assert cells[::2] == cells[1::2], "torch's random numbers are the process's"


def test_a_job_is_asked_for_its_missing_cells_only(table, log):
    table.add([{"method": "toy", "seed": "0", "value": 0, "config": "b"}])
    asked = []

    def compute(names):
        asked.append(names)
        return cell(log, len(asked), 0, names)

    jobs = [grid.Job({"a": "A", "b": "B", "c": "C"}, None, compute),
            grid.Job({"c": "C", "d": "D"}, None, compute)]  # fmt: skip
    assert grid.fill(table, jobs, progress=False) == ["a", "b", "c", "d"]
    assert asked == [["a", "c"], ["d"]] and rows(table) == [("a", 1), ("b", 0), ("c", 1), ("d", 2)]


def test_a_job_that_forgets_a_cell_is_noticed(table):
    with pytest.raises(ValueError, match="shorter"):
        grid.fill(table, [grid.Job({"a": "A"}, None, lambda names: [])], progress=False)


def test_the_bar_counts_finished_cells_at_once(table, log, capsys):
    grid.fill(table, toys(log, n=2))
    grid.fill(table, toys(log, n=4))
    bar = capsys.readouterr().err.split("\r")
    assert any("50%" in line and "2/4" in line for line in bar)
    assert "4/4" in bar[-1] and "toy probe 3: 3.000" in bar[-1]


def test_only_the_last_value_is_kept():
    made = []

    def give(value):
        return grid.kept("toy", value, lambda: made.append(value) or value)

    try:
        assert [give(v) for v in (1, 1, 2, 2, 1)] == [1, 1, 2, 2, 1] and made == [1, 2, 1]
    finally:
        grid._KEPT.clear()


# --- on a Dask cluster -------------------------------------------------------------------------


def test_a_dask_worker_is_killed_and_nothing_is_lost_or_done_twice(table, log, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs a Dask cluster: distributed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def kill():
        """Kill the worker of a cell while it is inside it and what ended before is stored."""
        end, seen = time.monotonic() + 60, {}
        while time.monotonic() < end:
            time.sleep(0.02)
            begun = [w for w in notes(log) if w[0] == "begun"]
            for words in begun:
                seen.setdefault(words[1], time.monotonic())
            ended = set(happened(log, "ended"))
            stored = {str(value) for _, value in rows(table)}
            inside = [w for w in begun if w[1] not in ended]
            fresh = [w for w in inside if time.monotonic() - seen[w[1]] < 0.35]
            if len(begun) >= 3 and ended == stored and fresh:
                killed.append(fresh[-1][1])
                os.kill(int(fresh[-1][2]), signal.SIGKILL)
                return

    killed = []
    assassin = threading.Thread(target=kill)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        silence_logs="CRITICAL",
    )  # fmt: skip
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        assassin.start()
        grid.fill(table, toys(log, n=8, seconds=0.7), progress=False)
        assassin.join()
        before = notes(log)
        grid.fill(table, toys(log, n=8), progress=False)
    assert len(killed) == 1
    assert rows(table) == [(f"hash{k}", k) for k in range(8)]
    assert sorted(happened(log, "ended")) == list("01234567"), "each cell ends once"
    assert sorted(happened(log, "begun")) == sorted([*"01234567", *killed])
    assert sorted(happened(log, "made")) == ["run0", "run1", "run2", "run3"]
    assert notes(log) == before, "the second call has nothing to do"
    assert len({words[-1] for words in before if words[0] == "ended"}) >= 2


# --- real cells --------------------------------------------------------------------------------


class Mean(torch.nn.Module):
    """An encoder without weights: the mean of each lead, and of its slope's size."""

    width = 24

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def forward(self, signals):  # (batch, lead, time) -> (batch, feature)
        slope = signals.diff(dim=2).abs()
        return self.seed + torch.cat([signals.mean(dim=2), slope.mean(dim=2)], dim=1)


@pytest.fixture
def cohort(tmp_path):
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 60)
    signals = generator.normal(0, 200 + 200 * label[:, None, None], (60, 12, 200))
    table = pd.DataFrame(
        {"record_id": range(60), "patient_id": range(60), "fold": np.arange(60) % 10 + 1}
    )
    labels = pd.DataFrame({"NORM": 1 - label, "IMI": label}, dtype=np.uint8)
    return write_store(
        tmp_path / "store", signals.astype(np.int16), table, labels, 100, LEADS, "two", "here"
    )


def test_an_encoder_embeds_once_for_all_its_probes(cohort, tmp_path, monkeypatch):
    entrants = [
        experiment.Entrant("mean", seed, "m", functools.partial(Mean, seed), ("probe",))
        for seed in (0, 1)
    ]
    options = {
        "seconds": 1.0, "budgets": (0.2, 1.0), "subsets": {0.2: 3, 1.0: 1}, "progress": False,
    }  # fmt: skip
    embedded, embed = [], experiment.embed

    def counted(encoder, part, *windows):
        embedded.append((encoder.seed, len(part)))
        return embed(encoder, part, *windows)

    monkeypatch.setattr(experiment, "embed", counted)
    first = experiment.label_efficiency(entrants, cohort, tmp_path / "one.csv", **options)
    assert embedded == [(0, 48), (0, 6), (1, 48), (1, 6)]
    assert not grid._KEPT, "nothing stays in memory afterwards"
    monkeypatch.undo()
    with joblib.parallel_config(n_jobs=2):
        second = experiment.label_efficiency(entrants, cohort, tmp_path / "two.csv", **options)
    pd.testing.assert_frame_equal(*(f.sort_values(list(f)).reset_index(drop=True)
                                    for f in (first, second)))  # fmt: skip


def test_a_stored_cohort_travels_as_its_folder(cohort, tmp_path):
    train, _, test = cohort.split()
    few = train.budget(0.5)
    few.signals  # read: must not travel
    for one in (cohort, train, few):
        sent = pickle.dumps(one)
        assert len(sent) < 2000 < one.signals.nbytes
        again = pickle.loads(sent)
        assert again.fingerprint == one.fingerprint and repr(again) == repr(one)
        np.testing.assert_array_equal(again.signals, one.signals)
        pd.testing.assert_frame_equal(again.table, one.table)
        pd.testing.assert_frame_equal(again.labels, one.labels)
    both = pickle.loads(pickle.dumps((train, test)))
    assert both[0]._whole is both[1]._whole, "the store is opened once for both"
    assert isinstance(both[0]._source, np.memmap)


def test_a_cohort_in_memory_travels_whole(cohort):
    one = Cohort(np.array(cohort.signals), cohort.table, cohort.labels, 100, "memory")
    for part in (one, one.select([5, 3]), one.select([5, 3]).select([1])):
        again = pickle.loads(pickle.dumps(part))
        assert again.fingerprint == part.fingerprint and again.name == "memory"
        np.testing.assert_array_equal(again.signals, part.signals)
        assert list(again.table["record_id"]) == list(part.table["record_id"])


def test_a_store_that_is_gone_or_another_one_is_named(cohort, tmp_path):
    folder, sent = tmp_path / "store", pickle.dumps(cohort.select([1, 2]))
    changed = np.array(cohort.signals) + np.int16(1)
    about = cohort.table, cohort.labels, 100, LEADS, "two", "there"
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=f"no cohort store in {folder}"):
        pickle.loads(sent)
    write_store(folder, changed, *about)
    assert open_store(folder).fingerprint != cohort.fingerprint
    with pytest.raises(ValueError, match=f"{folder} now holds a cohort with fingerprint"):
        pickle.loads(sent)
