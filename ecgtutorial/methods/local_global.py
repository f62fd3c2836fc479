"""Local and global contrast: guess hidden moments, and know the same heart five seconds later.

Follows Oh et al. 2022 (paper A). *Local* (W2V): spans of tokens are hidden, a transformer guesses
from what is left which quantized token stood there, and has to pick it out of 100 other hidden
tokens of the same recording. *Global* (CMSC): the means of two neighbouring segments of one
recording find each other among all segments of the batch. Random lead masking (RLM) zeroes each
lead with probability one half, so that the network learns to do with any subset.

    method = LocalGlobal(fs=100, seconds=5.0)        # W2V + CMSC + RLM, two segments of 2.5 s
    loss, parts = method.loss(Batch(signals, record, patient))
"""

import torch
from torch import nn
from torch.nn import functional as F

from .. import augment, encoders
from ..losses import code_diversity, masked_logits, nt_xent, segment_contrast
from . import alone


class LocalGlobal(nn.Module):
    """W2V, CMSC or both, with or without random lead masking.

    `w2v`: the local part. `cmsc`: the global part, ``"2N"`` as in the paper's text (all segments in
    every denominator), ``"NxN"`` as in its code (first halves against second halves), or None.
    `lead_mask`: probability of zeroing a lead, 0 for no RLM. `seconds`: length of a crop, cut into
    two segments: 10 in the paper, 5 where two cores train (our choice). `mask`, `span`: chance that
    a token begins a hidden span, and its tokens (default: 320 ms). `codes`: of each of the two
    groups of the quantizer, 320 in the paper. `features`: width in which guesses and targets meet,
    256 in the paper. `diversity`, `penalty`: weights of the codebook's and of the squared features'
    losses (paper's code). `positions`: False leaves out the convolution for positions.
    Raises ``ValueError`` if neither part is on. Chapter: *Local and global*.
    """

    def __init__(
        self, *, fs=100, encoder="transformer-small", w2v=True, cmsc="2N", lead_mask=0.5,
        seconds=5.0, mask=0.065, span=None, codes=64, features=64, n_negatives=100,
        temperature=0.1, diversity=0.1, penalty=10.0, positions=True,
    ):  # fmt: skip
        super().__init__()
        if cmsc not in (None, "2N", "NxN") or not (w2v or cmsc):
            raise ValueError(
                f"w2v is {w2v!r} and cmsc {cmsc!r}: expected cmsc '2N', 'NxN' or None, and one on"
            )
        self.encoder = encoders.build(encoder, fs=fs)
        if not positions:
            self.encoder.position = None
        self.seconds, self.lead_mask, self.cmsc = seconds, lead_mask, cmsc
        self.mask, self.span = mask, span or round(0.32 * fs / self.encoder.stride)
        self.n_negatives, self.temperature = n_negatives, temperature
        self.diversity, self.penalty = diversity, penalty
        self.quantizer = Quantizer(self.encoder.channels, codes, features) if w2v else None
        # Kept out of the encoder: no other task has a use for it.
        self.mask_vector = nn.Parameter(torch.rand(self.encoder.width)) if w2v else None
        self.guess = nn.Linear(self.encoder.width, features) if w2v else None
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.decay = 0.999995  # of the quantizer's temperature, a step (paper's code)
        self.gather = alone

    def plan(self, n_steps, per_epoch):
        """A short run cools the quantizer as far as the paper's 277,000 steps do (our choice)."""
        self.decay = min(self.decay, (LOWEST / HIGHEST) ** (1 / max(1, n_steps)))

    def after_step(self):
        self.step += 1

    def view(self, signals):
        """Two segments of each crop, leads masked: (batch, lead, time), mV -> (2 batch, ...)."""
        return augment_segments(signals, self.lead_mask)

    def loss(self, batch):
        """Local and global loss, unweighted, and their parts, the codebook's use among them."""
        features = self.encoder.convolve(self.view(batch.signals))  # (2 batch, token, channels)
        features = 0.1 * features + 0.9 * features.detach()  # convolutions learn a tenth as fast
        normal = self.encoder.norm(features)
        masked = None
        if self.quantizer is not None:
            masked = augment.span_mask(normal.shape[:2], self.mask, self.span, normal.device)
        context = self.encoder.context(normal, masked, self.mask_vector)  # (2 batch, token, width)
        total, parts = 0.0, {}
        if self.quantizer is not None:
            local, parts = self.local_loss(context, normal, masked)
            total = local + self.penalty * features.float().square().mean()
        if self.cmsc is not None:
            parts["global"] = self.global_loss(context.float().mean(dim=1))
            total = total + parts["global"]
        return total, {name: value.detach() for name, value in parts.items()}

    def local_loss(self, context, normal, masked):
        """Pick the quantized token that was hidden: loss with the codebook's share, and parts."""
        temperature = max(LOWEST, HIGHEST * self.decay ** int(self.step))
        quantized, usage, codes = self.quantizer(self.encoder.dropout(normal), masked, temperature)
        logits = masked_logits(
            self.guess(context), quantized, masked, codes, self.n_negatives, self.temperature
        )
        local = -logits.log_softmax(dim=1)[:, 0].mean()
        uneven = code_diversity(usage)
        right = logits.detach()[:, 0] > logits.detach()[:, 1:].amax(dim=1)
        codes_in_use = (1 - uneven) * usage.numel()  # summed perplexity of the groups
        parts = {"local": local, "accuracy": right.float().mean(), "codes": codes_in_use}
        return local + self.diversity * uneven, parts

    def global_loss(self, segments):
        """CMSC of the segments' means, (2 batch, width): first halves, then second halves."""
        first, second = segments.chunk(2)
        first, second = self.gather(first), self.gather(second)
        if self.cmsc == "NxN":
            return segment_contrast(first, second, self.temperature)
        pair = torch.arange(len(first), device=first.device).repeat(2)
        return nt_xent(torch.cat([first, second]), pair, self.temperature)


