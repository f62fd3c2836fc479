import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecgtutorial import metrics


def example(n=200, classes=4, seed=0, ties=True):
    generator = np.random.default_rng(seed)
    targets = (generator.random((n, classes)) < 0.3).astype(int)
    scores = targets + generator.normal(0, 1.5, (n, classes))
    return targets, scores.round(1) if ties else scores


@pytest.mark.parametrize("ties", [True, False])
def test_auc_equals_scikit_learn(ties):
    targets, scores = example(ties=ties)
    np.testing.assert_allclose(
        metrics.macro_auc(targets, scores), roc_auc_score(targets, scores, average="macro")
    )


def test_bootstrap_equals_a_loop_that_repeats_records():
    targets, scores = example(60, 3)
    patients = np.arange(60) // 2
    weights = metrics.patient_weights(patients, 20, seed=1)
    fast = metrics.bootstrap_macro_auc(targets, scores, weights)
    for weight, value in zip(weights.astype(int), fast):
        rows = np.repeat(np.arange(60), weight)
        np.testing.assert_allclose(value, roc_auc_score(targets[rows], scores[rows]), atol=1e-6)


def test_resamples_draw_patients_with_all_their_records():
    patients = np.repeat(["a", "b", "c"], [1, 2, 3])
    weights = metrics.patient_weights(patients, 500)
    assert (weights[:, 1] == weights[:, 2]).all() and (weights[:, 3:] == weights[:, 3:4]).all()
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)


def test_a_missing_class_is_left_out_and_said():
    targets, scores = example(50, 3)
    targets[:, 1] = 0
    values = metrics.class_auc(targets, scores)
    assert np.isnan(values[1])
    np.testing.assert_allclose(metrics.macro_auc(targets, scores), np.nanmean(values))
    with pytest.raises(ValueError, match="no class has both"):
        metrics.macro_auc(np.ones_like(targets), scores)


def test_constant_scores_give_one_half_and_reversed_scores_the_rest():
    targets, scores = example(ties=False)
    assert metrics.macro_auc(targets, np.zeros_like(scores)) == 0.5
    np.testing.assert_allclose(
        metrics.macro_auc(targets, scores) + metrics.macro_auc(targets, -scores), 1
    )


def test_a_paired_difference_with_itself_is_zero():
    targets, scores = example()
    weights = metrics.patient_weights(np.arange(200), 50)
    a = metrics.bootstrap_macro_auc(targets, scores, weights)
    assert (a - metrics.bootstrap_macro_auc(targets, 2 * scores, weights) == 0).all()
    low, high = metrics.interval(a)
    assert low < metrics.macro_auc(targets, scores) < high


def test_bad_input_is_named():
    targets, scores = example(10, 2)
    with pytest.raises(ValueError, match="expected one shape"):
        metrics.macro_auc(targets, scores[:5])
    scores[3, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 10 records hold NaN"):
        metrics.macro_auc(targets, scores)
    with pytest.raises(ValueError, match="other than 0 and 1"):
        metrics.macro_auc(targets * 2, np.zeros((10, 2)))


def test_a_thousand_resamples_of_ptb_xl_size_take_about_a_second():
    generator = np.random.default_rng(0)
    targets = (generator.random((2158, 71)) < 0.05).astype(int)
    scores = generator.random((2158, 71))
    weights = metrics.patient_weights(generator.integers(0, 1900, 2158), 1000)
    began = time.process_time()
    metrics.bootstrap_macro_auc(targets, scores, weights)
    seconds = time.process_time() - began
    assert seconds < 4, f"{seconds:.1f} s of processor time"  # about 1 s on an idle core
