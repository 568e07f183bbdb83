"""Right and wrong answers to ex02, as learners write them."""

import math
from collections import Counter, defaultdict

import numpy as np
import torch
import torch.nn.functional as F


# --- most_frequent_pair -------------------------------------------------------------------------
def pair_by_counter(words):
    counts = Counter()
    for symbols, n in words.items():
        for pair in zip(symbols, symbols[1:], strict=False):
            counts[pair] += n
    if not counts:
        raise ValueError("nothing to merge")
    return min(counts, key=lambda pair: (-counts[pair], pair))


def pair_by_sorting(words):
    counts = defaultdict(int)
    for symbols in words:
        for i in range(len(symbols) - 1):
            counts[symbols[i], symbols[i + 1]] += words[symbols]
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0][0] if counts else _no()


def pair_by_two_steps(words):
    counts = Counter(
        pair
        for symbols, n in words.items()
        for _ in range(n)
        for pair in zip(symbols[:-1], symbols[1:], strict=True)
    )
    most = max(counts.values())  # of nothing: a ValueError of Python's own
    return min(pair for pair, n in counts.items() if n == most)


def _no():
    raise ValueError("no word has two symbols")


def _pairs(symbols):
    return list(zip(symbols, symbols[1:], strict=False))


def _most(words, pairs=_pairs, weigh=True, key=lambda pair: pair):
    counts = Counter()
    for symbols, n in words.items():
        for pair in pairs(symbols):
            counts[pair] += n if weigh else 1
    return min(counts, key=lambda pair: (-counts[pair], key(pair))) if counts else _no()


def pair_unweighted(words):
    return _most(words, weigh=False)


def pair_once_a_word(words):
    return _most(words, lambda symbols: set(_pairs(symbols)))


def pair_without_overlap(words):
    def pairs(symbols):
        found, i = [], 0
        while i < len(symbols) - 1:
            found.append(symbols[i : i + 2])
            i += 2 if i + 2 < len(symbols) and symbols[i] == symbols[i + 1] == symbols[i + 2] else 1
        return found

    return _most(words, pairs)


def pair_of_letters(words):
    return _most(words, lambda symbols: _pairs("".join(symbols)))


def pair_unordered(words):
    return _most(words, lambda symbols: [tuple(sorted(pair)) for pair in _pairs(symbols)])


def pair_across_words(words):
    counts, last = Counter(), None
    for symbols, n in words.items():
        if last is not None:
            counts[last, symbols[0]] += n
        for pair in _pairs(symbols):
            counts[pair] += n
        last = symbols[-1]
    return min(counts, key=lambda pair: (-counts[pair], pair)) if counts else _no()


def pair_first(words):
    counts = Counter()
    for symbols, n in words.items():
        for pair in _pairs(symbols):
            counts[pair] += n
    return max(counts, key=counts.get)


def pair_largest(words):
    counts = Counter()
    for symbols, n in words.items():
        for pair in _pairs(symbols):
            counts[pair] += n
    return max(counts, key=lambda pair: (counts[pair], pair))


def pair_glued_ties(words):
    return _most(words, key="".join)


def pair_index_error(words):
    counts = Counter()
    for symbols, n in words.items():
        for pair in _pairs(symbols):
            counts[pair] += n
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[0]


def pair_none(words):
    try:
        return _most(words)
    except ValueError:
        return None


def pair_not_adjacent(words):
    return _most(words, lambda s: [(a, b) for i, a in enumerate(s) for b in s[i + 1 :]])


def pair_of_one_long_list(words):
    symbols = []
    for word, n in words.items():
        symbols += list(word) * n
    return _most({tuple(symbols): 1})


def pair_of_one_text(words):
    """Each word once, without its frequency."""
    return _most({tuple(symbol for word in words for symbol in word): 1})


def pair_no_single_symbols(words):
    if not words or any(len(symbols) < 2 for symbols in words):
        raise ValueError("a word without a pair")
    return _most(words)


def pair_stops_early(words):
    """The last pair of each word is left out."""
    return _most(words, lambda symbols: _pairs(symbols[:-1]) or _pairs(symbols))


