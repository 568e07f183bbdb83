"""Right and wrong answers to ex01, as learners write them."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import torch


# --- stratified_split ---------------------------------------------------------------------------
def bad_fractions(fractions):
    return min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9


def split_by_class(labels, fractions, seed):
    if bad_fractions(fractions):
        raise ValueError(f"fractions={fractions}")
    rng = random.Random(seed)
    train, validation, test = [], [], []
    for wanted in sorted(set(labels)):
        rows = [i for i, label in enumerate(labels) if label == wanted]
        rng.shuffle(rows)
        a, b = round(fractions[1] * len(rows)), round(fractions[2] * len(rows))
        if a + b > len(rows):
            raise ValueError(f"class {wanted} has {len(rows)} rows")
        validation += rows[:a]
        test += rows[a : a + b]
        train += rows[a + b :]
    for part in (train, validation, test):
        rng.shuffle(part)
    return train, validation, test


def split_with_numpy(labels, fractions, seed):
    if any(f < 0 for f in fractions) or not math.isclose(math.fsum(fractions), 1, abs_tol=1e-9):
        raise ValueError("fractions")
    rng, labels = np.random.default_rng(seed), np.array(labels)
    parts = [[], [], []]
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        a, b = (int(np.round(f * len(rows))) for f in fractions[1:])
        if a + b > len(rows):
            raise ValueError("class too small")
        for part, piece in zip(parts, (rows[a + b :], rows[:a], rows[a : a + b]), strict=True):
            part.append(piece)
    return tuple(rng.permutation(np.concatenate(part)).tolist() for part in parts)


def split_one_shuffle(labels, fractions, seed):
    """One shuffle of everything; each class fills its places in that order."""
    if bad_fractions(fractions):
        raise ValueError("fractions")
    count = Counter(labels)
    left = {c: [round(f * n) for f in fractions[1:]] for c, n in count.items()}
    if any(sum(left[c]) > n for c, n in count.items()):
        raise ValueError("class too small")
    order = random.Random(seed).sample(range(len(labels)), len(labels))
    parts = ([], [], [])
    for i in order:
        a, b = left[labels[i]]
        which = 1 if a else 2 if b else 0
        if which:
            left[labels[i]][which - 1] -= 1
        parts[which].append(i)
    return parts


def split_with_torch(labels, fractions, seed):
    if bad_fractions(fractions):
        raise ValueError("fractions")
    generator = torch.Generator().manual_seed(seed)
    groups = defaultdict(list)
    for i in torch.randperm(len(labels), generator=generator).tolist():
        groups[labels[i]].append(i)
    sizes = {c: [round(f * len(rows)) for f in fractions[1:]] for c, rows in groups.items()}
    parts = ([], [], [])
    for c, rows in groups.items():
        a, b = sizes[c]
        if len(rows) - a - b < 0:
            raise ValueError("class too small")
        parts[1].extend(rows[:a])
        parts[2].extend(rows[len(rows) - b :])
        parts[0].extend(rows[a : len(rows) - b])
    return tuple([p[i] for i in torch.randperm(len(p), generator=generator)] for p in parts)


def split_like(counts=None, shuffle_rows=True, shuffle_parts=True, own=None, check="sum neg class"):
    """The right split with one change."""

    def split(labels, fractions, seed):
        if "neg" in check and min(fractions) < 0:
            raise ValueError
        if "sum" in check and abs(sum(fractions) - 1) > 1e-9:
            raise ValueError
        rng = own() if own else random.Random(seed)
        parts = ([], [], [])
        for wanted in sorted(set(labels)):
            rows = [i for i, label in enumerate(labels) if label == wanted]
            if shuffle_rows:
                rng.shuffle(rows)
            a, b = (counts or (lambda f, n: (round(f[1] * n), round(f[2] * n))))(
                fractions, len(rows)
            )
            if "class" in check and a + b > len(rows):
                raise ValueError
            parts[1].extend(rows[:a])
            parts[2].extend(rows[a : a + b])
            parts[0].extend(rows[a + b :])
        if shuffle_parts:
            for part in parts:
                rng.shuffle(part)
        return parts

    return split


def split_not_stratified(labels, fractions, seed):
    if bad_fractions(fractions):
        raise ValueError
    rows = random.Random(seed).sample(range(len(labels)), len(labels))
    a, b = round(fractions[1] * len(rows)), round(fractions[2] * len(rows))
    if a + b > len(rows):
        raise ValueError
    return rows[a + b :], rows[:a], rows[a : a + b]


def split_loses_rows(labels, fractions, seed):
    """All three counts are rounded."""
    train, validation, test = split_by_class(labels, fractions, seed)
    kept, used = [], Counter()
    count = Counter(labels)
    for i in train:
        if used[labels[i]] < round(fractions[0] * count[labels[i]]):
            kept.append(i)
            used[labels[i]] += 1
    return kept, validation, test


def split_overlapping(labels, fractions, seed):
    train, validation, test = split_by_class(labels, fractions, seed)
    return train + validation, validation, test


def split_global_state(labels, fractions, seed):
    random.seed(seed)
    return split_like(own=lambda: random)(labels, fractions, seed)


def split_train_only(labels, fractions, seed):
    train, validation, test = split_like(shuffle_parts=False)(labels, fractions, seed)
    random.Random(seed).shuffle(train)
    return train, validation, test


def split_sorted(labels, fractions, seed):
    return tuple(sorted(part) for part in split_by_class(labels, fractions, seed))


def split_exact_sum(labels, fractions, seed):
    if sum(fractions) != 1:
        raise ValueError
    return split_by_class(labels, fractions, seed)


def split_loose_sum(labels, fractions, seed):
    if abs(sum(fractions) - 1) > 1e-6 or min(fractions) < 0:
        raise ValueError
    return split_like(check="class")(labels, fractions, seed)


def split_total_only(labels, fractions, seed):
    if bad_fractions(fractions):
        raise ValueError
    count = Counter(labels).values()
    if sum(round(f * n) for f in fractions[1:] for n in count) > len(labels):
        raise ValueError
    return split_like(check="")(labels, fractions, seed)


def split_no_empty_train(labels, fractions, seed):
    parts = split_by_class(labels, fractions, seed)
    if len(set(labels)) > len({labels[i] for i in parts[0]}):
        raise ValueError("a class has no row in train")
    return parts


def split_rest_to_test(fractions, n):
    train, validation = round(fractions[0] * n), round(fractions[1] * n)
    return validation, n - train - validation


def split_cuts(fractions, n):
    a, b = round(fractions[0] * n), round((fractions[0] + fractions[1]) * n)
    return b - a, n - b


def split_refusing(bad):
    """The right split, and one error too many."""

    def split(labels, fractions, seed):
        parts = split_by_class(labels, fractions, seed)
        if bad(parts, labels, fractions):
            raise ValueError("not possible")
        return parts

    return split


def split_consecutive_labels(labels, fractions, seed):
    if set(labels) != set(range(len(set(labels)))):
        raise ValueError("labels must be 0..n-1")
    return split_by_class(labels, fractions, seed)


def split_counts_by_index(labels, fractions, seed):
    counts = [0] * len(set(labels))
    for label in labels:
        counts[label] += 1
    return split_by_class(labels, fractions, seed)


def split_loses_large_labels(labels, fractions, seed):
    parts = split_by_class(labels, fractions, seed)
    return tuple([i for i in part if labels[i] in range(len(set(labels)))] for part in parts)


def hold_out(labels, fraction, seed):
    """Notebook 01's."""
    rng = random.Random(seed)
    kept, held = [], []
    for wanted in sorted(set(labels)):
        rows = [i for i, label in enumerate(labels) if label == wanted]
        rng.shuffle(rows)
        count = round(fraction * len(rows))
        held, kept = held + rows[:count], kept + rows[count:]
    rng.shuffle(kept)
    rng.shuffle(held)
    return kept, held


