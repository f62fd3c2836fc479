import time

import numpy as np
import pytest

from ecgtutorial import metrics
from ecgtutorial.datasets.challenge import CLASSES, NORMAL, WEIGHTS


def coded(*records):
    """0/1 (record, class) from class names: `coded("AF NSR", "")`."""
    return np.array([[name in record.split() for name in CLASSES] for record in records], int)


def score(targets, predictions):
    return metrics.challenge_score(targets, predictions, WEIGHTS, NORMAL)


def slow_score(targets, predictions, weights, normal):
    """The definition, cell by cell."""
    n = len(weights)

    def total(predictions):
        table = np.zeros((n, n))
        for labels, answers in zip(targets, predictions):
            either = sum(a or b for a, b in zip(labels, answers))
            for i in range(n):
                for j in range(n):
                    if labels[i] and answers[j]:
                        table[i, j] += 1 / either
        return (table * weights).sum()

    inactive = total([[j == normal for j in range(n)]] * len(targets))
    return (total(predictions) - inactive) / (total(targets) - inactive)


def random_example(n, seed=0, share=0.08):
    generator = np.random.default_rng(seed)
    targets = generator.random((n, len(CLASSES))) < share
    flipped = generator.random(targets.shape) < 0.05
    return targets.astype(np.uint8), (targets ^ flipped).astype(np.uint8)


def test_gain_of_single_records():
    targets = coded("AF", "AF", "NSR", "", "AF", "", "AF TAb", "AF TAb")
    predictions = coded("AF", "NSR", "NSR", "AF", "", "", "AF TAb", "AF STach")
    found = metrics.challenge_gain(targets, predictions, WEIGHTS)
    # AF for NSR: 0.25, shared by the two. Two labels: every pair counts, (1 + 1 + 0.5 + 0.5) / 2.
    # Three classes: AF-AF 1, AF-STach 0.375, TAb-AF 0.5, TAb-STach 0.375.
    expected = [1, 0.25 / 2, 1, 0, 0, 0, 3 / 2, (1 + 0.375 + 0.5 + 0.375) / 3]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_perfect_is_one_and_always_sinus_rhythm_zero():
    targets, _ = random_example(200)
    assert score(targets, targets) == pytest.approx(1)
    assert score(targets, coded(*["NSR"] * 200)) == pytest.approx(0)


def test_by_hand():
    targets = coded("AF", "NSR", "STach")
    # Always NSR: 0.25 / 2 + 1 + 0.375 / 2 = 1.3125; the labels themselves: 3.
    assert score(targets, coded("AF", "NSR", "NSR")) == pytest.approx((2.1875 - 1.3125) / 1.6875)
    assert score(targets, coded("", "", "")) == pytest.approx(-1.3125 / 1.6875)  # worse than NSR
    assert score(targets, coded("TInv", "QAb", "QAb")) == pytest.approx(
        ((0.5 + 0.15 + 0.275) / 2 - 1.3125) / 1.6875
    )
    # A record with no label changes nothing, whatever is predicted.
    more = score(coded("AF", "NSR", "STach", ""), coded("AF", "NSR", "NSR", "AF"))
    assert more == pytest.approx((2.1875 - 1.3125) / 1.6875)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed):
    targets, predictions = random_example(40, seed)
    expected = slow_score(targets, predictions, WEIGHTS, NORMAL)
    assert score(targets, predictions) == pytest.approx(expected)
    lopsided = WEIGHTS + np.triu(np.full_like(WEIGHTS, 0.1))  # the label's row, the answer's column
    assert metrics.challenge_score(targets, predictions, lopsided, 3) == pytest.approx(
        slow_score(targets, predictions, lopsided, 3)
    )


def test_resamples_equal_a_loop_that_repeats_records():
    targets, predictions = random_example(60)
    counts = metrics.patient_weights(np.arange(60) // 2, 30, seed=1)
    fast = metrics.challenge_score(targets, predictions, WEIGHTS, NORMAL, counts)
    assert fast.shape == (30,)
    for count, value in zip(counts.astype(int), fast):
        rows = np.repeat(np.arange(60), count)
        assert value == pytest.approx(score(targets[rows], predictions[rows]))


def test_without_a_label_but_sinus_rhythm_there_is_no_score():
    targets, predictions = coded("NSR", "", "AF"), coded("AF", "", "AF")
    with pytest.raises(ValueError, match="no record has a label but sinus rhythm"):
        score(targets[:2], predictions[:2])
    counts = np.array([[2, 1, 0], [0, 0, 3], [0, 3, 0]])
    found = metrics.challenge_score(targets, predictions, WEIGHTS, NORMAL, counts)
    np.testing.assert_array_equal(found, [np.nan, 1, np.nan])


@pytest.mark.parametrize("change, message", [
    (dict(predictions=np.full((3, 26), 0.3)), "predictions holds values other than 0 and 1"),
    (dict(predictions=np.full((3, 26), np.nan)), "predictions: 3 of 3 records hold NaN"),
    (dict(targets=np.full((3, 26), 2)), "targets holds values"),
    (dict(predictions=np.zeros((3, 25))), r"targets \(3, 26\) and predictions \(3, 25\)"),
    (dict(weights=np.eye(25)), r"weights \(25, 25\): expected \(26, 26\)"),
    (dict(counts=np.ones((10, 4))), r"counts \(10, 4\): expected \(resample, record\), 3"),
    (dict(counts=np.ones(3)), r"counts \(3,\)"),
])  # fmt: skip
def test_bad_input(change, message):
    good = dict(targets=coded("AF", "NSR", ""), predictions=coded("AF", "", ""), weights=WEIGHTS)
    with pytest.raises(ValueError, match=message):
        metrics.challenge_score(normal=NORMAL, **(good | change))


def test_is_fast():
    targets, predictions = random_example(5000)
    counts = metrics.patient_weights(np.arange(5000), 1000)
    best = []
    for arguments in ((), (counts,)):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            metrics.challenge_score(targets, predictions, WEIGHTS, NORMAL, *arguments)
            times.append(time.perf_counter() - start)
        best.append(min(times))
    assert best[0] < 0.1 and best[1] < 1  # s; much less on a quiet machine
