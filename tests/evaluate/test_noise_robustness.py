import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ecgtutorial import augment
from ecgtutorial.cohort import Cohort
from ecgtutorial.evaluate import noise
from ecgtutorial.evaluate.label_efficiency import Entrant, label_efficiency
from ecgtutorial.evaluate.noise import noise_robustness, noisy
from ecgtutorial.runs import Table


class Spectrum(nn.Module):
    """Loudness at 1, 2, 3 ... Hz of the leads, each lead with a weight of its own."""

    width = 12

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(1 + 0.5 * torch.randn(12, 1, generator=generator))

    def forward(self, signals):
        return torch.fft.rfft((self.weight * signals).mean(dim=1))[:, 1:13].abs() / 10


@pytest.fixture(scope="module")
def cohort():
    """Two rhythms, one of them called MI, in 300 patients with folds."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 300)
    time = np.arange(300) / 100
    phase = generator.uniform(0, 6, (300, 1))
    wave = np.sin(2 * np.pi * np.where(label, 7, 3)[:, None] * time + phase)
    signals = 25 * wave[:, None] + generator.normal(0, 500, (300, 12, 300))
    table = pd.DataFrame(
        {"record_id": range(300), "patient_id": range(300), "fold": np.arange(300) % 10 + 1}
    )
    labels = pd.DataFrame({"NORM": 1 - label, "IMI": label}, dtype=np.uint8)
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


def entrants():
    """Two names of one encoder, and another with two seeds."""
    return [
        Entrant("supervised", 0, "s", Spectrum, ("fine-tuned",)),
        Entrant("twin", 0, "s", Spectrum),
        Entrant("other", 0, "o0", lambda: Spectrum(1)),
        Entrant("other", 1, "o1", lambda: Spectrum(2)),
    ]


OPTIONS = {
    "seconds": 1.0, "overlap": 0.5, "progress": False, "levels": (0, 2, 6),
    "fine_tuning": {"min_steps": 60, "epochs": 1, "batch_size": 16, "head_lr": 0.05},
}  # fmt: skip


@pytest.fixture(scope="module")
def frame(cohort, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "noise.csv"
    return noise_robustness(entrants(), cohort, path, draws=2, **OPTIONS)


def cells_of(frame):
    return frame[frame["seed"] != "all"]


def summary_of(frame, metric):
    rows = frame[(frame["seed"] == "all") & (frame["metric"] == metric)]
    rows = rows.set_index(["method", "protocol", "noise"])
    assert rows.index.is_unique
    return rows


def test_a_level_and_a_draw_are_always_the_same_records(cohort):
    assert noisy(cohort, 0) is cohort
    made = noisy(cohort, 3)
    np.testing.assert_array_equal(made.signals, noisy(cohort, 3).signals)
    others = [noisy(cohort, 4), noisy(cohort, 3, draw=1)]
    assert not any(np.array_equal(made.signals, other.signals) for other in others)
    assert made.table.equals(cohort.table) and made.labels.equals(cohort.labels)
    assert made.fs == cohort.fs and "noise level 3" in made.name


def test_noise_is_added_to_whole_records_in_whole_microvolts(cohort, monkeypatch):
    def add(signals, level, fs=100, generator=None):
        assert signals.shape[1:] == (12, 300) and fs == 100
        return signals + level / 100 + torch.rand(1, generator=generator) * 0

    monkeypatch.setattr(augment, "noise_level", add)
    made = noisy(cohort, 2)
    np.testing.assert_array_equal(made.signals, cohort.signals + 20)
    monkeypatch.setattr(augment, "noise_level", lambda signals, *_: signals + 40.0)
    assert (noisy(cohort, 1).signals == 32767).all()  # held at the end of 16 bits, not wrapped


def test_the_real_noise_grows_with_its_level(cohort):
    size = [
        (noisy(cohort, level).signals - cohort.signals.astype(float)).std() for level in range(7)
    ]
    assert size[0] == 0 and size[1] > 50 and (np.diff(size) > 0).sum() >= 5 and size[6] > size[3]


def test_a_row_a_cell(frame):
    cells = cells_of(frame)
    assert len(cells) == (1 + 2 + 2 + 2) * (1 + 2 + 2)  # clean once, each noise drawn twice
    assert cells["config"].is_unique and (cells["budget"] == 1).all()
    assert set(cells["noise"]) == {0, 2, 6} and set(cells["n_records"]) == {240}


def test_level_0_is_the_clean_evaluation(cohort, frame, tmp_path):
    options = {k: v for k, v in OPTIONS.items() if k != "levels"} | {"budgets": (1.0,)}
    clean = cells_of(label_efficiency(entrants(), cohort, tmp_path / "t.csv", **options))
    level_0 = cells_of(frame)[cells_of(frame)["noise"] == 0]
    by = ["method", "protocol", "seed"]
    clean, level_0 = (f.set_index(by)[["value", "low", "high"]] for f in (clean, level_0))
    pd.testing.assert_frame_equal(clean.sort_index(), level_0.sort_index())


def test_everyone_falls_and_sees_the_same_noise(frame):
    means = summary_of(frame, "macro_auc")["value"].unstack("noise")
    assert means[0].between(0.8, 0.999).all()
    assert (means[0] > means[2]).all() and (means[2] > means[6]).all()
    cells = cells_of(frame).set_index(["method", "protocol", "noise", "subset"]).sort_index()
    cells = cells["value"]
    pd.testing.assert_series_equal(
        cells["supervised", "fine-tuned"], cells["twin", "fine-tuned"], check_names=False
    )
    noisy_cells = cells["twin", "fine-tuned"].unstack("subset").loc[[2, 6]]
    assert (noisy_cells[0] != noisy_cells[1]).all()  # two draws


def test_gains_are_paired_at_each_level(frame):
    gains, means = summary_of(frame, "macro_auc_gain"), summary_of(frame, "macro_auc")["value"]
    assert set(gains.index.get_level_values("method")) == {"twin", "other"}
    assert len(gains) == 2 * 2 * 3
    for (method, protocol, level), row in gains.iterrows():
        expected = means[method, protocol, level] - means["supervised", "fine-tuned", level]
        assert np.isclose(row["value"], expected, atol=1e-5)
    assert (gains.loc[("twin", "fine-tuned"), ["value", "low", "high"]] == 0).all(axis=None)


def test_drops_are_what_was_lost_since_level_0(frame):
    drops, means = summary_of(frame, "macro_auc_drop"), summary_of(frame, "macro_auc")["value"]
    assert set(drops.index.get_level_values("noise")) == {2, 6}
    assert len(drops) == (1 + 2 + 2) * 2
    for (method, protocol, level), row in drops.iterrows():
        expected = means[method, protocol, 0] - means[method, protocol, level]
        assert np.isclose(row["value"], expected, atol=1e-5)
        assert row["low"] <= row["value"] <= row["high"]


def test_each_method_has_its_own_reference(cohort, tmp_path):
    own = {"twin": ("supervised", "fine-tuned"), "other": ("other", "probe")}
    options = OPTIONS | {"levels": (0, 4)}
    frame = noise_robustness(entrants(), cohort, tmp_path / "t.csv", reference=own, **options)
    gains = summary_of(frame, "macro_auc_gain")["value"]
    means = summary_of(frame, "macro_auc")["value"]
    assert len(gains) == 2 * 2 + 2  # no gain of the probe over itself
    for (method, protocol, level), gain in gains.items():
        assert np.isclose(
            gain, means[method, protocol, level] - means[(*own[method], level)], atol=1e-5
        )


class Killed(Exception):
    pass


def test_it_trains_once_a_protocol_and_goes_on_where_it_was_killed(cohort, tmp_path, monkeypatch):
    trained, stored = [], []
    for name in ("fine_tune", "fit_probe"):
        plain = getattr(noise, name)

        def spy(*arguments, plain=plain, name=name, **options):
            trained.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(noise, name, spy)
    add = Table.add

    def add_or_die(table, rows, scores=None, die=True):
        if die and len(stored) == 4:  # two levels of the second training are done
            raise Killed
        add(table, rows, scores)
        stored.extend(row["config"] for row in rows)

    whole = noise_robustness(entrants()[1:2], cohort, tmp_path / "whole.csv", **OPTIONS)
    assert trained == ["fit_probe", "fine_tune"]

    table = Table(tmp_path / "t.csv")
    monkeypatch.setattr(Table, "add", add_or_die)
    with pytest.raises(Killed):
        noise_robustness(entrants()[1:2], cohort, table, **OPTIONS)
    monkeypatch.setattr(Table, "add", lambda *a, **k: add_or_die(*a, **k, die=False))
    trained.clear()
    resumed = noise_robustness(entrants()[1:2], cohort, table, **OPTIONS)
    assert trained == ["fine_tune"] and len(stored) == len(set(stored)) == 6
    pd.testing.assert_frame_equal(whole, resumed)

    trained.clear()
    again = noise_robustness(entrants()[1:2], cohort, table, **OPTIONS)
    assert not trained and len(stored) == 6
    pd.testing.assert_frame_equal(again, resumed)


def test_settings_that_do_not_exist_are_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match="part is 'train'"):
        noise_robustness([], cohort, tmp_path / "t.csv", seconds=1.0, part="train")
