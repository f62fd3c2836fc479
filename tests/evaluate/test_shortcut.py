"""Lead numbers and hidden samples by arithmetic: exact where a law holds, plain loops, edges."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import ecgtutorial as ecg
from ecgtutorial import augment
from ecgtutorial.cohort import Cohort
from ecgtutorial.evaluate import shortcut
from ecgtutorial.leads import DOWER, EXPANSION, INDEPENDENT, LEADS, index
from ecgtutorial.runs import COLUMNS, Table


def made_up(n, time=250, apart=0.02, seed=0):
    """Smooth heart vectors through Dower's field, a little of each lead's own: mV (n, 12, time)."""
    rng = np.random.default_rng(seed)
    smooth = np.exp(-0.5 * (np.arange(-20, 21) / 4) ** 2)

    def noise(rows):
        white = rng.standard_normal((n, rows, time + 40))
        return np.apply_along_axis(np.convolve, 2, white, smooth, "valid") / 3

    eight = DOWER @ noise(3) + apart * noise(8)
    return torch.from_numpy(EXPANSION @ eight)


def spans(shape, fs, ratio, seconds=(0.2, 0.5), leads="independent", generator=None):
    """Hidden spans in the way of `augment.hidden_spans`, drawn apart from it."""
    batch, n_leads, time = shape
    n = {"independent": n_leads, "common": 1, "limb": n_leads - 5}[leads]
    now, hidden = torch.arange(time), torch.zeros(batch, n, time, dtype=torch.bool)
    while (few := hidden.float().mean(dim=2, keepdim=True) < ratio).any():
        unit = torch.rand(2, batch, n, 1, generator=generator)
        width = (seconds[0] + unit[0] * (seconds[1] - seconds[0])) * fs
        start = unit[1] * (time + width) - width
        hidden |= few & (now >= start) & (now < start + width)
    rows = {"common": [0] * n_leads, "limb": [0] * 6 + list(range(1, n))}.get(leads, range(n))
    return hidden[:, list(rows)].clone()


def shuffled(signals, seed=0, hidden=None):
    numbers = torch.rand(signals.shape[:2], generator=torch.Generator().manual_seed(seed))
    numbers = numbers.argsort(dim=1)
    rows = torch.arange(len(signals))[:, None]
    return signals[rows, numbers], numbers, None if hidden is None else hidden[rows, numbers]


def limb_found(found, numbers):
    """Whether limb leads are named, and only they get those names."""
    return torch.where(numbers < 6, found == numbers, found >= 6)


# --- lead numbers -----------------------------------------------------------------------------


def test_every_order_of_the_limb_leads_is_solved():
    orders = torch.tensor(list(itertools.permutations(range(6))))
    numbers = torch.cat([orders, torch.arange(6, 12).expand(720, 6)], dim=1)
    mixed = made_up(1, time=100).float()[0, numbers]  # (720, 12, time)
    assert torch.equal(shortcut.lead_numbers(mixed)[:, :6], orders)


@pytest.mark.parametrize("scale", [1e-2, 1, 1e3])
def test_all_positions_are_solved_at_any_scale(scale):
    mixed, numbers, _ = shuffled(made_up(60, apart=0.01))
    found = shortcut.lead_numbers(scale * mixed)
    assert (found[numbers < 6] == numbers[numbers < 6]).all()
    assert (found == numbers).double().mean() > 0.95
    assert torch.equal(found.sort(dim=1).values, torch.arange(12).expand(60, 12))


def test_dower_finds_all_eight_independent_leads():
    """Vectors that fill three dimensions alike are what Dower's projection is best for."""
    vectors = torch.linalg.qr(torch.randn(20, 250, 3, dtype=torch.double)).Q.mT.cumsum(dim=2)
    mixed, numbers, _ = shuffled(torch.from_numpy(DOWER) @ vectors)
    assert (shortcut.lead_numbers(mixed) == numbers).double().mean() > 0.9


@pytest.mark.parametrize("noise, rounding", [(0, 1e-3), (0.01, 1e-3)])
def test_rounding_and_noise_do_not_hide_the_limb_leads(noise, rounding):
    signals = made_up(60)
    signals = signals + noise * torch.randn(signals.shape, dtype=torch.double)
    signals = (signals / rounding).round() * rounding
    mixed, numbers, _ = shuffled(signals)
    assert limb_found(shortcut.lead_numbers(mixed), numbers).double().mean() > 0.99


@pytest.mark.parametrize("leads, ratio", [("independent", 0.4), ("common", 0.6), ("limb", 0.6)])
def test_hidden_samples_are_not_read(leads, ratio):
    signals = made_up(60)
    hidden = spans(signals.shape, 100, ratio, leads=leads, generator=torch.Generator())
    mixed, numbers, gone = shuffled(signals, hidden=hidden)
    found = shortcut.lead_numbers(mixed, gone)
    assert limb_found(found, numbers).double().mean() > 0.99
    assert torch.equal(found, shortcut.lead_numbers(mixed.masked_fill(gone, 1e6), gone))