def split_in_two_steps(mapped=True, share=lambda f: f[1] / (1 - f[2]), check=True):
    """Test first, then validation from the rest."""

    def split(labels, fractions, seed):
        if check and (
            bad_fractions(fractions)
            or any(sum(round(f * n) for f in fractions[1:]) > n for n in Counter(labels).values())
        ):
            raise ValueError
        rest, test = hold_out(labels, fractions[2], seed)
        train, validation = hold_out([labels[i] for i in rest], share(fractions), seed)
        if mapped:
            train, validation = [rest[i] for i in train], [rest[i] for i in validation]
        return train, validation, test

    return split


RIGHT = {
    "stratified_split": [split_by_class, split_with_numpy, split_one_shuffle, split_with_torch]
}
WRONG = {
    "stratified_split": [
        (split_not_stratified, "not stratified"),
        (split_like(lambda f, n: (int(f[1] * n), int(f[2] * n))), "cut down to whole numbers"),
        (split_like(lambda f, n: (math.ceil(f[1] * n), math.ceil(f[2] * n))), "always rounded up"),
        (split_like(lambda f, n: (int(f[1] * n + 0.5), int(f[2] * n + 0.5))), "nearest even"),
        (split_like(split_rest_to_test), "The rest belongs to train"),
        (split_like(split_cuts), "the places to cut"),
        (split_like(lambda f, n: (round(f[2] * n), round(f[1] * n))), "are swapped"),
        (split_loses_rows, "in no part"),
        (split_overlapping, "leak"),
        (split_like(shuffle_parts=False), "all of one class comes before"),
        (split_train_only, "all of one class comes before"),
        (split_sorted, "ascending order"),
        (split_like(shuffle_rows=False), "same rows are held out"),
        (split_like(own=lambda: random.Random(0)), "the seed makes no difference"),
        (split_like(own=random.Random), "not the same twice"),
        (split_global_state, "global random state"),
        (split_like(check="neg class"), "do not sum to 1"),
        (split_like(check="sum class"), "a negative fraction"),
        (split_like(check="sum neg"), "more than a class has"),
        (split_exact_sum, "floating point"),
        (split_loose_sum, "The tolerance is 1e-9"),
        (split_total_only, "compare class by class"),
        (split_no_empty_train, "held out completely"),
        (split_like(check=""), "bad input is not refused"),
        (split_refusing(lambda parts, *_: not all(parts)), "an empty part is refused"),
        (split_refusing(lambda parts, *_: not all(parts[1:])), "an empty part is refused"),
        (split_refusing(lambda p, y, f: not all(0 < x < 1 for x in f)), "a fraction of 0"),
        (
            split_refusing(lambda p, y, f: any(round(x * y.count(c)) == 0 for x in f for c in y)),
            "too small to have a row in each part",
        ),
        (split_refusing(lambda p, y, f: min(Counter(y).values()) < 2), "too small to have a row"),
        (split_consecutive_labels, "labels other than 0, 1, 2"),
        (split_counts_by_index, "labels other than 0, 1, 2"),
        (split_loses_large_labels, "are taken to be 0, 1, 2"),
        (split_in_two_steps(mapped=False), "translated back"),
        (split_in_two_steps(), "rounded from what the first one left"),
        (split_in_two_steps(share=lambda f: f[1]), "A fraction is of the whole class"),
        (split_in_two_steps(share=lambda f: f[1], check=False), "of the whole class"),
        (lambda *a: list(split_by_class(*a)), "tuple of three lists"),
        (lambda *a: tuple(list(np.array(p)) for p in split_by_class(*a)), "Python ints"),
        (lambda y, f, s: tuple([y[i] for i in p] for p in split_by_class(y, f, s)), "positions"),
    ]
}


