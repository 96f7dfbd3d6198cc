"""tinygrad_llm: language models on NumPy alone, under PyTorch's names.

`import tinygrad_llm as torch` and go on as you know it.
"""

import math as _math

from tinygrad_llm import amp as amp
from tinygrad_llm import autograd, dtypes, kernels
from tinygrad_llm import backends as backends
from tinygrad_llm import cuda as cuda
from tinygrad_llm import nn as nn
from tinygrad_llm import optim as optim
from tinygrad_llm import profiler as profiler
from tinygrad_llm import utils as utils
from tinygrad_llm.amp import (
    autocast,
    get_autocast_dtype,
    is_autocast_cache_enabled,
    is_autocast_enabled,
)
from tinygrad_llm.autograd import (
    Size,
    Tensor,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    return_types,
    set_grad_enabled,
)
from tinygrad_llm.autograd.creation import (
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_numpy,
    frombuffer,
    full,
    full_like,
    is_tensor,
    linspace,
    logspace,
    ones,
    ones_like,
    tensor,
    tril_indices,
    triu_indices,
    zeros,
    zeros_like,
)
from tinygrad_llm.autograd.drawing import (
    bernoulli,
    multinomial,
    normal,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
)
from tinygrad_llm.autograd.functions import *  # noqa: F403 (every function, under its own name)
from tinygrad_llm.autograd.functions import __all__ as _functions
from tinygrad_llm.autograd.functions.common import result_type
from tinygrad_llm.autograd.functions.typed import (
    BFloat16Tensor,
    BoolTensor,
    ByteTensor,
    CharTensor,
    DoubleTensor,
    FloatTensor,
    HalfTensor,
    IntTensor,
    LongTensor,
    ShortTensor,
    is_complex,
    is_floating_point,
    typename,
)
from tinygrad_llm.autograd.printing import set_printoptions
from tinygrad_llm.devices import device, get_default_device, set_default_device
from tinygrad_llm.dtypes import (
    bfloat16,
    complex64,
    dtype,
    finfo,
    float16,
    float32,
    float64,
    get_default_dtype,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    set_default_dtype,
    uint8,
)
from tinygrad_llm.dtypes import bool_ as bool
from tinygrad_llm.kernels.threads import get_num_threads, set_num_threads
from tinygrad_llm.nn.functional import cosine_similarity, hardshrink, pairwise_distance, prelu, rms_norm
from tinygrad_llm.passthrough import (
    are_deterministic_algorithms_enabled,
    compile,
    get_float32_matmul_precision,
    set_float32_matmul_precision,
    use_deterministic_algorithms,
)
from tinygrad_llm.random import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)
from tinygrad_llm.serialization import load, save

__version__ = "0.1.0"

float, double, half = float32, float64, float16
long, int, short = int64, int32, int16
inf, nan, pi, e = _math.inf, _math.nan, _math.pi, _math.e
newaxis = None

__all__ = [
    *_functions,
    "is_complex", "is_floating_point", "logspace",
    "BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "Generator",
    "HalfTensor", "IntTensor", "LongTensor", "ShortTensor", "Size", "Tensor", "amp", "arange",
    "are_deterministic_algorithms_enabled", "as_tensor", "asarray", "autocast", "autograd", "backends", "bernoulli",
    "bfloat16", "bool", "compile", "cuda", "default_generator", "device", "double", "dtype", "dtypes", "e", "empty",
    "empty_like", "enable_grad", "eye", "finfo", "float", "float16", "float32", "float64", "from_numpy", "full",
    "full_like", "get_autocast_dtype", "get_default_dtype", "get_float32_matmul_precision", "get_num_threads",
    "get_rng_state", "half", "iinfo", "inf", "inference_mode", "initial_seed", "int", "int16", "int32", "int64",
    "int8", "is_autocast_cache_enabled", "is_autocast_enabled", "is_grad_enabled", "is_inference_mode_enabled",
    "is_tensor", "kernels", "linspace", "load", "long", "manual_seed", "multinomial", "nan", "newaxis", "nn",
    "no_grad", "normal", "ones", "ones_like", "optim", "pi", "promote_types", "rand", "rand_like", "randint",
    "randint_like", "randn", "randn_like", "randperm", "result_type", "return_types", "save", "seed",
    "set_default_dtype", "set_float32_matmul_precision", "set_grad_enabled", "set_num_threads", "set_printoptions",
    "set_rng_state", "short", "tensor", "tril_indices", "triu_indices", "typename", "uint8",
    "use_deterministic_algorithms", "utils", "zeros", "zeros_like",
    "complex64", "cosine_similarity", "frombuffer", "get_default_device", "hardshrink", "pairwise_distance", "prelu",
    "rms_norm", "set_default_device",
]  # fmt: skip
