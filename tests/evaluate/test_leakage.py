"""Splits that leak: groups stay together, and what means nothing scores one half."""

import numpy as np
import pytest

from ecgtutorial.evaluate import leakage


@pytest.fixture
def people():
    """Patients of three rows each, whose features say who they are and nothing else."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200), 3)
    features = rng.normal(size=(200, 16))[patients] + 0.05 * rng.normal(size=(600, 16))
    return features, rng.integers(0, 2, (200, 3))[patients], patients


def test_groups_stay_together(people):
    patients = people[2]
    test = leakage.holdout(patients, np.random.default_rng(0))
    assert not set(patients[test]) & set(patients[~test])
    assert test.sum() == 120
    rows = leakage.holdout(np.arange(600), np.random.default_rng(0))
    assert set(patients[rows]) & set(patients[~rows])


def test_labels_move_with_their_patient(people):
    _, targets, patients = people
    mixed = leakage.shuffled(targets, patients, np.random.default_rng(0))
    assert (mixed.sum(axis=0) == targets.sum(axis=0)).all()
    assert (mixed != targets).any()
    for patient in (0, 7, 199):
        assert len(np.unique(mixed[patients == patient], axis=0)) == 1


def test_neighbours_copy_the_label_of_the_same_row(people):
    features, targets, patients = people
    test = np.arange(600) % 3 == 0
    scores = leakage.neighbours(features, targets, test, patients, k=2)
    assert np.allclose(scores, targets[test])


@pytest.mark.parametrize("shuffle", [False, True])
def test_only_the_wrong_split_knows_what_cannot_be_known(people, shuffle):
    features, targets, patients = people
    sides = [(leakage.neighbours, groups) for groups in (patients, np.arange(600))]
    row = leakage.trial("record", features, targets, patients, *sides, 3, shuffle)
    assert row["right low"] < 0.5 < row["right high"]
    assert row["wrong"] > 0.9
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["low"] > 0.3


def test_a_beat_is_found_and_centred():
    time = np.arange(1000) / 100
    spikes = np.exp(-((((time % 1.0) - 0.5) / 0.02) ** 2))
    found = leakage.beat(np.stack([spikes, -2 * spikes]), 100)
    assert found.shape == (2, 64)
    assert np.isclose(found[0].max(), 1, atol=0.05)
    assert np.allclose(found[1], -2 * found[0])
    assert not leakage.beat(np.zeros((2, 1000)), 100).any()


def test_who_is_recognised(people):
    features, _, patients = people
    assert leakage.recognised(features, patients).mean() > 0.99
    assert leakage.recognised(features, np.arange(600)).mean() == 0
