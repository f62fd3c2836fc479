import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecgtutorial import augment
from ecgtutorial.cohort import Cohort
from ecgtutorial.encoders.single_lead import SingleLeadCNN
from ecgtutorial.evaluate import finetune, windows
from ecgtutorial.evaluate.finetune import Classifier, fine_tune, predict
from ecgtutorial.evaluate.windows import embed, over_windows, window_starts
from ecgtutorial.metrics import macro_auc


class Mean(torch.nn.Module):
    def forward(self, signals):
        return signals.mean(dim=2)


def tones(n=60, seed=0):
    """A cohort in which a class is a rhythm: 3 Hz or 7 Hz in all leads, and noise."""
    generator = np.random.default_rng(seed)
    label = np.arange(n) % 2
    time = np.arange(300) / 100
    phase = generator.uniform(0, 6, (n, 1))
    wave = np.sin(2 * np.pi * np.where(label, 7, 3)[:, None] * time + phase)
    signals = 300 * wave[:, None] + generator.normal(0, 100, (n, 12, 300))
    table = pd.DataFrame({"record_id": range(n), "patient_id": range(n)})
    labels = pd.DataFrame({"slow": 1 - label, "fast": label}, dtype=np.uint8)
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


class Layers(nn.Module):
    """Three layers of convolution and batch normalisation, that say how they are used."""

    width = 8

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(before, 8, 5), nn.BatchNorm1d(8)) for before in (12, 8, 8)
        )
        self.seen = []

    def __deepcopy__(self, memo):  # the copy that is trained writes in the same list
        twin = Layers()
        twin.load_state_dict(self.state_dict())
        twin.seen = self.seen
        return twin

    def forward(self, signals):
        weight = self.layers[0][0].weight
        self.seen.append((self.training, weight.requires_grad, weight.detach().clone()))
        for layer in self.layers:
            signals = torch.tanh(layer(signals))
        return signals.mean(dim=2)

    def layer_groups(self):
        return [list(layer.parameters()) for layer in self.layers]