# --- truncate_head_tail -------------------------------------------------------------------------
def truncate_from_front(ids, max_length, head):
    if head < 0 or head > max_length:
        raise ValueError(f"head={head}")
    if len(ids) <= max_length:
        return ids
    return ids[:head] + ids[len(ids) - max_length + head :]


def truncate_by_cutting(ids, max_length, head):
    if head not in range(max_length + 1):
        raise ValueError(f"head={head}")
    kept, surplus = list(ids), len(ids) - max_length
    if surplus > 0:
        del kept[head : head + surplus]
    return kept


def truncate_by_position(ids, max_length, head):
    if not 0 <= head <= max_length:
        raise ValueError(f"head={head}")
    start = len(ids) - (max_length - head)
    if len(ids) <= max_length:
        return list(ids)
    return [x for i, x in enumerate(ids) if i < head or i >= start]


def truncate_unchecked(ids, max_length, head):
    if len(ids) <= max_length:
        return list(ids)
    return ids[:head] + ids[len(ids) - (max_length - head) :]


def truncate_checked(rule):
    """The errors and the short lists right, another rule for the rest."""

    def truncate(ids, max_length, head):
        if not 0 <= head <= max_length:
            raise ValueError
        return list(ids) if len(ids) <= max_length else rule(ids, max_length, head)

    return truncate