RIGHT = {"most_frequent_pair": [pair_by_counter, pair_by_sorting, pair_by_two_steps]}
WRONG = {
    "most_frequent_pair": [
        (pair_unweighted, "each word is counted once"),
        (pair_once_a_word, "several times in one word"),
        (pair_without_overlap, "overlapping places"),
        (pair_of_letters, "letters are counted, not symbols"),
        (pair_unordered, "two orders of a pair"),
        (pair_across_words, "first of the next"),
        (pair_first, "met first"),
        (pair_largest, "takes the largest"),
        (pair_glued_ties, "by the glued text"),
        (pair_index_error, "an error of another kind"),
        (pair_none, "nothing comes back"),
        (pair_stops_early, "expected:"),
        (pair_not_adjacent, "do not stand beside each other"),
        (pair_of_one_long_list, "strung together"),
        (pair_of_one_text, "strung together"),
        (pair_no_single_symbols, "It has no pair and is passed over"),
        (lambda words: "".join(_most(words)), "glued together already"),
        (lambda words: list(_most(words)), "must be a tuple"),
    ]
}


# --- merge_pair ---------------------------------------------------------------------------------
def merge_with_counter(words, pair):
    result = Counter()
    for symbols, n in words.items():
        new, i = [], 0
        while i < len(symbols):
            if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
                new.append("".join(pair))
                i += 1
            else:
                new.append(symbols[i])
            i += 1
        result[tuple(new)] += n
    return result


def merge_with_stack(words, pair):
    """A raw symbol at the top of the stack may be merged, a glued one may not."""
    result = {}
    for symbols, n in words.items():
        stack = []
        for symbol in symbols:
            if stack and stack[-1] == (pair[0], True) and symbol == pair[1]:
                stack[-1] = (pair[0] + pair[1], False)
            else:
                stack.append((symbol, True))
        new = tuple(symbol for symbol, _ in stack)
        result[new] = result.get(new, 0) + n
    return result


def merge_by_recursion(words, pair):
    def glue(symbols):
        if len(symbols) < 2:
            return symbols
        if symbols[:2] == pair:
            return (symbols[0] + symbols[1], *glue(symbols[2:]))
        return (symbols[0], *glue(symbols[1:]))

    new = [(glue(symbols), n) for symbols, n in words.items()]
    return {key: sum(n for other, n in new if other == key) for key, _ in new}


def _merge(words, pair, glue):
    result = {}
    for symbols, n in words.items():
        new = tuple(glue(symbols, pair))
        result[new] = result.get(new, 0) + n
    return result


def _glue(symbols, pair):
    new, i = [], 0
    while i < len(symbols):
        hit = symbols[i : i + 2] == pair
        new.append("".join(pair) if hit else symbols[i])
        i += 2 if hit else 1
    return tuple(new)


def merge_overwriting(words, pair):
    return {_glue(symbols, pair): n for symbols, n in words.items()}


def merge_first_place(words, pair):
    def glue(symbols, pair):
        places = [i for i in range(len(symbols)) if symbols[i : i + 2] == pair][:1]
        for i in places:
            return symbols[:i] + ("".join(pair),) + symbols[i + 2 :]
        return symbols

    return _merge(words, pair, glue)


def merge_from_the_right(words, pair):
    def glue(symbols, pair):
        symbols, i = list(symbols), len(symbols) - 2
        while i >= 0:
            if tuple(symbols[i : i + 2]) == pair:
                symbols[i : i + 2] = ["".join(pair)]
                i -= 1
            i -= 1
        return symbols

    return _merge(words, pair, glue)


def merge_as_text(words, pair):
    def glue(symbols, pair):
        return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split()

    return _merge(words, pair, glue)


def merge_both_orders(words, pair):
    def glue(symbols, pair):
        new, i = [], 0
        while i < len(symbols):
            hit = set(symbols[i : i + 2]) == set(pair) and len(symbols[i : i + 2]) == 2
            new.append("".join(symbols[i : i + 2]) if hit else symbols[i])
            i += 2 if hit else 1
        return new

    return _merge(words, pair, glue)


def merge_losing_the_end(words, pair):
    def glue(symbols, pair):
        new, i = [], 0
        while i < len(symbols) - 1:
            hit = symbols[i : i + 2] == pair
            new.append("".join(pair) if hit else symbols[i])
            i += 2 if hit else 1
        return new

    return _merge(words, pair, glue)


def merge_keeping_the_second(words, pair):
    def glue(symbols, pair):
        return [
            "".join(pair) if symbols[i : i + 2] == pair else symbols[i] for i in range(len(symbols))
        ]

    return _merge(words, pair, glue)


