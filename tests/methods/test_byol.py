import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecgtutorial.methods import Batch
from ecgtutorial.methods.byol import BYOL


def byol(**more):
    torch.manual_seed(0)
    return BYOL(**{"seconds": 1.0, "hidden": 32, "views": {}} | more)  # no views: no draws


def batch(n=6):
    signals = 0.3 * torch.randn(n, 12, 100, generator=torch.Generator().manual_seed(0))
    return Batch(signals, torch.arange(n), torch.arange(n))


def shake(module):
    """Change everything a module holds, as a training step would."""
    for name, value in module.state_dict().items():
        value.add_(0.01 * torch.rand_like(value) if value.is_floating_point() else 3)


def test_the_moving_average_leaves_nothing_out():
    method = byol(momentum=0.9)
    method.plan(n_steps=10**9, per_epoch=1)  # the momentum stays
    shake(method.encoder)
    shake(method.projector)
    online = {
        f"{place}.{name}": value
        for place, part in enumerate((method.encoder, method.projector))
        for name, value in part.state_dict().items()
    }
    before = {name: value.clone() for name, value in method.target.state_dict().items()}
    assert online.keys() == before.keys()
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert {name.rsplit(".")[-1] for name in before} == set(kinds)
    method.after_step()
    for name, value in method.target.state_dict().items():
        assert not torch.equal(value, before[name]), name
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * online[name], msg=name)
        else:
            assert torch.equal(value, online[name]), name


def kept(method):
    """The momentum of the next step: what is left of a 1 in the target when the network is 0."""
    name, value = next(method.target.named_parameters())
    value.data.fill_(1)
    next(method.encoder.parameters()).data.zero_()
    method.after_step()
    return value.mean().item()


def test_the_momentum_rises_along_a_half_cosine_to_one():
    method = byol(momentum=0.6)
    method.plan(n_steps=8, per_epoch=2)
    found = [kept(method) for _ in range(10)]
    expected = [1 - 0.4 * (math.cos(math.pi * min(step / 8, 1)) + 1) / 2 for step in range(10)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert expected[0] == 0.6 and expected[4] == pytest.approx(0.8) and expected[8] == 1.0


def test_the_loss_is_both_distances_and_the_target_sees_each_view():
    method = byol().eval()
    shake(method.target)
    views = torch.stack([torch.randn(6, 12, 100), 9 * torch.rand(6, 12, 1) + torch.zeros(100)])
    method.view = lambda signals, queue=list(views): queue.pop(0)
    loss, _ = method.loss(batch())

    def distance(mine, other):
        p = F.normalize(method.predictor(method.projector(method.encoder(views[mine]))), dim=1)
        t = F.normalize(method.target(views[other]), dim=1)
        return (p - t).square().sum(dim=1).mean()

    torch.testing.assert_close(loss, distance(0, 1) + distance(1, 0), rtol=1e-4, atol=1e-5)
    assert (loss - distance(0, 0) - distance(1, 1)).abs() > 0.01  # the other view, not its own


def test_every_weight_but_the_targets_learns():
    method = byol()
    method.loss(batch())[0].backward()
    learns = {name for name, p in method.named_parameters() if p.grad is not None}
    assert learns == {n for n, _ in method.named_parameters() if not n.startswith("target.")}


def test_without_the_stop_both_sides_learn():
    views = torch.cat([batch().signals, batch().signals + 0.5])
    method = byol(stop_gradient=False).eval()
    method.view = lambda signals, queue=list(views.chunk(2)): queue.pop(0)
    z = method.projector(method.encoder(views))
    a, b = z.chunk(2)
    cosine = F.cosine_similarity(method.predictor(z), torch.cat([b, a]))
    held = F.cosine_similarity(method.predictor(z), torch.cat([b, a]).detach())
    loss, _ = method.loss(batch())
    weight = method.encoder.stem[0][0].weight
    free, expected, stopped = (
        torch.autograd.grad(value, weight, retain_graph=True)[0]
        for value in (loss, 4 - 4 * cosine.mean(), 4 - 4 * held.mean())
    )
    assert loss.item() == pytest.approx(4 - 4 * held.mean().item(), abs=1e-4)  # the same value
    torch.testing.assert_close(free, expected, rtol=1e-3, atol=1e-5)
    assert (free - stopped).norm() > 0.05 * free.norm()  # another gradient


def test_without_a_predictor_the_embedding_is_the_prediction():
    method = byol(predictor=False)
    assert isinstance(method.predictor, nn.Identity)
    # Target and network are equal at first, and so are the views here: nothing to learn.
    loss, _ = method.loss(batch())
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-5, rtol=0)
    loss, _ = byol().loss(batch())
    assert loss > 0.1
