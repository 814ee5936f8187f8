"""Every form: its linear form is its quadratic one, rows, masks, causality, identities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qact import attention, weights
from qact.attention import Attention, entry, form, landmarks, linear

H, D, L = 2, 4, 9
FORMS = attention.names()
CAUSAL = [n for n in FORMS if entry(n).causal]
LINEAR = [n for n in FORMS if entry(n).linear]
OPTIONS = {"soft": {"landmarks": 5, "steps": 30}, "agent": {"agents": 4}}


def made(name: str, causal: bool | None = None, **options: object) -> attention.Form:
    torch.manual_seed(0)
    causal = name == "forgetting" if causal is None else causal
    found = form(name, H, D, causal, **{**OPTIONS.get(name, {}), **options}).double()
    with torch.no_grad():
        for p in found.parameters():
            p += 0.1 * torch.randn_like(p)
    return found


def data(tokens: int = L) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 2, H, tokens, D, dtype=torch.float64, generator=g)
    return q, k, v, torch.randn(2, tokens, H * D, dtype=torch.float64, generator=g)


@pytest.mark.parametrize("name", FORMS)
def test_an_entry_knows_itself(name):
    known, it = entry(name), made(name)
    assert known.paper
    assert known.formula
    assert known.linear == it.linear
    if not known.causal:
        with pytest.raises(ValueError, match="causal=True"):
            made(name, True)
    if known.input:
        q, k, v, _ = data()
        with pytest.raises(ValueError, match="reads the tokens themselves"):
            it(q, k, v)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_the_output_is_that_of_its_weights(name, causal):
    """The linear form, by products in another order, and torch's own attention."""
    if (causal and not entry(name).causal) or (name == "forgetting" and not causal):
        pytest.skip("no such form")
    it = made(name, causal)
    for tokens in (L, 300) if causal else (L,):  # more than one chunk
        q, k, v, x = data(tokens)
        torch.testing.assert_close(it(q, k, v, x), it.quadratic(q, k, v, x))
    q, k, v, x = data()
    w = it.weights(q, k, x)
    assert w.shape == (2, H, L, L)
    if entry(name).rows:
        torch.testing.assert_close(w.sum(-1), torch.ones(2, H, L).double())
    if causal:
        assert (w.triu(1) == 0).all()


@pytest.mark.parametrize("name", FORMS)
def test_a_mask_of_keys_takes_them_out(name):
    it, (q, k, v, x) = made(name), data()
    keep = torch.ones(2, 1, 1, L, dtype=torch.bool)
    keep[..., -3:] = False
    got = it(q, k, v, x, keep)
    torch.testing.assert_close(got, it.quadratic(q, k, v, x, keep))
    assert (it.weights(q, k, x, keep)[..., -3:] == 0).all() or name in ("shaped", "soft")
    other_k, other_v = k.clone(), v.clone()
    other_k[..., -3:, :] += 1
    other_v[..., -3:, :] += 1
    if name != "shaped":  # a token keeps itself there
        torch.testing.assert_close(it(q, other_k, other_v, x, keep), got)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_form_refuses_a_mask_of_pairs(name):
    q, k, v, x = data()
    for mask in (torch.ones(L, L).tril() > 0, torch.zeros(1, 1, 1, L).double()):
        with pytest.raises(ValueError, match="a boolean mask of keys"):
            made(name)(q, k, v, x, mask)


@pytest.mark.parametrize("name", FORMS)
def test_gradients_are_those_of_the_quadratic_form(name):
    it, (q, k, v, x) = made(name), data()
    inputs = [t.requires_grad_() for t in (q, k, v)] + list(it.parameters())
    got, want = (
        torch.autograd.grad(f(q, k, v, x).square().sum(), inputs, allow_unused=True)
        for f in (it, it.quadratic)
    )
    for a, b in zip(got, want, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["softmax", "entmax15", "sigmoid", "rank", "hedgehog", "mala"])