def merge_index_error(words, pair):
    def glue(symbols, pair):
        new, i = [], 0
        while i < len(symbols):
            hit = (symbols[i], symbols[i + 1]) == pair
            new.append("".join(pair) if hit else symbols[i])
            i += 2 if hit else 1
        return new

    return _merge(words, pair, glue)


def merge_only_changed(words, pair):
    changed = {symbols: n for symbols, n in words.items() if _glue(symbols, pair) != symbols}
    return _merge(changed, pair, _glue)


def merge_in_place(words, pair):
    for symbols in list(words):
        new, n = _glue(symbols, pair), words.pop(symbols)
        words[new] = words.get(new, 0) + n
    return words


def merge_letters(words, pair):
    return _merge(words, pair, lambda symbols, pair: _glue(tuple("".join(symbols)), pair))


def merge_strings(words, pair):
    result = Counter()
    for symbols, n in words.items():
        result[" ".join(_glue(symbols, pair))] += n
    return dict(result)


def merge_overlapping(words, pair):
    def glue(symbols, pair):
        new, i = [], 0
        while i < len(symbols):
            if symbols[i : i + 2] == pair:
                new.append("".join(pair))
                i += 1 if symbols[i + 1 : i + 3] == pair else 2
            else:
                new.append(symbols[i])
                i += 1
        return new

    return _merge(words, pair, glue)


def merge_with_defaultdict(words, pair):
    result = defaultdict(int)
    for symbols, n in words.items():
        result[_glue(symbols, pair)] += n
    return result


RIGHT["merge_pair"] = [
    merge_with_counter, merge_with_stack, merge_by_recursion, merge_with_defaultdict,
]  # fmt: skip
WRONG["merge_pair"] = [
    (merge_overwriting, "only one count is left"),
    (merge_first_place, "only the first place"),
    (merge_from_the_right, "from right to left"),
    (merge_as_text, "a text was searched"),
    (merge_both_orders, "merged in both orders"),
    (merge_losing_the_end, "the last symbol of a word is lost"),
    (merge_keeping_the_second, "still there after the merge"),
    (merge_index_error, "runs past the end"),
    (merge_only_changed, "words without the pair are missing"),
    (merge_in_place, "changes its argument `words`"),
    (merge_letters, "letters are merged, not symbols"),
    (merge_strings, "expected:"),
    (merge_overlapping, "takes part in two merges"),
    (lambda words, pair: list(_merge(words, pair, _glue).items()), "must be a dict"),
]


# --- next_token_pairs ---------------------------------------------------------------------------
def pairs_narrow(ids):
    length = ids.shape[1]
    return ids.narrow(1, 0, length - 1), ids.narrow(1, 1, length - 1)


def pairs_roll_and_cut(ids):
    return ids[:, :-1].clone(), ids.roll(-1, dims=1)[:, :-1]


def pairs_loop(ids):
    rows = ids.tolist()
    return torch.tensor([r[:-1] for r in rows]), torch.tensor([r[1:] for r in rows])


RIGHT["next_token_pairs"] = [pairs_narrow, pairs_roll_and_cut, pairs_loop]
WRONG["next_token_pairs"] = [
    (lambda ids: (ids[:, 1:], ids[:, :-1]), "are swapped"),
    (lambda ids: (ids[:, :-1], ids[:, :-1]), "the inputs themselves"),
    (lambda ids: (ids, ids[:, 1:]), "still hold the last token"),
    (lambda ids: (ids, ids.roll(-1, 1)), "rolled round"),
    (lambda ids: (ids[:-1], ids[1:]), "the first dimension was cut"),
    (lambda ids: (ids[:, :-2], ids[:, 2:]), "two tokens ahead"),
    (lambda ids: (ids[:, :-1], ids[:, -1]), "only the last token"),
    (lambda ids: torch.stack([ids[:, :-1], ids[:, 1:]]), "Return a tuple of two"),
    (lambda ids: (ids.flatten()[:-1], ids.flatten()[1:]), "into one row"),
    (lambda ids: [ids[:, :-1], ids[:, 1:]], "must be a tuple"),
    (lambda ids: (ids[:, :-1], ids[:, 1:].float()), "float32"),
    (lambda ids: (ids[:, :-1], ids.roll(1, 1)[:, :-1]), "expected:"),
]


