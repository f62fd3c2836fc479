"""Beyond the papers: what was tried so that few labels go far, and the recipe that was chosen.

`run_attempts` compares on fold 9, `run_beyond` judges the chosen recipe once on fold 10.
"""

import copy
import functools

import numpy as np
import torch
from torch import nn

from .. import augment, losses, metrics, runs
from ..augment import crop
from ..cohort import open_cohort
from ..encoders import recurrent, single_lead, xresnet
from ..encoders.xresnet import XResNet1d
from ..evaluate import finetune, label_efficiency, probe, recipe
from ..evaluate.label_efficiency import Entrant
from ..methods import combined, simclr
from ..methods.combined import Reader, SimulatedTruth
from .common import SCALES, SIMULATED, alone, filled, untrained
from .everyone import all_options, joined
from .gopal import pretrained_encoder, simulated_run
from .mehari import mehari

# The simulator as a teacher: pre-training at a scale, on the hearts of `SIMULATED`.
TEACHER = {
    "quick": {"epochs": 2, "batch_size": 32, "lr": 2e-3, "schedule": "cosine"},
    "full": {
        "epochs": 8, "batch_size": 64, "lr": 2e-3, "schedule": "cosine", "warmup": 0.05,
        "weight_decay": 0.01, "precision": "bf16-mixed",
    },
    "paper": {
        "epochs": 20, "batch_size": 256, "lr": 2e-3, "schedule": "cosine", "warmup": 0.05,
        "weight_decay": 0.01,
    },
}  # fmt: skip
BEYOND_SUBSETS = {
    "quick": {0.1: 1, 1.0: 1},
    "full": {0.02: 5, 0.10: 5, 1.0: 1, 0.01: 5, 0.05: 5},
    "paper": {0.01: 5, 0.02: 5, 0.05: 5, 0.10: 5, 1.0: 1},
}
ATTEMPTS_SUBSETS = {
    "quick": {0.1: 1, 1.0: 1},
    "full": {0.02: 2, 0.10: 2, 1.0: 1},
    "paper": {0.02: 5, 0.10: 5, 1.0: 1},
}
CONTRAST = 0.03  # weight of SimCLR beside the simulator's truth, where real records join
CONTINUED = {"encoder_lr": 1e-3, "head_lr": 5e-4}  # chosen on fold 9
# Who meets: the simulator's pupil, paper D's comparison, and two networks from scratch, the pupil's
# own and the one that is best with all labels of PTB-XL.
TRUTH, REAL, SCRATCH, BEST = "simulated truth", "real SimCLR", "scratch", "random-cpc"
REFERENCE, ALL_LABELS = (SCRATCH, "fine-tuned"), (BEST, "fine-tuned")
RESERVATION = (
    "The simulator was fitted, and adjusted by hand, to statistics of labelled records of PTB-XL, "
    "those of folds 9 and 10 included: shares and joint counts of statements, median beats of "
    "diagnoses. What learned from simulated truth has thereby seen averages of labels outside its "
    "budget, and networks from scratch have not. Attempts stand on one or two draws of the labels. "
    "The ridge and the rate were chosen on fold 9, the rate on two draws; networks from scratch, "
    "SimCLR, and truth and contrast were computed there after the recipe was fixed."
)
ATTEMPTS = {
    "scratch, fine-tuned": "The pupil's network with random weights, fine-tuned.",
    "real SimCLR, probe": "SimCLR on the unlabelled training records, frozen, linear probe.",
    "simulated SimCLR, probe": "SimCLR on 12,000 simulated patients, frozen, linear probe.",
    "simulated truth, probe":
        "A network that learned to read the true statements of 12,000 simulated patients, frozen "
        "and without its last layer, linear probe.",
    "real statistics, probe":
        "As simulated truth, probe, after batch normalisation has seen unlabelled real records.",
    "simulated truth, opinion":
        "The pupil's own answer to a real record: it uses no label of the budget, so it is the "
        "same at every share.",
    "simulated truth, corrected":
        "The pupil's answer plus a linear layer on its frozen features, which a ridge keeps small.",
    "two networks, corrected":
        "As simulated truth, corrected, with the features of two pupils and their mean answer.",
    "truth and contrast, corrected":
        "As simulated truth, corrected, where the unlabelled training records had joined the "
        "simulated ones by SimCLR, in the same batches and one loss.",
    "simulated truth, continued":
        "The pupil trained on, from its own answer, at a third of the usual rate.",
    "simulated truth, recipe":
        "The average of the logits of two: simulated truth, corrected and continued.",
}  # fmt: skip


