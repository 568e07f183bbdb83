"""What travels between the submission (process S) and the hidden tests (process T).

A frame is two lengths, a head and a safetensors blob. T sends a pickle without a tensor in it,
which S may trust; S answers in JSON, which T checks piece by piece: nothing that S sends is ever
executed, and nothing larger, deeper or slower than the limits below is read. Process S loads this
file on its own, so it imports nothing of this package.
"""

from __future__ import annotations

import collections
import io
import json
import math
import pickle
import resource
import socket
import struct
import time
from functools import lru_cache
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

HEAD, BLOB = 4 << 20, 64 << 20  # bytes
BLOB_INDEX = 1 << 20  # bytes of the list of tensors at the start of a blob
NODES, DEPTH = 500_000, 64  # of one answer
LENGTHS = struct.Struct("<QQ")
SMALL = 10**6  # integer dict keys beyond it could be chosen to collide
TEXT = 300  # characters of an error message

Random = torch.Generator


class ProtocolFailure(BaseException):
    """S broke off, was too slow, or sent what is not an answer. No test catches it."""


class Opaque:
    """Something that is no data, such as an iterator, a set or an object of the learner's own.

    It equals nothing and does nothing; a test that meets it fails.
    """

    __hash__ = None

    def __init__(self, kind: str):
        self.kind = kind

    def __eq__(self, other) -> bool:
        return False

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<an object of type {self.kind}>"


@lru_cache(maxsize=256)
def _opaque(kind: str) -> type[Opaque]:
    """A class of that name, which a check shows as the kind of thing that came."""
    module, _, name = kind.rpartition(".")
    where = {"__module__": module} if module == "numpy" else {}  # the check names NumPy's numbers
    return type(name if name.isidentifier() and len(name) < 50 else "Opaque", (Opaque,), where)


