"""Space and time: mend hidden moments, and say which lead stands where.

Follows Ran & Liu 2024 (paper C), as far as its abstract goes: spans of the signal are hidden, with
a share that changes from batch to batch (*dynamic random masking*, time), leads change places
(*shuffled leads*, space), and one network gives back the original signal in the original order and
the number of the lead at each place. The abstract gives no network, no numbers and no weights.
Every default below is our choice; the chapter *Space and time* lists them all and measures most.

    method = SpatioTemporal(fs=100)
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .. import augment, encoders
from ..leads import INDEPENDENT, LEADS, index


class SpatioTemporal(nn.Module):
    """Reconstruct and number: masking, shuffled leads, or both.

    `encoder`: a name of `encoders.build`. `ratio`: share of samples hidden, drawn for each batch
    between two limits; None for no masking. `span`: shortest and longest hidden span in seconds.
    `hide`: as `leads` of `augment.hidden_spans`. `shuffle`: share of the leads that change places,
    0 for none: then no lead number is asked for either. `weight`: of the lead numbers' loss.
    `visible`: weight of a sample that was not hidden, where a hidden one has 1. `independent`:
    train on the eight leads that no other gives, the four others at zero. `seconds`: length of a
    crop. `width`: of the decoder. Raises ``ValueError`` if nothing is masked and nothing shuffled.
    Source: paper C. Chapter: *Space and time*.
    """

    def __init__(
        self, *, fs=100, encoder="xresnet1d50-small", ratio=(0.2, 0.6), span=(0.2, 0.5),
        hide="independent", shuffle=1 / 3, weight=0.1, visible=0.0, independent=False, seconds=2.5,
        width=128,
    ):  # fmt: skip
        super().__init__()
        if not ratio and not shuffle:
            raise ValueError(
                f"ratio is {ratio} and shuffle {shuffle}: expected masking, shuffling, or both"
            )
        if ratio and (not isinstance(ratio, (tuple, list)) or len(ratio) != 2):
            raise ValueError(f"ratio is {ratio!r}: expected two limits, such as (0.4, 0.4)")
        self.encoder = encoders.build(encoder, fs=fs)
        self.fs, self.seconds = fs, seconds
        self.ratio, self.span, self.hide, self.shuffle = ratio, span, hide, shuffle
        self.weight, self.visible = weight, visible
        self.rows = index(INDEPENDENT if independent else LEADS)  # of the leads it trains on
        self.patch, features = self._token()
        self.decoder = nn.Sequential(
            nn.Conv1d(features, width, 3, padding=1), nn.GELU(),
            nn.Conv1d(width, width, 3, padding=1), nn.GELU(),
            nn.Conv1d(width, len(self.rows) * self.patch, 1),
        )  # fmt: skip
        kernel = round(0.16 * fs)  # a QRS complex with its surroundings
        self.wave = nn.Sequential(  # of one place, the same for all
            nn.Conv1d(1, 32, kernel, kernel // 2), nn.ReLU(), nn.Conv1d(32, 32, 3), nn.ReLU()
        )
        self.number = nn.Sequential(
            nn.Linear(2 * features + 64, 256), nn.ReLU(), nn.Linear(256, len(self.rows))
        )
        for part in (self.wave, self.number):  # processes wait for all gradients that may come
            part.requires_grad_(bool(shuffle))

    @torch.no_grad()
    def _token(self):
        """Samples that a token of the encoder stands for, and its features."""
        self.encoder.eval()
        some, more = (self.encoder.tokens(torch.zeros(2, len(LEADS), n)) for n in (1024, 2048))
        self.encoder.train()
        return round(1024 / (more.shape[1] - some.shape[1])), some.shape[2]

    def loss(self, batch):
        """Reconstruction and, weighted, lead numbers, and their parts.

        ``reconstruction``: squared error as a share of the record's power. ``right``: share of the
        places whose lead number is right, ``right_moved``: of those that another lead has taken.
        """
        original = batch.signals[:, self.rows]  # (batch, lead, time)
        changed, hidden, numbers = self.view(original)
        signals = self.twelve(changed)
        tokens = self.encoder.tokens(signals)  # (batch, token, feature)
        out = self.reconstruct(tokens, signals.shape[2])
        counted = hidden.float() if self.ratio else torch.ones_like(original)
        counted = counted + self.visible * (~hidden)
        power = original.square().mean(dim=(1, 2), keepdim=True).clamp_min(1e-4)  # mV²
        error = (out - original).square() / power
        total = (error * counted).sum() / counted.sum().clamp_min(1)
        parts = {"reconstruction": total.detach()}
        if self.shuffle:
            logits = self.lead_logits(signals, tokens)  # (batch, place, lead)
            numbering = F.cross_entropy(logits.flatten(0, 1), numbers.flatten())
            right = logits.detach().argmax(dim=2) == numbers
            moved = numbers != torch.arange(len(self.rows), device=numbers.device)
            parts |= {"numbers": numbering.detach(), "right": right.float().mean()}
            parts["right_moved"] = right[moved].float().mean() if moved.any() else right.sum() * 0.0
            total = total + self.weight * numbering
        return total, parts

    def view(self, original):
        """What the network is shown: (batch, lead, time) mV -> the same shape, and two answers.

        Returns the changed signals, what is hidden of the *original* (batch, lead, time), bool, and
        the number of the lead at each place (batch, place), among the leads it trains on.
        """
        hidden = torch.zeros_like(original, dtype=torch.bool)
        if self.ratio:
            low, high = self.ratio
            ratio = low + (high - low) * torch.rand(()).item()
            hidden = augment.hidden_spans(
                original.shape, self.fs, ratio, self.span, self.hide, original.device
            )
        changed, numbers = augment.shuffle_leads(original.masked_fill(hidden, 0), self.shuffle)
        return changed, hidden, numbers

    def twelve(self, signals):
        """A place for each of the twelve leads, silent where it does not train: (batch, 12, t)."""
        whole = signals.new_zeros(len(signals), len(LEADS), signals.shape[2])
        whole[:, self.rows] = signals
        return whole

    def reconstruct(self, tokens, length):
        """The original in mV, (batch, lead, time), from tokens (batch, token, feature)."""
        missing = math.ceil(length / self.patch) - tokens.shape[1]  # what is left makes no token
        tokens = F.pad(tokens.transpose(1, 2), (0, max(0, missing)), mode="replicate")
        patches = self.decoder(tokens).float()  # (batch, lead x patch, token)
        patches = patches.unflatten(1, (len(self.rows), self.patch))
        return patches.transpose(2, 3).flatten(2)[..., :length]

    def lead_logits(self, signals, tokens):
        """Which lead stands at each place: (batch, place, lead).

        `signals`: (batch, 12, time) mV; `tokens`: (batch, token, feature) of them. Every
        place is judged by the same layers, from its own wave and the record as a whole: a network
        that may look at the place itself learns to answer "what always stands here".
        """
        places = signals[:, self.rows]  # (batch, place, time)
        waves = self.wave(places.flatten(0, 1)[:, None])  # (batch x place, 32, time)
        waves = torch.cat([waves.amax(dim=2), waves.mean(dim=2)], dim=1)
        waves = waves.unflatten(0, places.shape[:2])  # (batch, place, 64)
        record = torch.cat([tokens.amax(dim=1), tokens.mean(dim=1)], dim=1)
        record = record[:, None].expand(-1, len(self.rows), -1)  # (batch, place, 2 features)
        return self.number(torch.cat([waves, record], dim=2).float())
