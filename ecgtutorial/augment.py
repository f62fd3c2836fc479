"""Views: every random change of a batch of ECGs that a method of the book uses.

All functions take ``signals`` (batch, lead, time) in mV, run on the device the batch is on, draw
one set of parameters per record, and return a new tensor: the input is never written to. Pass a
``torch.Generator`` of that device for repeatable draws; without one the global generator is used.
A wrong argument raises ``ValueError``. What acts on all leads alike keeps III = II - I and its
kin; what draws for each lead apart breaks them, and says so.

The views of paper B (Mehari & Strodthoff 2022) follow its appendix. ``scale`` is the *largest*
amplitude in mV: each record draws its own C, uniform in [0, scale]. `apply` chains them by name:

    apply(signals, {"random_resized_crop": {}, "powerline": {"scale": 0.1}}, fs=250)

Chapters: *Augmentations*, *3KG*.
"""

import functools
import inspect
import math

import numpy as np
import torch
from scipy.special import ndtri
from torch.nn import functional as F

from .leads import dower12, inverse_dower12


def _check(signals, n_leads=None, at_least=1, **amounts):
    """Signals are (batch, lead, time) floats; amounts are 0 or more, and a rate above 0."""
    if signals.ndim != 3 or (n_leads and signals.shape[1] != n_leads):
        raise ValueError(
            f"signals has shape {tuple(signals.shape)}: expected (batch, {n_leads or 'lead'}, time)"
        )
    if not signals.is_floating_point():
        raise ValueError(f"signals has dtype {signals.dtype}: expected floating point, in mV")
    if signals.shape[2] < at_least:
        raise ValueError(f"signals has {signals.shape[2]} samples: expected at least {at_least}")
    for name, value in amounts.items():
        if not 0 <= value < math.inf or (name == "fs" and value == 0):
            least = "above 0 (Hz)" if name == "fs" else "of 0 or more"
            raise ValueError(f"{name} is {value}: expected a finite number {least}")


def _uniform(low, high, shape, signals, generator):
    unit = torch.rand(shape, generator=generator, device=signals.device)
    return low + (high - low) * unit


