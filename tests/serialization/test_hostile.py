"""Files that are damaged or want to do harm: LoadError and nothing else, nothing run, no word of theirs taken."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import tracemalloc
import zipfile
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_llm as ours
from tinygrad_llm.serialization import LoadError

MANY = settings(max_examples=4 * settings.default.max_examples)


def good() -> bytes:
    buffer = io.BytesIO()
    base = ours.arange(24.0).reshape(4, 6)
    model = ours.nn.Linear(3, 2)
    ours.save({"w": base, "v": base.T, "n": [1, 2.5, None], "s": {1}, "b": b"x", "m": model.state_dict()}, buffer)
    return buffer.getvalue()


GOOD = good()


def archive(program: bytes, **members: bytes) -> bytes:
    """A file around a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": program, "data/0": bytes(64), "byteorder": b"little", **members}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def load(content: bytes) -> Any:
    return ours.load(io.BytesIO(content))


def refused_or_read(content: bytes) -> None:
    try:
        load(content)
    except LoadError as error:
        assert str(error).startswith("the file: ")


@MANY
@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes(content: bytes) -> None:
    refused_or_read(content)


@MANY
@given(st.integers(0, len(GOOD) - 1))
def test_a_truncated_file(length: int) -> None:
    with pytest.raises(LoadError):
        load(GOOD[:length])


@MANY
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_file_with_other_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, byte in changes:
        content[place] = byte
    refused_or_read(bytes(content))


PROGRAM = zipfile.ZipFile(io.BytesIO(GOOD)).read("archive/data.pkl")


@MANY
@given(st.lists(st.tuples(st.integers(0, len(PROGRAM) - 1), st.binary(max_size=3)), min_size=1, max_size=3))
def test_a_pickle_with_other_bytes(changes: list[tuple[int, bytes]]) -> None:
    """Behind a good checksum: whoever writes a file can make that fit."""
    program = PROGRAM
    for place, content in changes:
        program = program[:place] + content + program[place + len(content) :]
    refused_or_read(archive(program))


INSTRUCTIONS = [op.code.encode("latin1") for op in pickletools.opcodes]
WORDS = [b"torch\nSize\n", b"X\x01\x00\x00\x00a", b"collections\nOrderedDict\n"]
PARTS = st.sampled_from(INSTRUCTIONS) | st.binary(max_size=4) | st.sampled_from(WORDS)


@MANY
@given(st.lists(PARTS, max_size=30))
def test_any_instructions(parts: list[bytes]) -> None:
    refused_or_read(archive(b"\x80\x02" + b"".join(parts) + b"."))


def test_a_flipped_bit_in_a_storage_is_noticed() -> None:
    at = GOOD.index(ours.arange(24.0).numpy().tobytes())
    content = bytearray(GOOD)
    content[at + 17] ^= 4
    with pytest.raises(LoadError, match="checksum"):
        load(bytes(content))


class Runs:
    def __init__(self, function: Any, *arguments: Any):
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.system, ("touch broken",)), (eval, ("1+1",)), (getattr, (int, "x")), (exec, ("",)), (io.open, ("x", "w"))],
)
def test_nothing_is_run(tmp_path: Any, monkeypatch: Any, function: Any, arguments: Any, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match="refused"):
        load(archive(pickle.dumps({"a": Runs(function, *arguments)}, protocol)))
    assert not list(tmp_path.iterdir())


