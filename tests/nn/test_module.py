"""What a module is: registration, walking, hooks, state dicts, conversion, the printed form."""

import copy
import gc
import weakref

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


class Tree(nn.Module):
    """A module with everything: a parameter of its own, buffers, children, a shared parameter, an absent child."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(tg.ones(2))
        self.register_buffer("seen", tg.zeros(1, dtype=tg.int64))
        self.register_buffer("scratch", tg.zeros(3), persistent=False)
        self.first = nn.Linear(2, 3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
        self.twin = self.first
        self.absent = None
        self.first_copy = nn.Linear(2, 3)
        self.first_copy.weight = self.first.weight

    def forward(self, x):
        return self.body(self.first(x * self.scale))


NAMES = [
    "scale", "first.weight", "first.bias", "body.0.weight", "body.0.bias", "body.2.weight", "first_copy.bias",
]  # fmt: skip


def test_walks_name_everything_once():
    tree = Tree()
    assert [name for name, _ in tree.named_parameters()] == NAMES
    assert len(list(tree.parameters())) == len(NAMES)
    assert [name for name, _ in tree.named_parameters(recurse=False)] == ["scale"]
    assert next(tree.named_parameters(prefix="top"))[0] == "top.scale"
    assert [name for name, _ in tree.named_buffers()] == ["seen", "scratch"]
    assert [name for name, _ in tree.named_children()] == ["first", "body", "first_copy"]
    paths = ["", "first", "body", "body.0", "body.1", "body.2", "first_copy"]
    assert [name for name, _ in tree.named_modules()] == paths
    with_twins = [name for name, _ in tree.named_parameters(remove_duplicate=False)]
    assert {"twin.weight", "first_copy.weight"} <= set(with_twins)


def test_state_dict_holds_shared_names_and_persistent_buffers_only():
    tree = Tree()
    state = tree.state_dict()
    assert set(state) == {*NAMES, "seen", "twin.weight", "twin.bias", "first_copy.weight"}
    assert state["scale"].array is tree.scale.array or np.shares_memory(state["scale"].array, tree.scale.array)
    assert not state["scale"].requires_grad
    assert tree.state_dict(keep_vars=True)["scale"] is tree.scale
    assert list(tree.first.state_dict(prefix="a.")) == ["a.weight", "a.bias"]


def test_state_dict_round_trip():
    tg.manual_seed(1)
    one, two = Tree(), Tree()
    one.seen.fill_(7)
    assert not np.array_equal(one.first.weight.array, two.first.weight.array)
    kept = two.first.weight
    result = two.load_state_dict(one.state_dict())
    assert repr(result) == "<All keys matched successfully>"
    assert two.first.weight is kept  # copied into, not replaced
    for name, value in one.state_dict().items():
        assert np.array_equal(value.array, two.state_dict()[name].array), name
    assert not np.shares_memory(one.scale.array, two.scale.array)


def test_strict_loading_lists_every_problem_and_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = {name: value.array.copy() for name, value in model.state_dict().items()}
    state = {name: tg.ones(*value.shape) for name, value in model.state_dict().items()}
    del state["0.weight"], state["0.bias"]
    state["extra"] = state["other.extra"] = tg.ones(1)
    state["1.weight"] = tg.ones(3, 3)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    assert str(caught.value) == (
        "Error(s) in loading state_dict for Sequential:\n"
        '\tMissing key(s) in state_dict: "0.weight", "0.bias". \n'
        '\tUnexpected key(s) in state_dict: "extra", "other.extra". \n'
        "\tsize mismatch for 1.weight: copying a param with shape torch.Size([3, 3]) from checkpoint, "
        "the shape in current model is torch.Size([2, 3])."
    )
    for name, value in model.state_dict().items():
        assert np.array_equal(value.array, before[name])
    with pytest.raises(RuntimeError, match=r"size mismatch for 1.weight"):
        model.load_state_dict(state, strict=False)  # shapes count even then
    assert np.array_equal(model[1].bias.array, before["1.bias"])


def test_loading_that_is_not_strict_reports_what_it_skipped():
    model = nn.Linear(2, 1)
    result = model.load_state_dict({"weight": tg.ones(1, 2), "scale": tg.ones(1)}, strict=False)
    assert result.missing_keys == ["bias"] and result.unexpected_keys == ["scale"]
    assert model.weight.tolist() == [[1.0, 1.0]]
    with pytest.raises(TypeError, match="dict-like"):
        model.load_state_dict([("weight", tg.ones(1, 2))])
    with pytest.raises(RuntimeError, match=r'named "weight", expected torch\.Tensor'):
        model.load_state_dict({"weight": np.ones((1, 2)), "bias": tg.ones(1)})


@pytest.mark.torch
def test_assigning_a_state_dict_is_pytorchs(torch):
    def told(lib):
        model = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.Module())
        model[1].register_buffer("seen", lib.zeros(1, dtype=lib.int64))
        model[0].bias.requires_grad = False
        weight, bias = lib.ones(2, 2, dtype=lib.float64), lib.nn.Parameter(lib.ones(2))
        seen = lib.ones(1, dtype=lib.int32)
        result = model.load_state_dict({"0.weight": weight, "0.bias": bias, "1.seen": seen}, assign=True)
        weight[0, 0] = 5.0
        one = model[0]
        return [
            repr(result), str(one.weight.dtype), one.weight.tolist(), one.weight.requires_grad, one.bias is bias,
            bias.requires_grad, model[1].seen is seen, [name for name, _ in model.named_parameters()],
            [type(p).__name__ for p in model.parameters()], list(model.state_dict()),
        ]  # fmt: skip

    assert told(tg) == told(torch)


def test_assigning_keeps_tied_weights_tied_and_checks_all_before_any():
    model, other = Tree(), Tree()
    before = list(model.parameters())
    with pytest.raises(RuntimeError, match=r"scale: a parameter that requires a gradient cannot become .*int64"):
        model.load_state_dict({**other.state_dict(), "scale": tg.ones(2, dtype=tg.int64)}, assign=True)
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        model.load_state_dict({**other.state_dict(), "scale": tg.ones(3)}, assign=True)
    assert all(p is q for p, q in zip(model.parameters(), before, strict=True))
    model.load_state_dict(other.state_dict(), assign=True)
    assert model.twin.weight is model.first.weight and len(list(model.parameters())) == len(before)
    assert model.first.weight.data_ptr() == other.first.weight.data_ptr() and model.first.weight.requires_grad
    model(tg.ones(1, 2)).sum().backward()
    assert model.first.weight.grad is not None and other.first.weight.grad is None


@pytest.mark.torch
def test_strict_message_is_pytorchs(torch):
    def message(library, tensors):
        model = library.nn.Sequential(library.nn.Linear(2, 3), library.nn.LayerNorm(3))
        state = dict(model.state_dict())
        state.pop("0.bias")
        state["x.y"] = tensors.ones(1)
        state["1.weight"] = tensors.ones(4)
        with pytest.raises(RuntimeError) as caught:
            model.load_state_dict(state)
        return str(caught.value)

    assert message(tg, tg) == message(torch, torch)


def test_assignment_registers_and_replaces():
    module = nn.Module()
    module.x = 3
    module.x = nn.Parameter(tg.ones(1))
    assert list(dict(module.named_parameters())) == ["x"] and "x" not in module.__dict__
    module.x = None
    assert module.x is None and list(module.parameters()) == []
    module.x = nn.Linear(1, 1)
    assert [name for name, _ in module.named_children()] == ["x"] and "x" not in module._parameters
    del module.x
    assert not hasattr(module, "x")
    module.register_buffer("b", tg.ones(2))
    module.b = tg.zeros(2)
    assert module.state_dict()["b"].tolist() == [0.0, 0.0]
    del module.b
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'b'"):
        module.b  # noqa: B018
    module.register_parameter("none", None)
    assert module.none is None and "none" not in module.state_dict()


def test_wrong_assignments_are_refused():
    module = nn.Module()
    module.p, module.m = nn.Parameter(tg.ones(1)), nn.ReLU()
    module.register_buffer("b", None)
    with pytest.raises(TypeError, match=r"cannot assign 'Tensor' as parameter 'p' \(torch.nn.Parameter or None"):
        module.p = tg.ones(1)
    with pytest.raises(TypeError, match=r"cannot assign 'int' as child module 'm' \(torch.nn.Module or None"):
        module.m = 3
    with pytest.raises(TypeError, match=r"cannot assign 'int' as buffer 'b'"):
        module.b = 3
    with pytest.raises(KeyError, match=r't contain "\."'):
        module.register_buffer("a.b", None)
    with pytest.raises(KeyError, match="empty string"):
        module.add_module("", nn.ReLU())
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        module.register_parameter("forward", None)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        module.add_module("x", 3)
    with pytest.raises(TypeError, match="parameter name should be a string"):
        module.register_parameter(3, None)
    with pytest.raises(TypeError, match=r"object to parameter 'q' \(torch.nn.Parameter or None required\)"):
        module.register_parameter("q", tg.ones(1))
    with pytest.raises(NotImplementedError, match='missing the required "forward" function'):
        module(1)

    computed = nn.Parameter(tg.zeros(1), requires_grad=False)
    computed.add_(module.p)  # recorded: no leaf any more
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor to parameter 'c'"):
        module.c = computed

    class Early(nn.Module):
        def __init__(self, value):
            self.value = value

    with pytest.raises(AttributeError, match=r"cannot assign module before Module.__init__\(\) call"):
        Early(nn.ReLU())
    with pytest.raises(AttributeError, match=r"cannot assign parameters before Module.__init__\(\) call"):
        Early(nn.Parameter(tg.ones(1)))


def test_paths_lead_to_members():
    tree = Tree()
    assert tree.get_submodule("body.2") is tree.body[2] and tree.get_submodule("") is tree
    assert tree.get_parameter("body.0.bias") is tree.body[0].bias
    assert tree.get_buffer("seen") is tree.seen
    with pytest.raises(AttributeError, match="Sequential has no attribute `9`"):
        tree.get_submodule("body.9")
    with pytest.raises(AttributeError, match=r"`scale` is not an nn\.Module"):
        tree.get_submodule("scale")
    with pytest.raises(AttributeError, match=r"`training` is not an nn\.Parameter"):
        tree.get_parameter("training")
    with pytest.raises(AttributeError, match="`scale` is not a buffer"):
        tree.get_buffer("scale")
    assert {"scale", "seen", "first", "forward"} <= set(dir(tree))
    assert "0" not in dir(tree.body)


def test_hooks_see_and_change_what_passes():
    layer, calls = nn.Identity(), []

    def note(name):
        return lambda *args: calls.append((name, *args[1:]))

    first = layer.register_forward_pre_hook(note("pre"))
    layer.register_forward_hook(note("post"))
    assert layer(1) == 1
    assert calls == [("pre", (1,)), ("post", (1,), 1)]
    first.remove()
    first.remove()
    calls.clear()
    assert layer(2) == 2 and calls == [("post", (2,), 2)]

    once = [layer.register_forward_hook(lambda *args: once.pop().remove()) for _ in range(1)]
    assert layer(3) == layer(3) == 3 and not once  # a hook may remove itself

    layer = nn.Identity()
    layer.register_forward_pre_hook(lambda module, args: args[0] + 1)  # not a tuple: the one argument
    with layer.register_forward_hook(lambda module, args, output: output * 10):
        assert layer(1) == 20
    assert layer(1) == 2


def test_hooks_run_in_order_and_may_take_keywords():
    class Sum(nn.Module):
        def forward(self, a, *, b=0):
            return a + b

    layer = Sum()
    layer.register_forward_hook(lambda m, a, out: out + 1)
    layer.register_forward_hook(lambda m, a, out: out * 2)
    handle = layer.register_forward_hook(lambda m, a, out: out * 100, prepend=True)
    assert layer(1) == 202
    handle.remove()
    assert layer(1) == 4
    layer.register_forward_pre_hook(lambda m, a, k: (a, {"b": k["b"] + 5}), with_kwargs=True)
    layer.register_forward_hook(lambda m, a, k, out: (out, k["b"]), with_kwargs=True)
    assert layer(1, b=1) == ((1 + 6 + 1) * 2, 6)
    layer.register_forward_pre_hook(lambda m, a, k: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match="forward pre-hook must return None or a tuple"):
        layer(1, b=1)


def test_modes_gradients_and_apply():
    tree = Tree()
    assert tree.eval() is tree and not any(m.training for m in tree.modules())
    assert tree.train().body[0].training
    with pytest.raises(ValueError, match="training mode is expected to be boolean"):
        tree.train(1)
    order = []
    tree.apply(lambda module: order.append(type(module).__name__))
    assert order == ["Linear", "Linear", "ReLU", "Linear", "Sequential", "Linear", "Tree"]

    tree(tg.ones(4, 2)).sum().backward()
    assert tree.first.weight.grad is not None
    tree.zero_grad(set_to_none=False)
    assert not tree.first.weight.grad.array.any()
    tree.zero_grad()
    assert tree.first.weight.grad is None
    tree.first.requires_grad_(False)
    assert [n for n, p in tree.named_parameters() if not p.requires_grad] == ["first.weight", "first.bias"]


def test_conversion_keeps_objects_and_sharing():
    tree = Tree()
    weight = tree.first.weight
    tree(tg.ones(4, 2)).sum().backward()
    assert tree.double() is tree
    assert tree.first.weight is weight is tree.first_copy.weight
    assert weight.dtype is tg.float64 and weight.grad.dtype is tg.float64
    assert tree.scratch.dtype is tg.float64 and tree.seen.dtype is tg.int64
    tree.zero_grad()
    tree(tg.ones(4, 2, dtype=tg.float64)).sum().backward()
    assert weight.grad.dtype is tg.float64  # gradients follow the new dtype
    assert tree.to(tg.ones(1, dtype=tg.float32)).scale.dtype is tg.float32
    assert tree.to("cpu", tg.float64).scale.dtype is tg.float64
    assert tree.bfloat16().scale.dtype is tg.bfloat16 and tree.half().scale.dtype is tg.float16
    assert tree.float().cpu().scale.dtype is tg.float32
    with pytest.raises(TypeError, match=r"floating point or complex dtypes, but got desired dtype=torch\.int64"):
        tree.to(tg.int64)


def test_deep_copies_share_nothing_and_keep_ties():
    tree = Tree()
    other = copy.deepcopy(tree)
    assert other.first.weight is other.first_copy.weight is not tree.first.weight
    assert not np.shares_memory(other.scale.array, tree.scale.array)
    assert np.array_equal(other.first.weight.array, tree.first.weight.array)
    assert isinstance(other.scale, nn.Parameter) and other.scale.requires_grad


def test_modules_die_with_their_last_reference():
    gc.disable()
    try:
        tree = Tree()
        tree(tg.ones(4, 2)).sum().backward()
        gone = weakref.ref(tree)
        del tree
        assert gone() is None
    finally:
        gc.enable()


def test_parameter():
    data = tg.ones(2)
    p = nn.Parameter(data)
    assert p.requires_grad and p.is_leaf and np.shares_memory(p.array, data.array)
    assert repr(p).startswith("Parameter containing:\ntensor([1., 1.], requires_grad=True)")
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    assert nn.Parameter().shape == (0,)
    assert nn.Parameter(p * 2).is_leaf
    with pytest.raises(RuntimeError, match="floating point"):
        nn.Parameter(tg.ones(2, dtype=tg.int64))
    with pytest.raises(TypeError, match="must be a Tensor, not list"):
        nn.Parameter([1.0])