def _codes(shape, signals, generator):
    """Independent int16, uniform over all 65,536: four out of each 64-bit draw.

    A CPU's generator runs on one core and is what noise waits for, so no bit is wasted.
    """
    n = math.prod(shape)
    words = torch.empty((n + 3) // 4, dtype=torch.int64, device=signals.device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    return words.view(torch.int16)[:n].view(shape)


def _in_blocks(change, signals, *drawn):
    """``change(signals, *drawn)``, on a CPU for a few records at a time.

    What is made on the way then stays in the cache. With a few times 12 MB on the way instead, it
    can be several times slower: each step fetches memory from the system and gives it back.
    """
    size = max(1, 400_000 // max(1, signals[:1].numel()))
    if signals.device.type != "cpu" or len(signals) <= size:
        return change(signals, *drawn)
    out = torch.empty_like(signals)
    for i in range(0, len(signals), size):
        out[i : i + size] = change(signals[i : i + size], *(d[i : i + size] for d in drawn))
    return out


# --- the heart vector -------------------------------------------------------------------------


def axis_rotations(angles):
    """Rotation matrices about X, Y and Z.

    `angles`: radians, (batch, 3). Returns (batch, 3, 3, 3): one 3 x 3 matrix for each axis.
    """
    cos, sin = torch.cos(angles), torch.sin(angles)
    rotations = torch.eye(3, device=angles.device).repeat(len(angles), 3, 1, 1)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3  # the plane that turns
        rotations[:, axis, first, first] = cos[:, axis]
        rotations[:, axis, second, second] = cos[:, axis]
        rotations[:, axis, first, second] = -sin[:, axis]
        rotations[:, axis, second, first] = sin[:, axis]
    return rotations  # (batch, axis, 3, 3)


def random_rotation(signals, degrees, generator=None):
    """One random rotation of the heart vector per record, (batch, 3, 3).

    Three angles, each uniform in [-`degrees`, `degrees`], about X, Y and Z in a random order.
    Source: paper D, section 3 (Gopal et al. 2021).
    """
    batch = len(signals)
    radians = math.radians(degrees)
    angles = _uniform(-radians, radians, (batch, 3), signals, generator)
    order = torch.rand(batch, 3, generator=generator, device=signals.device).argsort(dim=1)
    rotations = axis_rotations(angles)[torch.arange(batch)[:, None], order]  # (batch, 3, 3, 3)
    return rotations[:, 2] @ rotations[:, 1] @ rotations[:, 0]


def random_scaling(signals, factor, generator=None):
    """One random scaling of the heart vector per record, a diagonal matrix (batch, 3, 3).

    Each axis is multiplied by s, uniform in [1, `factor`], or by 1 / s, with equal chance.
    Source: paper D, section 3. Raises ``ValueError`` for a factor below 1.
    """
    if factor < 1:
        raise ValueError(f"factor is {factor}: expected at least 1 (1 leaves the vector alone)")
    shape = (len(signals), 3)
    scale = _uniform(1, factor, shape, signals, generator)
    shrink = torch.rand(shape, generator=generator, device=signals.device) < 0.5
    return torch.diag_embed(torch.where(shrink, 1 / scale, scale))


def transform_heart_vector(signals, matrix, residual=False):
    """Apply a 3 x 3 matrix to the heart vector behind a 12-lead ECG.

    Inverse Dower takes the leads to the vector, `matrix` (batch, 3, 3) changes it, Dower takes it
    back, and the limb leads follow by arithmetic. The three maps are one 12 x 12 matrix a record.
    The way there and back has rank 3 of 8, so what is not dipolar is lost even when `matrix` is
    the identity. With `residual` only the *change* is added, and that part is kept: our choice,
    not the paper's. Source: paper D, section 3.
    """
    _check(signals, 12)
    to_leads = torch.as_tensor(dower12(), dtype=signals.dtype, device=signals.device)
    to_vector = torch.as_tensor(inverse_dower12(), dtype=signals.dtype, device=signals.device)
    matrix = matrix.to(signals.dtype)
    if residual:
        change = matrix - torch.eye(3, dtype=signals.dtype, device=signals.device)
        return signals + to_leads @ change @ to_vector @ signals
    return to_leads @ matrix @ to_vector @ signals  # (batch, 12, 12) @ (batch, 12, time)


# --- time -------------------------------------------------------------------------------------


def time_mask(signals, fraction, generator=None):
    """Zero a span of each lead, wrapped around the end, at a start of its own.

    The span is ``floor(time * fraction)`` samples. Source: paper D, section 3.
    """
    _check(signals)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}: expected between 0 and 1")
    batch, n_leads, time = signals.shape
    start = torch.randint(time, (batch, n_leads), generator=generator, device=signals.device)
    twice = torch.arange(2 * time, device=signals.device) % time < math.floor(time * fraction)
    hidden = twice.unfold(0, time, 1)[time - start]  # (batch, lead, time): one window per start
    return torch.where(hidden, 0, signals)


def random_lead_mask(signals, p=0.5, generator=None):
    """Zero each lead of each record with probability `p`, whole, independently of the others.

    `signals`: (batch, lead, time). Source: paper A, section 3.3 (random lead masking). Chapter:
    *Local and global*.
    """
    _check(signals, p=p)
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}: expected a probability")
    keep = torch.rand(signals.shape[:2], device=signals.device, generator=generator) >= p
    return signals * keep[..., None].to(signals.dtype)


def span_mask(shape, p=0.065, span=10, device="cpu", generator=None):
    """Hide spans of tokens: (batch, token) bool, True where hidden.

    Every token begins a span of `span` tokens with probability `p`; spans may overlap, and may
    begin before the first token, so that a share of 1 - (1 - p)^span is hidden, half of all with
    the paper's numbers. A record with fewer than two hidden tokens gets one span more, at a random
    place. Raises ``ValueError`` for a span that does not fit.
    Source: paper A, section 3.1. Chapter: *Local and global*.
    """
    n, n_tokens = shape
    if not 2 <= span <= n_tokens or not 0 <= p <= 1:
        raise ValueError(f"p is {p}, span {span} for {n_tokens} tokens: expected 2 ... tokens")
    draw = torch.rand(n, n_tokens + span - 1, device=device, generator=generator)
    extra = torch.randint(n_tokens - span + 1, (n,), device=device, generator=generator)
    start = (draw < p).float()
    hidden = torch.nn.functional.max_pool1d(start, span, stride=1) > 0  # a start hides what follows
    place = torch.arange(n_tokens, device=device) - extra[:, None]  # (batch, token)
    few = hidden.sum(dim=1, keepdim=True) < 2
    return hidden | (few & (place >= 0) & (place < span))


