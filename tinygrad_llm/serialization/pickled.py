"""The pickle inside a file: a small machine that reads it, and a writer of the same few instructions.

Python's own unpickler calls whatever a file names and allocates what it promises. This one only builds plain
containers, numbers and strings, and leaves every name to a table of inert builders. The standard library's
`pickletools` takes the bytes apart into instructions; nothing here depends on sizes that they merely announce.

Source: Peters, pickletools (Python's standard library), which documents every instruction.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from tinygrad_llm.serialization.errors import LoadError, shown

SCALARS = (str, bytes, int, float, bool, type(None))


class Names(Protocol):
    """What stands behind the names and the storages of a file."""

    def named(self, module: str, name: str) -> Any:
        """The value of a name, or a Builder; LoadError for every name that is not known."""

    def persistent(self, key: Any) -> Any:
        """The storage that a key describes."""


class Means:
    """What serves to build a file's object, and is no part of it."""


class Builder(Means):
    """A function that a file may call, with arguments that the function checks."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function


def unpickled(program: bytes, names: Names) -> Any:
    """The object that a pickle describes.

    Raises:
        LoadError: the pickle is damaged, or does what is not needed to describe tensors and plain containers.
    """
    import pickletools  # costs 0.7 ms, which an import of the package need not

    machine = _Machine(names, len(program))
    try:
        for op, argument, _ in pickletools.genops(program):
            if op.name == "STOP":
                return finished(machine.stack.pop())
            getattr(machine, op.name.lower(), machine.unknown(op.name))(argument)
        raise LoadError("its pickle has no end")
    except LoadError:
        raise
    except Exception as error:  # a damaged pickle can go wrong in any instruction: stack, memo, types, text
        raise LoadError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Machine:
    """A stack, a memo, and a method for each instruction that is understood."""

    def __init__(self, names: Names, size: int):
        self.names = names
        self.to_copy = size  # items that calls may still copy; each has taken at least a byte of an honest pickle
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack at which a group of items begins
        self.memo: dict[int, Any] = {}

    def unknown(self, name: str) -> Callable[[Any], None]:
        def refuse(argument: Any) -> None:
            raise LoadError(f"refused the pickle instruction {name} ({shown(argument)})")

        return refuse

    def proto(self, version: int) -> None:
        if version > 5:
            raise LoadError(f"its pickle has protocol {version}; up to 5 are known")

    def frame(self, size: int) -> None:
        """Frames only tell a reader how much to read at once."""

    def push(self, value: Any) -> None:
        self.stack.append(value)

    binint = binint1 = binint2 = long1 = long4 = binfloat = push
    binunicode = short_binunicode = binunicode8 = binbytes = short_binbytes = binbytes8 = push

    def none(self, _: Any) -> None:
        self.push(None)

    def newtrue(self, _: Any) -> None:
        self.push(True)

    def newfalse(self, _: Any) -> None:
        self.push(False)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def empty_dict(self, _: Any) -> None:
        self.push({})

    def empty_list(self, _: Any) -> None:
        self.push([])

    def empty_set(self, _: Any) -> None:
        self.push(set())

    def empty_tuple(self, _: Any) -> None:
        self.push(())

    def tuple(self, _: Any) -> None:
        self.push(tuple(self.since_mark()))

    def _tuple_of(self, n: int) -> None:
        items = [self.stack.pop() for _ in range(n)]
        self.push(tuple(reversed(items)))

    def tuple1(self, _: Any) -> None:
        self._tuple_of(1)

    def tuple2(self, _: Any) -> None:
        self._tuple_of(2)

    def tuple3(self, _: Any) -> None:
        self._tuple_of(3)

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def appends(self, _: Any) -> None:
        items = self.since_mark()
        self._top(list).extend(items)

    def additems(self, _: Any) -> None:
        items = self.since_mark()
        self._top(set).update(map(hashable, items))

    def setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[hashable(key)] = value

    def setitems(self, _: Any) -> None:
        items = self.since_mark()
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[hashable(key)] = value

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise LoadError(f"its pickle fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]

    def binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    long_binput = binput

    def memoize(self, _: Any) -> None:
        self.binput(len(self.memo))

    def binget(self, index: int) -> None:
        self.push(self.memo[index])

    long_binget = binget

    def GLOBAL(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        self.push(self.names.named(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise LoadError(f"refused the name {shown(name)} in {shown(module)}")
        self.push(self.names.named(module, name))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Builder) or not isinstance(arguments, tuple):
            raise LoadError(f"its pickle calls a {type(function).__name__}, which is no function")
        self.to_copy -= sum(len(a) for a in arguments if isinstance(a, (str, list, tuple)))
        if self.to_copy < 0:
            raise LoadError("its pickle copies one value again and again, to more than its own size")
        self.push(function.function(*arguments))

    def build(self, _: Any) -> None:
        """State dicts carry the attribute `_metadata`, the versions of their modules; nothing else has attributes."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict) or not isinstance(state, dict) or set(state) != {"_metadata"}:
            raise LoadError(f"its pickle sets attributes of a {type(self.stack[-1]).__name__}")
        self.stack[-1]._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def binpersid(self, _: Any) -> None:
        self.push(self.names.persistent(self.stack.pop()))