# --- mask_tokens --------------------------------------------------------------------------------
def mask_one_draw(ids, special, mask_id, vocab_size, p, generator):
    """One uniform number a position, cut into four parts."""
    u = torch.rand(ids.shape, generator=generator).masked_fill(special, 2.0)
    random_ids = torch.randint(0, vocab_size, ids.shape, generator=generator)
    inputs = ids.clone()
    inputs[u < 0.8 * p] = mask_id
    swap = (u >= 0.8 * p) & (u < 0.9 * p)
    inputs[swap] = random_ids[swap]
    return inputs, ids.masked_fill(u >= p, -100)


def mask_with_bernoulli(ids, special, mask_id, vocab_size, p, generator):
    """As in the `transformers` library."""
    labels, inputs = ids.clone(), ids.clone()
    chance = torch.full(ids.shape, p).masked_fill_(special, 0.0)
    chosen = torch.bernoulli(chance, generator=generator).bool()
    labels[~chosen] = -100
    replaced = torch.bernoulli(torch.full(ids.shape, 0.8), generator=generator).bool() & chosen
    inputs[replaced] = mask_id
    half = torch.bernoulli(torch.full(ids.shape, 0.5), generator=generator).bool()
    swapped = half & chosen & ~replaced
    inputs[swapped] = torch.randint(vocab_size, (int(swapped.sum()),), generator=generator)
    return inputs, labels


def mask_loop(ids, special, mask_id, vocab_size, p, generator):
    """Position by position where it matters."""
    chosen = (torch.rand(ids.numel(), generator=generator) < p) & ~special.flatten()
    kinds = torch.rand(int(chosen.sum()), generator=generator).tolist()
    randoms = torch.randint(vocab_size, (len(kinds),), generator=generator).tolist()
    inputs, labels = ids.flatten().tolist(), [-100] * ids.numel()
    places = chosen.nonzero().flatten().tolist()
    for place, kind, other in zip(places, kinds, randoms, strict=True):
        labels[place] = inputs[place]
        if kind < 0.8:
            inputs[place] = mask_id
        elif kind < 0.9:
            inputs[place] = other
    return torch.tensor(inputs).view(ids.shape), torch.tensor(labels).view(ids.shape)


def _masking(
    choose=lambda ids, special, p, draw: (draw(ids.shape) < p) & ~special,
    second=lambda ids, draw: draw(ids.shape),
    bounds=(0.8, 0.9),
    anything=lambda ids, size, generator: torch.randint(size, ids.shape, generator=generator),
    labels=lambda ids, inputs, chosen: torch.where(chosen, ids, -100),
):
    """The right answer with one part replaced."""

    def mask(ids, special, mask_id, vocab_size, p, generator):
        def draw(shape):
            return torch.rand(shape, generator=generator)

        chosen = choose(ids, special, p, draw)
        kind = second(ids, draw)
        other = anything(ids, vocab_size, generator)
        inputs = torch.where(chosen & (kind < bounds[0]), mask_id, ids)
        inputs = torch.where(chosen & (kind >= bounds[0]) & (kind < bounds[1]), other, inputs)
        return inputs, labels(ids, inputs, chosen)

    return mask


def mask_global_state(ids, special, mask_id, vocab_size, p, generator):
    chosen = (torch.rand(ids.shape) < p) & ~special
    kind = torch.rand(ids.shape)
    inputs = torch.where(chosen & (kind < 0.8), mask_id, ids)
    other = torch.randint(vocab_size, ids.shape)
    inputs = torch.where(chosen & (kind >= 0.8) & (kind < 0.9), other, inputs)
    return inputs, torch.where(chosen, ids, -100)


def mask_randint_global(ids, special, mask_id, vocab_size, p, generator):
    return _masking(anything=lambda ids, size, generator: torch.randint(size, ids.shape))(
        ids, special, mask_id, vocab_size, p, generator
    )


def mask_reseeded(ids, special, mask_id, vocab_size, p, generator):
    generator.manual_seed(0)
    return mask_one_draw(ids, special, mask_id, vocab_size, p, generator)


def mask_in_place(ids, special, mask_id, vocab_size, p, generator):
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special
    labels = torch.where(chosen, ids, -100)
    kind = torch.rand(ids.shape, generator=generator)
    ids[chosen & (kind < 0.8)] = mask_id
    swap = chosen & (kind >= 0.9)
    ids[swap] = torch.randint(vocab_size, (int(swap.sum()),), generator=generator)
    return ids, labels


