"""Paper A's method: quantizer, masked guesses, segments that know each other, random lead masks."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ecgtutorial import open_cohort
from ecgtutorial.augment import crop
from ecgtutorial.cohort import Cohort
from ecgtutorial.losses import nt_xent, segment_contrast
from ecgtutorial.methods import Batch
from ecgtutorial.methods.local_global import LocalGlobal, Quantizer, augment_segments
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.pretrain import pretrain

SMALL = {"seconds": 2.0, "codes": 16, "features": 16, "n_negatives": 20}
VARIANTS = {
    "w2v": {"cmsc": None},
    "cmsc": {"w2v": False},
    "cmsc-nxn": {"w2v": False, "cmsc": "NxN"},
    "both": {},
    "both-nxn": {"cmsc": "NxN"},
}
TRAINING = {
    "epochs": 3, "batch_size": 8, "checkpoint_seconds": 0.0, "progress": False,
    "accelerator": "cpu", "precision": "32-true",
}  # fmt: skip


def make(name="both", **more):
    torch.manual_seed(0)
    return LocalGlobal(**(SMALL | VARIANTS[name] | more))


def batch(n=4, time=200):
    signals = 0.3 * torch.randn(n, 12, time, generator=torch.Generator().manual_seed(0))
    return Batch(signals, torch.arange(n), torch.arange(n))


def cohort(n=16, time=250):
    signals = np.random.default_rng(0).integers(-900, 900, (n, 12, time), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(n), "patient_id": range(n)})
    return Cohort(signals, table, None, 100, "noise")


@pytest.fixture
def one_thread():
    """As many threads in every process: sums come out the same to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- sizes and arguments ----------------------------------------------------------------------


def test_the_papers_network_has_90883072_parameters():
    # convolutions 12 x 256 x 2 + 3 x 256 x 256 x 2                                =    399,360
    # their group norm and the layer norm after them, 2 x 256 each                 =      1,024
    # to the transformer's width 256 x 768 + 768, the learned vector 768           =    198,144
    # positions 768 x (768 / 16) x 128 + 128 lengths + 768, layer norm 2 x 768     =  4,721,024
    # 12 layers of 4 (768 x 768 + 768) + (768 x 3072 + 3072) + (3072 x 768 + 768)
    #   + 2 layer norms of 2 x 768, that is 7,087,872 each                         = 85,054,464
    # choice of codes 256 x 640 + 640, their vectors 2 x 320 x 128, 256 x 256 + 256 =   312,192
    # guesses 768 x 256 + 256                                                      =    196,864
    with torch.device("meta"):  # shapes without numbers
        method = LocalGlobal(fs=500, encoder="transformer", seconds=10, codes=320, features=256)
    parts = 399_360 + 1_024 + 198_144 + 4_721_024 + 85_054_464 + 312_192 + 196_864
    assert sum(p.numel() for p in method.parameters()) == parts == 90_883_072
    assert method.span == 10  # of 32 ms


def test_neither_part_is_no_method_and_other_kinds_are_named():
    with pytest.raises(ValueError, match="w2v is False and cmsc None"):
        LocalGlobal(w2v=False, cmsc=None)
    with pytest.raises(ValueError, match="cmsc '3N'.*expected cmsc '2N', 'NxN' or None"):
        LocalGlobal(cmsc="3N")


def test_positions_can_be_left_out():
    method = make(positions=False)
    method.loss(batch())[0].backward()
    assert not any("position." in name for name, _ in method.named_parameters())
    features, order = torch.randn(1, 25, 64), torch.randperm(25)
    moved = method.eval().encoder.context(features[:, order])
    torch.testing.assert_close(moved, method.encoder.context(features)[:, order], atol=1e-4, rtol=0)


# --- segments and leads -----------------------------------------------------------------------


def test_segments_are_the_halves_of_a_crop():
    signals = batch(3, 201).signals
    first, second = augment_segments(signals, 0).chunk(2)
    assert torch.equal(first, signals[..., :100]) and torch.equal(second, signals[..., 100:200])


