"""Noise of the simulated heart: its spectra, sizes, laws of leads and mishaps."""

import numpy as np
import pandas as pd
import pytest

from ecgtutorial.heart import noise as module
from ecgtutorial.heart.noise import ELECTRODES, READ, mishaps, noise
from ecgtutorial.leads import INDEPENDENT


def streams(first, last, seed=0):
    return [np.random.Generator(np.random.Philox(key=(seed, i))) for i in range(first, last)]


def only(monkeypatch, kind=None, size=1.0, electrode="V1", **chances):
    """One kind of noise at one electrode, alike in all records."""
    sizes = {name: np.zeros(9) for name in module._SIZES}
    if kind:
        sizes[kind][ELECTRODES.index(electrode)] = size
    monkeypatch.setattr(module, "_SIZES", sizes)
    monkeypatch.setattr(module, "_BETWEEN", dict.fromkeys(sizes, 0.0))
    monkeypatch.setattr(module, "_WITHIN", dict.fromkeys(sizes, 0.0))
    none = dict.fromkeys(module._CHANCE, 0.0)
    monkeypatch.setattr(module, "_CHANCE", none | chances)


def density(leads, fs):
    """Frequencies and one-sided densities (record, lead, frequency), µV per root Hz."""
    x = 1000 * leads.astype(float)
    window = np.hanning(x.shape[2])
    spectrum = np.fft.rfft((x - x.mean(2, keepdims=True)) * window)
    f = np.fft.rfftfreq(x.shape[2], 1 / fs)
    return f, np.sqrt(2 * np.abs(spectrum) ** 2 / (fs * (window**2).sum()))


def lead(name):
    return INDEPENDENT.index(name)


@pytest.fixture(scope="module")
def many():
    return noise(streams(0, 800, seed=3), 100, 1000)


def test_shapes_and_columns(many):
    leads, table = many
    assert leads.shape == (800, 8, 1000) and leads.dtype == np.float32
    assert np.isfinite(leads).all()
    assert list(table) == ["wander", "muscle", "mains", "motion", "steps", "baseline_filter",
                           "lead_off", "swapped"]  # fmt: skip
    assert set(table["lead_off"]) <= {"", *ELECTRODES}
    assert noise([], 100, 200)[0].shape == (0, 8, 200)
    assert noise(streams(0, 1), 50, 1)[0].shape == (1, 8, 1)


def test_level_zero_is_silence_and_level_is_a_factor():
    silent, table = noise(streams(0, 40), 500, 1000, level=0)
    assert (silent == 0).all()
    assert (table[["wander", "muscle", "mains", "motion", "steps"]] == 0).all(axis=None)
    assert (table["lead_off"] == "").all() and not table["swapped"].any()
    once, table = noise(streams(0, 40), 500, 1000)
    twice, louder = noise(streams(0, 40), 500, 1000, level=2)
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6 * np.abs(once).max())
    np.testing.assert_allclose(louder["muscle"], 2 * table["muscle"])


def test_a_record_does_not_depend_on_the_others():
    leads, table = noise(streams(0, 30), 100, 500)
    alone = [noise(streams(i, i + 1), 100, 500) for i in range(30)]
    assert (leads == np.concatenate([x for x, _ in alone])).all()
    pd.testing.assert_frame_equal(table, pd.concat([t for _, t in alone], ignore_index=True))
    assert (leads[0] != leads[1]).mean() > 0.99


def test_another_rate_shows_the_same_noise_in_another_band():
    slow, at_100 = noise(streams(0, 30), 100, 1000)
    fast, at_500 = noise(streams(0, 30), 500, 5000)
    same = ["wander", "steps", "baseline_filter", "lead_off", "swapped"]
    pd.testing.assert_frame_equal(at_100[same], at_500[same])
    assert (at_500["muscle"] > at_100["muscle"]).all()
    below = slice(0, 400)  # 40 Hz
    window = np.hanning(1001)[:-1], np.hanning(5001)[:-1]
    a = np.fft.rfft(slow * window[0])[..., below]
    b = np.fft.rfft(fast * window[1])[..., below] / 5
    assert (np.abs(a - b) ** 2).sum() < 1e-4 * (np.abs(a) ** 2).sum()
    high = slice(150, 400)  # where muscle noise is most of it
    assert (np.abs(a - b)[..., high] ** 2).sum() < 0.02 * (np.abs(a)[..., high] ** 2).sum()