HIGHEST, LOWEST = 2.0, 0.5  # temperature of the Gumbel softmax at the beginning and at the end


def augment_segments(signals, lead_mask):
    """Two neighbouring halves of each crop, each with leads of its own zeroed.

    (batch, lead, time) -> (2 batch, lead, time / 2), first halves, then second halves.
    """
    half = signals.shape[2] // 2
    segments = torch.cat([signals[..., :half], signals[..., half : 2 * half]])
    return augment.random_lead_mask(segments, lead_mask) if lead_mask else segments


class Quantizer(nn.Module):
    """A product quantizer with straight-through Gumbel softmax: two groups of codes.

    Every token chooses a code in each of two groups; the chosen vectors, side by side, go through a
    linear layer. `channels`: of the tokens; `codes`: of a group; `features`: of the output.
    Source: Jang et al. 2017; Baevski et al. 2020, section 2; paper A. Chapter: *Local and global*.
    """

    def __init__(self, channels, codes=320, features=256, groups=2):
        super().__init__()
        self.choose = nn.Linear(channels, groups * codes)
        nn.init.normal_(self.choose.weight)
        nn.init.zeros_(self.choose.bias)
        self.vectors = nn.Parameter(torch.rand(groups, codes, features // groups))
        self.mix = nn.Linear(features, features)

    def forward(self, tokens, masked=None, temperature=1.0):
        """Quantized tokens, the mean use of codes, and which codes were chosen.

        `tokens`: (batch, token, channels); `masked`: (batch, token) bool, the tokens whose codes
        count for the use (default: all). Returns (batch, token, features), (group, code) and
        integers (batch, token, group). In evaluation mode there is no noise: the best code wins.
        """
        groups, codes, _ = self.vectors.shape
        logits = self.choose(tokens).float().unflatten(2, (groups, codes))
        counted = logits if masked is None else logits[masked]
        usage = counted.softmax(dim=-1).flatten(0, -3).mean(dim=0)  # (group, code)
        if self.training:
            choice = F.gumbel_softmax(logits, temperature, hard=True, dim=-1)
        else:
            choice = F.one_hot(logits.argmax(dim=-1), codes).to(logits.dtype)
        vectors = torch.einsum("btgc,gcf->btgf", choice, self.vectors.float())
        return self.mix(vectors.flatten(2)), usage, choice.argmax(dim=-1)
