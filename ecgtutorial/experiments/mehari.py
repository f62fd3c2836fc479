"""Paper B: SimCLR, BYOL, SwAV and CPC, by probe, fine-tuned, and under noise."""

import dataclasses
import functools

from .. import augment, losses, metrics, runs
from ..encoders import recurrent, xresnet
from ..evaluate import finetune, label_efficiency, noise, probe
from ..methods import byol, cpc, simclr, swav
from ..methods.byol import BYOL
from ..methods.cpc import CPC
from ..methods.simclr import SimCLR
from ..methods.swav import SwAV
from .common import SCALES, alone, filled, for_longer, untrained

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


def mehari_run(name, train, scale, seed=0, progress=True, times=1):
    """The pre-training run of a method of paper B: loaded, resumed or made.

    `times`: how many times the scale's epochs.
    """
    method_class, arguments, training = mehari(name, scale)
    return runs.pretrained(
        method_class, train, method=arguments, seed=seed, progress=progress,
        **for_longer(training, times),
    )  # fmt: skip


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
    "random": {name: f"random-{'cpc' if name == 'cpc' else 'xresnet'}" for name in MEHARI},
    "simclr": {"cpc": "simclr"},
    "byol": {"cpc": "byol"},
}


def run_linear_evaluation(
    cohort, scale, seeds, path, task="superclass", progress=True, head_lr=None
):  # fmt: skip
    """Probe and fine-tune the methods of paper B with few and with all labels.

    `head_lr`: learning rate of the head in fine-tuning, if not the scale's. Fills the table at
    `path` and returns it. Chapter: *Linear evaluation*.
    """
    budgets = tuple(MEHARI_SUBSETS) if task == "superclass" else (1.0,)
    options = mehari_options(scale, task) | {
        "budgets": budgets, "subsets": MEHARI_SUBSETS, "over": MEHARI_OVER,
    }  # fmt: skip
    if head_lr:
        options["fine_tuning"]["head_lr"] = head_lr
    return _run_mehari(
        label_efficiency.label_efficiency, "linear-evaluation", cohort, scale, seeds, path, options,
        progress,
    )  # fmt: skip


def run_noise_robustness(cohort, scale, seeds, path, progress=True):
    """Train on clean records, test at paper B's noise levels. Chapter: *Noise robustness*."""
    return _run_mehari(
        noise.noise_robustness, "noise-robustness", cohort, scale, seeds, path,
        mehari_options(scale, "superclass"), progress,
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


def run_noise_training(cohort, scale, seeds, path, progress=True):
    """Does noise in fine-tuning mend what noise breaks, or do more steps?

    Fills the table at `path` and returns it. Chapter: *Noise robustness*.
    """
    pairs = {
        f"{method}{way}": (f"{MEHARI_REFERENCE[method][0]}{way}", "fine-tuned")
        for method in ("simclr", "cpc")
        for way in noise_trainings(scale)
    }
    options = mehari_options(scale, "superclass") | {
        "levels": NOISE_TRAINING_LEVELS, "reference": pairs,
    }  # fmt: skip
    return _run_mehari(
        noise.noise_robustness, "noise-training", cohort, scale, seeds, path, options,
        progress, noise_training_entrants,
    )  # fmt: skip


def mehari_options(scale, task):
    settings = SCALES[scale]
    fine_tuning = {k: v for k, v in settings["fine_tuning"].items() if k != "mask"}
    return {
        "seconds": MEHARI_SECONDS, "overlap": MEHARI_OVERLAP, "task": task,
        "fine_tuning": fine_tuning | MEHARI_FINE_TUNING, "reference": MEHARI_REFERENCE,
    }  # fmt: skip


def _run_mehari(
    experiment, name, cohort, scale, seeds, path, options, progress,
    entrants=mehari_entrants,
):  # fmt: skip
    """Fill and describe a table of paper B's methods, several entrants at a time."""
    everyone = list(entrants(cohort, scale, seeds, alone(progress)))
    train, _, test = cohort.split()
    return filled(
        name, experiment, everyone, cohort, scale, seeds, path, progress, options,
        settings=options | {"gradual": MEHARI_GRADUAL},
        own_fine_tuning={one.method: one.fine_tuning for one in everyone},
        methods={m: [mehari(m, scale)[1], mehari(m, scale)[2]] for m in MEHARI},
        classes=label_efficiency.scored_classes(train, test, options["task"]),
        code=runs.definitions(
            augment, losses, metrics, recurrent, xresnet, simclr, byol, swav, cpc, finetune, probe,
            label_efficiency, noise,
        ),
    )  # fmt: skip
