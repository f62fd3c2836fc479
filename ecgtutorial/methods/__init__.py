"""Methods, one paper's idea a file: its views, its encoder, its heads and its loss.

A method is an ``nn.Module`` with ``.encoder``, ``.seconds`` (how long a crop it wants),
``loss(batch)`` -> a scalar and a dictionary of its named parts, and, where it keeps a moving
average or a queue, ``after_step()``. Where something depends on the length of the run, `pretrain`
tells it before the first step with ``plan(n_steps, per_epoch)``. Before training on several
processes, it replaces ``.gather``, which joins the rows of all processes, with one that keeps
gradients.
"""

from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """What a method is given: ECGs in mV on its device, and whose they are."""

    signals: torch.Tensor  # (batch, lead, time), mV
    record: torch.Tensor  # (batch,), integers
    patient: torch.Tensor  # (batch,), integers


def alone(rows):
    """The `gather` of a single process: nothing to join."""
    return rows