def test_modules_compile_whole(name):
    torch._dynamo.reset()
    layer, x = Attention(8, 2, name), torch.randn(2, 5, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(
    "name", [n for n in weights.names() if n not in ("context_rank", "gumbel", "rela")]
)
def test_every_map_is_a_normaliser(name):
    options = {"entropy": 1.0} if name == "era" else {}
    layer = Attention(8, 2, name, **options)
    x = torch.randn(3, 6, 8)
    w = layer.weights(x)
    v = layer.heads(x)[2]
    torch.testing.assert_close(layer(x), layer.out((w @ v).transpose(1, 2).flatten(2)))
    causal = Attention(8, 2, name, causal=True)
    if not options:
        assert (causal.weights(x).triu(1) == 0).all()


def test_softmax_is_that_of_torch():
    torch.manual_seed(0)
    layer, theirs = Attention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": layer.qkv.weight,
            "in_proj_bias": layer.qkv.bias,
            "out_proj.weight": layer.out.weight,
            "out_proj.bias": layer.out.bias,
        }
    )
    x, context = torch.randn(3, 6, 8), torch.randn(3, 5, 8)
    torch.testing.assert_close(layer(x), theirs(x, x, x)[0])
    torch.testing.assert_close(layer(x, context), theirs(x, context, context)[0])
    mask = torch.randn(6, 6)
    torch.testing.assert_close(layer(x, mask=mask), theirs(x, x, x, attn_mask=mask)[0])
    listened = layer(x)
    handle = layer.form.scores.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(layer(x), listened)
    handle.remove()


def test_forgetting():
    it, (q, k, v, x) = made("forgetting"), data()
    with torch.no_grad():
        it.gate.weight.zero_()
        it.gate.bias.fill_(40.0)  # f = 1
    causal = torch.ones(L, L, dtype=torch.bool).tril()
    torch.testing.assert_close(
        it(q, k, v, x), F.scaled_dot_product_attention(q, k, v, causal), rtol=1e-6, atol=1e-8
    )
    with torch.no_grad():
        it.gate.bias.fill_(math.log(4.0))  # f = 0.8: ALiBi of slope -log 0.8
    i = torch.arange(L)
    alibi = math.log(0.8) * (i[:, None] - i).double()
    bias = alibi.masked_fill(~causal, -torch.inf)
    torch.testing.assert_close(it(q, k, v, x), F.scaled_dot_product_attention(q, k, v, bias))


def test_forgetting_gates_that_are_shut_stay_finite_in_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime, path = pytest.importorskip("onnxruntime"), str(tmp_path / "forgetting.onnx")
    it, inputs = made("forgetting").float(), [t.float() for t in data()]
    with torch.no_grad():
        it.gate.weight.zero_()
        it.gate.bias.fill_(-50.0)  # a sigmoid of 0 in onnxruntime
    torch.onnx.export(it.eval(), tuple(inputs), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [place.name for place in session.get_inputs()]
    (got,) = session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))
    torch.testing.assert_close(torch.from_numpy(got), it(*inputs))


def test_forgetting_is_its_recurrence():
    it, (q, k, _, x) = made("forgetting"), data()
    f = torch.sigmoid(it.gate(x)).transpose(1, 2)
    for i in (0, 3, L - 1):
        size, decay = [], torch.ones(2, H).double()
        for j in range(i, -1, -1):
            size.append(decay * ((q[..., i, :] * k[..., j, :]).sum(-1) / 2).exp())
            decay = decay * f[..., j]
        w = torch.stack(size[::-1], -1)
        w = w / w.sum(-1, keepdim=True)
        torch.testing.assert_close(it.weights(q, k, x)[..., i, : i + 1], w)


def test_flex_attention_is_the_same():
    torch.manual_seed(0)
    it = form("forgetting", H, 16, True, engine="flex")
    q, k, v = torch.randn(3, 1, H, 128, 16)
    x = torch.randn(1, 128, H * 16)
    with torch.no_grad():
        torch.testing.assert_close(it(q, k, v, x), it.quadratic(q, k, v, x), rtol=1e-4, atol=1e-5)


def test_a_closed_gate_gives_zero():
    it, (q, k, v, x) = made("gated"), data()
    with torch.no_grad():
        it.gate.weight.zero_()
        it.gate.bias.fill_(-800.0)
    assert (it(q, k, v, x) == 0).all()


def test_selective_temperature():
    q, k, v, _ = data()
    plain = made("ssa", beta=100.0)  # beta of infinity
    torch.testing.assert_close(plain(q, k, v), F.scaled_dot_product_attention(q, k, v))
    H_ = [torch.special.entr(made("ssa", beta=b).weights(q, k)).sum() for b in (2.0, 0.0, -2.0)]
    assert sorted(H_, reverse=True) == H_  # entropy falls as the factor grows
    it = made("ssa", True)
    n = torch.arange(1, L + 1).double()
    factor = 1 + torch.exp(-torch.exp(it.beta)) * n.log()
    want = weights.softmax(factor[:, None] * (q @ k.mT) / 2, -1, torch.ones(L, L).tril() > 0)
    torch.testing.assert_close(it.weights(q, k), want)


