import ast
import csv
import os
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from ecgtutorial.cohort import open_cohort
from ecgtutorial.datasets import ptbxl
from ecgtutorial.leads import LEADS


def open_strictly(folder, **options):
    """Open without a warning passing unseen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_cohort("ptb-xl", data=folder, **options)


def test_statements_equal_the_official_table(ptbxl_folder):
    with open(ptbxl_folder / "scp_statements.csv", newline="") as file:
        official = {row[""]: row for row in csv.DictReader(file)}
    assert list(ptbxl.STATEMENTS) == list(official) and len(official) == 71
    for code, row in official.items():
        statement = ptbxl.STATEMENTS[code]
        assert (statement.superclass or "") == row["diagnostic_class"]
        assert (statement.subclass or "") == row["diagnostic_subclass"]
        for kind in ("diagnostic", "form", "rhythm"):
            assert getattr(statement, kind) == (row[kind] == "1.0")


def test_sizes_of_the_tasks():
    tasks = {"superclass": 5, "subclass": 23, "diagnostic": 44, "form": 19, "rhythm": 12}
    assert {task: len(ptbxl.classes(task)) for task in tasks} == tasks
    assert ptbxl.classes("superclass")["CD"][0] == "LAFB"
    with pytest.raises(ValueError, match="unknown task"):
        ptbxl.classes("all71")


def test_real_records(ptbxl_folder):
    cohort = open_strictly(ptbxl_folder)
    assert cohort.signals.shape == (2992, 12, 1000) and cohort.leads == LEADS
    assert cohort.table["patient_id"].nunique() == 2900
    superclass = cohort.targets("superclass")
    counts = {"NORM": 1433, "MI": 665, "STTC": 703, "CD": 602, "HYP": 346}
    assert superclass.sum().to_dict() == counts
    assert (superclass.sum(axis=1) == 0).sum() == 61
    assert cohort.labels.shape == (2992, 71)
    assert cohort.missing == {"official": 21799, "absent": 18807, "damaged": {}}
    assert "report" not in cohort.table
    first = cohort.table.iloc[0]
    assert (first["record_id"], first["patient_id"], first["fold"]) == (1, 15709, 3)
    assert (first["age"], first["sex"], first["static_noise"]) == (56, "female", True)
    assert (cohort.table["age"] == 300).sum() > 0
    assert sum(map(len, cohort.split())) == 2992
    cohort.verify()


def test_labels_equal_scp_codes(ptbxl_folder):
    cohort = open_strictly(ptbxl_folder)
    with open(ptbxl_folder / "ptbxl_database.csv", newline="") as file:
        for row, (_, labels) in zip(csv.DictReader(file), cohort.labels.iterrows()):
            assert set(labels.index[labels == 1]) == set(ast.literal_eval(row["scp_codes"]))


def test_500_hz_is_the_official_signal(ptbxl_folder):
    import wfdb

    cohort = open_strictly(ptbxl_folder, fs=500)
    assert cohort.signals.shape == (100, 12, 5000) and cohort.missing["absent"] == 21699
    signals, _ = wfdb.rdsamp(str(ptbxl_folder / "records500/00000/00001_hr"))
    np.testing.assert_array_equal(cohort.signals[0], np.rint(1000 * signals.T))


def test_reading_takes_at_most_a_tenth_of_rdsamp(ptbxl_folder):
    import wfdb

    paths = sorted((ptbxl_folder / "records100/00000").glob("*.hea"))[:100]
    paths = [str(path)[:-4] for path in paths]

    def seconds(read):
        times = []
        for _ in range(3):
            start = time.process_time()
            for path in paths:
                read(path)
            times.append(time.process_time() - start)
        return min(times)

    assert 10 * seconds(lambda path: ptbxl._read(path, 100)) < seconds(wfdb.rdsamp)


def test_reopening_takes_little_time_and_memory(ptbxl_folder):
    open_strictly(ptbxl_folder)
    code = f"""
