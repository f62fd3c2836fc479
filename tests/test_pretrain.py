import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ecgtutorial.cohort import Cohort
from ecgtutorial.methods.byol import BYOL
from ecgtutorial.methods.cpc import CPC
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.spatio_temporal import SpatioTemporal
from ecgtutorial.methods.swav import SwAV
from ecgtutorial.methods.three_kg import ThreeKG
from ecgtutorial.pretrain import health, pretrain

TRAINING = {
    "epochs": 6, "batch_size": 8, "weight_decay": 0.01, "warmup": 0.1, "schedule": "cosine",
    "checkpoint_seconds": 0.0, "progress": False, "accelerator": "cpu",
}  # fmt: skip
SMALL = {
    "3kg": lambda: ThreeKG(seconds=1.0),
    "simclr": lambda: SimCLR(seconds=1.0),
    "byol": lambda: BYOL(seconds=1.0, hidden=32),
    "swav": lambda: SwAV(
        seconds=1.0, n_views=3, prototypes=12, hidden=32, features=16, queue=16, queue_from=1
    ),
    "cpc": lambda: CPC(seconds=1.0, n_negatives=16),
    "spatio-temporal": lambda: SpatioTemporal(seconds=1.0, width=16),
    "mask-only": lambda: SpatioTemporal(seconds=1.0, width=16, shuffle=0.0),
}
KILLED = ("cpc", "byol", "swav")  # the last two keep a moving target, a queue, a count of steps


def make(name):
    torch.manual_seed(0)
    return SMALL[name]()


def cohort(n=40, time=300):
    generator = np.random.default_rng(0)
    signals = generator.integers(-900, 900, (n, 12, time), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(n), "patient_id": np.arange(n) // 2})
    return Cohort(signals, table, None, 100, "noise")


@pytest.fixture
def one_thread():
    """As many threads as the processes that a test starts: sums come out the same to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(function, folder):
    """Call a function of this file in a process of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, function, folder], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def train_all(folder):
    """Train the methods `KILLED`, one after the other, or go on where that stopped."""
    for name in KILLED:
        pretrain(make(name), cohort(), folder=Path(folder) / name, **TRAINING)


def steps_done(checkpoint):
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"])