def test_each_segment_has_leads_of_its_own():
    torch.manual_seed(0)
    signals = torch.ones(500, 12, 4)
    first, second = augment_segments(signals, 0.5)[..., 0].chunk(2)  # 1 where a lead is left
    both = (first * second).mean()
    np.testing.assert_allclose([first.mean(), second.mean(), both], [0.5, 0.5, 0.25], atol=0.03)


def test_random_lead_masking_can_be_switched_off():
    seen = []
    for lead_mask in (0.0, 1.0):
        method = make("cmsc", lead_mask=lead_mask)
        convolve = method.encoder.convolve
        method.encoder.convolve = lambda signals: seen.append(signals) or convolve(signals)
        method.loss(batch())
    assert torch.equal(seen[0], torch.cat(batch().signals.split(100, dim=2)))
    assert not seen[1].any()


# --- quantizer --------------------------------------------------------------------------------


def test_a_quantized_token_is_made_of_one_code_a_group():
    torch.manual_seed(0)
    quantizer = Quantizer(6, codes=5, features=8)
    quantized, usage, codes = quantizer(torch.randn(3, 7, 6), temperature=2.0)
    assert quantized.shape == (3, 7, 8) and usage.shape == (2, 5) and codes.shape == (3, 7, 2)
    chosen = [quantizer.vectors[group][codes[..., group]] for group in (0, 1)]  # (3, 7, 4) each
    torch.testing.assert_close(quantized, quantizer.mix(torch.cat(chosen, dim=2)))


def test_usage_is_the_mean_probability_over_masked_tokens():
    torch.manual_seed(0)
    quantizer = Quantizer(6, codes=5, features=8)
    tokens, masked = torch.randn(3, 7, 6), torch.rand(3, 7) < 0.5
    probability = quantizer.choose(tokens).view(3, 7, 2, 5).softmax(dim=3)
    everywhere, there = quantizer(tokens)[1], quantizer(tokens, masked)[1]
    torch.testing.assert_close(everywhere, probability.mean(dim=(0, 1)))
    torch.testing.assert_close(there, probability[masked].mean(dim=0))
    torch.testing.assert_close(there.sum(dim=1), torch.ones(2))


def test_at_rest_the_likeliest_code_wins():
    torch.manual_seed(0)
    quantizer = Quantizer(6, codes=5, features=8).eval()
    tokens = torch.randn(3, 7, 6)
    first, second = quantizer(tokens), quantizer(tokens, temperature=0.1)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert torch.equal(first[2], quantizer.choose(tokens).view(3, 7, 2, 5).argmax(dim=3))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_in_training_codes_are_drawn_with_their_probabilities(temperature):
    torch.manual_seed(0)
    quantizer = Quantizer(1, codes=4, features=2)
    _, usage, codes = quantizer(torch.ones(1, 20_000, 1), temperature=temperature)
    for group in (0, 1):
        drawn = torch.bincount(codes[0, :, group], minlength=4) / 20_000
        torch.testing.assert_close(drawn, usage[group].detach(), atol=0.015, rtol=0)


def test_the_gradient_goes_straight_through_the_choice():
    torch.manual_seed(0)
    quantizer, tokens = Quantizer(6, codes=50, features=8), torch.randn(1, 3, 6)
    torch.manual_seed(1)
    quantized, _, codes = quantizer(tokens, temperature=0.7)
    quantized.square().sum().backward()
    used = quantizer.vectors.grad.abs().sum(dim=2) > 0  # (group, code)
    for group in (0, 1):  # only what was chosen moves
        assert set(used[group].nonzero().flatten().tolist()) == set(codes[0, :, group].tolist())
    # The choice learns as if it had been soft: softmax of (logits + Gumbel noise) / temperature.
    logits = quantizer.choose(tokens).unflatten(2, (2, 50))
    torch.manual_seed(1)
    noise = -torch.empty_like(logits).exponential_().log()
    soft = ((logits + noise) / 0.7).softmax(dim=3)
    assert torch.equal(soft.argmax(dim=3), codes)
    upstream = 2 * quantized.detach() @ quantizer.mix.weight  # (1, 3, feature)
    value = torch.einsum("btgf,gcf->btgc", upstream.unflatten(2, (2, -1)), quantizer.vectors)
    expected = torch.autograd.grad((soft * value.detach()).sum(), quantizer.choose.weight)[0]
    torch.testing.assert_close(quantizer.choose.weight.grad, expected, atol=1e-4, rtol=1e-3)


