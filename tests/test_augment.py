import json
import math
import time

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from ecgtutorial import augment
from ecgtutorial.leads import EXPANSION, dower12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def signals():
    eight = torch.randn(5, 8, 100, generator=generator())
    return torch.as_tensor(EXPANSION, dtype=torch.float32) @ eight  # (5, 12, 100)


@pytest.fixture
def dipolar():
    """Signals that a heart vector explains in full."""
    vector = torch.randn(5, 3, 100, generator=generator())
    return torch.as_tensor(dower12(), dtype=torch.float32) @ vector


def test_rotations_are_rotations(signals):
    rotation = augment.random_rotation(signals, 45, generator())
    np.testing.assert_allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6)
    np.testing.assert_allclose(torch.linalg.det(rotation), np.ones(5), atol=1e-6)


def test_a_quarter_turn_about_z_takes_left_to_down():
    turn = augment.axis_rotations(torch.full((1, 3), torch.pi / 2))[0, 2]
    np.testing.assert_allclose(turn @ torch.tensor([1.0, 0, 0]), [0, 1, 0], atol=1e-6)


def test_the_order_of_axes_varies(signals):
    many = signals[:1].expand(600, -1, -1)
    rotation = augment.random_rotation(many, 45, generator())
    # With a fixed order z-y-x one entry is a bare sine of one angle, uniformly far from the others:
    # every entry off the diagonal must have the same spread instead.
    spread = rotation.std(dim=0)[~torch.eye(3, dtype=bool)]
    assert spread.max() / spread.min() < 1.15


def test_scaling_is_log_symmetric_and_bounded(signals):
    many = signals[:1].expand(4000, -1, -1)
    scale = torch.diagonal(augment.random_scaling(many, 1.5, generator()), dim1=1, dim2=2)
    assert scale.min() >= 1 / 1.5 - 1e-6 and scale.max() <= 1.5
    assert abs(scale.log().mean()) < 0.01
    with pytest.raises(ValueError, match="factor is 0.5"):
        augment.random_scaling(many, 0.5)


def test_identity_keeps_dipolar_signals_and_loses_the_rest(signals, dipolar):
    identity = torch.eye(3).expand(5, 3, 3)
    back = augment.transform_heart_vector(dipolar, identity)
    np.testing.assert_allclose(back, dipolar, atol=0.02)  # the printed inverse is truncated
    lost = augment.transform_heart_vector(signals, identity) - signals
    assert lost.norm() > 0.3 * signals.norm()
    kept = augment.transform_heart_vector(signals, identity, residual=True)
    np.testing.assert_allclose(kept, signals, atol=1e-6)


def test_views_of_the_heart_vector_keep_limb_lead_algebra(signals):
    matrix = augment.random_scaling(signals, 1.5) @ augment.random_rotation(signals, 45)
    for residual in (False, True):
        view = augment.transform_heart_vector(signals, matrix, residual)
        np.testing.assert_allclose(view[:, 2], view[:, 1] - view[:, 0], atol=1e-5)
        np.testing.assert_allclose(view[:, 3:6].sum(dim=1), np.zeros((5, 100)), atol=1e-5)


def test_time_mask_zeroes_exactly_the_floor_with_wrap_around():
    ones = torch.ones(300, 12, 101)
    masked = augment.time_mask(ones, 0.5, generator())
    assert ((masked == 0).sum(dim=2) == 50).all()
    edges = (masked != torch.roll(masked, 1, dims=2)).sum(dim=2)
    assert (edges == 2).all()  # one span on a circle
    assert (masked[:, :, 0] + masked[:, :, -1] == 0).any()  # some span runs over the end
    starts = masked[0].argmin(dim=1)
    assert len(set(starts.tolist())) > 4  # each lead has its own
    assert (augment.time_mask(ones, 0.0) == 1).all() and (augment.time_mask(ones, 1.0) == 0).all()


