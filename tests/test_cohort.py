import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from ecgtutorial.cohort import Cohort, open_cohort, open_store, write_store
from ecgtutorial.leads import LEADS

RNG = np.random.default_rng(0)
SIGNALS = RNG.integers(-3000, 3000, (60, 12, 50)).astype(np.int16)
TABLE = pd.DataFrame(
    {
        "record_id": [f"r{i}" for i in range(60)],
        "patient_id": [f"p{i // 2}" for i in range(60)],
        "fold": [i // 2 % 10 + 1 for i in range(60)],
        "age": np.where(np.arange(60) % 7, 50.5, np.nan),
        "sex": ["female", None, "male"] * 20,
    }
)
LABELS = pd.DataFrame(
    {"NORM": [1, 0] * 30, "IMI": [0, 1] * 30, "LVH": [0] * 60, "SR": [1] * 60}, dtype=np.uint8
)


def make(**changes):
    parts = {"signals": SIGNALS, "table": TABLE, "labels": LABELS} | changes
    return Cohort(**parts, fs=100, name="test")


def store(folder, **changes):
    parts = {"signals": SIGNALS, "table": TABLE, "labels": LABELS, "source": "here"} | changes
    return write_store(folder, **parts, fs=100, leads=LEADS, name="test")


def test_unknown_cohort_names_the_choices():
    with pytest.raises(ValueError, match="'simulated', 'ptb-xl' or 'wfdb-folder'"):
        open_cohort("ptbxl")
    with pytest.raises(ValueError, match="leave out data"):
        open_cohort("simulated", data="folder")


@pytest.mark.parametrize("change, message", [
    ({"signals": SIGNALS.astype(float)}, "int16"),
    ({"signals": SIGNALS[0]}, "int16"),
    ({"signals": SIGNALS[:, :8]}, "8 leads"),
    ({"signals": SIGNALS[:0], "table": TABLE[:0], "labels": None}, "at least one record"),
    ({"table": TABLE[:5]}, "60, 5 and 60"),
])  # fmt: skip
def test_parts_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_split_is_by_patient():
    parts = make().split()
    assert [len(part) for part in parts] == [48, 6, 6]
    patients = [set(part.table["patient_id"]) for part in parts]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert [sorted(set(part.table["fold"])) for part in parts] == [list(range(1, 9)), [9], [10]]


@pytest.mark.parametrize("table, message", [
    (TABLE.drop(columns="fold"), "needs the columns 'fold'"),
    (TABLE.assign(fold=0), "1-10"),
    (TABLE.assign(fold=np.nan), "1-10"),
    (TABLE.assign(patient_id="one"), "patient 'one'"),
    (TABLE.assign(patient_id="one", fold=3), "validation .* is empty: 60 records of 1 patients"),
])  # fmt: skip
def test_split_refuses(table, message):
    with pytest.raises(ValueError, match=message):
        make(table=table).split()


def test_budget_is_nested_by_patient_and_differs_by_subset():
    cohort = make()
    chosen = [set(cohort.budget(f, 3).table["record_id"]) for f in (0.01, 0.1, 0.5, 1)]
    assert [len(records) for records in chosen] == [2, 6, 30, 60]  # two records a patient
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
    assert chosen[1] != set(cohort.budget(0.1, 4).table["record_id"])
    order = np.random.default_rng(1).permutation(60)
    assert set(cohort.select(order).budget(0.1, 3).table["record_id"]) == chosen[1]
    assert cohort.budget(1.0) is cohort


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, 10, np.nan])
def test_budget_refuses_fractions(fraction):
    with pytest.raises(ValueError, match="fraction must lie in"):
        make().budget(fraction)
    with pytest.raises(ValueError, match="subset"):
        make().budget(0.5, -1)