setattr(_Machine, "global", _Machine.GLOBAL)  # the instruction is called like a word of the language


def finished(root: Any) -> Any:
    """The object itself, if all of it is built.

    Raises:
        LoadError: a builder or a storage without its tensor is left in it.
    """
    seen, todo = set(), [root]
    while todo:
        value = todo.pop()
        if isinstance(value, Means):
            raise LoadError("refused a storage or a function by itself; save tensors")
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            todo.extend(value.values() if isinstance(value, dict) else value)
            todo.append(getattr(value, "_metadata", None))
    return root


def hashable(value: Any) -> Any:
    """A key of a dict or set. A deep tuple as a key would overflow the C stack when it is hashed."""
    if isinstance(value, SCALARS) or (isinstance(value, tuple) and all(isinstance(v, SCALARS) for v in value)):
        return value
    raise LoadError(f"refused a {type(value).__name__} as a key; keys are strings, numbers, or flat tuples of them")


# --- writing ------------------------------------------------------------------------------------------------------


class Describes(Protocol):
    """What knows how to describe values that are no plain containers."""

    def described(self, value: Any) -> Global | Call | Storage | None:
        """The value as a name, a call or a storage; None if it is not known."""


class Global(tuple[str, str]):
    """(module, name): a name that the reader looks up."""

    __slots__ = ()


class Call(tuple[Any, tuple[Any, ...]]):
    """(name, arguments): what the reader builds."""

    __slots__ = ()


class Storage(tuple[Any, ...]):
    """The key of a storage, written as a persistent id."""

    __slots__ = ()


def pickled(obj: Any, describe: Describes) -> bytes:
    """The pickle of protocol 2 that describes an object.

    Raises:
        TypeError: the object holds a value that no file can describe; the message says where. ValueError: it contains
            itself, or is nested too deeply.
    """
    writer = _Writer(describe)
    try:
        writer.write(obj, "obj")
    except RecursionError:
        raise ValueError("save(): obj contains itself, or is nested too deeply") from None
    return b"\x80\x02" + bytes(writer.out) + b"."


class _Writer:
    def __init__(self, describe: Describes):
        self.describe = describe
        self.out = bytearray()
        self.memo: dict[int, tuple[int, Any]] = {}  # id -> (number, the value, kept alive so that the id stays its own)

    def write(self, value: Any, place: str) -> None:
        if id(value) in self.memo:
            self.out += b"j" + struct.pack("<I", self.memo[id(value)][0])
            return
        if value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self._int(int(value))
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            text = str(value).encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(text)) + text
            self._remember(value)
        elif isinstance(value, bytes):
            self.write(Call((Global(("_codecs", "encode")), (value.decode("latin1"), "latin1"))), place)
        elif isinstance(value, (set, frozenset)):
            name = type(value).__name__
            self.write(Call((Global(("__builtin__", name)), (list(value),))), place)
        elif isinstance(value, Storage):
            self._tuple(value, place)
            self.out += b"Q"
        elif isinstance(value, Global):
            self.out += b"c" + f"{value[0]}\n{value[1]}\n".encode()
        elif isinstance(value, Call):
            self.write(value[0], place)
            self._tuple(value[1], place)
            self.out += b"R"
        elif (described := self.describe.described(value)) is not None:
            self.write(described, place)
            self._remember(value)
        elif type(value) is tuple:
            self._tuple(value, place)
        elif type(value) is list:
            self.out += b"]"
            self._remember(value)
            self._marked(value, b"e", place)
        elif type(value) in (dict, OrderedDict):
            self._dict(value, place)
        else:
            raise TypeError(
                f"save(): {place} is a {type(value).__module__}.{type(value).__qualname__}, which no file can hold "
                "without code; save tensors, numbers, strings and containers of them; of a module its state_dict()"
            )

    def _int(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.out += b"J" + struct.pack("<i", value)
            return
        size = value.bit_length() // 8 + 1
        header = b"\x8a" + struct.pack("<B", size) if size < 256 else b"\x8b" + struct.pack("<i", size)
        self.out += header + value.to_bytes(size, "little", signed=True)

    def _tuple(self, items: tuple[Any, ...], place: str) -> None:
        self.out += b"("
        for i, item in enumerate(items):
            self.write(item, f"{place}[{i}]")
        self.out += b"t"

    def _marked(self, items: Any, end: bytes, place: str) -> None:
        self.out += b"("
        for i, item in enumerate(items):
            self.write(item, f"{place}[{i}]")
        self.out += end

    def _dict(self, value: dict[Any, Any], place: str) -> None:
        if type(value) is OrderedDict:
            self.write(Call((Global(("collections", "OrderedDict")), ())), place)
        else:
            self.out += b"}"
        self._remember(value)
        self.out += b"("
        for key, item in value.items():
            self.write(key, f"a key of {place}")
            self.write(item, f"{place}[{key!r}]")
        self.out += b"u"
        if getattr(value, "_metadata", None) is not None:
            self.write({"_metadata": value._metadata}, f"{place}._metadata")  # type: ignore[attr-defined]
            self.out += b"b"

    def _remember(self, value: Any) -> None:
        """Number what stands on top of the stack, so that a second mention is the same object."""
        number = len(self.memo)
        self.memo[id(value)] = (number, value)
        self.out += b"r" + struct.pack("<I", number)
