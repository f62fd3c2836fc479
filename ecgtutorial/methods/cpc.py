"""Contrastive predictive coding: tell what an ECG will look like 120 ms from now.

Follows van den Oord et al. 2018 as Mehari & Strodthoff 2022 (paper B) do: an encoder looks at
each moment, an LSTM sums up the past, one linear layer guesses the moment 12 samples ahead, and the
guess has to pick the true moment out of 128 others of the same recording. No views: the signal is
its own supervision. Paper B's code scores position by position; here one product does it.

    method = CPC(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import math

from torch import nn

from .. import encoders
from ..losses import ahead_logits


class CPC(nn.Module):
    """CPC on 12-lead ECG.

    `encoder`: ``"cpc"``, ``"cpc-strided"`` or ``"cpc-small"``. `ahead`: how many tokens ahead to
    predict, each with a linear layer of its own. Paper B looks exactly 12 ahead, which is 120 ms;
    the original method looked at all of 1 to 12. By default as many tokens as 120 ms hold, but so
    many that the token to be guessed shares no sample with the one the guess is made from.
    `n_negatives`: moments of the same recording that a guess has to tell from the true one.
    `seconds`: length of a crop, 10 in the paper, 2.5 where two cores train (our choice).
    Chapter: *Contrastive predictive coding*.
    """

    def __init__(
        self, *, fs=100, encoder="cpc-small", ahead=None, n_negatives=128, seconds=2.5
    ):
        super().__init__()
        self.encoder = encoders.build(encoder, fs=fs)
        usual = round(0.12 * fs / self.encoder.stride)
        self.ahead = tuple(ahead or [max(usual, first_unseen(self.encoder))])
        self.n_negatives, self.seconds = n_negatives, seconds
        self.predictor = nn.Linear(
            self.encoder.hidden, len(self.ahead) * self.encoder.channels, bias=False
        )

    def loss(self, batch):
        """InfoNCE over moments of each recording; part ``accuracy``: how often the guess wins."""
        local = self.encoder.local(batch.signals)  # (batch, token, channels)
        context = self.encoder.context(local)  # (batch, token, hidden)
        past = context[:, : local.shape[1] - max(self.ahead)]  # those that have a future
        predictions = self.predictor(past).unflatten(2, (len(self.ahead), -1)).transpose(1, 2)
        logits = ahead_logits(predictions, local, self.ahead, self.n_negatives)
        loss = -logits.log_softmax(dim=-1)[..., 0].mean()
        right = logits.detach()[..., 0] > logits.detach()[..., 1:].amax(dim=-1)
        return loss, {"accuracy": right.float().mean()}


def first_unseen(encoder):
    """How many tokens ahead of a token the first one lies that shares no sample with it."""
    samples, stride = 1, 1  # that a token sees; from one token to the next
    for layer in encoder.layers:
        if isinstance(layer, nn.Conv1d):
            samples += (layer.kernel_size[0] - 1) * stride
            stride *= layer.stride[0]
    return math.ceil(samples / stride)