import time
from pathlib import Path
from ecgtutorial.cohort import open_cohort
import ecgtutorial.datasets.ptbxl
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before, start = resident(), time.perf_counter()
cohort = open_cohort("ptb-xl", data={str(ptbxl_folder)!r})
print(time.perf_counter() - start, resident() - before)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc to see the memory of a process")
    seconds, memory = np.min(
        [
            [float(x) for x in subprocess.check_output([sys.executable, "-c", code]).split()]
            for _ in range(3)
        ],
        axis=0,
    )
    assert seconds < 0.2
    assert memory < 20e6  # the signals are 72 MB


def test_made_up_folder(small_ptbxl):
    cohort = open_strictly(small_ptbxl)
    assert len(cohort) == 40 and cohort.missing["absent"] == 21799 - 40
    assert cohort.table["age"][0] == 300 and cohort.table["sex"][0] == "female"
    assert cohort.table["baseline_drift"].sum() == 8 and not cohort.table["burst_noise"].any()
    assert cohort.targets("superclass").sum().tolist() == [6, 7, 7, 7, 7]
    assert cohort.labels["SR"].all()


def test_leads_are_put_in_order(small_ptbxl, write_record):
    shuffled = np.random.default_rng(5).permutation(12)
    digital = np.arange(12)[:, None] * 100 + np.arange(1000) % 7  # lead k is about 100 k µV
    write_record(
        small_ptbxl / "records100/00000/00002_lr",
        digital[shuffled],
        names=[LEADS[i].lower() for i in shuffled],
    )
    np.testing.assert_array_equal(open_strictly(small_ptbxl).signals[1], digital)


def test_part_of_the_records_is_a_cohort_and_change_rebuilds(small_ptbxl):
    whole = open_strictly(small_ptbxl)
    for suffix in (".hea", ".dat"):
        os.unlink(small_ptbxl / f"records100/00000/00003_lr{suffix}")
    part = open_strictly(small_ptbxl)
    assert len(part) == 39 and 3 not in set(part.table["record_id"])
    assert part.missing["absent"] == whole.missing["absent"] + 1
    database = pd.read_csv(small_ptbxl / "ptbxl_database.csv")
    database.assign(strat_fold=1).to_csv(small_ptbxl / "ptbxl_database.csv", index=False)
    assert set(open_strictly(small_ptbxl).table["fold"]) == {1}


