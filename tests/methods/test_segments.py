import copy

import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial import open_cohort
from ecgtutorial.cohort import Cohort
from ecgtutorial.methods import Batch
from ecgtutorial.methods.segments import POSITIVES, SegmentContrast, paired
from ecgtutorial.methods.three_kg import ThreeKG
from ecgtutorial.pretrain import pretrain


@pytest.fixture
def batch():
    signals = torch.randn(5, 12, 400, generator=torch.Generator().manual_seed(0))
    return Batch(signals, torch.arange(5), torch.tensor([0, 1, 2, 2, 3]))


def made(positives, **more):
    """Segments of 2 s; in a paired record of 4 s each half is one, with no room to move."""
    return SegmentContrast(positives=positives, seconds=2.0, record_seconds=4.0, **more)


def slow(method, batch):
    """The loss pair by pair, from the definition of the positives."""
    n, kind = len(batch.record), method.positives
    halves = [batch.signals[..., :200], batch.signals[..., 200:]]
    views = [batch.signals] if kind == "leads" else halves
    embedded = method.projector(method.encoder.leads(torch.cat(views)))  # together: batch norm
    embedded = torch.nn.functional.normalize(embedded, dim=-1)  # (view x batch, lead, 128)
    rows = []  # embedding, whose it is a positive of, patient
    for number, leads in enumerate(embedded):
        person = batch.patient[number % n].item()
        group = person if kind == "patients" else batch.record[number % n].item()
        if kind in ("segments", "patients"):
            leads = torch.nn.functional.normalize(leads.mean(dim=0), dim=0)[None]
        rows += [(lead, group, person) for lead in leads]
    z = torch.stack([row[0] for row in rows])
    exponent = (z @ z.T / 0.1).detach().double().numpy()
    errors = []
    for i, (_, group, person) in enumerate(rows):
        negatives = sum(np.exp(exponent[i, k]) for k, r in enumerate(rows) if r[2] != person)
        errors += [
            np.log(negatives) - exponent[i, j]
            for j, r in enumerate(rows)
            if j != i and r[1] == group
        ]
    return np.mean(errors), len(errors)


@pytest.mark.parametrize(
    "positives, pairs",
    [("segments", 5 * 2), ("leads", 5 * 12 * 11), ("both", 5 * 24 * 23), ("patients", 3 * 2 + 12)],
)
def test_the_loss_is_that_of_a_slow_loop_over_the_pairs(batch, positives, pairs):
    method = made(positives)
    expected, n_pairs = slow(method, batch)
    assert n_pairs == pairs
    np.testing.assert_allclose(method.loss(batch)[0].item(), expected, rtol=1e-4)


@pytest.mark.parametrize("positives, per_record", list(zip(POSITIVES, (2, 12, 24, 2))))
def test_embeddings_that_are_all_equal_cost_the_log_of_the_number_of_negatives(
    batch, positives, per_record
):
    method = made(positives)
    torch.nn.init.zeros_(method.projector[2].weight)  # leaves the bias: one vector for all
    signals = Batch(batch.signals[:4], torch.arange(4), torch.arange(4))
    expected = np.log(3 * per_record)
    np.testing.assert_allclose(method.loss(signals)[0].item(), expected, rtol=1e-5)


@pytest.mark.parametrize("positives", POSITIVES)
def test_every_weight_gets_a_gradient(batch, positives):
    method = made(positives)
    loss, parts = method.loss(batch)
    loss.backward()
    assert parts == {}
    for parameter in method.parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "positives, seconds, n_segments",
    [("segments", 5.0, 2), ("leads", 2.5, 1), ("both", 5.0, 2), ("patients", 10.0, 2)],
)
def test_how_long_a_crop_each_wants(positives, seconds, n_segments):
    method = SegmentContrast(fs=100, positives=positives)
    assert method.seconds == seconds
    cut = method.segments(torch.randn(3, 12, round(100 * seconds)))
    assert [part.shape for part in cut] == n_segments * [(3, 12, 250)]


def test_neighbouring_segments_touch(batch):
    first, second = made("segments").segments(batch.signals)
    assert torch.equal(torch.cat([first, second], dim=2), batch.signals)


def test_the_moments_of_a_pair_lie_anywhere_in_their_own_half():
    time = torch.arange(1000.0).expand(64, 12, -1)
    method = SegmentContrast(positives="patients")
    torch.manual_seed(0)
    first, second = method.segments(time)
    assert (first.diff(dim=2) == 1).all() and (second.diff(dim=2) == 1).all()
    assert (first == first[:, :1]).all()  # the leads of a record stay together
    starts = first[:, 0, 0], second[:, 0, 0] - 500
    for start in starts:
        assert start.min() >= 0 and start.max() <= 250 and start.unique().numel() > 30
    assert not torch.equal(*starts)


