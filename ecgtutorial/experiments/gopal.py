"""Paper D: 3KG, and the two experiments that compare it with SimCLR on its own network."""

import functools

from .. import augment, losses, metrics, runs
from ..cohort import open_cohort
from ..datasets import simulated
from ..encoders import single_lead, xresnet
from ..evaluate import arrhythmia, finetune, label_efficiency, probe, subgroups
from ..methods import segments, simclr, three_kg
from ..methods.segments import SegmentContrast, paired
from ..methods.simclr import SimCLR
from ..methods.three_kg import ThreeKG
from .common import (
    RAN_SCALES,
    SCALES,
    SIMULATED,
    alone,
    filled,
    for_longer,
    random_encoder,
    untrained,
)

TRANSFER_BUDGETS = (0.02, 0.10, 0.25, 1.0)  # of the labels of the real cohort

# Everybody who meets in the chapters on 3KG: name -> (class, arguments besides the crop's length).
METHODS = {
    "simclr": (SimCLR, {}),
    "3kg-a": (ThreeKG, {"variant": "A"}),
    "3kg-l": (ThreeKG, {"variant": "L"}),
}

# Table 1 of paper D, every row of it, and two that it leaves out: name -> arguments of `ThreeKG`.
# All rows go through the three dimensions of the heart vector, "nothing" and "mask" too, so that a
# row differs from another in its turns and scales alone.
_OFF = {"rotation": 0.0, "scaling": 1.0, "mask": 0.0}
AUGMENTATIONS = {
    "nothing": {},
    "mask": {"mask": 0.5},
    **{f"rotate {r}": {"rotation": float(r)} for r in (5, 10, 25, 45)},
    **{f"scale {s:g}": {"scaling": s} for s in (1.05, 1.1, 1.5, 2.0)},
    "rotate 45, mask": {"rotation": 45.0, "mask": 0.5},
    "scale 1.5, mask": {"scaling": 1.5, "mask": 0.5},
    "rotate 45, scale 1.5": {"rotation": 45.0, "scaling": 1.5},
    "rotate 45, scale 1.5, mask": {"rotation": 45.0, "scaling": 1.5, "mask": 0.5},
}
# Table 2: name -> class, arguments. SimCG-L without augmentation has the leads as its only views
# and leaves the three dimensions out.
CONTRASTS = METHODS | {
    "simcg-l": (ThreeKG, {"variant": "L", "heart_vector": False, **_OFF}),
    "cmsc": (SegmentContrast, {"positives": "segments"}),
    "cmlc": (SegmentContrast, {"positives": "leads"}),
    "cmsmlc": (SegmentContrast, {"positives": "both"}),
    "patients": (SegmentContrast, {"positives": "patients"}),
}
GOPAL_SUBSETS = {0.01: 5, 0.1: 5, 1.0: 1}  # label budgets: random draws
# Of the supervised baseline over the 23 classes; chosen on fold 9 for paper C's, nearly the same.
GOPAL_FINE_TUNING = {
    "quick": {}, "full": {"head_lr": 5e-3, "epochs": 15, "min_steps": 200}, "paper": {},
}  # fmt: skip


