"""What all experiments share: scales, cohorts, and how a table is filled and described."""

import time

import joblib
import torch

from .. import encoders, runs
from ..cohort import open_cohort
from ..encoders.single_lead import SingleLeadCNN, default_strides
from ..evaluate import label_efficiency

# cohort, records of PTB-XL (all, if it does not say), pre-training, fine-tuning, label budgets.
SCALES = {
    "quick": {
        "fs": 100,
        "seconds": 2.5,
        "n_patients": 400,
        "n_records": 600,
        "pretraining": {"epochs": 3, "batch_size": 32, "lr": 2e-3, "schedule": "cosine"},
        "fine_tuning": {"epochs": 3, "min_steps": 30, "batch_size": 32},
        "budgets": (0.10, 1.0),
        "subsets": {0.10: 1, 1.0: 1},
    },
    "full": {
        "fs": 100,
        "seconds": 2.5,
        "n_patients": 2000,
        "pretraining": {
            "epochs": 20, "batch_size": 64, "lr": 2e-3, "schedule": "cosine", "warmup": 0.1,
        },
        "fine_tuning": {
            "epochs": 6, "min_steps": 80, "encoder_lr": 3e-3, "head_lr": 5e-4, "mask": 0.3,
        },
        "budgets": label_efficiency.BUDGETS,
        "subsets": {0.01: 2, 0.02: 5, 0.05: 2, 0.10: 5, 0.25: 2, 0.50: 1, 0.60: 1, 1.0: 1},
    },
    # Paper D's rate, crops and batch; the number of epochs is our choice, the paper does not say.
    "paper": {
        "fs": 500,
        "seconds": 5.0,
        "n_patients": 20000,
        "pretraining": {"epochs": 100, "batch_size": 512, "lr": 1e-3},
        "fine_tuning": {"epochs": 50, "min_steps": 1000, "batch_size": 128},
        "budgets": label_efficiency.BUDGETS,
        "subsets": label_efficiency.SUBSETS,
    },
}  # fmt: skip

# Pre-training on simulated hearts, for as many steps as its records allow: records cost nothing.
SIMULATED = {
    "quick": {"n_patients": 400, "pretraining": {}},
    "full": {"n_patients": 12_000, "pretraining": {"epochs": 6}},
    "paper": {"n_patients": 200_000, "pretraining": {}},
}


# The encoder at a scale, patients of `simulated-vt`, numbers of them labelled (for all methods:
# `some`), and training to find where a beat begins.
RAN_SCALES = {
    "quick": {
        "encoder": "xresnet1d50-small", "n_patients": 200, "patients": (20, 100),
        "subsets": {20: 1, 100: 1}, "some": (20, 100),
        "origin": {"epochs": 3, "min_steps": 30, "batch_size": 32},
    },
    "full": {
        "encoder": "xresnet1d50-small", "n_patients": 2000, "patients": (10, 25, 50, 100, 200, 400),
        "subsets": {10: 3, 25: 2, 50: 2, 100: 2, 200: 1, 400: 1}, "some": (50, 200),
        "origin": {
            "epochs": 30, "min_steps": 150, "batch_size": 32, "encoder_lr": 3e-3, "head_lr": 3e-3,
        },
    },
    "paper": {
        "encoder": "xresnet1d50", "n_patients": 20_000,
        "patients": (10, 25, 50, 100, 200, 400, None), "subsets": {10: 5, 25: 5, 50: 5, 100: 5},
        "some": (50, 200),
        "origin": {
            "epochs": 100, "min_steps": 500, "batch_size": 64, "encoder_lr": 1e-3, "head_lr": 3e-3,
        },
    },
}  # fmt: skip


def random_encoder(fs, seed):
    """The encoder of this comparison before any training, with the weights of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SingleLeadCNN(strides=default_strides(fs), readout="concat")


def for_longer(training, times):
    """Pre-training settings with so many times the epochs, at least one."""
    return training | {"epochs": max(1, round(times * training["epochs"]))}


def untrained(name, fs, seed):
    """The encoder called `name` with the weights of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encoders.build(name, fs=fs)


def open_for(scale, name, data=None, fs=None):
    """The cohort of a chapter at a scale; `fs` (Hz) where a paper has a rate of its own."""
    settings = SCALES[scale] | ({"fs": fs} if fs else {})
    if name == "simulated":
        return open_cohort(name, n_patients=settings["n_patients"], fs=settings["fs"])
    if name == "simulated-vt":
        return open_cohort(name, n_patients=RAN_SCALES[scale]["n_patients"], fs=settings["fs"])
    if name == "ptb-xl":
        return open_cohort(name, data=data, fs=settings["fs"], n_records=settings.get("n_records"))
    return open_cohort(name, data=data, fs=settings["fs"])


def alone(progress):
    """Whether pre-training shows its bar: not if several processes would write theirs at once."""
    return progress and joblib.parallel.get_active_backend()[1] == 1


def filled(
    name, experiment, everyone, cohort, scale, seeds, path, progress, options,
    evaluated=None, **provenance,
):  # fmt: skip
    """Fill the table at `path` by ``experiment(everyone, cohort, table, **options)``; describe it.

    `evaluated`: the cohort that `experiment` is given, if it is not `cohort`. `provenance`: what
    else the table's JSON says.
    """
    began = time.monotonic()
    table = runs.Table(path)
    evaluated = cohort if evaluated is None else evaluated
    frame = experiment(everyone, evaluated, table, progress=progress, **options)
    train, _, test = cohort.split()
    earlier = runs.load_provenance(table.path).get("seconds", 0)
    table.describe(
        experiment=name, cohort=cohort.name, cohort_fingerprint=cohort.fingerprint, scale=scale,
        seeds=list(seeds), n_train_records=len(train), n_test_records=len(test),
        n_train_patients=int(train.table["patient_id"].nunique()),
        n_test_patients=int(test.table["patient_id"].nunique()), **provenance,
        seconds=round(earlier + time.monotonic() - began),
    )  # fmt: skip
    return frame