def test_resized_crop_of_a_ramp_is_a_slower_ramp():
    ramp = torch.linspace(0, 1, 250).expand(50, 12, 250)
    view = augment.random_resized_crop(ramp, 0.5, 1.0, generator())
    slope = view.diff(dim=2)
    np.testing.assert_allclose(slope.std(dim=2), np.zeros((50, 12)), atol=1e-5)
    ratio = slope.mean(dim=2) * 249
    assert 0.5 <= ratio.min() < 0.6 and 0.9 < ratio.max() <= 1.0 + 1e-5
    np.testing.assert_allclose(augment.random_resized_crop(ramp, 1.0, 1.0), ramp, atol=1e-5)


def test_time_out_hits_all_leads_together():
    view = augment.time_out(torch.ones(200, 12, 250), generator=generator())
    zeros = (view == 0).sum(dim=2)
    assert (zeros == zeros[:, :1]).all()
    assert zeros.min() >= 49 and zeros.max() <= 100


# --- the views of paper B, against slow versions ----------------------------------------------

NOISES = ("gaussian_noise", "em_noise", "baseline_wander", "powerline", "baseline_shift")
PAPER_B = (
    "random_resized_crop", "time_out", "gaussian_noise", "gaussian_blur", "channel_resize",
    "dynamic_time_warp", "baseline_wander", "powerline", "em_noise", "baseline_shift",
)  # fmt: skip
SIZE = {name: "std" if name == "gaussian_noise" else "scale" for name in NOISES}


def noise_alone(name, shape, seed=0, **arguments):
    """What a noise adds to silence, (batch, lead, time), 64-bit."""
    made = getattr(augment, name)(torch.zeros(shape), generator=generator(seed), **arguments)
    return made.double().numpy()


def looks_uniform(values, low, high, slack=1e-6):
    assert low - slack <= values.min() and values.max() <= high + slack
    assert kstest(np.ravel(values), "uniform", (low, high - low)).pvalue > 1e-3


def read_slowly(row, position):
    """One lead between its samples, one sample after the other."""
    out = []
    for p in position:
        left = min(max(math.floor(p), 0), len(row) - 2)
        out.append(row[left] + (p - left) * (row[left + 1] - row[left]))
    return out


def test_resized_crop_agrees_with_a_slow_one(signals):
    view, g = augment.random_resized_crop(signals, 0.5, 1.0, generator(4)), generator(4)
    length = (0.5 + 0.5 * torch.rand(5, 1, generator=g)) * 99
    start = torch.rand(5, 1, generator=g) * (99 - length)
    for i in range(5):
        position = [float(start[i] + length[i] * n / 99) for n in range(100)]
        slow = [read_slowly(lead, position) for lead in signals[i].double().numpy()]
        np.testing.assert_allclose(view[i], slow, atol=2e-4)  # 32-bit places times a steep slope


def test_time_out_agrees_with_a_slow_one(signals):
    view, g = augment.time_out(signals, 0.2, 0.4, generator(4)), generator(4)
    length = [math.floor(float(x)) for x in (0.2 + 0.2 * torch.rand(5, generator=g)) * 100]
    start = [math.floor(float(x) * (100 - n)) for x, n in zip(torch.rand(5, generator=g), length)]
    for i in range(5):
        for n in range(100):
            hidden = start[i] <= n < start[i] + length[i]
            assert torch.equal(view[i, :, n], signals[i, :, n] * (not hidden))


def test_blur_agrees_with_a_slow_one(signals):
    for length in (1, 2, 3, 100):
        part = signals[..., :length]
        view, row = augment.gaussian_blur(part), part.double().numpy()
        for n in range(length):
            taps = zip((0.1, 0.2, 0.4, 0.2, 0.1), range(n - 2, n + 3))
            slow = sum(w * row[..., min(max(k, 0), length - 1)] for w, k in taps)
            np.testing.assert_allclose(view[..., n], slow, atol=1e-6)
    flat = augment.gaussian_blur(torch.ones(2, 12, 50))
    np.testing.assert_allclose(flat, np.ones((2, 12, 50)), atol=1e-6)