def pretraining_run(name, train, scale, seed, progress=True, times=1):
    """The pre-training run of method `name` at a scale: loaded, resumed or made.

    `times`: how many times the scale's epochs.
    """
    settings = SCALES[scale]
    method_class, arguments = METHODS[name]
    return runs.pretrained(
        method_class, train, method={**arguments, "seconds": settings["seconds"]}, seed=seed,
        progress=progress, **for_longer(settings["pretraining"], times),
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


def run_label_efficiency(cohort, scale, seeds, path, progress=True):
    """3KG and SimCLR at every label budget. Chapter: *Label efficiency*."""
    settings = SCALES[scale]
    options = {name: settings[name] for name in ("seconds", "budgets", "subsets", "fine_tuning")}
    everyone = list(entrants(cohort, scale, seeds, alone(progress)))
    return filled(
        "label-efficiency", label_efficiency.label_efficiency, everyone, cohort, scale, seeds, path,
        progress, options, settings=settings,
        methods={name: arguments for name, (_, arguments) in METHODS.items()},
        code=runs.definitions(
            augment, losses, metrics, single_lead, three_kg, simclr, finetune, probe,
            label_efficiency,
        ),
    )  # fmt: skip


def simulated_run(scale, seed, progress=True):
    """SimCLR pre-trained on simulated hearts only: loaded, resumed or made."""
    settings, more = SCALES[scale], SIMULATED[scale]
    hearts = open_cohort("simulated", n_patients=more["n_patients"], seed=7, fs=settings["fs"])
    return runs.pretrained(
        SimCLR, hearts, method={"seconds": settings["seconds"]}, seed=seed, progress=progress,
        **{**settings["pretraining"], **more["pretraining"]},
    )  # fmt: skip


def run_simulated_to_real(cohort, scale, seeds, path, progress=True):
    """What a linear probe on `cohort` gets from an encoder that never saw a record of it.

    Methods: `random`, `real` (pre-trained on the training folds of `cohort`), `simulated`.
    Fills the table at `path` and returns it. Chapter: *Cohorts*.
    """
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
    options = {
        "seconds": settings["seconds"], "budgets": budgets, "subsets": settings["subsets"],
        "reference": ("real", "probe"),
    }  # fmt: skip
    return filled(
        "simulated-to-real", label_efficiency.label_efficiency, entrants, cohort, scale, seeds,
        path, progress, options, settings=settings, simulated=SIMULATED[scale],
        code=runs.definitions(
            augment, losses, metrics, single_lead, simclr, probe, label_efficiency
        ),
    )  # fmt: skip


def _simulated_encoder(scale, seed, progress):
    encoder = simulated_run(scale, seed, progress).encoder
    encoder.set_readout("concat")
    return encoder


def augmentation_entrants(cohort, scale, seeds=(0,), progress=True):
    """Paper D's table 1, SimCG-A: one network, untrained and after each augmentation; probes.

    The network reads all leads at once (our choice; the paper averages one-lead embeddings): it is
    several times as fast, and the question is the augmentation.
    """
    train, network, settings = cohort.split()[0], RAN_SCALES[scale]["encoder"], SCALES[scale]
    same = {"variant": "A", "encoder": network, "seconds": settings["seconds"], **_OFF}
    for seed in seeds:
        make = functools.partial(untrained, network, cohort.fs, seed)
        yield label_efficiency.Entrant("random", seed, network, make, ("probe",))
        for name, changes in AUGMENTATIONS.items():
            yield label_efficiency.Entrant(
                name, seed, runs.config_hash([same | changes, settings["pretraining"]]),
                functools.partial(
                    _run_encoder, ThreeKG, same | changes, train, scale, seed, progress
                ),
                ("probe",),
            )  # fmt: skip


def contrast_entrants(cohort, scale, seeds=(0,), progress=True):
    """Paper D's table 2: probes on its own network, and the same network supervised.

    As in the paper the answer is read off the mean of the lead embeddings.
    """
    train, settings = cohort.split()[0], SCALES[scale]
    for seed in seeds:
        make = functools.partial(untrained, "single-lead", cohort.fs, seed)
        yield label_efficiency.Entrant("random", seed, "mean", make, ("probe",))
        yield label_efficiency.Entrant("supervised", seed, "mean", make, ("fine-tuned",))
        for name, (method_class, arguments) in CONTRASTS.items():
            arguments = {**arguments, "seconds": settings["seconds"]}
            identity = [method_class.__qualname__, arguments, settings["pretraining"]]
            yield label_efficiency.Entrant(
                name, seed, runs.config_hash(identity),
                functools.partial(
                    _run_encoder, method_class, arguments, train, scale, seed, progress
                ),
                ("probe",),
            )  # fmt: skip


def _run_encoder(method_class, arguments, train, scale, seed, progress):
    """The encoder of a method pre-trained at a scale."""
    records = paired(train) if arguments.get("positives") == "patients" else train
    return runs.pretrained(
        method_class, records, method=arguments, seed=seed, progress=progress,
        **SCALES[scale]["pretraining"],
    ).encoder  # fmt: skip


def run_augmentation_grid(cohort, scale, seeds, path, progress=True):
    """Paper D's table 1: rotations, scalings, masks. Chapter: *Disease by disease*."""
    return _run_subgroups(
        "augmentation-grid", augmentation_entrants(cohort, scale, seeds, alone(progress)), cohort,
        scale, seeds, path, progress, AUGMENTATIONS, reference=("random", "probe"),
        over={"nothing": {name: "nothing" for name in AUGMENTATIONS if name != "nothing"}},
    )  # fmt: skip


def run_subgroups(cohort, scale, seeds, path, progress=True):
    """Paper D's table 2 and figure 2: who helps which disease. Chapter: *Disease by disease*."""
    return _run_subgroups(
        "subgroups", contrast_entrants(cohort, scale, seeds, alone(progress)), cohort, scale, seeds,
        path, progress, {name: arguments for name, (_, arguments) in CONTRASTS.items()},
        reference=("supervised", "fine-tuned"),
        over={
            "random": {name: "random" for name in CONTRASTS},
            "simclr": {name: "simclr" for name in CONTRASTS if name != "simclr"},
        },
    )  # fmt: skip


def _run_subgroups(name, everyone, cohort, scale, seeds, path, progress, methods, reference, over):
    settings = SCALES[scale]
    options = {
        "seconds": settings["seconds"], "budgets": tuple(GOPAL_SUBSETS), "subsets": GOPAL_SUBSETS,
        "fine_tuning": settings["fine_tuning"] | GOPAL_FINE_TUNING[scale], "reference": reference,
        "over": over,
    }  # fmt: skip
    return filled(
        name, subgroups.subgroups, list(everyone), cohort, scale, seeds, path, progress, options,
        settings=options, methods=methods, pretraining=settings["pretraining"],
        code=runs.definitions(
            augment, losses, metrics, single_lead, xresnet, three_kg, segments, simclr, finetune,
            probe, label_efficiency, arrhythmia, subgroups,
        ),
    )  # fmt: skip