class Recurrent(nn.Module):
    width = 16

    def __init__(self):
        super().__init__()
        self.local = nn.Sequential(nn.Conv1d(12, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.lstm = nn.LSTM(16, 16, num_layers=2, batch_first=True)

    def forward(self, signals):
        return self.lstm(self.local(signals).transpose(1, 2))[0].mean(dim=1)

    def layer_groups(self):
        return [list(self.local.parameters()), list(self.lstm.parameters())]


def test_window_starts_cover_the_record():
    assert window_starts(1000, 250) == [0, 250, 500, 750]
    assert window_starts(1000, 250, overlap=0.5) == list(range(0, 751, 125))
    assert window_starts(1000, 300) == [0, 300, 600, 700]  # the last is flush with the end
    assert window_starts(250, 250) == [0]
    with pytest.raises(ValueError, match="300 samples do not fit records of 250"):
        window_starts(250, 300)
    with pytest.raises(ValueError, match="overlap is 1"):
        window_starts(250, 100, overlap=1)


def test_windows_are_averaged_per_record_in_millivolts():
    cohort = tones(7)
    found = over_windows(Mean(), cohort, 1.0, batch_size=3)
    np.testing.assert_allclose(found, cohort.millivolts().mean(axis=2), atol=1e-4)


def test_embedding_a_record_does_not_depend_on_its_neighbours():
    cohort, encoder = tones(6), SingleLeadCNN()
    together = embed(encoder, cohort, 1.5)
    alone = embed(encoder, cohort.select([4]), 1.5)
    np.testing.assert_allclose(together[4:5], alone, atol=1e-3)
    assert together.shape == (6, 256)


def test_fine_tuning_learns_repeats_and_leaves_the_encoder_alone():
    train, test = tones(60), tones(40, seed=1)
    torch.manual_seed(0)
    encoder = SingleLeadCNN()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    models = [
        fine_tune(encoder, train, train.labels, seconds=1.0, min_steps=25, epochs=1, batch_size=16)
        for _ in range(2)
    ]
    scores = [predict(model, test, 1.0) for model in models]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert macro_auc(test.labels, scores[0]) > 0.95
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_every_training_crop_is_masked_and_no_test_window(monkeypatch):
    masked = []

    def record(signals, fraction):
        masked.append((tuple(signals.shape), fraction))
        return signals

    monkeypatch.setattr(finetune, "time_mask", record)
    cohort = tones(8)
    model = fine_tune(
        SingleLeadCNN(), cohort, cohort.labels, seconds=1.0, min_steps=3, epochs=1, batch_size=4,
        mask=0.25,
    )  # fmt: skip
    predict(model, cohort, 1.0)
    assert masked == [((4, 12, 100), 0.25)] * 3


def test_targets_must_fit():
    cohort = tones(8)
    with pytest.raises(ValueError, match="5 target rows for 8 records"):
        fine_tune(SingleLeadCNN(), cohort, cohort.labels[:5], seconds=1.0)


def plain_fine_tune(encoder, cohort, targets, length, steps, batch_size, precision):
    """The recipe without layer-wise rates and gradual start, in one piece."""
    targets = torch.tensor(np.asarray(targets), dtype=torch.float32)
    signals = torch.from_numpy(np.array(cohort.signals))
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Classifier(copy.deepcopy(encoder), targets.shape[1]).train()
        head = [*model.norm.parameters(), *model.head.parameters()]
        groups = [
            {"params": list(model.encoder.parameters()), "peak": 3e-3},
            {"params": head, "peak": 5e-4},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
        for step in range(steps):
            rise = 0.1 * steps
            share = (step + 1) / (rise + 1)
            if step >= rise:
                share = 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            rows = torch.randint(len(cohort), (batch_size,), generator=generator)
            starts = torch.randint(300 - length + 1, (batch_size,), generator=generator)
            batch = augment.time_mask(augment.crop(signals, rows, starts, length), 0.3)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision):
                logits = model(batch)
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("precision", [False, True])
def test_the_defaults_are_the_plain_recipe_bit_for_bit(monkeypatch, precision):
    monkeypatch.setattr(finetune, "has_bfloat16", lambda device: precision)
    cohort = tones(12)
    torch.manual_seed(0)
    encoder = SingleLeadCNN()
    plain = plain_fine_tune(encoder, cohort, cohort.labels, 100, 12, 4, precision)
    found = fine_tune(
        encoder, cohort, cohort.labels, seconds=1.0, min_steps=12, epochs=1, batch_size=4, seed=3
    )
    assert plain.head.weight.abs().min() > 0
    for name, value in plain.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_each_layer_learns_at_its_rate():
    """Adam's first step is the rate itself, whatever the gradient: the change of a weight says it.

    The head starts at zero and goes first, else the encoder's first gradient would be none.
    """
    cohort = tones(16)
    torch.manual_seed(0)
    encoder = Layers()
    model = fine_tune(
        encoder, cohort, cohort.labels, seconds=1.0, min_steps=2, epochs=0, batch_size=8,
        encoder_lr=1e-2, weight_decay=0.0, layer_decay=0.25, head_share=0.5, mask=0.0,
    )  # fmt: skip
    warm_up = 1 / 1.1  # the first and only step of the encoder
    for above, layer in enumerate(reversed(range(3))):
        before, after = (e.layers[layer][0].weight for e in (encoder, model.encoder))
        change = (after - before).abs().median().item()
        assert math.isclose(change, warm_up * 1e-2 * 0.25**above, rel_tol=0.01)


def test_layer_decay_needs_the_encoders_layers(monkeypatch):
    cohort, options = tones(8), {"seconds": 1.0, "min_steps": 1, "epochs": 0, "batch_size": 4}
    with pytest.raises(ValueError, match=r"layer_decay is 0.5: Mean has no layer_groups\(\)"):
        encoder = Mean()
        encoder.width = 12
        fine_tune(encoder, cohort, cohort.labels, layer_decay=0.5, **options)
    monkeypatch.setattr(Layers, "layer_groups", lambda self: [list(self.layers[0].parameters())])
    with pytest.raises(ValueError, match="has 4 parameters: expected each of the encoder's 12"):
        fine_tune(Layers(), cohort, cohort.labels, layer_decay=0.5, **options)


def test_the_head_goes_first_and_the_encoder_waits_untouched():
    cohort, encoder = tones(16), Layers()
    model = fine_tune(
        encoder, cohort, cohort.labels, seconds=1.0, min_steps=10, epochs=0, batch_size=8,
        head_share=0.4,
    )  # fmt: skip
    training, learns, weight = zip(*encoder.seen)
    assert training == learns == (False,) * 4 + (True,) * 6
    moved = [not torch.equal(a, b) for a, b in zip(weight, weight[1:])]
    assert moved == [False] * 4 + [True] * 5
    assert model.encoder.layers[0][1].num_batches_tracked == 6
    assert all(p.requires_grad for p in model.parameters()) and not model.training


def test_the_head_alone_leaves_everything_of_the_encoder():
    cohort, encoder = tones(16), Layers()
    options = {"seconds": 1.0, "min_steps": 6, "epochs": 0, "batch_size": 8, "head_share": 1.0}
    model = fine_tune(encoder, cohort, cohort.labels, **options)
    for name, value in encoder.state_dict().items():  # statistics and their counter, too
        assert torch.equal(value, model.encoder.state_dict()[name]), name
    assert model.head.weight.abs().min() > 0
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="head_share is 1.5"):
        fine_tune(encoder, cohort, cohort.labels, **{**options, "head_share": 1.5})


def test_views_replace_the_mask(monkeypatch):
    seen = []

    def apply(signals, views, fs=100, generator=None):
        seen.append((tuple(signals.shape), views, fs))
        return signals

    monkeypatch.setattr(augment, "apply", apply, raising=False)
    monkeypatch.setattr(finetune, "time_mask", None)  # would fail if called
    cohort, views = tones(8), {"time_out": {"low": 0.1}}
    fine_tune(
        Layers(), cohort, cohort.labels, seconds=1.0, min_steps=3, epochs=0, batch_size=4,
        views=views,
    )  # fmt: skip
    assert seen == [((4, 12, 100), views, 100)] * 3


def test_fine_tuning_through_views_learns():
    train, test = tones(60), tones(40, seed=1)
    torch.manual_seed(0)
    model = fine_tune(
        SingleLeadCNN(), train, train.labels, seconds=1.0, min_steps=25, epochs=1, batch_size=16,
        views={"time_out": {}},
    )  # fmt: skip
    assert macro_auc(test.labels, predict(model, test, 1.0)) > 0.95


@pytest.mark.parametrize("precision", [False, True])
def test_recurrent_encoders_are_fine_tuned_and_read(monkeypatch, precision):
    for module in (finetune, windows):
        monkeypatch.setattr(module, "has_bfloat16", lambda device: precision)
    train, test = tones(60), tones(40, seed=1)
    torch.manual_seed(0)
    model = fine_tune(
        Recurrent(), train, train.labels, seconds=1.0, min_steps=60, epochs=1, batch_size=16,
        layer_decay=0.5, head_share=0.2, encoder_lr=1e-2,
    )  # fmt: skip
    assert macro_auc(test.labels, predict(model, test, 1.0, overlap=0.5)) > 0.95


def test_overlapping_windows_of_an_embedding():
    cohort = tones(5)
    found = embed(Mean(), cohort, 1.0, overlap=0.5).numpy()  # from 0, 0.5, 1, 1.5 and 2 s
    cut = np.stack([cohort.millivolts()[:, :, s : s + 100] for s in range(0, 201, 50)])
    np.testing.assert_allclose(found, cut.mean(axis=(0, 3)), atol=1e-4)
    assert np.abs(found - embed(Mean(), cohort, 1.0).numpy()).max() > 1e-3
