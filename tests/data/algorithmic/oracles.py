"""What the answers should be, from the tasks' descriptions: on readable symbols, by other means than the library.

An oracle gets the symbols of an example, None where they are hidden, and returns the ones that
count, in order, and the length of the example as the task measures it.
"""

import itertools
import math
import re
import statistics

ORACLES = {}


def oracle(function):
    ORACLES[function.__name__.rstrip("_")] = function
    return function


def question(shown):
    """What stands before the answer."""
    return list(itertools.takewhile(lambda symbol: symbol is not None, shown))


@oracle
def even_pairs(shown, task):
    word = question(shown)
    changes = len(list(itertools.groupby(word))) - 1
    return [str(changes % 2)], len(word)


@oracle
def parity(shown, task):
    word = question(shown)
    return ["1" if word.count("1") % 2 else "0"], len(word)


@oracle
def cycle_navigation(shown, task):
    at = 0
    for step in question(shown):
        at = {"0": at - 1, "1": at, "2": at + 1}[step]
        at = {-1: task.cycle - 1, task.cycle: 0}.get(at, at)
    return [str(at)], len(question(shown))


@oracle
def stack_manipulation(shown, task):
    text = "".join({"pop|end": "<", "push0": "o", "push1": "i"}.get(s, s) for s in question(shown))
    stack, actions = re.fullmatch("([01]+)([<oi]*)", text).groups()
    for action in actions:
        stack = stack[:-1] if action == "<" else stack + {"o": "0", "i": "1"}[action]
    return [*reversed(stack), "pop|end"], len(text)


@oracle
def reverse(shown, task):
    return list(reversed(question(shown))), len(question(shown))


@oracle
def duplicate(shown, task):
    return question(shown) * 2, len(question(shown))


@oracle
def missing_duplicate(shown, task):
    word = question(shown)
    whole = [symbol for symbol in word if symbol != "pad"]
    assert word == whole + ["pad"] * (len(word) % 2)
    assert word.count("missing") == 1
    half = len(whole) // 2
    (pair,) = [{a, b} for a, b in zip(whole[:half], whole[half:], strict=True) if a != b]
    return [*(pair - {"missing"})], len(word)


@oracle
def odds_first(shown, task):
    word = question(shown)
    at = [[s for i, s in enumerate(word) if i % 2 == odd] for odd in (1, 0)]
    return at[0] + at[1], len(word)


@oracle
def bucket_sort(shown, task):
    word = question(shown)
    return [letter for letter in task.alphabet for s in word if s == letter], len(word)


@oracle
def modular_arithmetic(shown, task):
    text = "".join(question(shown))
    assert re.fullmatch(r"\d([-+*]\d)*", text)
    return [str(eval(text) % task.modulus)], len(text)


@oracle
def modular_arithmetic_brackets(shown, task):
    text = "".join(question(shown))
    atom = r"(?:-?\d|E)"
    left, before = text, ""
    while left != before:
        left, before = re.sub(rf"\((?:-?\d|{atom}[-+*]{atom})\)", "E", left), left
    assert left == "E" or re.fullmatch(r"-?\d", left)
    return [str(eval(text) % task.modulus)], len(text)


@oracle
def solve_equation(shown, task):
    text = "".join(question(shown))
    assert "*" not in text
    left, value = text.split("=")
    answers = [
        x for x in range(task.modulus) if (eval(left, {"x": x}) - int(value)) % task.modulus == 0
    ]
    assert len(answers) == 1
    return [str(answers[0])], len(text)


def _numbers(word):
    return [int("".join(part)[::-1], 2) for part in " ".join(word).replace(" ", "").split("op|end")]


@oracle
def binary_addition(shown, task):
    a, b = _numbers(question(shown))
    assert min(a, b) > 0
    return [*bin(a + b)[:1:-1], "op|end"], len(question(shown))


@oracle
def binary_multiplication(shown, task):
    a, b = _numbers(question(shown))
    assert min(a, b) > 0
    return [*bin(a * b)[:1:-1], "op|end"], len(question(shown))


@oracle
def compute_sqrt(shown, task):
    word = question(shown)
    number = int("".join(word), 2)
    assert number > 0
    root = next(r for r in itertools.count(math.isqrt(number) - 1) if (r + 1) ** 2 > number)
    return list(bin(root)[2:].zfill(math.ceil(len(word) / 2))), len(word)


def _letters(word):
    assert all(re.fullmatch(r"t\d+", symbol) for symbol in word)
    return word


@oracle
def copy_cmc(shown, task):
    word = _letters(question(shown))
    return [*word, "<end>"], len(word)


@oracle
def copy_cmc2x(shown, task):
    word = _letters(question(shown))
    return [*word, "<next>", *word, "<end>"], len(word)


@oracle
def copy_rsc(shown, task):
    word = _letters(question(shown))
    assert len(set(word)) == 1
    return [word[0]] * len(word) + ["<end>"], len(word)


