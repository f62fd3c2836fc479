import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ecgtutorial.losses import (
    ahead_logits,
    byol_loss,
    info_nce_ahead,
    nt_xent,
    patient_contrastive,
    sinkhorn,
    swapped_prediction,
)


def slow_patient_contrastive(z, record, patient, temperature):
    """The sum as the paper prints it, pair by pair, in 64 bits."""
    z = F.normalize(z.double(), dim=1)
    terms = []
    for i in range(len(z)):
        for j in range(len(z)):
            if i != j and record[i] == record[j]:
                below = sum(
                    math.exp(z[i] @ z[k] / temperature)
                    for k in range(len(z))
                    if patient[k] != patient[i]
                )
                terms.append(-math.log(math.exp(z[i] @ z[j] / temperature) / below))
    return sum(terms) / len(terms)


def slow_nt_xent(z, pair, temperature):
    z = F.normalize(z.double(), dim=1)
    terms = []
    for i in range(len(z)):
        similar = {k: math.exp(z[i] @ z[k] / temperature) for k in range(len(z)) if k != i}
        partner = next(k for k in similar if pair[k] == pair[i])
        terms.append(-math.log(similar[partner] / sum(similar.values())))
    return sum(terms) / len(terms)


RECORD = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
PATIENT = torch.tensor([7, 7, 7, 7, 7, 3, 3, 3, 3])  # records 0 and 1 are one patient's


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_patient_contrastive_equals_the_slow_sum(temperature):
    z = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    fast = patient_contrastive(z, RECORD, PATIENT, temperature)
    slow = slow_patient_contrastive(z, RECORD, PATIENT, temperature)
    np.testing.assert_allclose(fast, slow, rtol=1e-5)


def test_patient_contrastive_of_equal_embeddings_is_the_log_of_the_negatives():
    loss = patient_contrastive(torch.ones(9, 4), RECORD, PATIENT)
    # 8 ordered pairs with 4 negatives (patient 7), 12 with 5 (patient 3)
    expected = (8 * math.log(4) + 12 * math.log(5)) / 20
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_patient_contrastive_goes_below_zero_as_printed():
    z = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    loss = patient_contrastive(z, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]), 0.1)
    np.testing.assert_allclose(loss, -20 + math.log(2), rtol=1e-5)


def test_patient_contrastive_ignores_order_and_length_of_embeddings():
    z = torch.randn(9, 6)
    order = torch.randperm(9)
    a = patient_contrastive(z, RECORD, PATIENT)
    b = patient_contrastive(3 * z[order], RECORD[order] + 40, PATIENT[order])
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_other_records_of_a_patient_neither_attract_nor_repel():
    z = torch.randn(9, 6, requires_grad=True)
    row = patient_contrastive(z, RECORD, PATIENT)
    moved = z.detach().clone()
    # Moving record 1 changes nothing between records 0 and its positives: the part of the loss
    # that has record 0 as an anchor is the same.
    moved[3:5] = torch.randn(2, 6)
    keep = torch.tensor([0, 1, 2, 5, 6, 7, 8])
    a = patient_contrastive(z.detach()[keep], RECORD[keep], PATIENT[keep])
    b = patient_contrastive(moved[keep], RECORD[keep], PATIENT[keep])
    np.testing.assert_allclose(a, b)
    assert torch.isfinite(torch.autograd.grad(row, z)[0]).all()


def test_patient_contrastive_gradient():
    z = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    loss = patient_contrastive.__wrapped__  # without the cast to 32 bits
    assert torch.autograd.gradcheck(lambda z: loss(z, RECORD, PATIENT, 0.5), z)


def test_patient_contrastive_edges():
    z = torch.randn(4, 3)
    one = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="one patient"):
        patient_contrastive(z, torch.arange(4), one)
    with pytest.raises(ValueError, match="no positives"):
        patient_contrastive(z, torch.arange(4), torch.arange(4))


def test_nt_xent_equals_the_slow_sum_and_closed_forms():
    pair = torch.tensor([0, 1, 2, 0, 2, 1])
    z = torch.randn(6, 5)
    np.testing.assert_allclose(nt_xent(z, pair, 0.3), slow_nt_xent(z, pair, 0.3), rtol=1e-5)
    np.testing.assert_allclose(nt_xent(torch.ones(6, 5), pair), math.log(5), rtol=1e-6)
    apart = torch.eye(3)[pair]  # partners equal, all others orthogonal
    expected = math.log(1 + 4 * math.exp(-1 / 0.1))
    np.testing.assert_allclose(nt_xent(apart, pair, 0.1), expected, atol=1e-6)


def test_nt_xent_stays_exact_under_autocast():
    pair = torch.arange(32).repeat(2)
    z = torch.randn(64, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z, pair, 0.05)
    assert inside.dtype == torch.float32
    np.testing.assert_allclose(inside, nt_xent(z, pair, 0.05), rtol=1e-6)


