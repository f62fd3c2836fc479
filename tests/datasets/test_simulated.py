"""The simulated cohort: the same records every time, true to the laws of leads, near PTB-XL."""

import hashlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from ecgtutorial.cohort import open_cohort
from ecgtutorial.datasets import simulated
from ecgtutorial.leads import DOWER, LEADS


@pytest.fixture(scope="module")
def cohort():
    return open_cohort("simulated", n_patients=600, seed=5)


def lead(signals, name):
    return signals[:, LEADS.index(name)].astype(int)


def test_shape_columns_and_names(cohort):
    assert cohort.signals.dtype == np.int16
    assert cohort.signals.shape == (len(cohort), 12, 1000)
    assert cohort.fs == 100 and cohort.name == "simulated"
    truth = ["heart_rate", "pr", "qrs", "qt", "axis", "noise", "true_statements"]
    assert list(cohort.table) == ["record_id", "patient_id", "fold", "age", "sex", *truth]
    assert cohort.table["record_id"].is_unique
    assert tuple(cohort.labels) == simulated.STATEMENTS
    assert set(cohort.table["sex"]) == {"female", "male"}


def test_a_second_opening_reads_the_store(cohort):
    start = time.perf_counter()
    again = open_cohort("simulated", n_patients=600, seed=5)
    assert time.perf_counter() - start < 0.5
    assert again.fingerprint == cohort.fingerprint
    assert open_cohort("simulated", n_patients=20, seed=6).fingerprint != cohort.fingerprint


def test_records_do_not_depend_on_what_is_made_with_them(cohort, monkeypatch, tmp_path):
    signals, table, labels = simulated.simulate(range(600), seed=5)
    assert (signals == cohort.signals).all()
    monkeypatch.setattr(simulated, "_CHUNK", 7 * 1000)
    small = simulated.open(n_patients=40, seed=5, cache=tmp_path)
    n = len(small)
    assert (small.signals == signals[:n]).all()
    pd.testing.assert_frame_equal(small.labels, labels[:n])
    pd.testing.assert_frame_equal(
        small.table.drop(columns="fold"), table[:n].drop(columns="mix"), check_dtype=False
    )
    alone = simulated.simulate([39], seed=5)[0]
    assert (alone == signals[table["patient_id"] == 39]).all()
    assert (simulated.simulate([39], seed=4)[0][0] != alone[0]).mean() > 0.9


