"""The published experiments: which methods meet, at which scale, with which settings.

    make results COHORT=ptb-xl DATA=path/to/ptb-xl

fills ``results/ptb-xl/label-efficiency.csv``. Stop it when you like: it goes on where it stopped.
"""

import argparse
import dataclasses
import functools
import time

import joblib
import torch

from . import augment, encoders, losses, metrics, runs
from .cohort import open_cohort
from .datasets import simulated
from .encoders import recurrent, single_lead, transformer, xresnet
from .encoders.single_lead import SingleLeadCNN, default_strides
from .evaluate import (
    any_lead,
    arrhythmia,
    finetune,
    identification,
    label_efficiency,
    localisation,
    noise,
    probe,
)
from .leads import INDEPENDENT, SUBSETS
from .methods import byol, cpc, local_global, simclr, spatio_temporal, swav, three_kg
from .methods.byol import BYOL
from .methods.cpc import CPC
from .methods.local_global import LocalGlobal
from .methods.simclr import SimCLR
from .methods.spatio_temporal import SpatioTemporal
from .methods.swav import SwAV
from .methods.three_kg import ThreeKG

# What a scale means: sampling rate (Hz), length of crops and windows (s), patients of the simulated
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
}

# Pre-training on simulated hearts, for as many steps as its records allow: records cost nothing.
SIMULATED = {
    "quick": {"n_patients": 400, "pretraining": {}},
    "full": {"n_patients": 12_000, "pretraining": {"epochs": 6}},
    "paper": {"n_patients": 200_000, "pretraining": {}},
}

TRANSFER_BUDGETS = (0.02, 0.10, 0.25, 1.0)  # of the labels of the real cohort

# Everybody who meets in the chapters on 3KG: name -> (class, arguments besides the crop's length).
METHODS = {
    "simclr": (SimCLR, {}),
    "3kg-a": (ThreeKG, {"variant": "A"}),
    "3kg-l": (ThreeKG, {"variant": "L"}),
}

# The four methods of paper B: name -> class, arguments, training where it differs from the scale's.
# At scale `paper` they are paper B's; else its ideas at a size for two cores (our choice).
MEHARI = {
    "simclr": (
        SimCLR, {"encoder": "xresnet1d50-small", "hidden": 512, "features": 16}, {},
    ),
    "byol": (BYOL, {"encoder": "xresnet1d50-small", "momentum": 0.99}, {}),
    "swav": (SwAV, {"encoder": "xresnet1d50-small", "n_views": 4, "queue_from": 5}, {}),
    "cpc": (CPC, {"encoder": "cpc-small"}, {}),
}  # fmt: skip
_LARGE = {"epochs": 2000, "batch_size": 4096, "lr": 2.29e-3, "schedule": "cosine"}
MEHARI_PAPER = {
    "simclr": (
        SimCLR, {"encoder": "xresnet1d50", "hidden": 512, "features": 16, "seconds": 2.5},
        {**_LARGE, "warmup": 1 / 2000, "weight_decay": 1e-6},
    ),
    "byol": (
        BYOL, {"encoder": "xresnet1d50", "seconds": 2.5},
        {**_LARGE, "warmup": 10 / 2000, "weight_decay": 1e-5},
    ),
    "swav": (
        SwAV,
        {"encoder": "xresnet1d50", "hidden": 2048, "prototypes": 3000, "queue": 8 * 4096,
         "seconds": 2.5},
        {**_LARGE, "lr": 1e-3, "warmup": 10 / 2000, "weight_decay": 1e-6},
    ),
    "cpc": (
        CPC, {"encoder": "cpc", "seconds": 10.0},
        {"epochs": 1000, "batch_size": 32, "lr": 1e-4, "weight_decay": 1e-3},
    ),
}  # fmt: skip
# Fine-tuning with paper B's views, in windows that overlap by half. A pre-trained encoder starts
# behind its head and learns the slower the deeper a layer lies; one from scratch learns as a whole.
MEHARI_FS, MEHARI_SECONDS, MEHARI_OVERLAP = 100, 2.5, 0.5  # at every scale
MEHARI_FINE_TUNING = {"mask": 0.0, "views": augment.MEHARI_VIEWS}
MEHARI_HEAD_LR = 5e-3  # of task "all", chosen on fold 9: ten times the other, for many rare classes
MEHARI_GRADUAL = {"layer_decay": 0.8, "head_share": 0.1}
MEHARI_SUBSETS = {0.10: 2, 1.0: 1}  # label budgets, and how many random draws of each

# Who is fine-tuned in three ways to see what noise costs then, and the levels of the test.
NOISE_TRAINING = ("supervised-xresnet", "simclr", "supervised-cpc", "cpc")
NOISE_TRAINING_LEVELS = (0, 2, 4)


