"""The published experiments: which methods meet, at which scale, with which settings.

    make results COHORT=ptb-xl DATA=path/to/ptb-xl

fills ``results/ptb-xl/label-efficiency.csv``. Stop it when you like: it goes on where it stopped.
"""

import argparse
import functools
import time

import joblib
import torch

from . import augment, encoders, losses, metrics, runs
from .cohort import open_cohort
from .datasets import simulated
from .encoders import recurrent, single_lead, xresnet
from .encoders.single_lead import SingleLeadCNN, default_strides
from .evaluate import finetune, label_efficiency, noise, probe
from .methods import byol, cpc, simclr, swav, three_kg
from .methods.byol import BYOL
from .methods.cpc import CPC
from .methods.simclr import SimCLR
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
MEHARI_GRADUAL = {"layer_decay": 0.8, "head_share": 0.1}
MEHARI_SUBSETS = {0.10: 2, 1.0: 1}  # label budgets, and how many random draws of each


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


def run_linear_evaluation(cohort, scale, seeds, path, task="superclass", n_jobs=1, progress=True):
    """Probe and fine-tune the methods of paper B with few and with all labels.

    Fills the table at `path` and returns it. Chapter: *Linear evaluation*.
    """
    budgets = tuple(MEHARI_SUBSETS) if task == "superclass" else (1.0,)
    options = _mehari_options(scale, task) | {"budgets": budgets, "subsets": MEHARI_SUBSETS}
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


def _mehari_options(scale, task):
    settings = SCALES[scale]
    fine_tuning = {k: v for k, v in settings["fine_tuning"].items() if k != "mask"}
    return {
        "seconds": MEHARI_SECONDS, "overlap": MEHARI_OVERLAP, "task": task,
        "fine_tuning": fine_tuning | MEHARI_FINE_TUNING, "reference": MEHARI_REFERENCE,
    }  # fmt: skip


def _run_mehari(
    experiment, name, cohort, scale, seeds, path, options, n_jobs, progress
):  # fmt: skip
    """Fill and describe a table of paper B's methods, several entrants at a time."""
    began = time.monotonic()
    table = runs.Table(path)
    everyone = list(mehari_entrants(cohort, scale, seeds, progress and n_jobs == 1))
    if n_jobs > 1:
        joblib.Parallel(n_jobs, verbose=5)(
            joblib.delayed(experiment)([one], cohort, table, progress=False, **options)
            for one in everyone
        )
    frame = experiment(everyone, cohort, table, progress=progress, **options)
    train, _, test = cohort.split()
    earlier = runs.load_provenance(table.path).get("seconds", 0)
    table.describe(
        experiment=name, cohort=cohort.name, cohort_fingerprint=cohort.fingerprint, scale=scale,
        seeds=list(seeds), settings=options | {"gradual": MEHARI_GRADUAL},
        methods={m: [mehari(m, scale)[1], mehari(m, scale)[2]] for m in MEHARI},
        classes=label_efficiency.scored_classes(train, test, options["task"]),
        n_train_records=len(train), n_test_records=len(test),
        n_train_patients=int(train.table["patient_id"].nunique()),
        n_test_patients=int(test.table["patient_id"].nunique()),
        code=runs.code_hash(
            augment, losses, metrics, recurrent, xresnet, simclr, byol, swav, cpc, finetune, probe,
            label_efficiency, noise,
        ),
        seconds=round(earlier + time.monotonic() - began),
    )  # fmt: skip
    return frame


def open_for(scale, name, data=None, fs=None):
    """The cohort of a chapter at a scale; `fs` (Hz) where a paper has a rate of its own."""
    settings = SCALES[scale] | ({"fs": fs} if fs else {})
    if name == "simulated":
        return open_cohort(name, n_patients=settings["n_patients"], fs=settings["fs"])
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


EXPERIMENTS = {
    "label-efficiency": run_label_efficiency,
    "simulated-to-real": run_simulated_to_real,
    "linear-evaluation": run_linear_evaluation,
    "linear-evaluation-all": functools.partial(run_linear_evaluation, task="all"),
    "noise-robustness": run_noise_robustness,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("cohort", choices=["simulated", "ptb-xl"])
    parser.add_argument("--data", help="folder in PTB-XL's layout; without it PTB-XL is downloaded")
    parser.add_argument("--scale", default="full", choices=list(SCALES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="results")
    parser.add_argument("--jobs", type=int, default=1, help="processes; give each its cores")
    arguments = parser.parse_args()
    of_paper_b = arguments.experiment.startswith(("linear-evaluation", "noise-robustness"))
    fs = MEHARI_FS if of_paper_b else None
    cohort = open_for(arguments.scale, arguments.cohort, arguments.data, fs)
    path = f"{arguments.out}/{arguments.cohort}/{arguments.experiment}.csv"
    run = EXPERIMENTS[arguments.experiment]
    frame = run(cohort, arguments.scale, arguments.seeds, path, n_jobs=arguments.jobs)
    summary = frame[(frame["seed"] == "all") & (frame["metric"] == "macro_auc")]
    across = "noise" if summary["noise"].notna().any() else "budget"
    print(summary.pivot_table("value", ["protocol", "method"], across).round(3).to_string())


if __name__ == "__main__":
    main()