def hidden_spans(
    shape, fs, ratio, seconds=(0.2, 0.5), leads="independent", device="cpu", generator=None
):  # fmt: skip
    """Which samples to hide: spans of random length at random places, bool, True where hidden.

    `shape`: (batch, lead, time). `ratio`: share of the samples that is hidden on average; spans
    overlap, so a record has a little more or less. `seconds`: shortest and longest span. `leads`:
    ``"independent"``, each lead has spans of its own; ``"common"``, all leads together; ``"limb"``,
    the first six of twelve together, so that none of them can be computed from two others. Raises
    ``ValueError`` for other words, for a ratio outside 0 ... 1 and spans that do not fit.
    Source: paper C, where all numbers are our choice. Chapter: *Space and time*.
    """
    batch, n_leads, time = shape
    first = {"independent": 0, "common": n_leads, "limb": 6}.get(leads)  # leads that share spans
    shortest, longest = (max(1, round(s * fs)) for s in seconds)
    if first is None or (leads == "limb" and n_leads != 12):
        raise ValueError(
            f"leads is {leads!r} for {n_leads} leads: expected 'independent', 'common', or, for 12 "
            "leads, 'limb'"
        )
    if not 0 <= ratio <= 1 or not shortest <= longest <= time:
        raise ValueError(
            f"ratio is {ratio}, spans are {seconds} s in {time / fs:g} s: expected a ratio of 0 to "
            "1 and spans that fit, the shortest first"
        )
    rows = n_leads - max(0, first - 1)
    # With a span beginning at each sample with chance p, (1 - p)^(mean length) stays visible.
    # Spans may begin before the first sample: both ends are hidden as often as the middle.
    p = 1 - (1 - ratio) ** (2 / (shortest + longest))
    size = (batch, rows, time + longest - 1)
    begins = torch.rand(size, device=device, generator=generator) < p
    lengths = torch.randint(shortest, longest + 1, size, device=device, generator=generator)
    place = torch.arange(size[2], device=device)
    ends = torch.where(begins, place + lengths, 0).cummax(dim=2).values  # of the spans so far
    hidden = (place < ends)[..., longest - 1 :]  # (batch, row, time)
    if first:
        row = [0] * first + list(range(1, rows))
        hidden = hidden[:, row]
    return hidden


def shuffle_leads(signals, share=1.0, generator=None):
    """Exchange the places of a random `share` of the leads of each record.

    `signals`: (batch, lead, time). The chosen leads are dealt out anew over their places; with
    twelve leads one of them lands where it was on average. Returns the shuffled signals and the
    number of the lead that now stands at each place, (batch, lead): ``shuffled[b, p] =
    signals[b, numbers[b, p]]``. Raises ``ValueError`` for a share outside 0 ... 1.
    Source: paper C; the share is our choice. Chapter: *Space and time*.
    """
    _check(signals, share=share)
    if share > 1:
        raise ValueError(f"share is {share}: expected at most 1")
    batch, n_leads, _ = signals.shape
    draw = [torch.rand(batch, n_leads, device=signals.device, generator=generator) for _ in "12"]
    chosen = draw[0].argsort(dim=1)[:, : round(share * n_leads)]  # (batch, moved)
    order = draw[1][:, : chosen.shape[1]].argsort(dim=1)
    numbers = torch.arange(n_leads, device=signals.device).repeat(batch, 1)
    numbers.scatter_(1, chosen, chosen.gather(1, order))
    return signals.gather(1, numbers[..., None].expand(signals.shape)), numbers


