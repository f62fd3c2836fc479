"""From encoders that read windows to answers about whole records."""

import numpy as np
import torch

from ..augment import crop
from ..pretrain import has_bfloat16


def window_starts(n_samples, length, overlap=0.0):
    """First samples of windows of `length` that cover a record.

    `overlap`: share of a window that it has in common with the next; 0 as in paper D, 0.5 as in
    paper B. A last window flush with the end is added where the steps stop short of it.
    """
    if length > n_samples:
        raise ValueError(f"windows of {length} samples do not fit records of {n_samples}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}: expected at least 0 and below 1")
    starts = list(range(0, n_samples - length + 1, max(1, round(length * (1 - overlap)))))
    if starts[-1] != n_samples - length:
        starts.append(n_samples - length)
    return starts


@torch.inference_mode()
def over_windows(function, cohort, seconds, overlap=0.0, batch_size=256):
    """Mean of ``function(signals)`` over the windows of each record.

    `function`: a module, signals (batch, lead, time) in mV -> (batch, feature).
    Returns a float32 tensor (record, feature) on the processor.
    """
    device = next((p.device for p in function.parameters()), torch.device("cpu"))
    length = round(seconds * cohort.fs)
    starts = window_starts(cohort.signals.shape[2], length, overlap)
    signals = cohort.signals
    output = []
    for first in range(0, len(signals), batch_size):
        part = torch.from_numpy(np.array(signals[first : first + batch_size]))
        rows = torch.arange(len(part))
        total = 0
        for start in starts:
            window = crop(part, rows, torch.full_like(rows, start), length)
            with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device.type)):
                total = total + function(window.to(device)).float().cpu()
        output.append(total / len(starts))
    return torch.cat(output)  # (record, feature)


def embed(encoder, cohort, seconds, overlap=0.0):
    """Features of every record, averaged over its windows: float32 (record, feature)."""
    encoder.eval()
    return over_windows(encoder, cohort, seconds, overlap)
