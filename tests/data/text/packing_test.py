import collections
import itertools
import json

import grain
import hypothesis
import hypothesis.strategies as st
import numpy as np
import orbax.checkpoint as ocp
import pytest

from relpos.data import DataError
from relpos.data.text.packing import eval_batches, train_batches
from relpos.data.tokenizers import Bytes

TOKENIZER = Bytes()
SEP = TOKENIZER.separator


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    """A smaller shuffling window, which the short batches of these tests fill quickly."""
    monkeypatch.setattr("relpos.data.text.packing.SHUFFLE_TOKENS", 2**15)


def documents(count: int, longest: int, seed: int = 0) -> list[bytes]:
    """Documents whose bytes are random: a piece can be found again in the only place it stands."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in lengths]


def pieces(batch):
    """Yields (inputs, targets) of every segment of every row, checking how rows are laid out."""
    assert {k: v.dtype for k, v in batch.items()} == dict.fromkeys(
        ("inputs", "targets", "segments"), np.dtype(np.int32)
    )
    for inputs, targets, segments in zip(
        batch["inputs"], batch["targets"], batch["segments"], strict=True
    ):
        used = int((segments > 0).sum())
        assert (segments[used:] == 0).all()  # padding at the end only
        assert (np.diff(segments[:used]) >= 0).all()
        for segment in range(1, segments.max(initial=0) + 1):
            here = segments == segment
            assert here.any()
            yield inputs[here], targets[here]


def streams(docs):
    return [[SEP, *document, SEP] for document in docs]


def scored(batches) -> collections.Counter:
    """How often each (input, target) pair is scored."""
    counted: collections.Counter = collections.Counter()
    for batch in batches:
        for inputs, targets in pieces(batch):
            counted.update(zip(inputs.tolist(), targets.tolist(), strict=True))
    return counted


def every_pair_once(docs) -> collections.Counter:
    counted: collections.Counter = collections.Counter()
    for stream in streams(docs):
        counted.update(itertools.pairwise(stream))
    return counted


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    docs=st.lists(st.binary(max_size=40), min_size=1, max_size=12),
    length=st.integers(1, 17),
    batch_size=st.integers(1, 5),
)
def test_evaluation_scores_every_token_and_every_end_once(docs, length, batch_size):
    batches = list(eval_batches(docs, TOKENIZER, sequence_length=length, batch_size=batch_size))
    assert all(b["inputs"].shape == (batch_size, length) for b in batches)
    assert scored(batches) == every_pair_once(docs)
    sizes = [TOKENIZER.byte_lengths[b["targets"]][b["segments"] > 0].sum() for b in batches]
    assert sum(sizes) == sum(map(len, docs))


def test_evaluation_cuts_where_the_window_before_ended():
    docs = documents(3, 500)
    for length in (7, 14, 28, 56):
        found = [
            p
            for b in eval_batches(docs, TOKENIZER, sequence_length=length, batch_size=2)
            for p in pieces(b)
        ]
        windows = [
            (stream[i : i + length][: len(stream) - 1 - i], stream[i + 1 : i + 1 + length])
            for stream in streams(docs)
            for i in range(0, len(stream) - 1, length)
        ]
        assert sorted((a.tolist(), b.tolist()) for a, b in found) == sorted(windows)


def test_evaluation_packs_tightly():
    docs = documents(400, 60)
    batches = list(eval_batches(docs, TOKENIZER, sequence_length=128, batch_size=16))
    fill = np.mean([(b["segments"] > 0).mean() for b in batches[:-1]])
    assert fill > 0.9


def start(docs, seed=1, length=32, batch_size=4):
    return iter(
        train_batches(docs, TOKENIZER, sequence_length=length, batch_size=batch_size, seed=seed)
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def equal(a, b) -> bool:
    return len(a) == len(b) and all(
        (x[k] == y[k]).all() for x, y in zip(a, b, strict=True) for k in x
    )


def test_training_pieces_are_the_documents_text():
    docs = documents(20, 200)
    joined = [np.array(stream) for stream in streams(docs)]
    for batch in take(start(docs), 30):
        assert batch["inputs"].shape == (4, 32)
        for inputs, targets in pieces(batch):
            piece = np.append(inputs, targets[-1])
            assert any(
                (np.lib.stride_tricks.sliding_window_view(s, len(piece)) == piece).all(1).any()
                for s in joined
                if len(s) >= len(piece)
            )
            assert (inputs[1:] == targets[:-1]).all()


def test_training_uses_every_token_about_equally_often():
    """Over many epochs, every pair is seen as often as its number of occurrences says."""
    docs = documents(30, 300)
    once = every_pair_once(docs)
    total = sum(once.values())
    epochs = 40
    seen: collections.Counter = collections.Counter()
    iterator = start(docs)
    while sum(seen.values()) < epochs * total:
        seen += scored([next(iterator)])
    assert set(seen) == set(once)
    for pair, count in once.items():
        assert 0.5 * epochs * count < seen[pair] < 1.6 * epochs * count


def test_order_is_a_function_of_the_seed():
    docs = documents(50, 300)
    first = take(start(docs, seed=3), 20)
    assert equal(first, take(start(docs, seed=3), 20))
    for seed in (4, -3, 2**40):
        assert not equal(first, take(start(docs, seed=seed), 20))


def test_epochs_differ():
    docs = documents(4, 31)  # every document is one piece
    tokens = sum(len(d) + 1 for d in docs)
    rows = [tuple(p[0].tolist()) for b in take(start(docs), 40) for p in pieces(b)]
    assert tokens < 4 * 32 * 40
    orders = {tuple(rows[i : i + 4]) for i in range(0, len(rows) - 4, 4)}
    assert len(orders) > 5


def test_a_long_document_spreads_over_many_batches(monkeypatch):
    monkeypatch.setattr("relpos.data.text.packing.SHUFFLE_TOKENS", 2**18)
    long = bytes([1]) * 32_000
    docs = [long] + [bytes([2]) * 200 for _ in range(400)]
    share = [(b["inputs"] == 1).mean() for b in take(start(docs, batch_size=8), 300)]
    assert max(share) < 0.9
    assert np.mean(np.array(share) > 0) > 0.9


def test_restoring_the_state_continues_exactly():
    docs = documents(60, 400)
    for before in (0, 1, 7, 300):
        iterator = start(docs)
        take(iterator, before)
        state = json.loads(json.dumps(iterator.get_state()))
        after = take(iterator, 25)
        restored = start(docs)
        take(restored, 5)  # wherever it stood
        restored.set_state(state)
        assert equal(take(restored, 25), after)
        assert restored.get_state() == iterator.get_state()


def test_orbax_saves_and_restores_the_iterator(tmp_path):
    docs = documents(60, 400)
    iterator = start(docs)
    take(iterator, 11)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(11, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        after = take(iterator, 10)
        restored = start(docs)
        manager.restore(
            11, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(restored))
        )
    assert equal(take(restored, 10), after)


def test_training_fills_its_rows():
    docs = documents(100, 5000)
    fill = np.mean([(b["segments"] > 0).mean() for b in take(start(docs, length=128), 200)])
    assert fill > 0.97


def test_text_smaller_than_a_batch_repeats():
    batch = next(start([b"forty bytes, more or less, of only text."], batch_size=16))
    assert batch["inputs"].shape == (16, 32)
    assert (batch["segments"].max(axis=1) > 0).all()


def test_sequences_of_one_token():
    docs = [b"abc"]
    batches = list(eval_batches(docs, TOKENIZER, sequence_length=1, batch_size=3))
    assert scored(batches) == every_pair_once(docs)
    assert next(start(docs, length=1))["inputs"].shape == (4, 1)


class Lazy:
    """Counts which documents are read."""

    def __init__(self, docs):
        self.docs = docs
        self.read = set()

    def __len__(self):
        return len(self.docs)

    def __getitem__(self, i):
        self.read.add(i)
        return self.docs[i]


def test_documents_are_read_when_their_turn_comes():
    lazy = Lazy([bytes([i % 256]) * 500 for i in range(5000)])
    take(start(lazy), 10)
    assert len(lazy.read) < 300


@pytest.mark.parametrize(
    ("docs", "length", "batch_size", "message"),
    [
        ([b"short", b"text"], 100, 2, "11 tokens, fewer than one sequence of 100.*to 11 or less"),
        ([], 10, 2, "no documents to train on"),
        ([b"text"], 0, 2, "sequence_length must be at least 1, not 0"),
        ([b"text"], -5, 2, "sequence_length must be at least 1, not -5"),
        ([b"text"], 2, 0, "batch_size must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_batched_is_explained(docs, length, batch_size, message):
    with pytest.raises(DataError, match=message):
        train_batches(docs, TOKENIZER, sequence_length=length, batch_size=batch_size, seed=0)


def test_evaluating_nothing_is_explained():
    with pytest.raises(DataError, match="no documents to evaluate"):
        list(eval_batches([], TOKENIZER, sequence_length=4, batch_size=2))
