"""BYOL's, SwAV's and CPC's losses: closed forms, symmetries, slow versions, gradients, edges."""

import math

import pytest
import torch
from torch.nn import functional as F

from ecgtutorial.losses import (
    ahead_logits,
    byol_loss,
    info_nce_ahead,
    nt_xent,
    sinkhorn,
    swapped_prediction,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- NT-Xent ----------------------------------------------------------------------------------


def test_nt_xent_at_a_high_temperature_is_the_log_of_the_others():
    pair = torch.arange(8).repeat(2)
    assert float(nt_xent(normal(16, 5), pair, 1e6)) == pytest.approx(math.log(15), abs=1e-4)


def test_nt_xent_at_a_low_temperature_asks_only_who_is_nearest():
    z = F.normalize(normal(4, 5), dim=1).repeat(2, 1)  # every partner is the nearest
    assert float(nt_xent(z, torch.arange(4).repeat(2), 1e-3)) == pytest.approx(0, abs=1e-4)


def test_nt_xent_does_not_care_about_order_or_length():
    z, pair = normal(12, 6), torch.arange(6).repeat(2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    expected = nt_xent(z, pair)
    torch.testing.assert_close(nt_xent(z[order], pair[order]), expected)
    torch.testing.assert_close(nt_xent(z * torch.rand(12, 1).add(0.5), pair), expected)


# --- BYOL -------------------------------------------------------------------------------------


def test_byol_loss_of_equal_opposite_and_orthogonal_vectors():
    x = F.normalize(normal(5, 4), dim=1)
    assert float(byol_loss(x, 3 * x)) == pytest.approx(0, abs=1e-6)
    assert float(byol_loss(x, -x)) == pytest.approx(4, abs=1e-6)
    assert float(byol_loss(torch.eye(4)[:2], torch.eye(4)[2:])) == pytest.approx(2)


def test_byol_loss_is_the_squared_distance_of_unit_vectors():
    x, y = normal(7, 5), normal(7, 5, seed=1)
    distance = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean()
    torch.testing.assert_close(byol_loss(x, y), distance)


def test_no_gradient_reaches_byols_target():
    x, y = normal(7, 5).requires_grad_(), normal(7, 5, seed=1).requires_grad_()
    byol_loss(x, y).backward()
    assert y.grad is None
    assert x.grad.abs().sum() > 0


def test_byol_loss_wants_one_shape():
    with pytest.raises(ValueError, match=r"prediction \(2, 3\) and target \(3, 3\)"):
        byol_loss(torch.ones(2, 3), torch.ones(3, 3))


# --- Sinkhorn ---------------------------------------------------------------------------------


def slow_sinkhorn(scores, epsilon, n_iterations):
    """Exponentials in 64 bits, columns and rows divided in turn, one by one."""
    q = torch.exp(scores.double() / epsilon)
    for _ in range(n_iterations):
        for k in range(q.shape[1]):
            q[:, k] /= q[:, k].sum()
        for i in range(q.shape[0]):
            q[i] /= q[i].sum()
    return (q / q.sum(dim=1, keepdim=True)).float()


@pytest.mark.parametrize("n_iterations", [0, 1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_sinkhorn_equals_the_slow_version(epsilon, n_iterations):
    scores = normal(12, 5).clamp(-1, 1)
    fast = sinkhorn(scores, epsilon, n_iterations)
    torch.testing.assert_close(fast, slow_sinkhorn(scores, epsilon, n_iterations))


def test_sinkhorns_marginals():
    scores = F.normalize(normal(64, 9), dim=1)
    errors = []
    for n_iterations in (1, 3, 50):
        q = sinkhorn(scores, 0.05, n_iterations)
        torch.testing.assert_close(q.sum(dim=1), torch.ones(64))  # every row is assigned once
        errors.append((q.sum(dim=0) - 64 / 9).abs().max())  # prototypes share equally
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2


def test_sinkhorn_without_iterations_is_a_softmax():
    scores = normal(6, 4)
    torch.testing.assert_close(sinkhorn(scores, 0.5, 0), (scores / 0.5).softmax(dim=1))


def test_sinkhorn_when_all_rows_want_one_prototype():
    scores = torch.zeros(8, 4)
    scores[:, 0] = 1
    assert (sinkhorn(scores, 0.05, 0)[:, 0] > 0.99).all()  # collapse
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), torch.full((8, 4), 0.25))


def test_sinkhorn_becomes_hard_and_soft():
    scores = torch.eye(4).repeat(2, 1) + 0.1 * normal(8, 4)
    assert sinkhorn(scores, 1e-3, 20).amax(dim=1).min() > 0.99
    torch.testing.assert_close(sinkhorn(scores, 1e6, 3), torch.full((8, 4), 0.25))


def test_sinkhorn_permutes_with_rows_and_prototypes():
    scores = normal(10, 6)
    rows, columns = torch.randperm(10), torch.randperm(6)
    torch.testing.assert_close(
        sinkhorn(scores[rows][:, columns]), sinkhorn(scores)[rows][:, columns]
    )


def test_sinkhorn_of_large_scores_is_finite_and_without_gradient():
    scores = (1e4 * normal(10, 6)).requires_grad_()
    q = sinkhorn(scores, 0.05, 3)
    assert q.isfinite().all() and not q.requires_grad


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"n_iterations": -1}])
def test_sinkhorn_refuses(wrong):
    with pytest.raises(ValueError, match="epsilon .*, n_iterations"):
        sinkhorn(torch.zeros(2, 2), **wrong)