def test_length_scaled_softplus_attention_by_its_definition():
    q, k, v, _ = data()
    cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    w = F.softplus(math.log(D) * math.log(L) * cosine)
    w = w / w.sum(-1, keepdim=True)
    torch.testing.assert_close(made("lssa").weights(q, k), w)
    sharp = (L * w - 1).relu() ** 3
    got = made("lssa", power=3).weights(q, k)
    torch.testing.assert_close(got, sharp / sharp.sum(-1, keepdim=True))
    order = [t.gather(-1, w.argsort(-1)).diff(dim=-1) for t in (w, got)]
    assert all((d >= 0).all() for d in order)  # re-weighting keeps the order
    softmax = attention.LSSA(H, D, normaliser="softmax")  # e^z for softplus is softmax
    want = torch.softmax(math.log(D) * math.log(L) * cosine, -1)
    torch.testing.assert_close(softmax.weights(q, k), want)
    huge = made("lssa", power=15).float()
    assert huge(1e20 * q.float(), k.float(), v.float()).isfinite().all()
    causal = made("lssa", True, power=15)
    n = torch.arange(1, L + 1).double()[:, None]
    w = F.softplus(math.log(D) * n.log() * cosine).tril()
    w = (n * w / w.sum(-1, keepdim=True) - (n > 3).double()).relu() ** 15
    torch.testing.assert_close(causal.weights(q, k), w / w.sum(-1, keepdim=True))


def test_rela_switches_off():
    it, (q, _, v, _) = made("rela"), data()
    q = q.abs()
    assert (it(q, -q.abs(), v) == 0).all()
    assert (it.weights(q, -q.abs()) == 0).all()


def test_shaped_is_the_identity_at_zero():
    q, k, _, _ = data()
    it = made("shaped")
    w = it.weights(0 * q, 0 * k)
    torch.testing.assert_close(w, torch.eye(L).double().expand_as(w))


def test_tokens_of_a_deep_shaped_stack_do_not_become_alike():
    torch.manual_seed(0)
    t = torch.randn(1, 16, 32)
    alike = {}
    for name in ("softmax", "shaped"):
        y = t
        for _ in range(30):
            q, k, v = (
                (y @ torch.randn(32, 32) / 32**0.5).unflatten(-1, (1, 32)).transpose(1, 2)
                for _ in range(3)
            )
            y = F.layer_norm(form(name, 1, 32)(q, k, v).transpose(1, 2).flatten(2), (32,))
        n = F.normalize(y[0], dim=-1)
        alike[name] = float((n @ n.T).mean())
    assert alike["softmax"] > 0.95
    assert alike["shaped"] < 0.7


@pytest.mark.parametrize("name", ["inline", "mala"])
def test_the_length_of_a_query_counts(name):
    """Collinear queries have different weights; plain linear attention has the same."""
    q, k, _, _ = data()
    it = made(name)
    far = (it.weights(q.abs(), k) - it.weights(2 * q.abs(), k)).abs().max()
    assert far > 1e-3
    assert it.weights(q, k).min() < 0
    relu = made("cosformer")
    torch.testing.assert_close(relu.weights(2 * q, k), relu.weights(q, k), rtol=1e-4, atol=1e-4)


def test_features_of_favor_are_unbiased():
    torch.manual_seed(0)
    q, k = torch.tensor([[0.3, -0.5]]).double(), torch.tensor([[0.7, 0.2]]).double()
    want, errors = math.exp(float((q * k).sum())), {}
    for m in (200, 20_000):
        runs = []
        for _ in range(20):
            omega = linear.directions(m, 2, orthogonal=False).double()
            a, b = (torch.exp(t @ omega.T - t.square().sum() / 2) for t in (q, k))
            runs.append(float((a * b).mean()) - want)
        errors[m] = torch.tensor(runs)
        assert abs(errors[m].mean()) < 4 * errors[m].std() / 20**0.5
    assert 5 < errors[200].std() / errors[20_000].std() < 20  # sqrt(100)
    spread = {}
    for orthogonal in (True, False):
        runs = []
        for _ in range(300):
            omega = linear.directions(8, 8, orthogonal)
            a, b = torch.full((8,), 0.3), torch.full((8,), 0.2)
            f = [torch.exp(t @ omega.T - t.square().sum() / 2) for t in (a, b)]
            runs.append(float((f[0] * f[1]).mean()))
        spread[orthogonal] = torch.tensor(runs).std()
    assert spread[True] < spread[False]


def test_favor_tends_to_softmax():
    torch.manual_seed(0)
    q, k, _, _ = data()
    q, k = q / 2, k / 2  # the variance grows like e^(|q + k|^2)
    want, errors = torch.softmax(q @ k.mT / 2, -1), []
    for m in (200, 20_000):
        it = form("favor", H, D, features=m).double()
        errors.append(float((it.weights(q, k) - want).abs().mean()))
    assert errors[0] < 0.02
    assert 4 < errors[0] / errors[1] < 25  # sqrt(100)