def test_channel_resize_is_one_log_uniform_gain_a_lead():
    signals = torch.randn(400, 12, 20, generator=generator())
    ratio = (augment.channel_resize(signals, 0.5, 2.0, generator(1)) / signals).numpy()
    np.testing.assert_allclose(ratio, ratio[..., :1].repeat(20, axis=2), rtol=1e-5)
    looks_uniform(np.log2(ratio[..., 0]), -1, 1)
    np.testing.assert_allclose(augment.channel_resize(signals, 1.0, 1.0), signals)


def test_time_warp_agrees_with_a_slow_one(signals):
    for fs, warps, radius in ((100, 3, 10), (200, 2, 4), (100, 1, 1e6)):
        view = augment.dynamic_time_warp(signals, warps, radius, fs, generator(4))
        apart = 99 / (warps + 1)
        largest = min(radius * fs / 100, 0.45 * apart)
        delay = largest * (2 * torch.rand(5, warps, generator=generator(4)).double() - 1).numpy()
        anchors = apart * np.arange(warps + 2)
        for i in range(5):
            read_at = np.interp(np.arange(100), anchors, anchors + np.r_[0, delay[i], 0])
            assert (np.diff(read_at) > 0).all()
            slow = [read_slowly(lead, read_at) for lead in signals[i].double().numpy()]
            np.testing.assert_allclose(view[i], slow, atol=2e-4)


def test_time_warp_never_runs_backwards_and_keeps_both_ends():
    ramp = torch.arange(250.0).expand(2000, 12, 250)
    view = augment.dynamic_time_warp(ramp, generator=generator())
    assert view.diff(dim=2).min() > 0
    np.testing.assert_allclose(view[..., 0], np.zeros((2000, 12)))
    np.testing.assert_allclose(view[..., -1], np.full((2000, 12), 249), rtol=1e-6)
    assert 9 < (view - ramp).abs().max() <= 10 and (view == view[:, :1]).all()
    short = augment.dynamic_time_warp(ramp[:, :, :5], generator=generator())
    assert short.diff(dim=2).min() > 0
    assert torch.equal(augment.dynamic_time_warp(ramp, radius=0), ramp)


def test_gaussian_noise_is_normal_white_and_independent_of_lead():
    noise = noise_alone("gaussian_noise", (200, 12, 250), std=2.0)
    assert kstest(noise.ravel(), "norm", (0, 2)).pvalue > 1e-3
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 2) < 0.01
    assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.06
    assert 8 < abs(noise).max() < 8.8  # 16 bits end at 4.4 deviations
    for other in (noise[:, :, 1:] * noise[:, :, :-1], noise[:, 1:] * noise[:, :-1]):
        assert abs(other.mean()) < 0.03
    usual = noise_alone("gaussian_noise", (200, 12, 250))
    assert abs(usual.std() - 0.005) < 1e-4


def test_no_bit_of_a_draw_is_stuck():
    codes = augment._codes((4000, 25), torch.zeros(1), generator()).int() + 2**15
    assert 0 <= codes.min() < 5 and 2**16 - 6 < codes.max() < 2**16
    for place in range(4):  # of a code in its 64-bit draw
        part = codes.flatten()[place::4]
        assert all(abs(((part >> bit) & 1).float().mean() - 0.5) < 0.02 for bit in range(16))


def test_muscle_noise_draws_its_deviation_for_each_record():
    noise = noise_alone("em_noise", (1500, 12, 250), scale=0.5)
    looks_uniform(noise.std(axis=(1, 2)), 0, 0.5, slack=0.02)
    per_lead = noise.std(axis=2) / noise.std(axis=(1, 2))[:, None]
    assert 0.75 < per_lead.min() and per_lead.max() < 1.25  # all leads share it


def waves_of(noise, fs):
    """Complex amplitude of each frequency of noise (batch, lead, time): A cos(w t + phi)."""
    return 2 * np.fft.rfft(noise) / noise.shape[2], np.fft.rfftfreq(noise.shape[2], 1 / fs)


