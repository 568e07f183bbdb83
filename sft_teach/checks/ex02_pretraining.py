"""Checks of ex02: learning from text without labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, tensor

from sft_teach.checks.core import Case, Mistake, Task, fresh

Words = dict[tuple[str, ...], int]
Pair = tuple[str, str]


# --- most_frequent_pair -------------------------------------------------------------------------
def _pairs(symbols: tuple[str, ...]) -> list[Pair]:
    return list(zip(symbols, symbols[1:], strict=False))


def _counted(words: Words, pairs: Callable = _pairs, weigh: bool = True) -> Counter[Pair]:
    counts: Counter[Pair] = Counter()
    for symbols, frequency in words.items():
        for pair in pairs(symbols):
            counts[pair] += frequency if weigh else 1
    return counts


def _best(counts: Counter[Pair], order: Callable = lambda pair: pair) -> Pair:
    if not counts:
        raise ValueError("no word has two symbols")
    return min(counts, key=lambda pair: (-counts[pair], order(pair)))


def _most_frequent_pair(words: Words) -> Pair:
    return _best(_counted(words))


def _without_overlap(symbols: tuple[str, ...]) -> list[Pair]:
    """("a", "a", "a") holds ("a", "a") once."""
    found, i = [], 0
    for i, pair in enumerate(_pairs(symbols)):
        if not (found and found[-1][1] == pair and found[-1][0] == i - 1):
            found.append((i, pair))
    return [pair for _, pair in found]


def _of_letters(symbols: tuple[str, ...]) -> list[Pair]:
    return _pairs(tuple("".join(symbols)))


def _rarest(words: Words) -> Pair:
    counts = _counted(words)
    return min(counts, key=lambda pair: (counts[pair], pair))


def _across_words(whose: int) -> Callable:
    """The words as one row of symbols; the pair between two counts as often as one of them."""

    def answer(words: Words) -> Pair:
        counts = _counted(words)
        rows = list(words.items())
        for two in zip(rows, rows[1:], strict=False):
            counts[two[0][0][-1], two[1][0][0]] += two[whose][1]
        return _best(counts)

    return answer


def _strung_together(weigh: bool) -> Callable:
    """The words as one row of symbols, each as often as it occurs, or once."""

    def answer(words: Words) -> Pair:
        row = [s for symbols, n in words.items() for s in symbols * (n if weigh else 1)]
        return _best(_counted({tuple(row): 1}))

    return answer


def _last_of_the_best(words: Words) -> Pair:
    counts = _counted(words)
    return max(counts, key=lambda pair: (counts[pair], pair))


def _first_of_the_best(words: Words) -> Pair:
    counts = _counted(words)
    return max(counts, key=counts.get)


def _none_if_there_is_none(words: Words) -> Pair | None:
    counts = _counted(words)
    return _best(counts) if counts else None


def _returns(value: Callable[[Pair, Counter], Any]) -> Callable:
    def answer(words: Words) -> Any:
        counts = _counted(words)
        best = _best(counts)
        return value(best, counts)

    return answer


TOY = {tuple("bad"): 4, tuple("sad"): 3, tuple("badly"): 2, tuple("sadly"): 2}

MOST_FREQUENT_PAIR = Task(
    reference=_most_frequent_pair,
    cases=[
        Case(fresh({("a", "b"): 1}), "the only pair there is"),
        Case(fresh(TOY), "('a', 'd'): it is in every word, 11 times in all"),
        Case(
            fresh({("a", "b"): 1, ("c", "a", "b"): 1, ("d", "e"): 5}),
            "a pair counts as often as its word: ('d', 'e') 5 times, ('a', 'b') twice",
        ),
        Case(
            fresh({("a", "b", "a", "b", "a", "b"): 1, ("c", "d"): 2}),
            "('a', 'b') three times in one word",
        ),
        Case(fresh({("b", "c"): 3, ("a", "a", "a"): 2}), "('a', 'a') twice in ('a', 'a', 'a')"),
        Case(fresh({("th", "e"): 3, ("t", "h"): 2}), "symbols may have several letters"),
        Case(
            fresh({("b", "a", "c"): 2, ("b", "a"): 1, ("b", "c"): 2}),
            "('b', 'a') three times; 'b' and 'c' are neighbours only twice",
        ),
        Case(
            fresh({("a",): 5, ("b",): 4, ("a", "c"): 1}),
            "('a', 'c'), the only pair: a word of one symbol has none",
        ),
        Case(
            fresh({("b", "c"): 2, ("a", "c"): 2, ("c", "a"): 2}),
            "of equally frequent pairs the lexicographically smallest, ('a', 'c')",
        ),
        Case(
            fresh({("a", "z"): 2, ("ab", "a"): 2}),
            "pairs in the order of tuples: 'a' comes before 'ab', so ('a', 'z') is smaller",
        ),
        Case(
            fresh({("b", "a"): 3, ("a", "b"): 2, ("c", "d"): 4}),
            "('c', 'd'): the order within a pair matters",
        ),
        Case(fresh({("a",): 3, ("bc",): 2}), "ValueError: no word has two symbols",
             raises=ValueError),
        Case(fresh({}), "ValueError: there is no word", raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "each word is counted once, however often it occurs. Add the word's frequency for "
            "each of its pairs.",
            lambda words: _best(_counted(words, weigh=False)),
        ),
        Mistake(
            "overlapping places are not all counted: ('a', 'a', 'a') holds ('a', 'a') twice. (Only "
            "merging must not overlap.)",
            lambda words: _best(_counted(words, _without_overlap)),
        ),
        Mistake(
            "a pair that comes several times in one word is counted once. It counts at every "
            "place.",
            lambda words: _best(_counted(words, lambda s: sorted(set(_pairs(s))))),
        ),
        Mistake(
            "pairs of symbols that do not stand beside each other are counted too. Only neighbours "
            "can be merged.",
            lambda words: _best(_counted(words, lambda s: list(combinations(s, 2)))),
        ),
        Mistake(
            "letters are counted, not symbols: 'th' is one symbol after its merge. Go through the "
            "tuple.",
            lambda words: _best(_counted(words, _of_letters)),
        ),
        Mistake(
            "the two orders of a pair are counted together. ('a', 'b') and ('b', 'a') are two "
            "pairs.",
            lambda words: _best(_counted(words, lambda s: [tuple(sorted(p)) for p in _pairs(s)])),
        ),
        Mistake(
            "pairs are counted from the last symbol of one word to the first of the next. Words "
            "stand by themselves.",
            _across_words(0),
        ),
        Mistake(
            "pairs are counted from the last symbol of one word to the first of the next. Words "
            "stand by themselves.",
            _across_words(1),
        ),
        Mistake(
            "the words are strung together, so that pairs are counted across the end of a word. "
            "Words stand by themselves: count inside each one.",
            _strung_together(True),
        ),
        Mistake(
            "the words are strung together, so that pairs are counted across the end of a word. "
            "Words stand by themselves: count inside each one.",
            _strung_together(False),
        ),
        Mistake(
            "a word of one symbol ends in an error. It has no pair and is passed over; the "
            "ValueError is due only where no word has two symbols.",
            when=lambda seen: len(seen) > 10 and seen[7].error is not None
            and not any(s.error for i, s in enumerate(seen[:11]) if i != 7),
        ),
        Mistake(
            "ties are decided by the glued text ('aba' before 'az'). Compare the pairs themselves, "
            "as Python compares tuples.",
            lambda words: _best(_counted(words), "".join),
        ),
        Mistake(
            "of equally frequent pairs this takes the one that was met first, so that the result "
            "depends on the order of the words. Take the lexicographically smallest.",
            _first_of_the_best,
        ),
        Mistake(
            "of equally frequent pairs this takes the largest. Take the lexicographically "
            "smallest: the two parts of the ordering go in opposite directions.",
            _last_of_the_best,
        ),
        Mistake(
            "this is the rarest pair. The most frequent one is asked for.",
            _rarest,
        ),
        Mistake(
            "the pair comes back together with its count. Return the pair alone.",
            _returns(lambda pair, counts: (pair, counts[pair])),
        ),
        Mistake(
            "this is the count, not the pair.",
            _returns(lambda pair, counts: counts[pair]),
        ),
        Mistake(
            "the two symbols are glued together already. Return them as a pair: a tuple of two "
            "strings.",
            _returns(lambda pair, counts: "".join(pair)),
        ),
        Mistake(
            "where no word has two symbols, nothing comes back. A ValueError is asked for, so that "
            "nobody goes on with None.",
            _none_if_there_is_none,
        ),
        Mistake(
            "where no word has two symbols, there is an error of another kind. Look for that case "
            "and raise a ValueError that says what is wrong.",
            when=lambda seen: len(seen) > 11 and seen[11].error is not None
            and not isinstance(seen[11].error, ValueError)
            and not any(s.error for s in seen[:11]),
        ),
    ],
)  # fmt: skip


# --- merge_pair ---------------------------------------------------------------------------------
def merged(function: Callable, arguments: tuple) -> Any:
    """A Counter or a defaultdict is a dict as well."""
    result = function(*arguments)
    return dict(result) if isinstance(result, dict) else result


def _glue(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    result, i = [], 0
    while i < len(symbols):
        hit = symbols[i : i + 2] == pair
        result.append("".join(pair) if hit else symbols[i])
        i += 2 if hit else 1
    return tuple(result)


def _merge(words: Words, pair: Pair, glue: Callable = _glue) -> Words:
    result: Words = {}
    for symbols, frequency in words.items():
        new = glue(symbols, pair)
        result[new] = result.get(new, 0) + frequency
    return result


def _merge_pair(words: Words, pair: Pair) -> Words:
    return _merge(words, pair)


def _merging(glue: Callable) -> Callable:
    return lambda words, pair: _merge(words, pair, glue)


def _glue_from_the_right(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    result, i = [], len(symbols)
    while i > 0:
        hit = symbols[max(i - 2, 0) : i] == pair
        result.append("".join(pair) if hit else symbols[i - 1])
        i -= 2 if hit else 1
    return tuple(result[::-1])


def _glue_overlapping(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Does not skip the second symbol: it may take part in the next pair."""
    result, used = [], False
    for i, symbol in enumerate(symbols):
        hit = symbols[i : i + 2] == pair
        if hit:
            result.append("".join(pair))
        elif not used:
            result.append(symbol)
        used = hit
    return tuple(result)


