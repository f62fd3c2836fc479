import numpy as np
import pytest
from sklearn.metrics import f1_score

from ecgtutorial.metrics import macro_f1, patient_weights


@pytest.fixture
def answers():
    """Targets and predictions of four classes: common, rare, never there, never predicted."""
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 4)) < [0.5, 0.1, 0, 0.2]).astype(np.uint8)
    predictions = (rng.random((60, 4)) < [0.5, 0.2, 0, 0]).astype(np.uint8)
    return targets, predictions


def test_it_is_scikit_learns(answers):
    expected = f1_score(*answers, average="macro", zero_division=0)
    assert macro_f1(*answers) == pytest.approx(expected)
    predicted = answers[1].copy()
    predicted[0, 2] = 1  # a class that is never there, predicted once
    expected = f1_score(answers[0], predicted, average="macro", zero_division=0)
    assert macro_f1(answers[0], predicted) == pytest.approx(expected)


def test_each_resample_is_scikit_learns_of_the_repeated_records(answers):
    counts = patient_weights(np.arange(60) // 2, n_resamples=20)
    values = macro_f1(*answers, counts)
    assert values.shape == (20,)
    for value, count in zip(values, counts.astype(int)):
        repeated = [np.repeat(a, count, axis=0) for a in answers]
        expected = f1_score(*repeated, average="macro", zero_division=0)
        assert value == pytest.approx(expected)


def test_closed_forms():
    targets = np.array([[1], [1], [0], [0]])
    assert macro_f1(targets, targets) == 1
    assert macro_f1(targets, 1 - targets) == 0
    assert macro_f1(targets, np.ones_like(targets)) == pytest.approx(2 / 3)  # 2p / (1 + p)
    assert macro_f1(targets, 0 * targets) == 0
    two = np.hstack([targets, 0 * targets])
    assert macro_f1(two, two) == 0.5, "a class that is nowhere counts 0"
    assert macro_f1(targets, targets, np.zeros((1, 4))).tolist() == [0], "an empty resample"


def test_bad_input_is_named(answers):
    targets, predictions = answers
    with pytest.raises(ValueError, match="expected one shape"):
        macro_f1(targets, predictions[:, :3])
    with pytest.raises(ValueError, match="predictions holds values other than 0 and 1"):
        macro_f1(targets, 0.3 * predictions)
    with pytest.raises(ValueError, match=r"counts \(3, 59\): expected \(resample, record\), 60"):
        macro_f1(targets, predictions, np.ones((3, 59)))
