"""Realism: known intervals are recovered, tables are right, a network cannot tell twins apart."""

import json

import joblib
import numpy as np
import pandas as pd
import pytest

import ecgtutorial as ecg
from ecgtutorial.cohort import Cohort
from ecgtutorial.evaluate import realism
from ecgtutorial.leads import EXPANSION, LEADS

# Sizes (mV) in I, II, V1 ... V6, centre after the R wave and standard deviation (s).
WAVES = {
    "P": ([0.08, 0.12, 0.04, 0.05, 0.06, 0.06, 0.06, 0.06], -0.150, 0.018),
    "R": ([0.70, 0.90, 0.20, 0.50, 0.90, 1.40, 1.30, 1.00], 0.0, 0.010),
    "S": ([0.0, -0.10, -0.80, -1.10, -0.90, -0.50, -0.20, 0.0], 0.030, 0.010),
    "T": ([0.25, 0.30, 0.05, 0.50, 0.45, 0.40, 0.30, 0.25], 0.290, 0.040),
}
# The tangent at a bell's steepest point meets the base two standard deviations from its centre.
# A bell's slope falls below 5 % of its steepest at about three.
P_ONSET, T_END = -0.150 - 2 * 0.018, 0.290 + 2 * 0.040
QRS_ONSET, QRS_END = -3 * 0.010, 0.030 + 3 * 0.010