def first_order(f):
    return f / np.hypot(f, 0.05)


DENSITIES = {  # kind, electrode, lead that shows it: size, band in Hz, formula
    ("wander", "V1", "V1"): (90, (0.7, 3.5), lambda f: 90 / (1 + (f / 0.12) ** 2)),
    ("contact", "V4", "V4"): (10, (0.3, 19), lambda f: first_order(f) * 10 / np.hypot(f, 0.8)
                              / np.sqrt(1 + (f / 13) ** 4)),
    ("tremor", "RA", "I"): (2, (1, 19), lambda f: 2 * f / np.hypot(f, 4)
                            * np.exp(-((f - 9) ** 2) / 32)),
    ("muscle", "LL", "II"): (20, (10, 145), lambda f: 20 * f / np.hypot(f**2, 144)
                             / np.sqrt(1 + (f / 220) ** 8)),
}  # fmt: skip


@pytest.mark.parametrize("case", DENSITIES, ids=lambda case: case[0])
def test_densities_are_the_stated_ones(case, monkeypatch):
    kind, electrode, shown = case
    size, (low, high), formula = DENSITIES[case]
    only(monkeypatch, kind, size, electrode)
    fs, records = (400, 50) if kind == "muscle" else (100, 200)
    leads, table = noise(streams(0, records), fs, fs * 40)
    f, d = density(leads, fs)
    measured = (d[:, lead(shown)] ** 2).mean(0)  # (frequency,)
    edges = np.geomspace(low, high, 7)
    for a, b in zip(edges, edges[1:]):
        band = (f > a) & (f < b)
        assert np.mean(measured[band] / formula(f[band]) ** 2) == pytest.approx(1, abs=0.08)
    assert table[{"contact": "motion", "tremor": "muscle"}.get(kind, kind)].min() > 0


def test_breathing_is_a_peak_at_the_records_rate():
    f = np.array([0.0, 0.25, 0.39])
    drift = 1 / (1 + (f / 0.12) ** 2)
    middle, fast = module._wander(f, np.array([[0.0, 0.25], [5.0, 0.25]]))
    np.testing.assert_allclose(middle[1], np.hypot(drift[1], 0.5))
    np.testing.assert_allclose(fast[2], np.hypot(drift[2], 0.5 * np.exp(-(0.25**2) / 2)))
    np.testing.assert_allclose(middle[0], 1)


def test_baseline_filter_and_sampling_take_out_what_they_say(monkeypatch):
    only(monkeypatch, "contact", 10, filter=1.0)
    leads, table = noise(streams(0, 60), 100, 4000)
    assert table["baseline_filter"].all()
    f, d = density(leads, 100)
    d = (d[:, lead("V1")] ** 2).mean(0) ** 0.5
    whole = 10 / np.hypot(f, 0.8)
    for hertz, share in ((0.225, 0.124), (0.45, 0.707), (0.9, 0.992)):
        near = np.abs(f - hertz) < 0.03
        assert np.mean(d[near] / whole[near]) == pytest.approx(share, rel=0.2)
    at_100, at_500 = (module._shapes(fs, 10 * fs)["muscle"] for fs in (100, 500))
    assert at_100[500] / at_500[500] == pytest.approx(1 / np.sqrt(1 + (50 / 48) ** 40))
    np.testing.assert_allclose(at_100[:400], at_500[:400], rtol=1e-3)


def test_the_table_tells_the_rms(many):
    leads, table = many
    quiet = (table["steps"] == 0).to_numpy()
    told = (table[["wander", "muscle", "mains", "motion"]] ** 2).sum(axis=1)
    ratio = (1e6 * leads.astype(float) ** 2).mean((1, 2)) / told
    assert ratio[quiet].mean() == pytest.approx(1, abs=0.05)