def mask_overwritten(ids, special, mask_id, vocab_size, p, generator):
    """10 % of all chosen become random ids, whether a mask is there or not."""
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special
    masked = chosen & (torch.rand(ids.shape, generator=generator) < 0.8)
    swapped = chosen & (torch.rand(ids.shape, generator=generator) < 0.1)
    other = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(swapped, other, torch.where(masked, mask_id, ids))
    return inputs, torch.where(chosen, ids, -100)


def mask_tenth_of_the_rest(ids, special, mask_id, vocab_size, p, generator):
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special
    masked = chosen & (torch.rand(ids.shape, generator=generator) < 0.8)
    swapped = chosen & ~masked & (torch.rand(ids.shape, generator=generator) < 0.1)
    other = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(swapped, other, torch.where(masked, mask_id, ids))
    return inputs, torch.where(chosen, ids, -100)


def mask_exactly(ids, special, p, draw):
    """The same number in every row."""
    scores = draw(ids.shape).masked_fill(special, 2.0).reshape(-1, ids.shape[-1])
    k = round(p * ids.shape[-1])
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(k, largest=False).indices, True)
    return chosen.view(ids.shape) & ~special


def mask_always_as_many(ids, special, p, draw):
    """round(p * n) of all that may be chosen."""
    scores = draw(ids.shape).masked_fill(special, 2.0).flatten()
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    chosen[scores.argsort()[: round(p * int((~special).sum()))]] = True
    return chosen.view(ids.shape)


def mask_first_ones(ids, special, mask_id, vocab_size, p, generator):
    """Of the chosen the first 80 % become masks, the next 10 % random ids."""
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special
    inputs, places = ids.clone().flatten(), chosen.flatten().nonzero().flatten()
    a, b = round(0.8 * len(places)), round(0.9 * len(places))
    inputs[places[:a]] = mask_id
    inputs[places[a:b]] = torch.randint(vocab_size, (b - a,), generator=generator)
    return inputs.view(ids.shape), torch.where(chosen, ids, -100)