def random_resized_crop(signals, low=0.5, high=1.0, generator=None):
    """Keep a random part of each record and stretch it back to full length (linear).

    The part kept is a fraction uniform in [`low`, `high`], the same for all leads. What comes out
    is as long as what went in; the reference ignores the size it is asked for. Source: paper B,
    appendix (Mehari & Strodthoff 2022).
    """
    _check(signals, at_least=2)
    if not 0 < low <= high <= 1:
        raise ValueError(f"low, high are {low}, {high}: expected 0 < low <= high <= 1")
    batch, _, time = signals.shape
    length = _uniform(low, high, (batch, 1), signals, generator) * (time - 1)
    start = _uniform(0, 1, (batch, 1), signals, generator) * (time - 1 - length)
    position = start + length * torch.linspace(0, 1, time, device=signals.device)  # (batch, time)
    return _in_blocks(_read, signals, position)


def time_out(signals, low=0.2, high=0.4, generator=None):
    """Zero one random span of each record, in all leads together.

    The span is a fraction uniform in [`low`, `high`] of the record. Source: paper B, appendix.
    """
    _check(signals)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low, high are {low}, {high}: expected 0 <= low <= high <= 1")
    batch, _, time = signals.shape
    length = (_uniform(low, high, (batch, 1, 1), signals, generator) * time).floor()
    start = _uniform(0, 1, (batch, 1, 1), signals, generator) * (time - length)
    offset = torch.arange(time, device=signals.device) - start.floor()
    return torch.where((offset >= 0) & (offset < length), 0, signals)


def dynamic_time_warp(signals, warps=3, radius=10, fs=100, generator=None):
    """Run time faster here and slower there, the same for all leads; both ends stay.

    `warps` anchors stand at equal distances inside the record. Each is read up to `radius` samples
    of 100 Hz (10 = 0.1 s) earlier or later, uniformly; between anchors the delay runs in a straight
    line, and signals are interpolated linearly. In a short record a delay is at most 0.45 of the
    distance of two anchors, so that time never runs backwards. Source: paper B, appendix, which
    gives 3 and 10; anchors, their law and the unit of the radius are our choice.
    """
    _check(signals, at_least=2, fs=fs, radius=radius)
    if warps < 1 or warps != int(warps):
        raise ValueError(f"warps is {warps}: expected a whole number, 1 or more")
    batch, _, time = signals.shape
    apart = (time - 1) / (warps + 1)
    largest = min(radius * fs / 100, 0.45 * apart)
    delay = _uniform(-largest, largest, (batch, int(warps)), signals, generator)
    now = torch.arange(time, device=signals.device, dtype=torch.float32)
    anchor = torch.arange(1, int(warps) + 1, device=signals.device)[:, None]
    share = (1 - (now / apart - anchor).abs()).clamp(min=0)  # (anchor, time): a tent on each
    return _in_blocks(_read, signals, now + delay @ share)


def _read(signals, position):
    """The signals between their samples: linear, at `position` (batch, time), in samples."""
    left = position.floor().long().clamp(0, signals.shape[2] - 2)  # (batch, time)
    weight = (position - left).unsqueeze(1).to(signals.dtype)
    shape = (-1, signals.shape[1], -1)
    before = signals.gather(2, left.unsqueeze(1).expand(shape))  # (batch, lead, time)
    after = signals.gather(2, (left + 1).unsqueeze(1).expand(shape))
    return torch.lerp(before, after, weight)


# --- amplitude and noise ----------------------------------------------------------------------


def channel_resize(signals, low=0.5, high=2.0, generator=None):
    """Multiply each lead by a gain of its own, log-uniform in [`low`, `high`].

    Breaks the relations between the limb leads. Source: paper B, appendix.
    """
    _check(signals)
    if not 0 < low <= high < math.inf:
        raise ValueError(f"low, high are {low}, {high}: expected 0 < low <= high")
    shape = (*signals.shape[:2], 1)
    gain = _uniform(math.log(low), math.log(high), shape, signals, generator).exp()
    return signals * gain.to(signals.dtype)


