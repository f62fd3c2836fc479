import numpy as np
import pandas as pd
import pytest

from ecgtutorial import open_cohort
from ecgtutorial.evaluate import crossing
from ecgtutorial.metrics import macro_auc
from ecgtutorial.runs import Table


def test_a_curve_crosses_where_its_straight_line_over_log_budget_does():
    budgets = np.array([0.01, 0.1, 1.0])
    curve = np.array([[0.5, 0.8, 0.1], [0.7, 0.9, 0.2], [0.9, 0.95, 0.3]])
    found = crossing._crossing(budgets, curve, np.array([0.8, 0.8, 0.8]))
    assert found[0] == pytest.approx(10**-0.5)  # half way between 10 % and 100 %
    assert found[1] == 0.01  # there from the start
    assert np.isinf(found[2])  # never


def test_a_curve_that_falls_again_is_taken_at_its_first_crossing():
    budgets = np.array([0.01, 0.1, 0.5, 1.0])
    curve = np.array([[0.5], [0.8], [0.7], [0.9]])
    assert crossing._crossing(budgets, curve, 0.8)[0] == pytest.approx(0.1)
    flat = np.array([[0.5], [0.5], [0.5], [0.9]])  # no rise to divide by on the way
    assert 0.5 < crossing._crossing(budgets, flat, 0.8)[0] < 1.0


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A table whose methods answer with the truth and a known share of noise."""
    test = open_cohort("simulated", n_patients=300).split()[2]
    target = test.targets("superclass")
    classes = [c for c in target if 0 < target[c].sum() < len(target)]
    truth = target[classes].to_numpy(float)
    table = Table(tmp_path_factory.mktemp("t") / "le.csv")
    rng = np.random.default_rng(0)
    spread = {"scratch": (3.0, 1.5, 0.6), "early": (1.0, 0.4, 0.3), "never": (4.0, 4.0, 4.0)}
    rows, scores = [], {}
    for method, noises in spread.items():
        for budget, noise in zip((0.01, 0.1, 1.0), noises, strict=True):
            for seed in "01":
                name = f"{method}{budget}{seed}"
                scores[name] = truth + noise * rng.normal(size=truth.shape)
                value = macro_auc(target[classes].to_numpy(), scores[name])
                rows.append({
                    "method": method, "protocol": "fine-tuned", "budget": budget, "seed": seed,
                    "subset": 0, "metric": "macro_auc", "value": value, "config": name,
                })  # fmt: skip
    table.add(rows, scores)
    return table, test, classes


def test_methods_cross_in_the_order_of_their_noise(graded):
    table, test, classes = graded
    found = crossing.crossing_points(
        table, test, classes, ("scratch", "fine-tuned"), n_resamples=200
    ).set_index("method")
    assert 0.01 < found.loc["early", "share"] < 0.1
    assert found.loc["scratch", "share"] == pytest.approx(1.0)  # against itself
    assert np.isinf(found.loc["never", "share"]) and np.isinf(found.loc["never", "high"])
    assert (found["low"] <= found["share"]).all() and (found["share"] <= found["high"]).all()


def test_a_table_without_full_supervision_is_refused(graded):
    table, test, classes = graded
    with pytest.raises(ValueError, match="nobody.*with all labels"):
        crossing.crossing_points(table, test, classes, ("nobody", "probe"), n_resamples=10)
    assert isinstance(table.read(), pd.DataFrame)
