"""Taps: what they read and change, in what order, on which models, and that nothing stays."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import qact
from qact import QAct
from qact.statistics.distance import kolmogorov
from qact.surgery import tapped


class Branches(nn.Module):
    """What is hard for taps: a residual sum, operations in place, tuples, named inputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True))
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(2, 6), QAct(6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.spare = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(input=x)
        tokens = x.flatten(2).mT
        mixed, _ = self.attention(query=tokens, key=tokens, value=tokens)
        return self.head((tokens + mixed).mean(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Branches()
    for _ in range(3):
        model(torch.randn(16, 3, 5, 5))
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def trace(model):
    """All that a tap could leave behind."""
    own = [
        (name, sorted(vars(m)), m.training, [len(h) for h in hooks(m)], type(m))
        for name, m in model.named_modules()
    ]
    return own, {k: v.clone() for k, v in model.state_dict().items()}


def hooks(module):
    return (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
        module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs,
    )  # fmt: skip


def unchanged(before, model):
    after = trace(model)
    return before[0] == after[0] and all(torch.equal(before[1][k], after[1][k]) for k in after[1])


def test_values_are_those_of_the_module_and_survive_operations_in_place(net, x):
    with qact.tap(net, ["stem.1", "stem", "attention"]) as seen:
        net(x)
    assert list(seen) == ["stem", "stem.1", "attention"]
    assert torch.equal(seen["stem.1"], net.stem[1](net.stem[0](x)))
    assert torch.equal(seen["stem"], net.stem(x))
    assert seen["attention"].shape == (7, 25, 6)  # the first of a tuple


def test_named_inputs_and_calls_of_several_batches(net, x):
    reading = qact.tap(net, "block", side="input").read("mean")
    with reading:
        net(x[:3]), net(x[3:])
    assert torch.allclose(reading.value, net.stem(x).mean((2, 3)), atol=1e-6)
    with reading:  # a second block goes on
        net(x[:2])
    assert len(reading.value) == 9
    reading.clear()
    with pytest.raises(RuntimeError, match="was not run"):
        reading.value  # noqa: B018


def test_pools_and_samples(net, x):
    tokens = net.stem(x).flatten(2).mT
    for pool, by_hand in (
        ("max", tokens.amax(1)),
        (lambda z: z.flatten(1, -2).std(1), tokens.std(1)),
    ):
        with qact.tap(net, "stem").read(pool) as seen:
            net(x)
        torch.testing.assert_close(seen.value, by_hand)
    with qact.tap(net, "stem.1").read(sample=4, seed=3) as seen:
        net(x)
    assert seen.value.shape == (7, 4, 6)
    tokens = net.stem[1](net.stem[0](x)).flatten(2).mT
    rows = (seen.value[:, :, None] == tokens[:, None]).all(-1)
    assert (rows.sum(-1) == 1).all()  # each is the same position of every sample
    assert torch.equal(rows[0], rows[1])


def test_contexts_are_those_of_the_values(net, x):
    with qact.tap(net, ["stem.1", "attention"]) as seen, qact.tap(
        net, ["stem.1", "attention"]
    ).observe(bins=256) as contexts:  # fmt: skip
        net(x), net(2 * x + 1), net(9 * x)  # beyond the grid of the first batch
    for name, dim in (("stem.1", 1), ("attention", -1)):
        exact = qact.Context(6, 256).add(seen[name], dim=dim)
        assert torch.equal(contexts[name].count, exact.count)
        assert int(contexts[name].batches) == 3
        torch.testing.assert_close(contexts[name].mean, exact.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(contexts[name].std, exact.std, rtol=1e-4, atol=1e-5)
        # A rank is known up to the bin that it falls into.
        widest = (contexts[name].mass.amax(1) / contexts[name].count).float()
        assert (kolmogorov(contexts[name], exact) <= widest + 1e-6).all()


def test_a_sampled_context_is_near(net):
    many = torch.randn(200, 3, 5, 5)
    with qact.tap(net, "stem.1").observe() as all_, qact.tap(net, "stem.1").observe(
        sample=8
    ) as some:  # fmt: skip
        net(many)
    assert torch.equal(some["stem.1"].count, torch.full((6,), 1600.0).double())
    assert kolmogorov(all_["stem.1"], some["stem.1"]).max() < 0.08


def test_a_change_takes_the_place_of_what_passes(net, x):
    with (
        qact.tap(net, "stem").change(lambda z: 2 * z),
        qact.tap(net, "block", side="input") as seen,
    ):
        net(x)
    assert torch.equal(seen["block"], 2 * net.stem(x))
    with qact.tap(net, "attention").change(torch.zeros_like):
        changed = net(x)
    tokens = net.stem(x) + net.block(net.stem(x))
    torch.testing.assert_close(changed, net.head(tokens.flatten(2).mT.mean(1)))


def test_inner_blocks_see_what_outer_ones_have_made(net, x):
    tap = qact.tap(net, "stem")
    plain = net.stem(x)
    with tap as raw, tap.change(lambda z: z + 1), tap.change(lambda z: 3 * z), qact.tap(
        net, "block", side="input"
    ).read() as last:  # fmt: skip
        net(x)
    assert torch.equal(raw["stem"], plain)
    torch.testing.assert_close(last.value, 3 * (plain + 1))


def test_a_change_is_told_of_place_context_and_sample(net, x):
    told = []

    def change(z, visit):
        told.append((visit.name, visit.index.tolist(), visit.context is net.block[2].context))

    with qact.tap(net, "block.2", side="input").change(change):
        outputs = torch.cat([net(x[:3]), net(x[3:])])
    assert told == [("block.2", [0, 1, 2], True), ("block.2", [3, 4, 5, 6], True)]
    torch.testing.assert_close(outputs, net(x))


POSITIONS = {
    "token": (0, lambda t: t[:, 0]),
    "slice": (slice(3, 9, 2), lambda t: t[:, 3:9:2]),
    "list": ([1, 4], lambda t: t[:, [1, 4]]),
    "last": (-1, lambda t: t[:, -1]),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_positions_of_tokens(net, x, case):
    positions, by_hand = POSITIONS[case]
    with qact.tap(net, "attention") as plain:
        net(x)
    tokens = plain["attention"]
    tap = qact.tap(net, "attention", positions=positions)
    with tap.change(lambda z: z + 5), qact.tap(net, "attention") as changed:
        net(x)
    expected = tokens.clone()
    by_hand(expected)[...] = 0 if case != "list" else by_hand(expected)
    delta = changed["attention"] - tokens
    assert torch.allclose(by_hand(delta), torch.tensor(5.0), atol=1e-5)
    assert (delta != 0).sum() == by_hand(delta).numel()
    with tap as seen:
        net(x)
    assert torch.equal(seen["attention"], by_hand(tokens))


def test_positions_of_maps(net, x):
    tap = qact.tap(net, "stem", positions=(slice(0, 2), 3))
    with tap as seen, tap.change(lambda z: z * 0), qact.tap(net, "stem") as after:
        net(x)
    assert torch.equal(seen["stem"], net.stem(x)[:, :, 0:2, 3].mT)
    expected = net.stem(x)
    expected[:, :, 0:2, 3] = 0
    assert torch.equal(after["stem"], expected)


def test_gradients_pass_and_are_read(net, x):
    with qact.tap(net, ["stem.1", "stem"]).read(grad=True) as seen:
        out = net(x)
    slopes = torch.autograd.grad(out.square().sum(), [seen["stem.1"], seen["stem"]])
    # Behind the norm stands a ReLU in place: its slope is not that of the ReLU's output.
    torch.testing.assert_close(slopes[0], slopes[1] * (seen["stem.1"] > 0))


def test_a_change_of_its_own_kind_leaves_nothing(net, x):
    before, expected = trace(net), net(x)
    with qact.tap(net).change(lambda z: z), qact.tap(net) as _, qact.tap(net).observe():
        assert torch.equal(net(x), expected)
    assert unchanged(before, net)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(net, x, error):
    def broken(z):
        raise error

    before = trace(net)
    with pytest.raises(error), qact.tap(net, ["stem", "attention"]).change(broken):
        net(x)
    assert unchanged(before, net)


def test_blocks_end_in_any_order(net, x):
    before, tap = trace(net), qact.tap(net, "stem")
    first, second = tap.change(lambda z: z + 1).open(), tap.change(lambda z: 3 * z).open()
    first.close()
    with qact.tap(net, "block", side="input") as seen:
        net(x)
    second.close()
    second.close()  # twice is once
    torch.testing.assert_close(seen["block"], 3 * net.stem(x))
    assert unchanged(before, net)
    with pytest.raises(RuntimeError, match="open already"), tap.read() as reading:
        reading.open()


def test_other_threads_see_nothing(net, x):
    expected, found = net(x), {}

    def other():
        found["out"] = net(x)

    with qact.tap(net, "stem").change(torch.zeros_like), qact.tap(net, "stem") as seen:
        thread = threading.Thread(target=other)
        thread.start(), thread.join()
        with pytest.raises(RuntimeError, match="'stem' was not run"):
            seen["stem"]
        assert not torch.equal(net(x), expected)
    assert torch.equal(found["out"], expected)


def test_many_threads_at_once_end_as_they_began(net, x):
    before, wrong = trace(net), []

    def work(factor):
        for _ in range(5):
            with qact.tap(net, "stem").change(lambda z: factor * z), qact.tap(
                net, "block", side="input"
            ) as seen:  # fmt: skip
                net(x)
            if not torch.equal(seen["block"], factor * plain):
                wrong.append(factor)

    plain = net.stem(x)
    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(1, 5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong
    assert unchanged(before, net)


def test_a_checkpointed_pass_is_changed_twice_and_read_once():
    torch.manual_seed(0)
    part, head = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1)
    model = nn.Sequential(part, head)
    x = torch.randn(6, 4, requires_grad=True)

    def loss(run):
        with qact.tap(model, "0.0").change(lambda z: 2 * z), qact.tap(model, "0.0") as seen:
            model[1](run(x)).sum().backward()
        slope, x.grad = x.grad, None
        return slope, len(seen.calls("0.0"))

    plain, again = loss(part), loss(lambda x: checkpoint(part, x, use_reentrant=False))
    assert torch.equal(plain[0], again[0])
    assert plain[1] == again[1] == 1


@pytest.mark.parametrize("how", ["compile", "in place"])
def test_compiled_models_run_as_written_within_the_block(net, x, how):
    torch.compiler.reset()
    model = copy.deepcopy(net)
    if how == "compile":
        model = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    with torch.no_grad():
        expected = model(x)
        with qact.tap(model, "stem").change(torch.zeros_like), qact.tap(model, "head") as seen:
            changed = model(x)
        assert not torch.allclose(changed, expected)
        assert torch.equal(seen["head"], changed)
        torch.testing.assert_close(model(x), expected)
    torch.compiler.reset()


def test_a_function_compiled_within_the_block_is_tapped(net, x):
    torch.compiler.reset()
    with qact.tap(net, "stem").change(torch.zeros_like), torch.no_grad():
        compiled = torch.compile(lambda x: net(x), backend="eager")(x)
        torch.testing.assert_close(compiled, net(x))
    torch.compiler.reset()


def test_distributed_and_converted_models(net, x, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(copy.deepcopy(net))
        with qact.tap(model, "stem") as seen:
            model(x)
        assert torch.equal(seen["stem"], net.stem(x))
    finally:
        torch.distributed.destroy_process_group()
    converted = qact.convert(net, warm_start=x)
    with qact.tap(converted, QAct, side="input").observe() as contexts:
        converted(x)
    assert set(contexts) == {"stem.2", "block.2"}


def test_models_of_timm_and_transformers():
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), qact.tap(vit, "blocks.?", positions=0) as seen:
        vit(x)
    assert {name: z.shape for name, z in seen.items()} == {
        "blocks.0": (2, 192),
        "blocks.1": (2, 192),
    }
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
    )
    bert = transformers.BertModel(config).eval()
    with torch.no_grad(), qact.tap(bert, "encoder").change(torch.zeros_like):
        out = bert(input_ids=torch.arange(6)[None])
    assert (out.last_hidden_state == 0).all()


REFUSALS = {
    "no such place": (lambda n, x: qact.tap(n, "sten"), ValueError,
                      "place 'sten'; did you mean 'stem'"),
    "no norms": (lambda n, x: qact.tap(nn.ReLU()), ValueError, "no norm and no QAct layer"),
    "no model": (lambda n, x: qact.tap(3, "a"), TypeError, "model=3"),
    "side": (lambda n, x: qact.tap(n, "stem", side="middle"), ValueError, "side='middle'"),
    "pool": (lambda n, x: qact.tap(n, "stem").read("median"), ValueError, "pool='median'"),
    "sample": (lambda n, x: qact.tap(n, "stem").read(sample=0), ValueError, "sample=0"),
    "bins": (lambda n, x: qact.tap(n, "stem").observe(bins=2), ValueError, "bins=2"),
    "no function": (lambda n, x: qact.tap(n, "stem").change(3), TypeError, "function=3"),
    "shape": (lambda n, x: _run(qact.tap(n, "stem").change(lambda z: z[:1]), n, x), ValueError,
              "at 'stem' made .1, 6, 5, 5. of .7, 6, 5, 5."),
    "no tensor": (lambda n, x: _run(qact.tap(n, "stem").change(lambda z: 3), n, x), TypeError,
                  "at 'stem' returned int"),
    "positions": (lambda n, x: _run(qact.tap(n, "attention", positions=99), n, x), ValueError,
                  "positions=99 do not fit 'attention', whose positions have the shape .25,"),
    "not run": (lambda n, x: _run(qact.tap(n, "spare"), n, x)["spare"], RuntimeError,
                "'spare' was not run"),
    "not tapped": (lambda n, x: _run(qact.tap(n, "stem"), n, x)["head"], ValueError,
                   "'head' is not tapped"),
    "nan": (lambda n, x: _run(qact.tap(n, "stem").observe(), n, x * torch.nan), ValueError,
            "at 'stem': it holds nan"),
    "scripted": (lambda n, x: qact.tap(torch.jit.trace(nn.ReLU(), x), "a"), TypeError, "scripted"),
}  # fmt: skip


def _run(block, net, x):
    with block as seen:
        net(x)
    return seen


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_line(net, x, case):
    use, kind, words = REFUSALS[case]
    with pytest.raises(kind, match=words) as caught:
        use(net, x)
    assert "\n" not in str(caught.value)


def test_shapes_that_change_between_calls_are_named(net):
    with qact.tap(net, "stem") as seen:
        net(torch.randn(2, 3, 4, 4)), net(torch.randn(2, 3, 5, 5))
    with pytest.raises(ValueError, match=r"different shapes \(2, 6, 4, 4\), \(2, 6, 5, 5\)"):
        seen["stem"]
    assert [len(z) for z in seen.calls("stem")] == [2, 2]


def test_a_module_without_tensors_is_named():
    class Words(nn.Module):
        def forward(self, x):
            return {"word": "none"}

    with (
        pytest.raises(TypeError, match="Words returns str, and no tensor"),
        tapped(words := Words(), torch.neg),
    ):
        words(1)
