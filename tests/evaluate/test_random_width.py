import numpy as np
import pytest
import torch

from ecgtutorial import cohort as cohorts
from ecgtutorial.encoders.xresnet import XResNet1d
from ecgtutorial.evaluate.probe import PENALTIES, fit_logistic, linear_probe
from ecgtutorial.evaluate.random_width import (
    USUAL,
    _awake,
    random_entrants,
    random_width,
    turned,
    wide_probe,
)


def example(n=60, width=400, n_test=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n + n_test, width, generator=generator)
    truth = torch.randn(width, 2, generator=generator) / width**0.5
    noise = 0.3 * torch.randn(n + n_test, 2, generator=generator)
    targets = (features @ truth + noise > 0).float()
    return features[:n], targets[:n], features[n:]


def test_turning_keeps_distances_and_angles():
    known, _, asked = example()
    fewer, along = turned(known, asked)
    assert fewer.shape == (60, 60) and along.shape == (30, 60)
    torch.testing.assert_close(fewer @ fewer.T, known @ known.T, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(along @ fewer.T, asked @ known.T, atol=1e-2, rtol=1e-3)
    twice = torch.cat([known[:5], known[:5]])  # records that come twice span no more
    assert turned(twice, asked)[0].shape == (10, 5)


def test_the_classifier_is_that_of_all_features():
    """For each penalty, against logistic regression on the features themselves."""
    known, targets, asked = example()
    one = torch.ones(1, len(known))
    fewer, along = turned(known, asked)
    for penalty in PENALTIES[2:]:
        penalty = torch.tensor([penalty])
        long = fit_logistic(known, targets, one, penalty, 500)[0]
        short = fit_logistic(fewer, targets, one, penalty, 500)[0]
        expected = asked @ long[:, :-1].T + long[:, -1]
        found = along @ short[:, :-1].T + short[:, -1]
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_narrow_it_is_the_linear_probe():
    features, targets, asked = example(n=300, width=40)
    patients = np.arange(300)
    found = wide_probe(features, targets, patients, asked)
    np.testing.assert_allclose(found, linear_probe(features, targets, patients, asked), atol=1e-4)


def test_the_same_features_many_times_are_no_other_features():
    features, targets, asked = example(n=200, width=USUAL)
    patients = np.arange(200) // 2
    once = wide_probe(features, targets, patients, asked)
    often = wide_probe(features.repeat(1, 8), targets, patients, asked.repeat(1, 8))
    np.testing.assert_allclose(often, once, atol=2e-2)


def test_one_patient_and_constant_features_are_survived():
    features, targets, asked = example(n=6)
    assert np.isfinite(wide_probe(features, targets, np.zeros(6), asked)).all()
    flat = torch.ones(6, 400)
    assert np.isfinite(wide_probe(flat, targets, np.arange(6), flat)).all()


def test_names_seeds_and_what_is_awake():
    found = list(random_entrants((30,), (32,), (0, 1)))
    assert [e.method for e in found[:3]] == ["kernels-30", "xresnet-32", "xresnet-32-awake"]
    assert all(e.protocols == ("probe",) for e in found)
    first, other = found[0].make(), found[3].make()
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(first.weight, found[0].make().weight)
    asleep, awake = found[1].make(), found[2].make()
    x = torch.randn(2, 256, 16).relu()
    block = XResNet1d(blocks=(1, 2, 1, 1)).stages[1][1].eval()  # its shortcut changes nothing
    torch.testing.assert_close(block(x), x)
    assert not torch.allclose(_awake(lambda: block)(x), x)
    signals = torch.randn(2, 12, 100)
    assert asleep(signals).shape == awake(signals).shape == (2, 256)
    assert not torch.allclose(asleep(signals), awake(signals))


@pytest.fixture(scope="module")
def small():
    return cohorts.open_cohort("simulated", n_patients=120, fs=100)


def test_a_table_by_width(small, tmp_path):
    entrants = list(random_entrants((5, 30), ()))
    options = {"seconds": 2.5, "budgets": (0.5, 1.0), "subsets": {0.5: 2, 1.0: 1}}
    options |= {
        "part": "validation",
        "progress": False,
        "over": {"few": {"kernels-30": "kernels-5"}},
    }
    frame = random_width(entrants, small, tmp_path / "t.csv", **options)
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 2 * 3 and cells["value"].between(0.3, 1).all()
    assert set(frame["metric"]) == {"macro_auc", "macro_auc_over_few"}
    again = random_width(entrants, small, tmp_path / "t.csv", **options)
    assert list(again["config"].dropna()) == list(frame["config"].dropna())  # none is made twice
    other = random_width(entrants, small, tmp_path / "u.csv", **options | {"part": "test"})
    assert not set(other["config"].dropna()) & set(frame["config"].dropna())