def random_encoder(fs, seed):
    """The encoder of this comparison before any training, with the weights of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SingleLeadCNN(strides=default_strides(fs), readout="concat")


def pretraining_run(name, train, scale, seed, progress=True):
    """The pre-training run of method `name` at a scale: loaded, resumed or made."""
    settings = SCALES[scale]
    method_class, arguments = METHODS[name]
    return runs.pretrained(
        method_class, train, method={**arguments, "seconds": settings["seconds"]}, seed=seed,
        progress=progress, **settings["pretraining"],
    )  # fmt: skip


def pretrained_encoder(name, train, scale, seed, progress=True):
    """Pre-train method `name` (or load it from the run store) and return its encoder.

    The downstream readout concatenates the leads (our choice): the head knows which lead is which.
    """
    encoder = pretraining_run(name, train, scale, seed, progress).encoder
    encoder.set_readout("concat")
    return encoder


def entrants(cohort, scale, seeds=(0,), progress=True):
    """Random encoder, supervised baseline and every method, for `evaluate.label_efficiency`.

    The supervised baseline is the random encoder fine-tuned: same encoder, budget, augmentation.
    """
    train = cohort.split()[0]
    settings = SCALES[scale]
    for seed in seeds:
        untrained = functools.partial(random_encoder, cohort.fs, seed)
        yield label_efficiency.Entrant("random", seed, "random", untrained, ("probe",))
        yield label_efficiency.Entrant("supervised", seed, "random", untrained, ("fine-tuned",))
        for name, (method_class, arguments) in METHODS.items():
            make = functools.partial(pretrained_encoder, name, train, scale, seed, progress)
            identity = {"class": method_class.__qualname__, "arguments": arguments}
            identity |= {"seconds": settings["seconds"], **settings["pretraining"]}
            identity = runs.config_hash(identity)
            yield label_efficiency.Entrant(name, seed, identity, make)


def mehari(name, scale):
    """Class, arguments and training of a method of paper B at a scale."""
    settings = SCALES[scale]
    if scale == "paper":
        return MEHARI_PAPER[name]
    method_class, arguments, training = MEHARI[name]
    return (
        method_class, {"seconds": settings["seconds"], **arguments},
        {**settings["pretraining"], **training},
    )  # fmt: skip


def mehari_run(name, train, scale, seed=0, progress=True):
    """The pre-training run of a method of paper B: loaded, resumed or made."""
    method_class, arguments, training = mehari(name, scale)
    return runs.pretrained(
        method_class, train, method=arguments, seed=seed, progress=progress, **training
    )


def mehari_entrants(cohort, scale, seeds=(0,), progress=True):
    """The four methods of paper B, and beside them both networks untrained and supervised.

    Methods are ``random-xresnet``, ``supervised-xresnet``, ``simclr``, ``byol``, ``swav``,
    ``random-cpc``, ``supervised-cpc`` and ``cpc``. The supervised baseline has the views and the
    number of steps of the fine-tuning it is held against.
    """
    train = cohort.split()[0]
    for seed in seeds:
        for network, method in (("xresnet", "simclr"), ("cpc", "cpc")):
            name = mehari(method, scale)[1]["encoder"]
            make = functools.partial(untrained, name, cohort.fs, seed)
            yield label_efficiency.Entrant(f"random-{network}", seed, name, make, ("probe",))
            yield label_efficiency.Entrant(
                f"supervised-{network}", seed, name, make, ("fine-tuned",)
            )
        for name in MEHARI:
            method_class, arguments, training = mehari(name, scale)
            identity = {"class": method_class.__qualname__, "arguments": arguments, **training}
            yield label_efficiency.Entrant(
                name, seed, runs.config_hash(identity),
                functools.partial(_mehari_encoder, name, train, scale, seed, progress),
                fine_tuning=MEHARI_GRADUAL,
            )  # fmt: skip


def untrained(name, fs, seed):
    """The encoder called `name` with the weights of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encoders.build(name, fs=fs)


def _mehari_encoder(name, train, scale, seed, progress):
    return mehari_run(name, train, scale, seed, progress).encoder


# Whom the summary of the experiments on paper B holds a method against: the same network trained
# with the same labels alone.
MEHARI_REFERENCE = {
    name: (f"supervised-{'cpc' if 'cpc' in name else 'xresnet'}", "fine-tuned")
    for name in ("random-xresnet", "simclr", "byol", "swav", "random-cpc", "cpc")
}
# Probes are held against the same network untrained, and CPC's against those of two others.
MEHARI_OVER = {
    "random": {
        name: f"random-{'cpc' if name == 'cpc' else 'xresnet'}" for name in MEHARI
    },
    "simclr": {"cpc": "simclr"},
    "byol": {"cpc": "byol"},
}


def run_linear_evaluation(
    cohort, scale, seeds, path, task="superclass", n_jobs=1, progress=True, head_lr=None
):  # fmt: skip
    """Probe and fine-tune the methods of paper B with few and with all labels.

    `head_lr`: learning rate of the head in fine-tuning, if not the scale's. Fills the table at
    `path` and returns it. Chapter: *Linear evaluation*.
    """
    budgets = tuple(MEHARI_SUBSETS) if task == "superclass" else (1.0,)
    options = _mehari_options(scale, task) | {
        "budgets": budgets, "subsets": MEHARI_SUBSETS, "over": MEHARI_OVER,
    }  # fmt: skip
    if head_lr:
        options["fine_tuning"]["head_lr"] = head_lr
    return _run_mehari(
        label_efficiency.label_efficiency, "linear-evaluation", cohort, scale, seeds, path, options,
        n_jobs, progress,
    )  # fmt: skip


