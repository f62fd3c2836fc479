"""The network of paper A: a short convolution a token, then a transformer over tokens.

Follows Oh et al. 2022 (paper A), after wav2vec 2.0 (Baevski et al. 2020): strided convolutions turn
every 32 ms of all leads into one token, each token learns its place from a wide grouped
convolution, and attention lets every token see every other.

    encoder = TransformerEncoder(n_convs=2, channels=64, width=128, n_layers=3, n_heads=4)
    encoder(torch.randn(2, 12, 250)).shape  # (2, 128)
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class TransformerEncoder(nn.Module):
    """Strided convolutions and a transformer with convolutional positions; mean over tokens.

    `channels`, `n_convs`: convolutions of kernel 2 and stride 2 that do not overlap, so a token
    spans ``2 ** n_convs`` samples; without bias, and normalised over time after the first one (the
    paper's code; its text has a layer norm in each). `width`, `n_layers`, `n_heads`: of the
    transformer, BERT's base size in the paper; four times as wide inside a layer. `kernel`: tokens
    that the convolution for positions spans, 0 for no positions. `dropout`: of inputs, attention
    and layers. Missing leads are zeros: with no bias in the convolutions, a network that is only
    ever given three leads is the network with three input channels.
    Source: paper A, section 4 and its code. Chapter: *Local and global*.
    """

    def __init__(
        self, *, n_leads=12, channels=256, n_convs=4, width=768, n_layers=12, n_heads=12,
        kernel=128, dropout=0.1,
    ):  # fmt: skip
        super().__init__()
        self.n_leads, self.channels, self.width = n_leads, channels, width
        self.stride = 2**n_convs  # samples a token
        convs, before = [], n_leads
        for number in range(n_convs):
            conv = nn.Conv1d(before, channels, 2, 2, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            norm = [nn.GroupNorm(channels, channels)] if number == 0 else []
            convs += [conv, *norm, nn.GELU()]
            before = channels
        self.convs = nn.Sequential(*convs)
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)
        self.position = _position(width, kernel) if kernel else None
        self.position_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList()
        for _ in range(n_layers):
            layer = nn.TransformerEncoderLayer(
                width, n_heads, 4 * width, dropout, activation="gelu", batch_first=True
            )  # attention is torch's fused one
            layer.dropout.p = 0.0  # between the two linear layers: none in paper A
            self.layers.append(layer)

    def convolve(self, signals):
        """The convolutions alone: (batch, lead, time) -> (batch, token, channels)."""
        if signals.ndim != 3 or signals.shape[1] != self.n_leads:
            raise ValueError(
                f"signals has shape {tuple(signals.shape)}: expected (batch, {self.n_leads}, time)"
            )
        return self.convs(signals).transpose(1, 2)

    def embed(self, features, masked=None, vector=None):
        """What enters the transformer: (batch, token, channels) -> (batch, token, width).

        `features`: of `convolve`, normalised. `masked`: (batch, token) bool, tokens that are
        replaced by `vector` (width,) before they get their positions.
        """
        tokens = self.dropout(self.project(features))
        if masked is not None:
            tokens = torch.where(masked[..., None], vector.to(tokens.dtype), tokens)
        if self.position is not None:
            place = self.position(tokens.transpose(1, 2))[..., : tokens.shape[1]]  # even kernel
            tokens = tokens + F.gelu(place).transpose(1, 2)
        return self.dropout(self.position_norm(tokens))

    def context(self, features, masked=None, vector=None):
        """Tokens that have seen each other: arguments as in `embed`, (batch, token, width)."""
        tokens = self.embed(features, masked, vector)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens

    def tokens(self, signals):
        """Context over time: (batch, lead, time) -> (batch, token, width)."""
        return self.context(self.norm(self.convolve(signals))).float()

    def forward(self, signals):
        """One vector per record, the mean over tokens: (batch, lead, time) -> (batch, width)."""
        return self.tokens(signals).mean(dim=1)

    @torch.no_grad()
    def attention(self, signals):
        """How much each token looks at each other: (batch, layer, head, token, token)."""
        tokens, maps = self.embed(self.norm(self.convolve(signals))), []
        for layer in self.layers:
            maps.append(layer.self_attn(tokens, tokens, tokens, average_attn_weights=False)[1])
            tokens = layer(tokens)
        return torch.stack(maps, dim=1)

    def layer_groups(self):
        """Parameters from input to output, for layer-wise rates."""
        first = [self.convs, self.norm, self.project, self.position, self.position_norm]
        lowest = [p for m in first if m is not None for p in m.parameters()]
        return [lowest, *(list(layer.parameters()) for layer in self.layers)]


def _position(width, kernel):
    """A grouped convolution over tokens with normalised weights, wav2vec 2.0's place code."""
    conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=16)
    nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * width)))
    nn.init.zeros_(conv.bias)
    return weight_norm(conv, dim=2)