# Quartiles in 2,992 records of PTB-XL (Wagner et al. 2020), measured with this module's estimators:
# rms below 0.55 Hz of records with a steady rhythm (µV), and densities in the pauses between T and
# P (1,450 records with pauses long enough; µV per root Hz).
PTBXL = {
    "below 0.55 Hz": {"I": (8.4, 28.5), "II": (12.2, 45.8), "V1": (10.4, 42.1), "V2": (10.7, 46.1),
                      "V3": (11.7, 50.8), "V4": (12.1, 50.6), "V5": (12.4, 57.4),
                      "V6": (12.0, 58.9)},
    "7.5 Hz": {"I": (2.21, 3.71), "II": (1.60, 3.05), "V1": (1.26, 2.24), "V4": (1.21, 2.04),
               "V6": (1.15, 2.02)},
    "15 Hz": {"I": (1.44, 2.97), "II": (0.84, 2.27), "V1": (0.50, 1.32), "V4": (0.54, 1.18),
              "V6": (0.50, 1.16)},
    "25 Hz": {"I": (0.69, 2.04), "II": (0.41, 1.47), "V1": (0.24, 0.58), "V4": (0.27, 0.60),
              "V6": (0.24, 0.56)},
    "40 Hz": {"I": (0.42, 1.39), "II": (0.24, 0.96), "V1": (0.15, 0.36), "V4": (0.17, 0.38),
              "V6": (0.15, 0.34)},
}  # fmt: skip


def pause_densities(x):
    """Densities at 0, 2.5, ... Hz from windows of 0.2 s, median over windows: (record, frequency).

    x: µV (record, time) at 100 Hz. What all windows of a record share is taken out, as it had to be
    for real records, where pauses still hold the end of T and the beginning of P.
    """
    windows = np.stack([x[:, start : start + 20] for start in range(45, 980, 100)], 1)
    many, t = windows.shape[1], np.arange(20) - 9.5
    rest = windows - windows.mean(1, keepdims=True)
    rest -= rest.mean(2, keepdims=True)
    rest -= (rest * t).sum(2, keepdims=True) / (t**2).sum() * t
    taper = np.hanning(22)[1:-1]
    power = np.abs(np.fft.rfft(rest * taper, 40)) ** 2 * 2 / (100 * (taper**2).sum())
    return np.sqrt(np.median(power, 1) / np.log(2) * many / (many - 1))


def test_sizes_are_those_of_real_records(many):
    f, d = density(many[0], 100)
    slow = (f > 0.05) & (f < 0.55)
    for place, leads in PTBXL.items():
        for name, (low, high) in leads.items():
            if place == "below 0.55 Hz":
                sizes = np.sqrt((d[:, lead(name)][:, slow] ** 2).sum(1) * f[1])
            else:
                at = round(float(place.split()[0]) / 2.5)
                sizes = pause_densities(1000 * many[0][:, lead(name)].astype(float))[:, at]
            quartiles = np.percentile(sizes, (25, 75))
            assert low < np.median(sizes) < high, (place, name)
            np.testing.assert_allclose(np.log(quartiles), np.log((low, high)), atol=0.35)


def test_leads_see_each_electrode_as_they_should(monkeypatch):
    only(monkeypatch, "muscle", 20, "LL")
    leads = noise(streams(0, 3), 100, 500)[0]
    assert (leads[:, lead("I")] == 0).all()
    for name in ("V1", "V6"):  # the chest follows 0.8 of Wilson's terminal
        expected = -0.2 / 3 * leads[:, lead("II")]
        np.testing.assert_allclose(leads[:, lead(name)], expected, atol=1e-6)
    only(monkeypatch, "contact", 20, "V3")
    leads = noise(streams(0, 3), 100, 500)[0]
    assert (np.delete(leads, lead("V3"), axis=1) == 0).all() and leads[:, lead("V3")].std() > 0