def gaussian_blur(signals, generator=None):
    """Average each sample with two neighbours on either side, weights .1 .2 .4 .2 .1.

    Nothing is random: `generator` is there to be called like the others. The end samples are
    repeated beyond the ends (our choice), so a constant stays as it is. Source: paper B, appendix.
    """
    _check(signals)

    def blur(part):
        padded = F.pad(part, (2, 2), mode="replicate")  # (batch, lead, 2 + time + 2)
        flat = padded.flatten()  # one long row is fast; leads meet in their padding only
        blurred = 0.4 * flat
        blurred[1:].add_(flat[:-1], alpha=0.2)
        blurred[:-1].add_(flat[1:], alpha=0.2)
        blurred[2:].add_(flat[:-2], alpha=0.1)
        blurred[:-2].add_(flat[2:], alpha=0.1)
        return blurred.view_as(padded)[:, :, 2:-2].contiguous()

    return _in_blocks(blur, signals)


def gaussian_noise(signals, std=0.005, generator=None):
    """Add normal noise of standard deviation `std` (mV), independent in every sample and lead.

    Source: paper B, appendix; 0.005 is its command line's value.
    """
    _check(signals, std=std)
    deviation = torch.full((len(signals), 1, 1), std, device=signals.device)
    return _add_normal(signals, deviation, generator)


def em_noise(signals, scale=0.5, generator=None):
    """Add the crackle of muscles: normal noise whose deviation C is uniform in [0, `scale`] mV.

    Independent in every lead, so it breaks the relations between the limb leads. Source: paper B,
    appendix.
    """
    _check(signals, scale=scale)
    deviation = _uniform(0, scale, (len(signals), 1, 1), signals, generator)
    return _add_normal(signals, deviation, generator)


def _add_normal(signals, deviation, generator):
    """Normal noise to 16 bits, none beyond 4.4 deviations, by looking codes up in a table."""
    table = torch.as_tensor(_normal_quantiles(), device=signals.device)

    def add(part, codes, deviation):
        normal = table.index_select(0, codes.flatten().int().add_(2**15)).view(part.shape)
        return normal.mul_(deviation).to(part.dtype).add_(part)

    return _in_blocks(add, signals, _codes(signals.shape, signals, generator), deviation)


@functools.cache
def _normal_quantiles():
    """65,536 equally likely values that stand for a standard normal; their variance is 1."""
    quantiles = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (quantiles / quantiles.std()).astype(np.float32)


def baseline_wander(signals, fs=100, scale=0.1, generator=None):
    """Add the slow sway of breathing: in each lead the sum over k = 1 ... 50 of

        C w_k cos(2 pi 0.01 k t + phi_k),   w_k uniform in [0, 1], phi_k in [0, 2 pi),

    with t in s and C uniform in [0, `scale`] mV, one for the record. Weights and phases are drawn
    for each lead (our reading), which breaks the relations between the limb leads. The reference
    adds in place, so that two views of a record can share one wander; here the input stays as it
    was. Source: paper B, appendix.
    """
    _check(signals, fs=fs, scale=scale)
    batch, n_leads, time = signals.shape
    height = _uniform(0, scale, (batch, 1, 1), signals, generator)
    codes = _codes((batch, n_leads, 100), signals, generator)
    mix, bases = (torch.as_tensor(a, device=signals.device) for a in _wander_bases(time, fs))

    def add(part, codes, height):
        weight = (codes[..., :50] + (2**15 + 0.5)).mul_(height / 2**16)
        phase = codes[..., 50:] * (2 * math.pi / 2**16)
        weights = _wave_weights(weight, phase).flatten(0, 1)  # (batch * lead, 100)
        few = (weights @ mix).to(part.dtype)  # (batch * lead, base)
        return torch.addmm(part.flatten(0, 1), few, bases.to(part.dtype)).view_as(part)

    return _in_blocks(add, signals, codes, height)


@functools.lru_cache(maxsize=64)
def _wander_bases(time, fs):
    """The waves of the wander as a product of two matrices, (100, base) and (base, time).

    In a window of seconds a hundred such slow waves are all mixtures of about a dozen: the singular
    vectors above the rounding of floats. That makes the wander many times cheaper.
    """
    waves = _waves(np.arange(1, 51) / 100, time, fs)
    left, size, right = np.linalg.svd(waves, full_matrices=False)
    keep = size > 1e-8 * size[0]
    return (left * size)[:, keep].astype(np.float32), right[keep].astype(np.float32)