def truncate_checks_late(ids, max_length, head):
    if len(ids) <= max_length:
        return ids
    if not 0 <= head <= max_length:
        raise ValueError
    return truncate_unchecked(ids, max_length, head)


def truncate_not_negative(ids, max_length, head):
    if head < 0:
        raise ValueError
    return truncate_unchecked(ids, max_length, head)


def truncate_not_above(ids, max_length, head):
    if head > max_length:
        raise ValueError
    return truncate_unchecked(ids, max_length, head)


def truncate_strict(ids, max_length, head):
    if not 0 < head < max_length:
        raise ValueError
    return truncate_unchecked(ids, max_length, head)


def truncate_needs_head(ids, max_length, head):
    if not 0 <= head <= min(max_length, len(ids)):
        raise ValueError
    return truncate_unchecked(ids, max_length, head)


def truncate_no_length(ids, max_length, head):
    if not 0 <= head <= max_length:
        raise ValueError
    tail = max_length - head
    return ids[:head] + ids[max(len(ids) - tail, 0) :]


def truncate_in_place(ids, max_length, head):
    if not 0 <= head <= max_length:
        raise ValueError
    if len(ids) > max_length:
        del ids[head : head + len(ids) - max_length]
    return ids


def truncate_refusing(bad):
    def truncate(ids, max_length, head):
        if bad(max_length, head):
            raise ValueError
        return truncate_from_front(ids, max_length, head)

    return truncate


def truncate_by_index(ids, m, h):
    return [x for x in ids if ids.index(x) < h or ids.index(x) >= len(ids) - (m - h)]


def truncate_with_numpy(ids, m, h):
    return np.concatenate([ids[:h], ids[len(ids) - (m - h) :]]).tolist()


