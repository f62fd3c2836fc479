import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from ecgtutorial.cohort import SUPERCLASSES, Cohort, open_cohort
from ecgtutorial.datasets import challenge, ptbxl
from ecgtutorial.datasets.challenge import CLASSES, NORMAL, SNOMED, WEIGHTS
from ecgtutorial.leads import LEADS

RNG = np.random.default_rng(0)
UPPER = [lead.upper() for lead in LEADS]


# ------------------------------------------------------------------------------ classes, targets


def test_classes_codes_and_weights_agree_with_the_notes():
    notes = Path(__file__).resolve().parents[3] / "shared" / "challenge-2021.md"
    if not notes.is_file():
        pytest.skip(f"needs {notes}")
    text = notes.read_text()
    weights = [line.split() for line in text.split("```")[1].strip().splitlines()]
    np.testing.assert_array_equal(WEIGHTS, np.array(weights, dtype=float))
    lines = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    rows = [line.split("|")[1:-1] for line in lines]
    assert [int(row[0]) for row in rows] == list(range(26))
    assert CLASSES == tuple(row[2].split("=")[0].strip() for row in rows)
    for name, row in zip(CLASSES, rows):
        assert {code.strip() for code in row[1].split("=")} == {
            c for c in SNOMED if SNOMED[c] == name
        }
        statements = set(row[4].replace(" or ", ",").replace(" ", "").split(",")) - {""}
        if "heart_axis" not in row[4]:
            assert statements == set(challenge._STATEMENTS.get(name, []))


def test_classes_and_weights():
    assert len(CLASSES) == len(set(CLASSES)) == 26 and len(SNOMED) == 30
    assert set(SNOMED.values()) == set(CLASSES) and CLASSES[NORMAL] == "NSR"
    assert SNOMED["733534002"] == SNOMED["164909002"] == "CLBBB"
    np.testing.assert_array_equal(WEIGHTS, WEIGHTS.T)
    np.testing.assert_array_equal(np.diag(WEIGHTS), 1)
    at = CLASSES.index
    assert WEIGHTS[at("AF"), at("AFL")] == 0.5 and WEIGHTS[at("AF"), NORMAL] == 0.25
    assert WEIGHTS[at("QAb"), NORMAL] == 0.15 == WEIGHTS.min()


def cohort_of(statements, **table):
    """A cohort with the given statements (text with spaces, one a record)."""
    n = len(statements)
    labels = [[code in row.split() for code in ptbxl.STATEMENTS] for row in statements]
    labels = pd.DataFrame(labels, columns=list(ptbxl.STATEMENTS)).astype(np.uint8)
    table = pd.DataFrame({"record_id": range(n), "patient_id": range(n)} | table)
    return Cohort(np.zeros((n, 12, 10), np.int16), table, labels, 100, "made-up")


def names(targets):
    return [" ".join(row.index[row == 1]) for _, row in targets.iterrows()]


def test_statements_become_classes():
    rows = {
        "AFIB": "AF", "SR": "NSR", "NORM": "NSR", "NORM SR": "NSR", "PAC": "PAC", "SVARR": "PAC",
        "NDT": "TAb", "LOWT": "TAb", "NT_": "TAb", "TAB_": "TAb", "INVT": "TInv", "NDT LOWT": "TAb",
        "CLBBB": "CLBBB", "CRBBB": "CRBBB", "1AVB LPR": "IAVB LPR", "PVC": "", "IMI LVH STACH":
        "STach", "QWAVE LNGQT": "LQT QAb", "LAFB IVCD": "LAnFB NSIVCB", "": "",
    }  # fmt: skip
    found = cohort_of(list(rows), axis=45.0).targets("challenge")
    assert list(found) == list(CLASSES) and set(found.dtypes) == {np.dtype(np.uint8)}
    assert names(found) == list(rows.values())


def test_axis_deviation():
    degrees = [-31.0, -30, -90, 0, 90, 91, 180, np.nan]
    found = cohort_of([""] * 8, axis=degrees).targets("challenge")
    assert names(found) == ["LAD", "", "LAD", "", "", "RAD", "RAD", ""]
    words = ["LAD", "ALAD", "RAD", "ARAD", "MID", "AXL", "SAG", None]
    found = cohort_of([""] * 8, heart_axis=words).targets("challenge")
    assert names(found) == ["LAD", "LAD", "RAD", "RAD", "", "", "", ""]
    with pytest.raises(ValueError, match="'made-up': axis deviation needs a column 'axis'"):
        cohort_of([""]).targets("challenge")


