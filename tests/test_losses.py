import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ecgtutorial.losses import nt_xent, patient_contrastive


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
