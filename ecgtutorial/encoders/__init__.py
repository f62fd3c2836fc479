"""Encoders, one architecture a file: (batch, lead, time) in mV -> tokens, and one vector."""

from .recurrent import RecurrentEncoder
from .single_lead import SingleLeadCNN, default_strides
from .xresnet import XResNet1d

NAMES = ("single-lead", "xresnet1d50", "xresnet1d50-small", "cpc", "cpc-strided", "cpc-small")


def build(name, *, fs=100, n_leads=12):
    """The encoder called `name`, with random weights.

    ``"single-lead"``: 3KG's network (paper D). ``"xresnet1d50"``, ``"cpc"``, ``"cpc-strided"``: the
    networks of paper B. ``"-small"``: the same, at a size that two processor cores can train (our
    choice): half the width and one block a stage for the first; a quarter of the width, and two
    layers that halve the rate, for the second. Raises ``ValueError`` for other names.
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
    raise ValueError(f"encoder is {name!r}: expected one of {', '.join(NAMES)}")
