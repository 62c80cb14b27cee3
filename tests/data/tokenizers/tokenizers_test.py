import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from relpos.data import tokenizers
from relpos.data.errors import DataError
from relpos.data.tokenizers import offsets, words
from relpos.errors import UserError

TEXT = "".join(
    f"def function_{i}(argument):\n    '''Returns {i} lines.'''\n\treturn {i} * argument  # naïve\n"
    for i in range(400)
).encode()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "sub" / "sp.model"
    return tokenizers.create("sentencepiece", corpus=[TEXT], path=path, vocab_size=400)


@hypothesis.given(st.binary())
def test_bytes_lose_nothing(text):
    tokenizer = tokenizers.Bytes()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text)


SPECIAL = [
    *("▁", "▁▁ ", "\0", "<s>", "</s>", "<unk>", "<0x41>", "\n", "\r\n", "\t", "   ", "def func"),
    *("\u2028", "\u200b", "\ufeff", "e\u0301", "ﬁ", "Ⅳ", "½", "👩\u200d👧", "\x1b", "\x7f", "\x85"),
    *("\u2585", "\ufffd", "\U0010ffff", "\ue000", "ï", "שלום"),
]


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(
    st.lists(st.one_of(st.text(max_size=5), st.sampled_from(SPECIAL)), max_size=12).map("".join)
)
def test_sentencepiece_loses_nothing(model, text):
    ids = model.encode(text.encode())
    assert ids.dtype == np.int32
    assert model.decode(ids) == text.encode()
    assert model.byte_lengths[ids].sum() == len(text.encode())
    assert model.separator not in ids.tolist()


def test_sentencepiece_is_shorter_than_bytes(model):
    assert len(model.encode(TEXT)) < 0.6 * len(TEXT)
    assert model.vocab_size == 400


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_separators_stand_for_no_text(model, kind):
    tokenizer = tokenizers.Bytes() if kind == "bytes" else model
    ids = tokenizer.encode(b"some text")
    sep = [tokenizer.separator]
    assert tokenizer.decode(np.concatenate([sep, ids, sep])) == b"some text"
    assert tokenizer.byte_lengths[tokenizer.separator] == 0
    assert len(tokenizer.byte_lengths) == tokenizer.vocab_size
    assert tokenizer.decode([]) == b""
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(DataError, match="outside the vocabulary"):
            tokenizer.decode([wrong])


def test_bytes_that_are_not_utf8_are_spelt_out(model, tmp_path):
    text = b"abc\xffdef\xed\xa0\x80\xe2\x96"
    assert model.decode(model.encode(text)) == text
    trained = tokenizers.train_sentencepiece([TEXT + text], vocab_size=300, path=tmp_path / "model")
    assert trained.decode(trained.encode(text)) == text


def test_vocabulary_too_large_names_the_largest(tmp_path):
    with pytest.raises(DataError, match="at most") as caught:
        tokenizers.train_sentencepiece([TEXT], vocab_size=100_000, path=tmp_path / "m")
    limit = int(str(caught.value).split("at most ")[1].split(",")[0])
    assert not list(tmp_path.iterdir())
    assert (
        tokenizers.train_sentencepiece([TEXT], vocab_size=limit, path=tmp_path / "m").vocab_size
        == limit
    )


def test_a_vocabulary_larger_than_any_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("sentencepiece.SentencePieceTrainer.train", None)
    with pytest.raises(DataError, match="too large: 1000000 pieces are the most"):
        tokenizers.train_sentencepiece([TEXT], vocab_size=10**9, path=tmp_path / "m")


@pytest.mark.parametrize("size", [-1, 0, 100, 260])
def test_vocabulary_too_small(tmp_path, size):
    with pytest.raises(DataError, match="too small"):
        tokenizers.train_sentencepiece([TEXT], vocab_size=size, path=tmp_path / "m")


def test_a_kept_model_is_loaded_and_training_is_deterministic(tmp_path):
    path = tmp_path / "m"
    tokenizers.create("sentencepiece", corpus=[TEXT], path=path, vocab_size=350)
    content = path.read_bytes()
    loaded = tokenizers.create("sentencepiece", corpus=[], path=path, vocab_size=350)
    assert loaded.vocab_size == 350
    path.unlink()
    tokenizers.create("sentencepiece", corpus=[TEXT], path=path, vocab_size=350)
    assert path.read_bytes() == content
    with pytest.raises(DataError, match="350 pieces, but vocab_size is 360"):
        tokenizers.create("sentencepiece", path=path, vocab_size=360)


def test_create_explains(tmp_path):
    with pytest.raises(DataError, match="Did you mean 'sentencepiece'"):
        tokenizers.create("sentence_piece")
    with pytest.raises(DataError, match="needs a path"):
        tokenizers.create("sentencepiece", corpus=[TEXT], vocab_size=300)
    (tmp_path / "m").write_bytes(b"no model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        tokenizers.create("sentencepiece", path=tmp_path / "m")
    with pytest.raises(DataError, match=r"no SentencePiece model .*none"):
        tokenizers.SentencePiece(tmp_path / "none")
    with pytest.raises(DataError, match="no text"):
        tokenizers.train_sentencepiece([b""], vocab_size=300, path=tmp_path / "x")


def test_a_piece_that_is_not_utf8_is_told(tmp_path):
    path = tmp_path / "m"
    text = "caf\u00e9 na\u00efve \u00e9t\u00e9 ".encode() * 50
    tokenizers.create("sentencepiece", corpus=[text], path=path, vocab_size=268)
    sound = path.read_bytes()
    damaged = sound.replace("\u00e9".encode(), b"\xc3\xff")
    assert damaged != sound
    path.write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"m is not a SentencePiece model .*codec can't decode.*restore it"
    ):
        tokenizers.SentencePiece(path)


@pytest.mark.parametrize(
    "load",
    [
        tokenizers.SentencePiece,
        lambda path: words.load_or_make(path, []),
        lambda path: offsets.create("words", path=path),
    ],
    ids=["sentencepiece", "words", "placed words"],
)
def test_a_pipe_in_a_vocabularys_place_is_refused(tmp_path, load):
    os.mkfifo(tmp_path / "m")
    with pytest.raises(UserError, match=r"is a pipe, not a file|is not a regular file"):
        load(tmp_path / "m")
