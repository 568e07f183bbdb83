"""Nothing of a run is lost: killed at any moment, it goes on and ends as if it had never stopped.

Each run is a process of its own, started from a server that has torch imported already, and dies by
SIGKILL or at a chosen step of writing a checkpoint. The oracle is the same run left alone, in the
same kind of process: weights, history and evaluations must be equal bit for bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

KILLS = 5
STEPS = 24
ERRORS = [(28, "No space left on device"), (13, "Permission denied")]  # in turns
SETTINGS = {"max_steps": STEPS, "checkpoint_every": 2, "eval_every": 3, "log_every": 1,
            "keep_best": "accuracy"}  # fmt: skip
SAVE = 2  # the checkpoint in which faults are injected: one stands already

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    slow_imports = ["torch", "torch._dynamo", "transformers.models.bert.modeling_bert"]
    context.set_forkserver_preload([*slow_imports, "sft_teach.training"])
    return context


# --- what the processes do ----------------------------------------------------------------------
def train(folder, result, precision, fault=None, slow=0.0):
    """Go on from what is in `folder`, or start; write weights and history to `result` at the end.

    `fault` is (number of the save, number of the operation in it, what happens there).
    """
    import torch
    from safetensors.torch import load_file
    from test_training import batches, quick, run, tiny

    from sft_teach import checkpoint

    torch.set_num_threads(1)
    operations = Operations(folder, *fault) if fault else None
    config = quick(precision=precision, **SETTINGS)

    def on_log(record):
        time.sleep(slow)  # so that a kill may fall anywhere

    started = any(folder.glob("step-*/state.json"))
    model = tiny()
    try:
        history = run(
            model, batches(), config, validation=batches(30, shuffle=False), on_log=on_log,
            output_dir=folder, resume_from=folder if started else None,
        )  # fmt: skip
    except checkpoint.CheckpointError as error:
        (result.parent / "error").write_text(str(error))
        raise SystemExit(3) from None
    finally:
        if operations:
            (result.parent / "operations").write_text(json.dumps(operations.seen))
    record = history.to_dict()
    for clocked in (record, *record["steps"]):
        clocked.pop("seconds"), clocked.pop("peak_memory_mb", None)
    weights = model.state_dict()  # the best ones; those of the end are in the last checkpoint
    for file in checkpoint.find(folder).glob("*.safetensors"):
        weights |= {f"{file.name} {name}": value for name, value in load_file(file).items()}
    torch.save({"weights": weights, "history": record}, result)


class Operations:
    """Counts what changes the disk during one save, and lets one of these operations go wrong."""

    def __init__(self, folder, save, number, action):
        import shutil

        from sft_teach import checkpoint

        self.folder, self.number, self.action = folder, number, action
        self.seen, self.saves, self.wanted = [], 0, save
        for owner, name in (
            (os, "fsync"), (os, "rename"), (os, "mkdir"), (shutil, "rmtree"),
            (Path, "write_text"), (checkpoint, "save_file"), (checkpoint, "save_model"),
        ):  # fmt: skip
            setattr(owner, name, self.watched(name, getattr(owner, name)))
        self.save, checkpoint.Store.save = checkpoint.Store.save, self.counted(checkpoint.Store)

    def counted(self, store):
        real = store.save

        def save(*arguments):
            self.saves += 1
            return real(*arguments)

        return save

    def watched(self, name, real):
        def operation(*arguments, **options):
            if self.saves != self.wanted:
                return real(*arguments, **options)
            self.seen.append(name)
            if len(self.seen) - 1 != self.number:
                return real(*arguments, **options)
            if self.action == "raise":
                if options.get("ignore_errors"):
                    return None
                raise OSError(*ERRORS[self.number % 2])
            if name.startswith(("save", "write")):  # half of the file is there
                real(*arguments, **options)
                path = next(a for a in arguments if str(a).startswith(str(self.folder)))
                os.truncate(path, os.path.getsize(path) // 2)
            if name == "rmtree":  # a part of the folder is gone
                (Path(arguments[0]) / "state.json").unlink(missing_ok=True)
            os._exit(9)

        return operation


# --- what the tests do --------------------------------------------------------------------------
def finished(processes, folder, tmp_path, precision, **options):
    """Run to the end and return what came out."""
    import torch

    result = tmp_path / f"result-{random.random()}.pt"
    process = processes.Process(target=train, args=(folder, result, precision), kwargs=options)
    process.start()
    process.join()
    assert process.exitcode == 0
    return torch.load(result)


def same(a, b):
    import torch

    assert a["history"] == b["history"]
    assert a["weights"].keys() == b["weights"].keys()
    for name, value in a["weights"].items():
        assert torch.equal(value, b["weights"][name]), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_runs_end_like_one_left_alone(processes, tmp_path, precision):
    expected = finished(processes, tmp_path / "alone", tmp_path, precision)
    draw, folder, kills = random.Random(precision), tmp_path / "killed", 0
    while kills < KILLS:
        process = processes.Process(
            target=train, args=(folder, tmp_path / "never", precision), kwargs={"slow": 0.02}
        )
        process.start()
        before = checkpoints(folder)
        while process.is_alive() and checkpoints(folder) == before:
            time.sleep(0.005)  # at least one checkpoint more, so that the test ends
        time.sleep(draw.uniform(0, 0.12))  # anywhere in the next updates and saves
        assert process.is_alive(), "it ended before it was killed: raise STEPS"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert 0 < max(checkpoints(folder)) < STEPS
    same(finished(processes, folder, tmp_path, precision), expected)


def checkpoints(folder) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


@pytest.fixture(scope="module")
def alone(processes, tmp_path_factory):
    """A run that nothing happens to, and the operations of its second save."""
    folder = tmp_path_factory.mktemp("alone")
    result = finished(processes, folder / "run", folder, "float32", fault=(SAVE, -1, "nothing"))
    return result, json.loads((folder / "operations").read_text())


def test_a_save_forces_every_file_to_disk_before_it_gets_its_name(alone):
    _, operations = alone
    rename = operations.index("rename")
    assert operations.count("rename") == 1
    files = [name for name in operations if name.startswith(("save", "write"))]
    # model, config, optimizer, best, rng, state
    assert len(files) == 6 and max(map(operations.index, files)) < operations.index("fsync")
    assert operations[:rename].count("fsync") == len(files) + 1  # and the folder itself
    assert operations[rename + 1] == "fsync"  # the folder that holds the name
    assert "rmtree" in operations[rename + 1 :]  # the older checkpoint goes last


@pytest.mark.parametrize("action", ["die", "raise"])
def test_a_fault_at_any_step_of_a_save_loses_nothing(processes, alone, tmp_path, action):
    expected, operations = alone
    for number, name in enumerate(operations):
        place = tmp_path / f"{number}-{name}"
        place.mkdir()
        folder = place / "run"
        process = processes.Process(
            target=train,
            args=(folder, place / "never", "float32"),
            kwargs={"fault": (SAVE, number, action)},
        )
        process.start()
        process.join()
        if action == "die":
            assert process.exitcode == 9, (number, name)
        elif process.exitcode == 0:  # a folder that is there already, or that cannot be removed
            assert name in ("mkdir", "rmtree"), (number, name)
            continue
        else:
            assert process.exitcode == 3, (number, name)
            said = (place / "error").read_text()
            assert ERRORS[number % 2][1] in said and "Free some space" in said
        whole = checkpoints(folder)
        assert whole and max(whole) in (2, 4), (number, name)  # the old one, or the new one
        same(finished(processes, folder, place, "float32"), expected)
        left = [path.name for path in folder.iterdir()]
        assert left == [f"step-{STEPS:08d}"], left  # nothing unfinished stays behind


def full_disk(folder, result):
    """A limit of the system on file sizes stands for a full disk: writes fail half-way."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    from test_training import batches, quick, run, tiny

    from sft_teach.errors import CheckpointError

    config = quick(precision="float32", **SETTINGS)

    def on_log(record):
        if record["step"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    try:
        held_out = batches(30, shuffle=False)
        run(tiny(), batches(), config, validation=held_out, output_dir=folder, on_log=on_log)
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        result.write_text(str(error))


def test_a_disk_that_is_really_full_is_named_and_the_older_checkpoint_opens(processes, tmp_path):
    folder = tmp_path / "run"
    process = processes.Process(target=full_disk, args=(folder, tmp_path / "said"))
    process.start()
    process.join()
    said = (tmp_path / "said").read_text()
    assert "Could not write" in said and "too large" in said.lower(), said
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    expected = finished(processes, tmp_path / "alone", tmp_path, "float32")
    same(finished(processes, folder, tmp_path, "float32"), expected)