def _edit(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


def _cut(folder, name):
    content = (folder / f"{name}.dat").read_bytes()
    (folder / f"{name}.dat").write_bytes(content[:-100])


def _flip(folder, name):
    content = bytearray((folder / f"{name}.dat").read_bytes())
    content[50] ^= 1
    (folder / f"{name}.dat").write_bytes(content)


DAMAGES = {
    "bytes, expected 24,000": _cut,
    "checksum of II differs": _flip,
    "no readable signal file": lambda folder, name: os.unlink(folder / f"{name}.dat"),
    "no readable header": lambda folder, name: os.unlink(folder / f"{name}.hea"),
    "sampled at 250 Hz, expected 100": lambda f, n: _edit(f / f"{n}.hea", "12 100", "12 250"),
    "lacks V5; has": lambda f, n: _edit(f / f"{n}.hea", "V5", "X5"),
    "wfdb cannot read it": lambda f, n: (f / f"{n}.hea").write_text("nonsense"),
    "unit furlong": lambda f, n: _edit(f / f"{n}.hea", "/mV", "/furlong"),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_record_is_named_and_left_out(small_ptbxl, reason):
    DAMAGES[reason](small_ptbxl / "records100/00000", "00007_lr")
    for _ in range(2):  # when the store is made and when it is opened again
        with pytest.warns(UserWarning, match=f"1 of 40 records .* 7: .*{reason}") as caught:
            cohort = open_cohort("ptb-xl", data=small_ptbxl)
        assert caught[0].filename == __file__
        assert len(cohort) == 39 and 7 not in set(cohort.table["record_id"])
        assert reason in cohort.missing["damaged"]["7"]
        assert cohort.labels["IMI"].tolist() == [
            int(i % 6 == 1) for i in cohort.table["record_id"]
        ]  # rows still fit
    with pytest.raises(ValueError, match=f"7: .*{reason}"):
        open_cohort("ptb-xl", data=small_ptbxl, strict=True)


def test_wrong_length_and_missing_samples_are_damage(small_ptbxl, write_record):
    folder = small_ptbxl / "records100/00000"
    write_record(folder / "00004_lr", np.ones((12, 999)))
    digital = np.ones((12, 1000))
    digital[6, 100:103] = -32768
    write_record(folder / "00005_lr", digital)
    with pytest.warns(UserWarning, match="2 of 40 records"):
        damaged = open_cohort("ptb-xl", data=small_ptbxl).missing["damaged"]
    assert damaged["4"] == "999 samples, expected 1000"
    assert damaged["5"] == "3 samples missing or beyond ±32.767 mV in V1"


def test_a_repaired_record_comes_back(small_ptbxl):
    folder = small_ptbxl / "records100/00000"
    shutil.copy(folder / "00007_lr.dat", small_ptbxl / "good.dat")
    _flip(folder, "00007_lr")
    with pytest.warns(UserWarning, match="checksum"):
        open_cohort("ptb-xl", data=small_ptbxl)
    os.replace(small_ptbxl / "good.dat", folder / "00007_lr.dat")
    assert len(open_strictly(small_ptbxl)) == 40


def test_everything_damaged_is_an_error(small_ptbxl):
    for path in small_ptbxl.glob("records100/*/*.dat"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="every record in .* is damaged: .*expected 24,000"):
        open_cohort("ptb-xl", data=small_ptbxl)


def test_wrong_folders_and_arguments(small_ptbxl, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_cohort("ptb-xl", data=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="ptbxl_database.csv.*did you mean data="):
        open_cohort("ptb-xl", data=small_ptbxl.parent)
    with pytest.raises(FileNotFoundError, match="looked for records500/, found records100"):
        open_cohort("ptb-xl", data=small_ptbxl, fs=500)
    with pytest.raises(ValueError, match="100 or 500"):
        open_cohort("ptb-xl", data=small_ptbxl, fs=250)
    with pytest.raises(ValueError, match="n_records"):
        open_cohort("ptb-xl", data=small_ptbxl, n_records=0)
    shutil.rmtree(small_ptbxl / "records100")
    (small_ptbxl / "records100").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no record"):
        open_cohort("ptb-xl", data=small_ptbxl)
    (small_ptbxl / "ptbxl_database.csv").write_text("ecg_id,age\n1,2\n")
    (small_ptbxl / "records100/00000").mkdir()
    (small_ptbxl / "records100/00000/00001_lr.hea").touch()
    with pytest.raises(ValueError, match="is not PTB-XL's database"):
        open_cohort("ptb-xl", data=small_ptbxl)


def test_an_unknown_statement_is_an_error(small_ptbxl):
    _edit(small_ptbxl / "ptbxl_database.csv", "'IMI'", "'IMMI'")
    with pytest.raises(ValueError, match="record 1 has the unknown statement 'IMMI'"):
        open_cohort("ptb-xl", data=small_ptbxl)


def test_a_part_is_stratified_and_nested(ptbxl_folder):
    cohort = open_strictly(ptbxl_folder)
    part = open_strictly(ptbxl_folder, n_records=1000)
    assert len(part) == 1000
    shares = part.targets().mean() - cohort.targets().mean()
    assert shares.abs().max() < 0.02
    folds = part.table["fold"].value_counts(normalize=True)
    assert (folds - cohort.table["fold"].value_counts(normalize=True)).abs().max() < 0.015
    smaller = open_strictly(ptbxl_folder, n_records=300)
    assert set(smaller.table["record_id"]) < set(part.table["record_id"])
    assert len(open_strictly(ptbxl_folder, n_records=99_999)) == 2992