def test_select_by_mask_positions_and_slice():
    cohort = make()
    mask = cohort.table["sex"] == "male"
    for which in (mask, mask.to_numpy(), np.flatnonzero(mask), slice(2, None, 3)):
        part = cohort.select(which)
        np.testing.assert_array_equal(part.signals, SIGNALS[2::3])
        assert part.table["record_id"].tolist() == [f"r{i}" for i in range(2, 60, 3)]
        assert part.table.index.equals(part.labels.index) and part.table.index[0] == 0
    again = part.select([3, 1])
    np.testing.assert_array_equal(again.signals, SIGNALS[[11, 5]])
    np.testing.assert_array_equal(again.millivolts([1]), SIGNALS[[5]] * np.float32(1e-3))
    np.testing.assert_array_equal(cohort.select([-1]).signals, SIGNALS[[59]])


@pytest.mark.parametrize("which, message", [
    ([True, False], r"shape \(2,\), expected \(60,\)"),
    ([60], "out of range"),
    ([0.5], "whole numbers"),
    ([], "empty"),
    (np.zeros(60, bool), "empty"),
])  # fmt: skip
def test_select_refuses(which, message):
    with pytest.raises(ValueError, match=message):
        make().select(which)


def test_a_selection_reads_nothing_until_asked_and_is_a_copy(tmp_path):
    cohort = store(tmp_path / "s")
    part = cohort.select([5, 7])
    expected = SIGNALS[[7]].astype(np.float32) * np.float32(1e-3)
    np.testing.assert_array_equal(part.millivolts([1]), expected)  # before signals are read
    np.testing.assert_array_equal(part.millivolts(np.array([False, True])), expected)
    assert part._signals is None
    part.signals[:] = 0  # writable, and not the store
    np.testing.assert_array_equal(cohort.signals[5], SIGNALS[5])
    np.testing.assert_array_equal(part.millivolts(), 0)


def test_millivolts():
    millivolts = make().millivolts()
    assert millivolts.dtype == np.float32
    np.testing.assert_allclose(millivolts, SIGNALS / 1000, atol=1e-6)


def test_targets():
    cohort = make()
    superclass = cohort.targets("superclass")
    assert list(superclass) == ["NORM", "MI", "STTC", "CD", "HYP"]
    assert superclass.sum().tolist() == [30, 30, 0, 0, 0]  # a class without positives is fine
    assert (superclass.dtypes == np.uint8).all()
    assert cohort.targets("subclass")["IMI"].sum() == 30
    assert cohort.targets("rhythm")["SR"].sum() == 60
    assert list(cohort.targets("all")) == ["NORM", "IMI", "LVH", "SR"]


def test_targets_refuse():
    with pytest.raises(ValueError, match="no labels"):
        make(labels=None).targets("superclass")
    with pytest.raises(ValueError, match="unknown task 'super'"):
        make().targets("super")
    with pytest.raises(ValueError, match="no PTB-XL statement"):
        make(labels=LABELS[["SR"]].set_axis(["acceptable"], axis=1)).targets("superclass")


def test_fingerprint_follows_content(tmp_path):
    first = make().fingerprint
    assert make().fingerprint == first and len(first) == 12
    changed = SIGNALS.copy()
    changed[3, 3, 3] += 1
    others = [
        make(signals=changed),
        make(labels=1 - LABELS),
        make(table=TABLE.assign(fold=1)),
        make().select([1, 2]),
        make().select([2, 1]),
    ]
    assert make().select([5, 1, 2]).select([1, 2]).fingerprint == others[3].fingerprint
    assert len({first, *(other.fingerprint for other in others)}) == 6
    stored = store(tmp_path / "s")
    assert stored.fingerprint == open_store(tmp_path / "s").fingerprint
    assert store(tmp_path / "t", signals=changed).fingerprint != stored.fingerprint