# --- frames -------------------------------------------------------------------------------------
class Channel:
    """One end of a socket pair that carries frames, each with a deadline."""

    def __init__(self, sock: socket.socket):
        self.sock = sock

    def send(self, head: bytes, blob: bytes = b"", seconds: float | None = None) -> None:
        """Write one frame.

        Raises:
            ProtocolFailure: the other side does not read, or is gone.
        """
        self.sock.settimeout(seconds)
        try:
            self.sock.sendall(LENGTHS.pack(len(head), len(blob)) + head)
            if blob:
                self.sock.sendall(blob)
        except TimeoutError:
            raise ProtocolFailure("it stopped reading") from None
        except OSError:
            raise ProtocolFailure("its process ended") from None

    def receive(self, seconds: float | None = None) -> tuple[bytes, bytes]:
        """Read one frame.

        Raises:
            ProtocolFailure: nothing complete within `seconds`, too long, or the other side is gone.
        """
        until = None if seconds is None else time.monotonic() + seconds
        lengths = LENGTHS.unpack(self._read(LENGTHS.size, until))
        if lengths[0] > HEAD or lengths[1] > BLOB:
            raise ProtocolFailure(f"an answer of {sum(lengths):,} bytes is too long")
        return self._read(lengths[0], until), self._read(lengths[1], until)

    def _read(self, size: int, until: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise ProtocolFailure("no answer in time")
            self.sock.settimeout(left)
            try:
                part = self.sock.recv(min(size - len(data), 1 << 20))
            except TimeoutError:
                raise ProtocolFailure("no answer in time") from None
            except OSError:
                raise ProtocolFailure("its process ended") from None
            if not part:
                raise ProtocolFailure("its process ended")
            data += part
        return bytes(data)


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as a blob; each is copied, so that a view does not take its whole storage along."""
    if not tensors:
        return b""
    copies = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    return safetensors.torch.save(copies)


def unpack(blob: bytes) -> dict[str, Tensor]:
    """The tensors of a blob.

    Raises:
        ProtocolFailure: it is none.
    """
    if not blob:
        return {}
    if len(blob) < 8 or int.from_bytes(blob[:8], "little") > BLOB_INDEX:
        raise ProtocolFailure("the tensors it sent cannot be read")
    try:
        loaded = safetensors.torch.load(blob)
        # A forged truth value may be a byte other than 0 and 1, of which torch promises nothing.
        return {
            key: tensor.view(torch.uint8) != 0 if tensor.dtype is torch.bool else tensor.clone()
            for key, tensor in loaded.items()
        }
    except Exception:
        raise ProtocolFailure("the tensors it sent cannot be read") from None


# --- T to S: arguments --------------------------------------------------------------------------
class Table:
    """The tensors and generators of some arguments, one entry for each object."""

    def __init__(self):
        self.objects, self.entries, self.tensors = [], [], {}
        self._index: dict[int, int] = {}

    def add(self, thing: Tensor | Random) -> int:
        if id(thing) in self._index:
            return self._index[id(thing)]
        index = self._index[id(thing)] = len(self.objects)
        self.objects.append(thing)
        entry = {"kind": "generator", "requires_grad": False, "grad": False}
        if isinstance(thing, Tensor):
            grad = thing.grad if thing.is_leaf else None
            entry["kind"] = "parameter" if isinstance(thing, nn.Parameter) else "tensor"
            entry["requires_grad"], entry["grad"] = thing.requires_grad, grad is not None
            self.tensors[str(index)] = thing
            if grad is not None:
                self.tensors[f"{index}.grad"] = grad
        else:
            self.tensors[str(index)] = thing.get_state()
        self.entries.append(entry)
        return index


class _Pickler(pickle.Pickler):
    """Takes tensors out into a table, and refuses what would bring the test's code along."""

    def __init__(self, file: io.BytesIO, table: Table):
        super().__init__(file, protocol=4)
        self.table = table

    def persistent_id(self, thing: Any) -> int | None:
        return self.table.add(thing) if isinstance(thing, (Tensor, Random)) else None

    def reducer_override(self, thing: Any) -> Any:
        root = getattr(thing, "__module__", None) or ""
        if isinstance(thing, type(io)) or callable(thing) and hasattr(thing, "__qualname__"):
            if root.split(".")[0] not in ("torch", "numpy", "builtins", "collections", "math", ""):
                name = getattr(thing, "__name__", "?")
                raise TypeError(
                    f"a hidden test cannot pass {name}, which is defined in {root}: pass data, "
                    "generators, optimizers, and modules made of torch's own classes"
                )
        return NotImplemented


def dump_arguments(arguments: Any, table: Table) -> bytes:
    """Arguments as a pickle whose tensors are in `table`."""
    file = io.BytesIO()
    _Pickler(file, table).dump(arguments)
    return file.getvalue()


class _Unpickler(pickle.Unpickler):
    def __init__(self, body: bytes, objects: list):
        super().__init__(io.BytesIO(body))
        self.objects = objects

    def persistent_load(self, index: int) -> Any:
        return self.objects[index]


def load_arguments(body: bytes, entries: list[dict], tensors: dict[str, Tensor]):
    """In S: the arguments again, and the objects of their table."""
    objects = []
    for index, entry in enumerate(entries):
        value = tensors[str(index)]
        if entry["kind"] == "generator":
            objects.append(Random())
            objects[-1].set_state(value)
            continue
        if entry["kind"] == "parameter":
            value = nn.Parameter(value, requires_grad=entry["requires_grad"])
        else:
            value.requires_grad_(entry["requires_grad"])
        if entry["grad"]:
            value.grad = tensors[f"{index}.grad"]
        objects.append(value)
    return _Unpickler(body, objects).load(), objects


def stateful(value: Any) -> list:
    """The modules and optimizers in arguments, each once, in an order that S and T share."""
    found: dict[int, Any] = {}

    def walk(item: Any) -> None:
        if isinstance(item, (nn.Module, torch.optim.Optimizer)):
            found.setdefault(id(item), item)
        elif isinstance(item, (list, tuple)):
            for part in item:
                walk(part)
        elif isinstance(item, dict):
            for part in item.values():
                walk(part)

    walk(value)
    return list(found.values())


def optimized(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of an optimizer in the order of its state_dict."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# --- S to T: values -----------------------------------------------------------------------------
MAPPINGS = {
    "dict": dict,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": collections.defaultdict,  # arrives without its factory
}


class Encoder:
    """In S: values as JSON with tags, their tensors set aside for the blob."""

    def __init__(self, objects: list, machines: list, keep=None):
        self.tensors: dict[str, Tensor] = {}
        self._known = {id(thing): ("a", i) for i, thing in enumerate(objects)}
        self._known |= {id(thing): ("m", i) for i, thing in enumerate(machines)}
        self._keep = keep  # keeps a graph and returns its handle

    def tensor(self, tensor: Tensor) -> str:
        key = f"r{len(self.tensors)}"
        self.tensors[key] = tensor.detach()
        return key

    def value(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            return value if value.bit_length() < 10_000 else {"o": "int"}
        if id(value) in self._known:
            tag, index = self._known[id(value)]
            return {tag: index}
        if isinstance(value, Tensor) and value.layout is torch.strided and depth < DEPTH:
            tag = {"x": self.tensor(value)}
            if value.requires_grad and self._keep is not None:
                tag["g"] = self._keep(value)
            return tag
        if kind in (list, tuple) and depth < DEPTH:
            items = [self.value(item, depth + 1) for item in value]
            return items if kind is list else {"t": items}
        if MAPPINGS.get(kind.__name__) is kind and depth < DEPTH and _plain_keys(value):
            pairs = [
                [self.value(key, depth + 1), self.value(v, depth + 1)] for key, v in value.items()
            ]
            return {"d": pairs, "k": kind.__name__}
        return {"o": f"{kind.__module__}.{kind.__qualname__}"[:TEXT]}


def _plain_keys(mapping: dict) -> bool:
    return all(
        type(key) is str
        or type(key) is int
        and abs(key) < SMALL
        or type(key) is tuple
        and all(type(part) is str for part in key)
        for key in mapping
    )


class Decoder:
    """In T: values from JSON, each piece checked.

    Args:
        tensors: of the same frame.
        objects, machines: T's own arguments, which an answer may name.
        wrap: called with a tensor and its handle in S, to link it to T's graph.
    """

    def __init__(self, tensors: dict[str, Tensor], objects: list, machines: list, wrap=None):
        self.tensors, self.objects, self.machines, self.wrap = tensors, objects, machines, wrap
        self.nodes = 0

    def tensor(self, key: Any) -> Tensor:
        if not isinstance(key, str) or key not in self.tensors:
            raise ProtocolFailure("an answer names a tensor that it does not hold")
        return self.tensors[key]

    def value(self, tree: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > NODES or depth > 2 * DEPTH:
            raise ProtocolFailure("an answer with too many parts")
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        if isinstance(tree, list):
            return [self.value(item, depth + 1) for item in tree]
        if not isinstance(tree, dict):
            raise ProtocolFailure("an answer that cannot be read")
        tags = set(tree)
        if tags == {"t"} and isinstance(tree["t"], list):
            return tuple(self.value(item, depth + 1) for item in tree["t"])
        if tags == {"d", "k"} and isinstance(tree["d"], list):
            return self._mapping(tree, depth)
        if tags in ({"x"}, {"x", "g"}):
            tensor = self.tensor(tree["x"])
            if "g" in tree and self.wrap is not None:
                if type(tree["g"]) is not int or not tensor.is_floating_point():
                    raise ProtocolFailure("an answer that cannot be read")
                return self.wrap(tensor, tree["g"])
            return tensor
        for tag, known in (("a", self.objects), ("m", self.machines)):
            if tags == {tag} and type(tree[tag]) is int and 0 <= tree[tag] < len(known):
                return known[tree[tag]]
        if tags == {"o"} and isinstance(tree["o"], str):
            kind = clean(tree["o"])
            return _opaque(kind)(kind)
        raise ProtocolFailure("an answer that cannot be read")

    def _mapping(self, tree: dict, depth: int) -> dict:
        kind = MAPPINGS.get(tree["k"]) if isinstance(tree["k"], str) else None
        if kind is None:
            raise ProtocolFailure("an answer that cannot be read")
        result = kind()
        for pair in tree["d"]:
            if not isinstance(pair, list) or len(pair) != 2:
                raise ProtocolFailure("an answer that cannot be read")
            key = self.value(pair[0], depth + 1)
            if not _plain_keys({key: None} if isinstance(key, (str, int, tuple)) else {None: 0}):
                raise ProtocolFailure("an answer with keys that are not allowed")
            result[key] = self.value(pair[1], depth + 1)
        return result


def parse(head: bytes) -> dict:
    """The JSON object of a frame from S.

    Raises:
        ProtocolFailure: it is none.
    """
    try:
        tree = json.loads(head)
    except (ValueError, RecursionError, MemoryError):
        raise ProtocolFailure("an answer that cannot be read") from None
    if not isinstance(tree, dict):
        raise ProtocolFailure("an answer that cannot be read")
    return tree


def clean(text: Any, length: int = TEXT) -> str:
    """Text from a submission in one line that prints safely; whoever makes HTML escapes it too."""
    text = str(text)[: 2 * length]
    safe = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    safe = safe.encode("utf-8", "replace").decode()
    return safe if len(safe) <= length else safe[: length - 1] + "…"


# --- generators ---------------------------------------------------------------------------------
# at::CPUGeneratorImpl's state: a Mersenne Twister behind a header, then cached normal numbers.
GENERATOR = struct.Struct("<QiiQ624Qdddi4xfB3x")


def checked_state(state: Tensor) -> Tensor:
    """A generator's state from S, if torch can safely take it: it reads beyond a forged one's end.

    Raises:
        ProtocolFailure: no generator can be in that state.
    """
    forged = ProtocolFailure("a generator came back with a state that cannot be")
    if state.dtype is not torch.uint8 or state.shape != (GENERATOR.size,):
        raise forged
    _, left, seeded, following, *rest = GENERATOR.unpack(bytes(state.tolist()))
    words, (x, y, rho, valid, cached, has_cached) = rest[:624], rest[624:]
    fresh, running = (left, following) == (1, 0), left + following == 625 and 1 <= left <= 624
    flags = seeded == 1 and valid in (0, 1) and has_cached in (0, 1)
    numbers = all(map(math.isfinite, (x, y, rho, cached)))
    if not (fresh or running) or not flags or not numbers or max(words) >> 32:
        raise forged
    return state


# --- limits of a process ------------------------------------------------------------------------
def confine(memory: int, seconds: int | None = None) -> None:
    """Set hard limits on the own process, once its libraries are loaded.

    Args:
        memory: bytes of address space beyond what is in use now.
        seconds: of processor time; None for no limit.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + memory,
        resource.RLIMIT_NPROC: 64,
        resource.RLIMIT_FSIZE: 16 << 20,
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
    }
    if seconds is not None:
        limits[resource.RLIMIT_CPU] = seconds
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
