import copy
import math
import time

import pytest
import torch
from torch import nn

from ecgtutorial.evaluate import cost as module
from ecgtutorial.evaluate.cost import PARTS, cost
from ecgtutorial.methods import Batch
from ecgtutorial.methods.byol import BYOL
from ecgtutorial.methods.cpc import CPC
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.spatio_temporal import SpatioTemporal
from ecgtutorial.methods.swav import SwAV
from ecgtutorial.methods.three_kg import ThreeKG


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """One core, and its own time only: what else the machine does is no part of a share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(module.time, "perf_counter", time.process_time)
    yield
    torch.set_num_threads(threads)


def batch(n=8, time=100):
    signals = torch.randn(n, 12, time, generator=torch.Generator().manual_seed(0))
    return Batch(0.2 * signals, torch.arange(n), torch.arange(n))


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class Slow(torch.autograd.Function):
    """The identity, at a known price forward and backward."""

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.back = back
        busy(there)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        busy(ctx.back)
        return gradient, None, None


class Layer(nn.Module):
    def __init__(self, there, back):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.price = there, back

    def forward(self, x):
        return Slow.apply(x * self.weight, *self.price)


class Encoder(Layer):
    """As an own class, so that a head is told from it."""


class Priced(nn.Module):
    """A method whose every part takes a known multiple of `unit` seconds."""

    def __init__(self, unit, held_mb=0):
        super().__init__()
        self.encoder, self.head = Encoder(3 * unit, 5 * unit), Layer(unit, 2 * unit)
        self.target = nn.Sequential(copy.deepcopy(self.encoder), nn.Identity())
        self.target.requires_grad_(False)
        self.unit, self.held_mb = unit, held_mb

    def view(self, signals):
        busy(self.unit)
        return signals

    def loss(self, batch):
        views = torch.cat([self.view(batch.signals), self.view(batch.signals)])
        held = torch.ones(self.held_mb * 250_000)  # written to, so it is really there
        score = self.head(self.encoder(views))
        with torch.no_grad():
            self.target(views)
        return Slow.apply(score, 4 * self.unit, 2 * self.unit).mean() + 0 * held[:1].sum(), {}

    def after_step(self):
        busy(self.unit)


def test_every_part_is_booked_where_it_belongs():
    found = cost(Priced(0.004), batch(), n_steps=3)
    units = {"augmentation": 2, "encoder": 3 + 5 + 3, "heads": 3, "loss": 6, "update": 1}
    for part in PARTS:
        assert found[part] == pytest.approx(units[part] / 23, abs=0.04), part
    assert sum(found[part] for part in PARTS) == pytest.approx(1)
    assert found["records_per_second"] == pytest.approx(8 / (23 * 0.004), rel=0.15)


def test_memory_is_what_a_step_holds_at_most():
    light, heavy = (cost(Priced(0, held), batch(), n_steps=1)["memory_mb"] for held in (0, 200))
    if math.isnan(light):
        pytest.skip("this system does not tell a process's memory")
    assert 190 < heavy - light < 220


@pytest.mark.parametrize(
    "method",
    [
        SimCLR(encoder="xresnet1d50-small"), ThreeKG(variant="A"), BYOL(), BYOL(predictor=False),
        BYOL(stop_gradient=False), SwAV(n_views=3), CPC(), SpatioTemporal(),
    ],
    ids=["simclr", "3kg", "byol", "byol-no-predictor", "byol-no-stop", "swav", "cpc", "ran"],
)  # fmt: skip
def test_every_method_can_be_priced_and_stays_as_it_was(method):
    before = copy.deepcopy(method.state_dict())
    state = torch.random.get_rng_state()
    found = cost(method, batch(), n_steps=1)
    assert list(found) == ["records_per_second", "memory_mb", *PARTS]
    assert all(found[part] > 0 for part in PARTS[1:])
    assert (found["augmentation"] > 0) == hasattr(method, "view")
    assert found["encoder"] > found["heads"]
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None for p in method.parameters())
    assert "view" not in vars(method) and "forward" not in vars(method.encoder)


def test_the_loss_of_cpc_is_cheap():
    """Paper B's network on a sixteenth of its batch: four halves of recordings, not 32 whole."""
    found = cost(CPC(encoder="cpc"), batch(4, 500), n_steps=1)
    assert found["loss"] <= 0.15
    # The whole batch is to take at most 4 GB. Gradients and moments need 60 MB at any size.
    assert not found["memory_mb"] > 100 + 4000 / 16


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_steps is 0"):
        cost(CPC(), batch(), n_steps=0)
