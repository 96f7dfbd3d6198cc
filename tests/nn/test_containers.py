"""Sequential, ModuleList, ModuleDict and ParameterList."""

from collections import OrderedDict

import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def kinds(container):
    return [type(module).__name__ for module in container]


@pytest.mark.parametrize("make", [nn.Sequential, lambda *modules: nn.ModuleList(modules)])
def test_lists_of_modules_behave_as_lists(make):
    box = make(nn.ReLU(), nn.Tanh(), nn.GELU())
    assert len(box) == 3 and kinds(box) == ["ReLU", "Tanh", "GELU"]
    assert type(box[1]) is nn.Tanh and type(box[-1]) is nn.GELU
    assert kinds(box[1:]) == ["Tanh", "GELU"] and type(box[1:]) is type(box)
    box[0] = nn.SiLU()
    assert box.append(nn.Sigmoid()) is box
    box.insert(1, nn.Identity())
    box.extend([nn.ReLU()])
    assert kinds(box) == ["SiLU", "Identity", "Tanh", "GELU", "Sigmoid", "ReLU"]
    assert list(box._modules) == [str(i) for i in range(6)]
    assert type(box.pop(-2)) is nn.Sigmoid
    del box[0]
    del box[1:3]
    assert kinds(box) == ["Identity", "ReLU"] and list(box._modules) == ["0", "1"]
    box += make(nn.Tanh())
    assert kinds(box + make(nn.GELU())) == ["Identity", "ReLU", "Tanh", "GELU"] and len(box) == 3
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=f"index {wrong} is out of range"):
            box[wrong]
    with pytest.raises(IndexError, match="Index out of range: 9"):
        box.insert(9, nn.ReLU())
    with pytest.raises(TypeError, match="is not a Module subclass"):
        box.append(3)


def test_sequential_chains_and_names():
    named = nn.Sequential(OrderedDict(twice=nn.Linear(1, 1), act=nn.ReLU()))
    assert [name for name, _ in named.named_children()] == ["twice", "act"]
    named.twice.load_state_dict({"weight": tg.full((1, 1), 2.0), "bias": tg.zeros(1)})
    assert named(tg.tensor([[3.0], [-3.0]])).tolist() == [[6.0], [0.0]]
    assert nn.Sequential()(5) == 5
    del named[0]
    assert [name for name, _ in named.named_children()] == ["0"]  # what is left is numbered
    with pytest.raises(ValueError, match="only objects of Sequential class"):
        named + [nn.ReLU()]


def test_module_list_runs_nothing():
    with pytest.raises(NotImplementedError):
        nn.ModuleList([nn.ReLU()])(1)
    with pytest.raises(TypeError, match="iterable, but got ReLU"):
        nn.ModuleList().extend(nn.ReLU())


def test_module_dict():
    box = nn.ModuleDict({"a": nn.ReLU()})
    box.update([("b", nn.Tanh()), ("a", nn.GELU())])
    box["c"] = nn.Linear(1, 1)
    assert list(box) == list(box.keys()) == ["a", "b", "c"] and len(box) == 3 and "b" in box
    assert type(box["a"]) is nn.GELU and [name for name, _ in box.named_parameters()] == ["c.weight", "c.bias"]
    assert type(box.pop("b")) is nn.Tanh and [k for k, _ in box.items()] == ["a", "c"]
    del box["a"]
    assert kinds(box.values()) == ["Linear"]
    box.clear()
    assert len(box) == 0
    with pytest.raises(TypeError, match="key/value pairs, but got int"):
        box.update(3)


def test_parameter_list():
    box = nn.ParameterList([tg.ones(2), nn.Parameter(tg.zeros(3))])
    box += [tg.ones(1)]
    box[-1] = tg.full((4,), 2.0)
    assert len(box) == 3 and all(isinstance(p, nn.Parameter) for p in box)
    assert list(box.state_dict()) == ["0", "1", "2"] and box[2].shape == (4,)
    assert len(box[1:]) == 2 and box[1:][0] is box[1]
    with pytest.raises(RuntimeError, match="should not be called"):
        box()
    with pytest.raises(TypeError, match="iterable, but got Tensor"):
        box.extend(tg.ones(2))
    with pytest.raises(IndexError):
        box[3]


@pytest.mark.torch
def test_printed_form_is_pytorchs(torch):
    def build(lib):
        nn = lib.nn
        block = [nn.Linear(2, 2), nn.ReLU()]
        return nn.Sequential(
            OrderedDict(
                embed=nn.Embedding(5, 2, padding_idx=-1),
                plain=nn.Embedding(5, 2),
                blocks=nn.ModuleList([nn.Sequential(*block), nn.Sequential(*block), nn.Linear(2, 2, bias=False)]),
                empty=nn.ModuleList(),
                options=nn.ModuleDict({"a": nn.GELU(), "b": nn.GELU("tanh"), "c": nn.Identity(3)}),
                acts=nn.ModuleList(
                    [nn.LeakyReLU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.Softmax(dim=1), nn.LogSoftmax(-1)]
                ),
                soft=nn.Softplus(),
                norm=nn.LayerNorm(2),
                norm2=nn.LayerNorm((3, 2), eps=1e-6, elementwise_affine=False),
                rms=nn.RMSNorm(2),
                drop=nn.Dropout(0.1),
                flat=nn.Flatten(),
                params=nn.ParameterList([lib.ones(2, 3), lib.ones(4)]),
                losses=nn.ModuleList(
                    [nn.CrossEntropyLoss(), nn.NLLLoss(), nn.MSELoss(), nn.BCELoss(), nn.BCEWithLogitsLoss()]
                ),
                nothing=nn.Sequential(),
            )
        )

    assert repr(build(tg)) == repr(build(torch))
    assert repr(tg.nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