@pytest.mark.parametrize("flat", [[], ["V3"], ["III"], ["I", "V1"], list(LEADS)])
def test_flat_leads_still_get_each_number_once(flat):
    signals = made_up(5)
    signals[:, index(flat)] = 0
    found = shortcut.lead_numbers(shuffled(signals)[0])
    assert torch.equal(found.sort(dim=1).values, torch.arange(12).expand(5, 12))
    if flat == ["V3"]:
        mixed, numbers, _ = shuffled(signals)
        assert limb_found(shortcut.lead_numbers(mixed), numbers).all()


# --- hidden samples ---------------------------------------------------------------------------


def test_limb_leads_are_exact_where_two_are_visible():
    signals = made_up(4)
    hidden = spans(signals.shape, 100, 0.5, generator=torch.Generator())
    filled, exact = shortcut.least_squares_fill(signals.masked_fill(hidden, 1e6), hidden)
    enough = (~hidden[:, :6]).sum(dim=1, keepdim=True) >= 2
    assert torch.equal(exact[:, :6], hidden[:, :6] & enough) and not exact[:, 6:].any()
    torch.testing.assert_close(filled[exact], signals[exact])
    assert filled.isfinite().all()


def test_the_law_is_least_squares_of_all_visible_limb_leads():
    signals = torch.randn(1, 12, 30, dtype=torch.double)  # obeys no law
    hidden = torch.rand(signals.shape) < 0.4
    filled, exact = shortcut.least_squares_fill(signals, hidden)
    for t in range(30):
        seen = ~hidden[0, :6, t].numpy()
        if seen.sum() >= 2:
            law, values = EXPANSION[:6, :2], signals[0, :6, t].numpy()
            two = np.linalg.lstsq(law[seen], values[seen], rcond=None)[0]
            np.testing.assert_allclose(filled[0, :6, t][~seen], (law @ two)[~seen], atol=1e-9)


def slow_fill(signals, hidden, iterations):
    """EM for one record of independent leads, moment by moment: arrays (lead, time)."""
    n_leads, time = signals.shape
    x = np.where(hidden, 0, signals)
    mean = np.array([row[~gone].mean() for row, gone in zip(signals, hidden)])
    covariance = np.diag([row[~gone].var() for row, gone in zip(signals, hidden)])
    for _ in range(iterations):
        size = 1e-3 * np.trace(covariance) / n_leads + 1e-9
        prior, unsure = covariance + size * np.eye(n_leads), np.zeros((n_leads, n_leads))
        for t in range(time):
            h, v = np.flatnonzero(hidden[:, t]), np.flatnonzero(~hidden[:, t])
            gain = prior[np.ix_(h, v)] @ np.linalg.inv(prior[np.ix_(v, v)])
            x[h, t] = mean[h] + gain @ (signals[v, t] - mean[v])
            unsure[np.ix_(h, h)] += prior[np.ix_(h, h)] - gain @ prior[np.ix_(v, h)]
        mean = x.mean(axis=1)
        covariance = ((x - mean[:, None]) @ (x - mean[:, None]).T + unsure) / time
    return x


def test_the_fill_equals_a_plain_loop():
    signals = made_up(3, time=120)[:, index(INDEPENDENT)] + 0.3
    hidden = spans(signals.shape, 100, 0.4, generator=torch.Generator())
    hidden[:, :, 50:60] = True  # moments at which nothing is visible
    filled, exact = shortcut.least_squares_fill(signals, hidden, iterations=4)
    assert not exact.any()  # two leads of eight are limb leads: nothing to solve one from
    for k in range(3):
        slow = slow_fill(signals[k].numpy(), hidden[k].numpy(), 4)
        np.testing.assert_allclose(filled[k], slow, atol=1e-8)


def test_three_dimensions_fill_eight_leads():
    signals = made_up(10, time=500, apart=0)[:, index(INDEPENDENT)]
    hidden = spans(signals.shape, 100, 0.2, generator=torch.Generator())
    filled, _ = shortcut.least_squares_fill(signals, hidden)
    assert shortcut.reconstruction(signals, filled, hidden)["all"] > 0.97


def test_nothing_visible_gives_the_mean_and_flat_leads_stay_finite():
    signals = made_up(2).float()
    signals[0, 7] = 0
    hidden = torch.zeros(signals.shape, dtype=torch.bool)
    hidden[:, :, 100:150] = True
    hidden[1, 3] = True  # a lead never seen, solved by law elsewhere
    hidden[1, 9] = True
    filled, _ = shortcut.least_squares_fill(signals, hidden)
    assert filled.isfinite().all() and filled.dtype == torch.float32
    visible = signals[0, :, ~hidden[0, 0]].mean(dim=1)
    torch.testing.assert_close(filled[0, :, 120], visible, atol=2e-3, rtol=0)
    everything, _ = shortcut.least_squares_fill(signals, torch.ones_like(hidden))
    assert (everything == 0).all()
    nothing, exact = shortcut.least_squares_fill(signals, torch.zeros_like(hidden))
    assert torch.equal(nothing, signals) and not exact.any()


