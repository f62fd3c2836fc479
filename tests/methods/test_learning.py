"""Each method learns something on a small cohort that a random encoder does not know."""

import copy

import pytest
import torch

from ecgtutorial import open_cohort
from ecgtutorial.augment import crop
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.three_kg import ThreeKG
from ecgtutorial.pretrain import pretrain


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGTUTORIAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_cohort("simulated", n_patients=96, seed=3)


@torch.no_grad()
def found_again(method, encoder, signals):
    """Share of records whose one view is nearest to their own other view, of all records."""
    torch.manual_seed(1)
    encoder.eval()
    views = [encoder(method.view(signals)) for _ in range(2)]
    views = [torch.nn.functional.normalize(v - v.mean(dim=0), dim=1) for v in views]
    nearest = (views[0] @ views[1].T).argmax(dim=1)
    return (nearest == torch.arange(len(signals))).float().mean().item()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThreeKG(variant="A", seconds=2.5),
        lambda: ThreeKG(variant="L", seconds=2.5),
        lambda: SimCLR(seconds=2.5),
    ],
    ids=["3kg-a", "3kg-l", "simclr"],
)
def test_records_not_trained_on_are_found_again_more_often(cohort, make):
    fold = cohort.table["fold"]
    train, unseen = cohort.select(fold <= 5), cohort.select(fold > 5)
    torch.manual_seed(0)
    method = make()
    untrained = copy.deepcopy(method.encoder)
    log = pretrain(method, train, epochs=30, batch_size=24, lr=2e-3, progress=False)
    assert log["loss"].iloc[-5:].mean() < log["loss"].iloc[:5].mean()
    rows = torch.arange(len(unseen))
    signals = crop(torch.from_numpy(unseen.signals.copy()), rows, 0 * rows, 250)
    before, after = (found_again(method, e, signals) for e in (untrained, method.encoder))
    assert after > before + 0.08, f"found again: {before:.2f} before training, {after:.2f} after"