# --- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lead_mask", [0.0, 0.5])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_finite_and_every_weight_learns(name, lead_mask):
    method = make(name, lead_mask=lead_mask)
    loss, parts = method.loss(batch())
    loss.backward()
    local = {"local", "accuracy", "codes"} if name != "cmsc" and name != "cmsc-nxn" else set()
    assert set(parts) == local | ({"global"} if name != "w2v" else set())
    assert loss.isfinite() and not any(part.requires_grad for part in parts.values())
    for parameter_name, parameter in method.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


def test_the_total_is_the_sum_of_its_parts():
    method = make(lead_mask=0.0)
    loss, parts = method.loss(batch())
    segments = augment_segments(batch().signals, 0)
    squared = method.encoder.convolve(segments).square().mean()
    uneven = 1 - parts["codes"] / 32
    expected = parts["local"] + parts["global"] + 0.1 * uneven + 10 * squared
    torch.testing.assert_close(loss, expected)
    assert 1 < parts["codes"] < 32 and 0 <= parts["accuracy"] <= 1
    bare = make(lead_mask=0.0, diversity=0.0, penalty=0.0)
    loss, parts = bare.loss(batch())
    torch.testing.assert_close(loss, parts["local"] + parts["global"])


def test_guesses_start_at_chance():
    _, parts = make(codes=64, features=64).loss(batch(16))
    assert abs(float(parts["local"]) - math.log(21)) < 0.4
    assert float(parts["accuracy"]) < 0.3


