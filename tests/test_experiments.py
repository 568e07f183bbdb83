"""Full-scale runs: rows survive an interruption, settings are chosen on validation data."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset

from sft_teach import experiments
from sft_teach.errors import DataError


@pytest.fixture
def official(tmp_path):
    """A directory laid out by hub id, with a few sentences of five grades."""
    folder = tmp_path / "source" / "SetFit" / "sst5"
    folder.mkdir(parents=True)
    for split, n in (("train", 40), ("validation", 20), ("test", 30)):
        rows = [{"text": f"{split} sentence number {i}", "label": i % 5} for i in range(n)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "source"


def fake_finetune(calls, fail_at=None):
    def finetune(work, splits, test, *, seed, learning_rate, **config):
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        calls.append((seed, learning_rate, test is not None))
        # 2e-4 does best on validation data; on the test set 5e-5 would have.
        return {
            "seed": seed, "learning_rate": learning_rate, "accuracy": 1 - learning_rate,
            "validation": [0.5, 0.4 + 1000 * learning_rate],
        }  # fmt: skip

    return finetune


def test_a_run_that_was_stopped_goes_on_with_the_missing_rows(official, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(experiments, "finetune", fake_finetune(calls, fail_at=4))
    with pytest.raises(KeyboardInterrupt):
        experiments.run("sst5", tmp_path / "results", official)
    assert len(json.loads((tmp_path / "results" / "sst5.json").read_text())["rows"]) == 4
    monkeypatch.setattr(experiments, "finetune", fake_finetune(calls))
    for _ in range(2):
        path = experiments.run("sst5", tmp_path / "results", official)
    rows = json.loads(path.read_text())["rows"]
    assert len(calls) == len(rows) == 6
    assert [row["seed"] for row in rows if row["setting"] == "MiniLM"] == [0, 1, 2]


def test_the_learning_rate_is_chosen_without_the_test_set(official, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(experiments, "finetune", fake_finetune(calls))
    experiments.run("sst5", tmp_path, official)
    assert [test for _, _, test in calls] == [False] * 3 + [True] * 3
    assert {rate for _, rate, test in calls if test} == {2e-4}


def test_word_counts_and_the_network_learn_from_the_same_few_texts(monkeypatch):
    def texts(n):
        return Dataset.from_dict({"text": list(map(str, range(n))), "label": [0, 1] * (n // 2)})

    splits, seen = {"train": texts(6000), "test": texts(5500)}, {"counts": [], "net": []}

    def learn(who, train, test, seed):
        seen[who].append((seed, tuple(train["text"]), tuple(test["text"])))
        return {}

    monkeypatch.setattr(experiments, "word_counts", lambda *task: learn("counts", *task))
    monkeypatch.setattr(
        experiments,
        "finetune",
        lambda work, part, test, *, seed, **_: learn("net", part["train"], test, seed),
    )
    work = SimpleNamespace(load=lambda name: splits, done=lambda **key: False)
    assert len(list(experiments.sizes_rows(work))) == 12 + 9
    few = [task for task in seen["counts"] if len(task[1]) < 5000]
    assert seen["net"] == few and len(seen["counts"]) == len(few) + 3
    assert [len(task[1]) for task in seen["net"]] == [1000] * 3 + [2000] * 6
    assert len({task[2] for task in few}) == 1 and len(set(few[:3])) == 3  # one test set, 3 draws


def test_weights_take_the_rate_and_the_plain_rows_of_the_reference_run(
    official, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(experiments, "finetune", fake_finetune(calls))
    monkeypatch.setattr(experiments.environment, "results_dir", lambda: tmp_path)
    choice = [
        {"setting": "selection", "seed": 9, "learning_rate": 2e-4, "validation": [0.1, 0.5]},
        {"setting": "selection", "seed": 9, "learning_rate": 5e-5, "validation": [0.6, 0.4]},
    ]
    done = {"setting": "MiniLM", "seed": 1, "learning_rate": 2e-4, "accuracy": 0.5}
    (tmp_path / "sst5.json").write_text(json.dumps({"rows": [*choice, done]}))
    path = experiments.run("weights", source=official)
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 9 and len(calls) == 8
    assert [r["accuracy"] for r in rows if (r["setting"], r["seed"]) == ("plain", 1)] == [0.5]
    assert {rate for _, rate, _ in calls} == {2e-4}


def test_each_row_names_the_machine_it_was_made_on(official, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "finetune", fake_finetune([], fail_at=2))
    monkeypatch.setattr(experiments, "machine", lambda: {"cpu": "old"})
    with pytest.raises(KeyboardInterrupt):
        experiments.run("sst5", tmp_path, official)
    monkeypatch.setattr(experiments, "finetune", fake_finetune([]))
    monkeypatch.setattr(experiments, "machine", lambda: {"cpu": "new"})
    rows = json.loads(experiments.run("sst5", tmp_path, official).read_text())["rows"]
    assert [row["machine"]["cpu"] for row in rows] == ["old"] * 2 + ["new"] * 4


def test_one_real_row_holds_what_a_table_needs(official, tmp_path):
    work = experiments.Folder(tmp_path / "results" / "x.json", [], 0, official)
    splits = work.load("sst5")
    row = experiments.finetune(
        work, splits, splits["test"], seed=0, max_length=16, epochs=1, learning_rate=1e-4
    )
    assert row["n_train"] == 40 and row["n_test"] == 30 and len(row["predictions"]) == 30
    low, high = row["interval"]
    assert 0 <= low <= row["accuracy"] <= high <= 1 and low < high
    truth = splits["test"]["label"]
    right = sum(int(p) == t for p, t in zip(row["predictions"], truth, strict=True))
    assert row["accuracy"] == pytest.approx(right / 30, abs=1e-5)
    assert row["source"] == "directory" and str(official) not in json.dumps(row)


def test_an_unknown_experiment_names_the_known_ones():
    with pytest.raises(DataError, match="tfidf, sst5, imdb"):
        experiments.run("everything")


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write results to .*file"):
        experiments.run("sst5", tmp_path / "file" / "results")

    def read_only(dir):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(experiments.tempfile, "TemporaryFile", read_only)
    with pytest.raises(DataError, match="Read-only file system.*Make it writable"):
        experiments.run("sst5", tmp_path)


def test_a_table_says_what_its_seconds_are():
    cpu = {"cpu": "A CPU", "threads": 1, "gpu": "none", "torch": "2.13.0", "transformers": "5"}
    row = {"setting": "x", "seed": 0, "machine": cpu}
    place = "A CPU, 1 thread, no GPU, torch 2.13.0"
    said = experiments.measured_on([row, row | {"seed": 1}])
    assert said == f"seconds are processor time per thread on {place}"
    said = experiments.measured_on([row, row | {"seed": 1, "resumed": True}])
    assert f"wall time on {place} (x, seed 1)" in said
    said = experiments.measured_on([row | {"machine": cpu | {"gpu": "A GPU"}}])
    assert said == "seconds are wall time on A CPU, 1 thread, A GPU, torch 2.13.0"
