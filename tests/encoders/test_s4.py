"""The state-space encoder: the fast convolution against the recurrence that it stands for."""

import math

import pytest
import torch

from ecgtutorial import encoders
from ecgtutorial.encoders.s4 import S4D, S4Encoder, S4Layer, convolve, sum_of_powers
from ecgtutorial.encoders.single_lead import parameter_count
from ecgtutorial.methods import Batch
from ecgtutorial.methods.cpc import CPC


def recurrence(memory, tokens):
    """The same answer step by step: state <- A state + B u, y = 2 Re(C state) + D u."""
    log_A, CB = memory.discrete()
    sides = []
    for side, direction in zip((tokens, tokens.flip(1)), CB):
        state = torch.zeros(len(tokens), *log_A.shape, dtype=log_A.dtype)
        answers = []
        for moment in side.unbind(dim=1):  # (batch, channel)
            state = log_A.exp() * state + moment[..., None]
            answers.append(2 * (direction * state).sum(dim=-1).real)
        sides.append(torch.stack(answers, dim=1))
    answer = sides[0] + memory.D * tokens
    if len(sides) == 2:  # from the right: of what comes after the moment, without itself
        later = sides[1].flip(1)
        answer = answer + torch.cat([later[:, 1:], torch.zeros_like(later[:, :1])], dim=1)
    return answer


def make(channels=6, n_states=16, causal=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return S4D(channels, n_states, causal).to(dtype)


def both(memory, tokens):
    """Answers and gradients of the two ways."""
    weight = torch.randn(tokens.shape, dtype=tokens.dtype)
    found = []
    for function in (memory, lambda x: recurrence(memory, x)):
        memory.zero_grad()
        x = tokens.clone().requires_grad_()
        answer = function(x)
        (answer * weight).sum().backward()
        gradients = {name: p.grad.clone() for name, p in memory.named_parameters()}
        found.append({"answer": answer.detach(), "input": x.grad} | gradients)
    return found


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 31, 62, 157])
def test_the_convolution_is_the_recurrence(length, causal):
    memory = make(causal=causal)
    fast, slow = both(memory, torch.randn(2, length, 6))
    for name in fast:
        size = max(1.0, float(slow[name].abs().max()))
        torch.testing.assert_close(fast[name], slow[name], atol=1e-5 * size, rtol=1e-5, msg=name)


def test_in_double_precision_they_agree_to_the_last_digits():
    memory = make(dtype=torch.float64, causal=False)
    fast, slow = both(memory, torch.randn(2, 101, 6, dtype=torch.float64))
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-10, rtol=1e-9, msg=name)


def one_state(step, decay, frequency, C, D=0.0):
    """A memory of one channel and one pair of states, in double precision."""
    memory = make(1, 2, dtype=torch.float64)
    with torch.no_grad():
        memory.log_step.fill_(math.log(step))
        memory.log_decay.fill_(math.log(decay))
        memory.frequency.fill_(frequency)
        memory.C.copy_(torch.tensor([C.real, C.imag]).expand_as(memory.C))
        memory.D.fill_(D)
    return memory


def test_impulse_response_of_one_state():
    """The input holds for one step: the state is (e^(A step) - 1) / A, then rings by e^(A step)."""
    step, A, C, D = 0.05, complex(-0.7, 3.0), complex(0.4, -1.1), 0.25
    impulse = torch.zeros(1, 40, 1, dtype=torch.float64)
    impulse[0, 0] = 1
    found = one_state(step, 0.7, 3.0, C, D)(impulse)[0, :, 0]
    power = torch.exp(torch.tensor(A * step, dtype=torch.complex128))
    times = torch.arange(40)
    expected = 2 * (C * (power - 1) / A * power**times).real
    expected[0] += D
    torch.testing.assert_close(found, expected)


def test_a_constant_input_settles_at_what_the_equation_says():
    """0 = A x + u gives x = -u / A, whatever the step."""
    A, C = complex(-2.0, 1.5), complex(1.0, 0.5)
    for step in (0.03, 0.1):
        answer = one_state(step, 2.0, 1.5, C)(torch.ones(1, 2000, 1, dtype=torch.float64))
        assert answer[0, -1, 0].item() == pytest.approx(2 * (-C / A).real)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65, 1000])
def test_the_split_powers_are_the_table_of_powers(length):
    log_A, CB = make(3, 10, causal=False, dtype=torch.float64).discrete()
    table = torch.exp(log_A[..., None] * torch.arange(length))  # (channel, state, time)
    slow = 2 * torch.einsum("dcn,cnt->dct", CB, table).real
    torch.testing.assert_close(sum_of_powers(CB, log_A, length), slow)