def test_store_round_trip(tmp_path):
    missing = {"official": 70, "absent": 9, "damaged": {"r99": "cut short"}}
    cohort = store(tmp_path / "s", signals=iter([SIGNALS[:7], SIGNALS[7:]]), missing=missing)
    assert isinstance(cohort.signals, np.memmap) and cohort.signals.dtype == np.int16
    np.testing.assert_array_equal(cohort.signals, SIGNALS)
    pd.testing.assert_frame_equal(cohort.table, TABLE, check_dtype=False)
    pd.testing.assert_frame_equal(cohort.labels, LABELS)
    assert (cohort.fs, cohort.name, cohort.leads, cohort.missing) == (100, "test", LEADS, missing)
    assert "9 of 70 records absent; 1 damaged" in repr(cohort)
    assert store(tmp_path / "t", labels=None).labels.shape == (60, 0)
    cohort.verify()
    make().verify()


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    table = TABLE.assign(record_id=[f"{i:03d}" for i in range(60)], patient_id="NA")
    stored = store(tmp_path / "s", table=table).table
    assert stored["record_id"][7] == "007" and set(stored["patient_id"]) == {"NA"}


@pytest.mark.parametrize("file", ["signals.npy", "labels.npy", "table.csv"])
def test_damage_is_noticed(tmp_path, file):
    cohort = store(tmp_path / "s")
    path = tmp_path / "s" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} has changed"):
        cohort.verify()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{file} has .* bytes, expected"):
        open_store(tmp_path / "s")


def test_a_store_of_something_else_does_not_open(tmp_path):
    store(tmp_path / "s")
    with pytest.raises(ValueError, match="was made from 'here', expected 'there'"):
        open_store(tmp_path / "s", "there")
    with pytest.raises(FileNotFoundError, match="no cohort store"):
        open_store(tmp_path / "nothing")
    assert store(tmp_path / "s", source="there").missing == {"damaged": {}}
    open_store(tmp_path / "s", "there")


def test_a_failure_leaves_nothing(tmp_path):
    def chunks():
        yield SIGNALS[:30]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        store(tmp_path / "s", signals=chunks())
    with pytest.raises(ValueError, match="at least one record"):
        store(tmp_path / "s", signals=[])
    with pytest.raises(ValueError, match="a chunk must be"):
        store(tmp_path / "s", signals=[SIGNALS, SIGNALS[:, :, :9]])
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys, time
import numpy as np, pandas as pd
from ecgtutorial.cohort import write_store
from ecgtutorial.leads import LEADS
folder, mode = sys.argv[1:]
if mode == "full":  # a limit on the size of files stands for a full disk
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def chunks():
    for i in range(50):
        print(i, flush=True)
        if mode == "slow":
            time.sleep(0.05)
        yield np.full((2, 12, 500), i, np.int16)
table = pd.DataFrame({"record_id": range(100), "patient_id": range(100)})
write_store(folder, chunks(), table, None, 100, LEADS, "test", "here").verify()
"""


def start(folder, mode, **options):
    command = [sys.executable, "-c", SCRIPT, str(folder), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_a_kill_leaves_no_store_that_opens(tmp_path):
    process = start(tmp_path / "s", "slow")
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(FileNotFoundError):
        open_store(tmp_path / "s")
    (left,) = tmp_path.iterdir()  # swept when it is a day old
    os.utime(left, (time.time() - 1e5,) * 2)
    assert start(tmp_path / "s", "fast").communicate() and len(open_store(tmp_path / "s")) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_full_disk_leaves_nothing(tmp_path):
    process = start(tmp_path / "s", "full", stderr=subprocess.PIPE)
    _, error = process.communicate()
    assert process.returncode == 1 and "OSError" in error
    assert not list(tmp_path.iterdir())


def test_two_processes_may_make_the_same_store(tmp_path):
    store(tmp_path / "s", source="stale")
    processes = [start(tmp_path / "s", "slow") for _ in range(3)]
    assert [p.communicate() and p.returncode for p in processes] == [0, 0, 0]
    open_store(tmp_path / "s", "here").verify()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
