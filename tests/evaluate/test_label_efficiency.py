import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial.cohort import Cohort
from ecgtutorial.encoders.single_lead import SingleLeadCNN
from ecgtutorial.evaluate.label_efficiency import Entrant, label_efficiency
from ecgtutorial.runs import Table


@pytest.fixture(scope="module")
def cohort():
    """Two rhythms, one of them called MI, in 100 patients with folds."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 100)
    time = np.arange(200) / 100
    wave = np.sin(2 * np.pi * np.where(label, 7, 3)[:, None] * time)
    signals = 300 * wave[:, None] + generator.normal(0, 300, (100, 12, 200))
    table = pd.DataFrame(
        {"record_id": range(100), "patient_id": range(100), "fold": np.arange(100) % 10 + 1}
    )
    labels = pd.DataFrame({"NORM": 1 - label, "IMI": label}, dtype=np.uint8)
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


def encoder(seed):
    torch.manual_seed(seed)
    return SingleLeadCNN()


def entrants(calls):
    def make(name, seed):
        def give():
            calls.append((name, seed))
            return encoder(seed)

        return give

    return [
        Entrant("random", 0, "r", make("random", 0), ("probe",)),
        Entrant("supervised", 0, "r", make("supervised", 0), ("fine-tuned",)),
        Entrant("better", 0, "b0", make("better", 0)),
        Entrant("better", 1, "b1", make("better", 1)),
    ]


OPTIONS = {
    "seconds": 1.0, "budgets": (0.1, 1.0), "subsets": {0.1: 2, 1.0: 1}, "progress": False,
    "fine_tuning": {"min_steps": 4, "epochs": 1, "batch_size": 8},
}  # fmt: skip


def test_a_grid_is_filled_summarised_and_not_computed_again(cohort, tmp_path):
    calls = []
    table = Table(tmp_path / "table.csv")
    frame = label_efficiency(entrants(calls), cohort, table, **OPTIONS)
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 3 * (1 + 1 + 2 + 2) and cells["config"].is_unique
    assert len(calls) == 4
    summary = frame[frame["seed"] == "all"]
    mean = cells.groupby(["method", "protocol", "budget"])["value"].mean()
    for row in summary[summary["metric"] == "macro_auc"].itertuples():
        assert np.isclose(row.value, mean[row.method, row.protocol, row.budget], atol=1e-5)
        assert row.low <= row.value <= row.high
    gains = summary[summary["metric"] == "macro_auc_gain"]
    assert set(gains["method"]) == {"random", "better"}

    again = label_efficiency(entrants(calls), cohort, table, **OPTIONS)
    assert len(calls) == 4, "finished cells must not be computed again"
    pd.testing.assert_frame_equal(frame, again)


def test_a_grid_goes_on_where_it_was_killed(cohort, tmp_path):
    table = Table(tmp_path / "table.csv")
    label_efficiency(entrants([])[:2], cohort, table, **OPTIONS)
    calls = []
    label_efficiency(entrants(calls), cohort, table, **OPTIONS)
    assert calls == [("better", 0), ("better", 1)]


def test_the_interval_of_the_gain_of_a_method_over_itself_is_zero(cohort, tmp_path):
    twin = [
        Entrant(name, 0, "r", lambda: encoder(0), ("fine-tuned",))
        for name in ("supervised", "twin")
    ]
    frame = label_efficiency(twin, cohort, tmp_path / "t.csv", **OPTIONS)
    gain = frame[frame["metric"] == "macro_auc_gain"]
    assert (gain[["value", "low", "high"]].abs() < 1e-12).all(axis=None)


def test_settings_that_do_not_exist_are_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match="part is 'train'"):
        label_efficiency([], cohort, tmp_path / "t.csv", **OPTIONS, part="train")