@oracle
def copy_rsc2x(shown, task):
    answer, length = copy_rsc(shown, task)
    return answer[:-1] + answer, length


@oracle
def copy_rdc(shown, task):
    a, b, *word = _letters(question(shown))
    assert a != b
    text = " ".join(word).replace(a, "?").replace("?", b)
    assert word == [a] * len(word)
    return [*text.split(), "<end>"], len(word)


@oracle
def reverse_mc(shown, task):
    word = _letters(question(shown))
    return [word[-1 - i] for i in range(len(word))] + ["<end>"], len(word)


@oracle
def reverse_mc2x(shown, task):
    (*back, end), length = reverse_mc(shown, task)
    return [*back, "<next>", *back, end], length


@oracle
def reverse_mcrv(shown, task):
    (*back, end), length = reverse_mc(shown, task)
    return [*back, "<next>", *question(shown), end], length


@oracle
def selective_copy(shown, task):
    word = [symbol for symbol in question(shown) if symbol != "gap"]
    assert question(shown).count("gap") == task.blanks
    return word, len(word)


@oracle
def sum_(shown, task):
    word = question(shown)
    assert "0" not in word
    return [str(eval("+".join(word)) % task.modulus), "<end>"], len(word)


@oracle
def sort(shown, task):
    word = _letters(question(shown))
    return [*sorted(word, key=lambda s: int(s[1:])), "<end>"], len(word)


@oracle
def sort_numbers(shown, task):
    numbers = "".join(question(shown)).split(",")
    assert all(10 <= int(n) < 10_000 and n[0] != "0" for n in numbers)
    ordered = sorted(numbers, key=lambda n: (len(n), n))
    return [*",".join(ordered), "<end>"], len(numbers)


@oracle
def addition(shown, task):
    a, b = "".join(question(shown)).split("+")
    assert all(len(n) == 1 or n[0] != "0" for n in (a, b))
    return [*str(int(a) + int(b)), "<end>"], max(len(a), len(b))


@oracle
def polynomial(shown, task):
    x, terms = "".join(question(shown)).split(";")
    assert re.fullmatch(r"-?[123]\*x\^[0-3]|0\*x\^[0-3]", terms.split("+")[0])
    value = eval(terms.replace("^", "**"), {"x": int(x)})
    return [str(value % task.modulus), "<end>"], terms.count("x")


@oracle
def lego(shown, task):
    *clauses, asked = " ".join(question(shown)).replace(" ?", " ,").split(" , ")
    parsed = [re.fullmatch(r"(.) = (?:([-+])1|([-+]) (.))", clause).groups() for clause in clauses]
    assert len({name for name, *_ in parsed}) == len(parsed)
    known = {}
    while len(known) < len(parsed):
        before = len(known)
        for name, first, sign, of in parsed:
            if first:
                known[name] = int(first + "1")
            elif of in known:
                known[name] = int(sign + "1") * known[of]
        assert len(known) > before or before == len(parsed)
    return [f"{known[asked]:+d}", "<end>"], len(parsed)


@oracle
def counting(shown, task):
    program = " ".join(question(shown))
    text, steps, held = program, 0, {}
    while found := re.match(r"([a-z]) = 0 ; |([a-z]) \+\+; |pass; ", text):
        text = text[found.end() :]
        steps += 1
        if found[1]:
            held[found[1]] = 0
        if found[2]:
            held[found[2]] += 1
    assert max(held.values()) <= 10
    return [str(held[re.fullmatch("print ([a-z])", text)[1]])], steps


@oracle
def flip_flop(shown, task):
    memory, answers = None, []
    assert shown[0] == "w"
    assert shown[-2] == "r"
    for instruction, bit in zip(shown[::2], shown[1::2], strict=True):
        assert (bit is None) == (instruction == "r")
        if instruction == "w":
            memory = bit
        elif instruction == "r":
            answers.append(memory)
        else:
            assert instruction == "i"
    return answers, len(shown) // 2


@oracle
def listops(shown, task):
    word = question(shown)
    operations = {"[MIN": min, "[MAX": max, "[MED": statistics.median, "[SM": sum}
    waiting: list[list] = [[]]
    for symbol in word:
        if symbol in operations:
            waiting.append([symbol])
            assert len(waiting) <= task.max_depth
        elif symbol == "]":
            operator, *arguments = waiting.pop()
            assert 2 <= len(arguments) <= task.max_arguments
            waiting[-1].append(int(operations[operator](arguments)) % 10)
        else:
            waiting[-1].append(int(symbol))
    ((value,),) = waiting
    return [str(value)], len(word)


@oracle
def mqar(shown, task):
    said, answers = {}, []
    slots = list(zip(shown[::2], shown[1::2], strict=True))
    for key, value in slots[: task.pairs]:
        assert (key[0], value[0]) == ("k", "v")
        assert key not in said
        said[key] = value
    for key, value in slots[task.pairs :]:
        assert value == ("." if key == "." else None)
        if key != ".":
            answers.append(said.pop(key))
    assert not said
    return answers, len(slots)
