"""MiniLM fine-tuning killed 20 times against the same run left alone: equal bit for bit?

    python benchmarks/resume.py                      # about 15 minutes on two cores

Each part is a process of its own, ended by SIGKILL at a random moment after its next checkpoint is
there (the one after that may just be being written), and continued from what it left. Weights, the
losses of all updates, all evaluations and the last checkpoint are compared. Dropout is on, the
number of threads is fixed. tests/test_recovery.py does the same with a tiny model, and lets every
step of a save go wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import torch

from sft_teach import checkpoint, models, training
from sft_teach.batching import LengthGroupedBatches

THREADS = 2


def part(folder: Path, precision: str, updates: int) -> None:
    """Go on from what is there; print a digest of weights and history at the end."""
    torch.set_num_threads(THREADS)
    job = common.Job("kills", "rotten_tomatoes", 32, 4, updates)
    ids, labels, names = common.ids_of(job, job.batch_size * updates)
    held_out = LengthGroupedBatches(*common.ids_of(job, 16, "validation")[:2], 16, shuffle=False)
    model = models.load_encoder(label_names=names)
    config = training.TrainingConfig(
        max_steps=updates, precision=precision, checkpoint_every=1, device="cpu",
        eval_every=10, keep_best="loss",
    )  # fmt: skip
    batches = LengthGroupedBatches(ids, labels, job.batch_size)
    started = any(folder.glob("step-*/state.json"))
    history = training.fit(
        model, batches, config, validation=held_out, output_dir=folder, progress=False,
        resume_from=folder if started else None,
    )  # fmt: skip
    steps = [{k: v for k, v in step.items() if k != "seconds"} for step in history.steps]
    digest = hashlib.sha256(json.dumps([steps, history.evaluations, history.best]).encode())
    for tensor in model.state_dict().values():  # the best weights
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    for file in sorted(checkpoint.find(folder).glob("*.safetensors")):  # the last ones, AdamW's...
        digest.update(file.read_bytes())
    print(json.dumps({"digest": digest.hexdigest(), "loss": steps[-1]["loss"],
                      "evaluations": len(history.evaluations)}))  # fmt: skip


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def killed(folder: Path, precision: str, updates: int, draw: random.Random) -> None:
    """Start a part and kill it soon after it has made progress."""
    command = [sys.executable, __file__, "--part", str(folder), precision, str(updates)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = checkpoints(folder)
    while checkpoints(folder) == before:
        if process.poll() is not None:
            sys.exit("A part ended before it was killed.")
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(Path(options.part[0]), options.part[1], int(options.part[2]))
        return
    rows = []
    for precision in ("float32", "bfloat16"):
        updates, draw = 3 * options.kills, random.Random(precision)
        with tempfile.TemporaryDirectory() as temporary:
            alone, broken = Path(temporary) / "alone", Path(temporary) / "killed"
            arguments = (precision, str(updates))
            expected = common.own_process("resume.py", "--part", str(alone), *arguments)
            steps = []
            for _ in range(options.kills):
                killed(broken, precision, updates, draw)
                steps += [int(name[5:]) for name in checkpoints(broken)[-1:]]
            found = common.own_process("resume.py", "--part", str(broken), *arguments)
        rows.append({"precision": precision, "kills": options.kills, "updates": updates,
                     "resumed_from": steps, "loss": found["loss"],
                     "evaluations": found["evaluations"],
                     "equal_bit_for_bit": found["digest"] == expected["digest"]})  # fmt: skip
        print(rows[-1], flush=True)
    common.write("resume", "MiniLM killed and resumed", rows, options.output, threads=THREADS)
    if not all(row["equal_bit_for_bit"] for row in rows):
        sys.exit("A resumed run differs from one left alone.")


if __name__ == "__main__":
    main()