def bells(fs, rate=70, seconds=10, waves=tuple(WAVES), jitter=0.0, noise=0.004, seed=0):
    """An ECG of Gaussian waves, mV (12, time), its beats at `rate` a minute."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * fs)) / fs
    eight = np.zeros((8, len(t)))
    beats = np.arange(0.4, seconds + 1, 60 / rate)
    beats = beats + jitter * rng.uniform(-1, 1, len(beats))
    for name in waves:
        sizes, centre, width = WAVES[name]
        wave = sum(np.exp(-0.5 * ((t - beat - centre) / width) ** 2) for beat in beats)
        eight += np.array(sizes)[:, None] * wave
    return EXPANSION @ (eight + noise * rng.standard_normal(eight.shape))


def cohort(records, fs=100, patients=None, name="made-up", folds=None):
    signals = np.round(1000 * np.asarray(records)).clip(-32767, 32767).astype(np.int16)
    n = len(signals)
    patients = np.arange(n) if patients is None else patients
    folds = np.arange(n) % 10 + 1 if folds is None else folds
    table = pd.DataFrame({"record_id": np.arange(n), "patient_id": patients, "fold": folds})
    return Cohort(signals, table, None, fs, name)


@pytest.fixture(scope="module")
def made_up():
    """500 records of 5 s of as many patients, each with its own rate, size and noise."""
    rng = np.random.default_rng(0)
    records = [
        rng.uniform(0.5, 2) * bells(100, rng.uniform(55, 95), 5, noise=0.02, seed=i)
        for i in range(500)
    ]
    return cohort(records)


# --- the delineator


@pytest.mark.parametrize("fs, rate", [(100, 70), (250, 55), (500, 90), (1000, 70)])
def test_known_intervals_are_recovered(fs, rate):
    row = realism.measure(cohort([bells(fs, rate)], fs)).iloc[0]
    assert row["heart_rate"] == pytest.approx(rate, abs=0.5)
    assert row["pr"] == pytest.approx(1000 * (QRS_ONSET - P_ONSET), abs=10)
    assert row["qrs"] == pytest.approx(1000 * (QRS_END - QRS_ONSET), abs=10)
    assert row["qt"] == pytest.approx(1000 * (T_END - QRS_ONSET), abs=10)


def test_an_interval_that_grows_is_measured_longer(monkeypatch):
    before = realism.measure(cohort([bells(100)])).iloc[0]
    sizes, centre, width = WAVES["T"]
    monkeypatch.setitem(WAVES, "T", (sizes, centre + 0.05, width))
    sizes, centre, width = WAVES["P"]
    monkeypatch.setitem(WAVES, "P", (sizes, centre - 0.06, width))
    after = realism.measure(cohort([bells(100)])).iloc[0]
    assert after["qt"] - before["qt"] == pytest.approx(50, abs=4)
    assert after["pr"] - before["pr"] == pytest.approx(60, abs=4)
    assert after["qrs"] == pytest.approx(before["qrs"], abs=4)


def test_amplitudes_are_those_of_each_lead():
    row = realism.measure(cohort([bells(500, noise=0)], 500)).iloc[0]
    for kind, wave, sign in (("R", "R", 1), ("S", "S", -1), ("T", "T", 1)):
        for lead, size in zip(LEADS, EXPANSION @ np.array(WAVES[wave][0])):
            if sign * size > 0.15:
                assert row[f"{kind}_{lead}"] == pytest.approx(sign * size, abs=0.03), (kind, lead)
    np.testing.assert_allclose(
        [row[f"QRS_{lead}"] for lead in LEADS],
        [row[f"R_{lead}"] + row[f"S_{lead}"] for lead in LEADS],
    )


def test_baseline_and_one_early_beat_do_not_matter():
    record = bells(100)
    wander = 0.3 * np.sin(2 * np.pi * 0.25 * np.arange(1000) / 100)
    early = record.copy()
    early[:, 300:340] += 2.0 * np.hanning(40) * np.sign(np.arange(12) - 5.5)[:, None]
    rows = realism.measure(cohort([record, record + wander + 0.5, early]))
    for name, tolerance in (("heart_rate", 1.5), ("pr", 8), ("qrs", 6), ("qt", 8)):
        assert rows[name].to_numpy() == pytest.approx(rows[name][0], abs=tolerance), name


def test_without_p_waves_there_is_no_pr():
    rng = np.random.default_rng(1)
    record = bells(100, waves=("R", "S", "T"), jitter=0.12)
    t = np.arange(1000) / 100
    flicker = 0.06 * np.sin(2 * np.pi * 6 * t + np.cumsum(0.3 * rng.standard_normal(1000)))
    row = realism.measure(cohort([record + flicker])).iloc[0]
    assert np.isnan(row["pr"])
    assert row[["heart_rate", "qrs", "qt"]].notna().all()


def test_records_without_beats_give_nan_and_the_others_are_measured():
    rng = np.random.default_rng(0)
    flat, noise = np.zeros((12, 1000)), 0.02 * rng.standard_normal((12, 1000))
    one = np.zeros((12, 1000))
    one[:, 500] = 5.0
    loud = 30 * np.sign(rng.standard_normal((12, 1000)))
    rows = realism.measure(cohort([flat, one, bells(100), noise, loud]))
    assert len(rows) == 5 and list(rows) == ["record_id", *realism.FEATURES]
    assert rows.loc[[0, 1], list(realism.INTERVALS)].isna().all(axis=None)
    assert rows.loc[2].notna().all()
    assert (rows["noise"] >= 0).all()


def test_several_workers_measure_the_same(made_up):
    few = made_up.select(slice(0, 70))  # more than one chunk
    with joblib.parallel_config("threading"):  # processes would take seconds to start
        together = realism.measure(few, n_jobs=2)
    pd.testing.assert_frame_equal(together, realism.measure(few))


def test_measure_wants_twelve_leads_and_100_hz():
    with pytest.raises(ValueError, match="50 Hz"):
        realism.measure(cohort([bells(50)], fs=50))
    few = Cohort(np.zeros((1, 2, 1000), np.int16), pd.DataFrame({"a": [0]}), None, 100, "x", "ab")
    with pytest.raises(ValueError, match="2 leads"):
        realism.measure(few)


# --- noise and spectra


def test_noise_floor_of_white_noise():
    record = bells(100, noise=0.010)  # 10 µV, of which 20-50 Hz holds three fifths of the power
    assert realism.measure(cohort([record])).iloc[0]["noise"] == pytest.approx(
        10 * np.sqrt(0.6), rel=0.15
    )


def test_bands_and_spectrum_hold_a_sine_where_it_is():
    sine = np.tile(0.2 * np.sin(2 * np.pi * 5 * np.arange(1000) / 100), (12, 1))
    row = realism.measure(cohort([sine])).iloc[0]
    assert row["3-10 Hz"] == pytest.approx(200 / np.sqrt(2), rel=0.01)  # µV, root mean square
    assert max(row["0.5-3 Hz"], row["10-25 Hz"], row["25-45 Hz"]) < 2
    frame = realism.spectrum(cohort([sine, sine, 0 * sine]))
    lead = frame[frame["lead"] == "V2"]
    assert lead["hz"].iloc[lead["median"].argmax()] == 5
    assert lead["median"].sum() * lead["hz"].diff().iloc[1] == pytest.approx(0.02, rel=0.01)
    assert (lead["q25"] <= lead["median"]).all() and (lead["median"] <= lead["q75"]).all()


# --- the table


def test_compare_says_what_lies_inside():
    real = pd.DataFrame({"qt": np.arange(300.0, 401), "pr": 150.0, "R_V1": 0.1, "other": 1})
    simulated = pd.DataFrame({"qt": [374.0, np.nan, 376.0], "pr": [140.0, 141.0, 139.0],
                              "R_V1": [0.1, 0.0, 0.2], "record_id": 0})  # fmt: skip
    table = realism.compare(simulated, real).set_index("feature")
    assert list(table.index) == ["pr", "qt", "R_V1"]
    assert table["inside"].to_dict() == {"pr": False, "qt": True, "R_V1": True}
    assert table.loc["qt", ["simulated", "real_q25", "real", "real_q75"]].tolist() == [
        375, 325, 350, 375,
    ]  # fmt: skip
    assert table["unit"].to_dict() == {"pr": "ms", "qt": "ms", "R_V1": "mV"}
    with pytest.raises(ValueError, match="no feature in common"):
        realism.compare(simulated[["record_id"]], real)


# --- the network


def test_a_network_cannot_tell_two_halves_of_one_cohort(made_up):
    half = np.random.default_rng(0).random(500) < 0.5
    a, b = made_up.select(half), made_up.select(~half)
    told = realism.discriminator(a, b, epochs=2).set_index("metric")
    assert 0.3 < told.loc["auc", "value"] < 0.7


@pytest.mark.parametrize("inputs", realism.INPUTS)
def test_a_network_tells_what_is_plainly_different(made_up, inputs):
    t = np.arange(500) / 100
    hum = (500 * np.sin(2 * np.pi * 25 * t)).astype(np.int16)
    other = Cohort(made_up.signals + hum, made_up.table, None, 100, "humming")
    told = realism.discriminator(other, made_up, inputs=inputs, epochs=3).set_index("metric")
    assert told["value"].min() > 0.98
    assert (told["low"] <= told["value"]).all() and (told["value"] <= told["high"]).all()
    assert told["n_records"].iloc[0] == 2 * (made_up.table["fold"] == 10).sum()


def test_the_same_seed_tells_the_same_and_leaves_the_callers_numbers(made_up):
    import torch

    few = made_up.budget(0.3)
    torch.manual_seed(7)
    first = realism.discriminator(few, few, seed=1, epochs=1)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.rand(1) == drawn
    pd.testing.assert_frame_equal(first, realism.discriminator(few, few, seed=1, epochs=1))


def test_discriminator_says_what_is_wrong(made_up):
    with pytest.raises(ValueError, match="volts"):
        realism.discriminator(made_up, made_up, inputs="volts")
    with pytest.raises(ValueError, match="100 Hz, real 200 Hz"):
        realism.discriminator(made_up, cohort([bells(200)], 200))


# --- publication


def test_publish_writes_table_records_and_provenance(made_up, tmp_path):
    import matplotlib.pyplot as plt

    fold = made_up.table["fold"]
    few = made_up.select(np.concatenate([np.flatnonzero(fold == k)[:12] for k in (1, 9, 10)]))
    path = tmp_path / "ptb-xl" / "realism.csv"
    for _ in range(2):  # the second replaces the first
        compared, told = realism.publish(few, few, path, seeds=(0,))
    assert compared["inside"].all() and len(told) == 4
    rows = pd.read_csv(path)
    assert len(rows) == 2 * len(compared) + 4
    qt = rows[(rows["metric"] == "qt (ms)") & (rows["method"] == "real")].iloc[0]
    assert qt["low"] < qt["value"] < qt["high"] and qt["n_records"] == len(few)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["inside"] == about["features"] == len(realism.FEATURES)
    assert about["versions"]["numpy"] == np.__version__

    frames = realism.published(path)
    exact = realism.measure(few)
    np.testing.assert_allclose(frames[0]["qt"], exact["qt"], rtol=1e-3)
    page = realism.figure(*frames)
    assert len(page.axes) == 8 and all(ax.get_ylabel() for ax in page.axes[:7])
    plt.close(page)


def test_ptbxl_has_the_intervals_of_people(ptbxl_folder):
    real = ecg.open_cohort("ptb-xl", data=ptbxl_folder)
    normal = real.select(np.flatnonzero(real.labels["NORM"])[:30])
    middle = realism.measure(normal).median(numeric_only=True)
    assert 55 < middle["heart_rate"] < 85 and 120 < middle["pr"] < 180
    assert 75 < middle["qrs"] < 100 and 330 < middle["qt"] < 420
    assert middle["R_V5"] > middle["R_V1"] and middle["S_V1"] > middle["S_V6"]
    fibrillating = real.select(np.flatnonzero(real.labels["AFIB"])[:20])
    assert realism.measure(fibrillating)["pr"].isna().mean() > 0.7