def test_weights_begin_as_those_of_3kg():
    methods = []
    for make in (ThreeKG, SegmentContrast):
        torch.manual_seed(4)
        methods.append(make(fs=100).state_dict())
    assert methods[0].keys() == methods[1].keys()
    assert all(torch.equal(methods[0][name], methods[1][name]) for name in methods[0])


@pytest.mark.parametrize("positives", ["segments", "patients"])
def test_an_encoder_that_reads_all_leads_has_one_embedding_a_segment(batch, positives):
    loss, _ = made(positives, encoder="xresnet1d50-small").loss(batch)
    assert torch.isfinite(loss)


def test_bad_arguments_are_named(batch):
    with pytest.raises(ValueError, match="positives is 'lead': expected one of segments, leads"):
        SegmentContrast(positives="lead")
    for positives in ("leads", "both"):
        with pytest.raises(ValueError, match="no lead embeddings.*need encoder='single-lead'"):
            SegmentContrast(positives=positives, encoder="xresnet1d50-small")
    with pytest.raises(ValueError, match="seconds is 6.0: a half of a paired record of 10.0 s"):
        SegmentContrast(positives="patients", seconds=6.0)
    with pytest.raises(ValueError, match="signals of 400 samples: 'segments' need crops of 5.0 s"):
        SegmentContrast().loss(batch)
    alike = Batch(batch.signals[2:4], batch.record[2:4], batch.patient[2:4])
    with pytest.raises(ValueError, match="one patient"):
        made("patients").loss(alike)


# --- pairs of recordings ------------------------------------------------------------------------


def numbered(patients):
    """Records whose samples all hold their own number."""
    signals = np.repeat(np.arange(len(patients), dtype=np.int16), 12 * 7).reshape(-1, 12, 7)
    table = pd.DataFrame({"patient_id": patients, "fold": 1})
    table["record_id"] = [f"r{i}" for i in range(len(table))]
    return Cohort(signals, table, pd.DataFrame({"MI": np.arange(len(table)) % 2}), 100, "few")


def test_every_record_is_once_the_first_and_once_the_second_of_a_pair():
    cohort = numbered(["b", "a", "b", "c", "b"])
    pairs = paired(cohort)
    assert pairs.signals.shape == cohort.signals.shape
    assert (pairs.signals[:, :, :3] == np.arange(5)[:, None, None]).all()
    assert pairs.signals[:, 0, 3:].tolist() == [4 * [i] for i in (2, 1, 4, 3, 0)]
    assert (pairs.signals == pairs.signals[:, :1]).all()
    assert pairs.table["partner"].tolist() == ["r2", "r1", "r4", "r3", "r0"]
    assert pairs.table.drop(columns="partner").equals(cohort.table)
    assert pairs.labels.equals(cohort.labels) and pairs.fs == 100
    assert (cohort.signals == np.arange(5)[:, None, None]).all(), "the cohort has changed"


def test_a_selection_is_paired_within_itself():
    cohort = numbered(["b", "a", "b", "c", "b"]).select([4, 1, 2])
    assert paired(cohort).signals[:, 0, [0, -1]].tolist() == [[4, 2], [1, 1], [2, 4]]


# --- learning -----------------------------------------------------------------------------------


@torch.no_grad()
def found_again(method, encoder, cohort):
    """Share of records whose first segment is nearest to their own second one, of all records."""
    signals = torch.from_numpy(cohort.millivolts()[..., :500].copy())
    parts = [encoder.eval()(part) for part in method.segments(signals)]
    parts = [torch.nn.functional.normalize(p - p.mean(dim=0), dim=1) for p in parts]
    nearest = (parts[0] @ parts[1].T).argmax(dim=1)
    return (nearest == torch.arange(len(signals))).float().mean().item()


def test_segments_of_records_not_trained_on_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGTUTORIAL_CACHE", str(tmp_path))
    cohort = open_cohort("simulated", n_patients=96, seed=3)
    fold = cohort.table["fold"]
    train, unseen = cohort.select(fold <= 5), cohort.select(fold > 5)
    torch.manual_seed(1)
    method = SegmentContrast(positives="segments")
    untrained = copy.deepcopy(method.encoder)
    log = pretrain(method, train, batch_size=24, lr=2e-3, epochs=12, progress=False)
    assert log["loss"].iloc[-5:].mean() < log["loss"].iloc[:5].mean() - 1
    before, after = (found_again(method, e, unseen) for e in (untrained, method.encoder))
    assert after > before + 0.1, f"found again: {before:.2f} before training, {after:.2f} after"


def test_pairs_train_through_the_one_loop(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGTUTORIAL_CACHE", str(tmp_path))
    cohort = paired(open_cohort("simulated", n_patients=24, seed=3))
    method = SegmentContrast(positives="patients")
    log = pretrain(method, cohort, batch_size=12, epochs=2, progress=False)
    assert np.isfinite(log["loss"]).all()
