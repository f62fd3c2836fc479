"""Views: every random change of a batch of ECGs that a method of the book uses.

All functions take ``signals`` (batch, lead, time) in mV with the twelve leads of `leads.LEADS`, run
on the device the batch is on, draw one set of parameters per record, and return a new tensor. Pass
a ``torch.Generator`` of that device for repeatable draws; without one the global generator is used.
Chapter: *3KG*.
"""

import math

import numpy as np
import torch

from .leads import dower12, inverse_dower12


def _check(signals, n_leads=None):
    if signals.ndim != 3 or (n_leads and signals.shape[1] != n_leads):
        raise ValueError(
            f"signals has shape {tuple(signals.shape)}: expected (batch, "
            f"{n_leads or 'lead'}, time)"
        )


def _uniform(low, high, shape, signals, generator):
    unit = torch.rand(shape, generator=generator, device=signals.device)
    return low + (high - low) * unit


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
    start = torch.randint(
        time, (batch, n_leads, 1), generator=generator, device=signals.device
    )
    offset = (torch.arange(time, device=signals.device) - start) % time  # (batch, lead, time)
    return signals.masked_fill(offset < math.floor(time * fraction), 0)


def random_resized_crop(signals, low=0.5, high=1.0, generator=None):
    """Keep a random part of each record and stretch it back to full length (linear).

    The part kept is a fraction uniform in [`low`, `high`], the same for all leads. Source: paper B,
    appendix (Mehari & Strodthoff 2022).
    """
    _check(signals)
    if not 0 < low <= high <= 1:
        raise ValueError(f"low, high are {low}, {high}: expected 0 < low <= high <= 1")
    batch, n_leads, time = signals.shape
    length = _uniform(low, high, (batch, 1), signals, generator) * (time - 1)
    start = _uniform(0, 1, (batch, 1), signals, generator) * (time - 1 - length)
    position = start + length * torch.linspace(0, 1, time, device=signals.device)  # (batch, time)
    left = position.floor().long().clamp(0, time - 2)
    weight = (position - left).unsqueeze(1).to(signals.dtype)
    left = left.unsqueeze(1).expand(-1, n_leads, -1)  # (batch, lead, time)
    return torch.lerp(signals.gather(2, left), signals.gather(2, left + 1), weight)


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
    return signals.masked_fill((offset >= 0) & (offset < length), 0)


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