RIGHT["truncate_head_tail"] = [truncate_from_front, truncate_by_cutting, truncate_by_position]
WRONG["truncate_head_tail"] = [
    (truncate_checked(lambda ids, m, h: ids[:h] + ids[-(m - h) :]), "-0 is 0"),
    (truncate_checked(lambda ids, m, h: ids[:m]), "only the head"),
    (truncate_checked(lambda ids, m, h: ids[-m:] if m else []), "only the tail"),
    (truncate_checked(lambda ids, m, h: ids[:h] + ids[len(ids) - h :]), "`head` ids long"),
    (truncate_checked(lambda ids, m, h: ids[: m - h] + ids[len(ids) - h :]), "are swapped"),
    (truncate_checked(lambda ids, m, h: ids[len(ids) - (m - h) :] + ids[:h]), "before the head"),
    (truncate_checked(lambda ids, m, h: ids[:h] + ids[m - h :]), "Count it from the end"),
    (truncate_checked(lambda ids, m, h: ids[:h] + ids[len(ids) - (m - h) - 1 :]), "too long"),
    (truncate_checked(lambda ids, m, h: ids[:h] + ids[len(ids) - m :]), "as long as max_length"),
    (truncate_checks_late, "short lists too"),
    (truncate_not_negative, "above max_length is not refused"),
    (truncate_not_above, "negative `head` is not refused"),
    (truncate_unchecked, "outside 0..max_length is not refused"),
    (truncate_strict, "but both are allowed"),
    (truncate_refusing(lambda m, h: h >= m), "head = max_length is refused"),
    (truncate_refusing(lambda m, h: h < 1), "head = 0 is refused"),
    (truncate_refusing(lambda m, h: m < 1), "max_length = 0 is refused"),
    (truncate_checked(lambda ids, m, h: ids[:h] + ids[h:][-(m - h) :]), "the whole rest"),
    (truncate_checked(truncate_by_index), "come more than once"),
    (truncate_checked(truncate_with_numpy), "an item of the result is a float"),
    (truncate_needs_head, "how long the list is does not matter"),
    (truncate_no_length, "short enough is changed"),
    (truncate_in_place, "changes its argument `ids`"),
    (lambda *a: tuple(truncate_from_front(*a)), "must be a list"),
]


# --- pad_batch ----------------------------------------------------------------------------------
def pad_with_lists(sequences, pad_id):
    width = max(len(row) for row in sequences)
    ids = [row + [pad_id] * (width - len(row)) for row in sequences]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in sequences]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)


def pad_with_full(sequences, pad_id):
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(sequences):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids, mask


def pad_with_arange(sequences, pad_id):
    lengths = torch.tensor([len(row) for row in sequences])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, pad_id, dtype=torch.int64)
    ids[mask] = torch.tensor([i for row in sequences for i in row], dtype=torch.int64)
    return ids, mask.long()


def pad_from_ids(sequences, pad_id):
    ids, _ = pad_with_lists(sequences, pad_id)
    return ids, (ids != pad_id).long()


def pad_left(sequences, pad_id):
    width = max(map(len, sequences))
    ids = [[pad_id] * (width - len(row)) + row for row in sequences]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in sequences]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)


def pad_untyped(sequences, pad_id):
    width = max(map(len, sequences))
    ids = [row + [pad_id] * (width - len(row)) for row in sequences]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in sequences]
    return torch.tensor(ids), torch.tensor(mask)


def pad_in_place(sequences, pad_id):
    width = max(map(len, sequences))
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in sequences]
    for row in sequences:
        row += [pad_id] * (width - len(row))
    return torch.tensor(sequences, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)


def pad_to(width_of):
    def pad(sequences, pad_id):
        width = width_of(sequences)
        ids = [(row + [pad_id] * width)[:width] for row in sequences]
        mask = [([1] * len(row) + [0] * width)[:width] for row in sequences]
        return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)

    return pad


def pad_always_zero(sequences, pad_id):
    return pad_with_lists(sequences, 0)[0], pad_with_lists(sequences, pad_id)[1]