def run_noise_robustness(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Train on clean records, test at paper B's noise levels. Chapter: *Noise robustness*."""
    return _run_mehari(
        noise.noise_robustness, "noise-robustness", cohort, scale, seeds, path,
        _mehari_options(scale, "superclass"), n_jobs, progress,
    )  # fmt: skip


def noise_trainings(scale):
    """Three ways to fine-tune: suffix of the method's name -> what differs from everybody's."""
    usual = SCALES[scale]["fine_tuning"]
    return {
        "": {},
        "+noise": {"views": augment.MEHARI_VIEWS | augment.NOISE_LEVELS[2]},
        "+long": {name: 3 * usual[name] for name in ("epochs", "min_steps")},
    }


def noise_training_entrants(cohort, scale, seeds=(0,), progress=True):
    """CPC, SimCLR and their supervised baselines, each fine-tuned in three ways.

    A method is called ``cpc`` as it is fine-tuned everywhere else, ``cpc+noise`` with the noise of
    level 2 among its views, and ``cpc+long`` with three times as many steps.
    """
    for one in mehari_entrants(cohort, scale, seeds, progress):
        for way, more in noise_trainings(scale).items():
            if one.method in NOISE_TRAINING:
                yield dataclasses.replace(
                    one, method=one.method + way, protocols=("fine-tuned",),
                    fine_tuning=one.fine_tuning | more,
                )  # fmt: skip


def run_noise_training(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Does noise in fine-tuning mend what noise breaks, or do more steps?

    Fills the table at `path` and returns it. Chapter: *Noise robustness*.
    """
    pairs = {
        f"{method}{way}": (f"{MEHARI_REFERENCE[method][0]}{way}", "fine-tuned")
        for method in ("simclr", "cpc")
        for way in noise_trainings(scale)
    }
    options = _mehari_options(scale, "superclass") | {
        "levels": NOISE_TRAINING_LEVELS, "reference": pairs,
    }  # fmt: skip
    return _run_mehari(
        noise.noise_robustness, "noise-training", cohort, scale, seeds, path, options, n_jobs,
        progress, noise_training_entrants,
    )  # fmt: skip


def _mehari_options(scale, task):
    settings = SCALES[scale]
    fine_tuning = {k: v for k, v in settings["fine_tuning"].items() if k != "mask"}
    return {
        "seconds": MEHARI_SECONDS, "overlap": MEHARI_OVERLAP, "task": task,
        "fine_tuning": fine_tuning | MEHARI_FINE_TUNING, "reference": MEHARI_REFERENCE,
    }  # fmt: skip


def _run_mehari(
    experiment, name, cohort, scale, seeds, path, options, n_jobs, progress,
    entrants=mehari_entrants,
):  # fmt: skip
    """Fill and describe a table of paper B's methods, several entrants at a time."""
    everyone = list(entrants(cohort, scale, seeds, progress and n_jobs == 1))
    train, _, test = cohort.split()
    return _filled(
        name, experiment, everyone, cohort, scale, seeds, path, n_jobs, progress, options,
        settings=options | {"gradual": MEHARI_GRADUAL},
        own_fine_tuning={one.method: one.fine_tuning for one in everyone},
        methods={m: [mehari(m, scale)[1], mehari(m, scale)[2]] for m in MEHARI},
        classes=label_efficiency.scored_classes(train, test, options["task"]),
        code=runs.code_hash(
            augment, losses, metrics, recurrent, xresnet, simclr, byol, swav, cpc, finetune, probe,
            label_efficiency, noise,
        ),
    )  # fmt: skip


def _filled(
    name, experiment, everyone, cohort, scale, seeds, path, n_jobs, progress, options,
    evaluated=None, **provenance,
):  # fmt: skip
    """Fill the table at `path` by ``experiment(everyone, cohort, table, **options)``; describe it.

    `n_jobs`: entrants that are worked on at a time. `evaluated`: the cohort that `experiment` is
    given, if it is not `cohort`. `provenance`: what else the table's JSON says.
    """
    began = time.monotonic()
    table = runs.Table(path)
    evaluated = cohort if evaluated is None else evaluated
    if n_jobs > 1:
        joblib.Parallel(n_jobs, verbose=5)(
            joblib.delayed(experiment)([one], evaluated, table, progress=False, **options)
            for one in everyone
        )
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


def run_label_efficiency(cohort, scale, seeds, path, n_jobs=1):
    """Fill and describe the label-efficiency table of a cohort. Returns it as a data frame."""
    began = time.monotonic()
    settings = SCALES[scale]
    options = {
        name: settings[name] for name in ("seconds", "budgets", "subsets", "fine_tuning")
    }
    table = runs.Table(path)
    everyone = list(entrants(cohort, scale, seeds, progress=n_jobs == 1))
    if n_jobs > 1:
        joblib.Parallel(n_jobs, verbose=5)(
            joblib.delayed(label_efficiency.label_efficiency)([one], cohort, table, **options)
            for one in everyone
        )
    frame = label_efficiency.label_efficiency(everyone, cohort, table, **options)
    train, _, test = cohort.split()
    earlier = runs.load_provenance(table.path).get("seconds", 0)
    table.describe(
        experiment="label-efficiency", cohort=cohort.name, cohort_fingerprint=cohort.fingerprint,
        scale=scale, seeds=list(seeds), settings=settings,
        methods={name: arguments for name, (_, arguments) in METHODS.items()},
        n_train_records=len(train), n_test_records=len(test),
        n_train_patients=int(train.table["patient_id"].nunique()),
        n_test_patients=int(test.table["patient_id"].nunique()),
        code=runs.code_hash(
            augment, losses, metrics, single_lead, three_kg, simclr, finetune, probe,
            label_efficiency,
        ),
        seconds=round(earlier + time.monotonic() - began),
    )  # fmt: skip
    return frame


def simulated_run(scale, seed, progress=True):
    """SimCLR pre-trained on simulated hearts only: loaded, resumed or made."""
    settings, more = SCALES[scale], SIMULATED[scale]
    hearts = open_cohort("simulated", n_patients=more["n_patients"], seed=7, fs=settings["fs"])
    return runs.pretrained(
        SimCLR, hearts, method={"seconds": settings["seconds"]}, seed=seed, progress=progress,
        **{**settings["pretraining"], **more["pretraining"]},
    )  # fmt: skip


def run_simulated_to_real(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """What a linear probe on `cohort` gets from an encoder that never saw a record of it.

    Methods: `random`, `real` (pre-trained on the training folds of `cohort`), `simulated`. One
    process, whatever `n_jobs`.
    Fills the table at `path` and returns it. Chapter: *Cohorts*.
    """
    began = time.monotonic()
    settings = SCALES[scale]
    train = cohort.split()[0]
    budgets = tuple(b for b in settings["budgets"] if b in TRANSFER_BUDGETS)
    entrants = []
    hearts = SIMULATED[scale]
    real = {"pretraining": settings["pretraining"], "seconds": settings["seconds"]}
    virtual = {
        "pretraining": settings["pretraining"] | hearts["pretraining"],
        "seconds": settings["seconds"], "n_patients": hearts["n_patients"],
        "model": simulated.MODEL,
    }  # fmt: skip
    for seed in seeds:
        for name, more, make in (
            ("random", {}, functools.partial(random_encoder, cohort.fs, seed)),
            ("real", real, functools.partial(
                pretrained_encoder, "simclr", train, scale, seed, progress)),
            ("simulated", virtual, functools.partial(_simulated_encoder, scale, seed, progress)),
        ):  # fmt: skip
            name_hash = runs.config_hash(more) if more else "random"
            entrants.append(label_efficiency.Entrant(name, seed, name_hash, make, ("probe",)))
    table = runs.Table(path)
    frame = label_efficiency.label_efficiency(
        entrants, cohort, table, seconds=settings["seconds"], budgets=budgets,
        subsets=settings["subsets"], progress=progress, reference=("real", "probe"),
    )  # fmt: skip
    earlier = runs.load_provenance(table.path).get("seconds", 0)
    table.describe(
        experiment="simulated-to-real", cohort=cohort.name, cohort_fingerprint=cohort.fingerprint,
        scale=scale, seeds=list(seeds), settings=settings, simulated=SIMULATED[scale],
        code=runs.code_hash(augment, losses, metrics, single_lead, simclr, probe, label_efficiency),
        seconds=round(earlier + time.monotonic() - began),
    )  # fmt: skip
    return frame


def _simulated_encoder(scale, seed, progress):
    encoder = simulated_run(scale, seed, progress).encoder
    encoder.set_readout("concat")
    return encoder


# --- paper A: local and global, any subset of leads ---------------------------------------------

# Its methods: name -> class and arguments. RLM is random lead masking; SimCLR has no other view.
OH_PARTS = {
    "w2v": {"cmsc": None, "lead_mask": 0.0},
    "cmsc": {"w2v": False, "lead_mask": 0.0},
    "w2v+cmsc": {"lead_mask": 0.0},
    "w2v+rlm": {"cmsc": None},
    "cmsc+rlm": {"w2v": False},
    "w2v+cmsc+rlm": {},
}
OH = {name: (LocalGlobal, arguments) for name, arguments in OH_PARTS.items()} | {
    "simclr+rlm": (SimCLR, {"views": {"random_lead_mask": {}}, "temperature": 0.1}),
    "3kg": (ThreeKG, {}),
}
# What each part of the full method brings: name -> what is changed in it.
OH_ABLATION = {
    "without diversity": {"diversity": 0.0},
    "without penalty": {"penalty": 0.0},
    "without positions": {"positions": False},
    "hide an eighth": {"mask": 0.035},  # with spans of 4 tokens; the method as it is hides 24 %
    "hide a half": {"mask": 0.16},  # the paper's share, which it reaches with spans of 10 tokens
    "N x N": {"cmsc": "NxN"},
}
# Training at a scale: pre-training, fine-tuning on diagnoses, ArcFace. Paper A trains for 200
# epochs in batches of 512 ten-second pieces; ours at `quick` and `full` is for two cores.
OH_SCALES = {
    "quick": {
        "encoder": "transformer-small", "fs": 100, "seconds": 2.5,
        "pretraining": {"epochs": 2, "batch_size": 32, "lr": 1e-3, "schedule": "cosine"},
        "fine_tuning": {"epochs": 2, "min_steps": 20, "batch_size": 32},
        "identity": {"steps": 30, "batch_size": 32, "lr": 2e-3, "scale": 16.0, "margin": 0.2},
    },
    "full": {
        "encoder": "transformer-small", "fs": 100, "seconds": 2.5,
        "pretraining": {
            "epochs": 20, "batch_size": 32, "lr": 1e-3, "schedule": "cosine", "warmup": 0.1,
        },
        "fine_tuning": {"epochs": 6, "encoder_lr": 2e-3, "head_lr": 1e-2, "mask": 0.0},
        "identity": {"steps": 200, "lr": 2e-3, "scale": 16.0, "margin": 0.2},
    },
    "paper": {
        "encoder": "transformer", "fs": 500, "seconds": 5.0,
        "pretraining": {"epochs": 200, "batch_size": 512, "lr": 5e-5, "weight_decay": 0.01},
        "fine_tuning": {
            "epochs": 100, "batch_size": 128, "encoder_lr": 5e-5, "head_lr": 5e-5, "mask": 0.0,
        },
        "identity": {"steps": 115_000, "batch_size": 128, "lr": 3e-5},
    },
}  # fmt: skip
OH_TABLE_2 = ("w2v", "cmsc", "w2v+cmsc")  # those pre-trained on each lead set by itself
OH_OVER = {  # paired differences that paper A's claims are about: with and without a part
    "without_rlm": {f"{name}+rlm": name for name in ("w2v", "cmsc", "w2v+cmsc")},
    "cmsc": {"w2v": "cmsc", "w2v+cmsc": "cmsc", "w2v+cmsc+rlm": "cmsc+rlm"},
    "w2v": {"w2v+cmsc": "w2v", "w2v+cmsc+rlm": "w2v+rlm"},
}


def oh_training(cohort):
    """Whom the methods of paper A are pre-trained on: folds 1-8 without those of `oh_tested`.

    So one pre-training serves diagnosis and identification.
    """
    return identification.split(cohort)[0] if oh_tested(cohort) else cohort.split()[0]


def oh_tested(cohort):
    """How many patients identification tests: those with two recordings, if there are two."""
    recordings = cohort.table.groupby("patient_id")["record_id"].nunique()
    several = int((recordings > 1).sum())
    return several if several > 1 else 0


def oh_run(name, cohort, scale, seed=0, progress=True, **changes):
    """The pre-training run of a method of paper A on a cohort: loaded, resumed or made.

    `changes`: arguments of the method in which it differs, as in `OH_ABLATION`.
    """
    settings = OH_SCALES[scale]
    method_class, arguments = OH[name]
    crop = settings["seconds"] * (2 if method_class is LocalGlobal else 1)  # of two segments
    arguments = {"encoder": settings["encoder"], "seconds": crop, **arguments, **changes}
    if method_class is LocalGlobal and scale == "paper":
        arguments |= {"codes": 320, "features": 256}
    return runs.pretrained(
        method_class, cohort, method=arguments, seed=seed, progress=progress,
        **settings["pretraining"],
    )  # fmt: skip


def oh_entrants(cohort, scale, seeds=(0,), names=tuple(OH), leads=12, progress=True):
    """The network of paper A untrained, and pre-trained by each method, for diagnosis and identity.

    Pre-trained are they on `oh_training`. `leads`: the lead set that pre-training sees (the paper's
    second experiment), 12 leads by default.
    """
    settings = OH_SCALES[scale]
    train = any_lead.padded(oh_training(cohort), leads)
    for seed in seeds:
        make = functools.partial(untrained, settings["encoder"], cohort.fs, seed)
        yield label_efficiency.Entrant("random", seed, settings["encoder"], make)
        for name in names:
            identity = {"class": OH[name][0].__qualname__, "arguments": OH[name][1], "leads": leads}
            identity |= {k: settings[k] for k in ("encoder", "seconds", "pretraining")}
            yield label_efficiency.Entrant(
                name, seed, runs.config_hash(identity),
                functools.partial(_oh_encoder, name, train, scale, seed, progress),
            )  # fmt: skip


def _oh_encoder(name, train, scale, seed, progress, **changes):
    return oh_run(name, train, scale, seed, progress, **changes).encoder


def oh_ablation(cohort, scale, seeds=(0,), progress=True):
    """The full method of paper A, and without each of its parts in turn."""
    settings = OH_SCALES[scale]
    train = oh_training(cohort)
    for seed in seeds:
        for name, changes in {"w2v+cmsc+rlm": {}, **OH_ABLATION}.items():
            identity = {"arguments": OH_PARTS["w2v+cmsc+rlm"] | changes}
            identity |= {k: settings[k] for k in ("encoder", "seconds", "pretraining")}
            yield label_efficiency.Entrant(
                name, seed, runs.config_hash(identity),
                functools.partial(
                    _oh_encoder, "w2v+cmsc+rlm", train, scale, seed, progress, **changes
                ),
                ("probe",),
            )  # fmt: skip


def run_any_lead(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Paper A's table 1, diagnosis: methods x lead sets, fine-tuned. Chapter: *Any lead*."""
    everyone = oh_entrants(cohort, scale, seeds, progress=progress and n_jobs == 1)
    return _run_oh(
        "any-lead", any_lead.any_lead, everyone, cohort, scale, seeds, path, n_jobs, progress
    )


def run_any_lead_pretraining(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Paper A's table 2: pre-trained *and* fine-tuned on one lead set. Chapter: *Any lead*."""
    for leads in SUBSETS:
        everyone = oh_entrants(cohort, scale, seeds, OH_TABLE_2, leads, progress and n_jobs == 1)
        _run_oh(
            "any-lead-pretraining", any_lead.any_lead, everyone, cohort, scale, seeds, path, n_jobs,
            progress, lead_sets=(leads,),
        )  # fmt: skip
    table = runs.Table(path)
    table.replace_summary(any_lead.summarise(table, over=OH_OVER))  # of all lead sets
    return table.read()


def run_local_global_parts(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """What each part of paper A's method brings to a probe. Chapter: *Local and global*."""
    everyone = oh_ablation(cohort, scale, seeds, progress and n_jobs == 1)
    return _run_oh(
        "local-global-parts", any_lead.any_lead, everyone, cohort, scale, seeds, path, n_jobs,
        progress, lead_sets=(12, 1), reference=("w2v+cmsc+rlm", "probe"),
    )  # fmt: skip


def run_segments(cohort, scale, seeds, path, n_jobs=1, progress=True, leaky=False):
    """Segments split by patient, or dealt without regard to it as in paper A's code (`leaky`).

    The network from scratch, on 12 leads. Chapter: *Any lead*.
    """
    everyone = [
        dataclasses.replace(one, protocols=("fine-tuned",))
        for one in oh_entrants(cohort, scale, seeds, names=())
    ]
    cut = any_lead.segments(cohort, OH_SCALES[scale]["seconds"])
    return _run_oh(
        "segments-leaky" if leaky else "segments-right", any_lead.any_lead, everyone, cohort, scale,
        seeds, path, n_jobs, progress, evaluated=cut, lead_sets=(12,), by_segment=leaky,
    )  # fmt: skip


def run_identification(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Paper A's table 1, identification, and beside it a beat that never learned anything.

    Chapter: *Patient identification*.
    """
    everyone = [
        label_efficiency.Entrant(
            "median-beat", 0, "median-beat",
            functools.partial(identification.MedianBeat, cohort.fs), ("untrained",),
        )
    ] + [
        dataclasses.replace(one, protocols=identification.PROTOCOLS)
        for one in oh_entrants(cohort, scale, seeds, progress=progress and n_jobs == 1)
    ]
    return _run_oh(
        "identification", identification.identification, everyone, cohort, scale, seeds, path,
        n_jobs, progress,
    )  # fmt: skip


def _run_oh(
    name, experiment, everyone, cohort, scale, seeds, path, n_jobs, progress, evaluated=None,
    **options,
):  # fmt: skip
    """Fill and describe a table of paper A's methods, several entrants at a time.

    `evaluated`: the cohort that `experiment` is given, if it is not `cohort`.
    """
    settings = OH_SCALES[scale]
    training = "training" if name == "identification" else "fine_tuning"
    trained = settings["identity" if name == "identification" else "fine_tuning"]
    options = {"seconds": settings["seconds"], training: trained, "over": OH_OVER} | options
    return _filled(
        name, experiment, list(everyone), cohort, scale, seeds, path, n_jobs, progress, options,
        evaluated, settings=settings | options,
        methods={method: arguments for method, (_, arguments) in OH.items()},
        n_pretraining_records=len(oh_training(cohort)), n_identified_patients=oh_tested(cohort),
        code=runs.code_hash(
            augment, losses, metrics, transformer, local_global, simclr, three_kg, finetune, probe,
            any_lead, identification,
        ),
    )  # fmt: skip


# --- paper C: space and time, and where a tachycardia begins -----------------------------------

# Its variants: name -> arguments in which it differs from the whole method.
RAN = {
    "spatio-temporal": {}, "mask only": {"shuffle": 0.0}, "shuffle only": {"ratio": None},
}  # fmt: skip
# What each open choice of the paper decides: name -> what is changed in the whole method.
RAN_ABLATION = RAN | {
    "hide 10-30 %": {"ratio": (0.1, 0.3)},
    "hide 40-80 %": {"ratio": (0.4, 0.8)},
    "hide 40 %, always": {"ratio": (0.4, 0.4)},
    "all leads together": {"hide": "common"},
    "limb leads together": {"hide": "limb"},
    "shuffle one in six": {"shuffle": 1 / 6},
    "shuffle all": {"shuffle": 1.0},
    "no lead numbers": {"weight": 0.0},
    "lead numbers x 10": {"weight": 1.0},
    "loss on all samples": {"visible": 1.0},
}
RAN_EIGHT = "eight leads"  # trained and tested on those that no other gives
RANDOM_EIGHT = "random, eight leads"
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
RAN_BUDGETS = {0.1: 3, 0.2: 2, 0.4: 1, 0.6: 2, 0.8: 1, 1.0: 1}  # label budgets: random draws
# Fine-tuning on arrhythmias, chosen on fold 9: many rare classes need a fast head and many steps.
RAN_FINE_TUNING = {
    "quick": {"head_lr": 5e-3}, "full": {"head_lr": 5e-3, "epochs": 15, "min_steps": 200},
    "paper": {"head_lr": 5e-3},
}  # fmt: skip
# Every pre-training of the book that meets in "all methods": name -> network it trains.
ALL_NETWORKS = {
    "simclr": "xresnet", "byol": "xresnet", "swav": "xresnet", "spatio-temporal": "xresnet",
    "cpc": "cpc", "w2v+cmsc+rlm": "transformer", "3kg-l": "single-lead",
}  # fmt: skip
ALL_BUDGETS = {0.1: 2}


def ran_run(name, train, scale, seed=0, progress=True, **changes):
    """The pre-training run of a variant of paper C: loaded, resumed or made.

    `changes`: arguments of the method in which it differs from the variant, as in `RAN_ABLATION`.
    """
    settings, width = SCALES[scale], {"width": 256} if scale == "paper" else {}
    arguments = {"encoder": RAN_SCALES[scale]["encoder"], "seconds": MEHARI_SECONDS, **width}
    return runs.pretrained(
        SpatioTemporal, train, method=arguments | (RAN_ABLATION | {RAN_EIGHT: {}})[name] | changes,
        seed=seed, progress=progress, **settings["pretraining"],
    )  # fmt: skip


def ran_entrants(cohort, scale, seeds=(0,), names=("spatio-temporal",), progress=True, **changes):
    """The network of paper C untrained (method ``random``) and pre-trained by variants of it."""
    train, network = cohort.split()[0], RAN_SCALES[scale]["encoder"]
    for seed in seeds:
        make = functools.partial(untrained, network, cohort.fs, seed)
        yield label_efficiency.Entrant("random", seed, network, make)
        for name in names:
            identity = {"arguments": RAN_ABLATION.get(name, {}) | changes, "encoder": network}
            identity |= {"pretraining": SCALES[scale]["pretraining"], "seconds": MEHARI_SECONDS}
            yield label_efficiency.Entrant(
                name, seed, runs.config_hash(identity),
                functools.partial(_ran_encoder, name, train, scale, seed, progress, **changes),
                fine_tuning=MEHARI_GRADUAL,
            )  # fmt: skip


def _ran_encoder(name, train, scale, seed, progress, **changes):
    return ran_run(name, train, scale, seed, progress, **changes).encoder


def all_entrants(cohort, scale, seeds=(0,), progress=True, origin=False):
    """Every pre-training of the book, and every network of theirs untrained (``random-...``).

    `origin`: for finding the origin of a beat, where all fine-tune with `RAN_SCALES`' settings.
    Else those of papers A and D keep the rates and the masking of their own chapters.
    """
    oh = OH_SCALES[scale]
    own = {"transformer": oh["fine_tuning"], "single-lead": SCALES[scale]["fine_tuning"]}
    steps = ("epochs", "min_steps", "batch_size")  # as many as the others have
    own = {
        name: {"views": None} | {k: v for k, v in one.items() if k not in steps}
        for name, one in own.items()
    }
    for seed in seeds:
        networks = {
            "xresnet": RAN_SCALES[scale]["encoder"], "cpc": mehari("cpc", scale)[1]["encoder"],
            "transformer": oh["encoder"],
        }  # fmt: skip
        makes = {
            name: functools.partial(untrained, name, cohort.fs, seed) for name in networks.values()
        }
        makes["single-lead"] = functools.partial(random_encoder, cohort.fs, seed)
        networks["single-lead"] = "single-lead"
        for name, network in networks.items():
            yield label_efficiency.Entrant(
                f"random-{name}", seed, network, makes[network],
                fine_tuning={} if origin else own.get(name, {}),
            )  # fmt: skip
        papers = [
            *mehari_entrants(cohort, scale, (seed,), progress),
            *ran_entrants(cohort, scale, (seed,), progress=progress),
            *oh_entrants(cohort, scale, (seed,), ("w2v+cmsc+rlm",), progress=progress),
            *entrants(cohort, scale, (seed,), progress),
        ]
        # SimCLR is in two papers: here it is paper B's.
        first = {one.method: one for one in reversed(papers) if one.method in ALL_NETWORKS}
        for name, network in ALL_NETWORKS.items():
            more = {} if origin else own.get(network, {})
            yield dataclasses.replace(
                first[name], protocols=label_efficiency.PROTOCOLS,
                fine_tuning=more | first[name].fine_tuning,
            )  # fmt: skip


ALL_REFERENCE = {name: (f"random-{net}", "fine-tuned") for name, net in ALL_NETWORKS.items()}
ALL_OVER = {"random": {name: f"random-{net}" for name, net in ALL_NETWORKS.items()}}


def run_spatio_temporal(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Paper C's arrhythmia classes with 10 to 100 % of the labels. Chapter: *Space and time*."""
    return _run_ran(
        "spatio-temporal", arrhythmia.arrhythmias,
        ran_entrants(cohort, scale, seeds, progress=progress and n_jobs == 1), cohort, scale, seeds,
        path, n_jobs, progress, budgets=tuple(RAN_BUDGETS), subsets=RAN_BUDGETS,
        over={"random": {"spatio-temporal": "random"}},
    )  # fmt: skip


def run_spatio_temporal_parts(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """What each open choice of paper C decides, by a probe. Chapter: *Space and time*."""
    reference = ("spatio-temporal", "probe")
    over = {"random": {name: "random" for name in RAN_ABLATION} | {RAN_EIGHT: RANDOM_EIGHT}}
    eight = any_lead.padded(cohort, INDEPENDENT)
    for names, changes, evaluated in (
        ((RAN_EIGHT,), {"independent": True}, eight), (tuple(RAN_ABLATION), {}, cohort),
    ):  # fmt: skip
        everyone = [
            dataclasses.replace(one, protocols=("probe",))
            for one in ran_entrants(
                cohort, scale, seeds, names, progress and n_jobs == 1, **changes
            )
        ]
        if changes:
            for one in everyone[:: 1 + len(names)]:  # the untrained ones
                one.method = RANDOM_EIGHT
        _run_ran(
            "spatio-temporal-parts", arrhythmia.arrhythmias, everyone, cohort, scale, seeds, path,
            n_jobs, progress, evaluated=evaluated, budgets=(1.0,), subsets={1.0: 1},
            reference=reference, over=over,
        )  # fmt: skip
    table = runs.Table(path)
    table.replace_summary(arrhythmia.summarise(table, None, reference, over))  # of both
    return table.read()


def run_all_methods(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Every pre-training of the book against its network from scratch, on arrhythmias.

    Chapter: *Space and time*.
    """
    return _run_ran(
        "all-methods", arrhythmia.arrhythmias,
        all_entrants(cohort, scale, seeds, progress and n_jobs == 1), cohort, scale, seeds, path,
        n_jobs, progress, budgets=tuple(ALL_BUDGETS), subsets=ALL_BUDGETS, reference=ALL_REFERENCE,
        over=ALL_OVER,
    )  # fmt: skip


def run_ventricular_origin(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Where a tachycardia begins, with few labels. Chapter: *Where a tachycardia begins*."""
    settings = RAN_SCALES[scale]
    return _run_ran(
        "ventricular-origin", localisation.localisation,
        ran_entrants(cohort, scale, seeds, tuple(RAN), progress and n_jobs == 1), cohort, scale,
        seeds, path, n_jobs, progress, patients=settings["patients"], subsets=settings["subsets"],
        over={"random": {name: "random" for name in RAN}},
    )  # fmt: skip


def run_ventricular_origin_all(cohort, scale, seeds, path, n_jobs=1, progress=True):
    """Every pre-training of the book finds origins. Chapter: *Where a tachycardia begins*."""
    return _run_ran(
        "ventricular-origin-all", localisation.localisation,
        all_entrants(cohort, scale, seeds, progress and n_jobs == 1, origin=True), cohort, scale,
        seeds, path, n_jobs, progress, patients=RAN_SCALES[scale]["some"],
        subsets=RAN_SCALES[scale]["subsets"], reference=ALL_REFERENCE, over=ALL_OVER,
    )  # fmt: skip


def _run_ran(
    name, experiment, everyone, cohort, scale, seeds, path, n_jobs, progress, evaluated=None,
    **options,
):  # fmt: skip
    """Fill and describe a table of paper C's."""
    if experiment is localisation.localisation:
        fine_tuning = {"mask": 0.0} | RAN_SCALES[scale]["origin"]
    else:
        fine_tuning = _mehari_options(scale, "challenge-2020")["fine_tuning"]
        fine_tuning |= RAN_FINE_TUNING[scale]
    options = {
        "seconds": MEHARI_SECONDS, "overlap": MEHARI_OVERLAP, "fine_tuning": fine_tuning,
    } | options  # fmt: skip
    everyone, code = list(everyone), [spatio_temporal, arrhythmia, localisation]
    methods, (train, _, test) = RAN_ABLATION | {RAN_EIGHT: {"independent": True}}, cohort.split()
    if options.get("over") is ALL_OVER:
        methods = ALL_NETWORKS
        code += [losses, recurrent, transformer, single_lead, simclr, byol, swav, cpc]
        code += [local_global, three_kg]
    if experiment is arrhythmia.arrhythmias:
        classes = label_efficiency.scored_classes(train, test, "challenge-2020")
        blind = arrhythmia.without_a_look(test.targets("challenge-2020")[classes])
    else:
        classes, blind = list(cohort.labels), localisation.by_chance(train, test)
    return _filled(
        name, experiment, everyone, cohort, scale, seeds, path, n_jobs, progress, options,
        evaluated, settings=options, methods=methods, classes=classes,
        without_a_look=blind.to_dict("index"),
        own_fine_tuning={one.method: one.fine_tuning for one in everyone},
        pretraining=SCALES[scale]["pretraining"],
        code=runs.code_hash(
            augment, metrics, xresnet, finetune, probe, label_efficiency, any_lead, *code
        ),
    )  # fmt: skip


EXPERIMENTS = {
    "label-efficiency": run_label_efficiency,
    "simulated-to-real": run_simulated_to_real,
    "linear-evaluation": run_linear_evaluation,
    "linear-evaluation-all": functools.partial(
        run_linear_evaluation, task="all", head_lr=MEHARI_HEAD_LR
    ),
    "linear-evaluation-all-slow": functools.partial(run_linear_evaluation, task="all"),
    "noise-robustness": run_noise_robustness,
    "noise-training": run_noise_training,
    "any-lead": run_any_lead,
    "any-lead-pretraining": run_any_lead_pretraining,
    "identification": run_identification,
    "local-global-parts": run_local_global_parts,
    "segments-right": run_segments,
    "segments-leaky": functools.partial(run_segments, leaky=True),
    "spatio-temporal": run_spatio_temporal,
    "spatio-temporal-parts": run_spatio_temporal_parts,
    "all-methods": run_all_methods,
    "ventricular-origin": run_ventricular_origin,
    "ventricular-origin-all": run_ventricular_origin_all,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("cohort", choices=["simulated", "ptb-xl", "simulated-vt"])
    parser.add_argument("--data", help="folder in PTB-XL's layout; without it PTB-XL is downloaded")
    parser.add_argument("--scale", default="full", choices=list(SCALES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="results")
    parser.add_argument("--jobs", type=int, default=1, help="processes; give each its cores")
    arguments = parser.parse_args()
    at_100_hz = ("linear-evaluation", "noise-", "spatio-", "all-methods", "ventricular-")
    fs = MEHARI_FS if arguments.experiment.startswith(at_100_hz) else None
    cohort = open_for(arguments.scale, arguments.cohort, arguments.data, fs)
    path = f"{arguments.out}/{arguments.cohort}/{arguments.experiment}.csv"
    run = EXPERIMENTS[arguments.experiment]
    frame = run(cohort, arguments.scale, arguments.seeds, path, n_jobs=arguments.jobs)
    metric = "distance_median" if "origin" in arguments.experiment else "macro_auc"
    summary = frame[(frame["seed"] == "all") & (frame["metric"] == metric)]
    across = "noise" if summary["noise"].notna().any() else "budget"
    print(summary.pivot_table("value", ["protocol", "method"], across).round(3).to_string())


if __name__ == "__main__":
    main()