def _waves(frequencies, time, fs):
    """cos at each frequency (Hz), then -sin at each: (2 * frequency, time)."""
    angle = 2 * np.pi * np.outer(frequencies, np.arange(time) / fs)
    return np.concatenate([np.cos(angle), -np.sin(angle)])


def _wave_weights(weight, phase):
    """What `_waves` are multiplied by to give weight * cos(2 pi f t + phase)."""
    return torch.cat([weight * phase.cos(), weight * phase.sin()], dim=-1)


def powerline(signals, fs=100, scale=0.2, frequency=None, generator=None):
    """Add the hum of the mains: to each lead g times the sum over h = 1, 2, 3 of

        C w_h cos(2 pi h f t + phi_h),   g uniform in [-1, 1] for each lead,

    with C uniform in [0, `scale`] mV, w_h in [0, 1] and phi_h in [0, 2 pi) for the record: one hum,
    which each lead picks up more or less (weights and phases our choice). The gains break the
    relations between the limb leads. C enters once; the reference applies it twice, so that its
    hum grows with C squared.

    `frequency`: f in Hz. ``None`` is 50 where `fs` resolves it (50 < 0.45 fs) and else 0.4 fs, our
    stand-in (40 Hz at 100 Hz). The reference adds 50 Hz to records of 100 Hz: that is the Nyquist
    frequency, where a wave's size depends on its phase, and the second harmonic folds to 0 Hz, a
    constant. Here harmonics at or above fs / 2 are left out, and a `frequency` there raises
    ``ValueError``.
    Source: paper B, appendix.
    """
    _check(signals, fs=fs, scale=scale)
    if frequency is None:
        frequency = 50 if 50 < 0.45 * fs else 0.4 * fs
    if not 0 < frequency < fs / 2:
        raise ValueError(
            f"frequency is {frequency} Hz: expected above 0 and below fs / 2 = {fs / 2} Hz"
        )
    batch, n_leads, time = signals.shape
    height = _uniform(0, scale, (batch, 1), signals, generator)
    weight = _uniform(0, 1, (batch, 3), signals, generator) * height
    phase = _uniform(0, 2 * math.pi, (batch, 3), signals, generator)
    gain = _uniform(-1, 1, (batch, n_leads, 1), signals, generator).to(signals.dtype)
    heard = [h * frequency for h in (1, 2, 3) if h * frequency < fs / 2]
    weights = _wave_weights(weight[:, : len(heard)], phase[:, : len(heard)])
    waves = torch.as_tensor(_waves(heard, time, fs), dtype=weights.dtype, device=weights.device)
    hum = (weights @ waves).to(signals.dtype)  # (batch, time)
    return torch.addcmul(signals, gain, hum[:, None])


def baseline_shift(signals, fs=100, scale=1.0, generator=None):
    """Add steps: spells in which the baseline of each lead stands elsewhere.

    A record of s seconds has 0, 1, ... or ceil(0.3 s) spells, all equally likely. A spell lasts
    3 s +/- 20 % (uniform), its middle anywhere in the record; each lead moves by C g, g uniform in
    [-1, 1] for each lead and spell and C uniform in [0, `scale`] mV. The gains break the relations
    between the limb leads. Source: paper B, appendix; the laws of number, length and place are
    our choice, and so is rounding 0.3 s up: 2.5 s would never see a step.
    """
    _check(signals, fs=fs, scale=scale)
    batch, n_leads, time = signals.shape
    most = math.ceil(0.3 * time / fs)
    device = signals.device
    number = torch.randint(most + 1, (batch, 1, 1), generator=generator, device=device)
    height = _uniform(0, scale, (batch, 1, 1), signals, generator)
    gain = _uniform(-1, 1, (batch, n_leads, most), signals, generator)
    gain = gain * height * (torch.arange(most, device=device) < number)  # (batch, lead, spell)
    middle = _uniform(0, time / fs, (batch, most, 1), signals, generator)
    length = _uniform(2.4, 3.6, (batch, most, 1), signals, generator)
    seconds = torch.arange(time, device=device) / fs
    inside = (seconds - middle).abs() < length / 2  # (batch, spell, time)
    return torch.baddbmm(signals, gain.to(signals.dtype), inside.to(signals.dtype))


