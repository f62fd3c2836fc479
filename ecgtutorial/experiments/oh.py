"""Paper A: local and global, any subset of leads, and whose heart it is."""

import dataclasses
import functools

from .. import augment, losses, metrics, runs
from ..encoders import transformer
from ..evaluate import any_lead, finetune, identification, label_efficiency, probe
from ..leads import SUBSETS
from ..methods import local_global, simclr, three_kg
from ..methods.local_global import LocalGlobal
from ..methods.simclr import SimCLR
from ..methods.three_kg import ThreeKG
from .common import alone, filled, for_longer, untrained

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


def oh_run(name, cohort, scale, seed=0, progress=True, times=1, **changes):
    """The pre-training run of a method of paper A on a cohort: loaded, resumed or made.

    `changes`: arguments of the method in which it differs, as in `OH_ABLATION`.
    `times`: how many times the scale's epochs.
    """
    settings = OH_SCALES[scale]
    method_class, arguments = OH[name]
    crop = settings["seconds"] * (2 if method_class is LocalGlobal else 1)  # of two segments
    arguments = {"encoder": settings["encoder"], "seconds": crop, **arguments, **changes}
    if method_class is LocalGlobal and scale == "paper":
        arguments |= {"codes": 320, "features": 256}
    return runs.pretrained(
        method_class, cohort, method=arguments, seed=seed, progress=progress,
        **for_longer(settings["pretraining"], times),
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


def run_any_lead(cohort, scale, seeds, path, progress=True):
    """Paper A's table 1, diagnosis: methods x lead sets, fine-tuned. Chapter: *Any lead*."""
    everyone = oh_entrants(cohort, scale, seeds, progress=alone(progress))
    return _run_oh("any-lead", any_lead.any_lead, everyone, cohort, scale, seeds, path, progress)


def run_any_lead_pretraining(cohort, scale, seeds, path, progress=True):
    """Paper A's table 2: pre-trained *and* fine-tuned on one lead set. Chapter: *Any lead*."""
    for leads in SUBSETS:
        everyone = oh_entrants(cohort, scale, seeds, OH_TABLE_2, leads, alone(progress))
        _run_oh(
            "any-lead-pretraining", any_lead.any_lead, everyone, cohort, scale, seeds, path,
            progress, lead_sets=(leads,),
        )  # fmt: skip
    table = runs.Table(path)
    table.replace_summary(any_lead.summarise(table, over=OH_OVER))  # of all lead sets
    return table.read()


def run_local_global_parts(cohort, scale, seeds, path, progress=True):
    """What each part of paper A's method brings to a probe. Chapter: *Local and global*."""
    everyone = oh_ablation(cohort, scale, seeds, alone(progress))
    return _run_oh(
        "local-global-parts", any_lead.any_lead, everyone, cohort, scale, seeds, path,
        progress, lead_sets=(12, 1), reference=("w2v+cmsc+rlm", "probe"),
    )  # fmt: skip


def run_segments(cohort, scale, seeds, path, progress=True, leaky=False):
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
        seeds, path, progress, evaluated=cut, lead_sets=(12,), by_segment=leaky,
    )  # fmt: skip


def run_identification(cohort, scale, seeds, path, progress=True):
    """Paper A's table 1, identification, and beside it a beat that never learned anything.

    Chapter: *Patient identification*.
    """
    everyone = [
        label_efficiency.Entrant(
            "median-beat",
            0,
            "median-beat",
            functools.partial(identification.MedianBeat, cohort.fs),
            ("untrained",),
        )
    ] + [
        dataclasses.replace(one, protocols=identification.PROTOCOLS)
        for one in oh_entrants(cohort, scale, seeds, progress=alone(progress))
    ]
    return _run_oh(
        "identification", identification.identification, everyone, cohort, scale, seeds, path,
        progress,
    )  # fmt: skip


def _run_oh(
    name, experiment, everyone, cohort, scale, seeds, path, progress, evaluated=None,
    **options,
):  # fmt: skip
    """Fill and describe a table of paper A's methods, several entrants at a time.

    `evaluated`: the cohort that `experiment` is given, if it is not `cohort`.
    """
    settings = OH_SCALES[scale]
    training = "training" if name == "identification" else "fine_tuning"
    trained = settings["identity" if name == "identification" else "fine_tuning"]
    options = {"seconds": settings["seconds"], training: trained, "over": OH_OVER} | options
    return filled(
        name, experiment, list(everyone), cohort, scale, seeds, path, progress, options,
        evaluated, settings=settings | options,
        methods={method: arguments for method, (_, arguments) in OH.items()},
        n_pretraining_records=len(oh_training(cohort)), n_identified_patients=oh_tested(cohort),
        code=runs.definitions(
            augment, losses, metrics, transformer, local_global, simclr, three_kg, finetune, probe,
            any_lead, identification,
        ),
    )  # fmt: skip
