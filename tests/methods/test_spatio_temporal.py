"""Paper C's method: what the network is shown, what it is asked, and that it learns to answer."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ecgtutorial import encoders, open_cohort
from ecgtutorial.augment import crop, hidden_spans
from ecgtutorial.cohort import Cohort
from ecgtutorial.leads import INDEPENDENT, index
from ecgtutorial.methods import Batch
from ecgtutorial.methods.spatio_temporal import SpatioTemporal
from ecgtutorial.pretrain import pretrain

VARIANTS = {
    "both": {},
    "mask": {"shuffle": 0.0},
    "shuffle": {"ratio": None},
    "visible": {"visible": 0.3, "weight": 1.0},
    "eight": {"independent": True},
    "limb": {"hide": "limb", "shuffle": 1.0},
    "common": {"hide": "common"},
}
TRAINING = {
    "epochs": 3, "batch_size": 8, "checkpoint_seconds": 0.0, "progress": False,
    "accelerator": "cpu", "precision": "32-true",
}  # fmt: skip
# The two networks of paper size that take seconds are left out.
SMALL_ENCODERS = [name for name in encoders.NAMES if name not in ("cpc", "transformer")]


def make(name="both", **more):
    torch.manual_seed(0)
    return SpatioTemporal(**({"seconds": 1.0, "width": 16} | VARIANTS[name] | more))


def batch(n=4, time=100, seed=0):
    signals = 0.3 * torch.randn(n, 12, time, generator=torch.Generator().manual_seed(seed))
    return Batch(signals, torch.arange(n), torch.arange(n))


def cohort(n=16, time=150):
    signals = np.random.default_rng(0).integers(-900, 900, (n, 12, time), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(n), "patient_id": range(n)})
    return Cohort(signals, table, None, 100, "noise")


def loss(method, given, seed=3):
    torch.manual_seed(seed)
    return method.loss(given)


def seen(method, given, seed=3):
    """What the encoder is shown by `loss` with this seed, and the view (changed, hidden, order)."""
    shown, views = [], []
    tokens, view = method.encoder.tokens, method.view
    method.encoder.tokens = lambda signals: shown.append(signals) or tokens(signals)
    method.view = lambda original: views.append(view(original)) or views[-1]
    loss(method, given, seed)
    del method.encoder.tokens, method.view
    return shown[0], views[0]


@pytest.fixture
def one_thread():
    """As many threads in every run: sums come out the same to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- shapes and sizes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL_ENCODERS)
def test_every_encoder_can_be_trained(name):
    method, given = make(encoder=name), batch(3, 100)
    total, parts = loss(method, given)
    total.backward()
    assert total.shape == () and total.isfinite()
    tokens = method.encoder.tokens(given.signals)
    assert method.reconstruct(tokens, 100).shape == (3, 12, 100)
    assert method.lead_logits(given.signals, tokens).shape == (3, 12, 12)
    assert set(parts) == {"reconstruction", "numbers", "right", "right_moved"}
    for parameter_name, parameter in method.named_parameters():
        if "transformer" not in name or "position" not in parameter_name:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("fs, seconds", [(50, 2.5), (100, 2.03), (500, 1.0), (257, 1.1)])
@pytest.mark.parametrize("name", ["xresnet1d50-small", "cpc-small", "transformer-small"])
def test_other_rates_and_lengths_that_are_no_whole_number_of_tokens(name, fs, seconds):
    time = round(fs * seconds)
    method, given = make(fs=fs, seconds=seconds, encoder=name), batch(2, time)
    total, _ = loss(method, given)
    assert total.isfinite()
    for length in (time, time - 7, 2 * time + 1):  # a network of convolutions takes any length
        tokens = method.encoder.tokens(given.signals.repeat(1, 1, 3)[..., :length])
        assert method.reconstruct(tokens, length).shape == (2, 12, length)