# --- swapped prediction -----------------------------------------------------------------------


@pytest.mark.parametrize("n_views, n_assigned", [(2, 2), (6, 2), (3, 1)])
def test_swapped_prediction_equals_the_slow_sum(n_views, n_assigned):
    scores = normal(n_views, 5, 4)
    assignments = normal(n_assigned, 5, 4, seed=1).softmax(dim=2)
    terms = []
    for a in range(n_assigned):
        for v in range(n_views):
            if a != v:
                for i in range(5):
                    log_p = torch.log(torch.exp(scores[v, i] / 0.1).double())
                    log_p = log_p - torch.exp(log_p).sum().log()
                    terms.append(-(assignments[a, i].double() * log_p).sum())
    slow = torch.stack(terms).mean().float()
    torch.testing.assert_close(swapped_prediction(scores, assignments, 0.1), slow)


def test_swapped_prediction_is_symmetric_and_knows_its_limits():
    scores, assignments = normal(2, 5, 4), normal(2, 5, 4, seed=1).softmax(dim=2)
    torch.testing.assert_close(
        swapped_prediction(scores.flip(0), assignments.flip(0)),
        swapped_prediction(scores, assignments),
    )
    same = swapped_prediction(torch.zeros(2, 5, 4), assignments)
    assert float(same) == pytest.approx(math.log(4), abs=1e-6)
    sure = torch.eye(4)[None].repeat(2, 1, 1)
    assert float(swapped_prediction(100 * sure, sure)) == pytest.approx(0, abs=1e-6)


def test_no_gradient_reaches_the_assignments():
    scores, assignments = normal(2, 5, 4).requires_grad_(), torch.rand(2, 5, 4).requires_grad_()
    swapped_prediction(scores, assignments).backward()
    assert assignments.grad is None and scores.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "scores, assignments", [((1, 5, 4), (1, 5, 4)), ((2, 5, 4), (3, 5, 4)), ((2, 5, 4), (2, 5, 3))]
)
def test_swapped_prediction_wants_shapes_that_fit(scores, assignments):
    with pytest.raises(ValueError, match="at least two views"):
        swapped_prediction(torch.zeros(scores), torch.zeros(assignments))


# --- InfoNCE ahead in time --------------------------------------------------------------------