def test_interpolation_is_numpys():
    signals = made_up(2)
    hidden = spans(signals.shape, 100, 0.5, generator=torch.Generator())
    filled, now = shortcut.interpolate(signals, hidden), np.arange(250)
    for record, lead in np.ndindex(2, 12):
        seen = ~hidden[record, lead].numpy()
        expected = np.interp(now, now[seen], signals[record, lead].numpy()[seen])
        np.testing.assert_allclose(filled[record, lead], expected, atol=1e-12)
    assert (shortcut.interpolate(signals, torch.ones_like(hidden)) == 0).all()


def test_explained_variance_in_closed_form():
    signals = made_up(3)
    hidden = spans(signals.shape, 100, 0.5, generator=torch.Generator())
    mean = signals.mean(dim=2, keepdim=True)
    half = 0.5 * (signals + mean)  # an error of half the distance: a quarter of the variance
    half[:, 6:] = signals[:, 6:]
    found = shortcut.reconstruction(signals, half, hidden)
    assert found["limb"] == pytest.approx(0.75) and found["precordial"] == 1
    assert found["limb"] < found["all"] < 1
    assert shortcut.reconstruction(signals, mean, hidden)["all"] == pytest.approx(0)
    assert np.isnan(shortcut.reconstruction(signals, mean, torch.zeros_like(hidden))["all"])


# --- the table --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort():
    signals = (1000 * made_up(40, time=600)).round().numpy().astype(np.int16)
    table = pd.DataFrame({"record_id": range(40), "patient_id": np.arange(40) // 2, "fold": 1})
    return Cohort(signals, table, None, 100, "made-up")


@pytest.fixture
def own_spans(monkeypatch):
    monkeypatch.setattr(augment, "hidden_spans", spans, raising=False)


def value(table, **where):
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    assert len(rows) == 1
    return rows["value"].item()


def test_the_table_says_what_is_arithmetic(cohort, own_spans, tmp_path):
    table = shortcut.shortcut_table(cohort)
    assert tuple(table.columns) == COLUMNS
    assert (table["n_records"] == 40).all() and (table["n_patients"] == 20).all()
    assert (table["low"] <= table["value"] + 1e-9).all()
    assert (table["value"] <= table["high"] + 1e-9).all()
    solved = {"metric": "solvable", "method": "least squares", "protocol": "limb"}
    assert value(table, task="independent", leads=12, **solved) > 0.7
    for task, n_leads in (("common", 12), ("limb", 12), ("independent", 8)):
        assert value(table, task=task, leads=n_leads, **solved) == 0
    explained = solved | {"metric": "explained"}
    assert value(table, task="independent", leads=12, **explained) > 0.95
    assert value(table, task="common", leads=12, **explained) < 0.05  # the mean is all there is
    named = solved | {"metric": "lead_number"}
    for task in shortcut.MASKS:
        assert value(table, task=task, leads=12, **named) > 0.99
    assert set(table["method"]) == {"least squares", "interpolation", "zeros"}
    again = shortcut.shortcut_table(cohort, masks=("none", "independent"))
    pd.testing.assert_frame_equal(again, table[: len(again)])
    Table(tmp_path / "shortcut.csv").add(table.to_dict("records"))


def test_the_package_s_own_masks(cohort):
    if not hasattr(augment, "hidden_spans"):
        pytest.skip("augment.hidden_spans is not there yet")
    table = shortcut.shortcut_table(cohort, masks=("limb",))
    where = {"metric": "solvable", "leads": 12, "protocol": "all", "method": "least squares"}
    assert value(table, task="limb", **where) == 0


def test_real_limb_leads_are_solved(ptbxl_folder):
    cohort = ecg.open_cohort("ptb-xl", data=ptbxl_folder)
    signals = torch.from_numpy(cohort.millivolts(slice(0, 100)))[:, :, 300:550]
    mixed, numbers, _ = shuffled(signals)
    found = shortcut.lead_numbers(mixed)
    assert limb_found(found, numbers).all()
    assert (found == numbers)[numbers >= 6].double().mean() > 0.8


# --- bad input --------------------------------------------------------------------------------


def test_errors_name_what_was_found(cohort):
    signals = made_up(2)
    for wrong in (signals[0], signals[:, :5], signals.int()):
        with pytest.raises(ValueError, match="signals is"):
            shortcut.lead_numbers(wrong)
    for wrong in (torch.zeros(2, 12, 9, dtype=torch.bool), torch.zeros(signals.shape)):
        with pytest.raises(ValueError, match="hidden is"):
            shortcut.least_squares_fill(signals, wrong)
    with pytest.raises(ValueError, match="masks holds"):
        shortcut.shortcut_table(cohort, masks=("all",))
    with pytest.raises(ValueError, match="seconds is"):
        shortcut.shortcut_table(cohort, seconds=60)
    few = Cohort(cohort.signals[:, :2], cohort.table, None, 100, "two", LEADS[:2])
    with pytest.raises(ValueError, match="cohort 'two'"):
        shortcut.shortcut_table(few)