def test_nt_xent_needs_pairs():
    with pytest.raises(ValueError, match="exactly two rows"):
        nt_xent(torch.randn(4, 3), torch.tensor([0, 0, 0, 1]))


def test_nt_xent_at_the_limits_of_temperature():
    pair = torch.tensor([0, 0, 1, 1])
    angle = torch.tensor([0.0, 1.0, 1.8, 3.0])  # the partner of 1 is 1.0 away, 2 is 0.8 away
    z = torch.stack([angle.cos(), angle.sin()], dim=1)
    np.testing.assert_allclose(nt_xent(z, pair, 1e6), math.log(3), rtol=1e-5)
    # Cold, only the nearest counts: nothing to pay where it is the partner, else the difference.
    wrong = (math.cos(0.8) - math.cos(1.0)) + (math.cos(0.8) - math.cos(1.2))
    np.testing.assert_allclose(1e-3 * nt_xent(z, pair, 1e-3), wrong / 4, rtol=1e-4)


def test_byol_loss_pulls_the_prediction_alone_and_only_its_direction():
    a, b = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    byol_loss(a, b).backward()
    assert b.grad is None
    assert a.grad.abs().max() > 0.01
    np.testing.assert_allclose((a * a.grad).sum(dim=1).detach(), 0, atol=1e-6)  # not its length
    np.testing.assert_allclose(byol_loss(5 * a, 0.1 * b).item(), byol_loss(a, b).item(), rtol=1e-5)


def cosines(n=40, k=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows, prototypes = (F.normalize(torch.randn(m, 6, generator=generator)) for m in (n, k))
    return rows @ prototypes.T


def test_sinkhorn_without_iterations_is_a_softmax_that_may_share_unfairly():
    scores = cosines() + torch.tensor([2.0] + 7 * [0.0])  # everybody likes the first best
    np.testing.assert_allclose(sinkhorn(scores, 0.05, 0), (scores / 0.05).softmax(dim=1), atol=1e-6)
    assert sinkhorn(scores, 0.05, 0).sum(dim=0)[0] > 39
    # One prototype's popularity does not matter once the rows are shared.
    np.testing.assert_allclose(sinkhorn(scores), sinkhorn(cosines()), atol=1e-4)


def test_swapped_prediction_teaches_the_scores_alone():
    scores = torch.rand(2, 5, 7, requires_grad=True)
    assignments = torch.rand(2, 5, 7).softmax(dim=2).requires_grad_()
    swapped_prediction(scores, assignments, 0.5).backward()
    assert assignments.grad is None
    # The gradient of a cross-entropy: what was predicted less what was assigned to the other view.
    expected = (F.softmax(scores / 0.5, dim=2) - assignments.flip(0)) / (0.5 * 2 * 5)
    np.testing.assert_allclose(scores.grad, expected.detach(), atol=1e-6)


def drawn(ahead, n_all=20, n_negatives=4000, batch=2):
    """Which moments the guesses are held against, 100 x recording + moment: scores that say so."""
    number = 100.0 * torch.arange(batch)[:, None] + torch.arange(n_all)
    predictions = torch.ones(batch, len(ahead), n_all - max(ahead), 1)
    return ahead_logits(predictions, number[:, :, None], ahead, n_negatives)


def test_each_guess_has_negatives_of_its_own():
    moments = drawn((1,), n_all=50, n_negatives=20)[0, 0, :, 1:].sort(dim=1).values
    assert len(torch.unique(moments, dim=0)) == len(moments)


def test_other_recordings_do_not_matter():
    predictions, local = torch.randn(3, 1, 8, 4), torch.randn(3, 20, 4)
    changed = local.clone()
    changed[1:] = torch.randn(2, 20, 4)
    logits = [
        ahead_logits(predictions, x, (12,), 30, torch.Generator().manual_seed(1))
        for x in (local, changed)
    ]
    assert torch.equal(logits[0][0], logits[1][0])
    assert not torch.equal(logits[0][1], logits[1][1])


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: byol_loss(x, x.flip(0)),
        lambda x: sinkhorn(x).square().sum(),
        lambda x: swapped_prediction(x[None].repeat(2, 1, 1), x.softmax(dim=1)[None]),
        lambda x: info_nce_ahead(
            x[None, None, :8], x[None, :20], (12,), 9, torch.Generator().manual_seed(0)
        ),
    ],
    ids=["byol", "sinkhorn", "swapped", "ahead"],
)
def test_losses_compute_in_32_bits_whatever_is_around_them(loss):
    x = torch.randn(32, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(x)
    assert inside.dtype == torch.float32
    np.testing.assert_allclose(inside, loss(x.float()), rtol=1e-2)