def test_wander_is_fifty_cosines_of_random_weight_and_phase():
    # In 100 s each of the 50 cosines fills a bin of the spectrum of its own.
    spectrum, hertz = waves_of(noise_alone("baseline_wander", (300, 12, 1000), 7, fs=10), 10)
    inside = (hertz > 0.005) & (hertz < 0.505)
    assert inside.sum() == 50
    assert abs(spectrum[..., ~inside]).max() < 1e-5
    waves = spectrum[..., inside]  # (record, lead, 50)
    height = abs(waves).max(axis=(1, 2))  # of 600 weights one comes close to 1
    looks_uniform(height, 0, 0.1)
    looks_uniform(abs(waves[:40]) / height[:40, None, None], 0, 1)
    looks_uniform(np.angle(waves[:40]), -np.pi, np.pi)

    # The same draws at 2.5 s and 100 Hz, and at 10 s and 500 Hz: the sum, term by term.
    for fs, samples in ((100, 250), (500, 5000)):
        noise = noise_alone("baseline_wander", (300, 12, samples), 7, fs=fs)[:5]
        slow = np.zeros((5, 12, samples))
        for k in range(1, 51):
            turn = np.exp(2j * np.pi * 0.01 * k * np.arange(samples) / fs)
            slow += (waves[:5, :, k - 1, None] * turn).real
        np.testing.assert_allclose(noise, slow, atol=2e-6)


def test_powerline_is_one_hum_with_a_gain_for_each_lead():
    shape = (2000, 12, 200)
    noise = noise_alone("powerline", shape, 7, fs=1000, frequency=50)
    spectrum, hertz = waves_of(noise, 1000)
    heard = np.isin(hertz, (50, 100, 150))
    assert heard.sum() == 3 and abs(spectrum[..., ~heard]).max() < 1e-6
    waves = spectrum[..., heard]  # (record, lead, harmonic)
    gain = waves[:, :, 0] / waves[:, :1, 0]  # of each lead over that of the first
    assert abs(gain.imag).max() < 1e-2  # in phase or opposed
    np.testing.assert_allclose(waves, gain.real[..., None] * waves[:, :1], rtol=1e-3, atol=1e-5)
    looks_uniform(np.angle(waves[:, 0]), -np.pi, np.pi)

    # The size is C w g: three independent uniform numbers, C once.
    mean = np.mean(abs(waves), axis=(0, 1))
    np.testing.assert_allclose(mean, 0.1 * 0.5 * 0.5, rtol=0.05)
    np.testing.assert_allclose(noise_alone("powerline", shape, 7, fs=1000, scale=0.4), 2 * noise,
                               atol=1e-6)  # fmt: skip

    # The same draws at lower rates: fewer harmonics, each sample by hand.
    for fs, harmonics in ((500, 3), (250, 2), (120, 1)):
        some = noise_alone("powerline", (2000, 12, 70), 7, fs=fs)[:5]
        slow = np.zeros((5, 12, 70))
        for h in range(harmonics):
            turn = np.exp(2j * np.pi * 50 * (h + 1) * np.arange(70) / fs)
            slow += (waves[:5, :, h, None] * turn).real
        np.testing.assert_allclose(some, slow, atol=2e-6)


def test_the_hum_stands_where_the_rate_resolves_it():
    for fs, expected in ((100, 40), (110, 44), (112, 50), (250, 50), (500, 50)):
        spectrum, hertz = waves_of(noise_alone("powerline", (50, 12, 10 * fs), fs=fs), fs)
        assert hertz[np.argmax((abs(spectrum) ** 2)[..., :].mean(axis=(0, 1)))] % expected == 0
        assert abs(spectrum[..., 0]).max() < 1e-6  # nothing folds to a constant
    for found in (50, 60.0, 0, -1):
        with pytest.raises(ValueError, match=rf"frequency is {found} Hz: .*fs / 2 = 50.0 Hz"):
            augment.powerline(torch.zeros(1, 12, 100), fs=100, frequency=found)


