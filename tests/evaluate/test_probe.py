import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ecgtutorial.evaluate.probe import PENALTIES, fit_logistic, fit_probe, linear_probe
from ecgtutorial.metrics import macro_auc


def example(n=300, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, width, generator=generator)
    truth = torch.randn(width, 3, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(n, 3, generator=generator)
    return features, (features @ truth + noise > 0).float()


def test_it_is_scikit_learns_logistic_regression():
    features, targets = example()
    n = len(features)
    penalty = 0.05
    ours = fit_logistic(features, targets, torch.ones(1, n), torch.tensor([penalty]))[0]
    for k in range(3):
        theirs = LogisticRegression(C=1 / (penalty * n), tol=1e-8, max_iter=1000)
        theirs.fit(features.numpy(), targets[:, k].numpy())
        np.testing.assert_allclose(ours[k, :-1], theirs.coef_[0], atol=2e-3)
        np.testing.assert_allclose(ours[k, -1], theirs.intercept_[0], atol=2e-3)


def test_a_weight_of_two_is_the_record_twice():
    features, targets = example(40)
    weights = torch.ones(1, 40)
    weights[0, 3] = 2
    double = torch.tensor([*range(40), 3])
    penalty = torch.tensor([0.1])
    a = fit_logistic(features, targets, weights, penalty)
    b = fit_logistic(features[double], targets[double], torch.ones(1, 41), penalty)
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_probe_learns_and_shuffled_labels_do_not():
    features, targets = example(400)
    test_features, test_targets = example(300, seed=5)
    patients = np.arange(400)
    scores = linear_probe(features, targets, patients, test_features)
    assert macro_auc(test_targets, scores) > 0.85
    shuffled = targets[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    scores = linear_probe(features, shuffled, patients, test_features)
    assert abs(macro_auc(test_targets, scores) - 0.5) < 0.1


def test_one_patient_and_a_class_without_positives_are_survived():
    features, targets = example(6)
    targets[:, 1] = 0
    scores = linear_probe(features, targets, np.zeros(6), features)
    assert np.isfinite(scores).all() and len(PENALTIES) == 5
    constant = torch.ones(6, 4)
    assert np.isfinite(linear_probe(constant, targets, np.arange(6), constant)).all()


def test_sizes_must_agree():
    features, targets = example(6)
    with pytest.raises(ValueError, match="6 feature rows for 5 target rows"):
        linear_probe(features, targets[:5], np.arange(6), features)


def test_a_probe_once_fitted_scores_any_records():
    features, targets = example(60)
    patients = np.arange(60)
    probe = fit_probe(features, targets, patients)
    for n in (1, 7):
        test, _ = example(n, seed=n)
        np.testing.assert_array_equal(probe(test), linear_probe(features, targets, patients, test))


def test_a_class_without_a_positive_gets_one_low_logit():
    features, targets = example(60)
    targets[:, 1] = 0
    scores = linear_probe(features, targets, np.arange(60), example(200, seed=2)[0])
    assert np.isfinite(scores).all()
    assert scores[:, 1].max() < -3 and np.ptp(scores[:, 1]) < 0.01
    kept = [c for c in range(targets.shape[1]) if c != 1]
    alone = linear_probe(features, targets[:, kept], np.arange(60), example(200, seed=2)[0])
    np.testing.assert_allclose(scores[:, kept], alone, atol=0.02)