def test_runs_killed_at_random_steps_end_with_the_same_weights(tmp_path, one_thread):
    train_all(tmp_path / "straight")
    dice = random.Random(0)
    for name in KILLED:  # one process after the other, killed within the run of this method
        checkpoint = tmp_path / "killed" / name / "checkpoint.safetensors"
        process, enough = start("train_all", tmp_path / "killed"), dice.randrange(8, 18)
        while steps_done(checkpoint) < enough and process.poll() is None:
            time.sleep(0.002)
        time.sleep(dice.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait(120) == -signal.SIGKILL
    train_all(tmp_path / "killed")
    for name in KILLED:
        expected, found = (
            load_file(tmp_path / way / name / "checkpoint.safetensors")
            for way in ("straight", "killed")
        )
        assert expected.keys() == found.keys()
        assert any(key.startswith("optimizer.") for key in expected)
        for key in expected:
            assert torch.equal(expected[key], found[key]), f"{name}: {key}"


def test_a_checkpoint_holds_all_that_a_method_keeps(tmp_path):
    kept = {
        "byol": ("step", "target.0.stem.0.1.running_var", "target.1.3.bias"),
        "swav": ("step", "queue", "queued", "prototypes"),
    }
    for name, tensors in kept.items():
        method = make(name)
        pretrain(method, cohort(), folder=tmp_path / name, **{**TRAINING, "epochs": 2})
        stored = load_file(tmp_path / name / "checkpoint.safetensors")
        assert {f"method.{tensor}" for tensor in tensors} <= stored.keys()
        assert stored["method.step"] == 10
        assert all(torch.equal(stored[f"method.{k}"], v) for k, v in method.state_dict().items())


def test_training_lowers_the_loss_and_logs_each_step():
    torch.manual_seed(0)
    method = SimCLR(seconds=1.0)
    state = torch.random.get_rng_state()
    log = pretrain(method, cohort(), epochs=6, batch_size=16, progress=False)
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's generator is left alone
    assert len(log) == 12 and list(log["step"]) == list(range(12))
    assert log["loss"].iloc[-3:].mean() < log["loss"].iloc[:3].mean()
    assert log["deviation"].notna().sum() == 6


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        method = ThreeKG(seconds=1.0)
        losses.append(pretrain(method, cohort(), epochs=1, seed=seed, batch_size=8, progress=False))
    assert losses[0]["loss"].equals(losses[1]["loss"])
    assert not losses[0]["loss"].equals(losses[2]["loss"])


def test_a_small_cohort_is_one_batch():
    log = pretrain(SimCLR(seconds=1.0), cohort(6), epochs=2, batch_size=128, progress=False)
    assert len(log) == 2


def test_health_tells_spread_from_collapse():
    class Fixed(torch.nn.Module):
        def __init__(self, features):
            super().__init__()
            self.features = features

        def forward(self, signals):
            return self.features

    spread = health(Fixed(torch.randn(256, 32)), None)
    assert spread["deviation"] > 0.9 and spread["rank"] > 28
    flat = health(Fixed(torch.ones(256, 32) + 1e-5 * torch.randn(256, 1)), None)
    assert flat["deviation"] < 0.01
    line = health(Fixed(torch.randn(256, 1) * torch.ones(1, 32)), None)
    assert line["rank"] < 1.5


def test_collapse_is_warned_about():
    method = SimCLR(seconds=1.0)
    for parameter in method.encoder.parameters():
        parameter.data.zero_()
        parameter.requires_grad_(False)
    with pytest.warns(UserWarning, match="SimCLR has collapsed"):
        pretrain(method, cohort(), epochs=10, batch_size=8, progress=False)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    import ecgtutorial.pretrain as module

    pretrain(SimCLR(seconds=1.0), cohort(), epochs=1, batch_size=8, folder=tmp_path, progress=False)
    good = (tmp_path / "checkpoint.safetensors").read_bytes()

    def no_space(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", no_space)
    method = SimCLR(seconds=1.0)
    with pytest.raises(OSError, match="No space left"):
        module._save(tmp_path, method, torch.optim.AdamW(method.parameters()), 1, 5, [])
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"ThreeKG wants crops of 5.0 s.*last 3 s"):
        pretrain(ThreeKG(), cohort(), progress=False)
    with pytest.raises(ValueError, match="schedule is 'linear'"):
        pretrain(SimCLR(seconds=1.0), cohort(), schedule="linear", progress=False)
    pretrain(SimCLR(seconds=1.0), cohort(), epochs=1, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="belongs to a run of 1 steps: this one has 2"):
        pretrain(SimCLR(seconds=1.0), cohort(), epochs=2, folder=tmp_path, progress=False)


# On two processes: batch normalisation at rest and views without chance, so that a record means
# the same wherever it is, or a run like any other.
STILL = ("simclr", "byol", "swav", "spatio-temporal")
LIVELY = ("byol", "swav", "cpc", "spatio-temporal", "mask-only")


def train_still(name):
    """Three steps of a run without chance: losses, gradients of each step, SwAV's assignments."""
    method = make(name)
    if name == "swav":
        method.queue_from = 0
    shift = iter(range(100))  # the views of a step differ
    method.view = lambda signals: signals * (1 + 0.1 * (next(shift) % 3))
    if name == "spatio-temporal":  # every other sample hidden, every lead moved on
        hidden = torch.arange(100).expand(12, 100) % 2 > 0
        method.view = lambda signals: (
            signals.masked_fill(hidden, 0).roll(1, dims=1), hidden.expand_as(signals),
            torch.arange(12).roll(1).expand(len(signals), 12),
        )  # fmt: skip
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():  # the statistics of all records, once and for all
        signals = torch.from_numpy(cohort(32, 100).signals / np.float32(1000))
        z = getattr(method, "projector", torch.nn.Identity())(method.encoder(signals))
        getattr(method, "predictor", torch.nn.Identity())(z)
        getattr(method, "target", torch.nn.Identity())(signals)
    method.train = lambda mode=True: method
    torch.nn.Module.train(method, False)
    grads, shares = [], []

    def after_step():
        grads.append([p.grad.clone() for p in method.parameters() if p.requires_grad])
        getattr(type(method), "after_step", lambda self: None)(method)

    def assign(z, view, epoch):
        method.training = True  # the queue fills in training alone
        shares.append(SwAV._assign(method, z, view, epoch))
        method.training = False
        return shares[-1]

    method.after_step = after_step
    if name == "swav":
        method._assign = assign
    log = pretrain(
        method, cohort(32, 100), epochs=3, batch_size=32, lr=1e-3, precision="32-true",
        accelerator="cpu", progress=False,
    )  # fmt: skip
    return {"loss": log["loss"].tolist(), "grads": grads, "shares": shares}


def train_together(folder):
    """What each of two processes does."""
    found = {name: train_still(name) for name in STILL}
    for name in LIVELY:
        method = make(name)
        log = pretrain(
            method, cohort(32, 150), epochs=3, batch_size=16, accelerator="cpu", progress=False
        )
        found[f"lively {name}"] = {"loss": log["loss"].tolist(), "end": method.state_dict()}
    torch.save(found, Path(folder) / f"{os.environ['RANK']}.pt")


def test_two_processes_do_what_one_does(tmp_path, one_thread):
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         __file__, "train_together", tmp_path],
        check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, capture_output=True,
    )  # fmt: skip
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in STILL:
        one, two = train_still(name), [found[name] for found in ranks]
        # Contrast is with the whole batch, so both know its loss; else each knows its half's.
        losses = np.array([found["loss"] for found in two])
        if name == "simclr":
            np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
        np.testing.assert_allclose(losses.mean(axis=0), one["loss"], rtol=2e-4, atol=1e-5)
        for found in two:  # averaged over processes: the gradient of the whole batch's loss
            for a, b in zip(found["grads"][0], one["grads"][0], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()) + 1e-7)
        assert max(float(gradient.abs().max()) for gradient in one["grads"][0]) > 1e-2
        assert len(one["shares"]) == (6 if name == "swav" else 0)
        for first, second, whole in zip(two[0]["shares"], two[1]["shares"], one["shares"]):
            torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-3, atol=1e-4)
    for name in LIVELY:
        first, second = (found[f"lively {name}"] for found in ranks)
        assert np.isfinite(first["loss"] + second["loss"]).all() and len(first["loss"]) == 6
        for key, value in first["end"].items():  # statistics are each process's until the next step
            if "running" not in key:
                assert torch.equal(value, second["end"][key]), f"{name}: {key}"


