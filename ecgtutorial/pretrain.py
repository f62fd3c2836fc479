"""The one training loop: any method, on one core, one GPU or many machines.

Lightning Fabric takes care of device, precision and processes. What the loop adds is *exact
resume*: the randomness of a step comes from the seed and the step's number alone, so a run that is
killed at any step and started again ends with the same weights, bit for bit. Run it on several GPUs
with ``torchrun --nproc-per-node=8 your_script.py``; nothing in the script changes.
"""

import json
import logging
import math
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from .augment import crop
from .methods import Batch, alone

DEVICE_SHARE = 0.5  # signals live on the device if they take at most this much of its free memory


def pretrain(
    method, cohort, *, epochs=20, batch_size=128, lr=1e-3, weight_decay=0.0, warmup=0.0,
    schedule="constant", seed=0, folder=None, checkpoint_seconds=30.0, precision="auto",
    accelerator="auto", progress=True,
):  # fmt: skip
    """Train `method` on the unlabelled signals of `cohort`, in place.

    `lr`, `weight_decay`: of AdamW (Adam where the decay is 0). `warmup`: share of the steps in
    which the rate rises from 0; `schedule`: ``"constant"`` or ``"cosine"`` afterwards. `batch_size`
    counts records over all processes. `folder`: where checkpoints go every `checkpoint_seconds`; a
    run found there is resumed. `precision`: as in Fabric; ``"auto"`` is bfloat16 on a GPU that has
    it. Returns a data frame with a row a step (loss and its parts, learning rate) and, at the
    end of each epoch, the health of the representation. Raises ``ValueError`` for an empty cohort,
    records shorter than the method's crop, or a loss that is not finite.
    Chapter: *3KG*.
    """
    length = _crop_length(method, cohort)
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule is {schedule!r}: expected 'constant' or 'cosine'")
    fabric = _fabric(accelerator, precision)
    optimizer = torch.optim.AdamW(method.parameters(), lr=lr, weight_decay=weight_decay)
    share = min(batch_size, len(cohort)) // fabric.world_size  # records of one process
    if share < 1:
        raise ValueError(f"batch_size {batch_size} is smaller than {fabric.world_size} processes")
    per_epoch = len(cohort) // (share * fabric.world_size)
    n_steps = epochs * per_epoch
    patient = torch.from_numpy(np.unique(cohort.table["patient_id"], return_inverse=True)[1])
    signals = _place(cohort.signals, fabric.device)

    if hasattr(method, "plan"):
        method.plan(n_steps, per_epoch)
    start, log = _resume(folder, method, optimizer, n_steps)
    module, optimizer = _set_up(fabric, method, optimizer)
    bar = tqdm(
        total=n_steps, initial=start, unit="step", desc=type(method).__name__,
        disable=not progress or fabric.global_rank > 0,
    )  # fmt: skip
    saved = began = time.monotonic()
    method.train()
    gpu = [fabric.device] if fabric.device.type == "cuda" else []
    with bar, torch.random.fork_rng(gpu):  # each step seeds the generator: the caller's is kept
        for step in range(start, n_steps):
            rate = lr * _rate(step, n_steps, warmup, schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = _rows(len(cohort), share, fabric, per_epoch, step, seed)
            torch.manual_seed(_step_seed(seed, step, fabric.global_rank))
            batch = _batch(signals, patient, rows, length, fabric.device)
            with fabric.autocast():  # Fabric does not do it for `loss` where there is one process
                loss, parts = module.loss(batch)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            if hasattr(method, "after_step"):
                method.after_step()

            row = {"step": step, "loss": loss.item(), "lr": rate}
            row |= {name: float(value) for name, value in parts.items()}
            if not math.isfinite(row["loss"]):
                raise ValueError(f"loss is {row['loss']} at step {step}: try a smaller lr ({lr})")
            if (step + 1) % per_epoch == 0:
                row |= health(method.encoder, batch.signals)
            log.append(row)
            speed = (step + 1 - start) * share * fabric.world_size / (time.monotonic() - began)
            bar.set_postfix_str(f"loss {row['loss']:.3f}, {speed:.0f} records/s", refresh=False)
            bar.update()
            due = time.monotonic() - saved > checkpoint_seconds or step + 1 == n_steps
            if folder is not None and due and fabric.global_rank == 0:
                _save(folder, method, optimizer, step + 1, n_steps, log)
                saved = time.monotonic()
    method.gather = alone
    log = pd.DataFrame(log)
    _warn_of_collapse(log, type(method).__name__)
    return log


def _batch(signals, patient, rows, length, device):
    """The records `rows`, each cropped at a random place, as a method wants them."""
    starts = torch.randint(signals.shape[2] - length + 1, (len(rows),))
    if isinstance(signals, torch.Tensor):
        crops = crop(signals, rows.to(signals.device), starts.to(signals.device), length)
    else:  # too large for the device: read from the memory map
        crops = crop(signals, rows.numpy(), starts.numpy(), length)
    return Batch(crops.to(device), rows.to(device), patient[rows].to(device))


def _crop_length(method, cohort):
    """Samples of a crop, if the cohort has records that long."""
    length, n_samples = round(method.seconds * cohort.fs), cohort.signals.shape[2]
    if not len(cohort):
        raise ValueError(f"cohort {cohort.name!r} is empty: nothing to train on")
    if length > n_samples:
        raise ValueError(
            f"{type(method).__name__} wants crops of {method.seconds} s: the records of "
            f"{cohort.name!r} last {n_samples / cohort.fs:g} s"
        )
    return length


@torch.no_grad()
def health(encoder, signals):
    """How far a representation is from collapse, on one batch of signals (batch, lead, time).

    ``deviation``: mean standard deviation of the normalised features, times the root of their
    number: near 1 when they spread over the sphere, 0 when all records share one vector.
    ``rank``: effective rank, the exponential of the entropy of the singular values (Roy & Vetterli
    2007): how many directions are in use.
    """
    training = encoder.training
    features = encoder.eval()(signals).float()
    encoder.train(training)
    features = torch.nn.functional.normalize(features, dim=1)  # (batch, feature)
    centred = features - features.mean(dim=0)
    spectrum = torch.linalg.svdvals(centred)
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    rank = torch.exp(-(share * share.clamp_min(1e-12).log()).sum())
    deviation = centred.square().mean().sqrt() * math.sqrt(features.shape[1])
    return {"deviation": deviation.item(), "rank": rank.item()}


def _warn_of_collapse(log, name, patience=50):
    """Warn if the last look at the representation found it collapsed.

    In the first `patience` steps batch normalisation still learns its averages, and features look
    flatter than they are.
    """
    if "deviation" in log and len(log) >= patience:
        last = log.dropna(subset=["deviation"]).tail(1)
        if len(last) and (last["deviation"].item() < 0.02 or last["rank"].item() < 2):
            warnings.warn(
                f"{name} has collapsed: deviation {last['deviation'].item():.3f}, effective rank "
                f"{last['rank'].item():.1f}. All records look alike to the encoder.",
                stacklevel=3,
            )


# --- devices and processes --------------------------------------------------------------------


def _fabric(accelerator, precision):
    from lightning_fabric import Fabric  # slow to import, so only when something is trained

    if precision == "auto":
        cuda = accelerator != "cpu" and torch.cuda.is_available()
        precision = "bf16-mixed" if cuda and has_bfloat16() else "32-true"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    world = int(os.environ.get("WORLD_SIZE", 1))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each start
    fabric = Fabric(
        accelerator=accelerator, precision=precision, devices=local, num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
    )  # fmt: skip
    fabric.launch()
    return fabric


def has_bfloat16(accelerator="auto"):
    """Whether the GPU, or without one the processor, multiplies bfloat16 in hardware."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and fast and supported() and fast())


def _set_up(fabric, method, optimizer):
    """Hand module and optimizer to Fabric; let the method gather rows from all processes."""
    if fabric.world_size > 1:
        if fabric.device.type == "cuda":  # torch has no synchronised batch norm for processors
            method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)

        def gather(rows):
            """Rows of all processes, in their order: (n, ...) -> (processes x n, ...)."""
            gathered = fabric.all_gather(rows, sync_grads=rows.is_floating_point())
            return gathered.flatten(0, 1)

        method.gather = gather
    module, optimizer = fabric.setup(method, optimizer)
    module.mark_forward_method("loss")
    return module, optimizer


def _place(signals, device):
    """Signals as a tensor on the device if they fit there, else the memory map they come from."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if signals.nbytes > DEVICE_SHARE * free:
        return signals
    return torch.from_numpy(np.array(signals)).to(device)


# --- what makes a step repeatable -------------------------------------------------------------


def _step_seed(seed, step, rank):
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _rows(n_records, share, fabric, per_epoch, step, seed):
    """The records of this process in this step: a fresh permutation every epoch."""
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(n_records)
    first = (position * fabric.world_size + fabric.global_rank) * share
    return torch.from_numpy(order[first : first + share])


def _rate(step, n_steps, warmup, schedule):
    """Learning rate as a share of its peak."""
    rise = warmup * n_steps
    if step < rise:
        return (step + 1) / (rise + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise)))


# --- checkpoints ------------------------------------------------------------------------------


def _save(folder, method, optimizer, step, n_steps, log):
    """Write everything a resume needs into one safetensors file, whole or not at all."""
    tensors = {f"method.{k}": v for k, v in method.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    note = {"step": str(step), "n_steps": str(n_steps), "log": json.dumps(log)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"checkpoint.{os.getpid()}.part"
    try:
        save_file(tensors, partial, metadata=note)
        os.replace(partial, folder / "checkpoint.safetensors")
    finally:
        partial.unlink(missing_ok=True)  # a full disk leaves the last good checkpoint


def _resume(folder, method, optimizer, n_steps):
    """Load the checkpoint in `folder`, if any: the step to go on from and the log so far."""
    path = Path(folder) / "checkpoint.safetensors" if folder is not None else None
    if path is None or not path.exists():
        return 0, []
    with safe_open(path, "pt") as file:
        note = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if int(note["n_steps"]) != n_steps:
        raise ValueError(
            f"{path} belongs to a run of {note['n_steps']} steps: this one has {n_steps}. "
            "Choose another folder or delete it."
        )
    prefix = "method."
    method.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    states = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            states.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return int(note["step"]), json.loads(note["log"])