def test_targets_of_real_and_simulated_records(ptbxl_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        real = open_cohort("ptb-xl", data=ptbxl_folder)
    for cohort in (real, open_cohort("simulated", n_patients=60)):
        found = cohort.targets("challenge")
        assert len(found) == len(cohort)
        np.testing.assert_array_equal(found["NSR"], cohort.labels[["SR", "NORM"]].max(axis=1))
        assert not found[["BBB", "Brady", "PRWP", "PVC"]].to_numpy().any()
    found = real.targets("challenge")
    assert found["LAD"].sum() == 626 and found["RAD"].sum() == 38  # 472 + 154, 24 + 14
    assert (found.drop(columns=["BBB", "Brady", "PRWP", "PVC"]).sum() > 0).all()


def test_cohorts_without_statements():
    cohort = cohort_of(["SR"], axis=0.0)
    cohort.labels = pd.DataFrame({"other": [1]})
    with pytest.raises(ValueError, match="neither the Challenge's classes nor PTB-XL's"):
        cohort.targets("challenge")


# ------------------------------------------------------------------------------------- a folder


def write_mat(path, digital, fs=500, gain="1000/mV", comments=("#Dx: 426783006",), leads=UPPER,
              fmt="16+24"):  # fmt: skip
    """A recording as the Challenge has them: a header, and MATLAB 4's matrix `val`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digital = digital.astype(np.int16)  # (lead, time)
    scipy.io.savemat(path.with_suffix(".mat"), {"val": digital}, format="4")
    lines = [f"{path.name} {len(leads)} {fs} {digital.shape[1]} 05-Feb-2020 11:39:16"]
    for lead, row in zip(leads, digital):
        lines.append(f"{path.name}.mat {fmt} {gain} 16 0 {row[0]} {wrapped(row)} 0 {lead}")
    path.with_suffix(".hea").write_text("\n".join([*lines, *comments]) + "\n")


def wrapped(row):
    """The 16-bit sum that a header holds."""
    return (int(row.sum(dtype=np.int64)) + 2**15) % 2**16 - 2**15


def noise(n_samples):
    return RNG.integers(-2000, 2000, (12, n_samples))


def open_strictly(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return open_cohort("challenge", data=folder, **options)


@pytest.mark.parametrize("fmt", ["16+24", "16x1+24"])
@pytest.mark.parametrize("gain, factor", [
    ("1000/mV", 1), ("1000.0(0)/mV", 1), ("4880/mV", 1 / 4.88), ("1/uV", 1), ("0.5(10)/uV", 2),
    ("200/mV", 5),
])  # fmt: skip
def test_matlab_files(tmp_path, gain, factor, fmt):
    digital = noise(5000)
    write_mat(tmp_path / "A0001", digital, gain=gain, fmt=fmt)
    cohort = open_strictly(tmp_path)
    assert cohort.fs == 500 and cohort.name == "challenge" and cohort.leads == LEADS
    base = 10 if "(10)" in gain else 0
    np.testing.assert_array_equal(cohort.signals[0], np.rint((digital - base) * factor))


def test_dat_files_are_the_same(tmp_path, write_record):
    digital = noise(5000)
    write_mat(tmp_path / "a/A1", digital)
    write_record(tmp_path / "b/B1", digital, fs=500)
    with open(tmp_path / "b/B1.hea", "a") as file:
        file.write("# Age: 61\n# Sex: F\n# Dx: 164889003,59118001\n")
    cohort = open_strictly(tmp_path)
    np.testing.assert_array_equal(cohort.signals[0], cohort.signals[1])
    assert names(cohort.targets("challenge")) == ["NSR", "AF CRBBB"]
    assert cohort.table["age"][1] == 61 and cohort.table["sex"][1] == "female"


def test_leads_in_any_order_and_case(tmp_path):
    order = RNG.permutation(12)
    digital = noise(5000)
    leads = [LEADS[i].lower() if i % 2 else UPPER[i] for i in order]
    write_mat(tmp_path / "A1", digital[order], leads=leads)
    np.testing.assert_array_equal(open_strictly(tmp_path).signals[0], digital)


def test_lengths(tmp_path):
    digital = noise(12500)
    write_mat(tmp_path / "georgia/g1/E1", digital)  # 25 s
    write_mat(tmp_path / "georgia/g1/E2", digital[:, :5000])
    write_mat(tmp_path / "cpsc_2018/g1/A1", digital[:, :2500])
    write_mat(tmp_path / "cpsc_2018/g2/A2", digital[:, :4999])
    cohort = open_strictly(tmp_path)
    table = cohort.table
    assert table["record_id"].tolist() == [f"georgia/g1/{r}" for r in ("E1-0", "E1-1", "E2-0")]
    assert table["recording"].tolist() == table["patient_id"].tolist()
    assert table["recording"].tolist() == [f"georgia/g1/{r}" for r in ("E1", "E1", "E2")]
    assert table["piece"].tolist() == [0, 1, 0] and table["start"].tolist() == [0, 10, 0]
    assert set(table["subset"]) == {"georgia"}
    np.testing.assert_array_equal(np.concatenate(cohort.signals[:2], axis=1), digital[:, :10000])
    assert cohort.missing["short"] == 2 and not cohort.missing["damaged"]
    again = open_strictly(tmp_path, seconds=5)
    assert again.signals.shape == (5 + 2 + 1 + 1, 12, 2500) and again.missing["short"] == 0
    assert sorted(again.table["subset"].unique()) == ["cpsc_2018", "georgia"]


@pytest.mark.parametrize("fs", [257, 1000, 128])
def test_rates(tmp_path, fs):
    t, phase = np.arange(round(20 * fs)) / fs, np.arange(12)[:, None]
    write_mat(tmp_path / "I1", np.rint(1000 * np.sin(2 * np.pi * 3 * t + phase)), fs=fs)
    cohort = open_strictly(tmp_path)
    assert cohort.signals.shape == (2, 12, 5000)
    expected = 1000 * np.sin(2 * np.pi * 3 * np.arange(5000) / 500 + phase)
    assert np.abs(cohort.signals[0] - expected)[:, 250:-250].max() < 15  # µV
    assert open_strictly(tmp_path, fs=100).signals.shape == (2, 12, 1000)


def test_folds_keep_a_recording_together(tmp_path):
    for i in range(20):
        write_mat(tmp_path / f"r{i}", np.full((12, 1000), i), fs=50)  # 20 s
    cohort = open_strictly(tmp_path, fs=50)
    assert (cohort.table.groupby("recording")["fold"].nunique() == 1).all()
    assert (cohort.table["fold"].value_counts() == 4).all()
    assert [len(part) for part in cohort.split()] == [32, 4, 4]
    assert set(cohort.table["subset"]) == {tmp_path.name}


def test_labels(tmp_path):
    comments = {
        "a": ["# Age: 74", "# Sex: Female", "# Dx: 63593006,17338001, 164884008"],
        "b": ["#Age: NaN", "#Sex: M", "#Dx: 284470004,427172004,284470004"],
        "c": ["#Age: Unknown", "#Sex: Unknown", "#Dx: Unknown"],
        "d": ["#Rx: none"],
        "e": [],
        "f": ["# Dx: 55930002"],
    }
    for name, lines in comments.items():
        write_mat(tmp_path / name, noise(5000), comments=lines)
    cohort = open_strictly(tmp_path)
    assert names(cohort.targets("challenge")) == ["PAC PVC", "PAC PVC", "", "", "", ""]
    assert list(cohort.labels) == [*CLASSES, "164884008", "55930002"]
    assert cohort.labels["164884008"].tolist() == [1, 0, 0, 0, 0, 0]
    assert cohort.labels["55930002"].tolist() == [0, 0, 0, 0, 0, 1]
    assert cohort.missing["unlabelled"] == 3
    assert cohort.table["age"].fillna(-1).tolist() == [74, -1, -1, -1, -1, -1]
    assert cohort.table["sex"].fillna("?").tolist() == ["female", "male", "?", "?", "?", "?"]
    with pytest.raises(ValueError, match="no PTB-XL statement to make 'superclass' of"):
        cohort.targets("superclass")
    assert "NORM" in SUPERCLASSES and cohort.targets("all").shape == (6, 28)


def test_damaged_recordings_are_left_out_and_named(tmp_path):
    digital = noise(10000)
    write_mat(tmp_path / "a-good", digital)
    invalid = digital.copy()
    invalid[3, 7000] = -32768  # WFDB's mark for no sample
    write_mat(tmp_path / "b-invalid", invalid)
    write_mat(tmp_path / "c-lead", digital[:11], leads=UPPER[:11])
    write_mat(tmp_path / "d-twice", digital, leads=["I", *UPPER[:11]])
    write_mat(tmp_path / "e-unit", digital, gain="1000/mmHg")
    write_mat(tmp_path / "f-gain", digital, gain="-1000/mV")
    write_mat(tmp_path / "g-large", digital, gain="4.88/mV")  # up to 400 mV
    write_mat(tmp_path / "h-gone", digital)
    (tmp_path / "h-gone.mat").unlink()
    write_mat(tmp_path / "i-cut", digital)
    whole = (tmp_path / "i-cut.mat").read_bytes()
    (tmp_path / "i-cut.mat").write_bytes(whole[: len(whole) // 2])
    write_mat(tmp_path / "j-sum", digital)
    (tmp_path / "j-sum.mat").write_bytes(whole[:-2] + b"\x00\x01")
    (tmp_path / "k-header.hea").write_text("what is this\n")
    write_mat(tmp_path / "l-code", digital, comments=["#Dx: AF"])
    write_mat(tmp_path / "m-rate", digital, fs=0)
    write_mat(tmp_path / "n-gain", digital, gain="0/mV")
    write_mat(tmp_path / "o-gain", digital, gain="many/mV")
    (tmp_path / "p-empty.hea").write_text("")
    with pytest.warns(UserWarning, match="15 of 16 records are damaged: b-invalid: 1 samples"):
        cohort = open_cohort("challenge", data=tmp_path)
    assert cohort.table["record_id"].tolist() == ["a-good-0", "a-good-1"]
    damaged = cohort.missing["damaged"]
    for name, reason in {
        "b-invalid": "1 samples missing or beyond", "c-lead": "lacks V6", "d-twice": "twice",
        "e-unit": "unit mmHg is no voltage", "f-gain": "gains [-1000", "g-large": "beyond ±32.767",
        "h-gone": "h-gone.mat", "i-cut": "", "j-sum": "checksum of V6", "k-header": "lacks a rate",
        "l-code": "diagnosis 'AF', expected SNOMED CT codes",
        "m-rate": "says 0 Hz", "n-gain": "gains [0", "o-gain": "lacks a rate or gains (could not",
        "p-empty": "lacks a rate",
    }.items():  # fmt: skip
        assert reason in damaged[name], (name, damaged[name])
    assert len(damaged) == 15
    with pytest.raises(ValueError, match="15 of 16 records are damaged"):
        open_cohort("challenge", data=tmp_path, strict=True)


def test_the_store_is_made_once_and_again_after_a_change(tmp_path, monkeypatch):
    write_mat(tmp_path / "in/georgia/A1", noise(5000))
    first = open_strictly(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(challenge, "_write", None)
        assert open_strictly(tmp_path / "in").fingerprint == first.fingerprint
    header = tmp_path / "in/georgia/A1.hea"
    header.write_text(header.read_text().replace("426783006", "164889003"))
    os.utime(header, ns=(1, 1))
    assert names(open_strictly(tmp_path / "in").targets("challenge")) == ["AF"]
    moved = shutil.copytree(tmp_path / "in", tmp_path / "there")
    assert open_strictly(moved).fingerprint == open_strictly(tmp_path / "in").fingerprint


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="challenge needs data="):
        open_cohort("challenge")
    with pytest.raises(FileNotFoundError, match="must be a folder of the Challenge"):
        open_cohort("challenge", data=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no WFDB record"):
        open_cohort("challenge", data=tmp_path)
    with pytest.raises(ValueError, match="whole number of samples"):
        open_cohort("challenge", data=tmp_path, fs=257, seconds=2.5)
    write_mat(tmp_path / "short", noise(2500))
    with pytest.raises(ValueError, match="1 of 1 recordings in .* are shorter than 10.0 s, 0 dam"):
        open_cohort("challenge", data=tmp_path)
    write_mat(tmp_path / "bad", noise(5000), gain="1/mmHg")
    with pytest.raises(
        ValueError, match="1 of 2 .* shorter than 10.0 s, 1 damaged: bad: unit mmHg"
    ):
        open_cohort("challenge", data=tmp_path)