def _glue_once(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    for i in range(len(symbols) - 1):
        if symbols[i : i + 2] == pair:
            return (*symbols[:i], "".join(pair), *symbols[i + 2 :])
    return symbols


def _glue_keeping(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Adds the glued symbol and keeps its second half."""
    result = []
    for i, symbol in enumerate(symbols):
        result.append("".join(pair) if symbols[i : i + 2] == pair else symbol)
    return tuple(result)


def _glue_text(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Replaces in the text: "a b" is also found in "xa b"."""
    return tuple(" ".join(symbols).replace(" ".join(pair), "".join(pair)).split(" "))


def _glue_letters(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    return _glue(tuple("".join(symbols)), pair)


def _glue_either(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    result, i = [], 0
    while i < len(symbols):
        hit = symbols[i : i + 2] in (pair, pair[::-1])
        result.append("".join(symbols[i : i + 2]) if hit else symbols[i])
        i += 2 if hit else 1
    return tuple(result)


def _glue_dropping_the_end(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """The loop stops one short: a last symbol that is not merged is lost."""
    result, i = [], 0
    while i < len(symbols) - 1:
        hit = symbols[i : i + 2] == pair
        result.append("".join(pair) if hit else symbols[i])
        i += 2 if hit else 1
    return tuple(result)


def _glue_first_symbol(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Looks at the first symbol of the pair only."""
    result, i = [], 0
    while i < len(symbols):
        hit = symbols[i] == pair[0] and i + 1 < len(symbols)
        result.append("".join(pair) if hit else symbols[i])
        i += 2 if hit else 1
    return tuple(result)


def _overwritten(words: Words, pair: Pair) -> Words:
    return {_glue(symbols, pair): frequency for symbols, frequency in words.items()}


def _only_changed(words: Words, pair: Pair) -> Words:
    return _merge({s: n for s, n in words.items() if _glue(s, pair) != s}, pair)


def _old_ones_too(words: Words, pair: Pair) -> Words:
    return words | _merge(words, pair)


MERGE_PAIR = Task(
    reference=_merge_pair,
    cases=[
        Case(fresh({("a", "b"): 2}, ("a", "b")), "the two symbols as one", merged),
        Case(fresh(TOY, ("a", "d")), "'ad' in each word, the rest as it was", merged),
        Case(
            fresh({("c", "d"): 3, ("a",): 1, ("b", "a"): 2}, ("a", "b")),
            "words without the pair as they were",
            merged,
        ),
        Case(
            fresh({("a", "b", "c", "a", "b"): 2}, ("a", "b")), "every place of the word", merged
        ),
        Case(
            fresh({("a", "c", "a", "b", "a"): 2}, ("a", "b")),
            "only where both symbols stand, in this order",
            merged,
        ),
        Case(
            fresh({("a", "a", "a"): 1, ("a", "a", "a", "a"): 2}, ("a", "a")),
            "from the left, no symbol twice: ('aa', 'a') and ('aa', 'aa')",
            merged,
        ),
        Case(
            fresh({("a", "b", "c"): 2, ("ab", "c"): 3}, ("a", "b")),
            "words that become equal add their counts: 5",
            merged,
        ),
        Case(
            fresh({("xa", "b"): 2, ("a", "bc"): 1, ("a", "b"): 1}, ("a", "b")),
            "whole symbols only: 'xa' and 'bc' are other symbols than 'a' and 'b'",
            merged,
        ),
        Case(
            fresh({("th", "e", "r", "e"): 2, ("t", "h", "e"): 1}, ("th", "e")),
            "symbols of several letters",
            merged,
        ),
    ],
    mistakes=[
        Mistake(
            "of words that become equal only one count is left. Add to what is there already "
            "(dict.get, or a Counter).",
            _overwritten,
        ),
        Mistake(
            "only the first place in a word is merged. Go on to its end.",
            _merging(_glue_once),
        ),
        Mistake(
            "merged from right to left: ('a', 'a', 'a') must become ('aa', 'a').",
            _merging(_glue_from_the_right),
        ),
        Mistake(
            "a symbol takes part in two merges: in ('a', 'a', 'a') the middle one is used up by "
            "the first. After a merge, go on two places further.",
            _merging(_glue_overlapping),
        ),
        Mistake(
            "the second symbol of the pair is still there after the merge. Go on two places "
            "further.",
            _merging(_glue_keeping),
        ),
        Mistake(
            "a text was searched instead of symbols: ('xa', 'b') holds the text 'a b' but not the "
            "pair. Compare whole symbols.",
            _merging(_glue_text),
        ),
        Mistake(
            "letters are merged, not symbols: earlier merges get lost. Go through the tuple.",
            _merging(_glue_letters),
        ),
        Mistake(
            "the pair is merged in both orders. ('b', 'a') is another pair.",
            _merging(_glue_either),
        ),
        Mistake(
            "the last symbol of a word is lost unless it was merged. How far does the loop go?",
            _merging(_glue_dropping_the_end),
        ),
        Mistake(
            "only the first symbol of the pair is looked at. Both must match.",
            _merging(_glue_first_symbol),
        ),
        Mistake(
            "words without the pair are missing. They stay, as they were.",
            _only_changed,
        ),
        Mistake(
            "the old words are still there beside the new ones, and would be counted twice.",
            _old_ones_too,
        ),
        Mistake(
            "the index runs past the end of a word. What stands behind its last symbol?",
            when=lambda seen: any(s.raised == "IndexError" for s in seen),
        ),
    ],
)  # fmt: skip


# --- next_token_pairs ---------------------------------------------------------------------------
def _next_token_pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    return ids[:, :-1], ids[:, 1:]


NEXT_TOKEN_PAIRS = Task(
    reference=_next_token_pairs,
    cases=[
        Case(fresh(tensor([[5, 7]])), "one position: 5 is given, 7 comes next"),
        Case(
            fresh(tensor([[2, 41, 17, 23, 8]])),
            "inputs 2, 41, 17, 23 and targets 41, 17, 23, 8",
        ),
        Case(
            fresh(tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])),
            "each row separately: (batch, length - 1) both",
        ),
        Case(
            fresh(tensor([[3, 1, 4, 1], [5, 9, 2, 6]])),
            "each row separately: (batch, length - 1) both",
        ),
    ],
    mistakes=[
        Mistake(
            "inputs and targets are swapped: this would teach the model to guess the token before.",
            lambda ids: (ids[:, 1:], ids[:, :-1]),
        ),
        Mistake(
            "the targets are the inputs themselves. The label of a position is the token that "
            "comes after it.",
            lambda ids: (ids[:, :-1], ids[:, :-1]),
        ),
        Mistake(
            "inputs and targets are both the last tokens. The inputs start with the first one.",
            lambda ids: (ids[:, 1:], ids[:, 1:]),
        ),
        Mistake(
            "the inputs still hold the last token, which has no next one. Cut it off.",
            lambda ids: (ids, ids[:, 1:]),
        ),
        Mistake(
            "the targets are rolled round: the last position is asked for the first token. Cut, "
            "do not roll.",
            lambda ids: (ids, ids.roll(-1, dims=1)),
        ),
        Mistake(
            "the inputs are right, but the targets are rolled round and one too long.",
            lambda ids: (ids[:, :-1], ids.roll(-1, dims=1)),
        ),
        Mistake(
            "the first dimension was cut: whole texts are missing. Positions are in the second "
            "one.",
            lambda ids: (ids[:-1], ids[1:]),
        ),
        Mistake(
            "the targets are two tokens ahead. The next token is asked for.",
            lambda ids: (ids[:, :-2], ids[:, 2:]),
        ),
        Mistake(
            "only the last token is a target. Every position has one: a causal model is trained "
            "on all of them at once.",
            lambda ids: (ids[:, :-1], ids[:, -1]),
        ),
        Mistake(
            "the two are stacked into one tensor. Return a tuple of two.",
            lambda ids: torch.stack([ids[:, :-1], ids[:, 1:]]),
        ),
        Mistake(
            "all texts were made into one row, so that the end of one is asked for the start of "
            "the next. Keep the rows apart.",
            lambda ids: (ids.flatten()[:-1], ids.flatten()[1:]),
        ),
    ],
)


# --- mask_tokens --------------------------------------------------------------------------------
ROWS, LENGTH, MASK, VOCABULARY = 400, 100, 3, 12
SHARE = 0.3


def _mask_tokens(
    ids: Tensor, special: Tensor, mask_id: int, vocab_size: int, p: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special
    kind = torch.rand(ids.shape, generator=generator)
    anything = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (kind >= 0.8) & (kind < 0.9), anything, inputs)
    return inputs, torch.where(chosen, ids, -100)


def near(value: float, wanted: float, low: float, high: float) -> float:
    """`wanted` where the value lies within bounds that a right answer leaves once in 1e9."""
    return wanted if low < value < high else round(float(value), 3)


def _plain_case(ids: Tensor, special: Tensor, p: float) -> Callable[[], tuple]:
    return lambda: (ids.clone(), special.clone(), MASK, VOCABULARY, p)


def _corpus(p: float = SHARE) -> tuple:
    """40,000 tokens 5 to 9, a special one at the start of each row."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, 10, (ROWS, LENGTH), generator=generator)
    special = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    special[:, 0] = True
    return ids, special, MASK, VOCABULARY, p


def exact(function: Callable, arguments: tuple) -> Any:
    """What holds for every token, whatever was drawn."""
    ids, special = arguments[0].clone(), arguments[1]
    result = function(*arguments, torch.Generator().manual_seed(1))
    if not _two_tensors(result, ids):
        return {"two int64 tensors of the shape of ids": False}
    inputs, labels = result
    chosen = labels != -100
    return {
        "two int64 tensors of the shape of ids": True,
        "labels are the original ids or -100": bool((labels[chosen] == ids[chosen]).all()),
        "tokens that were not chosen are as before": bool((inputs == ids)[~chosen].all()),
        "no special token is chosen": not bool((chosen & special).any()),
        "no -100 in what the model sees": not bool((inputs == -100).any()),
    }


def _two_tensors(result: Any, ids: Tensor) -> bool:
    return (
        isinstance(result, tuple)
        and len(result) == 2
        and all(isinstance(t, Tensor) and t.dtype == torch.int64 for t in result)
        and all(t.shape == ids.shape for t in result)
    )


def how_many(function: Callable, arguments: tuple) -> Any:
    """The share of chosen tokens."""
    special = arguments[1]
    _, labels = function(*arguments, torch.Generator().manual_seed(2))
    share = (labels != -100)[~special].double().mean().item()
    p = arguments[4]
    width = 7 * math.sqrt(p * (1 - p) / int((~special).sum())) + 1e-4
    return {"share of tokens that are chosen": near(share, p, p - width, p + width)}


def what_is_shown(function: Callable, arguments: tuple) -> Any:
    """What becomes of the chosen ones. Of 12 ids 10 are neither the mask's nor the token's own."""
    ids = arguments[0]
    inputs, labels = function(*arguments, torch.Generator().manual_seed(3))
    chosen = labels != -100
    n = max(int(chosen.sum()), 1)
    masked = ((inputs == MASK) & chosen).sum().item() / n
    kept = ((inputs == ids) & chosen).sum().item() / n
    extra = 0.1 / VOCABULARY  # of the random ids
    return {
        "share that became the mask": near(masked - extra, 0.8, 0.77, 0.83),
        "share that stayed": near(kept - extra, 0.1, 0.08, 0.12),
        "share of random ids": near((1 - masked - kept) * VOCABULARY / 10, 0.1, 0.075, 0.125),
    }


def which_ids(function: Callable, arguments: tuple) -> Any:
    """Which ids the random ones are: each of range(vocab_size) as often as the others."""
    ids = arguments[0]
    inputs, labels = function(*arguments, torch.Generator().manual_seed(4))
    other = inputs[(labels != -100) & (inputs != MASK) & (inputs != ids)]
    counts = torch.bincount(other.clamp(0, VOCABULARY), minlength=VOCABULARY + 1).tolist()
    wanted = [i for i in range(VOCABULARY) if i not in (MASK, 6)]
    mean = max(sum(counts[i] for i in wanted) / len(wanted), 1)
    missing = [i for i in wanted if not 0.5 * mean < counts[i] < 1.6 * mean]
    return {
        "random ids outside range(vocab_size)": bool((other >= VOCABULARY).any()),
        "ids that come too rarely or too often": missing,
    }


def independent(function: Callable, arguments: tuple) -> Any:
    """Positions do not hang together: counts by row and by column scatter as a binomial's do."""
    p = arguments[4]
    inputs, labels = function(*arguments, torch.Generator().manual_seed(5))
    chosen = (labels != -100)[:, 1:].double()
    rows, columns = chosen.shape
    variance = p * (1 - p)
    by_row = chosen.sum(1).var().item() / (columns * variance)
    by_column = chosen.sum(0).var().item() / (rows * variance)
    both = (chosen[:, :-1] * chosen[:, 1:]).mean().item() / p**2
    masked = (inputs == MASK).double()[:, 1:].sum(1).var().item() / (columns * 0.24 * 0.76)
    shown = (inputs == MASK)[labels != -100].double()  # in the order of the text
    half = max(len(shown) // 2, 1)
    drift = shown[:half].mean().item() - shown[half:].mean().item()
    few, none, generator = arguments[0][:2, 1:11], arguments[1][:2, 1:11], torch.Generator()
    generator.manual_seed(9)
    calls = [function(few, none, *arguments[2:], generator)[1] for _ in range(200)]
    total = torch.stack([(one != -100).sum() for one in calls]).double().var().item()
    return {
        "scatter of the number chosen in a row, 1 if independent": near(by_row, 1.0, 0.5, 1.7),
        "scatter of the number chosen in a column": near(by_column, 1.0, 0.25, 2.6),
        "scatter of the number of neighbours that are both chosen": near(both, 1.0, 0.8, 1.2),
        "scatter of the number of masks in a row": near(masked, 1.0, 0.5, 1.7),
        "masks among the first half of the chosen, more than among the second": near(
            drift, 0.0, -0.06, 0.06
        ),
        "scatter of the number chosen of 20, in 200 calls": near(
            total / (20 * variance), 1.0, 0.3, 3.0
        ),
    }


def from_the_generator(function: Callable, arguments: tuple) -> Any:
    """The same state the same result, another one another; a second call draws anew."""

    def drawn(generator: torch.Generator) -> list:
        return [t.tolist() for t in function(*arguments, generator)]

    one, again, other = (torch.Generator().manual_seed(seed) for seed in (6, 6, 7))
    first = drawn(one)
    return {
        "the same generator state gives the same result": drawn(again) == first,
        "another seed gives another result": drawn(other) != first,
        "a second call draws anew": drawn(one) != first,
    }


def everything(function: Callable, arguments: tuple) -> Any:
    """p = 1 and p = 0 leave nothing to chance."""
    *rest, _ = arguments
    shares = {}
    for p in (0.0, 1.0):
        _, labels = function(*rest, p, torch.Generator().manual_seed(8))
        chosen = (labels != -100)[~arguments[1]].double().mean().item()
        shares[f"share chosen with p = {p:g}"] = chosen
    return shares


def _value(seen: list, case: int, name: str) -> Any:
    """A named property of a case, or None."""
    value = seen[case].value if len(seen) > case else None
    return value.get(name) if isinstance(value, dict) else None


def _shares(seen: list) -> tuple[float, float, float]:
    names = "share that became the mask", "share that stayed", "share of random ids"
    found = [_value(seen, 4, name) for name in names]
    return tuple(-1.0 if share is None else share for share in found)


def _about(share: float, wanted: float, width: float = 0.025) -> bool:
    return abs(share - wanted) < width


def _exactly(seen: list, name: str, holds: bool) -> bool:
    """Whether a property came out so for few tokens or for many."""
    return holds in (_value(seen, 0, name), _value(seen, 1, name))


def _chosen(seen: list) -> float:
    share = _value(seen, 3, "share of tokens that are chosen")
    return -1.0 if share is None else share


def _scatter(seen: list, what: str) -> float:
    """1 if positions are independent, and where nothing is known."""
    found = _value(seen, 6, f"scatter of the number {what}")
    return 1.0 if found is None else found


SHOWN = "no -100 in what the model sees"
LABELS = "labels are the original ids or -100"
OTHERS = "tokens that were not chosen are as before"
SPECIAL = "no special token is chosen"
IN_ROW = "chosen in a row, 1 if independent"


DRIFT = "masks among the first half of the chosen, more than among the second"
TOTAL = "scatter of the number chosen of 20, in 200 calls"
CORPUS = f"{ROWS} rows of {LENGTH} ids, the first of each row special, p = {SHARE}"

MASK_TOKENS = Task(
    reference=_mask_tokens,
    cases=[
        Case(
            _plain_case(tensor([[1, 5, 6, 7, 8, 9, 2, 5], [1, 9, 9, 6, 2, 0, 0, 7]]),
                        tensor([[1, 0, 0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1, 1, 0]]).bool(), 0.9),
            "labels hold the original id of chosen tokens and -100 elsewhere; the others stay",
            exact,
            shown="ids (2, 8), special, mask_id 3, vocab_size 12, p 0.9",
        ),
        Case(lambda: _corpus(), "the same of many tokens", exact, shown=CORPUS),
        Case(
            _plain_case(tensor([5, 6, 7, 8, 9, 1]), tensor([0, 0, 0, 0, 0, 1]).bool(), 0.5),
            "ids of any shape, here one row",
            exact,
            shown="ids (6,), special, mask_id 3, vocab_size 12, p 0.5",
        ),
        Case(lambda: _corpus(), "a share p of the tokens that are not special is chosen", how_many,
             shown=CORPUS),
        Case(lambda: _corpus(), "of the chosen 80 % [MASK], 10 % a random id, 10 % as they were",
             what_is_shown, shown=CORPUS),
        Case(
            lambda: (torch.full((ROWS, LENGTH), 6), torch.zeros(ROWS, LENGTH).bool(), MASK,
                     VOCABULARY, 1.0),
            "random ids from the whole of range(vocab_size), all equally often",
            which_ids,
            shown=f"{ROWS} x {LENGTH} times the id 6, p = 1",
        ),
        Case(lambda: _corpus(), "each position is chosen by itself", independent, shown=CORPUS),
        Case(lambda: (*(x[:20, :20] for x in _corpus()[:2]), MASK, VOCABULARY, SHARE),
             "all randomness comes from the generator", from_the_generator,
             shown="20 x 20 ids, generators with equal and with other seeds"),
        Case(lambda: _corpus(), "p = 0 chooses none, p = 1 all that are not special", everything,
             shown=f"{ROWS} rows of {LENGTH} ids, p = 0 and p = 1"),
    ],
    mistakes=[
        Mistake(
            "it must return a tuple of two int64 tensors in the shape of ids: what the model sees, "
            "and the labels.",
            when=lambda seen: any(
                _value(seen, i, "two int64 tensors of the shape of ids") is False for i in range(3)
            ),
        ),
        Mistake(
            "the generator is not used: some of the randomness comes from elsewhere. Pass "
            "generator=generator to everything that draws.",
            when=lambda seen: any(s.moved_random for s in seen),
        ),
        Mistake(
            "the result does not depend on the generator's state: it is seeded anew, or not used. "
            "Draw from it as it comes.",
            when=lambda seen: _value(seen, 7, "another seed gives another result") is False
            or _value(seen, 7, "a second call draws anew") is False,
        ),
        Mistake(
            "-100 stands in what the model sees, where ids belong. Are the two results swapped? "
            "First what the model sees, then the labels.",
            when=lambda seen: _exactly(seen, SHOWN, False),
        ),
        Mistake(
            "the labels are not the original ids. They hold what stood there before the masking "
            "(at the chosen positions), and -100 everywhere else.",
            when=lambda seen: _exactly(seen, LABELS, False),
        ),
        Mistake(
            "the labels are the wrong way round: -100 stands where something is asked for.",
            when=lambda seen: _exactly(seen, SPECIAL, False) and _exactly(seen, OTHERS, False),
        ),
        Mistake(
            "every position has a label. -100 belongs wherever nothing was chosen.",
            when=lambda seen: _chosen(seen) > 0.99,
        ),
        Mistake(
            "only special tokens are chosen: the mask is inverted.",
            when=lambda seen: _exactly(seen, SPECIAL, False) and _chosen(seen) < 0.02,
        ),
        Mistake(
            "special tokens are chosen. Leave out every position where `special` is True.",
            when=lambda seen: _exactly(seen, SPECIAL, False),
        ),
        Mistake(
            "tokens that were not chosen are changed, or changed tokens have no label. Whatever is "
            "shown differently must be asked for.",
            when=lambda seen: _exactly(seen, OTHERS, False),
        ),
        Mistake(
            "labels stand only where the token is shown differently. The 10 % that stay as they "
            "are were chosen too: they have a label.",
            when=lambda seen: _shares(seen)[1] < 0.01 and _about(_shares(seen)[0], 0.88)
            and _about(_chosen(seen), 0.27, 0.02),
        ),
        Mistake(
            "all chosen tokens become [MASK]. Draw a second time, a number for every position, to "
            "decide which of them are shown as they are, and which as a random id.",
            when=lambda seen: _shares(seen)[0] > 0.95,
        ),
        Mistake(
            "no chosen token stays as it is: 20 % become random ids. It is 10 % and 10 %.",
            when=lambda seen: _about(_shares(seen)[0], 0.8) and _shares(seen)[1] < 0.03,
        ),
        Mistake(
            "no chosen token becomes a random id: 20 % stay. It is 10 % and 10 %.",
            when=lambda seen: _about(_shares(seen)[0], 0.8) and _shares(seen)[2] < 0.005,
        ),
        Mistake(
            "of the chosen tokens about 2 % become random ids: 10 % of the 20 % that are left. "
            "10 % of all chosen ones are asked for, which is half of what is left.",
            when=lambda seen: _about(_shares(seen)[0], 0.8)
            and _about(_shares(seen)[2], 0.02, 0.02),
        ),
        Mistake(
            "80 % of the chosen tokens become [MASK], then 10 % of these are overwritten by random "
            "ids, or the other way round. One draw should decide between the three.",
            when=lambda seen: _about(_shares(seen)[0], 0.72, 0.03),
        ),
        Mistake(
            "p is not used.",
            when=lambda seen: _value(seen, 8, "share chosen with p = 1") not in (None, 1.0)
            and _value(seen, 8, "share chosen with p = 0") not in (None, 0.0),
        ),
        Mistake(
            "all chosen tokens are treated alike: one draw decides for all of them. Draw one "
            "number for every position.",
            when=lambda seen: max(_shares(seen)) > 0.95,
        ),
        Mistake(
            "neighbouring positions are chosen together. Draw one number for every position.",
            when=lambda seen: _scatter(seen, "of neighbours that are both chosen") > 1.2
            and _scatter(seen, "chosen in a column") < 2.6
            and _scatter(seen, IN_ROW) < 10,
        ),
        Mistake(
            "which of the chosen become [MASK] follows from their order: the first ones do. Draw a "
            "number for every position.",
            when=lambda seen: (_value(seen, 6, DRIFT) or 0.0) > 0.15,
        ),
        Mistake(
            "each row chooses the same positions, or each row decides as a whole. Draw one number "
            "for every single position, in the shape of ids.",
            when=lambda seen: _scatter(seen, "chosen in a column") > 2.6
            or max(_scatter(seen, IN_ROW), _scatter(seen, "of masks in a row")) > 1.7,
        ),
        Mistake(
            "a fixed number of positions is chosen in each row. Every position is chosen by "
            "itself, so that the number varies.",
            when=lambda seen: _scatter(seen, IN_ROW) < 0.5,
        ),
        Mistake(
            "every call chooses equally many positions. Each position is chosen by itself, as if "
            "by a throw of its own, so that the number varies.",
            when=lambda seen: _value(seen, 6, TOTAL) not in (None, 1.0)
            and _value(seen, 6, TOTAL) < 0.3,
        ),
        Mistake(
            "random ids go beyond the vocabulary: range(vocab_size) ends at vocab_size - 1.",
            when=lambda seen: _value(seen, 5, "random ids outside range(vocab_size)") is True,
        ),
        Mistake(
            "the random ids are not drawn evenly from the whole of range(vocab_size), one for each "
            "position: some ids never come, or far too often.",
            when=lambda seen: bool(_value(seen, 5, "ids that come too rarely or too often")),
        ),
    ],
)  # fmt: skip


# --- causal_attention ---------------------------------------------------------------------------
def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _allowed(q: Tensor, diagonal: int = 0) -> Tensor:
    length = q.shape[-2]
    return torch.ones(length, length).tril(diagonal).bool()


def _attention(
    q: Tensor, k: Tensor, v: Tensor, *,
    scale: Callable[[Tensor], float] = lambda q: math.sqrt(q.shape[-1]),
    allowed: Callable[[Tensor], Tensor] | None = _allowed,
    blocked: float = -torch.inf,
    dim: int = -1,
) -> Tensor:  # fmt: skip
    """Causal attention with one thing done differently."""
    scores = q @ k.transpose(-2, -1) / scale(q)
    if allowed is not None:
        scores = scores.masked_fill(~allowed(q), blocked)
    return scores.softmax(dim) @ v


def _attending(**differently: Any) -> Callable:
    return lambda q, k, v: _attention(q, k, v, **differently)


def _zeroed_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights * _allowed(q)) @ v


def _weights_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~_allowed(q), -torch.inf).softmax(-1)


def _without_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores * _allowed(q)) @ v


def _printed(scores_of: Callable[[Tensor], Tensor]) -> Callable:
    """The formula as it is printed: e to the score, over the sum of these."""

    def answer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = scores_of((q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).exp())
        return weights / weights.sum(-1, keepdim=True) @ v

    return answer


def _running_mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = _allowed(q).float()
    return weights / weights.sum(-1, keepdim=True) @ v


def _numbers(shape: tuple[int, ...], seed: int, size: float = 1.0) -> Callable[[], tuple]:
    def make() -> tuple:
        generator = torch.Generator().manual_seed(seed)
        return tuple(size * torch.randn(shape, generator=generator) for _ in range(3))

    return make


def _looking_ahead() -> tuple:
    """Later positions fit far better than earlier ones: any leak shows."""
    q = torch.full((1, 4, 4), 4.0)
    k = torch.arange(4.0)[:, None].expand(4, 4).clone()[None] * 4
    v = tensor([[[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 1.0, 5.0],
                 [1.0, 1.0, 1.0, 7.0]]])  # fmt: skip
    return q, k, v


EQUAL = torch.zeros(3, 2), torch.zeros(3, 2), tensor([[6.0, 0.0], [0.0, 6.0], [3.0, 3.0]])

CAUSAL_ATTENTION = Task(
    reference=_causal_attention,
    cases=[
        Case(fresh(tensor([[1.0, 2.0]]), tensor([[3.0, 1.0]]), tensor([[5.0, 7.0]])),
             "one position attends to itself: its own value, (5, 7)"),
        Case(fresh(*EQUAL),
             "with equal scores the mean of the values so far: (6, 0), (3, 3), (3, 3)"),
        Case(_numbers((4, 3), 1),
             "in row i the values 0 to i, weighted by the softmax of their scores",
             shown="random q, k, v (4, 3)"),
        Case(_numbers((2, 5, 3), 2), "each text of the batch separately",
             shown="random q, k, v (2, 5, 3)"),
        Case(_numbers((2, 3, 4, 6), 3), "each text and head separately",
             shown="random q, k, v (2, 3, 4, 6)"),
        Case(_numbers((3, 2, 8), 4, 3.0), "scores divided by the root of dim",
             shown="random q, k, v (3, 2, 8), large numbers"),
        Case(_looking_ahead, "nothing of a later position, however well it fits",
             shown="q, k, v (1, 4, 4), where later keys fit best"),
        Case(fresh(torch.full((3, 2), 10.0), torch.full((3, 2), -100.0), EQUAL[2]),
             "again (6, 0), (3, 3), (3, 3): all scores are equal, however low"),
    ],
    mistakes=[
        Mistake(
            "every position sees the whole text: nothing is masked. Position i attends to 0..i "
            "only.",
            _attending(allowed=None),
        ),
        Mistake(
            "the mask is inverted: a position does not see itself and what came before, and the "
            "last one sees nothing (NaN). masked_fill fills where its mask is True.",
            _attending(allowed=lambda q: ~_allowed(q)),
        ),
        Mistake(
            "each position sees the future and not the past: the triangle is flipped. Allowed is "
            "what lies on and below the diagonal.",
            _attending(allowed=lambda q: _allowed(q).T),
        ),
        Mistake(
            "a position does not see itself, and the first one sees nothing at all. The diagonal "
            "is allowed.",
            _attending(allowed=lambda q: _allowed(q, -1)),
        ),
        Mistake(
            "each position sees the next one as well. The diagonal is the last that is allowed.",
            _attending(allowed=lambda q: _allowed(q, 1)),
        ),
        Mistake(
            "the scores are not divided by the root of dim.",
            _attending(scale=lambda q: 1.0),
        ),
        Mistake(
            "the scores are divided by dim. It is its square root.",
            _attending(scale=lambda q: float(q.shape[-1])),
        ),
        Mistake(
            "the scores are divided by the root of the length. It is the root of dim, the last "
            "dimension.",
            _attending(scale=lambda q: math.sqrt(q.shape[-2])),
        ),
        Mistake(
            "the scores are multiplied by the root of dim. Divide.",
            _attending(scale=lambda q: 1 / math.sqrt(q.shape[-1])),
        ),
        Mistake(
            "the softmax runs over the positions that look, not over those that are looked at. "
            "Each row of the weights sums to 1: the last dimension.",
            _attending(dim=-2),
        ),
        Mistake(
            "forbidden weights are set to 0 after the softmax: the rest no longer sums to 1, and "
            "the future still sits in the denominator. Mask the scores, before the softmax.",
            _zeroed_weights,
        ),
        Mistake(
            "the plain mean of the values so far: the scores are not used. They decide how much "
            "each value counts.",
            _running_mean,
        ),
        Mistake(
            "right for small scores, but e to a large score overflows, and e to a very low one is "
            "0. Use torch.softmax, which subtracts each row's largest score first.",
            _printed(torch.tril),
        ),
        Mistake(
            "right for small scores, but e to a large score overflows, and e to a very low one is "
            "0. Use torch.softmax, which subtracts each row's largest score first.",
            _printed(lambda scores: scores * torch.ones_like(scores).tril()),
        ),
        Mistake(
            "forbidden scores are 0, and e to the 0 is 1: they still get weight. Use -inf.",
            _attending(blocked=0.0),
        ),
        Mistake(
            "forbidden scores are only made small; a key that fits well shines through. Use -inf.",
            _attending(blocked=-10.0),
        ),
        Mistake(
            "forbidden scores are only made small: where the allowed ones are lower still, what is "
            "forbidden gets the weight. Use -inf.",
            _attending(blocked=-100.0),
        ),
        Mistake(
            "forbidden scores are only made small: where the allowed ones are lower still, what is "
            "forbidden gets the weight. Use -inf.",
            _attending(blocked=-1000.0),
        ),
        Mistake(
            "dimensions are counted from the front, as in transpose(1, 2). There may be two of "
            "them only, or four. Count from the end: length is -2, dim is -1.",
            when=lambda seen: len(seen) > 3 and seen[0].raised == "IndexError"
            and seen[3].error is None,
        ),
        Mistake(
            "keys and queries are swapped: row i must hold the scores of query i.",
            lambda q, k, v: _attention(k, q, v),
        ),
        Mistake(
            "these are the weights. Multiply them with the values.",
            _weights_only,
        ),
        Mistake(
            "there is no softmax: the scores themselves are the weights.",
            _without_softmax,
        ),
        Mistake(
            "it does not work with more than two dimensions. Only the last two are transposed "
            "(transpose(-2, -1)), and the mask has the shape (length, length).",
            when=lambda seen: len(seen) > 4 and not any(s.error for s in seen[:3])
            and (seen[3].error is not None or seen[4].error is not None),
        ),
        Mistake(
            "it is right for (length, dim) and (batch, length, dim), but not with one more "
            "dimension in front, as with heads. Count dimensions from the end: length is -2, dim "
            "is -1.",
            when=lambda seen: len(seen) > 4
            and all(_right(seen[i], i) for i in range(4))
            and not _right(seen[4], 4),
        ),
        Mistake(
            "it is right for a single text only: the dimensions of a batch are mixed up. Count "
            "dimensions from the end: length is -2, dim is -1.",
            when=lambda seen: len(seen) > 4
            and all(_right(seen[i], i) for i in range(3))
            and not (_right(seen[3], 3) and _right(seen[4], 4)),
        ),
    ],
)  # fmt: skip


def _right(seen: Any, case: int) -> bool:
    """Whether that case of causal attention came out right."""
    wanted = _causal_attention(*CAUSAL_ATTENTION.cases[case].make())
    value = seen.value
    return (
        isinstance(value, Tensor)
        and value.shape == wanted.shape
        and torch.allclose(value.double(), wanted.double(), atol=1e-5, rtol=1e-4)
    )


# --- corpus_perplexity --------------------------------------------------------------------------
def _corpus_perplexity(mean_losses: list[float], token_counts: list[int]) -> float:
    parts = [(loss, n) for loss, n in zip(mean_losses, token_counts, strict=True) if n > 0]
    if not parts:
        raise ValueError("no tokens")
    return math.exp(math.fsum(loss * n for loss, n in parts) / sum(n for _, n in parts))


def as_float(function: Callable, arguments: tuple) -> Any:
    """NaN equals nothing: spelled out."""
    value = function(*arguments)
    number = isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0)
    return "nan" if number and math.isnan(value) else value


def _filled(mean_losses: list[float], token_counts: list[int]) -> tuple[list, list]:
    parts = [(loss, n) for loss, n in zip(mean_losses, token_counts, strict=True) if n > 0]
    if not parts:
        raise ValueError("no tokens")
    return [loss for loss, _ in parts], [n for _, n in parts]


def _perplexity(combine: Callable[[list, list], float]) -> Callable:
    """Right about batches without tokens, with another way to put the rest together."""
    return lambda losses, counts: combine(*_filled(losses, counts))


def _total(losses: list, counts: list) -> float:
    return sum(loss * n for loss, n in zip(losses, counts, strict=True))


def _all_batches(losses: list, counts: list) -> float:
    if not sum(counts):
        raise ValueError("no tokens")
    return math.exp(_total(losses, counts) / sum(counts))


def _without_error(value: float) -> Callable:
    def perplexity(losses: list, counts: list) -> float:
        return _corpus_perplexity(losses, counts) if sum(counts) else value

    return perplexity


def _at_least_one(losses: list, counts: list) -> float:
    parts = [(loss, n) for loss, n in zip(losses, counts, strict=True) if n > 0]
    return math.exp(sum(loss * n for loss, n in parts) / max(sum(counts), 1))


def _skipping_nan(left_out: Callable[[float, int], bool], all_tokens: bool) -> Callable:
    """Leaves NaN out of the sum of losses, and its tokens out of their number or not."""

    def perplexity(losses: list, counts: list) -> float:
        parts = list(zip(losses, counts, strict=True))
        kept = [(x, n) for x, n in parts if not left_out(x, n)]
        tokens = sum(n for _, n in (parts if all_tokens else kept))
        if not tokens:
            raise ValueError("no tokens")
        return math.exp(sum(x * n for x, n in kept) / tokens)

    return perplexity


LN2 = math.log(2)

CORPUS_PERPLEXITY = Task(
    reference=_corpus_perplexity,
    cases=[
        Case(fresh([LN2], [5]), "2: a mean loss of ln 2", as_float),
        Case(fresh([LN2, 3 * LN2], [10, 10]), "4: equally many tokens, 2 ln 2 on average",
             as_float),
        Case(fresh([LN2, 3 * LN2], [30, 10]), "2.83: 1.5 ln 2 per token, each of 40 counting alike",
             as_float),
        Case(fresh([0.5, 2.0, 1.25], [7, 1, 100]), "exp of the loss per token", as_float),
        Case(fresh([LN2, 9.0], [4, 0]), "2: a batch without tokens counts nothing", as_float),
        Case(fresh([LN2, math.nan, 2 * LN2], [6, 0, 2]),
             "a batch without tokens counts nothing, also where its loss is NaN", as_float),
        Case(fresh([LN2, math.inf], [4, 0]),
             "2: a batch without tokens counts nothing, whatever its loss", as_float),
        Case(fresh([math.nan, 1.0], [3, 2]), "NaN: the broken batch has tokens", as_float),
        Case(fresh([math.nan, 1.0], [0, 0]), "ValueError: there are no tokens", as_float,
             raises=ValueError),
        Case(fresh([], []), "ValueError: there are no tokens", as_float, raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "0 times NaN is NaN: a batch without tokens still gets into the sum. Leave it out.",
            _all_batches,
        ),
        *(
            Mistake(
                "batches are left out by their loss. The number of tokens decides: 0 tokens count "
                "nothing, whatever the loss, and a NaN of a batch with tokens has to show.",
                wrong,
            )
            for wrong in (
                _skipping_nan(lambda x, n: math.isnan(x), False),
                _skipping_nan(lambda x, n: math.isnan(x), True),
                _skipping_nan(lambda x, n: math.isnan(x * n), True),
                _skipping_nan(lambda x, n: math.isnan(x) or n == 0, False),
            )
        ),
        Mistake(
            "the mean of the batches' means: a token of a small batch counts more than one of a "
            "large batch. Weight each mean by its tokens.",
            _perplexity(lambda losses, counts: math.exp(sum(losses) / len(losses))),
        ),
        Mistake(
            "the mean of the batches' means, in which batches without tokens count as well. Weight "
            "each mean by its tokens.",
            lambda losses, counts: math.exp(sum(losses) / len(losses)),
        ),
        Mistake(
            "perplexities are averaged. Average the losses first (per token), then take exp once.",
            _perplexity(
                lambda losses, counts: _total([math.exp(x) for x in losses], counts) / sum(counts)
            ),
        ),
        Mistake(
            "the batches' perplexities are averaged. Average the losses first, per token, then "
            "take exp once.",
            _perplexity(lambda losses, counts: sum(map(math.exp, losses)) / len(losses)),
        ),
        Mistake(
            "this is the loss per token. Perplexity is its exponential.",
            _perplexity(lambda losses, counts: _total(losses, counts) / sum(counts)),
        ),
        Mistake(
            "a power of 2. The losses are in nats (natural logarithm): use exp.",
            _perplexity(lambda losses, counts: 2 ** (_total(losses, counts) / sum(counts))),
        ),
        Mistake(
            "the total loss is divided by the number of batches. Divide by the number of tokens.",
            _perplexity(lambda losses, counts: _exp(_total(losses, counts) / len(losses))),
        ),
        Mistake(
            "the sign is flipped: this is the probability per token. A loss is minus its "
            "logarithm already.",
            _perplexity(lambda losses, counts: math.exp(-_total(losses, counts) / sum(counts))),
        ),
        Mistake(
            "the losses are taken for sums over the tokens. They are means: multiply each by its "
            "tokens.",
            _perplexity(lambda losses, counts: math.exp(sum(losses) / sum(counts))),
        ),
        Mistake(
            "without any token it divides by 0. Look for that case first, and raise a ValueError "
            "that says so.",
            when=lambda seen: len(seen) > 8 and seen[8].raised == "ZeroDivisionError",
        ),
        Mistake(
            "without any token it gives NaN, which nobody notices. Look for that case first, and "
            "raise a ValueError that says so.",
            when=lambda seen: len(seen) > 8 and seen[8].value == "nan"
            and not any(s.error for s in seen[:8]),
        ),
        Mistake(
            "without any token it gives a number. There is no perplexity of nothing: raise a "
            "ValueError.",
            _without_error(1.0),
        ),
        Mistake(
            "without any token it gives a number. There is no perplexity of nothing: raise a "
            "ValueError.",
            when=lambda seen: len(seen) > 8
            and all(isinstance(s.value, (int, float, str)) for s in seen)
            and not any(s.error for s in seen),
        ),
    ],
)  # fmt: skip


def _exp(value: float) -> float:
    return math.inf if value >= 700 else math.exp(value)


TASKS = {
    "most_frequent_pair": MOST_FREQUENT_PAIR,
    "merge_pair": MERGE_PAIR,
    "next_token_pairs": NEXT_TOKEN_PAIRS,
    "mask_tokens": MASK_TOKENS,
    "causal_attention": CAUSAL_ATTENTION,
    "corpus_perplexity": CORPUS_PERPLEXITY,
}