def test_drift_is_alike_at_neighbours_and_muscle_noise_is_not(many):
    spectra = np.fft.rfft(many[0] * np.hanning(1000))
    drift, muscle = spectra[:, :, 1:5], spectra[:, :, 300:450]  # 0.1-0.4 Hz, 30-45 Hz

    def alike(part, a, b):
        a, b = part[:, lead(a)], part[:, lead(b)]
        sizes = (np.abs(a) ** 2).sum(1) * (np.abs(b) ** 2).sum(1)
        return np.median((a * b.conj()).real.sum(1) / np.sqrt(sizes))

    # In PTB-XL 0.54, 0.69 and 0.13 for drift, 0.08, 0.15 and 0.05 for muscle noise; I and II 0.65.
    assert alike(drift, "V1", "V2") > 0.4 and alike(drift, "V5", "V6") > 0.4
    assert abs(alike(drift, "V1", "V6")) < 0.3
    assert all(abs(alike(muscle, "V1", name)) < 0.2 for name in ("V2", "V6"))
    assert 0.5 < alike(muscle, "I", "II") < 0.75


def test_mains_are_exact_sines_that_slow_sampling_leaves_out(monkeypatch):
    only(monkeypatch, "mains", 3, "V2")
    leads, table = noise(streams(0, 5), 500, 5000)
    f = np.fft.rfftfreq(5000, 1 / 500)
    size = np.abs(np.fft.rfft(leads[:, lead("V2")])) * 2 / 5000 * 1000  # µV
    expected = {50: 1.0, 100: 0.25, 150: 0.9, 200: 0.1}
    for hertz, share in expected.items():
        np.testing.assert_allclose(size[:, f == hertz], 3 * np.sqrt(2) * share, rtol=1e-3)
    assert size[:, ~np.isin(f, list(expected))].max() < 1e-3
    rms = 3 * np.sqrt(sum(share**2 for share in expected.values()) / 8)
    np.testing.assert_allclose(table["mains"], rms)
    for fs in (50, 100):
        leads, table = noise(streams(0, 5), fs, 500)
        assert (leads == 0).all() and (table["mains"] == 0).all()


@pytest.mark.parametrize("filtered, corner", [(0.0, 0.05), (1.0, 0.45)])
def test_steps_recover_as_the_high_pass_lets_them(filtered, corner, monkeypatch):
    only(monkeypatch, steps=1.0, filter=filtered)
    monkeypatch.setattr(module, "_STEPS", 1)
    monkeypatch.setattr(module, "_UNIFORM", module._UNIFORM | {"step": 2})
    monkeypatch.setattr(module, "_NORMAL", module._NORMAL | {"step": 1})
    leads, table = noise(streams(0, 30), 100, 1000)
    assert (table["steps"] == 1).all()
    for x in leads.astype(float):
        course = x[np.abs(x).max(1).argmax()]
        jumps = np.flatnonzero(np.diff(course) * np.sign(course[np.abs(course).argmax()]) > 0.01)
        start = jumps[0] + 1 if len(jumps) else 0
        assert len(jumps) <= 1 and (course[:start] == 0).all()
        decay = np.exp(-2 * np.pi * corner * np.arange(1000 - start) / 100)
        np.testing.assert_allclose(course[start:], course[start] * decay, atol=1e-5)
        seen = x[:, start] / np.abs(x[:, start]).max()  # one electrode, as the leads read it
        shapes = READ / np.abs(READ).max(0)
        errors = [min(np.abs(seen - s).max(), np.abs(seen + s).max()) for s in shapes.T]
        assert min(errors) < 1e-5


def test_bumps_are_short_and_of_one_electrode(monkeypatch):
    only(monkeypatch, motion=1.0)
    leads, table = noise(streams(0, 60), 100, 1000)
    assert (table["motion"] > 0).mean() > 0.9
    np.testing.assert_allclose(table["motion"], 1000 * np.sqrt((leads**2).mean((1, 2))), rtol=1e-3)
    assert all(np.linalg.matrix_rank(x, tol=1e-4) <= 1 for x in leads)
    f = np.fft.rfftfreq(1000, 0.01)
    power = (np.abs(np.fft.rfft(leads)) ** 2).sum((0, 1))
    assert power[(f > 0.2) & (f < 10)].sum() > 0.9 * power.sum()