def test_baseline_shift_agrees_with_a_slow_one():
    for fs, samples, most in ((100, 250, 1), (100, 1000, 3), (50, 600, 4)):
        shape, g = (20, 12, samples), generator(3)
        noise = noise_alone("baseline_shift", shape, 3, fs=fs, scale=0.7)
        number = torch.randint(most + 1, (20, 1, 1), generator=g).flatten().tolist()
        height = 0.7 * torch.rand(20, 1, 1, generator=g).numpy()
        gain = 2 * torch.rand(20, 12, most, generator=g).numpy() - 1
        middle = samples / fs * torch.rand(20, most, generator=g).numpy()
        length = 2.4 + 1.2 * torch.rand(20, most, generator=g).numpy()
        for i in range(20):
            slow = np.zeros((12, samples))
            for k in range(number[i]):
                for n in range(samples):
                    if abs(n / fs - middle[i, k]) < length[i, k] / 2:
                        slow[:, n] += height[i, 0] * gain[i, :, k]
            assert (abs(noise[i] - slow) > 1e-6).sum() <= 24  # an edge may round to either side


def test_baseline_shift_has_the_stated_laws():
    noise = noise_alone("baseline_shift", (3000, 12, 250))  # 2.5 s: no step or one
    moved = abs(noise).max(axis=(1, 2)) > 0
    assert abs(moved.mean() - 0.5) < 0.04
    assert (np.count_nonzero(np.diff(noise, axis=2), axis=2) <= 2).all()
    largest = abs(noise[moved]).max(axis=(1, 2))  # C times the largest of 12 gains
    assert largest.max() <= 1 and abs(largest.mean() - 0.5 * 12 / 13) < 0.03
    level = np.take_along_axis(noise, abs(noise).argmax(axis=2)[..., None], 2)[moved, :, 0]
    looks_uniform((level / largest[:, None])[:, 0][abs(level[:, 0]) < largest * 0.999], -1, 1)
    whole = noise_alone("baseline_shift", (400, 12, 3000))[:, 0]  # 30 s: spells that fit inside
    edges = np.count_nonzero(np.diff(whole, axis=1), axis=1)
    assert edges.max() <= 2 * 9 and 6 < edges.mean() < 9


def test_views_on_all_leads_alike_keep_the_limb_leads_and_the_others_say_so(signals):
    def broken(view):
        return float((view[:, 2] - view[:, 1] + view[:, 0]).abs().max())

    for name in PAPER_B:
        function = getattr(augment, name)
        keeps = name in ("random_resized_crop", "time_out", "gaussian_blur", "dynamic_time_warp")
        assert (broken(function(signals, generator=generator())) < 1e-5) == keeps
        if not keeps:
            assert "limb leads" in function.__doc__ or "independent" in function.__doc__


def test_docstrings_name_what_the_reference_gets_wrong():
    for name, words in {
        "powerline": ("applies it twice", "Nyquist", "folds to 0 Hz"),
        "baseline_wander": ("in place",),
        "random_resized_crop": ("ignores the size",),
    }.items():
        assert all(word in getattr(augment, name).__doc__ for word in words)


# --- what all of them keep --------------------------------------------------------------------


@pytest.mark.parametrize("name", NOISES)
def test_noise_of_size_0_is_the_identity_and_its_size_is_linear(signals, name):
    silent = getattr(augment, name)(signals, generator=generator(), **{SIZE[name]: 0})
    assert torch.equal(silent, signals)
    one = noise_alone(name, (40, 12, 250), **{SIZE[name]: 1.0})
    three = noise_alone(name, (40, 12, 250), **{SIZE[name]: 3.0})
    np.testing.assert_allclose(three, 3 * one, rtol=1e-5, atol=1e-5)
    added = getattr(augment, name)(signals, generator=generator(), **{SIZE[name]: 1.0})
    alone = noise_alone(name, signals.shape, **{SIZE[name]: 1.0})
    np.testing.assert_allclose(added - signals, alone, atol=1e-5)


