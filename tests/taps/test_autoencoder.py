"""Sparse autoencoders: planted features are found, dead ones revive, a killed training goes on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import qact
from qact.taps import Autoencoder, autoencode, features, fit_autoencoder, fit_of
from qact.taps.fitting import _Training


def planted(count=4000, atoms=24, channels=12, active=2, seed=0):
    """Values that are sums of a few of many directions, more than there are dimensions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(atoms, channels, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    which = torch.rand(count, atoms, generator=generator).topk(active, 1).indices
    strength = 1 + torch.rand(count, active, generator=generator)
    code = torch.zeros(count, atoms).scatter(1, which, strength)
    return code @ directions + 0.5, directions


def test_planted_directions_are_found():
    values, directions = planted()
    made = fit_autoencoder(values, 48, k=2, steps=500, rate=5e-3, dead_after=2000)
    likeness = (directions @ made.decoder.detach().T).amax(1)
    assert (likeness > 0.9).double().mean() > 0.8
    torch.testing.assert_close(made.decoder.norm(dim=1), torch.ones(48))
    z = made.encode(values)
    assert int((z != 0).sum(1).max()) <= 2
    fit = fit_of(made, values)
    assert fit.unexplained < 0.1
    left = (values - made(values).detach()).square().sum() / (
        values - values.mean(0)
    ).square().sum()
    assert fit.unexplained == pytest.approx(float(left), rel=1e-4)
    assert fit.dead == int((z == 0).all(0).sum())
    assert f"{fit.dead} of 48 dead" in str(fit)


def test_the_scale_of_the_data_does_not_matter():
    values = planted(500)[0]
    small, large = (fit_autoencoder(values * s, 24, k=2, steps=60) for s in (1.0, 1024.0))
    torch.testing.assert_close(large.decoder, small.decoder, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(large(values * 1024) / 1024, small(values), rtol=1e-2, atol=1e-2)


def test_both_halves_start_the_same_way():
    torch.manual_seed(0)
    made = Autoencoder(5, 9, k=3)
    assert made.encoder.weight.equal(made.decoder)
    x = torch.randn(4, 5)
    z = made.encode(x)
    by_hand = torch.relu(x @ made.decoder.T)
    kept = by_hand.topk(3, 1).indices
    torch.testing.assert_close(z, torch.zeros_like(z).scatter(1, kept, by_hand.gather(1, kept)))
    torch.testing.assert_close(made(x), z @ made.decoder)


def revived(weight):
    """How many of 16 features, of 24, fire that could not at the start."""
    values = planted()[0]
    run = _Training(values, 24, 2, seed=0, rate=1e-2)
    with torch.no_grad():  # <w, x> <= |x|, since |w| = 1: out of reach of every value
        run.made.encoder.bias[8:] = -(values / run.made.scale - run.made.center).norm(dim=1).max()
    for step in range(300):
        index = torch.randint(len(values), (256,), generator=torch.Generator().manual_seed(step))
        dead = int((run.made.unused >= 1000).sum())
        progress = run.step(step, values[index], 6, weight, 1000)
        assert (progress.step, progress.dead) == (step, dead)
    return int((fit_of(run.made, values).density[8:] > 0).sum())


def test_dead_features_revive_by_the_auxiliary_loss():
    assert revived(0.0) == 0
    assert revived(1 / 32) >= 8


SCRIPT = """
import os, signal, sys, torch
from qact.taps import fit_autoencoder
torch.set_num_threads(int(sys.argv[2]))
values = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
def told(progress):
    if progress.step == 23:
        os.kill(os.getpid(), signal.SIGKILL)
fit_autoencoder(values, 16, k=2, steps=40, batch=32, dead_after=200, every=7,
                checkpoint=sys.argv[1], told=told)
"""


@pytest.mark.own_seed  # that of another process
def test_killed_and_resumed_it_ends_at_the_same_bits(tmp_path):
    pytest.importorskip("safetensors")
    values = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    options = {"k": 2, "steps": 40, "batch": 32, "dead_after": 200}
    whole = fit_autoencoder(values, 16, **options)
    file = tmp_path / "state.safetensors"
    threads = str(torch.get_num_threads())
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(file), threads], check=False)
    assert killed.returncode == -signal.SIGKILL
    steps: list[int] = []
    resumed = fit_autoencoder(
        values, 16, **options, checkpoint=file, told=lambda progress: steps.append(progress.step)
    )
    assert steps == list(range(21, 40))
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name
    again = fit_autoencoder(values, 16, **options, checkpoint=file, told=steps.append)
    assert again.decoder.equal(whole.decoder)
    assert len(steps) == 19
    with pytest.raises(ValueError, match="of another training"):
        fit_autoencoder(values, 16, **{**options, "k": 3}, checkpoint=file)
    with pytest.raises(ValueError, match="of another training"):
        fit_autoencoder(values + 1, 16, **options, checkpoint=file)


