import itertools
import re

import pytest

from relpos import data
from relpos.data.pairs.sources import cldr

SPLITS = ("train", "validation", "test")


def read(pairs):
    return [(source.decode(), target.decode()) for source, target in pairs]


def in_german(number):
    """Thousands are parted by points, decimals by a comma."""
    return number.translate(str.maketrans(",.", ".,"))


def test_items_are_written_as_each_language_writes_them():
    seen = set()
    for source, target in read(cldr.pairs(1500, length=1)):
        if match := re.fullmatch(r"(\d+)/(\d+)/(\d\d)", source):
            assert target == f"{int(match[2]):02}.{int(match[1]):02}.{match[3]}"
            seen.add("date")
        elif match := re.fullmatch(r"([\d,.]+) kilometers", source):
            assert target == f"{in_german(match[1])} Kilometer"
            seen.add("quantity")
        elif match := re.fullmatch(r"€([\d,.]+)", source):
            assert target == f"{in_german(match[1])} €"
            seen.add("price")
        elif match := re.fullmatch(r"(\d+):(\d\d) PM", source):
            assert target == f"{int(match[1]) % 12 + 12}:{match[2]}"
            seen.add("time")
    assert seen == {"date", "quantity", "price", "time"}


def test_lists_are_joined_as_each_language_joins_them():
    for source, target in read(cldr.pairs(30, length=2)):
        assert " and " in source
        assert " und " in target
    for length in (3, 7):
        for source, target in read(cldr.pairs(30, length=length)):
            assert source.count(", and ") == 1
            assert ", und " not in target
            # Dates and numbers have commas of their own.
            assert source.count(", ") >= length - 1
            assert target.count(", ") >= length - 2


def test_a_name_means_one_thing():
    drawn = [read(cldr.pairs(3000 // (1 + 2 * i), length=1, split=s)) for i, s in enumerate(SPLITS)]
    found = {source for pairs in drawn for source, _ in pairs}
    assert len(found & {"Norway", "Finnish", "Tuvalu", "Zulu"}) >= 3
    assert "Nauru" not in found  # a country and a language


def test_names_are_translated():
    pairs = dict(read(cldr.pairs(3000, length=1)))
    known = {
        "Norway": "Norwegen",
        "Germany": "Deutschland",
        "France": "Frankreich",
        "Italy": "Italien",
    }
    known |= {
        "Spain": "Spanien",
        "Greece": "Griechenland",
        "Welsh": "Walisisch",
        "Finnish": "Finnisch",
    }
    found = {name: pairs[name] for name in known if name in pairs}
    assert len(found) > 3
    assert found == {name: known[name] for name in found}


@pytest.mark.parametrize("languages", [("en", "de"), ("fr", "ja"), ("sv", "ar")])
def test_splits_share_no_sentence(languages):
    drawn = {
        split: {
            source
            for length, seed in itertools.product((1, 2, 3), (0, 1))
            for source, _ in cldr.pairs(
                200, length=length, split=split, seed=seed, languages=languages
            )
        }
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]
    assert all(len(sentences) > 500 for sentences in drawn.values())


MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def dates_of(split):
    """Year, month and day of every English date that is not written with slashes."""
    text = "\n".join(source.decode() for source, _ in cldr.pairs(1500, length=3, split=split))
    found = re.findall(rf"\b({'|'.join(MONTHS)})[a-z]* (\d+), (\d{{4}})\b", text)
    short = re.findall(r"\b(\d+)/(\d+)/(\d\d)\b", text)
    full = {(int(year), MONTHS.index(month) + 1, int(day)) for month, day, year in found}
    return full | {
        (int(year) + (1900 if int(year) >= 50 else 2000), int(month), int(day))
        for month, day, year in short
    }


def test_a_date_is_in_one_split_in_whatever_style():
    train, test = dates_of("train"), dates_of("test")
    assert len(train) > 500
    assert len(test) > 500
    assert not train & test


def test_times_prices_and_quantities_are_held_out_and_words_are_not():
    def found(pattern, split):
        text = "\n".join(source.decode() for source, _ in cldr.pairs(1500, length=3, split=split))
        return set(re.findall(pattern, text))

    values = (
        r"(?<![\d:])\d+:\d\d (?:AM|PM)",
        r"\b[\d,.]+ (?:kilograms|hours|miles|days|watts)",
        r"(?<!\w)[$£€][\d,]+\.\d\d",
    )
    for pattern in values:
        assert len(found(pattern, "train")) > 30
        assert len(found(pattern, "test")) > 30
        assert not found(pattern, "train") & found(pattern, "test")
    for pattern in (
        r"(?:kilograms|hours|miles|watts)",
        r"[A-Z][a-z]+day,",
        r"\b(?:Norway|Welsh|Chad)",
    ):
        assert found(pattern, "train") >= found(pattern, "test") > set()


def test_a_pair_depends_on_its_arguments_alone():
    pairs = cldr.pairs(40, length=(1, 5), split="test", seed=3)
    assert cldr.pairs(60, length=(1, 5), split="test", seed=3)[:40] == pairs
    assert cldr.pairs(40, length=(1, 5), split="test", seed=4) != pairs


def test_lengths_are_drawn_evenly():
    two = sum(b" and " in source for source, _ in cldr.pairs(800, length=(1, 2)))
    assert 300 < two < 520  # "Trinidad and Tobago" is written with &


def test_spaces_are_plain():
    text = b"".join(a + b for a, b in cldr.pairs(500, length=3, languages=("en", "fr"))).decode()
    assert "PM" in text
    assert "€" in text
    assert not {"\u00a0", "\u202f"} & set(text)


def test_locales_may_be_spelt_with_a_hyphen():
    assert cldr.pairs(5, length=2, languages=("en", "pt-BR")) == cldr.pairs(
        5, length=2, languages=("en", "pt_BR")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": ("en", "german")}, "no locale 'german'. Did you mean 'de'"),
        ({"languages": ("en", "pt_BRR")}, "Did you mean 'pt_BR'"),
        ({"languages": ("", "de")}, "no locale ''"),
        ({"languages": ("en",)}, "two languages"),
        ({"languages": ("en", "kpe")}, "names only 0 territories in both 'en' and 'kpe'"),
        ({"languages": ("de", "de")}, "both 'de'"),
        ({"split": "trian"}, "no split 'trian'. Did you mean 'train'"),
        ({"length": 0}, "one item or more"),
        ({"length": (3, 2)}, "one item or more"),
    ],
)
def test_what_cannot_be_written_is_explained(arguments, message):
    with pytest.raises(data.DataError, match=re.escape(message)):
        cldr.pairs(1, **{"length": 1, **arguments})


def test_the_version_names_cldr():
    assert re.fullmatch(r"\d+\.\d+\.\d+\+babel-[\d.]+-cldr-\d+", cldr.description())