@pytest.mark.parametrize(
    "name, fs, samples",
    [("xresnet1d50-small", 100, 32), ("cpc-small", 100, 4), ("cpc-strided", 100, 16),
     ("single-lead", 100, 16), ("single-lead", 500, 24), ("transformer-small", 100, 8),
     ("transformer-small", 500, 32)],
)  # fmt: skip
def test_a_token_stands_for_as_many_samples_as_the_encoder_steps_on(name, fs, samples):
    for seconds in (1.0, 2.5, 2.03):  # 250 samples make 31 tokens of 8, and 2 are left over
        method = make(encoder=name, fs=fs, seconds=seconds)
        assert method.patch == samples == getattr(method.encoder, "stride", samples)
        assert method.encoder.training


def test_what_is_left_after_the_last_token_is_told_by_it():
    method = make(encoder="transformer-small", seconds=2.5).eval()
    tokens = torch.randn(2, 31, 96)
    out = method.reconstruct(tokens, 250)
    longer = method.reconstruct(torch.cat([tokens, tokens[:, -1:]], dim=1), 256)
    torch.testing.assert_close(out, longer[..., :250])


def test_sizes():
    # xresnet1d50, of paper size 886,400 and small 60,992; a token has 256 and 128 features
    # decoder: f x w x 3 + w, w x w x 3 + w, w x 384 + 384         (12 leads of 32 samples)
    # wave at 100 Hz: 1 x 32 x 16 + 32, 32 x 32 x 3 + 32           =                    3,648
    # number: (2 f + 64) x 256 + 256, 256 x 12 + 12
    def size(f, w):
        decoder = f * w * 3 + w + w * w * 3 + w + w * 384 + 384
        return decoder + 3_648 + (2 * f + 64) * 256 + 256 + 256 * 12 + 12

    def count(module):
        return sum(p.numel() for p in module.parameters())

    small, large = SpatioTemporal(), SpatioTemporal(encoder="xresnet1d50", width=256)
    assert count(small) == 60_992 + size(128, 128)
    assert count(large) == 886_400 + size(256, 256)
    assert count(small.wave) == count(large.wave) == 3_648
    assert (count(small), count(large)) == (297_996, 1_533_260)
    assert count(SpatioTemporal(independent=True)) == 280_456  # 8 leads of 32, 8 numbers


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [None, 0])
def test_neither_part_is_no_method(ratio):
    with pytest.raises(ValueError, match=f"ratio is {ratio} and shuffle 0"):
        SpatioTemporal(ratio=ratio, shuffle=0)