# --- chains -----------------------------------------------------------------------------------

# What `apply` can call by name.
VIEWS = {
    view.__name__: view
    for view in (
        random_resized_crop, time_out, gaussian_noise, gaussian_blur, channel_resize,
        dynamic_time_warp, baseline_wander, powerline, em_noise, baseline_shift, time_mask,
        random_lead_mask,
    )
}  # fmt: skip

MEHARI_VIEWS = {"random_resized_crop": {}, "time_out": {}}  # paper B's best recipe


def _level(wander, muscle, mains, shift):
    return {
        "baseline_wander": {"scale": wander},
        "em_noise": {"scale": muscle},
        "powerline": {"scale": mains},
        "baseline_shift": {"scale": shift},
    }


# Paper B's robustness levels: the largest C of each noise, in mV.
NOISE_LEVELS = {
    1: _level(0.05, 0.25, 0.1, 0.5),
    2: _level(0.1, 0.5, 0.2, 1.0),
    3: _level(0.1, 1.0, 0.2, 2.0),
    4: _level(0.2, 1.0, 0.4, 2.0),
    5: _level(0.2, 1.5, 0.4, 2.5),
    6: _level(0.3, 2.0, 0.5, 3.0),
}


def apply(signals, views, fs=100, generator=None):
    """Change `signals` by one view after another.

    `views`: names of `VIEWS` and their arguments, ``{"time_out": {"low": 0.1}, ...}``, in the order
    in which they act; `fs` (Hz) goes to those that take it. No views give the signals themselves.
    Autocast is off inside: a matrix product in 16 bits would coarsen the signals. Raises
    ``ValueError`` for a name or an argument that does not exist.
    """
    if not isinstance(views, dict):
        raise ValueError(f"views is {views!r}: expected a dictionary {{name: arguments}}")
    for name, arguments in views.items():
        if name not in VIEWS:
            raise ValueError(f"views has {name!r}: expected any of {', '.join(VIEWS)}")
        known = set(inspect.signature(VIEWS[name]).parameters) - {"signals", "fs", "generator"}
        if not set(arguments) <= known:
            raise ValueError(
                f"views[{name!r}] has {sorted(arguments)}: expected any of {sorted(known)}"
            )
    with torch.autocast(signals.device.type, enabled=False):
        for name, arguments in views.items():
            view = VIEWS[name]
            given = {"fs": fs} if "fs" in inspect.signature(view).parameters else {}
            signals = view(signals, **given, **arguments, generator=generator)
    return signals


def noise_level(signals, level, fs=100, generator=None):
    """Add all four noises at once, at robustness level 1 ... 6; level 0 returns the signals.

    The four are wander, muscle, mains and shift, with the amplitudes of `NOISE_LEVELS`. Source:
    paper B, robustness to physiological noise. Chapter: *Noise robustness*.
    """
    if level not in (0, *NOISE_LEVELS):
        raise ValueError(f"level is {level}: expected a whole number from 0 (clean) to 6")
    return apply(signals, NOISE_LEVELS[level], fs, generator) if level else signals


# --- crops ------------------------------------------------------------------------------------


def crop(signals, rows, starts, length):
    """Cut windows out of int16 µV records and return them in mV.

    `signals`: (record, lead, time), a tensor on any device or a memory-mapped numpy array;
    `rows`, `starts`: (batch,) records and first samples. Returns float32 (batch, lead, length).
    """
    if isinstance(signals, torch.Tensor):
        n_leads = torch.arange(signals.shape[1], device=signals.device)
        times = starts[:, None] + torch.arange(length, device=signals.device)  # (batch, length)
        window = signals[rows[:, None, None], n_leads[None, :, None], times[:, None, :]]
    else:
        window = torch.from_numpy(
            np.stack([signals[r, :, s : s + length] for r, s in zip(rows, starts)])
        )
    return window.float() / 1000