@pytest.mark.parametrize("cmsc", ["2N", "NxN"])
def test_the_global_loss_is_that_of_the_segments_means(cmsc):
    method = make("cmsc", cmsc=cmsc, lead_mask=0.0).eval()
    loss, parts = method.loss(batch())
    first, second = (method.encoder(half) for half in batch().signals.split(100, dim=2))
    if cmsc == "2N":
        expected = nt_xent(torch.cat([first, second]), torch.arange(4).repeat(2), 0.1)
    else:
        expected = segment_contrast(first, second, 0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(loss.detach(), parts["global"])


def test_the_two_forms_differ_by_the_same_sides_of_other_recordings():
    apart = torch.eye(5).repeat(2, 1)  # halves of a recording equal, recordings orthogonal
    for cmsc, others, equal in (("2N", 8, math.log(9)), ("NxN", 4, math.log(5))):
        method = make("cmsc", cmsc=cmsc)
        found = method.global_loss(apart)
        np.testing.assert_allclose(found, math.log(1 + others * math.exp(-10)), rtol=2e-3)
        np.testing.assert_allclose(method.global_loss(torch.ones(10, 3)), equal, rtol=1e-6)


def test_convolutions_learn_a_tenth_as_fast():
    method = make("cmsc", lead_mask=0.0).eval()
    method.loss(batch())[0].backward()
    found = {name: p.grad.clone() for name, p in method.encoder.named_parameters()}
    method.zero_grad()
    vectors = torch.cat([method.encoder(half) for half in batch().signals.split(100, dim=2)])
    nt_xent(vectors, torch.arange(4).repeat(2), 0.1).backward()
    for name, parameter in method.encoder.named_parameters():
        expected = parameter.grad * (0.1 if name.startswith("convs.") else 1)
        atol = 1e-3 * float(expected.abs().max())
        torch.testing.assert_close(found[name], expected, rtol=1e-2, atol=atol, msg=name)


def test_the_transformer_guesses_from_what_is_left_alone():
    method = make("w2v", lead_mask=0.0)
    seen = {}
    context = method.encoder.context

    def spy(features, masked, vector):
        seen.update(masked=masked, vector=vector)
        return context(features, masked, vector)

    method.encoder.context = spy
    method.loss(batch())
    assert seen["vector"] is method.mask_vector
    assert seen["masked"].shape == (8, 100 // method.encoder.stride)
    assert seen["masked"].sum(dim=1).min() >= 2
    cmsc = make("cmsc")
    context, cmsc.encoder.context = cmsc.encoder.context, spy
    cmsc.loss(batch())
    assert seen == {"masked": None, "vector": None}  # nothing to guess, nothing hidden


def test_the_loss_is_finite_and_in_32_bits_under_autocast():
    method = make()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method.loss(batch())
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters())


# --- a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [1, 7, 250_000])
def test_a_short_run_cools_to_the_lowest_temperature_at_its_end(n_steps):
    method = make("w2v")
    method.plan(n_steps, 1)
    np.testing.assert_allclose(2.0 * method.decay**n_steps, 0.5)


def test_a_long_run_cools_as_the_papers_and_none_cools_further():
    method, temperatures = make("w2v"), []
    method.plan(1_000_000, 1)
    assert method.decay == 0.999995
    quantizer = method.quantizer.forward
    method.quantizer.forward = lambda tokens, masked, temperature: (
        temperatures.append(temperature) or quantizer(tokens, masked, temperature)
    )
    for step in (0, 1, 200_000, 900_000):
        method.step.fill_(step)
        method.loss(batch(2))
    np.testing.assert_allclose(temperatures, [2, 1.99999, 2 * 0.999995**200_000, 0.5])


def test_a_run_of_no_steps_is_empty():
    assert len(pretrain(make(), cohort(), **(TRAINING | {"epochs": 0}))) == 0


def test_a_run_broken_off_is_resumed_bit_for_bit(tmp_path, monkeypatch, one_thread):
    pretrain(make(), cohort(), folder=tmp_path / "straight", **TRAINING)
    loss, temperatures = LocalGlobal.loss, []

    def interrupted(self, batch):
        temperatures.append(2.0 * self.decay ** int(self.step))
        if len(temperatures) == 4:
            raise KeyboardInterrupt
        return loss(self, batch)

    monkeypatch.setattr(LocalGlobal, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(make(), cohort(), folder=tmp_path / "broken", **TRAINING)
    pretrain(make(), cohort(), folder=tmp_path / "broken", **TRAINING)
    straight, resumed = (
        load_file(tmp_path / way / "checkpoint.safetensors") for way in ("straight", "broken")
    )
    assert straight["method.step"] == 6 and straight.keys() == resumed.keys()
    for key in straight:
        assert torch.equal(straight[key], resumed[key]), key
    cooling = [2.0 * 0.25 ** (step / 6) for step in (0, 1, 2, 3, 3, 4, 5)]
    np.testing.assert_allclose(temperatures, cooling, rtol=1e-6)  # it goes on where it stopped


# --- two processes ----------------------------------------------------------------------------


def train_still(name):
    """Three steps without chance: the loss of each, and the gradients of the first."""
    method = make(name, lead_mask=0.0).eval()
    method.train = lambda mode=True: method  # dropout at rest
    grads = []
    method.after_step = lambda: grads.append([p.grad.clone() for p in method.parameters()])
    log = pretrain(method, cohort(8, 200), **TRAINING)
    return {"loss": log["loss"].tolist(), "grads": grads[0]}


def train_together(folder):
    """What each of two processes does."""
    found = {name: train_still(name) for name in ("cmsc", "cmsc-nxn")}
    torch.manual_seed(0)
    simclr = SimCLR(encoder="transformer-small", seconds=1.0)
    for name, method in (("both", make()), ("simclr", simclr)):
        log = pretrain(method, cohort(), **TRAINING)
        found[name] = {"loss": log["loss"].tolist(), "end": method.state_dict()}
    torch.save(found, Path(folder) / f"{os.environ['RANK']}.pt")


def test_two_processes_do_what_one_does(tmp_path, one_thread):
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         __file__, tmp_path],
        check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, capture_output=True,
    )  # fmt: skip
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in ("cmsc", "cmsc-nxn"):
        one = train_still(name)
        for found in ranks:  # contrast is with the whole batch, so both know its loss
            np.testing.assert_allclose(found[name]["loss"], one["loss"], rtol=1e-3, atol=1e-4)
            for a, b in zip(found[name]["grads"], one["grads"], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()))
    for name in ("both", "simclr"):
        first, second = (found[name] for found in ranks)
        assert np.isfinite(first["loss"] + second["loss"]).all() and len(first["loss"]) == 6
        for key, value in first["end"].items():
            assert torch.equal(value, second["end"][key]), f"{name}: {key}"


