"""A structured state space (S4) in the LSTM's place: oscillators that ring on remember the past.

Follows Gu et al. 2022 (S4D). Every channel drives some dozens of damped oscillators, each with a
frequency and a decay of its own, and reads their sum. That is a linear recurrence, so the answer to
a whole sequence is one convolution, and no step has to wait for the one before it.

    encoder = S4Encoder(channels=128, kernels=(4, 4, 1, 1), strides=(2, 2, 1, 1))
    encoder(torch.randn(2, 12, 1000)).shape  # (2, 384)
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .recurrent import RecurrentEncoder

STEPS = (1e-3, 1e-1)  # the time that passes from token to token, drawn between these: S4's choice


class S4Encoder(RecurrentEncoder):
    """The convolutions and readouts of `RecurrentEncoder`, with state spaces between them.

    `channels`: width of the convolutions and of all layers. `n_layers`: state-space layers;
    `n_states`: of each channel in each layer, in conjugate pairs. `causal`: whether a token sees
    the past alone, as predictive coding needs, or both sides. `stem`: `n_leads`, `kernels` and
    `strides` of the convolutions. Source: Gu et al. 2022. Chapter: *Beyond the papers*.
    """

    def __init__(self, *, channels=512, n_layers=4, n_states=128, causal=True, **stem):
        super().__init__(channels=channels, hidden=channels, n_lstm=1, **stem)
        del self.lstm  # what stands here remembers in its place
        self.s4 = nn.Sequential(
            *(S4Layer(channels, n_states, causal) for _ in range(n_layers)), nn.LayerNorm(channels)
        )

    def context(self, local):
        """What each token knows of the others: (batch, token, channels) -> the same shape."""
        return self.s4(local)

    def layer_groups(self):
        """Parameters from input to output, for layer-wise rates: convolutions, then each layer."""
        *layers, norm = (list(layer.parameters()) for layer in self.s4)
        return [list(self.layers.parameters()), *layers[:-1], layers[-1] + norm]


class S4Layer(nn.Module):
    """Normalise, let every channel remember, mix the channels through a gate, add to the input."""

    def __init__(self, channels, n_states=128, causal=True):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.memory = S4D(channels, n_states, causal)
        self.mix = nn.Linear(channels, 2 * channels)

    def forward(self, tokens):
        """(batch, token, channel) -> the same shape."""
        remembered = F.gelu(self.memory(self.norm(tokens)))
        return tokens + F.glu(self.mix(remembered), dim=-1)


class S4D(nn.Module):
    """A diagonal state space a channel: x' = A x + u, y = 2 Re(C x) + D u.

    `A` holds half of `n_states` complex numbers, the other half are their conjugates. They start at
    -1/2 + i pi n (S4D-Lin), where the filters are a Fourier series under a slow decay. The real
    part is kept as minus an exponential, so no training makes a state grow. Not causal: a second
    `C` reads the same states from the right. Raises ``ValueError`` for an odd number of states.
    Source: Gu et al. 2022, sections 3 and 4. Chapter: *Beyond the papers*.
    """

    def __init__(self, channels, n_states=128, causal=True):
        super().__init__()
        if n_states < 2 or n_states % 2:
            raise ValueError(f"n_states is {n_states}: expected an even number, conjugate pairs")
        shape = (channels, n_states // 2)
        low, high = map(math.log, STEPS)
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(channels, 1))
        self.log_decay = nn.Parameter(torch.full(shape, math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(shape[1]).repeat(channels, 1))
        self.C = nn.Parameter(math.sqrt(0.5) * torch.randn(1 if causal else 2, *shape, 2))
        self.D = nn.Parameter(torch.randn(channels))

    def discrete(self):
        """The recurrence x <- A x + B u, y = 2 Re(C x): log A, and C times B.

        Zero-order hold: the input stands still from token to token. (channel, state) and
        (direction, channel, state), complex.
        """
        A = torch.complex(-self.log_decay.exp(), self.frequency)
        log_A = self.log_step.exp() * A
        return log_A, torch.view_as_complex(self.C) * torch.expm1(log_A) / A

    def forward(self, tokens):
        """(batch, token, channel) -> the same shape, in the parameters' precision."""
        with torch.autocast(tokens.device.type, enabled=False):  # bfloat16 knows no Fourier
            signals = tokens.to(self.D.dtype).transpose(1, 2)  # (batch, channel, token)
            log_A, CB = self.discrete()
            kernel = sum_of_powers(CB, log_A, signals.shape[2])
            at_once = F.pad(self.D[:, None], (0, signals.shape[2] - 1))  # D answers at t = 0
            kernel = torch.cat([kernel[:1] + at_once, kernel[1:]])
            return convolve(signals, kernel).transpose(1, 2).contiguous()


def sum_of_powers(CB, log_A, length):
    """The impulse response 2 Re sum_n CB_n A_n^t at t = 0 ... `length` - 1.

    `CB`: (direction, channel, state); `log_A`: (channel, state). Returns (direction, channel,
    `length`). With t = block x q + r the powers split, A^t = (A^block)^q A^r, and the sum over
    states becomes one small product of matrices: no table of all states at all times.
    """
    block = math.isqrt(length - 1) + 1  # about the root of the length
    r = torch.arange(block, device=log_A.device)
    q = block * torch.arange(-(-length // block), device=log_A.device)[:, None]
    fine = _power(log_A[:, :, None], r)  # (channel, state, block)
    coarse = CB[:, :, None] * _power(log_A[:, None], q)  # (direction, channel, q, state)
    return 2 * (coarse @ fine).real.flatten(2)[..., :length]


def _power(log_A, t):
    """A^t by size and angle: four times as fast as the exponential of a complex number."""
    return torch.polar(torch.exp(log_A.real * t), log_A.imag * t)


def convolve(signals, kernel):
    """Filter `signals` (batch, channel, time) by a kernel (direction, channel, time), by FFT.

    The first direction reaches back from each sample, itself included; the second, if there is one,
    forward from the next. Zeros behind the signal keep its end from its beginning.
    """
    length = signals.shape[2]
    unit = 1 << max(0, (2 * length).bit_length() - 3)
    n = -(-2 * length // unit) * unit  # 4 to 8 times a power of 2: quick, and hardly longer
    around = F.pad(kernel[0], (0, n - length))  # a circle of n samples: time runs on
    if len(kernel) == 2:
        around = around + F.pad(kernel[1].flip(-1), (n - length, 0))  # and back from its end
    product = torch.fft.rfft(signals, n) * torch.fft.rfft(around, n)
    return torch.fft.irfft(product, n)[..., :length]