def test_a_refused_name_is_told() -> None:
    with pytest.raises(LoadError, match=r"refused posix.system|refused nt.system"):
        load(archive(pickle.dumps(Runs(os.system, "x"), 2)))


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("


def number(n: int) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def tensor_file(count: int, offset: int, size: Any, stride: Any) -> bytes:
    """A tensor over the 16 floats of data/0, described as one likes."""
    rest = number(offset) + pickle.dumps(size, 2)[2:-1] + pickle.dumps(stride, 2)[2:-1] + b"\x89}"
    return archive(REBUILD + STORAGE % number(count) + rest + b"tR.")


def test_the_tensor_that_these_files_describe() -> None:
    assert load(tensor_file(16, 3, (2, 2), (4, 1))).tolist() == [[0.0, 0.0]] * 2


@pytest.mark.parametrize(
    ("count", "offset", "size", "stride"),
    [
        (17, 0, (1,), (1,)),
        (2**60, 0, (1,), (1,)),
        (16, 1, (16,), (1,)),
        (16, 0, (4, 5), (4, 1)),
        (16, -1, (1,), (1,)),
        (16, 8, (3,), (-1,)),
        (16, 0, (-2,), (1,)),
        (16, 0, (2**40, 2**40), (0, 0)),
        (16, 0, (2,), (2**63,)),
        (16, 0, (2,), (1, 1)),
        (16, 0, (2.0,), (1,)),
        (16, 0, (True,), (1,)),
        (16, 0, (1,) * 70, (1,) * 70),
        (-1, 0, (0,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage(count: int, offset: int, size: Any, stride: Any) -> None:
    with pytest.raises(LoadError):
        load(tensor_file(count, offset, size, stride))


def test_announced_sizes_are_not_allocated() -> None:
    huge = [b"\x8e" + b"\xff" * 6 + b"\x00\x00", b"r\xff\xff\xff\x7f", b"\x96\xff\xff\xff\xff\x0f\x00\x00\x00"]
    tracemalloc.start()
    for part in (b"]" + huge[1] + b".", *huge):
        refused_or_read(archive(b"\x80\x04" + part))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_key_that_is_nested_deeply() -> None:
    with pytest.raises(LoadError, match="as a key"):
        load(archive(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."))


def laughs(empty: bytes = b")") -> bytes:
    """A tuple of the one below twice, thirty levels deep: few bytes, a billion items to whoever walks through it."""
    return empty + b"".join(b"q%ch%c\x86" % (i, i) for i in range(30))


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch\nSize\n" + laughs() + b"\x85R",
        b"ctorch\ndevice\n" + laughs() + b"\x85R",
        b"c_codecs\nencode\nX\x01\x00\x00\x00a" + laughs() + b"\x86R",
        b"c__builtin__\nset\n]" + laughs() + b"a\x85R",
        REBUILD[2:] + STORAGE % number(16) + number(0) + laughs() + laughs() + b"\x89}tR",
        b"X\x01\x00\x00\x00a" + laughs(b"}") + b"\x93",
        b"}" + laughs() + b"Ns",
        laughs(b"ccollections\nOrderedDict\n)R") + b"Q",
        laughs() + b"Q",
        laughs() + b")R",
    ],
)
def test_a_billion_laughs_are_not_heard(program: bytes) -> None:
    with pytest.raises(LoadError) as caught:
        load(archive(b"\x80\x04" + program + b"."))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("function", [b"c_codecs\nencode\n", b"c__builtin__\nset\n", b"ctorch\nSize\n"])
def test_one_value_is_not_copied_again_and_again(function: bytes) -> None:
    many = b"(" + b"K\x01" * 10_000
    argument = {
        b"c_": b"X" + (10_000).to_bytes(4, "little") + b"a" * 10_000 + b"X\x06\x00\x00\x00latin1\x86",
        b"c__": b"]" + many + b"e\x85",
        b"ct": many + b"t\x85",
    }[b"c__" if function.startswith(b"c__") else function[:2]]
    program = b"\x80\x02" + function + b"q\x000" + argument + b"q\x010" + b"](" + b"h\x00h\x01R" * 2000 + b"e."
    tracemalloc.start()
    with pytest.raises(LoadError, match="again and again"):
        load(archive(program))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("place", [b"%s", b"]%sa", b"%s\x85", b"}K\x01%ss"])
@pytest.mark.parametrize("part", [b"ctorch\nSize\n", STORAGE % number(16)])
def test_the_means_are_no_result(part: bytes, place: bytes) -> None:
    with pytest.raises(LoadError, match="by itself"):
        load(archive(b"\x80\x02" + place % part + b"."))


def test_a_storage_has_one_dtype() -> None:
    both = STORAGE % number(16) + b"0" + STORAGE.replace(b"Float", b"Int") % number(16)
    with pytest.raises(LoadError, match="storage 0 is of"):
        load(archive(b"\x80\x02" + both + b"0N."))


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_llm.devices.cuda_problem", lambda: "no GPU")
    program = zipfile.ZipFile(io.BytesIO(tensor_file(16, 0, (2,), (1,)))).read("archive/data.pkl")
    program = program.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    with pytest.raises(LoadError, match=r"^the file: holds tensors of cuda:0; load them with map_location='cpu'"):
        load(archive(program))
    assert ours.load(io.BytesIO(archive(program)), map_location="cpu").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["/etc/passwd", "archive/../../x", "archive\\x"])
def test_unsafe_member_names(name: str) -> None:
    buffer = io.BytesIO(GOOD)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("archive/placeholder"[: len(name)].ljust(len(name), "x"), b"")
    content = buffer.getvalue().replace(b"archive/placeholder"[: len(name)].ljust(len(name), b"x"), name.encode())
    with pytest.raises(LoadError, match="unsafe"):
        load(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_and_compression_are_refused() -> None:
    buffer = io.BytesIO(GOOD)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("archive/data/0", bytes(96))
    with pytest.raises(LoadError, match="two members"):
        load(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(LoadError, match="compressed"):
        load(buffer.getvalue())


def test_members_on_top_of_each_other() -> None:
    """One local header, named twice in the directory: the trick of small files that unpack to large ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/x", b"\x80\x02N.")
        file.filelist[1].header_offset = file.filelist[0].header_offset
    with pytest.raises(LoadError, match="on top of each other"):
        load(buffer.getvalue())


def test_other_kinds_of_files_are_named() -> None:
    with pytest.raises(LoadError, match=r"before 1\.6"):
        load(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with pytest.raises(LoadError, match="TorchScript"):
        load(archive(b"\x80\x02N.", **{"constants.pkl": b""}))
    with pytest.raises(LoadError, match="byte order"):
        load(archive(b"\x80\x02N.", byteorder=b"big"))
    with pytest.raises(LoadError, match="no file of torch"):
        load(archive(b"\x80\x02N.").replace(b"data.pkl", b"data.pkk"))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_torchscript_are_named() -> None:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    with pytest.raises(LoadError, match="TorchScript"):
        load(buffer.getvalue())
