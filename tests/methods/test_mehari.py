"""The four methods of paper B: what they keep between steps, and that they learn."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial.cohort import Cohort
from ecgtutorial.losses import sinkhorn
from ecgtutorial.methods import Batch
from ecgtutorial.methods.byol import BYOL
from ecgtutorial.methods.cpc import CPC, first_unseen
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.swav import SwAV
from ecgtutorial.pretrain import pretrain

SMALL = {
    "simclr": lambda **more: SimCLR(encoder="xresnet1d50-small", seconds=1.0, **more),
    "byol": lambda **more: BYOL(seconds=1.0, **more),
    "swav": lambda **more: SwAV(
        **{"n_views": 3, "prototypes": 12, "queue": 16, "queue_from": 1, "seconds": 1.0} | more
    ),
    "cpc": lambda **more: CPC(seconds=1.0, n_negatives=16, **more),
}


def batch(n=8, time=100, seed=0):
    signals = 0.3 * torch.randn(n, 12, time, generator=torch.Generator().manual_seed(seed))
    return Batch(signals, torch.arange(n), torch.arange(n))


def noise(n=32, time=150):
    generator = np.random.default_rng(0)
    signals = generator.integers(-900, 900, (n, 12, time), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(n), "patient_id": range(n)})
    return Cohort(signals, table, None, 100, "noise")


def step(method, lr=0.05):
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr)
    loss, _ = method.loss(batch())
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.item()


@pytest.mark.parametrize("name", SMALL)
def test_loss_is_a_finite_number_that_reaches_the_encoder(name):
    torch.manual_seed(0)
    method = SMALL[name]()
    loss, _ = method.loss(batch())
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.encoder.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_loss(name):
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(SMALL[name]().loss(batch())[0].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", SMALL)
def test_a_run_goes_on_where_it_stopped(name, tmp_path):
    class Stop(Exception):
        pass

    def train(method, folder):
        pretrain(method, noise(), epochs=3, batch_size=8, lr=1e-2, folder=folder, progress=False,
                 checkpoint_seconds=0.0, accelerator="cpu")  # fmt: skip

    torch.manual_seed(0)
    straight = SMALL[name]()
    interrupted, again = copy.deepcopy(straight), copy.deepcopy(straight)
    train(straight, tmp_path / "straight")
    original, calls = type(interrupted).loss, []

    def loss(self, batch):
        calls.append(1)
        if len(calls) > 7:
            raise Stop
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(type(interrupted), "loss", loss)
        train(interrupted, tmp_path / "interrupted")
    train(again, tmp_path / "interrupted")
    for key, value in straight.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


# --- BYOL -------------------------------------------------------------------------------------


def test_byols_target_averages_every_weight_and_every_statistic():
    torch.manual_seed(0)
    method = BYOL(seconds=1.0, momentum=0.9)
    method.plan(n_steps=10, per_epoch=5)
    slow = {k: v.clone() for k, v in method.target.state_dict().items()}
    for t in range(3):
        step(method)
        keep = 1 - 0.1 * (math.cos(math.pi * t / 10) + 1) / 2
        online = torch.nn.Sequential(method.encoder, method.projector).state_dict()
        for key, value in online.items():
            average = keep * slow[key] + (1 - keep) * value
            slow[key] = average if value.is_floating_point() else value
        for key, value in method.target.state_dict().items():
            if "running" not in key:  # see the next test
                torch.testing.assert_close(value, slow[key], atol=1e-6, rtol=1e-5, msg=key)
    assert any("bias" in key for key in slow) and any("running" in key for key in slow)


def test_byols_target_statistics_move_towards_the_networks():
    torch.manual_seed(0)
    method = BYOL(seconds=1.0, momentum=0.0)  # the target becomes the network at once
    method.plan(n_steps=10**6, per_epoch=1)
    step(method)
    online = torch.nn.Sequential(method.encoder, method.projector).state_dict()
    for key, value in method.target.state_dict().items():
        torch.testing.assert_close(value, online[key], atol=1e-6, rtol=1e-4, msg=key)


def test_byols_target_stands_still_at_the_end():
    torch.manual_seed(0)
    method = BYOL(seconds=1.0)
    method.plan(n_steps=1, per_epoch=1)
    step(method)
    before = {k: v.clone() for k, v in method.target.named_parameters()}
    step(method)  # past the planned end: momentum 1
    assert all(torch.equal(v, before[k]) for k, v in method.target.named_parameters())


def test_byols_target_gets_no_gradient_unless_it_is_the_network_itself():
    torch.manual_seed(0)
    method = BYOL(seconds=1.0)
    method.loss(batch())[0].backward()
    assert all(p.grad is None for p in method.target.parameters())

    gradients = {}
    for stop in (True, False):  # with and without: the encoder learns through one side or both
        torch.manual_seed(0)
        method = BYOL(seconds=1.0, stop_gradient=stop, predictor=False)
        method.loss(batch())[0].backward()
        gradients[stop] = method.encoder.stem[0][0].weight.grad.clone()
    assert not torch.allclose(gradients[True], gradients[False])


# --- SwAV -------------------------------------------------------------------------------------


def test_prototypes_wait_for_their_epoch_and_stay_on_the_sphere():
    torch.manual_seed(0)
    method = SMALL["swav"]()
    method.plan(n_steps=8, per_epoch=2)
    start = method.prototypes.detach().clone()
    for t in range(4):
        step(method)
        moved = not torch.allclose(method.prototypes, start, atol=1e-6)
        assert moved == (t >= 2)
        torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(12))


def test_the_queue_holds_the_latest_records_first():
    torch.manual_seed(0)
    method = SMALL["swav"](queue=12)
    rows = [torch.randn(8, 128) for _ in range(2)]
    for z in rows:
        for view in (0, 1):
            method._assign(z, view, epoch=0)
    torch.testing.assert_close(method.queue[0], torch.cat([rows[1], rows[0]])[:12])
    assert int(method.queued) == 16


def test_the_queue_takes_part_when_it_is_full_and_its_epoch_has_come():
    torch.manual_seed(0)
    method = SMALL["swav"](queue=8, queue_from=3)
    old, z = (torch.nn.functional.normalize(torch.randn(8, 128), dim=1) for _ in range(2))
    alone = sinkhorn(z @ method.prototypes.T.detach())
    together = sinkhorn(torch.cat([z, old]) @ method.prototypes.T.detach())[:8]
    shares = sinkhorn(old @ method.prototypes.T)
    torch.testing.assert_close(method._assign(old, 0, epoch=5), shares)
    method._assign(old, 1, epoch=5)  # now the queue is full
    torch.testing.assert_close(copy.deepcopy(method)._assign(z, 0, epoch=2), alone)
    torch.testing.assert_close(method._assign(z, 0, epoch=3), together)


def test_swav_wants_two_views():
    with pytest.raises(ValueError, match="n_views is 1"):
        SwAV(n_views=1)


# --- CPC --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fs, encoder, ahead",
    [(100, "cpc", 12), (100, "cpc-small", 3), (500, "cpc", 60), (100, "cpc-strided", 4)],
)
def test_cpc_looks_120_ms_ahead_and_past_all_it_has_seen(fs, encoder, ahead):
    assert CPC(fs=fs, encoder=encoder).ahead == (ahead,)


@pytest.mark.parametrize("name", ["cpc", "cpc-small", "cpc-strided"])
def test_the_first_unseen_token_shares_no_sample_with_the_past(name):
    encoder = CPC(encoder=name).encoder.eval()
    signals = torch.randn(1, 12, 400, generator=torch.Generator().manual_seed(0))
    signals.requires_grad_()
    local = encoder.local(signals)  # (1, token, channels)

    def seen(token):
        (slope,) = torch.autograd.grad(local[0, token].sum(), signals, retain_graph=True)
        return set(slope[0].abs().sum(dim=0).nonzero()[:, 0].tolist())  # samples

    ahead = first_unseen(encoder)
    assert not seen(5) & seen(5 + ahead)
    assert ahead == 1 or seen(5) & seen(5 + ahead - 1)  # and it is the first


def test_cpc_learns_to_guess_what_can_be_guessed():
    time = torch.arange(100) / 100
    hertz = torch.rand(16, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 + 1
    waves = 0.3 * torch.sin(2 * math.pi * hertz * time + torch.arange(12)[:, None])
    torch.manual_seed(0)
    method = SMALL["cpc"]()
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    parts = []
    for _ in range(60):
        loss, part = method.loss(Batch(waves, torch.arange(16), torch.arange(16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        parts.append((loss.item(), float(part["accuracy"])))
    assert parts[0][0] == pytest.approx(math.log(17), abs=0.3)  # at first: a guess
    assert parts[-1][0] < 1.5 and parts[-1][1] > 2 * parts[0][1]