def pad_mask_to_last_token(sequences, pad_id):
    ids, _ = pad_with_lists(sequences, pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(ids.tolist()):
        real = [j for j, token in enumerate(row) if token != pad_id]
        if real:
            mask[i, : real[-1] + 1] = 1
    return ids, mask


RIGHT["pad_batch"] = [pad_with_lists, pad_with_full, pad_with_arange]
WRONG["pad_batch"] = [
    (pad_from_ids, "The lengths know"),
    (pad_mask_to_last_token, "at the end of a row"),
    (pad_left, "padded on the left"),
    (pad_always_zero, "Use the argument pad_id"),
    (pad_untyped, "for a batch of empty rows"),
    (pad_in_place, "changes its argument `sequences`"),
    (pad_to(lambda rows: max(map(len, rows)) + 1), "one column too many"),
    (pad_to(lambda rows: min(map(len, rows))), "shortest"),
    (pad_to(lambda rows: len(rows[0])), "first row"),
    (lambda s, p: pad_with_lists(s, p)[::-1], "ids and mask are swapped"),
    (lambda s, p: (pad_with_lists(s, p)[0], 1 - pad_with_lists(s, p)[1]), "mask is inverted"),
    (lambda s, p: (pad_with_lists(s, p)[0], pad_with_lists(s, p)[0] != p), "The lengths know"),
    (lambda s, p: (pad_with_lists(s, p)[0], pad_with_lists(s, p)[1].bool()), "a bool tensor"),
    (lambda s, p: (pad_with_lists(s, p)[0].float(), pad_with_lists(s, p)[1]), "float32 tensor"),
    (lambda s, p: (pad_with_lists(s, p)[0].int(), pad_with_lists(s, p)[1].int()), "int32"),
    (lambda s, p: tuple(t.T.contiguous() for t in pad_with_lists(s, p)), "batch first"),
    (lambda s, p: pad_with_lists([r for r in s if r] or s, p), "Each sequence is a row"),
    (lambda s, p: (pad_from_ids(s, p)[0], (pad_from_ids(s, p)[0] != 0).long()), "compares with 0"),
    (lambda s, p: (pad_left(s, p)[0], torch.ones_like(pad_left(s, p)[0])), "expected"),
]


# --- length_grouped_batches ---------------------------------------------------------------------
def group_sorted(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    random.Random(seed).shuffle(batches)
    return batches


def group_longest_first(lengths, batch_size, seed):
    order = np.argsort(-np.array(lengths), kind="stable").tolist()
    count = -(-len(order) // batch_size)
    batches = [order[k * batch_size : (k + 1) * batch_size] for k in range(count)]
    return [batches[k] for k in np.random.default_rng(seed).permutation(count)]


def group_with_torch(lengths, batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(lengths), generator=generator)  # ties in random order
    order = shuffled[torch.tensor(lengths)[shuffled].argsort(stable=True)]
    batches = [part.tolist() for part in order.split(batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def group_short_last(lengths, batch_size, seed):
    """The shorter batch stays at the end."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    full = len(order) // batch_size * batch_size
    batches = [order[i : i + batch_size] for i in range(0, full, batch_size)]
    rng = random.Random(seed)
    rng.shuffle(batches)
    for batch in batches:
        rng.shuffle(batch)
    return batches + ([order[full:]] if order[full:] else [])


def group_not_shuffled(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def group_descending(lengths, batch_size, seed):
    return group_not_shuffled(lengths, batch_size, seed)[::-1]


def group_inside_only(lengths, batch_size, seed):
    batches, rng = group_not_shuffled(lengths, batch_size, seed), random.Random(seed)
    for batch in batches:
        rng.shuffle(batch)
    return batches


def group_random(lengths, batch_size, seed):
    order = random.Random(seed).sample(range(len(lengths)), len(lengths))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def group_shuffled_after_sorting(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    random.Random(seed).shuffle(order)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def group_small_windows(lengths, batch_size, seed):
    rng = random.Random(seed)
    order = rng.sample(range(len(lengths)), len(lengths))
    batches = []
    for start in range(0, len(order), 4 * batch_size):
        pool = sorted(order[start : start + 4 * batch_size], key=lengths.__getitem__)
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def group_drops_last(lengths, batch_size, seed):
    return [b for b in group_sorted(lengths, batch_size, seed) if len(b) == batch_size]


def group_by_length(lengths, batch_size, seed):
    """A batch holds one length only: many are short."""
    groups = defaultdict(list)
    for i, length in enumerate(lengths):
        groups[length].append(i)
    batches = [g[i : i + batch_size] for g in groups.values() for i in range(0, len(g), batch_size)]
    random.Random(seed).shuffle(batches)
    return batches


def group_empty_last(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[i : i + batch_size] for i in range(0, len(order) + 1, batch_size)]
    random.Random(seed).shuffle(batches)
    return batches


def group_too_long(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[i : i + batch_size + 1] for i in range(0, len(order), batch_size + 1)]
    random.Random(seed).shuffle(batches)
    return batches


def group_overlapping(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[i : i + batch_size] for i in range(0, len(order), max(batch_size - 1, 1))]
    random.Random(seed).shuffle(batches)
    return batches


def group_lengths(lengths, batch_size, seed):
    return [[lengths[i] for i in batch] for batch in group_sorted(lengths, batch_size, seed)]


def group_remainder_first(lengths, batch_size, seed):
    """The rest is spread over several batches."""
    count = -(-len(lengths) // batch_size)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [part.tolist() for part in np.array_split(np.array(order), count)]
    random.Random(seed).shuffle(batches)
    return batches


def group_global_state(lengths, batch_size, seed):
    batches = group_not_shuffled(lengths, batch_size, seed)
    random.seed(seed)
    random.shuffle(batches)
    return batches


def group_strided(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    count = -(-len(order) // batch_size)
    batches = [order[k::count] for k in range(count)]
    random.Random(seed).shuffle(batches)
    return batches


def group_swaps_two(lengths, batch_size, seed):
    """Only two batches change places."""
    batches, rng = group_not_shuffled(lengths, batch_size, seed), random.Random(seed)
    rng.shuffle(batches)
    return sorted(batches, key=lambda batch: max(lengths[i] for i in batch))


def group_sorted_positions(lengths, batch_size, seed):
    """Positions in the sorted list."""
    ordered = sorted(lengths)
    places = list(range(len(ordered)))
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    random.Random(seed).shuffle(batches)
    return batches


def group_ranks(lengths, batch_size, seed):
    order = np.argsort(np.argsort(lengths, kind="stable"), kind="stable").tolist()
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    random.Random(seed).shuffle(batches)
    return batches


def group_pairs(lengths, batch_size, seed):
    return [[(lengths[i], i) for i in batch] for batch in group_sorted(lengths, batch_size, seed)]


def group_filled(lengths, batch_size, seed):
    batches = group_sorted(lengths, batch_size, seed)
    return [batch + [None] * (batch_size - len(batch)) for batch in batches]


RIGHT["length_grouped_batches"] = [
    group_sorted, group_longest_first, group_with_torch, group_short_last,
]  # fmt: skip
WRONG["length_grouped_batches"] = [
    (group_not_shuffled, "from short to long"),
    (group_inside_only, "from short to long"),
    (group_swaps_two, "from short to long"),
    (group_descending, "from long to short"),
    (group_random, "too much padding"),
    (group_shuffled_after_sorting, "too much padding"),
    (group_small_windows, "too much padding"),
    (group_strided, "too much padding"),
    (group_sorted_positions, "are these positions in the sorted list?"),
    (group_ranks, "these are ranks"),
    (group_pairs, "a batch holds pairs"),
    (group_filled, "a batch holds None"),
    (group_drops_last, "an index is missing"),
    (group_by_length, "more than one batch is shorter"),
    (group_remainder_first, "more than one batch is shorter"),
    (group_empty_last, "an empty batch"),
    (group_too_long, "longer than batch_size"),
    (group_overlapping, "comes more than once"),
    (group_lengths, "no index"),
    (group_global_state, "global random state"),
    (lambda n, size, seed: group_sorted(n, size, 0), "seed makes no difference"),
    (lambda n, size, seed: group_sorted(n, size, None), "not the same twice"),
    (
        lambda n, size, seed: [torch.tensor(b) for b in group_sorted(n, size, seed)],
        "must be a list",
    ),
    (lambda n, size, seed: [list(np.array(b)) for b in group_sorted(n, size, seed)], "Python ints"),
]


# --- majority_baseline --------------------------------------------------------------------------
def majority_by_counter(train_labels, test_labels):
    if len(train_labels) == 0 or len(test_labels) == 0:
        raise ValueError("empty")
    counts = Counter(train_labels)
    answer = min(counts, key=lambda label: (-counts[label], label))
    return sum(label == answer for label in test_labels) / len(test_labels)


def majority_sorted_first(train_labels, test_labels):
    if not (train_labels and test_labels):
        raise ValueError("empty")
    answer = Counter(sorted(train_labels)).most_common(1)[0][0]
    return test_labels.count(answer) / len(test_labels)


def majority_with_numpy(train_labels, test_labels):
    if not train_labels or not test_labels:
        raise ValueError("empty")
    values, counts = np.unique(train_labels, return_counts=True)
    return float(np.mean(np.array(test_labels) == values[counts.argmax()]))


def majority_rule(answer, score=lambda hits, labels: hits / len(labels)):
    def baseline(train_labels, test_labels):
        if not train_labels or not test_labels:
            raise ValueError
        return score(test_labels.count(answer(train_labels, test_labels)), test_labels)

    return baseline


def most(labels, *_):
    return Counter(sorted(labels)).most_common(1)[0][0]


def majority_raises_by_chance(train_labels, test_labels):
    return test_labels.count(most(train_labels)) / len(test_labels)


def majority_zero_if_empty(train_labels, test_labels):
    if not train_labels or not test_labels:
        return 0.0
    return majority_by_counter(train_labels, test_labels)


def majority_checks_train_only(train_labels, test_labels):
    if not train_labels:
        raise ValueError
    return sum(y == most(train_labels) for y in test_labels) / max(len(test_labels), 1)


def majority_nan(train_labels, test_labels):
    if not test_labels:
        return float("nan")
    return majority_by_counter(train_labels, test_labels)


def majority_in_place(train_labels, test_labels):
    if not train_labels or not test_labels:
        raise ValueError
    train_labels.sort(reverse=True)
    train_labels.sort()
    return test_labels.count(Counter(train_labels).most_common(1)[0][0]) / len(test_labels)


def majority_class(train_labels, test_labels):
    if not train_labels or not test_labels:
        raise ValueError
    return most(train_labels)


RIGHT["majority_baseline"] = [majority_by_counter, majority_sorted_first, majority_with_numpy]
WRONG["majority_baseline"] = [
    (majority_rule(lambda a, b: most(b)), "peeking"),
    (majority_rule(lambda a, b: Counter(a).most_common(1)[0][0]), "comes first in train"),
    (
        majority_rule(lambda a, b: max(set(a), key=lambda y: (a.count(y), y))),
        "the largest label is",
    ),
    (majority_rule(lambda a, b: Counter(a[::-1]).most_common(1)[0][0]), "comes last in train"),
    (majority_rule(lambda a, b: max(set(a), key=a.count)), "a set names first"),
    (majority_class, "the class itself"),
    (majority_rule(most, lambda hits, labels: float(hits)), "the number of right answers"),
    (majority_rule(most, lambda hits, labels: 100 * hits / len(labels)), "a percentage"),
    (majority_rule(most, lambda hits, labels: 1 - hits / len(labels)), "wrong answers"),
    (majority_rule(lambda a, b: min(set(a), key=a.count)), "the rarest class"),
    (majority_rule(lambda a, b: max(a)), "the largest label is used"),
    (lambda a, b: majority_by_counter(a, a) if b else majority_by_counter(a, b), "on train"),
    (majority_raises_by_chance, "Another error"),
    (majority_zero_if_empty, "an empty list gives 0"),
    (majority_checks_train_only, "an empty test part gives 0"),
    (majority_nan, "gives NaN"),
    (majority_in_place, "changes its argument `train_labels`"),
    (lambda a, b: torch.tensor(majority_by_counter(a, b)), "must be a float"),
    (lambda a, b: np.float64(majority_by_counter(a, b)), "must be a float"),
    (majority_rule(most, lambda hits, labels: round(hits / len(labels), 2)), "expected"),
]
