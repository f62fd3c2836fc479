"""Paper C: space and time, and where a tachycardia begins."""

import dataclasses
import functools

from .. import augment, metrics, runs
from ..encoders import xresnet
from ..evaluate import any_lead, arrhythmia, finetune, label_efficiency, localisation, probe
from ..leads import INDEPENDENT
from ..methods import spatio_temporal
from ..methods.spatio_temporal import SpatioTemporal
from .common import RAN_SCALES, SCALES, alone, filled, for_longer, untrained
from .mehari import MEHARI_GRADUAL, MEHARI_OVERLAP, MEHARI_SECONDS, mehari_options

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
RAN_BUDGETS = {0.1: 3, 0.2: 2, 0.4: 1, 0.6: 2, 0.8: 1, 1.0: 1}  # label budgets: random draws
# Fine-tuning on arrhythmias, chosen on fold 9: many rare classes need a fast head and many steps.
RAN_FINE_TUNING = {
    "quick": {"head_lr": 5e-3}, "full": {"head_lr": 5e-3, "epochs": 15, "min_steps": 200},
    "paper": {"head_lr": 5e-3},
}  # fmt: skip


def ran_run(name, train, scale, seed=0, progress=True, times=1, **changes):
    """The pre-training run of a variant of paper C: loaded, resumed or made.

    `changes`: arguments of the method in which it differs from the variant, as in `RAN_ABLATION`.
    `times`: how many times the scale's epochs.
    """
    settings, width = SCALES[scale], {"width": 256} if scale == "paper" else {}
    arguments = {"encoder": RAN_SCALES[scale]["encoder"], "seconds": MEHARI_SECONDS, **width}
    return runs.pretrained(
        SpatioTemporal, train, method=arguments | (RAN_ABLATION | {RAN_EIGHT: {}})[name] | changes,
        seed=seed, progress=progress, **for_longer(settings["pretraining"], times),
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


def run_spatio_temporal(cohort, scale, seeds, path, progress=True):
    """Paper C's arrhythmia classes with 10 to 100 % of the labels. Chapter: *Space and time*."""
    return run_ran(
        "spatio-temporal", arrhythmia.arrhythmias,
        ran_entrants(cohort, scale, seeds, progress=alone(progress)), cohort, scale, seeds,
        path, progress, budgets=tuple(RAN_BUDGETS), subsets=RAN_BUDGETS,
        over={"random": {"spatio-temporal": "random"}},
    )  # fmt: skip


def run_spatio_temporal_parts(cohort, scale, seeds, path, progress=True):
    """What each open choice of paper C decides, by a probe. Chapter: *Space and time*."""
    reference = ("spatio-temporal", "probe")
    over = {"random": {name: "random" for name in RAN_ABLATION} | {RAN_EIGHT: RANDOM_EIGHT}}
    eight = any_lead.padded(cohort, INDEPENDENT)
    for names, changes, evaluated in (
        ((RAN_EIGHT,), {"independent": True}, eight), (tuple(RAN_ABLATION), {}, cohort),
    ):  # fmt: skip
        everyone = [
            dataclasses.replace(one, protocols=("probe",))
            for one in ran_entrants(cohort, scale, seeds, names, alone(progress), **changes)
        ]
        if changes:
            for one in everyone[:: 1 + len(names)]:  # the untrained ones
                one.method = RANDOM_EIGHT
        run_ran(
            "spatio-temporal-parts", arrhythmia.arrhythmias, everyone, cohort, scale, seeds, path,
            progress, evaluated=evaluated, budgets=(1.0,), subsets={1.0: 1},
            reference=reference, over=over,
        )  # fmt: skip
    table = runs.Table(path)
    table.replace_summary(arrhythmia.summarise(table, None, reference, over))  # of both
    return table.read()


def run_ventricular_origin(cohort, scale, seeds, path, progress=True):
    """Where a tachycardia begins, with few labels. Chapter: *Where a tachycardia begins*."""
    settings = RAN_SCALES[scale]
    return run_ran(
        "ventricular-origin", localisation.localisation,
        ran_entrants(cohort, scale, seeds, tuple(RAN), alone(progress)), cohort, scale,
        seeds, path, progress, patients=settings["patients"], subsets=settings["subsets"],
        over={"random": {name: "random" for name in RAN}},
    )  # fmt: skip


def run_ran(
    name, experiment, everyone, cohort, scale, seeds, path, progress, evaluated=None,
    methods=RAN_ABLATION | {RAN_EIGHT: {"independent": True}}, code=(), **options,
):  # fmt: skip
    """Fill and describe a table of paper C's."""
    if experiment is localisation.localisation:
        fine_tuning = {"mask": 0.0} | RAN_SCALES[scale]["origin"]
    else:
        fine_tuning = mehari_options(scale, "challenge-2020")["fine_tuning"]
        fine_tuning |= RAN_FINE_TUNING[scale]
    options = {
        "seconds": MEHARI_SECONDS, "overlap": MEHARI_OVERLAP, "fine_tuning": fine_tuning,
    } | options  # fmt: skip
    everyone, (train, _, test) = list(everyone), cohort.split()
    if experiment is arrhythmia.arrhythmias:
        classes = label_efficiency.scored_classes(train, test, "challenge-2020")
        blind = arrhythmia.without_a_look(test.targets("challenge-2020")[classes])
    else:
        classes, blind = list(cohort.labels), localisation.by_chance(train, test)
    return filled(
        name, experiment, everyone, cohort, scale, seeds, path, progress, options,
        evaluated, settings=options, methods=methods, classes=classes,
        without_a_look=blind.to_dict("index"),
        own_fine_tuning={one.method: one.fine_tuning for one in everyone},
        pretraining=SCALES[scale]["pretraining"],
        code=runs.definitions(
            augment, metrics, xresnet, finetune, probe, label_efficiency, any_lead,
            spatio_temporal, arrhythmia, localisation, *code,
        ),
    )  # fmt: skip