def slow_logits(predictions, local, ahead, n_negatives, generator):
    """Position by position, with the same draws."""
    batch, n_steps, n_tokens, _ = predictions.shape
    n_all = local.shape[1]
    draws = torch.randint(n_all - 1, (batch, n_steps * n_tokens, n_negatives), generator=generator)
    logits = torch.zeros(batch, n_steps, n_tokens, 1 + n_negatives)
    for b in range(batch):
        for s, k in enumerate(ahead):
            for t in range(n_tokens):
                guess, true = predictions[b, s, t], t + k
                logits[b, s, t, 0] = guess @ local[b, true]
                for i, other in enumerate(draws[b, s * n_tokens + t]):
                    other = int(other) + int(other >= true)
                    assert other != true
                    logits[b, s, t, 1 + i] = guess @ local[b, other]
    return logits


@pytest.mark.parametrize("ahead", [(3,), (1, 2, 5)])
def test_vectorised_cpc_equals_the_loop(ahead):
    def both(function):
        local = normal(2, 15, 6).requires_grad_()
        predictions = normal(2, len(ahead), 15 - max(ahead), 6, seed=1).requires_grad_()
        generator = torch.Generator().manual_seed(2)
        logits = function(predictions, local, ahead, 7, generator)
        loss = -logits.log_softmax(dim=-1)[..., 0].mean()
        loss.backward()
        return logits.detach(), loss.detach(), local.grad, predictions.grad

    for fast, slow in zip(both(ahead_logits), both(slow_logits)):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_info_nce_is_the_cross_entropy_of_the_logits():
    arguments = normal(2, 1, 8, 4), normal(2, 11, 4, seed=1), (3,), 5
    loss = info_nce_ahead(*arguments, generator=torch.Generator().manual_seed(0))
    logits = ahead_logits(*arguments, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(logits[..., 0].numel(), dtype=torch.long)
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 2), target))


def test_equal_scores_cost_the_log_of_the_answers():
    loss = info_nce_ahead(torch.zeros(2, 1, 8, 4), normal(2, 20, 4), (12,), n_negatives=128)
    assert float(loss) == pytest.approx(math.log(129), abs=1e-5)


def test_negatives_are_every_other_moment_of_the_same_recording():
    n_all, ahead = 9, 3
    local = torch.eye(n_all).repeat(2, 1, 1)  # the score of a guess of ones with moment s is 1
    local = local * torch.arange(1, n_all + 1)[:, None]  # ... and here s + 1: it says which it is
    local[1] += 100  # another recording has other numbers
    ones = torch.ones(2, 1, n_all - ahead, n_all)
    generator = torch.Generator().manual_seed(0)
    logits = ahead_logits(ones, local, (ahead,), 4000, generator)[0, 0]  # (token, 1 + 4000)
    for t, row in enumerate(logits):
        assert row[0] == t + ahead + 1
        counts = torch.bincount(row[1:].long(), minlength=n_all + 1)
        assert counts[t + ahead + 1] == 0 and counts[0] == 0 and len(counts) == n_all + 1
        others = torch.cat([counts[1 : t + ahead + 1], counts[t + ahead + 2 :]])
        assert (others - 4000 / (n_all - 1)).abs().max() < 120  # 5.7 deviations


@pytest.mark.parametrize("n_tokens, ahead", [(8, (3, 4)), (9, (3,)), (8, (0,)), (0, (11,))])
def test_cpc_wants_shapes_that_fit(n_tokens, ahead):
    with pytest.raises(ValueError, match=r"11 tokens and steps"):
        ahead_logits(torch.zeros(2, 1, n_tokens, 4), torch.zeros(2, 11, 4), ahead)


def test_losses_leave_autocast():
    z = normal(8, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert byol_loss(z, z).dtype == torch.float32
        assert ahead_logits(z.view(2, 1, 4, 4), normal(2, 5, 4).bfloat16(), (1,)).dtype == (
            torch.float32
        )
