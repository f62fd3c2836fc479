"""The simulator as a teacher: its truth, the loss, and the pupil's opinion."""

import pytest
import torch
from torch.nn import functional as F

from ecgtutorial.cohort import SUPERCLASSES, open_cohort
from ecgtutorial.datasets import ptbxl
from ecgtutorial.methods import Batch
from ecgtutorial.methods.combined import TRUTHS, Reader, SimulatedTruth, true_targets

SMALL = {"channels": 8, "hearts": 40, "hearts_seed": 3}


@pytest.fixture(scope="module")
def hearts():
    return open_cohort("simulated", n_patients=40, seed=3)


def batch(signals, record):
    record = torch.as_tensor(record)
    return Batch(signals, record, record)


def test_truth_is_what_the_simulator_put_there(hearts):
    truth = true_targets(hearts)
    assert tuple(truth.columns) == TRUTHS and len(TRUTHS) == 71 + 4  # NORM is both
    for i, text in enumerate(hearts.table["true_statements"]):
        there = {name for name in ptbxl.STATEMENTS if truth.loc[i, name]}
        assert there == set(text.split())
        for name in SUPERCLASSES:
            of_it = {c for c in there if ptbxl.STATEMENTS[c].superclass == name}
            assert truth.loc[i, name] == bool(of_it)


def test_truth_has_no_label_noise():
    noisy = open_cohort("simulated", n_patients=40, seed=3, label_noise=0.5)
    clean = open_cohort("simulated", n_patients=40, seed=3, label_noise=0.0)
    assert not noisy.labels.equals(clean.labels)
    assert true_targets(noisy).equals(true_targets(clean))
    assert true_targets(clean)[list(ptbxl.STATEMENTS)].equals(
        clean.labels[list(ptbxl.STATEMENTS)].astype("uint8")
    )


def test_loss_is_the_cross_entropy_of_the_truth(hearts):
    torch.manual_seed(0)
    method = SimulatedTruth(**SMALL, views={})
    signals = torch.from_numpy(hearts.millivolts(slice(0, 8)))[:, :, :250]
    loss, parts = method.loss(batch(signals, range(8)))
    logits = method.head(method.encoder(signals))
    truth = torch.from_numpy(true_targets(hearts).to_numpy()[:8]).float()
    p = logits.sigmoid()
    by_hand = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(parts) == {"truth"}


def test_records_behind_the_hearts_take_part_in_the_contrast_alone(hearts):
    torch.manual_seed(0)
    method = SimulatedTruth(**SMALL, views={}, contrast=0.5)
    n, signals = len(hearts), torch.from_numpy(hearts.millivolts(slice(0, 8)))[:, :, :250]
    loss, parts = method.loss(batch(signals, [0, 1, 2, 3, n, n + 1, n + 2, n + 3]))
    features = method.encoder(torch.cat([signals, signals]))  # no views: twice the same
    logits = method.head(features)[:4]
    truth = torch.from_numpy(true_targets(hearts).to_numpy()[:4]).float()
    expected = F.binary_cross_entropy_with_logits(logits, truth)
    assert parts["truth"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.item() == pytest.approx((parts["truth"] + 0.5 * parts["pairs"]).item())
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_state_holds_no_records():
    method = SimulatedTruth(**SMALL)
    assert not any("truth" in name for name in method.state_dict())


def test_a_reader_gives_features_and_then_the_mean_opinion():
    methods = []
    for seed in range(2):
        torch.manual_seed(seed)
        methods.append(SimulatedTruth(**SMALL).eval())
    reader, signals = Reader(methods).eval(), torch.randn(3, 12, 250)
    out = reader(signals)
    assert out.shape == (3, reader.width) == (3, 2 * 64 + 5)
    features = [one.encoder(signals) for one in methods]
    torch.testing.assert_close(out[:, :-5], torch.cat(features, dim=1))
    logits = sum(one.head(f) for one, f in zip(methods, features)) / 2
    for k, name in enumerate(SUPERCLASSES):
        torch.testing.assert_close(out[:, k - 5], logits[:, TRUTHS.index(name)])