# --- it learns --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Records to train on, and the first 5 s of records of other patients, in mV."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGTUTORIAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        both = open_cohort("simulated", n_patients=96, seed=3)
        fold = both.table["fold"]
        unseen = torch.from_numpy(both.select(fold > 5).signals.copy())
        rows = torch.arange(len(unseen))
        yield both.select(fold <= 5), crop(unseen, rows, 0 * rows, 500)


def trained(train, *, epochs=40, batch_size=31, lr=2e-3, schedule="constant", **method):
    """A method before, and after some seconds of training."""
    torch.manual_seed(1)
    method = LocalGlobal(**method)
    untrained = copy.deepcopy(method).eval()
    pretrain(
        method, train, epochs=epochs, batch_size=batch_size, lr=lr, schedule=schedule,
        warmup=0.1 if schedule == "cosine" else 0.0, progress=False, precision="32-true",
        accelerator="cpu",
    )  # fmt: skip
    return untrained, method.eval()


@torch.no_grad()
def found_again(method, signals):
    """Share of first halves nearest to their own second halves, half of the leads missing."""
    torch.manual_seed(1)
    shares = []
    for _ in range(4):
        first, second = method.encoder(augment_segments(signals, 0.5)).chunk(2)
        views = [torch.nn.functional.normalize(v - v.mean(dim=0), dim=1) for v in (first, second)]
        nearest = (views[0] @ views[1].T).argmax(dim=1)
        shares.append((nearest == torch.arange(len(signals))).float().mean().item())
    return np.mean(shares)


def test_segments_of_unseen_hearts_are_found_again_more_often(cohorts):
    train, signals = cohorts
    before, after = (found_again(m, signals) for m in trained(train, w2v=False))
    assert after > before + 0.05, f"found again: {before:.2f} before training, {after:.2f} after"


@torch.no_grad()
def guesses(method, signals):
    """Local loss and share of right guesses on given records, with the same spans hidden."""
    torch.manual_seed(1)
    rows = torch.arange(len(signals))
    parts = [method.loss(Batch(signals, rows, rows))[1] for _ in range(3)]
    return [np.mean([float(p[name]) for p in parts]) for name in ("local", "accuracy")]


def test_hidden_moments_of_unseen_hearts_are_guessed(cohorts):
    train, signals = cohorts
    models = trained(
        train, epochs=50, batch_size=12, lr=3e-3, schedule="cosine", cmsc=None, lead_mask=0.0
    )
    (loss_before, right_before), (loss_after, right_after) = (guesses(m, signals) for m in models)
    told = (
        f"loss {loss_before:.2f} -> {loss_after:.2f}, right {right_before:.2f} -> {right_after:.2f}"
    )
    assert loss_after < math.log(101) - 0.3 and right_after > right_before + 0.1, told


if __name__ == "__main__":  # a process that the test starts
    torch.set_num_threads(1)
    train_together(sys.argv[1])
