"""`RecordContexts`: contexts are in every checkpoint, and a checkpoint with them loads strictly."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import qact
from qact.recalibrate import attach

pytest.importorskip("lightning")


@pytest.fixture(scope="module")
def pl():
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return pl


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture
def build(pl):
    class Module(pl.LightningModule):
        def __init__(self, attached=True):
            super().__init__()
            self.net = network()
            if attached:
                attach(self)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module


@pytest.fixture
def fit(pl, tmp_path):
    def fit(model, callbacks, epochs=2, **options):
        x = torch.randn(64, 4)
        loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, callbacks=callbacks,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
            **options,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(model, loader)
        return trainer, x

    return fit


def test_every_checkpoint_holds_the_contexts_of_its_weights(pl, build, fit, tmp_path):
    from qact.integrations.lightning import RecordContexts

    saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    model = build()
    _, x = fit(model, [saved, RecordContexts()])
    for epoch in (0, 1):
        state = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        fresh = build()
        fresh.load_state_dict(state, strict=True)
        stored = fresh.net[1].source_context
        wanted = qact.record(fresh.eval(), [x]).net[1].source_context
        assert float(stored.count[0]) == 64
        torch.testing.assert_close(stored.mean, wanted.mean, rtol=1e-4, atol=1e-5)
    with torch.no_grad(), qact.recalibrated(model.eval()):
        assert model(3 * x).shape == (64, 2)


def test_training_goes_on_as_without_it(build, fit):
    from qact.integrations.lightning import RecordContexts

    weights = []
    for callbacks in ([], [RecordContexts()]):
        torch.manual_seed(1)
        model = build()
        fit(model, callbacks, epochs=3)
        weights.append(model.net[0].weight.detach().clone())
        assert model.training
    assert torch.equal(*weights)


def test_batches_epochs_loaders(build, fit):
    from qact.integrations.lightning import RecordContexts

    model, calls = build(attached=False), []
    loader = [torch.randn(10, 4), torch.randn(10, 4), torch.randn(10, 4)]

    class Counted(RecordContexts):
        def on_train_epoch_end(self, trainer, module):
            before = module.net[1].source_context
            super().on_train_epoch_end(trainer, module)
            calls.append(module.net[1].source_context is not before)

    fit(model, [Counted(loader, batches=2, every_n_epochs=3)], epochs=5)
    assert calls == [False, False, True, False, True]
    assert float(model.net[1].source_context.count[0]) == 20


@pytest.mark.parametrize("options", [{"batches": 0}, {"every_n_epochs": 0}, {"bins": 3}])
def test_bad_options(options):
    from qact.integrations.lightning import RecordContexts

    with pytest.raises(ValueError, match=next(iter(options))):
        RecordContexts(**options)


def test_averaged_weights_are_refused(pl, build, tmp_path):
    """Their checkpoint would hold empty or averaged contexts, which is seen when it is loaded."""
    from qact.integrations.lightning import RecordContexts

    callbacks = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    average = callbacks.EMAWeightAveraging(use_buffers=False)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[RecordContexts(), average],
    )
    loader = DataLoader(TensorDataset(torch.randn(8, 4), torch.zeros(8).long()), batch_size=4)
    with pytest.raises(ValueError, match="and EMAWeightAveraging saves another: leave one"):
        trainer.fit(build(), loader)
