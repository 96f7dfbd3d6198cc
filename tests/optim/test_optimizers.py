"""Optimizers: PyTorch's trajectories, groups, state, errors."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import kernels, nn, optim

OPTIMIZERS = [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


START = [np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate([(3, 4), (4,), (1, 1)])]


def trajectory(lib, name, steps, dtype, groups=False, **options):
    """The parameters after each step down a bowl whose slopes differ by direction, with a little noise."""
    dtype = getattr(lib, dtype)
    params = [lib.nn.Parameter(lib.tensor(start, dtype=dtype)) for start in START]
    given = [{"params": params[:1], "weight_decay": 0.3}, {"params": params[1:], "lr": 0.05}] if groups else params
    optimizer = getattr(lib.optim, name)(given, **options)
    values = [p.detach().numpy() for p in params]  # the parameters' own memory
    noise, found = np.random.default_rng(7), []
    for _ in range(steps):
        for p, x, start in zip(params, values, START, strict=True):
            p.grad = lib.tensor(2 * (abs(start) + 0.1) * x + 0.3 * noise.standard_normal(x.shape), dtype=dtype)
        optimizer.step()
        found.append(np.concatenate([x.ravel() for x in values]))
    return np.array(found)


def compare(torch, name, steps=100, **options):
    ours = trajectory(tg, name, steps, "float64", **options)
    theirs = trajectory(torch, name, steps, "float64", **options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


rates = st.floats(1e-4, 0.05)
decays = st.sampled_from([0.0, 0.01, 0.3])


@pytest.mark.torch
@settings(max_examples=8)
@given(
    lr=rates,
    weight_decay=decays,
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    dampening=st.sampled_from([0.0, 0.2]),
    nesterov=st.booleans(),
    maximize=st.booleans(),
)
@example(lr=0.01, weight_decay=0.3, momentum=0.9, dampening=0.2, nesterov=False, maximize=True)
@example(lr=0.01, weight_decay=0.3, momentum=0.9, dampening=0.0, nesterov=True, maximize=False)
def test_sgd_walks_as_pytorchs(lr, weight_decay, momentum, dampening, nesterov, maximize):
    torch = pytest.importorskip("torch")
    if nesterov and not momentum:
        nesterov = False
    if nesterov:
        dampening = 0.0
    if maximize:
        lr = lr / 50  # uphill the bowl has no end
    compare(torch, "SGD", lr=lr, weight_decay=weight_decay, momentum=momentum, dampening=dampening, nesterov=nesterov,
            maximize=maximize)  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@settings(max_examples=8)
@given(
    lr=rates,
    weight_decay=decays,
    beta1=st.sampled_from([0.0, 0.8, 0.9]),
    beta2=st.sampled_from([0.9, 0.99, 0.999]),
    eps=st.sampled_from([1e-8, 1e-3]),
    maximize=st.booleans(),
)
@example(lr=0.01, weight_decay=0.3, beta1=0.9, beta2=0.99, eps=1e-3, maximize=True)
def test_adam_walks_as_pytorchs(name, lr, weight_decay, beta1, beta2, eps, maximize):
    torch = pytest.importorskip("torch")
    compare(torch, name, lr=lr, weight_decay=weight_decay, betas=(beta1, beta2), eps=eps, maximize=maximize)


@pytest.mark.torch
@settings(max_examples=8)
@given(
    weight_decay=decays,
    alpha=st.sampled_from([0.5, 0.9, 0.99]),
    momentum=st.sampled_from([0.0, 0.9]),
    centered=st.booleans(),
    maximize=st.booleans(),
)
@example(weight_decay=0.3, alpha=0.9, momentum=0.9, centered=True, maximize=True)
def test_rmsprop_walks_as_pytorchs(weight_decay, alpha, momentum, centered, maximize):
    torch = pytest.importorskip("torch")
    options = {"alpha": alpha, "momentum": momentum, "centered": centered, "maximize": maximize}
    compare(torch, "RMSprop", 30, lr=0.003, weight_decay=weight_decay, **options)


@pytest.mark.torch
@settings(max_examples=8)
@given(lr=rates, weight_decay=decays, decay=st.sampled_from([0.0, 0.1]), start=st.sampled_from([0.0, 0.5]))
@example(lr=0.05, weight_decay=0.3, decay=0.1, start=0.5)
def test_adagrad_walks_as_pytorchs(lr, weight_decay, decay, start):
    torch = pytest.importorskip("torch")
    options = {"lr": lr, "lr_decay": decay, "weight_decay": weight_decay, "initial_accumulator_value": start}
    compare(torch, "Adagrad", **options)
    compare(torch, "Adagrad", maximize=True, **options)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_amsgrad_walks_as_pytorchs(torch, name, weight_decay):
    compare(torch, name, amsgrad=True, weight_decay=weight_decay, lr=0.01)
    compare(torch, name, groups=True, amsgrad=True)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_switches_of_how_a_step_is_computed(torch, name):
    """foreach and fused are kept and printed; what would change the step is refused."""
    made = [getattr(lib.optim, name)([lib.nn.Parameter(lib.ones(2))], foreach=True) for lib in (tg, torch)]
    assert repr(made[0]) == repr(made[1])
    compare(torch, name, 5, foreach=True)
    with pytest.raises(NotImplementedError, match="differentiable"):
        getattr(optim, name)([nn.Parameter(tg.ones(2))], differentiable=True)
    if name != "RMSprop":
        assert getattr(optim, name)([nn.Parameter(tg.ones(2))], fused=True).defaults["fused"] is True
        with pytest.raises(RuntimeError, match="cannot be `True` together"):
            getattr(optim, name)([nn.Parameter(tg.ones(2))], fused=True, foreach=True)
    if name not in ("SGD", "Adagrad"):
        with pytest.raises(NotImplementedError, match="capturable"):
            getattr(optim, name)([nn.Parameter(tg.ones(2))], capturable=True)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_defaults_groups_and_single_precision(torch, name):
    compare(torch, name)
    compare(torch, name, groups=True)
    ours, theirs = (trajectory(lib, name, 100, "float32", lr=0.01, weight_decay=0.1) for lib in (tg, torch))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.torch
def test_decoupled_adam_is_adamw(torch):
    options = {"lr": 0.02, "weight_decay": 0.3}
    a = trajectory(tg, "Adam", 20, "float64", decoupled_weight_decay=True, **options)
    np.testing.assert_array_equal(a, trajectory(tg, "AdamW", 20, "float64", **options))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_001])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_tiles_change_nothing(make, size):
    """A large parameter, one that is transposed, and the reference kernels agree."""
    draw = np.random.default_rng(size)
    start, grads = draw.standard_normal((2, size)), draw.standard_normal((3, 2, size))

    def run(shape_of):
        p = nn.Parameter(shape_of(tg.tensor(start)))
        memory = p.array
        optimizer = make([p], lr=0.1, weight_decay=0.1, **({"momentum": 0.9} if make is optim.SGD else {}))
        for g in grads:
            p.grad = shape_of(tg.tensor(g))
            optimizer.step()
            np.testing.assert_array_equal(p.grad.array, shape_of(tg.tensor(g)).array)  # left as it was
        assert p.array is memory
        return p.array

    whole = run(lambda t: t)
    transposed = run(lambda t: tg.tensor(t.numpy().T.copy()).T)
    np.testing.assert_allclose(whole, transposed, rtol=1e-12, atol=1e-14)
    with kernels.use("reference"):
        np.testing.assert_allclose(whole, run(lambda t: t), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_state_round_trip_goes_on_exactly(make):
    def build(lr):
        tg.manual_seed(3)
        model = nn.Linear(3, 2)
        options = {"momentum": 0.9} if make is optim.SGD else {}
        return model, make([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.3}], lr=lr, **options)

    def walk(model, optimizer, steps):
        x = tg.ones(4, 3)
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()

    one, first = build(lr=0.1)
    walk(one, first, 3)
    two, second = build(lr=0.7)
    two.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    assert [group["lr"] for group in second.param_groups] == [0.1, 0.3]
    assert second.param_groups[1]["params"] == [two.bias]
    walk(one, first, 5)
    walk(two, second, 5)
    np.testing.assert_array_equal(one.weight.array, two.weight.array)  # sharing moments, they would disturb each other
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert first.state[p].keys() == second.state[q].keys() != set()
        for key, value in first.state[p].items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(second.state[q][key]), err_msg=key)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_state_dict_has_pytorchs_names(torch, name):
    def build(lib):
        p, q = lib.nn.Parameter(lib.ones(2)), lib.nn.Parameter(lib.ones(3))
        optimizer = getattr(lib.optim, name)([p, q], lr=0.5, **({"momentum": 0.9} if name == "SGD" else {}))
        (p.sum() + q.sum()).backward()
        optimizer.step()
        return optimizer

    ours, theirs = build(tg).state_dict(), build(torch).state_dict()
    assert ours.keys() == theirs.keys() and ours["state"].keys() == theirs["state"].keys()
    assert ours["state"][0].keys() == theirs["state"][0].keys()
    for mine, its in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert mine == its


@pytest.mark.torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimizers_print_as_in_pytorch(torch, name):
    def built(lib):
        optimizer = getattr(lib.optim, name)([lib.nn.Parameter(lib.ones(2))], lr=0.5)
        optimizer.add_param_group({"params": [lib.nn.Parameter(lib.ones(3))], "weight_decay": 0.3})
        lib.optim.lr_scheduler.StepLR(optimizer, 3)
        return optimizer

    assert repr(built(tg)) == repr(built(torch))


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_only_parameters_with_gradients_move(make):
    p, q = nn.Parameter(tg.ones(2)), nn.Parameter(tg.ones(2))
    optimizer = make([p, q], lr=0.1)
    p.sum().backward()
    optimizer.step()
    assert q.tolist() == [1.0, 1.0] and p.tolist() != [1.0, 1.0] and q not in optimizer.state
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    optimizer.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_closure_and_convergence(make):
    target, p = tg.tensor([1.0, -2.0]), nn.Parameter(tg.zeros(2))
    optimizer = make([p], lr=0.5 if make is optim.Adagrad else 0.1, weight_decay=0.0)

    def closure():
        optimizer.zero_grad()
        loss = ((p - target) ** 2).sum()
        loss.backward()
        return loss

    with tg.no_grad():  # the closure records all the same
        losses = [float(optimizer.step(closure)) for _ in range(200)]
    assert losses[0] == 5.0 and losses[-1] < 1e-2
    assert optimizer.step() is None


def test_a_step_after_forward_makes_the_old_graph_unusable():
    p = nn.Parameter(tg.ones(2))
    loss = (p * p).sum()
    p.grad = tg.ones(2)
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_wrong_parameters_are_refused(make):
    p = nn.Parameter(tg.ones(2))
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        make([])
    with pytest.raises(TypeError, match="should be an iterable of Tensors or dicts, but got"):
        make(p)
    with pytest.raises(ValueError, match="duplicate parameters"):
        make([p, p])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        make([p * 2])
    with pytest.raises(TypeError, match="optimizer can only optimize Tensors, but one of the params is int"):
        make([3])
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        make([{"params": [p]}, {"params": p}])
    with pytest.raises(TypeError, match="param_group must be a dict"):
        make([p]).add_param_group([p])
    with pytest.raises(TypeError, match="Please use a list instead"):
        make([{"params": {p}}])
    with pytest.raises(TypeError, match="decay"):
        make([p], decay=0.1)  # what is not known is not ignored


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (optim.SGD, {"lr": -1}, "Invalid learning rate: -1"),
        (optim.SGD, {"momentum": -0.5}, "Invalid momentum value: -0.5"),
        (optim.SGD, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (optim.SGD, {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        (optim.Adam, {"lr": float("nan")}, "Invalid learning rate: nan"),
        (optim.Adam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (optim.Adam, {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (optim.Adam, {"eps": -1}, "Invalid epsilon value: -1"),
        (optim.AdamW, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
    ],
)
def test_wrong_options_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(tg.ones(1))], **options)


def test_state_of_another_shape_is_refused_and_changes_nothing():
    p, q = nn.Parameter(tg.ones(1)), nn.Parameter(tg.ones(1))
    one, two = optim.SGD([p], lr=0.1), optim.SGD([{"params": [p]}, {"params": [q]}], lr=0.2)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        one.load_state_dict(optim.SGD([p, q], lr=0.2).state_dict())
    assert one.param_groups[0]["lr"] == 0.1


def test_a_state_of_another_shape_changes_nothing():
    def trained(n):
        p = nn.Parameter(tg.ones(n))
        optimizer = optim.AdamW([p], lr=0.1)
        p.sum().backward()
        optimizer.step()
        return p, optimizer

    (p, one), (_, two) = trained(2), trained(3)
    before = one.state[p]["exp_avg"].tolist()
    with pytest.raises(ValueError, match=r"exp_avg of shape \[3\] for parameter 0 of shape \[2\]"):
        one.load_state_dict(two.state_dict())
    assert one.state[p]["exp_avg"].tolist() == before