def mask_spans(ids, special, p, draw):
    """Positions in twos."""
    half = draw((*ids.shape[:-1], (ids.shape[-1] + 1) // 2)) < p
    return half.repeat_interleave(2, -1)[..., : ids.shape[-1]] & ~special


def mask_rest_changed(ids, special, mask_id, vocab_size, p, generator):
    """Random ids also where nothing was chosen."""
    inputs, labels = mask_one_draw(ids, special, mask_id, vocab_size, p, generator)
    noise = torch.rand(ids.shape, generator=generator) < 0.1 * p
    other = torch.randint(vocab_size, ids.shape, generator=generator)
    return torch.where(noise, other, inputs), labels


RIGHT["mask_tokens"] = [mask_one_draw, mask_with_bernoulli, mask_loop]
WRONG["mask_tokens"] = [
    (mask_global_state, "global random state"),
    (mask_randint_global, "global random state"),
    (mask_reseeded, "it is seeded anew"),
    (mask_in_place, "changes its argument `ids`"),
    (mask_overwritten, "overwritten by random"),
    (mask_tenth_of_the_rest, "10 % of the 20 % that are left"),
    (mask_rest_changed, "tokens that were not chosen are changed"),
    (_masking(lambda ids, special, p, draw: draw(ids.shape) < p), "special tokens are chosen"),
    (
        _masking(lambda ids, special, p, draw: (draw(ids.shape) < p) & special),
        "only special tokens are chosen",
    ),
    (
        _masking(lambda ids, special, p, draw: (draw(ids.shape) < 0.15) & ~special),
        "p is not used",
    ),
    (
        _masking(lambda ids, special, p, draw: (draw(ids.shape[-1:]) < p) & ~special),
        "each row chooses the same positions",
    ),
    (_masking(mask_exactly), "a fixed number of positions"),
    (_masking(mask_spans), "neighbouring positions"),
    (_masking(bounds=(1.0, 1.0)), "all chosen tokens become [MASK]"),
    (_masking(bounds=(0.8, 1.0)), "no chosen token stays"),
    (_masking(bounds=(0.8, 0.8)), "no chosen token becomes a random id"),
    (_masking(bounds=(0.1, 0.2)), "expected:"),
    (_masking(second=lambda ids, draw: draw(()).expand(ids.shape)), "Draw a second time"),
    (
        _masking(second=lambda ids, draw: draw((*ids.shape[:-1], 1)).expand(ids.shape)),
        "each row decides as a whole",
    ),
    (
        _masking(anything=lambda ids, size, g: torch.randint(size, (), generator=g)),
        "not drawn evenly",
    ),
    (
        _masking(anything=lambda ids, size, g: torch.randint(1, size, ids.shape, generator=g)),
        "not drawn evenly",
    ),
    (
        _masking(anything=lambda ids, size, g: torch.randint(size - 1, ids.shape, generator=g)),
        "not drawn evenly",
    ),
    (
        _masking(anything=lambda ids, size, g: torch.randint(size + 1, ids.shape, generator=g)),
        "go beyond the vocabulary",
    ),
    (
        _masking(labels=lambda ids, inputs, chosen: torch.where(inputs != ids, ids, -100)),
        "labels stand only where",
    ),
    (
        _masking(labels=lambda ids, inputs, chosen: torch.where(chosen, inputs, -100)),
        "the labels are not the original ids",
    ),
    (
        _masking(labels=lambda ids, inputs, chosen: torch.where(chosen, -100, ids)),
        "the labels are the wrong way round",
    ),
    (_masking(labels=lambda ids, inputs, chosen: ids), "every position has a label"),
    (
        _masking(labels=lambda ids, inputs, chosen: torch.where(chosen, ids, 0)),
        "-100 everywhere else",
    ),
    (
        _masking(labels=lambda ids, inputs, chosen: torch.where(chosen, ids, -100).float()),
        "two int64 tensors",
    ),
    (lambda *a: _masking()(*a)[::-1], "Are the two results swapped?"),
    (_masking(mask_always_as_many), "every call chooses equally many"),
    (mask_first_ones, "follows from their order"),
    (lambda *a: list(_masking()(*a)), "a tuple of two int64 tensors"),
]


# --- causal_attention ---------------------------------------------------------------------------
def attention_with_bias(q, k, v):
    length = q.size(-2)
    bias = torch.full((length, length), -math.inf).triu(1)
    return torch.softmax(q @ k.mT / math.sqrt(q.size(-1)) + bias, dim=-1) @ v


def attention_by_rows(q, k, v):
    rows = []
    for i in range(q.shape[-2]):
        scores = (q[..., i : i + 1, :] * k[..., : i + 1, :]).sum(-1) / q.shape[-1] ** 0.5
        rows.append((scores.softmax(-1)[..., None] * v[..., : i + 1, :]).sum(-2))
    return torch.stack(rows, -2)


def attention_with_einsum(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    allowed = torch.ones_like(scores).tril() > 0
    scores = scores.where(allowed, torch.tensor(-1e9))
    return torch.einsum("...ij,...jd->...id", scores.softmax(-1), v)


def attention_library(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _attention(q, k, v, scale=lambda q: q.shape[-1] ** 0.5, mask=None, fill=-math.inf, dim=-1):
    length = q.shape[-2]
    mask = torch.ones(length, length).tril().bool() if mask is None else mask(length)
    return (q @ k.transpose(-2, -1) / scale(q)).masked_fill(~mask, fill).softmax(dim) @ v


def _attending(**options):
    return lambda q, k, v: _attention(q, k, v, **options)


def attention_zeroed(q, k, v):
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return weights.tril() @ v


def attention_times_mask(q, k, v):
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).tril()
    return scores.softmax(-1) @ v


def attention_two_dimensions(q, k, v):
    scores = q @ k.transpose(0, 1) / math.sqrt(q.shape[1])
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf).softmax(1) @ v


def attention_over_heads(q, k, v):
    """Right for three dimensions, not for more."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    mask = torch.ones(scores.shape[-1], scores.shape[-1]).triu(1).bool()
    dim = 1 if scores.ndim == 2 else 2
    return scores.masked_fill(mask, -math.inf).softmax(dim) @ v


def attention_as_printed(q, k, v):
    weights = torch.exp(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).tril()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def attention_printed_with_mask(q, k, v):
    length = q.shape[-2]
    mask = torch.ones(length, length).tril()
    e = torch.exp(torch.matmul(q, k.mT) / q.shape[-1] ** 0.5) * mask
    return e / e.sum(dim=-1, keepdim=True) @ v


def attention_from_the_front(q, k, v):
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    length = q.shape[1]
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf).softmax(-1) @ v


def attention_running_mean(q, k, v):
    return v.cumsum(-2) / torch.arange(1.0, v.shape[-2] + 1)[:, None]


RIGHT["causal_attention"] = [
    attention_with_bias, attention_by_rows, attention_with_einsum, attention_library,
]  # fmt: skip
WRONG["causal_attention"] = [
    (F.scaled_dot_product_attention, "nothing is masked"),
    (_attending(mask=lambda n: torch.ones(n, n).triu().bool()), "the triangle is flipped"),
    (_attending(mask=lambda n: torch.ones(n, n).tril(-1).bool()), "does not see itself"),
    (_attending(mask=lambda n: torch.ones(n, n).tril(1).bool()), "sees the next one"),
    (_attending(scale=lambda q: 1.0), "not divided by the root"),
    (_attending(scale=lambda q: q.shape[-1]), "It is its square root"),
    (_attending(scale=lambda q: q.shape[-2] ** 0.5), "root of the length"),
    (_attending(dim=-2), "the softmax runs"),
    (_attending(fill=0.0), "they still get weight"),
    (_attending(fill=-10.0), "shines through"),
    (_attending(fill=-1.0), "expected:"),
    (_attending(fill=-100.0), "where the allowed ones are lower still"),
    (_attending(fill=-1000.0), "where the allowed ones are lower still"),
    (_attending(mask=lambda n: torch.ones(n, n).triu(1).bool()), "the mask is inverted"),
    (attention_as_printed, "e to a large score overflows"),
    (attention_printed_with_mask, "e to a large score overflows"),
    (attention_from_the_front, "counted from the front"),
    (attention_running_mean, "the scores are not used"),
    (attention_zeroed, "set to 0 after the softmax"),
    (attention_times_mask, "they still get weight"),
    (attention_two_dimensions, "more than two dimensions"),
    (attention_over_heads, "one more dimension in front"),
    (lambda q, k, v: _attention(k, q, v), "keys and queries are swapped"),
    (lambda q, k, v: _attention(q, k, torch.eye(q.shape[-2])), "these are the weights"),
    (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).tril() @ v, "there is no softmax"),
    (lambda q, k, v: _attention(q, k, k), "expected:"),
]


# --- corpus_perplexity --------------------------------------------------------------------------
def perplexity_loop(mean_losses, token_counts):
    total, tokens = 0.0, 0
    for loss, n in zip(mean_losses, token_counts, strict=True):
        if n:
            total += loss * n
            tokens += n
    if tokens == 0:
        raise ValueError("no tokens")
    return math.exp(total / tokens)


def perplexity_tensor(mean_losses, token_counts):
    losses = torch.tensor(mean_losses, dtype=torch.float64)
    counts = torch.tensor(token_counts, dtype=torch.float64)
    if not counts.sum() > 0:
        raise ValueError(f"no tokens in {len(losses)} batches")
    losses = torch.where(counts > 0, losses, 0.0)
    return torch.exp((losses * counts).sum() / counts.sum()).item()


def perplexity_product(mean_losses, token_counts):
    """The geometric mean of the batches' perplexities, weighted by tokens."""
    tokens = sum(token_counts)
    if tokens < 1:
        raise ValueError("no tokens")
    result = 1.0
    for loss, n in zip(mean_losses, token_counts, strict=True):
        result *= math.exp(loss) ** (n / tokens) if n > 0 else 1.0
    return result


def _parts(mean_losses, token_counts):
    parts = [(x, n) for x, n in zip(mean_losses, token_counts, strict=True) if n]
    if not parts:
        raise ValueError("no tokens")
    return [x for x, _ in parts], [n for _, n in parts]


def _perplexity(combine):
    return lambda mean_losses, token_counts: combine(*_parts(mean_losses, token_counts))


def _dot(losses, counts):
    return sum(x * n for x, n in zip(losses, counts, strict=True))


def perplexity_nan(mean_losses, token_counts):
    if sum(token_counts) == 0:
        raise ValueError("no tokens")
    return math.exp(_dot(mean_losses, token_counts) / sum(token_counts))


def perplexity_skips_nan(mean_losses, token_counts):
    """Leaves NaN out, and counts a batch without tokens as one token."""
    parts = [
        (x, max(n, 1)) for x, n in zip(mean_losses, token_counts, strict=True) if not math.isnan(x)
    ]
    if not parts:
        raise ValueError("no tokens")
    return math.exp(sum(x * n for x, n in parts) / sum(n for _, n in parts))


def perplexity_without_nan(mean_losses, token_counts):
    parts = [(x, n) for x, n in zip(mean_losses, token_counts, strict=True) if not math.isnan(x)]
    tokens = sum(n for _, n in parts)
    if tokens == 0:
        raise ValueError("no tokens")
    return math.exp(sum(x * n for x, n in parts) / tokens)


def perplexity_nansum(mean_losses, token_counts):
    if sum(token_counts) == 0:
        raise ValueError("no tokens")
    total = np.nansum(np.array(mean_losses) * np.array(token_counts))
    return float(np.exp(total / sum(token_counts)))


def perplexity_nan_to_num(mean_losses, token_counts):
    if sum(token_counts) == 0:
        raise ValueError("no tokens")
    total = np.sum(np.nan_to_num(mean_losses) * np.array(token_counts))
    return math.exp(total / sum(token_counts))


def perplexity_leaves_out_both(mean_losses, token_counts):
    pairs = zip(mean_losses, token_counts, strict=True)
    kept = [(x, n) for x, n in pairs if n and not math.isnan(x)]
    return perplexity_loop([x for x, _ in kept], [n for _, n in kept])


def perplexity_zero_division(mean_losses, token_counts):
    parts = [(x, n) for x, n in zip(mean_losses, token_counts, strict=True) if n]
    return math.exp(sum(x * n for x, n in parts) / sum(n for _, n in parts))


def perplexity_inf(mean_losses, token_counts):
    try:
        return perplexity_loop(mean_losses, token_counts)
    except ValueError:
        return math.inf


def perplexity_nan_of_nothing(mean_losses, token_counts):
    return perplexity_loop(mean_losses, token_counts) if sum(token_counts) else math.nan


def perplexity_empty_only(mean_losses, token_counts):
    """Thinks of the empty list, not of empty batches."""
    if not mean_losses:
        raise ValueError("no batches")
    parts = [(x, n) for x, n in zip(mean_losses, token_counts, strict=True) if n]
    return math.exp(sum(x * n for x, n in parts) / max(sum(n for _, n in parts), 1))


RIGHT["corpus_perplexity"] = [perplexity_loop, perplexity_tensor, perplexity_product]
WRONG["corpus_perplexity"] = [
    (_perplexity(lambda x, n: math.exp(sum(x) / len(x))), "the mean of the batches' means: a"),
    (
        lambda x, n: math.exp(sum(x) / len(x)) if sum(n) else _parts(x, n),
        "batches without tokens count as well",
    ),
    (_perplexity(lambda x, n: sum(map(math.exp, x)) / len(x)), "batches' perplexities"),
    (_perplexity(lambda x, n: _dot(map(math.exp, x), n) / sum(n)), "perplexities are averaged"),
    (_perplexity(lambda x, n: _dot(x, n) / sum(n)), "Perplexity is its exponential"),
    (_perplexity(lambda x, n: 2 ** (_dot(x, n) / sum(n))), "a power of 2"),
    (_perplexity(lambda x, n: math.exp(min(_dot(x, n) / len(x), 700))), "number of batches"),
    (_perplexity(lambda x, n: math.exp(-_dot(x, n) / sum(n))), "sign is flipped"),
    (_perplexity(lambda x, n: math.exp(sum(x) / sum(n))), "taken for sums"),
    (perplexity_nan, "0 times NaN is NaN"),
    (perplexity_skips_nan, "expected:"),
    (perplexity_without_nan, "left out by their loss"),
    (perplexity_nansum, "left out by their loss"),
    (perplexity_nan_to_num, "left out by their loss"),
    (perplexity_leaves_out_both, "left out by their loss"),
    (perplexity_zero_division, "divides by 0"),
    (perplexity_inf, "it gives a number"),
    (perplexity_nan_of_nothing, "it gives NaN"),
    (perplexity_empty_only, "it gives a number"),
    (lambda x, n: torch.tensor(perplexity_loop(x, n)), "must be a float"),
]
