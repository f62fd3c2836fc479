"""Each method learns something on a small cohort that a random encoder does not know."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from ecgtutorial import open_cohort
from ecgtutorial.augment import crop
from ecgtutorial.evaluate.windows import embed
from ecgtutorial.methods.byol import BYOL
from ecgtutorial.methods.cpc import CPC
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.swav import SwAV
from ecgtutorial.methods.three_kg import ThreeKG
from ecgtutorial.pretrain import pretrain


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Records to train on, and records of other patients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGTUTORIAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        cohort = open_cohort("simulated", n_patients=96, seed=3)
        fold = cohort.table["fold"]
        yield cohort.select(fold <= 5), cohort.select(fold > 5)


def trained(make, train, **more):
    """A method after a few seconds of training, and its encoder before."""
    torch.manual_seed(1)
    method = make()
    untrained = copy.deepcopy(method.encoder)
    log = pretrain(method, train, batch_size=24, lr=2e-3, progress=False, **more)
    assert log["loss"].iloc[-5:].mean() < log["loss"].iloc[:5].mean()
    return method, untrained


@torch.no_grad()
def found_again(method, encoder, signals):
    """Share of records whose one view is nearest to their own other view, of all records."""
    torch.manual_seed(1)
    encoder.eval()
    shares = []
    for _ in range(4):
        views = [encoder(method.view(signals)) for _ in range(2)]
        views = [torch.nn.functional.normalize(v - v.mean(dim=0), dim=1) for v in views]
        nearest = (views[0] @ views[1].T).argmax(dim=1)
        shares.append((nearest == torch.arange(len(signals))).float().mean().item())
    return np.mean(shares)


@pytest.mark.parametrize(
    "make, epochs",
    [
        (lambda: ThreeKG(variant="A", seconds=2.5), 14),
        (lambda: ThreeKG(variant="L", seconds=2.5), 14),
        (lambda: SimCLR(encoder="xresnet1d50-small"), 12),
        (lambda: BYOL(momentum=0.95, features=64), 20),
        (lambda: SwAV(n_views=4, prototypes=30, queue=48, queue_from=5), 12),
    ],
    ids=["3kg-a", "3kg-l", "simclr", "byol", "swav"],
)
def test_records_not_trained_on_are_found_again_more_often(cohorts, make, epochs):
    train, unseen = cohorts
    method, untrained = trained(make, train, epochs=epochs)
    rows = torch.arange(len(unseen))
    signals = crop(torch.from_numpy(unseen.signals.copy()), rows, 0 * rows, 250)
    before, after = (found_again(method, e, signals) for e in (untrained, method.encoder))
    assert after > before + 0.08, f"found again: {before:.2f} before training, {after:.2f} after"


def heart_rate_told(encoder, train, unseen):
    """Correlation of the true heart rate with what a linear layer reads off the encoder."""
    seen, new = (embed(encoder, cohort, 2.5).numpy() for cohort in (train, unseen))
    mean, deviation = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    layer = RidgeCV(np.logspace(0, 5, 11))
    layer.fit((seen - mean) / deviation, train.table["heart_rate"])
    told = layer.predict((new - mean) / deviation)
    return np.corrcoef(told, unseen.table["heart_rate"])[0, 1]


def test_who_foretells_the_next_moment_knows_the_heart_rate(cohorts):
    method, untrained = trained(CPC, cohorts[0], epochs=12)
    before, after = (heart_rate_told(e, *cohorts) for e in (untrained, method.encoder))
    assert after > before + 0.2, f"correlation {before:.2f} before training, {after:.2f} after"