@pytest.mark.parametrize("name", PAPER_B)
def test_two_views_of_a_batch_share_nothing(signals, name):
    before, view = signals.clone(), getattr(augment, name)
    first = view(signals)
    kept = first.clone()
    second = view(signals)
    assert torch.equal(signals, before) and torch.equal(first, kept)
    assert torch.equal(first, second) == (name == "gaussian_blur")  # the only one without chance
    assert first.data_ptr() not in (signals.data_ptr(), second.data_ptr())
    frozen = signals[:1].expand(5, -1, -1)  # one record in memory, five in the batch
    assert view(frozen).shape == (5, 12, 100) and torch.equal(signals, before)


@pytest.mark.parametrize("name", PAPER_B)
def test_views_keep_shape_and_type_of_small_and_large_batches(name):
    view = getattr(augment, name)
    for shape in ((0, 12, 250), (1, 12, 250), (1, 1, 2), (3, 12, 2), (2, 2, 251), (700, 12, 50)):
        made = view(torch.randn(shape, generator=generator()), generator=generator())
        assert made.shape == shape and made.dtype == torch.float32
        assert made.is_contiguous() and bool(made.isfinite().all())
    assert view(torch.zeros(3, 12, 50, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ValueError, match=r"signals has 0 samples: expected at least"):
        view(torch.zeros(3, 12, 0))
    with pytest.raises(ValueError, match=r"shape \(12, 50\): expected \(batch, lead, time\)"):
        view(torch.zeros(12, 50))
    with pytest.raises(ValueError, match="signals has dtype torch.int16: expected floating point"):
        view(torch.zeros(3, 12, 50, dtype=torch.int16))


@pytest.mark.parametrize("name", [*PAPER_B, "time_mask"])
def test_blocks_change_nothing(monkeypatch, name):
    """A batch cut into blocks of any size is the batch changed whole."""
    signals = torch.randn(150, 12, 251, generator=generator())
    views = {name: {"fraction": 0.5} if name == "time_mask" else {}}
    cut = augment.apply(signals, views, generator=generator(2))
    monkeypatch.setattr(augment, "_in_blocks", lambda change, *tensors: change(*tensors))
    whole = augment.apply(signals, views, generator=generator(2))
    np.testing.assert_allclose(cut, whole, atol=1e-6)


@pytest.mark.parametrize("name", PAPER_B)
def test_gradients_pass_through(name):
    signals = torch.randn(160, 12, 250, generator=generator(), requires_grad=True)
    getattr(augment, name)(signals, generator=generator(1)).sum().backward()
    assert bool(signals.grad.isfinite().all()) and float(signals.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", [*PAPER_B, "time_mask"])
def test_every_tensor_is_made_on_the_batch_s_device(name):
    """Shapes and devices only, on a make-believe GPU: a tensor left on the CPU would raise."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        signals = torch.empty(5, 12, 250, device="meta")
        views = {name: {"fraction": 0.5} if name == "time_mask" else {}}
        view = augment.VIEWS[name](signals, **views[name])
    assert view.device.type == "meta" and view.shape == (5, 12, 250)


@pytest.mark.parametrize(
    "view, arguments, message",
    [
        ("gaussian_noise", {"std": -1}, "std is -1: expected a finite number of 0 or more"),
        ("em_noise", {"scale": math.nan}, "scale is nan: expected a finite number"),
        ("baseline_wander", {"scale": -0.1}, "scale is -0.1"),
        ("baseline_wander", {"fs": 0}, r"fs is 0: expected a finite number above 0 \(Hz\)"),
        ("powerline", {"scale": math.inf}, "scale is inf"),
        ("baseline_shift", {"fs": -100}, "fs is -100"),
        ("baseline_shift", {"scale": -2}, "scale is -2"),
        ("channel_resize", {"low": 0}, "low, high are 0, 2.0: expected 0 < low <= high"),
        ("channel_resize", {"low": 3}, "low, high are 3, 2.0"),
        ("dynamic_time_warp", {"warps": 0}, "warps is 0: expected a whole number, 1 or more"),
        ("dynamic_time_warp", {"warps": 1.5}, "warps is 1.5"),
        ("dynamic_time_warp", {"radius": -1}, "radius is -1: expected a finite number of 0"),
        ("time_out", {"low": 0.5}, "low, high are 0.5, 0.4: expected 0 <= low <= high <= 1"),
        ("random_resized_crop", {"high": 1.5}, "low, high are 0.5, 1.5: expected 0 < low"),
    ],
)
def test_bad_arguments_are_named(signals, view, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(augment, view)(signals, **arguments)


# --- chains and levels ------------------------------------------------------------------------


def test_apply_chains_in_order_and_hands_the_rate_on(signals):
    views = {"em_noise": {"scale": 1.0}, "time_out": {}, "powerline": {"scale": 0.1}}
    chained = augment.apply(signals, json.loads(json.dumps(views)), 250, generator(3))
    g = generator(3)
    by_hand = augment.time_out(augment.em_noise(signals, 1.0, g), generator=g)
    by_hand = augment.powerline(by_hand, 250, 0.1, generator=g)
    assert torch.equal(chained, by_hand)
    turned = dict(reversed(views.items()))
    assert not torch.equal(augment.apply(signals, turned, 250, generator(3)), chained)
    hidden_last = augment.apply(signals, {"em_noise": {}, "time_out": {}}, generator=generator())
    hidden_first = augment.apply(signals, {"time_out": {}, "em_noise": {}}, generator=generator())
    assert (hidden_last == 0).any() and not (hidden_first == 0).any()
    assert augment.apply(signals, {}) is signals


def test_the_rate_reaches_every_view_that_has_one(signals):
    signals = signals.repeat(4, 1, 10)  # long enough for a step
    for name in ("dynamic_time_warp", "baseline_wander", "powerline", "baseline_shift"):
        slow = augment.apply(signals, {name: {}}, 100, generator())
        direct = augment.VIEWS[name](signals, fs=400, generator=generator())
        assert torch.equal(augment.apply(signals, {name: {}}, 400, generator()), direct)
        assert not torch.equal(slow, direct)


def test_paper_b_s_recipe_is_resized_crop_then_time_out(signals):
    assert list(augment.MEHARI_VIEWS) == ["random_resized_crop", "time_out"]
    g = generator(3)
    by_hand = augment.time_out(augment.random_resized_crop(signals, generator=g), generator=g)
    assert torch.equal(augment.apply(signals, augment.MEHARI_VIEWS, 100, generator(3)), by_hand)
    assert set(PAPER_B) <= set(augment.VIEWS) and "time_mask" in augment.VIEWS


def test_apply_refuses_what_it_does_not_know(signals):
    with pytest.raises(ValueError, match="views has 'flip': expected any of random_resized_crop, "):
        augment.apply(signals, {"time_out": {}, "flip": {}})
    with pytest.raises(ValueError, match=r"views\['em_noise'\] has \['std'\]: .*\['scale'\]"):
        augment.apply(signals, {"em_noise": {"std": 1}})
    with pytest.raises(ValueError, match="fs"):  # the rate is apply's to give
        augment.apply(signals, {"powerline": {"fs": 500}})
    with pytest.raises(ValueError, match="expected a dictionary"):
        augment.apply(signals, ["time_out"])


def test_apply_keeps_32_bits_under_autocast(signals):
    views = {name: {} for name in PAPER_B}
    plain = augment.apply(signals, views, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        cast = augment.apply(signals, views, generator=generator())
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)


def test_noise_levels_grow_and_add_all_four_noises(signals):
    assert augment.noise_level(signals, 0) is signals
    levels = [[v["scale"] for v in augment.NOISE_LEVELS[n].values()] for n in range(1, 7)]
    assert levels[0] == [0.05, 0.25, 0.1, 0.5] and levels[5] == [0.3, 2.0, 0.5, 3.0]
    assert (np.diff(levels, axis=0) >= 0).all() and (np.diff(levels, axis=0) > 0).any(axis=1).all()
    assert all(set(views) == set(NOISES[1:]) for views in augment.NOISE_LEVELS.values())

    silence = torch.zeros(600, 12, 250)
    noisy = [augment.noise_level(silence, n, 100, generator(1)) for n in range(7)]
    power = [float(noise.square().mean()) for noise in noisy]
    assert (np.diff(power) > 0).all()
    # Wander 50/6 C^2, muscle C^2, one hum C^2 / 18, a step C^2 / 3 for the share of the time that
    # steps cover; the mean of C^2 is a third of the largest C squared.
    covered = np.mean(noise_alone("baseline_shift", (4000, 1, 250)) != 0)
    for level, (wander, muscle, mains, shift) in enumerate(levels, start=1):
        expected = wander**2 * 50 / 6 + muscle**2 + mains**2 / 18 + shift**2 / 3 * covered
        assert abs(power[level] / (expected / 3) - 1) < 0.15


@pytest.mark.parametrize("level", (-1, 7, 1.5, "2", None))
def test_a_level_that_does_not_exist_is_refused(signals, level):
    with pytest.raises(ValueError, match=rf"level is {level}: expected a whole number from 0"):
        augment.noise_level(signals, level)


@pytest.mark.parametrize("name", [*PAPER_B, "time_mask"])
def test_speed(name):
    """Two idle cores do 100,000 records a second and more.

    Here it is processor time on one core, which a busy machine hardly changes, and a third of that.
    """
    signals, threads = torch.randn(256, 12, 250, generator=generator()), torch.get_num_threads()
    views, best = {name: {"fraction": 0.5} if name == "time_mask" else {}}, math.inf
    torch.set_num_threads(1)
    try:
        for _ in range(20):
            start = time.thread_time()
            augment.apply(signals, views, generator=generator())
            best = min(best, time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert len(signals) / best > 30_000


# --- repeatability and errors -----------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        lambda x, g: augment.time_mask(x, 0.5, g),
        lambda x, g: augment.random_resized_crop(x, generator=g),
        lambda x, g: augment.time_out(x, generator=g),
        lambda x, g: augment.random_rotation(x, 45, g),
        lambda x, g: augment.random_scaling(x, 2, g),
        *(
            lambda x, g, name=name: getattr(augment, name)(x, generator=g)
            for name in PAPER_B
            if name != "gaussian_blur"
        ),
        lambda x, g: augment.noise_level(x, 3, generator=g),
    ],
)
def test_views_are_repeatable_by_generator_and_differ_by_record(signals, view):
    before = signals.clone()
    first, again = view(signals, generator(3)), view(signals, generator(3))
    assert torch.equal(first, again)
    assert torch.equal(signals, before)  # the input is left alone
    same = view(signals[:1].expand(5, -1, -1), generator(3))
    assert not torch.equal(same, same[:1].expand(5, -1, -1))


def test_shape_errors(signals):
    with pytest.raises(ValueError, match=r"expected \(batch, 12, time\)"):
        augment.transform_heart_vector(signals[:, :8], torch.eye(3).expand(5, 3, 3))
    with pytest.raises(ValueError, match="fraction is 1.5"):
        augment.time_mask(signals, 1.5)
    with pytest.raises(ValueError, match="expected 0 < low"):
        augment.random_resized_crop(signals, 0.0)


def test_crop_reads_tensor_and_memory_map_alike():
    data = np.random.default_rng(0).integers(-2000, 2000, (6, 12, 50), dtype=np.int16)
    rows, starts = torch.tensor([4, 0, 4]), torch.tensor([3, 30, 10])
    from_tensor = augment.crop(torch.from_numpy(data), rows, starts, 20)
    from_array = augment.crop(data, rows.numpy(), starts.numpy(), 20)
    assert torch.equal(from_tensor, from_array)
    np.testing.assert_allclose(from_tensor[1], data[0, :, 30:50] / 1000, rtol=1e-6)
