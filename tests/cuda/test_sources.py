"""What can be known of the CUDA kernels without a GPU: that they compile, spill nothing, and get what they ask for.

The launchers run on pretended arrays, and what they hand to a kernel is checked against its signature in the source.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.cuda import pretend
from tests.cuda.cases import ATTENTION, CALLS, CHOICES
from tests.cuda.narrow import DTYPES, half_calls
from tests.cuda.step_cases import CASES, results
from tests.kernels.test_kernels import in_dtype
from tinygrad_llm import devices
from tinygrad_llm.kernels import CUDA
from tinygrad_llm.kernels.cuda import heads, heads_16, launch, losses, sdp

FILES = sorted(path.stem for path in launch.FOLDER.glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a")
HALF = {
    **half_calls(2, 1600, "bfloat16"), **half_calls(300, 64, "bfloat16", False), **half_calls(3, 5, "bfloat16", False),
    **half_calls(3, 64, "float16"),
    **{f"sample, {name}": (lambda k, x: k.sample(x, np.full((2, 1), 0.5), 1.0, 3, 0.9, 0.1), [np.ones((2, 9), dtype)])
       for name, dtype in DTYPES.items()},
    **{f"cast, {name}": (lambda k, *xs, dtype=dtype: k.cast(list(xs), dtype), [np.ones(9, np.float32)] * 2)
       for name, dtype in DTYPES.items()},
}  # fmt: skip
Launch = tuple[str, str, tuple[tuple[str, int], ...]]  # file, kernel, definitions
MOST: Counter[Launch] = Counter()  # threads of a block, the most that a kernel was given


@pytest.fixture(scope="module")
def launches() -> dict[Launch, list[Any]]:
    """What every call of the tests hands to the GPU: each kernel with its definitions, and the arguments it got."""
    found: dict[Launch, list[Any]] = {}

    def record(file: str, name: str, definitions: Any, grid: Any, block: Any, args: Any, shared: int) -> None:
        assert all(0 < n < 2**31 for n in (*grid, *block)) and len(grid) <= 3 and np.prod(block) <= 1024
        assert all(n < 65536 for n in grid[1:]) and 0 <= shared <= 160 * 1024
        assert name in launch.signatures(launch.source(file)) and np.prod(block) % 32 == 0
        MOST[file, name, definitions] = max(MOST[file, name, definitions], np.prod(block))
        found.setdefault((file, name, definitions), []).append(args)

    with pytest.MonkeyPatch.context() as patch, pretend.gpu(), np.errstate(all="ignore"):
        patch.setattr(launch, "start", record)
        patch.setitem(sdp.allowed, "cudnn", False)
        for module in (heads, losses):
            patch.setattr(module, "shared_memory", lambda number: 160 * 1024)
        for tf32 in (False, True):
            patch.setattr(devices, "tf32", tf32)
            for call, arrays in (CALLS | CHOICES).values():
                call(CUDA, *(pretend.outside(a) for a in in_dtype(arrays, np.float32)))
        for name, real in [*((name, 1) for name in ATTENTION), ("attention, long", 2)]:
            call, arrays = ATTENTION[name]
            call(CUDA, *(pretend.outside(a) for a in in_dtype(arrays, launch.REALS[real])))
        for way, (call, arrays) in product(heads_16.HOPPER_16, ATTENTION.values()):
            with heads.only(way._replace(serves=heads_16.serves)):
                call(CUDA, *(pretend.outside(a) for a in in_dtype(arrays, launch.REALS[1])))
        for call, arrays in HALF.values():
            call(CUDA, *map(pretend.outside, arrays))
        for name, real in CASES:
            results(name, CUDA, real, pretend.outside)
    return found


def test_every_kernel_is_launched_with_what_its_signature_asks_for(launches):
    """`launch.arguments` has checked the number and the types of every list; here that no kernel was left out."""
    kernels = {(file, name) for file in FILES for name in launch.signatures(launch.source(file))}
    assert kernels == {(file, name) for file, name, _ in launches}


def test_no_launch_is_made_for_nothing(launches):
    for args in (args for lists in launches.values() for args in lists):
        assert all(a.size for a in args if isinstance(a, pretend.ndarray))


def test_an_argument_that_does_not_fit_is_caught():
    parameters = launch.signatures('extern "C" __global__ void __launch_bounds__(8, 1)\nf(const float *x, int n)')["f"]
    assert parameters == [launch.Parameter("float", True, "x"), launch.Parameter("int", False, "n")]
    wanted = launch.expected(parameters)
    x = np.zeros(2, np.float32)
    assert [type(a) for a in launch.arguments("f", wanted, [x, 3])] == [np.ndarray, np.int32]
    assert launch.arguments("f", wanted, [None, 3])[0] is None
    for wrong in ([x], [x, 1, 2], [x.astype(np.float64), 1], [x, x]):
        with pytest.raises(AssertionError, match="f"):
            launch.arguments("f", wanted, wrong)


def include_folder() -> Path:
    nvidia = pytest.importorskip("nvidia")
    folders = [Path(folder, "cu13", "include") for folder in nvidia.__path__]
    found = [folder for folder in folders if (folder / "cuda_runtime.h").exists()]
    if not found:
        pytest.skip("no headers of CUDA: pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl")
    return found[0]


def compiled(file: str, definitions: tuple[tuple[str, int], ...], architecture: str, text: str | None = None) -> str:
    """NVRTC's log of a file, with what the assembler says of each kernel's resources.

    It is told what CuPy tells it, which names the GPU's architecture (sm_90) behind ours (sm_90a).
    Raises: NVRTC's error where it does not compile.
    """
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc")
    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"NVRTC is not installed ({error}): pip install nvidia-cuda-nvrtc")
    options = [*launch.options_of(definitions), "-ftz=true", f"-arch={architecture.removesuffix('a')}"]
    options += [o for o in launch.HOPPER if o == f"-arch={architecture}" and o not in options]
    options += ["--device-as-default-execution-space", "--ptxas-options=-v", f"-I{include_folder()}"]
    program = nvrtc.createProgram(launch.source(file) if text is None else text, f"{file}.cu", (), ())
    try:
        nvrtc.compileProgram(program, tuple(options))
        return nvrtc.getProgramLog(program)
    except Exception as error:
        raise RuntimeError(f"{file}.cu: {error}\n{nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)


def spilled(log: str) -> dict[str, int]:
    """Bytes that each kernel of a log spills from its registers."""
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    found = re.findall(pattern, log, re.S)
    return {name: int(stores) + int(loads) for name, stores, loads in found}


def used(log: str) -> list[tuple[str, int, int]]:
    """Each kernel of a log with its registers a thread and the bytes of its own shared memory."""
    found = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers([^\n]*)", log, re.S)
    own = [re.search(r"(\d+) bytes smem", rest) for *_, rest in found]
    return [(name, int(n), int(bytes_[1]) if bytes_ else 0) for (name, n, _), bytes_ in zip(found, own, strict=True)]


def takes_shared_memory(file: str, name: str) -> bool:
    """Whether a launch gives the kernel shared memory beside its own arrays."""
    body = launch.source(file).split(f"{name}(", 1)[-1]
    return "extern __shared__" in body.split('extern "C"')[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_compiles_without_spills(launches, architecture):
    hopper = architecture == "sm_90a"  # the others do not know what is for a Hopper alone
    variants = {(file, defined) for file, _, defined in launches if hopper or "HOPPER" not in dict(defined)}
    assert {file for file, _ in variants} == set(FILES)
    with ThreadPoolExecutor() as pool:
        logs = pool.map(lambda variant: compiled(*variant, architecture), sorted(variants))
    for (file, definitions), log in zip(sorted(variants), logs, strict=True):
        spills, launched = spilled(log), {name for f, name, d in launches if (f, d) == (file, definitions)}
        assert spills.keys() >= launched
        assert not any(spills[name] for name in launched), f"{file}.cu with {definitions} for {architecture}: {spills}"
        waiting = set(re.findall(r"wgmma.mma_async instructions are serialized.*'(\w+)'", log))
        assert not waiting & launched, f"products of {waiting} in {file}.cu with {definitions} wait for each other"
        for name, registers, own in used(log):  # a multiprocessor has 65,536, which a warp takes 256 at a time
            assert -(-registers // 8) * 8 * MOST[file, name, definitions] <= 65536, f"{name} of {file}.cu: {registers}"
            assert own <= 48 * 1024 - launch.FREE or not takes_shared_memory(file, name), f"{name} of {file}.cu: {own}"


def test_an_instruction_of_hopper_s_own_asks_for_its_architecture():
    text = 'extern "C" __global__ void f() { asm volatile("wgmma.fence.sync.aligned;"); }'
    compiled("own", (("HOPPER", 1),), "sm_90", text)
    with pytest.raises(RuntimeError, match="wgmma"):
        compiled("own", (), "sm_90", text)


HOPPERS = [("90", (12, 9), True), ("90", (13, 5), True), ("90", (12, 8), False), ("100", (13, 5), False)]


@pytest.mark.parametrize(("capability", "version", "served"), HOPPERS)
def test_an_nvrtc_that_takes_one_architecture_alone_is_not_asked_for_hopper_s(capability, version, served, monkeypatch):
    """Before 12.9 it says "--gpu-architecture (-arch) defined more than once", at every try of a kernel."""
    cuda = SimpleNamespace(
        Device=lambda number: SimpleNamespace(compute_capability=capability),
        nvrtc=SimpleNamespace(getVersion=lambda: version),
    )
    monkeypatch.setattr(launch.devices, "device", lambda *args: None)
    monkeypatch.setattr(launch.devices, "module_of", lambda device: SimpleNamespace(cuda=cuda))
    assert launch.is_hopper.__wrapped__(0) is served


def test_errors_and_spills_are_seen():
    with pytest.raises(RuntimeError, match="nonsense"):
        compiled("broken", (), "sm_90", 'extern "C" __global__ void f(float *x) { nonsense; }')
    many = "".join(f"float a{i} = x[{i}]; " for i in range(300)) + "__syncthreads();" + "".join(
        f"x[{i}] = a{i} * a{(i + 7) % 300};" for i in range(300)
    )
    text = f'extern "C" __global__ void __launch_bounds__(1024) f(float *x) {{ {many} }}'
    log = compiled("spills", (), "sm_90", text)
    assert spilled(log)["f"] > 0
    assert used(log)[0][1] == 64


@pytest.mark.parametrize("shared", (0, launch.FREE, launch.FREE + 16, 48 * 1024, 100_000))
def test_a_kernel_is_started_with_leave_for_its_memory_and_with_null_pointers(shared, monkeypatch):
    """A driver gives 48 KiB unasked, in which a kernel's own arrays lie, too."""
    calls: list[Any] = []

    class Kernel:
        max_dynamic_shared_size_bytes = 48 * 1024 - 8000

        def __call__(self, grid: Any, block: Any, args: Any, shared_mem: int) -> None:
            assert shared_mem <= self.max_dynamic_shared_size_bytes
            calls.append(args)

    monkeypatch.setattr(launch, "compiled", lambda *args: Kernel())
    launch.start("norm", "layer_norm", (), (1,), (32,), [None, np.int32(3)], shared)
    (null, number), = calls  # fmt: skip
    assert null == 0 and null.nbytes == 8 and number == 3
