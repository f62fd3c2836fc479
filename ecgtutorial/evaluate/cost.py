"""What a method costs: records a second, memory, and where the time of a training step goes.

    methods = {"simclr": SimCLR(), "cpc": CPC()}
    pd.DataFrame({name: cost(method, batch) for name, method in methods.items()}).T

Explained in the chapter *Linear evaluation*.
"""

import copy
import ctypes
import gc
import math
import time
from pathlib import Path

import numpy as np
import torch

from ..pretrain import has_bfloat16

PARTS = ("augmentation", "encoder", "heads", "loss", "update")
_READS = ("forward", "tokens", "leads", "local", "convolve", "context")  # ways to ask


def cost(method, batch, n_steps=5):
    """Time and memory of training steps of a copy of `method`, all on the same `batch`.

    A step is `method.loss` (in bfloat16 where `pretrain` would choose it), backward, AdamW and
    `after_step`. Returns a dictionary: ``records_per_second`` at the median of `n_steps` steps;
    ``memory_mb``, how far memory rises above what weights and batch take (see `_growth`); and the
    shares of the time in ``augmentation``, ``encoder`` (forward and backward, a moving target's
    too), ``heads``, ``loss`` and ``update`` (AdamW and `after_step`), which sum to 1. Leaves the
    global generator alone. Raises ``ValueError`` if `n_steps` is below 1.
    Chapter: *Linear evaluation*.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}: expected at least 1")
    device = batch.signals.device
    method = copy.deepcopy(method).train()
    clock = _Clock(method, device)
    half = device.type == "cuda" and has_bfloat16()  # as `pretrain` chooses
    optimizer = torch.optim.AdamW(method.parameters())

    def step():
        clock.switch("loss")
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        clock.switch("update")
        optimizer.step()
        if hasattr(method, "after_step"):
            method.after_step()
        clock.switch(None)

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        step()  # the first of all prepares kernels; what it leaves behind is given up
        optimizer.zero_grad()
        optimizer.state.clear()
        memory = _growth(lambda: (step(), step()), device)  # the second has AdamW's moments
        clock.seconds = dict.fromkeys(PARTS, 0.0)
        ends = [0.0]
        for _ in range(n_steps):
            step()
            ends.append(sum(clock.seconds.values()))
    speed = len(batch.signals) / float(np.median(np.diff(ends)))
    shares = {part: seconds / ends[-1] for part, seconds in clock.seconds.items()}
    return {"records_per_second": speed, "memory_mb": memory, **shares}


class _Clock:
    """Books every moment of a method's step to one of `PARTS`.

    Forward, it changes when a view, the encoder or a head is entered and left; backward, when the
    gradient reaches what they gave out: from there on it is their own backward.
    """

    def __init__(self, method, device):
        self.device, self.part, self.since = device, None, 0.0
        self.seconds = dict.fromkeys(PARTS, 0.0)
        kind = type(method.encoder)  # a moving target holds another of it
        encoders = [m for m in method.modules() if type(m) is kind]
        parts = [(m, name, "encoder") for m in encoders for name in _READS]
        parts += [(m, "forward", "heads") for m in method.children() if type(m) is not kind]
        for owner, name, part in [(method, "view", "augmentation"), *parts]:
            if hasattr(owner, name):
                setattr(owner, name, self.timed(getattr(owner, name), part))

    def switch(self, part):
        """From now on time is `part`'s, or nobody's (None). Returns whose it was."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # until here the work was only queued
        before, now = self.part, time.perf_counter()
        if before is not None:
            self.seconds[before] += now - self.since
        self.part, self.since = part, now
        return before

    def timed(self, function, part):
        def backward(gradient):
            self.switch(part)

        def run(*args):
            before = self.switch(part)
            result = function(*args)
            first = result[0] if isinstance(result, tuple) else result
            if first.requires_grad:
                first.register_hook(backward)
            self.switch(before)
            return result

        return run


def _growth(work, device):
    """MB by which memory rises at its highest during `work()`.

    On a GPU, of what torch has allocated. On Linux, of the process's resident memory: what the
    allocator kept of earlier work is first handed back, or it would hide a part, and the kernel's
    high-water mark is set back. Not a number where the system offers none.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    except (OSError, AttributeError, TypeError):
        before = math.nan
    work()
    return math.nan if math.isnan(before) else (_resident("VmHWM") - before) / 1e6


def _resident(name):
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index(f"{name}:") + 1])