def test_taylorshift_is_taylor_softmax():
    q, k, _, _ = data()
    it = made("taylorshift")
    a, b = it.normed(q, k)
    torch.testing.assert_close(it.weights(q, k), weights.taylor(a @ b.mT))


@pytest.mark.parametrize("kind", ["softmax", "exp"])
def test_hedgehog(kind):
    q, k, _, _ = data()
    it = made("hedgehog", kind=kind)
    assert (it.weights(q, k) > 0).all()
    p = torch.softmax(q @ k.mT / 2, -1)
    least = torch.special.entr(p).sum(-1).mean()
    assert it.distillation(q, k) > least
    it.weights = lambda q, k: p  # the least value is reached by softmax itself
    torch.testing.assert_close(it.distillation(q, k), least)


def test_cosformer_by_its_definition():
    q, k, _, _ = data()
    i = torch.arange(L).double()
    w = (q.relu() @ k.relu().mT) * torch.cos(math.pi / 2 * (i[:, None] - i) / 20)
    got = made("cosformer", length=20).weights(q, k)
    torch.testing.assert_close(got, w / w.sum(-1, keepdim=True).clamp_min(1e-6))
    assert (got >= 0).all()
    with pytest.raises(ValueError, match="length=5 must be at least the 9 tokens"):
        made("cosformer", length=5).weights(q, k)


def test_soft():
    q, k, _, _ = data()
    A = landmarks.gaussian(q, q)
    torch.testing.assert_close(A.diagonal(dim1=-2, dim2=-1), torch.ones(2, H, L).double())
    P = A + 0.01 * torch.eye(L).double()
    torch.testing.assert_close(landmarks.inverse(A, 60), torch.linalg.inv(P))
    whole = made("soft", landmarks=L, steps=60)  # all tokens as landmarks: exact, but for the ridge
    torch.testing.assert_close(whole.weights(q, k), A @ torch.linalg.inv(P) @ A)
    bare = landmarks.pooled(q, L)
    assert bare is q


def test_rank_augmented():
    q, k, v, x = data()
    it = form("rank_augmented", H, D).double()
    a, b = F.elu(q) + 1, F.elu(k) + 1
    alpha = torch.softmax(a.mean(-2, keepdim=True) @ b.mT / 2, -1)
    w = (a @ b.mT) * alpha
    torch.testing.assert_close(it(q, k, v, x), w / w.sum(-1, keepdim=True) @ v)
    same = k[..., :1, :].expand_as(k)  # equal keys: no weighing, plain linear attention
    torch.testing.assert_close(it(q, same, v, x), made("elu").double()(q, same, v))


def test_agents_by_their_definition():
    q, k, _, _ = data()
    it = made("agent", agents=3)
    a = q.unflatten(-2, (3, 3)).mean(-2)
    want = torch.softmax(q @ a.mT / 2, -1) @ torch.softmax(a @ k.mT / 2, -1)
    torch.testing.assert_close(it.weights(q, k), want)


def test_galerkin_and_fourier_by_their_definition():
    q, k, v, _ = data()

    def norm(t: Tensor) -> Tensor:
        return F.layer_norm(t, (D,))

    g, f = (form(name, H, D).double() for name in ("galerkin", "fourier"))
    torch.testing.assert_close(g(q, k, v), q @ (norm(k).mT @ norm(v)) / L)
    torch.testing.assert_close(f(q, k, v), (norm(q) @ norm(k).mT) @ v / L)


def test_bad_options_are_one_clear_error():
    with pytest.raises(ValueError, match="embed_dim=9 must be a multiple of num_heads=2"):
        Attention(9, 2)
    with pytest.raises(ValueError, match="unknown normaliser 'sofmax'; did you mean 'softmax'"):
        Attention(8, 2, "sofmax")
    with pytest.raises(ValueError, match="needs num_classes"):
        Attention(8, 2, "context_rank")
    with pytest.raises(TypeError, match="normaliser=3 must be"):
        Attention(8, 2, 3)
    with pytest.raises(ValueError, match=r"x must be \(N, L, 8\)"):
        Attention(8, 2)(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="causal=False"):
        form("forgetting", 2, 4, False)
    q, k, v, _ = data()
    with pytest.raises(ValueError, match="causal: 9 queries and 5 keys"):
        made("elu", True)(q, k[..., :5, :], v[..., :5, :])
