"""Translation pairs from the Unicode CLDR: lists of dates, times, quantities, prices and names.

    "Jan 5, 2031, 12 kilometers, and Norway"  ->  "05.01.2031, 12 Kilometer und Norwegen"

Babel includes CLDR for hundreds of locales, so nothing is downloaded and any two well-covered locales make a corpus. A
sentence is a list of `length` items joined by the locale's list pattern; training on short lists and testing on longer
ones measures how a model generalises in length.

What train, validation and test share:

- no sentence;
- no date, time of day, quantity (number with unit) or price (amount with currency): the hash of each assigns it to one
  split, whatever its style;
- the words: months and weekdays, units, currencies, digits, and the names of countries and languages, which nobody
  could translate without having seen them. A sentence of names only, even of a single one, is assigned to one split by
  the hash of its names, in order.

CLDR's no-break spaces (U+00A0, U+202F) are written as plain spaces.

Source of the data: Unicode CLDR, https://cldr.unicode.org, as Babel ships it.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import babel
from babel import dates, lists, localedata, numbers, units
from babel.core import get_cldr_version

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError, nearest
from relpos.data.pairs.corpus import Pair, pairs_corpus
from relpos.data.splits import SPLITS, split_of

VERSION = "1.0.0"  # of the rules below
# Generated at every start, which takes two to three seconds.
PAIRS = {"train": 20_000, "validation": 500, "test": 500, "longer": 500}
TABLES = ("territories", "languages")
DATE_STYLES = ("full", "long", "medium", "short")
TIME_STYLES = ("medium", "short")
MONEY_STYLES: tuple[Literal["standard", "name"], ...] = ("standard", "name")
# A short date has only two digits of the year, which are unique within a century.
FIRST_DAY = datetime.date(1950, 1, 1).toordinal()
LAST_DAY = datetime.date(2049, 12, 31).toordinal()
# fmt: off
_UNITS = {
    "angle": ("degree",),
    "area": ("hectare", "square-kilometer", "square-meter"),
    "digital": ("gigabyte", "megabyte"),
    "duration": ("day", "hour", "millisecond", "minute", "month", "second", "week", "year"),
    "electric": ("ampere", "volt"),
    "energy": ("joule", "kilowatt-hour"),
    "frequency": ("hertz", "megahertz"),
    "length": (
        "centimeter", "foot", "inch", "kilometer", "light-year", "meter", "mile", "millimeter",
    ),
    "mass": ("gram", "kilogram", "milligram", "ounce", "pound", "tonne"),
    "power": ("kilowatt", "watt"),
    "speed": ("kilometer-per-hour", "meter-per-second"),
    "temperature": ("celsius", "fahrenheit"),
    "volume": ("cubic-meter", "liter", "milliliter"),
}
CURRENCIES = (
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HUF", "IDR", "ILS", "INR",
    "JPY", "KRW", "MXN", "NOK", "NZD", "PHP", "PLN", "RON", "SEK", "THB", "TRY", "UAH", "USD",
    "VND", "ZAR",
)
# fmt: on
UNITS = tuple(f"{kind}-{unit}" for kind, names in _UNITS.items() for unit in names)
MOST_ITEMS = 32  # of a list; longer lists take minutes to generate
LEAST_NAMES = 15  # of countries and of languages that two locales must share
_NO_COUNTRY = {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"}  # unions, and codes for tests and unknowns
_PLAIN_SPACES = str.maketrans("\u00a0\u202f", "  ")


class _Item(NamedTuple):
    """One item of a list: the key that determines its split, and how a locale writes it."""

    key: str
    write: Callable[[babel.Locale], str]
    is_name: bool = False


def load(
    *, languages: Sequence[str] = ("en", "de"), lengths: Sequence[int] = (1, 4), seed: int = 0
) -> Corpus[Pair]:
    """Load lists in two languages.

    Args:
      languages: two locales.
      lengths: the least and the most items of a list, at most `MOST_ITEMS`; lists of the split "longer" have more, up
        to twice as many.
      seed: selects the lists.

    Raises:
      DataError: the locales do not exist, or no list can have such lengths.
    """
    if len(lengths) != 2 or not 1 <= lengths[0] <= lengths[1] <= MOST_ITEMS:
        raise DataError(
            f"lengths must be the least and the most items of a list, from 1 to {MOST_ITEMS}; got {tuple(lengths)}"
        )
    least, most = lengths
    splits = {
        split: pairs(
            count,
            length=(most + 1, 2 * most) if split == "longer" else (least, most),
            split="test" if split == "longer" else split,
            seed=seed,
            languages=languages,
        )
        for split, count in PAIRS.items()
    }
    note = f"lists of {least} to {most} items, longer: up to {2 * most}; seed {seed}"
    return pairs_corpus(
        "cldr", description(), splits, languages=pair_of_locales(languages), notes=(note,)
    )


def pairs(
    count: int,
    *,
    length: int | tuple[int, int],
    split: str = "train",
    seed: int = 0,
    languages: Sequence[str] = ("en", "de"),
) -> list[Pair]:
    """Return the first `count` pairs of a split; a pair may occur twice.

    Each depends only on its index, on the other arguments and on the version of CLDR.

    Args:
      count: the number of pairs.
      length: the number of items of a list, or its range, drawn uniformly.
      split: "train", "validation" or "test".
      seed: another seed draws other sentences of the same split.
      languages: source and target locale.

    Raises:
      DataError: an unknown locale or split, or a list without items.
    """
    low, high = (length, length) if isinstance(length, int) else length
    if not 1 <= low <= high:
        raise DataError(
            f"A list has one item or more; {length} is neither a valid length nor a valid range."
        )
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}.{nearest(split, SPLITS)}")
    locales = pair_of_locales(languages)
    drawn = [random.Random(f"lengths {seed} {split} {i}").randint(low, high) for i in range(count)]
    return [_pair(i, n, split, seed, *locales) for i, n in enumerate(drawn)]


def _pair(index: int, length: int, split: str, seed: int, source: str, target: str) -> Pair:
    rng = random.Random(f"cldr {seed} {split} {length} {index}")
    # Drawn before the loop, so that splits differ only in their values, not in their kinds.
    kinds = [rng.randrange(6) for _ in range(length)]
    while True:
        items = [_draw(kind, rng, split, source, target) for kind in kinds]
        names_alone = all(item.is_name for item in items)
        if not names_alone or split_of(" ".join(item.key for item in items).encode()) == split:
            return _write(items, source), _write(items, target)


def pair_of_locales(languages: Sequence[str]) -> tuple[str, str]:
    """Check the names of two locales and return them as CLDR spells them.

    Raises:
      DataError: they are not two different locales that Babel knows, or one of them names too little.
    """
    if len(languages) != 2:
        raise DataError(f"Translation needs two languages, not {list(languages)}.")
    source, target = (_spelt(name) for name in languages)
    if source == target:
        raise DataError(f"Source and target language are both {source!r}.")
    for table in TABLES:
        _codes(table, source, target)
    return source, target


def description() -> str:
    """Return the version of the rules, of Babel and of CLDR."""
    return f"{VERSION}+babel-{babel.__version__}-cldr-{get_cldr_version()}"


def _spelt(name: str) -> str:
    try:
        return str(babel.Locale.parse(name.replace("-", "_")))
    except (babel.UnknownLocaleError, ValueError):
        english = {n.lower(): code for code, n in babel.Locale.parse("en").languages.items()}
        known = localedata.locale_identifiers()
        # "german" is nearer to the name of a language than to that of any locale.
        guess = english.get(name.lower(), name)
        raise DataError(
            f"CLDR has no locale {name!r}.{nearest(guess, known)} "
            f"It has {len(known)}, such as en, de, pt_BR, zh_Hant."
        ) from None


def _draw(kind: int, rng: random.Random, split: str, source: str, target: str) -> _Item:
    """Draw an item; if its kind can be held out, it belongs to the split."""
    if kind < 2:
        table = TABLES[kind]
        code = rng.choice(_codes(table, source, target))
        return _Item(f"{table} {code}", lambda locale: getattr(locale, table)[code], is_name=True)
    draw = (_date, _time, _quantity, _money)[kind - 2]
    while True:
        item = draw(rng)
        if split_of(item.key.encode()) == split:
            return item


@functools.cache
def _codes(table: str, source: str, target: str) -> tuple[str, ...]:
    """Return the two-letter codes that both locales name, without names that the source uses twice.

    Nauru is a country and a language; a sentence must not be in two splits or have two meanings.
    """
    names, others = babel.Locale.parse(source), babel.Locale.parse(target)
    uses = collections.Counter([*names.territories.values(), *names.languages.values()])
    found, wanted = getattr(names, table), getattr(others, table)
    codes = tuple(
        code
        for code in sorted(found)
        if len(code) == 2 and code not in _NO_COUNTRY and code in wanted and uses[found[code]] == 1
    )
    splits = {split_of(f"{table} {code}".encode()) for code in codes}
    # With fewer, a split might have no sentence of names only.
    if len(codes) < LEAST_NAMES or len(splits) < len(SPLITS):
        raise DataError(
            f"CLDR names only {len(codes)} {table} in both {source!r} and {target!r}, too few for "
            "three splits: choose languages that it covers better."
        )
    return codes


def _date(rng: random.Random) -> _Item:
    day = datetime.date.fromordinal(rng.randint(FIRST_DAY, LAST_DAY))
    style = rng.choice(DATE_STYLES)
    return _Item(f"date {day}", lambda locale: dates.format_date(day, style, locale))


def _time(rng: random.Random) -> _Item:
    time = datetime.time(rng.randrange(24), rng.randrange(60), rng.randrange(60))
    style = rng.choice(TIME_STYLES)
    key = f"time {time.hour}:{time.minute}"
    return _Item(key, lambda locale: dates.format_time(time, style, locale=locale))


def _quantity(rng: random.Random) -> _Item:
    unit = rng.choice(UNITS)
    tenths = rng.choice((10 * rng.randint(1, 99), 10 * rng.randint(1, 99_999), rng.randint(1, 999)))
    value = decimal.Decimal(tenths) / 10
    return _Item(
        f"quantity {tenths} {unit}",
        lambda locale: units.format_unit(value, unit, "long", locale=locale),
    )


def _money(rng: random.Random) -> _Item:
    currency, style = rng.choice(CURRENCIES), rng.choice(MONEY_STYLES)
    # Other amounts would be rounded, and two of them could become the same text.
    digits = numbers.get_currency_precision(currency)
    amount = decimal.Decimal(rng.randint(1, rng.choice((1_000, 1_000_000)))).scaleb(-digits)
    return _Item(
        f"money {amount} {currency}",
        lambda locale: numbers.format_currency(amount, currency, locale=locale, format_type=style),
    )


def _write(items: Sequence[_Item], name: str) -> bytes:
    locale = babel.Locale.parse(name)
    text = lists.format_list([item.write(locale) for item in items], locale=locale)
    return text.translate(_PLAIN_SPACES).encode()
