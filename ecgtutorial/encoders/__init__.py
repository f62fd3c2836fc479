"""Encoders, one architecture a file: (batch, lead, time) in mV -> tokens, and one vector."""

import math

from .recurrent import RecurrentEncoder
from .s4 import S4Encoder
from .single_lead import SingleLeadCNN, default_strides
from .transformer import TransformerEncoder
from .xresnet import XResNet1d

NAMES = (
    "single-lead", "xresnet1d50", "xresnet1d50-small", "cpc", "cpc-strided", "cpc-small",
    "cpc-s4", "transformer", "transformer-small",
)  # fmt: skip


def build(name, *, fs=100, n_leads=12):
    """The encoder called `name`, with random weights.

    ``"single-lead"``: 3KG's network (paper D). ``"xresnet1d50"``, ``"cpc"``, ``"cpc-strided"``: the
    networks of paper B. ``"transformer"``: that of paper A, with as many halvings of the rate as
    make tokens of about its 32 ms. ``"-small"``: the same, at a size that two processor cores can
    train (our choice): half the width and one block a stage for xresnet1d50; a quarter of the
    width, and two layers that halve the rate, for CPC; two layers of an eighth of the width, and
    tokens twice as long, for the transformer. ``"cpc-s4"``: ``"cpc-small"`` with state spaces of
    about as many parameters in place of the LSTM. Raises ``ValueError`` for other names.
    """
    if name == "single-lead":
        return SingleLeadCNN(strides=default_strides(fs), n_leads=n_leads)
    if name == "xresnet1d50":
        return XResNet1d(n_leads=n_leads)
    if name == "xresnet1d50-small":
        return XResNet1d(n_leads=n_leads, channels=32, blocks=(1, 1, 1, 1))
    if name == "cpc":
        return RecurrentEncoder(n_leads=n_leads)
    if name == "cpc-strided":
        return RecurrentEncoder(n_leads=n_leads, kernels=(10, 4, 4, 4), strides=(2, 2, 2, 2))
    if name == "cpc-small":
        return RecurrentEncoder(
            n_leads=n_leads, channels=128, hidden=128, kernels=(4, 4, 1, 1),
            strides=(2, 2, 1, 1),
        )  # fmt: skip
    if name == "cpc-s4":
        return S4Encoder(n_leads=n_leads, channels=128, kernels=(4, 4, 1, 1), strides=(2, 2, 1, 1))
    if name == "transformer":
        return TransformerEncoder(n_leads=n_leads, n_convs=_halvings(0.032, fs))
    if name == "transformer-small":
        return TransformerEncoder(
            n_leads=n_leads, n_convs=_halvings(0.064, fs), channels=64, width=96, n_layers=2,
            n_heads=4, kernel=16, dropout=0.0,
        )  # fmt: skip
    raise ValueError(f"encoder is {name!r}: expected one of {', '.join(NAMES)}")


def _halvings(seconds, fs):
    """How often to halve a rate of `fs` Hz for tokens of about so many seconds."""
    return max(1, round(math.log2(seconds * fs)))