def test_another_process_makes_the_same_records():
    code = (
        "import hashlib; from ecgtutorial.datasets import simulated as s;"
        "x, t, y = s.simulate(range(5), seed=3);"
        "print(hashlib.sha256(x.tobytes() + t.to_csv().encode() + y.to_csv().encode()).hexdigest())"
    )
    x, t, y = simulated.simulate(range(5), seed=3)
    here = hashlib.sha256(x.tobytes() + t.to_csv().encode() + y.to_csv().encode()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_limb_leads_obey_einthoven_and_goldberger(cohort):
    one, two = lead(cohort.signals, "I"), lead(cohort.signals, "II")
    assert (lead(cohort.signals, "III") == two - one).all()
    for name, expected in (
        ("aVR", -(one + two) / 2),
        ("aVL", one - two / 2),
        ("aVF", two - one / 2),
    ):
        assert np.abs(lead(cohort.signals, name) - expected).max() <= 0.5


def test_sampling_rates_show_the_same_heart():
    slow, table, _ = simulated.simulate(range(30), fs=100)
    fast, other, _ = simulated.simulate(range(30), fs=500)
    assert fast.shape[2] == 5000
    columns = ["heart_rate", "qrs", "axis", "true_statements"]
    pd.testing.assert_frame_equal(table[columns], other[columns])
    calm = np.flatnonzero((table["noise"] < 25) & (other["noise"] < 25))
    likeness = [np.corrcoef(slow[i, 1], fast[i, 1, ::5])[0, 1] for i in calm]
    assert np.median(likeness) > 0.9


def test_patients_keep_fold_person_and_anatomy(cohort):
    table = cohort.table
    by_patient = table.groupby("patient_id")
    for column in ("fold", "age", "sex"):
        assert (by_patient[column].nunique() == 1).all()
    assert 0.10 < (by_patient.size() > 1).mean() < 0.20
    sizes = by_patient["fold"].first().value_counts()
    assert len(sizes) == 10 and sizes.max() - sizes.min() <= 1
    train, val, test = cohort.split()
    assert len(train) + len(val) + len(test) == len(cohort)
    ranges = by_patient["axis"].agg(lambda a: np.ptp(a))  # the same heart: the same axis
    assert ranges[by_patient.size() > 1].median() < 15 < table["axis"].std()


def test_prevalences_are_near_ptb_xl():
    _, _, labels = simulated.simulate(range(3000), fs=50, seconds=2, seed=1)
    share = labels.mean()
    groups = {
        "NORM": (["NORM"], 0.43, 0.53),
        "MI": (["IMI", "ASMI"], 0.18, 0.26),
        "STTC": (["NDT", "ISC_"], 0.20, 0.28),
        "CD": (["CLBBB", "CRBBB", "IRBBB", "LAFB", "1AVB"], 0.16, 0.24),
        "HYP": (["LVH"], 0.08, 0.14),
    }
    for name, (statements, low, high) in groups.items():
        assert low < labels[statements].any(axis=1).mean() < high, name
    assert 0.03 < share["AFIB"] < 0.10
    assert (share > 0.004).all()
    assert (labels[["SR", "SBRAD", "STACH", "AFIB"]].sum(axis=1) == 1).all()
    exclusive = [s for s in simulated.STATEMENTS[1:9]]
    assert not (labels["NORM"].astype(bool) & labels[exclusive].any(axis=1)).any()


def test_label_noise_is_the_stated_rate():
    def given(rate):
        options = dict(fs=50, seconds=2, seed=2, label_noise=rate)
        _, table, labels = simulated.simulate(range(2000), **options)
        true = table["true_statements"].str.split()
        names = simulated.STATEMENTS[:11]
        true = np.array([[s in t for s in names] for t in true])
        return true, labels[list(names)].to_numpy(bool)

    true, labels = given(0)
    assert (true == labels).all()
    true, labels = given(0.2)
    lost = (true & ~labels)[:, 1:].sum() / true[:, 1:].sum()
    assert 0.15 < lost < 0.22  # a confusion may also restore what was missed


def test_statements_agree_with_the_truth(cohort):
    table, true = cohort.table, cohort.table["true_statements"].str.split()

    def has(name):
        return true.map(lambda t: name in t)

    assert table.loc[has("AFIB"), "pr"].isna().all()
    assert (table.loc[has("1AVB"), "pr"] > 200).all()
    assert (table.loc[~has("1AVB") & ~has("AFIB"), "pr"] < 200).all()
    assert (table.loc[has("CLBBB") | has("CRBBB"), "qrs"] >= 120).all()
    assert table.loc[has("NORM"), "qrs"].between(70, 125).all()
    assert (table.loc[has("STACH"), "heart_rate"] > 100).all()
    assert (table.loc[has("SBRAD"), "heart_rate"] < 50).all()
    assert table.loc[has("LAFB"), "axis"].median() < -30 < table.loc[has("NORM"), "axis"].median()


def test_waves_look_like_an_ecg(cohort):
    true = cohort.table["true_statements"].str.split()
    normal = true.map(lambda t: "NORM" in t and "PVC" not in t) & (cohort.table["noise"] < 60)
    signals = cohort.signals[np.flatnonzero(normal)] / 1000  # mV
    centred = signals - np.median(signals, axis=2, keepdims=True)
    r = np.median(np.percentile(centred, 99, axis=2), axis=0)  # (lead,)
    s = np.median(np.percentile(centred, 1, axis=2), axis=0)
    at = LEADS.index
    assert 0.5 < r[at("V5")] < 1.8 and 0.3 < r[at("II")] < 1.2
    assert r[at("V1")] < r[at("V2")] < r[at("V3")] < r[at("V4")]  # R grows from V1 to V4
    assert s[at("V1")] < -0.4 and s[at("V2")] < -0.5 and s[at("V6")] > -0.3
    assert s[at("aVR")] < -0.3 and r[at("aVR")] < 0.3  # aVR is negative
    assert np.abs(cohort.signals[:].astype(int)).max() < 12_000  # µV


def test_amplitudes_lie_within_ptb_xl(cohort, ptbxl_folder):
    real = open_cohort("ptb-xl", data=ptbxl_folder, fs=100)

    def spread(c):  # (record, lead): from the lowest to the highest, outliers apart
        signals = c.select(c.labels["NORM"].to_numpy() == 1).signals[:400]
        return np.diff(np.percentile(signals, [0.5, 99.5], axis=2), axis=0)[0]

    low, high = np.percentile(spread(real), [25, 75], axis=0)
    ours = np.median(spread(cohort), axis=0)
    assert ((low < ours) & (ours < high)).sum() >= 11


def test_a_dipole_does_not_explain_everything(cohort):
    eight = cohort.signals[:200, [0, 1, 6, 7, 8, 9, 10, 11]] / 1000.0
    eight = eight - eight.mean(axis=2, keepdims=True)
    rest = (np.eye(8) - DOWER @ np.linalg.pinv(DOWER)) @ eight
    share = np.sqrt((rest**2).sum((1, 2)) / (eight**2).sum((1, 2)))
    assert 0.1 < np.median(share) < 0.4


def test_two_thousand_patients_take_seconds(tmp_path):
    start = time.perf_counter()
    cohort = simulated.open(n_patients=500, cache=tmp_path)
    assert len(cohort.table["patient_id"].unique()) == 500
    assert time.perf_counter() - start < 5  # about 0.3 s on an idle core


@pytest.mark.parametrize("shares, most", [((1,), 1), ((0, 0, 1), 3)])
def test_records_per_patient(shares, most):
    _, table, _ = simulated.simulate(range(20), records_per_patient=shares, seconds=2)
    assert (table.groupby("patient_id").size() == most).all()


@pytest.mark.parametrize("options", [dict(n_patients=1), dict(n_patients=3, seconds=2.5, fs=1000)])
def test_small_cohorts(options, tmp_path):
    cohort = simulated.open(cache=tmp_path, **options)
    assert np.abs(cohort.signals).max() > 100


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_patients=0), "n_patients is out of range: found 0, expected 1 <= n_patients"),
        (dict(n_patients=2.5), "n_patients must be a whole number, found 2.5"),
        (dict(n_patients="many"), "n_patients must be a whole number, found 'many'"),
        (dict(seed=-1), "seed is out of range: found -1"),
        (dict(fs=49), "fs is out of range: found 49, expected 50 <= fs <= 1000"),
        (dict(fs=2000), "fs is out of range: found 2000"),
        (dict(seconds=float("nan")), "seconds is out of range"),
        (dict(n_patients=float("inf")), "n_patients is out of range"),
        (dict(label_noise=0.5), "found 0.5, expected 0 <= label_noise < 0.5"),
        (dict(label_noise=-0.1), "label_noise is out of range"),
        (dict(records_per_patient=(0.9, -0.1)), "records_per_patient: found"),
        (dict(records_per_patient=(0, 0)), "none negative, not all zero"),
        (dict(records_per_patient=2), "expected shares of patients"),
        (dict(records_per_patient=("a",)), "expected shares of patients"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as error:
        simulated.open(**options)
    assert message in str(error.value)
