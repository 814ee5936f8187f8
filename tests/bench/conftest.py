import pytest
import torch

from qact.activations.registry import ACTIVATIONS
from qact.bench import Data, Model, Recipe, Shift, Training
from qact.bench.recipe import rivals


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def register(monkeypatch):
    """Register rivals for one test only."""
    ACTIVATIONS.names()
    monkeypatch.setattr(ACTIVATIONS, "_entries", dict(ACTIVATIONS._entries))
    return rivals.register


@pytest.fixture
def tiny():
    """A recipe of about a second per cell."""
    return Recipe(
        data=Data("digits", 8),
        model=Model("resnet_small", 0.5),
        training=Training(epochs=3, batch=100),
        shift=Shift(
            corruptions=("gaussian_noise", "contrast"),
            severities=(0, 5),
            adaptations=("frozen", "batch-200"),
        ),
        activations=("relu",),
        seeds=(0,),
    )


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Results of known numbers: three seeds, two activations, no training."""
    from qact.bench import Results
    from qact.bench.measure.metrics import measure
    from qact.bench.recipe.rows import KEY, wanted

    recipe = Recipe(
        shift=Shift(("fog", "contrast"), (0, 1, 5), ("frozen", "batch-200")),
        activations=("relu", "qact"),
    )
    found = Results(
        recipe,
        activations={
            "relu": {"module": "relu: ReLU()", "paper": "N & H", "control": True},
            "qact": {"module": "qact: <b>QAct</b>", "paper": "C", "control": False},
        },
        environment={"command": "qact bench", "versions": {}, "images": {"test": 40}},
    )
    for activation, loss, seed in recipe.cells():
        rows = []
        for key in wanted(recipe, activation, loss, seed):
            generator = torch.Generator().manual_seed(hash_of(key))
            logits = torch.randn(40, 3, generator=generator)
            labels = torch.randint(3, (40,), generator=generator)
            rows.append(dict(zip(KEY, key, strict=True)) | measure(logits, labels))
        notes = {
            "history": [{"loss": 1.0, "val_accuracy": 0.5, "seconds": 1.0}],
            "train_seconds": 1.0,
            "measure_seconds": 1.0,
            "single_sample_gap": 1e-7,
            "parameters": 1234,
        }
        found.add(rows, f"{activation}/{seed}", notes)
    return found


def hash_of(key):
    import zlib

    return zlib.crc32(repr(key).encode())
