"""Mixed precision: inside a region of `autocast` products take 16-bit factors, and what needs it stays in float32.

PyTorch's lists say which functions do what on which kind of device. A listed function carries the decorator
`autocasts`, which casts its tensors inside a region and costs next to nothing outside. A cast tensor stands at the node
of the one that it was made from: no op is recorded for the cast, and the gradient of a weight, a float32 sum over all
tokens, reaches the weight without being rounded to 16 bits in between, as it is in PyTorch.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, kernels
from tinygrad_llm.autograd import graph
from tinygrad_llm.autograd.methods import public_name
from tinygrad_llm.autograd.tensor import Tensor, wrap
from tinygrad_llm.kernels.cuda import capture

# --- PyTorch's lists, of the functions that exist here ---

NARROW = {"addmm", "bmm", "linear", "matmul", "mm", "prelu", "scaled_dot_product_attention",
          "activated_linear", "attention_of_packed", "feed_forward", "lora_linear"}  # fmt: skip
"""Computed in 16 bits. The last four are ours, made of such functions; linear_cross_entropy asks for its own dtype."""

LOSSES = {"cosine_embedding_loss", "cross_entropy", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
          "margin_ranking_loss", "mse_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss",
          "triplet_margin_loss", "binary_cross_entropy_with_logits"}  # fmt: skip

LISTS: dict[str, dict[str, set[str]]] = {
    "cuda": {
        "narrow": NARROW | {"einsum", "mv"},
        "wide": LOSSES | {
            "acos", "asin", "cosh", "cosine_similarity", "cumprod", "cumsum", "exp", "expm1", "group_norm",
            "layer_norm", "log", "log10", "log1p", "log2", "log_softmax", "logsumexp", "norm", "pow", "prod",
            "reciprocal", "rms_norm", "rsqrt", "sinh", "softmax", "softplus", "sum", "tan",
        },
        "widest": {"addcdiv", "addcmul", "atan2", "dot", "scatter_add", "tensordot", "vdot"},
        "refused": {"binary_cross_entropy"},
    },
    "cpu": {
        "narrow": NARROW,
        "wide": LOSSES | {"binary_cross_entropy", "prod", "quantile", "trace"},
        "widest": {"cat", "stack"},
    },
}  # fmt: skip

REFUSED = (
    "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast: probabilities of 16 bits "
    "lose what lies near 0 and 1; use binary_cross_entropy_with_logits"
)

# --- the regions ---

DEFAULTS = {"cuda": dtypes.float16, "cpu": dtypes.bfloat16}
regions = 0  # that are open, in all threads: while there is none, a listed function looks no further
_lock = threading.Lock()


Leaf = weakref.ref[Tensor]
Kept = tuple[tuple[Any, np.dtype, Any], int, Any]  # the array that was cast, to what, in which capture; when; the cast


class State(threading.local):
    """What holds in this thread: the narrow dtype of each kind of device that is in a region, and the casts kept.

    Leaves on a GPU are cast in one launch: the first that a region asks for brings along all that were asked for in
    the last region that began with it.
    """

    def __init__(self) -> None:
        self.narrow: dict[str, dtypes.dtype] = {}
        self.cache_enabled = True
        self.kept: dict[graph.Node, Kept] = {}
        self.ahead: dict[graph.Node, Kept] = {}  # of leaves that were brought along, until they are asked for
        self.asked: dict[graph.Node, Leaf] = {}  # on a GPU in this region, in this order
        self.again = False  # whether the outermost region is one that computes a part again, and has few of the leaves
        self.together: tuple[weakref.WeakKeyDictionary[graph.Node, list[Leaf]], ...] = (
            weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()
        )  # first leaf -> all, of regions that compute for the first time, and again  # fmt: skip


state = State()


@contextmanager
def region(narrow: dict[str, dtypes.dtype], cache_enabled: bool, again: bool = False) -> Iterator[None]:
    """Inside, these kinds of device compute listed functions in these dtypes; casts go when the outermost is left."""
    global regions
    before = state.narrow, state.cache_enabled
    outermost = not before[0]
    with _lock:
        regions += 1
    state.narrow, state.cache_enabled = narrow, cache_enabled
    if outermost:
        state.again = again
    try:
        yield
    finally:
        state.narrow, state.cache_enabled = before
        if outermost:
            _forget()
        with _lock:
            regions -= 1


def _forget() -> None:
    """Let the casts go, and remember which there were."""
    if state.asked:
        state.together[state.again][next(iter(state.asked))] = list(state.asked.values())
    state.kept, state.ahead, state.asked = {}, {}, {}


def again() -> Callable[[], Any]:
    """What opens this thread's region once more: in another thread, or for a part that backward computes again."""
    narrow, cache_enabled = state.narrow, state.cache_enabled
    return lambda: region(narrow, cache_enabled, again=True) if narrow or regions else nullcontext()


