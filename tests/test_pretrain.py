import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ecgtutorial.cohort import Cohort
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.three_kg import ThreeKG
from ecgtutorial.pretrain import health, pretrain

SCRIPT = """
    import sys
    import numpy as np, pandas as pd, torch
    from ecgtutorial.cohort import Cohort
    from ecgtutorial.methods.three_kg import ThreeKG
    from ecgtutorial.pretrain import pretrain

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    signals = generator.integers(-900, 900, (40, 12, 300), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(40), "patient_id": np.arange(40) // 2})
    cohort = Cohort(signals, table, None, 100, "noise")
    torch.manual_seed(0)
    method = ThreeKG(seconds=1.0)
    print("ready", flush=True)
    pretrain(method, cohort, epochs=8, batch_size=8, folder=sys.argv[1], weight_decay=0.01,
             warmup=0.1, schedule="cosine", checkpoint_seconds=0.0, progress=False,
             accelerator="cpu")
"""


def cohort(n=40, time=300):
    generator = np.random.default_rng(0)
    signals = generator.integers(-900, 900, (n, 12, time), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(n), "patient_id": np.arange(n) // 2})
    return Cohort(signals, table, None, 100, "noise")


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)], stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_run_killed_at_random_steps_ends_with_the_same_weights(tmp_path):
    straight = start(tmp_path / "straight")
    assert straight.wait(120) == 0
    killed, kills = tmp_path / "killed", 0
    dice = random.Random(0)
    while True:
        process = start(killed)
        process.stdout.readline()  # it is about to train
        checkpoint = killed / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while kills < 4 and process.poll() is None:  # let it take at least one more step
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                time.sleep(dice.random() * 0.3)
                break
        if kills < 4 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait(120) == 0:
            break
    assert kills == 4
    expected = load_file(tmp_path / "straight" / "checkpoint.safetensors")
    found = load_file(killed / "checkpoint.safetensors")
    assert expected.keys() == found.keys()
    assert any(key.startswith("optimizer.") for key in expected)
    for key in expected:
        assert torch.equal(expected[key], found[key]), key


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


def test_two_processes_contrast_the_whole_batch(tmp_path):
    """The loss of the first step on two processes is that of one process with both halves."""
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent("""
        import sys, json
        import numpy as np, pandas as pd, torch
        from ecgtutorial.cohort import Cohort
        from ecgtutorial.methods.simclr import SimCLR
        from ecgtutorial.pretrain import pretrain
        torch.set_num_threads(1)
        signals = np.random.default_rng(0).integers(-900, 900, (32, 12, 100), dtype=np.int16)
        table = pd.DataFrame({"record_id": range(32), "patient_id": range(32)})
        torch.manual_seed(0)
        method = SimCLR(seconds=1.0)
        method.view = lambda signals: signals  # no randomness: the views are the records
        for module in method.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = 0.0
                module.eval = lambda: None
        method.encoder.train = lambda mode=True: method.encoder
        for module in method.encoder.modules():
            module.training = False
        log = pretrain(method, Cohort(signals, table, None, 100, "noise"), epochs=3, batch_size=32,
                       progress=False, precision="32-true", accelerator="cpu")
        import os
        if os.environ.get("RANK", "0") == "0":
            open(sys.argv[1], "w").write(json.dumps(log["loss"].tolist()))
    """))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    subprocess.run([sys.executable, script, one], check=True, env=environment, timeout=120)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         script, two], check=True, env=environment, timeout=180, capture_output=True,
    )  # fmt: skip
    np.testing.assert_allclose(
        json.loads(one.read_text()), json.loads(two.read_text()), rtol=2e-4
    )


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
