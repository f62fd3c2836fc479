import math

import pytest
import torch

from ecgtutorial.encoders.random_features import DILATIONS, TAPS, RandomConvolutions
from ecgtutorial.encoders.recurrent import LEAD_STD


def make(n_kernels=40, n_leads=12, seed=0):
    torch.manual_seed(seed)
    return RandomConvolutions(n_leads=n_leads, n_kernels=n_kernels).eval()


def test_filters_against_a_sum_by_hand():
    encoder = make(10, n_leads=2)
    signals = torch.randn(1, 2, 50)
    answers = list(encoder.responses(signals))
    assert [a.shape for a in answers] == [(1, 2, 50)] * len(DILATIONS)
    for number, dilation in enumerate(DILATIONS):
        for t in (0, 20, 49):
            total = encoder.bias[number, 1]
            for tap in range(TAPS):
                at = t + (tap - TAPS // 2) * dilation
                if 0 <= at < 50:  # outside there are zeros
                    total = total + encoder.weight[number, 1, :, tap] @ signals[0, :, at]
            torch.testing.assert_close(answers[number][0, 1, t], total, atol=1e-4, rtol=1e-4)


def test_three_numbers_of_each_filter():
    encoder = make(15)
    signals = torch.randn(3, 12, 120)
    features = encoder(signals).unflatten(1, (len(DILATIONS), 3, 3))  # dilation, number, kernel
    tokens = encoder.tokens(signals).unflatten(2, (len(DILATIONS), 3))  # time, dilation, kernel
    assert encoder.width == 45 and encoder.tokens(signals).shape == (3, 120, 15)
    torch.testing.assert_close(features[:, :, 0], tokens.amax(dim=1))
    torch.testing.assert_close(features[:, :, 1], tokens.clamp_min(0).mean(dim=1))
    torch.testing.assert_close(features[:, :, 2], (tokens > 0).float().mean(dim=1))
    assert features[:, :, 2].min() >= 0 and features[:, :, 2].max() <= 1


def test_a_flat_line_gives_the_bias_and_a_level_changes_nothing_inside():
    encoder = make(10)
    flat = encoder(torch.zeros(1, 12, 60)).unflatten(1, (len(DILATIONS), 3, 2))[0]
    torch.testing.assert_close(flat[:, 0], encoder.bias)
    assert torch.equal(flat[:, 2], (encoder.bias > 0).float())
    signals = torch.randn(1, 12, 300)
    reach = DILATIONS[-1] * (TAPS // 2)
    inside = slice(reach, 300 - reach)  # where no filter reads the zeros outside
    low, high = encoder.tokens(signals)[:, inside], encoder.tokens(signals + 0.5)[:, inside]
    torch.testing.assert_close(low, high, atol=1e-3, rtol=1e-3)


def test_how_weights_are_drawn():
    encoder = make(5000)
    weight, read = encoder.weight, encoder.weight.abs().sum(dim=-1) > 0  # (dilation, kernel, lead)
    n_read = read.sum(dim=-1).float()
    assert n_read.min() == 1 and n_read.max() == 12
    assert 3 <= n_read.median() <= 4  # the root of 12: as often fewer as more
    assert read.float().mean(dim=(0, 1)).std() < 0.02  # no lead before another
    torch.testing.assert_close(weight.sum(dim=-1), torch.zeros(5, 1000, 12), atol=1e-4, rtol=0)
    deviation = weight[read].std().item()
    assert deviation == pytest.approx(math.sqrt(1 - 1 / TAPS), abs=0.02)
    assert encoder.bias.min() < -0.98 and encoder.bias.max() > 0.98
    assert not list(encoder.parameters())


def test_seed_scale_and_leads():
    signals = torch.randn(2, 12, 80)
    assert torch.equal(make(seed=1)(signals), make(seed=1)(signals))
    assert not torch.equal(make(seed=1)(signals), make(seed=2)(signals))
    assert torch.equal(make().scale[:, 0], torch.tensor(LEAD_STD))
    assert make(n_leads=1)(torch.randn(2, 1, 80)).shape == (2, 120)
    again = make(seed=3)
    again.load_state_dict(make(seed=1).state_dict())  # weights travel with the state
    assert torch.equal(again(signals), make(seed=1)(signals))


def test_wrong_input():
    for n in (0, 7, -5):
        with pytest.raises(ValueError, match=rf"n_kernels is {n}: expected a multiple of 5"):
            RandomConvolutions(n_kernels=n)
    with pytest.raises(ValueError, match=r"shape \(2, 8, 250\).*12"):
        make()(torch.randn(2, 8, 250))