def test_a_checkpoint_is_not_a_pickle(tmp_path):
    pretrain(SimCLR(seconds=1.0), cohort(), epochs=1, folder=tmp_path, progress=False)
    data = (tmp_path / "checkpoint.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"]["step"] == "1"


def test_signals_too_large_for_the_device_give_the_same_run(monkeypatch):
    import ecgtutorial.pretrain as module

    losses = []
    for share in (0.5, 0.0):  # 0: nothing fits, so every crop is read from the array
        monkeypatch.setattr(module, "DEVICE_SHARE", share)
        torch.manual_seed(2)
        method = SimCLR(seconds=1.0)
        losses.append(pretrain(method, cohort(), epochs=2, batch_size=8, progress=False)["loss"])
    assert losses[0].equals(losses[1])


def test_a_run_that_breaks_leaves_the_callers_generator_alone(monkeypatch):
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(SimCLR, "loss", lambda self, batch: (nan * 1, {}))
    method = SimCLR(seconds=1.0)
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="loss is nan at step 0: try a smaller lr"):
        pretrain(method, cohort(), epochs=1, progress=False)
    assert torch.equal(state, torch.random.get_rng_state())


if __name__ == "__main__":  # the processes that the tests start
    torch.set_num_threads(1)
    {"train_all": train_all, "train_together": train_together}[sys.argv[1]](sys.argv[2])
