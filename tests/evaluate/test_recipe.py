"""An opinion corrected by labels: against closed forms and another optimiser, and its table."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from ecgtutorial.cohort import open_cohort
from ecgtutorial.evaluate.label_efficiency import Entrant
from ecgtutorial.evaluate.recipe import (
    PROTOCOLS,
    against,
    continued,
    corrected,
    recipe,
)
from ecgtutorial.methods.combined import Reader, SimulatedTruth
from ecgtutorial.metrics import macro_auc
from ecgtutorial.runs import Table


@pytest.fixture(scope="module")
def cohort():
    return open_cohort("simulated", n_patients=120, seed=5)


def make_reader():
    torch.manual_seed(0)
    return Reader([SimulatedTruth(channels=8, hearts=40, hearts_seed=3)]).eval()


def problem(seed=0, n=60, n_features=5, n_classes=2):
    rng = np.random.default_rng(seed)
    prior, features = rng.normal(size=(n, n_classes)), rng.normal(size=(n, n_features))
    targets = (prior + features[:, :n_classes] + rng.normal(size=prior.shape) > 0).astype(int)
    return [torch.tensor(a, dtype=torch.float32) for a in (prior, features)], targets


def test_corrected_against_another_optimiser():
    (prior, features), targets = problem()
    found = corrected(prior, features, targets, prior, features, strength=3.0)
    for k in range(targets.shape[1]):
        z, f, y = prior[:, k].numpy(), features.numpy(), targets[:, k]

        def total(x):
            logit = z + x[0] + f @ x[1:]
            return (np.logaddexp(0, logit) - y * logit).sum() + 1.5 * (x[1:] ** 2).sum()

        x = minimize(total, np.zeros(6), tol=1e-10).x
        np.testing.assert_allclose(found[:, k], z + x[0] + f @ x[1:], atol=5e-3)


def test_a_strong_ridge_leaves_the_opinion_and_a_bias():
    (prior, features), targets = problem()
    found = corrected(prior, features, targets, prior, features, strength=1e4)
    shift = found - prior.numpy()
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:1], shift.shape), atol=1e-2)
    np.testing.assert_allclose(expit(found).mean(0), targets.mean(0), atol=1e-3)  # b goes free


def test_corrected_names_what_does_not_fit():
    (prior, features), targets = problem()
    with pytest.raises(ValueError, match="60 rows of prior, 59 of features"):
        corrected(prior, features[1:], targets, prior, features)
    with pytest.raises(ValueError, match="at least one"):
        corrected(prior[:0], features[:0], targets[:0], prior, features)


def test_training_on_begins_at_the_opinion(cohort):
    reader, part = make_reader(), cohort.select(slice(0, 20))
    before = copy.deepcopy(reader.state_dict())
    targets = part.targets("superclass").to_numpy()
    signals = torch.from_numpy(part.millivolts())[:, :, :250]
    start = continued(reader, part, targets, seconds=2.5, epochs=0, min_steps=0)
    torch.testing.assert_close(start(signals), reader(signals)[:, -5:])
    options = {"seconds": 2.5, "min_steps": 12, "batch_size": 16, "encoder_lr": 3e-3}
    one, two = (continued(reader, part, targets, **options)(signals) for _ in range(2))
    torch.testing.assert_close(one, two)  # the seed decides
    assert (one - reader(signals)[:, -5:]).abs().max() > 1e-3
    for name, value in reader.state_dict().items():
        torch.testing.assert_close(value, before[name])  # it was a copy that learned
    with pytest.raises(ValueError, match="19 target rows for 20 records"):
        continued(reader, part, targets[1:], seconds=2.5)


def test_recipe_fills_a_table_once(cohort, tmp_path):
    entrants = [Entrant("pupil", 0, "pupil", make_reader, PROTOCOLS)]
    entrants.append(Entrant("scratch", 0, "scratch", make_reader, ("probe",)))
    table, fine_tuning = Table(tmp_path / "t.csv"), {"epochs": 1, "min_steps": 2}
    options = {
        "seconds": 2.5, "overlap": 0.0, "budgets": (0.2, 1.0), "subsets": {0.2: 2, 1.0: 1},
        "fine_tuning": fine_tuning, "progress": False, "reference": ("scratch", "probe"),
    }  # fmt: skip
    frame = recipe(entrants, cohort, table, **options)
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 3 * (len(PROTOCOLS) + 1) == cells["config"].nunique()
    assert cells[cells["protocol"] == "opinion"]["value"].nunique() == 1  # no label plays a part
    gains = frame[frame["metric"] == "macro_auc_gain"]
    assert set(gains["protocol"]) == set(PROTOCOLS)
    test, other = cohort.split()[2], ("scratch", "probe")
    rows = against(table, test, "pupil", other, "macro_auc_to_full", 1.0)
    assert len(rows) == 2 * len(PROTOCOLS)
    full = cells[(cells["method"] == "scratch") & (cells["budget"] == 1)]["value"].item()
    for row in rows:
        mine = cells[(cells["protocol"] == row["protocol"]) & (cells["method"] == "pupil")]
        mean = mine[mine["budget"] == row["budget"]]["value"].mean()
        assert row["value"] == pytest.approx(mean - full, abs=1e-5)
        assert row["low"] <= row["high"]
    for row in against(table, test, "pupil", other, "macro_auc_over_scratch"):  # as the gain is
        same = gains[(gains["protocol"] == row["protocol"]) & (gains["budget"] == row["budget"])]
        for name in ("value", "low", "high"):
            assert row[name] == pytest.approx(same[name].item(), abs=1e-5)

    def refuse():
        raise AssertionError("computed again")

    for one in entrants:
        one.make = refuse
    again = recipe(entrants, cohort, table, **options)
    assert again.equals(frame)


def test_the_recipe_is_the_average_of_two_answers(cohort, tmp_path):
    entrant = Entrant("pupil", 0, "pupil", make_reader, PROTOCOLS)
    table = Table(tmp_path / "t.csv")
    recipe(
        [entrant], cohort, table, seconds=2.5, overlap=0.0, budgets=(1.0,), subsets={1.0: 1},
        fine_tuning={"epochs": 1, "min_steps": 2}, progress=False,
    )  # fmt: skip
    frame = table.read()
    target = cohort.split()[2].targets("superclass").to_numpy()
    for _, row in frame[frame["seed"] != "all"].iterrows():  # the ranks give the value
        assert macro_auc(target, table.ranks()[row["config"]]) == pytest.approx(row["value"], 1e-5)