@pytest.mark.parametrize("length", [1, 2, 5, 62, 313])
def test_fft_against_the_sum(length):
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn(2, 3, length, generator=generator, dtype=torch.float64)
    kernel = torch.randn(2, 3, length, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(signals)
    for t in range(length):
        for s in range(length):
            lag = kernel[0, :, t - s] if s <= t else kernel[1, :, s - t - 1]
            expected[..., t] += lag * signals[..., s]
        if t == 10:  # enough: the sum is slow
            break
    upto = min(length, 11)
    torch.testing.assert_close(convolve(signals, kernel)[..., :upto], expected[..., :upto])


@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_whom(causal):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(S4Layer(8, 16, causal), S4Layer(8, 16, causal)).double()
    tokens = torch.randn(1, 30, 8, dtype=torch.float64, requires_grad=True)
    layers(tokens)[0, 12].sum().backward()
    reach = tokens.grad[0].abs().amax(dim=1)  # (token,)
    assert (reach[:13] > 1e-6).all()
    if causal:
        assert (reach[13:] < 1e-12).all()  # what is left is the rounding of the FFT
    else:
        assert (reach[13:] > 1e-6).all()


def test_the_context_does_not_see_the_future():
    encoder = encoders.build("cpc-s4").eval()
    signals = torch.randn(1, 12, 240)
    changed = signals.clone()
    changed[:, :, 160:] += 1
    with torch.no_grad():
        moved = (encoder.tokens(signals) - encoder.tokens(changed)).abs().amax(dim=2)[0]
    first = 160 // encoder.stride - 1  # the first token whose window touches the change
    assert (moved[:first] < 1e-4).all() and (moved[first + 1 :] > 1e-2).all()


def test_start_is_lin():
    memory = make(4, 64)
    A = torch.complex(-memory.log_decay.exp(), memory.frequency)
    torch.testing.assert_close(A[2], torch.complex(torch.tensor(-0.5), math.pi * torch.arange(32)))
    steps = memory.log_step.exp()
    assert (steps >= 1e-3).all() and (steps <= 1e-1).all()
    many = make(4000, 2).log_step
    assert many.mean().item() == pytest.approx(math.log(1e-2), abs=0.1)  # log-uniform


def test_states_stay_stable_whatever_training_does():
    torch.manual_seed(0)
    memory = make(4, 8)
    optimizer = torch.optim.AdamW(memory.parameters(), lr=0.05)
    for _ in range(40):  # asked to ring for ever, and louder
        tokens = torch.randn(4, 50, 4)
        growing = tokens.cumsum(dim=1) * torch.linspace(1, 3, 50)[:, None]
        error = (memory(tokens) - growing).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    log_A, _ = memory.discrete()
    assert (log_A.real < 0).all() and (log_A.exp().abs() < 1).all()
    answer = memory(torch.randn(1, 5000, 4))
    assert answer.isfinite().all()
    assert answer[0, 4000:].abs().max() < 10 * answer[0, :4000].abs().max()


def test_long_sequences():
    """As exact after twenty thousand steps as after ten: against double precision."""
    single = make(3, 64)
    double = make(3, 64).double()
    double.load_state_dict(single.state_dict())
    tokens = torch.randn(1, 20_000, 3)
    with torch.no_grad():
        found, expected = single(tokens), double(tokens.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n_leads", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("length", [4, 5, 63, 250])
def test_any_leads_and_any_length(n_leads, length):
    encoder = encoders.build("cpc-s4", n_leads=n_leads)
    signals = torch.randn(2, n_leads, length)
    assert encoder(signals).shape == (2, 384)
    assert encoder.tokens(signals).shape[::2] == (2, 128)
    assert encoder(signals).isfinite().all()


def test_size_and_pace_of_the_lstm_it_replaces():
    s4, lstm = encoders.build("cpc-s4"), encoders.build("cpc-small")
    assert parameter_count(s4) == pytest.approx(parameter_count(lstm), rel=0.01)
    assert (s4.stride, s4.width, s4.hidden, s4.channels) == (
        lstm.stride, lstm.width, lstm.hidden, lstm.channels,
    )  # fmt: skip
    signals = torch.randn(2, 12, 250)
    assert s4.local(signals).shape == lstm.local(signals).shape
    assert not any("lstm" in name for name in s4.state_dict())


def test_layer_groups_hold_each_parameter_once():
    encoder = S4Encoder(channels=8, n_layers=3, n_states=4)
    groups = encoder.layer_groups()
    assert len(groups) == 1 + 3
    grouped = [id(p) for group in groups for p in group]
    assert sorted(grouped) == sorted(id(p) for p in encoder.parameters())
    assert groups[0][0].shape[1] == 12


def test_in_bfloat16_the_memory_stays_exact():
    torch.manual_seed(0)
    encoder = encoders.build("cpc-s4")
    signals = torch.randn(4, 12, 250)
    memory, tokens = make(), torch.randn(2, 50, 6)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(signals)
        assert torch.equal(memory(tokens), memory.float()(tokens))
        rounded = memory(tokens.bfloat16())
    assert features.dtype == rounded.dtype == torch.float32
    features.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    torch.testing.assert_close(features, encoder(signals), atol=0.3, rtol=0.1)


def test_cpc_trains_it_unchanged():
    torch.manual_seed(0)
    method = CPC(encoder="cpc-s4", n_negatives=16)
    assert method.ahead == CPC(encoder="cpc-small").ahead
    wave = torch.sin(torch.linspace(0, 60, 250) + torch.linspace(0, 6, 16)[:, None])
    signals = wave[:, None] * torch.linspace(0.5, 1.5, 12)[:, None] * 0.2
    batch = Batch(signals, torch.arange(16), torch.arange(16))
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_wrong_input():
    with pytest.raises(ValueError, match=r"n_states is 5: expected an even number"):
        S4D(4, 5)
    with pytest.raises(ValueError, match=r"n_states is 0"):
        S4D(4, 0)
    with pytest.raises(ValueError, match=r"shape \(2, 8, 250\).*12"):
        encoders.build("cpc-s4")(torch.randn(2, 8, 250))
    with pytest.raises(ValueError, match="2 kernels and 1 strides"):
        S4Encoder(channels=8, kernels=(1, 1), strides=(1,))
