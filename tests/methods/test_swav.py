import pytest
import torch
from torch.nn import functional as F

from ecgtutorial.losses import sinkhorn
from ecgtutorial.methods import Batch, swav
from ecgtutorial.methods.swav import SwAV


def make(**more):
    torch.manual_seed(0)
    defaults = {"n_views": 3, "prototypes": 12, "hidden": 32, "features": 16, "queue": 12}
    return SwAV(seconds=1.0, **{**defaults, "queue_from": 1, **more})


def batch(n=6):
    signals = 0.3 * torch.randn(n, 12, 100, generator=torch.Generator().manual_seed(0))
    return Batch(signals, torch.arange(n), torch.arange(n))


def train(method, n_steps, **more):
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2, **more)
    for _ in range(n_steps):
        loss, _ = method.loss(batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step()
        yield method.prototypes.detach().clone()


def test_frozen_prototypes_get_a_zero_gradient_and_weight_decay_does_not_turn_them():
    method = make()
    method.plan(n_steps=9, per_epoch=3)
    start, norms = method.prototypes.detach().clone(), []
    for step, prototypes in enumerate(train(method, 6, weight_decay=0.1)):
        norms.append(prototypes.norm(dim=1))
        assert method.prototypes.grad is not None  # every process sends one
        assert (step < 3) == (not method.prototypes.grad.any())
        assert (step < 3) == torch.allclose(prototypes, start, atol=1e-6)
    torch.testing.assert_close(torch.stack(norms), torch.ones(6, 12))


def test_the_loss_is_that_of_the_papers_equations():
    method = make(queue=0, n_iterations=0, temperature=0.2, epsilon=0.3).eval()
    views = torch.randn(3, 6, 12, 100)
    method.view = lambda signals, queue=list(views): queue.pop(0)
    with torch.no_grad():
        loss, parts = method.loss(batch())
        z = [F.normalize(method.projector(method.encoder(v)), dim=1) for v in views]
        scores = [a @ method.prototypes.T for a in z]
    assigned = [(s / 0.3).softmax(dim=1) for s in scores[:2]]  # no iterations: a softmax
    terms = [
        -(assigned[a] * (scores[v] / 0.2).log_softmax(dim=1)).sum(dim=1).mean()
        for a in range(2)
        for v in range(3)
        if a != v
    ]
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
    assert parts == {}


def test_the_queue_joins_once_it_is_full_and_its_epoch_is_there(monkeypatch):
    rows = []
    monkeypatch.setattr(swav, "sinkhorn", lambda s, *more: (rows.append(len(s)), sinkhorn(s))[1])
    for queue, queue_from, expected in (
        (12, 1, [6, 6, 18, 18, 18]),  # full after two steps, an epoch has two
        (12, 2, [6, 6, 6, 6, 18]),
        (18, 1, [6, 6, 6, 24, 24]),
        (0, 0, [6, 6, 6, 6, 6]),
    ):
        method = make(queue=queue, queue_from=queue_from)
        method.plan(n_steps=5, per_epoch=2)
        rows.clear()
        list(train(method, 5))
        assert rows[::2] == rows[1::2] == expected  # both assigned views alike


def test_the_queue_holds_embeddings_of_the_assigned_views_and_looking_adds_none():
    method = make()
    seen = []
    inner = method._assign
    method._assign = lambda z, view, epoch: (seen.append(z.detach()), inner(z, view, epoch))[1]
    list(train(method, 3))
    for view in (0, 1):
        torch.testing.assert_close(method.queue[view], torch.cat([seen[4 + view], seen[2 + view]]))
    torch.testing.assert_close(method.queue.norm(dim=2), torch.ones(2, 12))
    before, queued = method.queue.clone(), int(method.queued)
    method.eval().loss(batch())
    assert torch.equal(method.queue, before) and int(method.queued) == queued == 18


@pytest.mark.parametrize("n_iterations, shared", [(0, False), (3, True)])
def test_only_the_sharing_keeps_records_from_one_prototype(n_iterations, shared):
    method = make(queue=0, n_iterations=n_iterations)
    z = F.normalize(method.prototypes.detach()[:1] + 0.02 * torch.randn(24, 16), dim=1)
    used = method._assign(z, 0, epoch=0).argmax(dim=1).unique()
    assert (len(used) > 6) == shared and (len(used) == 1) != shared
