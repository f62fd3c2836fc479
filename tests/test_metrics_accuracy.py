import numpy as np
import pytest

from ecgtutorial import metrics

BOTH = [metrics.exact_match, metrics.class_accuracy]


def example(n=60, classes=5, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.random((n, classes)) < 0.3
    return targets.astype(int), (targets ^ (generator.random((n, classes)) < 0.15)).astype(int)


def slow(targets, predictions):
    """Exact match and class accuracy by the definition, answer by answer."""
    whole, share = 0, np.zeros(targets.shape[1])
    for truth, answer in zip(targets, predictions):
        right = [int(t == a) for t, a in zip(truth, answer)]
        whole += min(right)
        share += np.array(right) / len(targets)
    return whole / len(targets), share.mean()


def test_by_hand():
    targets = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]])
    predictions = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1]])
    assert metrics.exact_match(targets, predictions) == 2 / 4
    assert metrics.class_accuracy(targets, predictions) == pytest.approx((3 + 2 + 3 + 0) / 12)


@pytest.mark.parametrize("seed", range(4))
def test_equal_a_slow_loop_and_resamples_one_that_repeats_records(seed):
    targets, predictions = example(seed=seed)
    counts = metrics.patient_weights(np.arange(60) // 2, 20, seed)
    for metric, value, resamples in zip(
        BOTH,
        slow(targets, predictions),
        zip(*(
            slow(targets[rows], predictions[rows])
            for rows in (np.repeat(np.arange(60), c) for c in counts.astype(int))
        )),
    ):  # fmt: skip
        found = metric(targets, predictions)
        assert isinstance(found, float) and found == pytest.approx(value)
        np.testing.assert_allclose(metric(targets, predictions, counts), resamples, atol=1e-12)


def test_all_right_all_wrong_and_one_class():
    targets, _ = example()
    for metric in BOTH:
        assert metric(targets, targets) == 1 and metric(targets, 1 - targets) == 0
        assert metric(targets.astype(bool), targets == 1) == 1
    one = targets[:, :1], np.zeros((60, 1))
    assert metrics.exact_match(*one) == metrics.class_accuracy(*one) == 1 - targets[:, 0].mean()


def test_always_no_is_nearly_right_where_classes_are_rare():
    targets = np.eye(24, dtype=int)  # each record one of 24 classes
    no = np.zeros_like(targets)
    assert metrics.exact_match(targets, no) == 0
    assert metrics.class_accuracy(targets, no) == pytest.approx(1 - targets.mean())
    assert metrics.class_accuracy(targets, no) == pytest.approx(23 / 24)


@pytest.mark.parametrize("metric", BOTH)
def test_a_resample_without_a_record_has_no_value(metric):
    targets, predictions = example(3)
    found = metric(targets, predictions, np.array([[0, 0, 0], [1, 0, 0]]))
    assert np.isnan(found[0]) and found[1] == metric(targets[:1], predictions[:1])


@pytest.mark.parametrize("metric", BOTH)
@pytest.mark.parametrize("change, message", [
    (dict(predictions=np.full((4, 5), 0.3)), "predictions holds values other than 0 and 1"),
    (dict(predictions=np.full((4, 5), np.nan)), "predictions: 4 of 4 records hold NaN"),
    (dict(predictions=np.zeros((4, 6))), r"targets \(4, 5\) and predictions \(4, 6\)"),
    (dict(targets=np.full((4, 5), 2)), "targets holds values other than 0 and 1"),
    (dict(targets=np.zeros((0, 5)), predictions=np.zeros((0, 5))), "hold no record"),
    (dict(counts=np.ones((7, 3))), r"counts \(7, 3\): expected \(resample, record\), 4 records"),
    (dict(counts=np.ones(4)), r"counts \(4,\)"),
])  # fmt: skip
def test_bad_input(metric, change, message):
    targets, predictions = example(4)
    with pytest.raises(ValueError, match=message):
        metric(**(dict(targets=targets, predictions=predictions) | change))
