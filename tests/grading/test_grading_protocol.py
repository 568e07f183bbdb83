"""Process T's side against an S that says whatever it likes, without a sandbox in between."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import socket
import struct
import threading
import time

import pytest
import torch
from torch import nn

from sft_teach.grading import protocol
from sft_teach.grading.protocol import BLOB, HEAD, LENGTHS, Opaque, ProtocolFailure, Table
from sft_teach.grading.session import ArgumentChanged, Session

FINE = {"moved": [], "touched": [], "lists": {}, "changed": {}, "machines": {}}


def answered(reply, tensors=None, arguments=(1,), changes=(), parameters=("a", "b", "c")):
    """Call a proxy whose S answers with `reply`: a dict, or the bytes of a whole frame."""
    near, far = socket.socketpair()
    session = Session(protocol.Channel(near))
    session.start(seconds=2.0, reply_seconds=1.0)
    if isinstance(reply, dict):
        head, blob = json.dumps(FINE | reply).encode(), protocol.pack(tensors or {})
        reply = LENGTHS.pack(len(head), len(blob)) + head + blob
    threading.Thread(target=_say, args=(far, reply), daemon=True).start()
    with contextlib.closing(near), contextlib.closing(far):
        return session.proxy("f", list(parameters), list(changes))(*arguments)


def _say(far: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        protocol.Channel(far).receive()
        far.sendall(data)


def raw(tree, blob: bytes = b"") -> bytes:
    head = tree if isinstance(tree, bytes) else json.dumps(FINE | {"value": tree}).encode()
    return LENGTHS.pack(len(head), len(blob)) + head + blob


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -2.5, "text", [1, [2]], float("inf"), {"o": "set"}],
)
def test_plain_values(value):
    got = answered({"value": value})
    assert isinstance(got, Opaque) if isinstance(value, dict) else got == value


def test_what_is_no_data_equals_nothing():
    opaque = answered({"value": {"o": "builtins.set"}})
    assert opaque != opaque and not opaque and "set" in repr(opaque)
    with pytest.raises(TypeError):
        hash(opaque)


def test_values_go_there_and_back():
    x = torch.arange(6.0).reshape(2, 3)
    value = (
        [x, x[:, 1], x.T, torch.tensor(True), torch.zeros(0, 2, dtype=torch.int64)],
        {("a", "b"): 1, "c": {3: x.bfloat16()}, 5: (None, float("nan"))},
        {1, 2},
        range(3),
    )
    encoder = protocol.Encoder([], [])
    tree = json.loads(json.dumps(encoder.value(value)))
    tensors = protocol.unpack(protocol.pack(encoder.tensors))
    tensors_back, mapping, a_set, a_range = protocol.Decoder(tensors, [], []).value(tree)
    for one, other in zip(tensors_back, value[0], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert mapping[("a", "b")] == 1 and mapping["c"][3].dtype is torch.bfloat16
    assert mapping[5][1] != mapping[5][1] and type(mapping[5]) is tuple
    assert isinstance(a_set, Opaque) and isinstance(a_range, Opaque)


def test_arguments_keep_their_links_and_share_no_storage():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[0].bias.grad = torch.ones(2)
    secret = torch.arange(1000.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    table = Table()
    body = protocol.dump_arguments((model, optimizer, secret[:2], secret[:2]), table)
    blob = protocol.pack(table.tensors)
    assert len(body) + len(blob) < 6000  # the rest of `secret` stayed here
    loaded, _ = protocol.load_arguments(body, table.entries, protocol.unpack(blob))
    copy, its_optimizer, view, _ = loaded
    assert copy[0].weight is copy[1].weight
    assert its_optimizer.param_groups[0]["params"][0] is copy[0].weight
    assert torch.equal(copy[0].bias.grad, torch.ones(2)) and view.tolist() == [0, 1]


def test_a_test_cannot_send_its_own_code():
    class Mine:
        pass

    for value in (Mine(), Mine, lambda: 1, answered):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            protocol.dump_arguments([value], Table())


FORGED = {
    "not JSON": b"no",
    "a pickle": pickle.dumps(print),
    "a list": b"[]",
    "nothing in it": b"{}",
    "not UTF-8": b'{"value": "\xff"}',
    "deep": b'{"value": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a long number": b'{"value": ' + b"9" * 10_000 + b"}",
    "many parts": json.dumps(FINE | {"value": [0] * 600_000}).encode(),
    "tuples in tuples": json.dumps(FINE | {"value": {"t": [{"t": [[]]}]}})
    .replace("[[]]", '[{"t": ' * 200 + "[]" + "}]" * 200)
    .encode(),
}
TREES = [
    {"x": "missing"}, {"x": 3}, {"a": 0}, {"a": -1}, {"a": True}, {"m": 0}, {"t": 5}, {"z": 1}, {},
    {"d": [[[1], 2]], "k": "dict"}, {"d": [[{"o": "x"}, 2]], "k": "dict"}, {"o": 5},
    {"d": [[10**7, 2]], "k": "dict"}, {"d": [[1.5, 2]], "k": "dict"}, {"d": [1], "k": "dict"},
    {"d": [[None, 1]], "k": "dict"}, {"d": [], "k": "os.system"}, {"d": [], "k": []},
    {"d": [[{"t": [1]}, 2]], "k": "dict"}, {"x": "r", "g": "1"}, {"d": {}, "k": "dict"},
    {"d": [[True, 1]], "k": "dict"},
]  # fmt: skip
REPLIES = [
    {"value": 1, "changed": {"0": {"data": "r"}}},
    {"value": 1, "changed": {"7": {}}},
    {"value": 1, "changed": {"-1": {}}},
    {"value": 1, "changed": [1]},
    {"value": 1, "moved": 3},
    {"value": 1, "touched": "a"},
    {"value": 1, "machines": {"0": {"training": [1]}}},
    {"value": 1, "machines": {"0": {"state": {}}}},
    {"value": 1, "machines": {"1": {"training": [True]}}},
    {"value": 1, "machines": {"1": {"state": {"0": {"step": {"x": "r"}}}}}},
    {"value": 1, "machines": {"1": {"state": {"9": {"step": 1}}}}},
    {"error": 5},
    {"error": {"kinds": 5}},
    {"value": 1, "lists": []} | {"touched": 4},
]


@pytest.mark.parametrize("kind", FORGED)
def test_heads_that_cannot_be_read(kind):
    with pytest.raises(ProtocolFailure):
        answered(raw(FORGED[kind]))


@pytest.mark.parametrize("tree", TREES, ids=json.dumps)
def test_values_that_cannot_be(tree):
    with pytest.raises(ProtocolFailure):
        answered(raw(tree, protocol.pack({"r": torch.ones(2, dtype=torch.int64)})))


@pytest.mark.parametrize("reply", REPLIES, ids=json.dumps)
def test_reports_that_cannot_be(reply):
    model = nn.Linear(1, 1).eval()
    with pytest.raises(ProtocolFailure):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        answered(reply, {"r": torch.ones(2)}, (torch.zeros(2), model, optimizer), ("b", "c"))


LYING = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    "frame",
    [
        LENGTHS.pack(HEAD + 1, 0),
        LENGTHS.pack(0, BLOB + 1),
        LENGTHS.pack(2**63, 2**63),
        LENGTHS.pack(10, 0) + b"{}",
        b"\0",
        raw(1, b"x" * 100),
        raw(1, struct.pack("<Q", 2**40) + b"{}"),
        raw(1, struct.pack("<Q", 2**21) + b" " * 2**21),
        raw({"x": "a"}, struct.pack("<Q", len(LYING)) + LYING + bytes(4)),
    ],
    ids=lambda frame: str(len(frame)),
)  # fmt: skip
def test_frames_that_cannot_be(frame):
    begin = time.monotonic()
    with pytest.raises(ProtocolFailure):
        answered(frame)
    assert time.monotonic() - begin < 30  # the deadline, on a machine with other work to do


def test_a_failure_passes_through_what_a_test_may_catch():
    try:
        answered(raw(b"no"))
    except Exception:
        pytest.fail("a test could have taken this for an error of the submission's")
    except ProtocolFailure:
        pass


def test_after_a_failure_nothing_counts():
    near, far = socket.socketpair()
    session = Session(protocol.Channel(near))
    session.start(2.0, 0.1)
    for _ in range(2):
        with pytest.raises(ProtocolFailure, match="no answer in time"):
            session.proxy("f", [], [])()
    assert session.broken
    far.close()


def test_exceptions_come_back_as_the_first_known_kind():
    def raised(*kinds):
        return {"error": {"kinds": list(kinds), "said": "bad\x1b[31m\nline\ud800" + "x" * 1000}}

    with pytest.raises(ValueError, match=r"bad\?\[31m line") as caught:
        answered(raised("UnicodeError", "ValueError", "Exception"))
    assert len(str(caught.value)) <= 300
    with pytest.raises(RuntimeError, match="^SystemExit"):
        answered(raised("SystemExit", "BaseException"))
    with pytest.raises(RuntimeError):
        answered(raised("ProtocolFailure", "KeyboardInterrupt", "BaseException"))


def test_a_changed_argument_is_no_exception_that_a_test_waits_for():
    with pytest.raises(ArgumentChanged, match="argument b"):
        answered({"error": {"kinds": ["ValueError"]}, "touched": ["b"]}, arguments=(1, [2]))
    with pytest.raises(ArgumentChanged, match="shape"):
        changed = {"0": {"data": "r"}}
        answered(
            {"value": 1, "changed": changed},
            {"r": torch.ones(3)},
            arguments=(torch.zeros(2),),
            changes=("a",),
        )


def test_declared_changes_happen_to_the_same_objects():
    x, model = torch.zeros(2), nn.Linear(1, 1).eval()
    model.weight.grad = kept = torch.zeros(1, 1)
    reply = {
        "value": {"a": 0},
        "changed": {"0": {"data": "r"}, "1": {"grad": "g"}, "2": {"data": "b"}},
        "machines": {"0": {"training": [True]}},
    }
    tensors = {"r": torch.ones(2), "g": torch.full((1, 1), 3.0), "b": torch.full((1,), 7.0)}
    assert answered(reply, tensors, (x, model), changes=("a", "b")) is x
    assert x.tolist() == [1, 1] and model.training
    assert kept.item() == 3 and model.weight.grad is kept and model.bias.item() == 7


def test_a_forged_truth_value_becomes_a_plain_one():
    blob = bytearray(protocol.pack({"r": torch.tensor([True, False])}))
    blob[-2:] = b"\x02\x00"
    value = answered(raw({"x": "r"}, bytes(blob)))
    assert torch.equal(value, torch.tensor([True, False]))


def test_generator_states():
    generator = torch.Generator().manual_seed(2**40)
    for draw in (torch.rand, torch.randn, torch.randperm):
        for size in (1, 3, 17, 700):
            draw(size, generator=generator)
            protocol.checked_state(generator.get_state())
    state = generator.get_state()
    for offset, value in ((8, 255), (11, 127), (12, 5), (16, 255), (20, 1), (28, 1), (5040, 2)):
        forged = state.clone()
        forged[offset] = value
        with pytest.raises(ProtocolFailure):
            protocol.checked_state(forged)
    for wrong in (state[:-1], state.float(), torch.zeros(5056, dtype=torch.uint8)):
        with pytest.raises(ProtocolFailure):
            protocol.checked_state(wrong)


def test_global_random_state_moves_here_where_it_moved_there():
    before = random.getstate(), torch.get_rng_state()
    answered({"value": 1})
    assert before[0] == random.getstate() and torch.equal(before[1], torch.get_rng_state())
    answered({"value": 1, "moved": ["random", "torch", "numpy"]})
    assert before[0] != random.getstate() and not torch.equal(before[1], torch.get_rng_state())
