import numpy as np
import pytest
import torch

from ecgtutorial.encoders.single_lead import SingleLeadCNN, default_strides, parameter_count
from ecgtutorial.losses import patient_contrastive
from ecgtutorial.methods import Batch
from ecgtutorial.methods.simclr import SimCLR
from ecgtutorial.methods.three_kg import ThreeKG


@pytest.fixture
def batch():
    signals = torch.randn(6, 12, 500, generator=torch.Generator().manual_seed(0))
    return Batch(signals, torch.arange(6), torch.tensor([0, 1, 2, 2, 3, 4]))


def test_the_encoder_has_the_papers_150784_parameters():
    assert parameter_count(SingleLeadCNN()) == 150_784
    assert parameter_count(SingleLeadCNN(strides=default_strides(100))) == 150_784


def test_the_encoder_at_the_papers_rate():
    encoder = SingleLeadCNN(strides=default_strides(500))
    signals = torch.randn(2, 12, 2500)
    assert encoder(signals).shape == (2, 256)
    assert encoder.tokens(signals).shape == (2, 105, 256)  # one feature every 48 ms
    assert encoder.leads(signals).shape == (2, 12, 256)


def test_the_mean_readout_forgets_which_lead_is_which(batch):
    encoder = SingleLeadCNN().eval()
    shuffled = batch.signals[:, torch.randperm(12)]
    np.testing.assert_allclose(
        encoder(batch.signals).detach(), encoder(shuffled).detach(), atol=1e-5
    )
    concat = SingleLeadCNN(readout="concat").eval()
    assert concat(batch.signals).shape == (6, 3072)
    assert not torch.allclose(concat(batch.signals), concat(shuffled))


def test_simcg_l_is_the_loss_of_24_embeddings_a_record(batch):
    method = ThreeKG(rotation=0, scaling=1, mask=0, heart_vector=False)
    loss, _ = method.loss(batch)
    leads = method.projector(method.encoder.leads(batch.signals.repeat(2, 1, 1)))
    rows = leads.reshape(-1, 128)
    record = torch.arange(6).repeat(2).repeat_interleave(12)
    assert ((record[:, None] == record).sum() - len(record)) / 2 == 6 * 276  # pairs of paper D
    expected = patient_contrastive(rows, record, batch.patient[record])
    np.testing.assert_allclose(loss.detach(), expected.detach(), rtol=1e-4)


def test_simcg_a_has_one_pair_a_record(batch):
    method = ThreeKG(variant="A", rotation=0, scaling=1, mask=0, heart_vector=False)
    torch.manual_seed(0)
    loss, _ = method.loss(batch)
    assert torch.isfinite(loss)
    leads = torch.nn.functional.normalize(
        method.projector(method.encoder.leads(batch.signals)), dim=-1
    )
    rows = leads.mean(dim=1).repeat(2, 1)
    record = torch.arange(6).repeat(2)
    expected = patient_contrastive(rows, record, batch.patient[record])
    np.testing.assert_allclose(loss.detach(), expected.detach(), atol=0.02)


@pytest.mark.parametrize("method", [ThreeKG(variant="L"), ThreeKG(variant="A"), SimCLR()])
def test_every_weight_gets_a_gradient(batch, method):
    loss, parts = method.loss(batch)
    loss.backward()
    assert parts == {}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


def test_two_records_of_one_patient_alone_cannot_be_contrasted(batch):
    alike = Batch(batch.signals[2:4], batch.record[2:4], batch.patient[2:4])
    with pytest.raises(ValueError, match="one patient"):
        ThreeKG().loss(alike)


def test_bad_arguments():
    with pytest.raises(ValueError, match="variant is 'B'"):
        ThreeKG(variant="B")
    with pytest.raises(ValueError, match="readout is 'sum'"):
        SingleLeadCNN(readout="sum")
    with pytest.raises(ValueError, match=r"expected \(batch, 12, time\)"):
        SingleLeadCNN()(torch.randn(2, 8, 500))