class Tokens(nn.Module):
    """Images as rows of four tokens."""

    def __init__(self):
        super().__init__()
        self.inside, self.head = nn.Linear(9, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.inside(x.reshape(len(x), 4, 9)).relu().mean(1))


def test_maps_by_position_and_tokens():
    torch.manual_seed(0)
    x = torch.randn(40, 1, 6, 6)
    conv = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))
    made = autoencode(conv, "1", x, 8, k=2, steps=30)
    maps = conv[:2](x).movedim(1, -1)
    by_hand = fit_autoencoder(maps.reshape(-1, 5), 8, k=2, steps=30)
    assert made.decoder.equal(by_hand.decoder)
    assert made.where == "1"
    with qact.tap(conv, "1").change(made, last=True):
        torch.testing.assert_close(conv(x), conv[2:](made(maps).movedim(-1, 1)))
    net = Tokens()
    made = autoencode(net, "inside", x.split(16), 8, k=2, steps=30, sample=2)
    assert made(net.inside(x.reshape(40, 4, 9))).shape == (40, 4, 5)


def test_features_are_named_by_what_activates_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x, labels = torch.randn(50, 1, 6, 6), torch.arange(50) % 3
    made = autoencode(net, "1", x, 12, k=2, steps=40)
    found = features(made, net, x.split(16), labels=labels, top=5)
    z = made.encode(net[:2](x).movedim(1, -1).flatten(1, 2)).detach()
    assert [feature.index for feature in found] == list(range(12))
    for feature in found:
        mine = z[:, :, feature.index]
        assert feature.density == pytest.approx(float((mine > 0).double().mean()))
        best = mine.amax(1).sort(descending=True, stable=True)
        expected = best.indices[best.values > 0][:5].tolist()
        assert list(feature.inputs) == expected
        assert feature.labels == tuple(labels[expected].tolist())
        for i, position, value in zip(
            feature.inputs, feature.positions, feature.values, strict=True
        ):
            assert float(mine[i, position]) == pytest.approx(value, abs=1e-5)
    fired = next(f for f in found if f.inputs)
    assert all(f"{label} (" in fired.name for label in fired.labels)
    assert features(made, net, x)[fired.index].name.startswith(f"inputs {fired.inputs[0]}")
    assert {f.name for f in found if not f.inputs} <= {"dead"}


def test_files_and_refusals(tmp_path):
    pytest.importorskip("safetensors")
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), torch.randn(30, 4)
    made = autoencode(net, "0", x, 8, k=2, steps=3)
    made.save(tmp_path / "made.safetensors")
    loaded = Autoencoder.load(tmp_path / "made.safetensors", net)
    assert loaded(torch.ones(1, 6)).equal(made(torch.ones(1, 6)))
    assert (loaded.where, loaded.k, loaded.fingerprint) == ("0", 2, made.fingerprint)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(ValueError, match="its weights are others"):
        Autoencoder.load(tmp_path / "made.safetensors", net)
    with pytest.raises(ValueError, match="its weights are others"):
        features(made, net, x)
    with pytest.raises(ValueError, match="trained on no place"):
        features(Autoencoder(6, 8, 2), net, x)
    with pytest.raises(ValueError, match="latents=2 must be at least k=3"):
        Autoencoder(4, 2, 3)
    with pytest.raises(ValueError, match="values hold nan"):
        fit_autoencoder(torch.tensor([[1.0], [torch.nan]]), 4)
    with pytest.raises(ValueError, match="all values are the same"):
        fit_autoencoder(torch.ones(5, 2), 8)
    with pytest.raises(ValueError, match="several places"):
        autoencode(net, nn.Linear, x, 8)
    with pytest.raises(ValueError, match=r"must be \(\.\.\., C\)"):
        fit_autoencoder(torch.ones(5), 8)