def test_other_arguments_are_named():
    with pytest.raises(ValueError, match="encoder is 'resnet'"):
        SpatioTemporal(encoder="resnet")
    for more, told in (
        ({"ratio": (1.2, 1.2)}, "ratio is 1.2"), ({"span": (0.5, 0.2)}, r"spans are \(0.5, 0.2\)"),
        ({"span": (0.5, 3.0)}, r"spans are \(0.5, 3.0\) s in 1 s"), ({"shuffle": 1.5}, "share is"),
        ({"hide": "chest"}, "leads is 'chest'"),
        ({"hide": "limb", "independent": True}, "leads is 'limb' for 8 leads"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            make(**more).loss(batch())


# --- what the network is shown ----------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_the_view_hides_and_then_shuffles(name):
    method = make(name)
    original = batch(20).signals[:, method.rows]
    torch.manual_seed(3)
    changed, hidden, numbers = method.view(original)
    for b in range(20):
        for place, lead in enumerate(numbers[b].tolist()):
            expected = original[b, lead].masked_fill(hidden[b, lead], 0)
            assert torch.equal(changed[b, place], expected)
    moved = (numbers != torch.arange(len(method.rows))).sum(dim=1)
    assert bool(hidden.any()) == (name != "shuffle")
    assert moved.max() == {"mask": 0, "limb": 12, "eight": 3}.get(name, 4)
    assert bool((hidden == hidden[:, :1]).all()) == (name in ("common", "shuffle"))
    assert bool((hidden[:, :6] == hidden[:, :1]).all()) == (name in ("common", "limb", "shuffle"))


def test_the_share_that_is_hidden_changes_from_batch_to_batch():
    method = make(ratio=(0.2, 0.6))
    torch.manual_seed(0)
    original = torch.zeros(16, 12, 100)
    shares = np.array([float(method.view(original)[1].float().mean()) for _ in range(300)])
    assert 0.15 < shares.min() < 0.23 and 0.57 < shares.max() < 0.65
    np.testing.assert_allclose([shares.mean(), shares.std()], [0.4, 0.4 / 12**0.5], atol=0.03)
    method = make(ratio=(0.4, 0.4))
    shares = [float(method.view(original)[1].float().mean()) for _ in range(50)]
    assert np.std(shares) < 0.03 and abs(np.mean(shares) - 0.4) < 0.02


@pytest.mark.parametrize("name", ["both", "mask", "eight", "common"])
def test_the_network_never_sees_what_is_hidden(name):
    method, given = make(name).eval(), batch()
    shown, (_, hidden, numbers) = seen(method, given)
    other = given.signals.clone()
    everywhere = torch.zeros_like(other, dtype=torch.bool)
    everywhere[:, method.rows] = hidden
    other[everywhere] += 5 * torch.randn(int(everywhere.sum()))
    again, (_, hidden_again, numbers_again) = seen(method, Batch(other, *given[1:]))
    assert torch.equal(hidden, hidden_again) and torch.equal(numbers, numbers_again)
    assert torch.equal(shown, again)
    # Only the answer is another one.
    losses = [loss(method, g) for g in (given, Batch(other, *given[1:]))]
    assert losses[0][0] != losses[1][0]
    if name != "mask":
        assert losses[0][1]["numbers"] == losses[1][1]["numbers"]


def test_four_leads_stay_silent_where_eight_are_trained_on():
    method, given = make("eight"), batch()
    shown, (changed, hidden, numbers) = seen(method, given)
    kept = index(INDEPENDENT)
    assert shown.shape == (4, 12, 100) and hidden.shape == (4, 8, 100) and numbers.shape == (4, 8)
    assert torch.equal(shown[:, kept], changed)
    assert not shown[:, [lead for lead in range(12) if lead not in kept]].any()
    other = given.signals.clone()
    other[:, 2:6] = 9  # III, aVR, aVL and aVF count for nothing
    found = [loss(method.eval(), g)[0] for g in (given, Batch(other, *given[1:]))]
    assert found[0] == found[1]


# --- the loss ---------------------------------------------------------------------------------


@torch.no_grad()
def slow_loss(method, given, view):
    """Total, reconstruction, numbers, right, right_moved: one sample after the other."""
    changed, hidden, numbers = view
    n, n_leads, time = changed.shape
    whole = torch.zeros(n, 12, time)
    for place, row in enumerate(method.rows):
        whole[:, row] = changed[:, place]
    tokens = method.encoder.tokens(whole)
    patches = method.decoder(tokens.transpose(1, 2))  # (batch, lead x patch, token)
    top = bottom = 0.0
    for b in range(n):
        record = [given.signals[b, row] for row in method.rows]
        power = max(1e-4, float(sum((lead**2).sum() for lead in record)) / (n_leads * time))
        for lead in range(n_leads):
            for t in range(time):
                token, within = divmod(t, method.patch)
                out = float(patches[b, lead * method.patch + within, token])
                shown = 1.0 if method.ratio is None else method.visible
                weight = 1.0 if hidden[b, lead, t] else shown
                top += weight * (out - float(record[lead][t])) ** 2 / power
                bottom += weight
    surprise, right, right_moved = [], [], []
    for b in range(n):
        record = torch.cat([tokens[b].max(dim=0).values, tokens[b].sum(dim=0) / len(tokens[b])])
        for place in range(n_leads):
            wave = method.wave(changed[b, place][None, None])[0]  # (32, time)
            wave = torch.cat([wave.max(dim=1).values, wave.sum(dim=1) / wave.shape[1]])
            logits = method.number(torch.cat([wave, record])).double()
            lead = int(numbers[b, place])
            surprise.append(float(logits.exp().sum().log() - logits[lead]))
            right.append(int(logits.argmax()) == lead)
            right_moved += [right[-1]] * (lead != place)
    reconstruction = top / bottom
    total = reconstruction + (method.weight * np.mean(surprise) if method.shuffle else 0)
    return total, reconstruction, np.mean(surprise), np.mean(right), np.mean(right_moved or [0])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_is_that_of_a_slow_recomputation(name):
    method, given = make(name).eval(), batch(3, 60)
    total, parts = loss(method, given)
    view = seen(method, given)[1]
    expected = slow_loss(method, given, view)
    names = ("reconstruction", "numbers", "right", "right_moved")
    names = names if method.shuffle else names[:1]
    assert set(parts) == set(names) and not any(part.requires_grad for part in parts.values())
    np.testing.assert_allclose(total.item(), expected[0], rtol=1e-4)
    for part, value in zip(names, expected[1:]):
        np.testing.assert_allclose(float(parts[part]), value, rtol=1e-4, atol=1e-6, err_msg=part)


def test_a_perfect_reconstruction_costs_nothing_and_silence_its_power():
    for name in ("mask", "visible", "shuffle"):
        method, given = make(name, weight=0.0), batch()
        method.reconstruct = lambda tokens, length, given=given: given.signals
        assert loss(method, given)[0] == 0, name
    flat = torch.ones(2, 12, 100) * torch.tensor([0.5, 2.0])[:, None, None]  # mV
    method = make("mask")
    method.reconstruct = lambda tokens, length: torch.zeros(2, 12, length)
    assert loss(method, Batch(flat, torch.arange(2), torch.arange(2)))[0] == 1.0


def test_only_hidden_samples_count_unless_it_is_said_otherwise():
    given, wrong = batch(), torch.zeros(4, 12, 100)
    for visible, expected in ((0.0, 0.0), (1.0, None)):
        method = make("mask", visible=visible)
        hidden = seen(method, given)[1][1]
        off = given.signals + wrong + (~hidden)  # wrong by 1 mV wherever it was to be seen
        method.reconstruct = lambda tokens, length, off=off: off
        power = given.signals.square().mean(dim=(1, 2))
        share = (~hidden).float().mean(dim=(1, 2))
        expected = 0.0 if visible == 0 else (share / power).mean()
        np.testing.assert_allclose(loss(method, given)[0].item(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_silence_and_huge_records_are_finite(name):
    for signals in (torch.zeros(3, 12, 100), 1e3 * batch(3).signals):
        method = make(name)
        total, parts = loss(method, Batch(signals, torch.arange(3), torch.arange(3)))
        total.backward()
        assert total.isfinite() and all(part.isfinite() for part in parts.values())
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_one_silent_record_does_not_rule_the_batch():
    method, given = make(), batch(8)
    one = given.signals.clone()
    one[0] = 0
    ratio = loss(method, Batch(one, *given[1:]))[0] / loss(method, given)[0]
    assert ratio < 30


def test_the_loss_is_finite_and_in_32_bits_under_autocast():
    method = make()
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(method, batch())
    total.backward()
    assert total.dtype == torch.float32 and total.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_that_is_asked_learns(name):
    method = make(name)
    torch.nn.init.normal_(method.encoder.stages[-1][0].body[-1][1].weight)  # starts at zero
    for stage in method.encoder.stages[:-1]:
        torch.nn.init.normal_(stage[0].body[-1][1].weight)
    loss(method, batch(8))[0].backward()
    for parameter_name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 0, parameter_name
        else:  # who is not asked for lead numbers has no layers to learn them
            assert name == "mask" and parameter_name.split(".")[0] in ("wave", "number")
            assert parameter.grad is None


# --- lead numbers -----------------------------------------------------------------------------


def test_places_are_judged_alike():
    method, given = make(), batch()
    tokens = method.encoder.tokens(given.signals).detach()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    logits = method.lead_logits(given.signals, tokens)
    moved = method.lead_logits(given.signals[:, order], tokens)
    torch.testing.assert_close(moved, logits[:, order])
    same = given.signals[:, :1].expand(-1, 12, -1)  # one wave everywhere: one answer
    logits = method.lead_logits(same, tokens)
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 12, -1))


def test_who_always_says_what_stands_there_usually_is_never_right_about_the_moved():
    method, given = make(shuffle=0.5), batch(40)
    method.lead_logits = lambda signals, tokens: 9.0 * torch.eye(12).expand(len(signals), 12, 12)
    _, parts = loss(method, given)
    numbers = seen(method, given)[1][2]
    stayed = (numbers == torch.arange(12)).float().mean()
    torch.testing.assert_close(parts["right"], stayed)
    assert parts["right_moved"] == 0 and 0.5 < stayed < 0.7
    method.lead_logits = lambda signals, tokens: torch.nn.functional.one_hot(numbers, 12).float()
    _, parts = loss(method, given)
    assert parts["right"] == parts["right_moved"] == 1


def test_nobody_moved_is_no_trouble():
    method = make(shuffle=1 / 12)  # one lead chosen: it stays
    _, parts = loss(method, batch())
    assert parts["right_moved"] == 0 and parts["numbers"].isfinite()


# --- a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["both", "mask"])
def test_a_run_broken_off_is_resumed_bit_for_bit(name, tmp_path, monkeypatch, one_thread):
    straight = pretrain(make(name), cohort(), folder=tmp_path / "straight", **TRAINING)
    plain, calls = SpatioTemporal.loss, []

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, batch)

    monkeypatch.setattr(SpatioTemporal, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(make(name), cohort(), folder=tmp_path / "broken", **TRAINING)
    resumed = pretrain(make(name), cohort(), folder=tmp_path / "broken", **TRAINING)
    assert len(straight) == 6 and straight["loss"].equals(resumed["loss"]) and len(calls) == 7
    one, two = (load_file(tmp_path / w / "checkpoint.safetensors") for w in ("straight", "broken"))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key


def test_the_same_seed_gives_the_same_start_whatever_is_hidden():
    first, second = make("both"), make("mask")
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


# --- it learns --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The method before and after some seconds of training, and crops of other patients in mV."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGTUTORIAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        both = open_cohort("simulated", n_patients=160, seed=3)
    fold = both.table["fold"]
    unseen = torch.from_numpy(both.select(fold > 7).signals.copy())
    rows = torch.arange(len(unseen))
    torch.manual_seed(1)
    method = SpatioTemporal(weight=1.0)
    before = copy.deepcopy(method).eval()
    pretrain(
        method, both.select(fold <= 7), epochs=30, batch_size=24, lr=6e-3, schedule="cosine",
        warmup=0.1, progress=False, precision="32-true", accelerator="cpu",
    )  # fmt: skip
    return before, method.eval(), crop(unseen, rows, 0 * rows, 250)


@torch.no_grad()
def parts_on(method, signals):
    rows = torch.arange(len(signals))
    torch.manual_seed(1)
    parts = [method.loss(Batch(signals, rows, rows))[1] for _ in range(6)]
    return {name: np.mean([float(p[name]) for p in parts]) for name in parts[0]}


def trivial_errors(signals, hidden):
    """Of silence, of each lead's own visible mean, and of a line over the gap."""
    power = signals.square().mean(dim=(1, 2), keepdim=True)
    seen_mean = (signals * ~hidden).sum(dim=2, keepdim=True) / (~hidden).sum(dim=2, keepdim=True)
    line = signals.numpy().copy()
    for b, lead in np.ndindex(*signals.shape[:2]):
        gap = hidden[b, lead].numpy()
        known = np.flatnonzero(~gap)
        line[b, lead] = np.interp(np.arange(len(gap)), known, line[b, lead][known])
    answers = [torch.zeros_like(signals), seen_mean, torch.from_numpy(line)]
    return [float(((a - signals).square() / power)[hidden].mean()) for a in answers]


def test_what_is_hidden_is_mended_and_leads_are_named_on_unseen_hearts(trained):
    before, after, signals = trained
    untrained, learned = (parts_on(method, signals) for method in (before, after))
    hidden = hidden_spans(signals.shape, 100, 0.4, generator=torch.Generator().manual_seed(1))
    trivial = trivial_errors(signals, hidden)
    told = f"{untrained} -> {learned}; silence, mean and line: {trivial}"
    assert learned["reconstruction"] < 0.85 * min(untrained["reconstruction"], *trivial), told
    assert untrained["numbers"] == pytest.approx(math.log(12), abs=0.4), told
    assert untrained["right"] < 0.2, told
    assert learned["right"] > 0.3 and learned["right_moved"] > 0.3, told