# --- the casts ---


def autocasts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that the lists name one that casts its tensors inside a region."""
    name = public_name(function)
    rules = {kind: rule for kind, lists in LISTS.items() for rule, names in lists.items() if name in names}
    assert rules, f"{name} is on no list"

    @wraps(function)
    def listed(*args: Any, **kwargs: Any) -> Any:
        if not regions:
            return function(*args, **kwargs)
        return _inside(function, rules, args, kwargs)

    return listed


def _inside(function: Callable[..., Any], rules: dict[str, str], args: Any, kwargs: Any) -> Any:
    """A listed function's result; what it calls in turn casts no more."""
    tensors = list(_tensors((args, tuple(kwargs.values()))))
    kind = "cuda" if any(not x.is_cpu for x in tensors) else "cpu"
    narrow, rule = state.narrow.get(kind), rules.get(kind)
    if narrow is None or rule is None:
        return function(*args, **kwargs)
    if rule == "refused":
        raise RuntimeError(REFUSED)
    to = narrow if rule == "narrow" else dtypes.float32
    if rule == "widest" and all(x.dtype is narrow for x in tensors if x.is_floating_point()):
        to = narrow
    args = _map(args, to.numpy)
    kwargs = {key: _map(value, to.numpy) for key, value in kwargs.items()}
    before, state.narrow = state.narrow, {}
    try:
        return function(*args, **kwargs)
    finally:
        state.narrow = before


def if_listed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`autocasts` for the functions that are on a list, of many that are made alike."""
    names = (names for lists in LISTS.values() for names in lists.values())
    return autocasts(function) if any(public_name(function) in some for some in names) else function


def narrow_dtype(*tensors: Tensor) -> dtypes.dtype | None:
    """The dtype that products of these tensors take here; None outside a region."""
    return state.narrow.get("cuda" if any(not x.is_cpu for x in tensors) else "cpu") if regions else None


def narrowed(*tensors: Tensor) -> list[Tensor]:
    """Tensors as a function on the list "narrow" gets them here, for one that is not always such."""
    to = narrow_dtype(*tensors)
    return list(tensors) if to is None else [cast(x, to.numpy) for x in tensors]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _map(value: Any, to: np.dtype) -> Any:
    """Tensors, also in lists, in a dtype."""
    if isinstance(value, Tensor):
        return cast(value, to)
    if type(value) in (list, tuple):
        return type(value)(_map(part, to) for part in value)
    return value


def cast(x: Tensor, to: np.dtype) -> Tensor:
    """x in a dtype, at x's node; x itself where it has it already, or holds integers or float64.

    The cast of a leaf is kept until the outermost region is left, or the leaf is written to; a graph casts for itself.
    """
    array = x.array
    if array.dtype == to or not x.is_floating_point() or array.itemsize == 8:
        return x
    node = x.node
    if node is None or node.op is not None or x.source is not None or not state.cache_enabled or array.itemsize != 4:
        return _at(node, _as(array, to))
    now = array, to, capture.at_work()
    found = state.kept.get(node)
    if found is None or _is_stale(found, now):
        found = state.kept[node] = _kept(x, node, now)
    return _at(node, found[2])


def _is_stale(found: Kept, now: tuple[Any, np.dtype, Any]) -> bool:
    array, to, capturing = found[0]
    other = array is not now[0] or to is not now[1] or capturing is not now[2]
    return other or graph.written_since(array, found[1])


def _kept(x: Tensor, node: graph.Node, now: tuple[Any, np.dtype, Any]) -> Kept:
    """The cast of a leaf."""
    array, to, capturing = now
    if isinstance(array, np.ndarray):
        return now, next(graph.clock), _as(array, to)
    state.asked.setdefault(node, weakref.ref(x))
    found = state.ahead.pop(node, None)
    if found is not None and not _is_stale(found, now):
        return found
    arrays = {node: array}
    for leaf in state.together[state.again].get(node, ()):
        y = leaf()
        if y is not None and y.node is not None and y.node.op is None and _is_like(y.array, array):
            arrays[y.node] = y.array
    date, casts = next(graph.clock), devices.run(kernels.of(array).cast, [array], list(arrays.values()), to)
    for (key, a), cast in zip(arrays.items(), casts, strict=True):
        state.ahead[key] = (a, to, capturing), date, cast
    return state.ahead.pop(node)


def _is_like(array: Any, other: Any) -> bool:
    """Whether an array has another's dtype, and lives where it does."""
    return array.dtype == other.dtype and devices.of(array) == devices.of(other)


def _as(array: Any, to: np.dtype) -> Any:
    return devices.run(array.astype, [array], to)


def _at(node: Any, array: Any) -> Tensor:
    y = wrap(array)
    y._node = node
    return y