def teacher_run(scale, seed=0, progress=True, real=None):
    """A network that learned the truth of simulated hearts: its run, loaded, resumed or made.

    `real`: a cohort that joins without labels, by `CONTRAST`, for half the epochs.
    """
    n_patients = SIMULATED[scale]["n_patients"]
    records = open_cohort("simulated", n_patients=n_patients, seed=7, fs=100)
    more = {} if n_patients == 12_000 else {"hearts": n_patients}  # what is usual has no name
    training = TEACHER[scale]
    if real is not None:
        records, more = joined(records, real), more | {"contrast": CONTRAST}
        training = training | {"epochs": training["epochs"] // 2}  # each record has two views
    return runs.pretrained(
        SimulatedTruth, records, method=more, seed=seed, progress=progress, **training
    )


def scratch(seed):
    """The teacher's network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return XResNet1d(channels=64, blocks=(1, 1, 1, 1))


def beyond_entrants(cohort, scale, seeds=(0,), progress=True):
    """The recipe and its parts, its network from scratch, the best from scratch, and two probes.

    ``"simulated truth"`` is trained on no real record before the labelled ones (but see
    `RESERVATION`); ``"real SimCLR"`` is paper D's comparison, pre-trained on the training folds of
    `cohort`.
    """
    train, best = cohort.split()[0], mehari("cpc", scale)[1]["encoder"]
    for seed in seeds:
        pupil = functools.partial(_encoder, scale, seed, progress)
        yield Entrant(TRUTH, seed, _identity(scale), pupil, ("probe",))
        reader = functools.partial(_reader, scale, (seed,), progress)
        yield Entrant(
            TRUTH, seed, f"{_identity(scale)} reader", reader, recipe.PROTOCOLS, CONTINUED
        )
        real = functools.partial(pretrained_encoder, "simclr", train, scale, seed, progress)
        yield Entrant(REAL, seed, runs.config_hash(SCALES[scale]["pretraining"]), real, ("probe",))
        if seed != seeds[0]:
            continue  # from scratch once: each draw of labels is a training of its own
        make = functools.partial(scratch, seed)
        yield Entrant(SCRATCH, seed, "xresnet 64", make, ("fine-tuned",))
        make = functools.partial(untrained, best, cohort.fs, seed)
        yield Entrant(BEST, seed, best, make, ("fine-tuned",))


def attempts_entrants(cohort, scale, seeds=(0,), progress=True):
    """All of `ATTEMPTS`: those of `beyond_entrants` but the best from scratch, and four more."""
    everyone = beyond_entrants(cohort, scale, seeds, progress)
    yield from (one for one in everyone if one.method != BEST)
    train, name = cohort.split()[0], _identity(scale)
    for seed in seeds:
        make = functools.partial(_real_statistics, train, scale, seed, progress)
        yield Entrant("real statistics", seed, f"{name} statistics", make, ("probe",))
        make = functools.partial(_simulated_simclr, scale, seed, progress)
        hearts = runs.config_hash([SCALES[scale]["pretraining"], SIMULATED[scale]])
        yield Entrant("simulated SimCLR", seed, hearts, make, ("probe",))
        make = functools.partial(_reader, scale, (seed,), progress, train)
        identity = runs.config_hash([name, train.fingerprint, CONTRAST])
        yield Entrant("truth and contrast", seed, identity, make, ("corrected",))
        make = functools.partial(_reader, scale, (seed, seed + 1), progress)
        yield Entrant("two networks", seed, f"{name} two readers", make, ("corrected",))


def _identity(scale):
    return runs.config_hash([TEACHER[scale], SIMULATED[scale]["n_patients"]])


def _encoder(scale, seed, progress):
    return teacher_run(scale, seed, progress).encoder


def _reader(scale, seeds, progress, real=None):
    return Reader([teacher_run(scale, seed, progress, real).method.eval() for seed in seeds])


def _simulated_simclr(scale, seed, progress):
    encoder = simulated_run(scale, seed, progress).encoder
    encoder.set_readout("concat")
    return encoder


@torch.no_grad()
def _real_statistics(train, scale, seed, progress, n_batches=30, batch_size=128):
    """The pupil's encoder with the batch statistics of real records: their signals, no labels."""
    encoder = copy.deepcopy(_encoder(scale, seed, progress)).train()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the batches
    signals, length = torch.from_numpy(np.array(train.signals)), round(2.5 * train.fs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_batches):
        rows, starts = (
            torch.randint(n, (batch_size,), generator=generator)
            for n in (len(signals), signals.shape[2] - length + 1)
        )
        encoder(crop(signals, rows, starts, length))
    return encoder.eval()


def run_beyond(cohort, scale, seeds, path, progress=True):
    """The chosen recipe, judged on fold 10. Chapter: *Beyond the papers*."""
    everyone = beyond_entrants(cohort, scale, seeds, alone(progress))
    options = _options(scale, BEYOND_SUBSETS[scale], ALL_LABELS)
    return _run(
        "beyond", _against_all_labels, everyone, cohort, scale, seeds, path, progress, options
    )


def run_attempts(cohort, scale, seeds, path, progress=True):
    """What was tried, on fold 9: metrics end on ``_fold9``, an attempt is method and protocol.

    Chapter: *Beyond the papers*.
    """
    everyone = attempts_entrants(cohort, scale, seeds, alone(progress))
    options = _options(scale, ATTEMPTS_SUBSETS[scale], REFERENCE)
    return _run(
        "attempts", _on_fold_9, everyone, cohort, scale, seeds, path, progress, options,
        attempts=ATTEMPTS, part="validation", n_validation_records=len(cohort.split()[1]),
    )  # fmt: skip


def _options(scale, subsets, reference):
    options = all_options(scale) | {"budgets": tuple(subsets), "subsets": subsets}
    del options["task"]  # the simulator's opinion is of the superclasses
    return options | {"reference": reference, "over": {"real": {TRUTH: REAL}}}


def _run(name, experiment, everyone, cohort, scale, seeds, path, progress, options, **more):
    return filled(
        name, experiment, list(everyone), cohort, scale, seeds, path, progress, options,
        settings=options, teacher=TEACHER[scale], hearts=SIMULATED[scale]["n_patients"],
        continued=CONTINUED, reservation=RESERVATION, **more,
        code=runs.definitions(
            augment, losses, metrics, recurrent, single_lead, xresnet, simclr, combined, finetune,
            probe, label_efficiency, recipe,
        ),
    )  # fmt: skip


def _against_all_labels(entrants, cohort, table, **options):
    """`recipe.recipe`, and how far the recipe is from networks from scratch.

    Metrics: ``macro_auc_gain`` over the best one, ``..._over_scratch`` over its own network,
    ``..._to_full`` and ``..._to_own_full`` from these two with all labels.
    """
    frame = recipe.recipe(entrants, cohort, table, **options)
    summary = frame[frame["seed"] == "all"].to_dict("records")
    test = cohort.split()[2]
    for other, name in ((ALL_LABELS, "full"), (REFERENCE, "own_full")):
        summary += recipe.against(table, test, TRUTH, other, f"macro_auc_to_{name}", 1.0)
    summary += recipe.against(table, test, TRUTH, REFERENCE, "macro_auc_over_scratch")
    table.replace_summary(summary)
    return table.read()


def _on_fold_9(entrants, cohort, table, **options):
    """`recipe.recipe` on fold 9, its summary under the names of `ATTEMPTS`."""
    frame = recipe.recipe(entrants, cohort, table, part="validation", **options)
    summary = frame[frame["seed"] == "all"].to_dict("records")
    test = cohort.split()[1]
    summary += recipe.against(table, test, TRUTH, REFERENCE, "macro_auc_to_own_full", 1.0)
    table.replace_summary(
        row | {
            "method": f"{row['method']}, {row['protocol']}", "task": "attempt",
            "metric": f"{row['metric']}_fold9",
        }
        for row in summary
    )  # fmt: skip
    return table.read()