def test_mishaps_are_as_frequent_as_stated(monkeypatch):
    monkeypatch.setattr(module, "_CHANCE", module._CHANCE | {"off": 0.1, "swap": 0.2})
    table = noise(streams(0, 1500), 50, 50)[1]
    shares = {"baseline_filter": 0.27, "swapped": 0.2}
    for name, share in shares.items():
        assert table[name].mean() == pytest.approx(share, abs=0.04)
    assert (table["lead_off"] != "").mean() == pytest.approx(0.1, abs=0.03)
    assert (table["steps"] > 0).mean() == pytest.approx(0.04, abs=0.02)
    assert set(table["lead_off"]) == {"", *ELECTRODES}


def voltages(potentials):
    """Leads from nine potentials, written out."""
    ra, la, ll = potentials[:3]
    wilson = (ra + la + ll) / 3
    return np.stack([la - ra, ll - ra, *(potentials[3:] - wilson)])


def test_swapped_arms_are_exchanged_electrodes():
    potentials = np.random.default_rng(0).standard_normal((9, 20))
    exchanged = potentials[[1, 0, 2, 3, 4, 5, 6, 7, 8]]
    leads = np.stack([voltages(potentials)] * 2)
    swapped = mishaps(leads, pd.DataFrame({"swapped": [True, False], "lead_off": ""}))
    np.testing.assert_allclose(swapped[0], voltages(exchanged), atol=1e-12)
    assert (swapped[1] == leads[1]).all() and (leads[0] == leads[1]).all()


def test_an_open_electrode_takes_the_mean_of_the_limbs_left():
    potentials = np.random.default_rng(1).standard_normal((9, 20))
    leads = np.stack([voltages(potentials)] * 10)
    off = mishaps(leads, pd.DataFrame({"lead_off": ["", *ELECTRODES], "swapped": False}))
    assert (off[0] == leads[0]).all()
    one, two = leads[0, 0], leads[0, 1]
    three = two - one
    limbs = {  # I, II and what is added to V1 ... V6
        "RA": (-three / 2, three / 2, -(one + two) / 6),
        "LA": (two / 2, two, (2 * one - two) / 6),
        "LL": (one, one / 2, (2 * two - one) / 6),
    }
    for k, name in enumerate(ELECTRODES, start=1):
        if name in limbs:
            first, second, shift = limbs[name]
            expected = np.stack([first, second, *(leads[0, 2:] + shift)])
        else:
            expected = leads[0].copy()
            expected[lead(name)] = 0
        np.testing.assert_allclose(off[k], expected, atol=1e-12)
    table = pd.DataFrame({"lead_off": ["V3"] * 10, "swapped": False})
    single = mishaps(leads.astype(np.float32), table)
    assert single.dtype == np.float32 and np.abs(single[:, lead("V3")]).max() < 1e-12


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"fs": 49}, "fs: found 49, expected a number from 50 to 1000"),
        ({"fs": 1001}, "fs: found 1001"),
        ({"fs": "100"}, "fs: found '100'"),
        ({"fs": True}, "fs: found True"),
        ({"samples": 0}, "samples: found 0, expected a whole number from 1"),
        ({"samples": 10.5}, "samples: found 10.5, expected a whole number"),
        ({"level": -0.1}, "level: found -0.1, expected a number from 0"),
        ({"level": np.nan}, "level: found nan"),
        ({"level": np.inf}, "level: found inf"),
        ({"level": None}, "level: found None"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        noise(streams(0, 1), **({"fs": 100, "samples": 200} | arguments))


def test_arms_are_swapped_before_an_electrode_falls_off():
    potentials = np.random.default_rng(2).standard_normal((9, 20))
    both = pd.DataFrame({"swapped": [True], "lead_off": ["RA"]})
    exchanged = potentials[[1, 0, 2, 3, 4, 5, 6, 7, 8]]
    off = pd.DataFrame({"swapped": [False], "lead_off": ["RA"]})
    found = mishaps(voltages(potentials)[None], both)
    np.testing.assert_allclose(found, mishaps(voltages(exchanged)[None], off), atol=1e-12)
    with pytest.raises(ValueError):
        mishaps(voltages(potentials)[None], off.assign(lead_off="V9"))
