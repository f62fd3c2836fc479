import pytest
import torch

from ecgtutorial import encoders
from ecgtutorial.encoders.recurrent import LEAD_STD, RecurrentEncoder
from ecgtutorial.leads import LEADS
from ecgtutorial.methods.cpc import CPC

# name -> samples a token, and the samples around `token x stride` that its convolutions see
REACH = {"cpc": (1, 0, 0), "cpc-strided": (16, -18, 33), "cpc-small": (4, -3, 6)}


@pytest.mark.parametrize("name", REACH)
def test_the_past_is_remembered_and_the_future_is_not_seen(name):
    torch.manual_seed(0)
    encoder = encoders.build(name).eval()
    stride, first, last = REACH[name]
    assert encoder.stride == stride
    signals = 0.3 * torch.randn(1, 12, 400)
    moment = 161
    changed = signals.clone()
    changed[..., moment] += 1
    with torch.no_grad():
        local = (encoder.local(signals) != encoder.local(changed)).any(dim=2)[0]
        context = (encoder.tokens(signals) != encoder.tokens(changed)).any(dim=2)[0]
    token = torch.arange(len(local)) * stride
    sees = (token + first <= moment) & (moment <= token + last)
    assert torch.equal(local, sees)
    assert torch.equal(context, token + last >= moment)  # carried on from then


def test_the_moment_to_guess_shares_no_sample_with_what_was_seen():
    for name in ("cpc", "cpc-small"):
        stride, first, last = REACH[name]
        assert CPC(encoder=name).ahead[0] * stride + first > last


def test_each_lead_has_its_own_deviation():
    assert LEAD_STD[LEADS.index("V2")] == 0.338 and LEAD_STD[LEADS.index("aVR")] == 0.140
    assert LEAD_STD[LEADS.index("III")] == 0.171
    for n_leads, scale in ((12, LEAD_STD), (2, (1.0, 1.0))):
        encoder = RecurrentEncoder(n_leads=n_leads, channels=4, hidden=4)
        assert torch.equal(encoder.scale[:, 0], torch.tensor(scale))
        assert "scale" not in encoder.state_dict()
