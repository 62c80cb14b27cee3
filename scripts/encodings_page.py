"""Write docs/encodings.md, a section for each scheme and position transform, and README's table of schemes.

    python scripts/encodings_page.py

The prose is the docstring of the scheme's class: the equation, then the source, then a paragraph that begins with
"Choose it" and one that begins with "Choose another". The summary is the first line of the scheme's file. Everything
else is computed from the class, or read from the figures of benchmarks and experiments, if there are any.
"""

import dataclasses
import functools
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from harness import markdown
from rich.console import Console

import relpos
from relpos import encodings, places
from relpos.attention.slot_use import SlotUse, largest
from relpos.attention.slots import SLOTS
from relpos.encodings import Encoding, PerHead, PerKeyHead
from relpos.experiments import job as job_lib
from relpos.experiments import leaderboard
from relpos.nn import Cache

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "encodings.md", ROOT / "README.md"
EXPERIMENT = ROOT / "experiments" / "every_scheme"
COSTS, STEPS = ROOT / "docs" / "costs.json", ROOT / "docs" / "steps.json"

N, K, H = 4, 2, 32  # query heads, key heads and head size, for parameters and caches
D = N * H
CAPACITY = 64  # tokens of a cache
LONG = 4096  # tokens of the row that is searched for T x T arrays

# A scheme belongs to the first family of which it fills a slot.
FAMILIES: dict[str, tuple[str, set[str]]] = {
    "Vectors": ("a vector for each distance, multiplied with queries or keys or added to values",
                {"key_vectors", "query_vectors", "value_vectors"}),
    "Gates": ("the effect of distance depends on the tokens: on query and key, or on those between them",
              {"walk", "mix", "tokens"}),
    "Biases": ("a number for each distance, added to the logits", {"bias", "block_bias"}),
    "Rotations": ("queries and keys are rotated by positions or by angles computed from tokens", {"query", "key"}),
    "Baselines": ("attention itself does not see positions", {"embed", "sink"}),
}  # fmt: skip
TURNED = {"query", "key", "value", "finish", "tokens", "walk"}
ORDER = ("Baselines", "Vectors", "Biases", "Gates", "Rotations")

FORM = (
    '{where}: its docstring must be the equation, then its source (arXiv:NNNN.NNNNN, or "no arXiv: number"), then a '
    'paragraph that begins with "Choose it" and one that begins with "Choose another"; {what}'
)


@dataclasses.dataclass(frozen=True)
class Prose:
    """The parts of a docstring.

    Attributes:
      purpose: the first line of the file.
      equation: the first paragraph, and the indented ones after it.
      source: the paragraphs that follow: the paper and the options.
      choose: when to choose it.
      another: when to choose another.
    """

    purpose: str
    equation: str
    source: tuple[str, ...]
    choose: str
    another: str


def prose(cls: type) -> Prose:
    """Split a class's docstring into its parts.

    Raises:
      ValueError: it does not have the form that this page needs.
    """
    where = f"{cls.__module__}.{cls.__name__}"
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    found = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    found = [part for part in found if not part.startswith("Attributes:")]
    first = next((i for i, part in enumerate(found) if i and not part.startswith(" ")), len(found))
    rest = found[first:]
    chosen = {}
    for begin in ("Choose it ", "Choose another "):
        told = [part for part in rest if part.startswith(begin)]
        if len(told) != 1:
            raise ValueError(FORM.format(where=where, what=f'{len(told)} begin with "{begin}"'))
        rest.remove(told[0])
        chosen[begin] = " ".join(told[0].split())
    if not any(re.search(r"arXiv:\d{4}\.\d{5}|no arXiv: number", part) for part in rest):
        raise ValueError(FORM.format(where=where, what="it names no paper"))
    equation = "\n\n".join(found[:first])
    return Prose(module.partition("\n")[0], equation, tuple(rest), *chosen.values())


def family(name: str) -> str:
    """Return the family of a scheme, by the slots that it fills."""
    filled = encodings.scheme(name).overridden & (SLOTS | {"embed"})
    if {"query", "key"} <= filled <= TURNED:
        return "Rotations"  # whatever determines the angles, and whether products decay
    return next((title for title, (_, slots) in FAMILIES.items() if slots & filled), "Baselines")


def of_family(title: str) -> list[str]:
    return [name for name in encodings.names() if family(name) == title]


def make(name: str, **sizes: int) -> Encoding:
    """Make a scheme with its default options."""
    sizes = {"num_heads": N, "num_kv_heads": K, "head_dim": H, "features": D, **sizes}
    return encodings.create(name, rngs=nnx.Rngs(0), **sizes)


@functools.cache
def without_numbers(name: str) -> tuple[Encoding, SlotUse | None]:
    """Return a scheme whose parameters are only shapes, and the attention slots that it fills."""
    filled: list[SlotUse | None] = []

    def of_scheme():
        encoding = make(name)
        filled.append(None if encoding.adds_to_input() else SlotUse.of(encoding))
        return encoding

    return nnx.eval_shape(of_scheme), filled[0]


def numbers(n: int) -> str:
    return f"{n:,} number{'' if n == 1 else 's'}"


def those(says: Mapping[str, Any], between: str = "; ") -> str:
    """Join the statements that hold."""
    return between.join(what for what, holds in says.items() if holds)


def parameters(name: str) -> str:
    """Describe the parameters, and which of them heads or layers share."""
    told, fixed, total = [], [], 0
    encoding, _ = without_numbers(name)
    for path, variable in nnx.to_flat_state(nnx.state(encoding)):
        key = ".".join(map(str, path))
        if not isinstance(variable, nnx.Param):
            fixed.append(f"`{key}`")
            continue
        total += variable.size
        whose = "of the input" if encoding.adds_to_input() else "one for all heads"
        of_heads = {PerHead: "each head's", PerKeyHead: "each key head's"}
        whose = of_heads.get(type(variable), whose)
        if variable.get_metadata().get("shared_by_layers"):
            whose += ", one for all layers"
        told.append(f"`{key}` {' x '.join(map(str, variable.shape)) or '1'} ({whose})")
    trained = f"{numbers(total)}: {'; '.join(told)}" if told else "none"
    return trained + (f"; fixed: {', '.join(fixed)}" if fixed else "")


def cost(name: str) -> str:
    """Describe what is computed, by the slots that are filled."""
    encoding, filled = without_numbers(name)
    if filled is None:
        return "one addition before the first layer; attention is that of `none`"
    slots, end = encoding.overridden & SLOTS, encoding.constant_beyond
    reach = f"up to {end}; all beyond share one" if end else "without limit"
    width = empty_cache(name).keys.shape[-1]
    changed = those({"queries": "query" in slots, "keys": "key" in slots}, " and ")
    factors = those({"queries": filled.key_vectors, "keys": filled.query_vectors}, " and ")
    of_vectors = {
        f"vectors multiplied with {factors}": factors,
        "vectors added to values": filled.value_vectors,
    }
    vectors = those(of_vectors, " and ")
    says = {
        "a projection of the layer's input for each token": "tokens" in slots,
        f"{changed} transformed once for each token": changed,
        f"queries and keys of {width} numbers instead of {H}": width != H,
        f"{vectors}, for distances {reach}": vectors,
        f"a bias for each distance, {reach}": filled.bias and not filled.mixes,
        "a bias for each pair, in blocks": filled.block_bias and not filled.mixes,
        "a walk along the row, from block to block, which GPU kernels do not support": filled.walks,
        "all heads' logits of a block at once, which GPU kernels do not support": filled.mixes,
        "one more term in each softmax, which GPU kernels do not support": filled.sink,
    }
    return those(says) or "nothing besides attention"


@functools.cache
def empty_cache(name: str) -> Cache:
    """Return the shapes of the cache of a layer with a scheme."""

    def of_layer():
        layer = relpos.RelativeAttention(N, D, num_kv_heads=K, encoding=name, rngs=nnx.Rngs(0))
        return layer.init_cache(1, CAPACITY)

    return jax.eval_shape(of_layer)


def has_square(name: str) -> bool:
    """Return whether blockwise attention or its gradients make an array of one number per pair of tokens."""
    encoding = nnx.eval_shape(
        lambda: make(name, num_heads=1, num_kv_heads=1, head_dim=8, features=8)
    )
    graphdef, state = nnx.split(encoding)
    row = jax.ShapeDtypeStruct((1, LONG, 1, 8), jnp.float32)

    def loss(state, q, k, v):
        encoding = nnx.merge(graphdef, state)
        features, _ = encodings.tokens(encoding, q[:, :, 0])
        out = relpos.attention(
            q, k, v, encoding=encoding, causal=True, q_features=features, k_features=features,
            implementation="blockwise",
        )  # fmt: skip
        return out.sum()

    gradients = jax.value_and_grad(loss, (0, 1, 2, 3), allow_int=True)
    return largest(jax.make_jaxpr(gradients)(state, row, row, row).jaxpr) >= LONG * LONG


def memory(name: str) -> str:
    """Describe what a cache holds besides keys and values, and whether memory grows with the square of the length."""
    adds = encodings.scheme(name).adds_to_input()
    cache = empty_cache("none" if adds else name)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    plain = 2 * K * H
    more = count((cache.keys, cache.values, cache.features)) // CAPACITY - plain
    of_row, of_slot = count(cache.state), count(cache.tables) // CAPACITY
    square = not adds and has_square(name)
    says = {
        "a cache holds only keys and values for each token": not more,
        f"{numbers(more)} more than the {plain} of keys and values for each token": more,
        f"{numbers(of_row)} for each row, however long": of_row,
        f"{numbers(of_slot)} for each slot, once for all rows": of_slot,
        "an array of T x T": square,
        "nothing of T x T, forward or backward": not square,
    }
    return those(says)


def reach(name: str) -> str:
    """Describe what is known about rows longer than those of training."""
    encoding, _ = without_numbers(name)
    if encoding.max_length is not None:
        return f"not possible: positions are 0 to {encoding.max_length - 1}, and the output is NaN beyond"
    if encoding.constant_beyond is not None:
        end = encoding.constant_beyond
        return f"defined at any length: from {end} on all distances are alike, so rows that long train all cases"
    if encoding.adds_to_input() or encoding.reads_positions:
        return "defined at any length, with no guarantee beyond the trained one"
    return "reads no positions, so none is new; no guarantee beyond the trained length"


def situations(name: str) -> str:
    """Describe where the scheme can be used."""
    encoding, _ = without_numbers(name)
    adds, axes = encoding.adds_to_input(), encoding.axes
    both, optional = not encoding.causal_only, "bidirectional" in encodings.options(name)
    crosses = not adds and (both or optional)
    reads = axes is not None and (adds or encoding.reads_positions)
    kinds = "integers or reals" if encoding.reals else "integers"
    positions = kinds if axes == 1 else f"{kinds} of {axes} axes, or one number"
    of_distance = reads and axes == 1
    says = {
        "both directions": both,
        "causal only" + (", unless `bidirectional`" if optional else ""): not both,
        "no cross-attention": not adds and not crosses,
        "no cross-attention layers: it reads tokens": crosses and encoding.needs_tokens,
        "cross-attention": crosses and not encoding.needs_tokens,
        "reads no positions": not reads,
        f"positions: {positions}": reads,
        "may start anywhere": of_distance and encoding.shift_invariant,
        "should start where they did in training": of_distance and not encoding.shift_invariant,
        "reads the layer's input": encoding.needs_tokens,
        "mixes heads": encoding.mixes,
    }
    return those(says)


class Measured:
    """The benchmark results in docs/."""

    def __init__(self, costs: Path = COSTS, steps: Path = STEPS):
        self.tables = _read(costs).get("results", {}) | _read(steps).get("tables", {})

    def figure(
        self, name: str, part: str, title: str, field: str, spread: str = "", whose: str = ""
    ) -> str:
        """Return a figure relative to `none`, with its interquartile range if above a tenth; "" without figures."""
        rows = {row["name"]: row for row in self.tables.get(part, {}).get(title, [])}
        ours, base = rows.get(whose + name, {}), rows.get(f"{whose}none", {})
        if not (ours.get(field) and base.get(field)):
            return ""
        ratio = ours[field] / base[field]
        of_itself = (ours.get(spread or f"{field}_spread") or 0.0) / ours[field]
        return f"{ratio:.2f}x" + (f" ±{ratio * of_itself:.2f}" if of_itself > 0.1 else "")

    def of_attention(self, name: str) -> str:
        return self.figure(name, "lengths", "4096", "step")

    def told(self, name: str) -> str:
        """Return all figures of a scheme."""
        figures = {
            "attention, forward and backward": self.of_attention(name),
            "a step of decoding": self.figure(name, "decode", "4096", "forward"),
            "temporary memory": self.figure(name, "memory", "16384", "temporary_bytes"),
            "a whole training step": self.figure(
                name, "step", "4 x 256", "seconds", "spread", whose="relpos "
            ),
        }
        found = [f"{what} {x}" for what, x in figures.items() if x]
        if not self.of_attention(name):
            found.append("attention not measured")
        return ", ".join(found)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def experiment(folder: Path = EXPERIMENT) -> dict[str, str]:
    """Return the results of an experiment by scheme, for each job whose runs have all finished."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.glob("*/results/cpu.json")):
        job = job_lib.read(path.parents[1], "cpu")
        for scheme, rows in job.series.items():
            if all(row.finished for row in rows):
                told = leaderboard.cell(job, scheme)
                found[scheme].append(f"{job.name}, {job.report.result.name}: {told}")
    return {scheme: "; ".join(told) for scheme, told in found.items()}


def paragraph(text: str) -> str:
    """Return a docstring's paragraph as Markdown."""
    if text.startswith(" "):
        return code(text)
    paper = r"arXiv:(\d{4}\.\d{5})"
    text = re.sub(paper, r"[arXiv:\1](https://arxiv.org/abs/\1)", " ".join(text.split()))
    pieces = text.split("`")
    pieces[::2] = (piece.replace("*", r"\*") for piece in pieces[::2])  # the others are code
    return "`".join(pieces)


def code(text: str) -> str:
    return f"```text\n{inspect.cleandoc(text)}\n```"


def section(title: str, said: Prose, facts: Mapping[str, str], picture: str = "") -> str:
    """Return the section of a scheme or of a position transform."""
    parts = [f"### `{title}`", said.purpose, code(said.equation), *map(paragraph, said.source)]
    if picture:
        parts.append(
            f"![attention weight of equal tokens by distance, untrained and after a short training]({picture})"
        )
    parts.append("\n".join(f"- **{what}**: {told}." for what, told in facts.items()))
    parts += [paragraph(said.choose), paragraph(said.another)]
    return "\n\n".join(parts)


def defaults(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={value!r}`" for key, value in options.items()) or "none"


def scheme_section(name: str, measured: Measured, runs: Mapping[str, str]) -> str:
    facts = {
        "Options": defaults(encodings.options(name)),
        "Parameters": parameters(name),
        "Computes": cost(name),
        "Measured": measured.told(name),
        "Memory": memory(name),
        "Longer rows": f"{reach(name)}; by experiment: {runs.get(name, 'not measured')}",
        "Situations": situations(name),
    }
    return section(name, prose(encodings.scheme(name)), facts, f"encodings/{name}.png")


def places_section(name: str) -> str:
    kind, made = places.kind(name), places.create(name)
    reads = "digits" in kind.__dataclass_fields__
    facts = {
        "Options": defaults(places.options(name)),
        "Adds to the input": f"`{kind.embeds}`" if kind.embeds else "nothing",
        "Longer rows": f"no more than {made.most} tokens" if made.most else "any number of tokens",
        "Reads": "the digits among the tokens" if reads else "no tokens",
    }
    return section(name, prose(kind), facts)


def table(names: Sequence[str], find: Callable[[str], type]) -> str:
    rows = [[f"[`{name}`](#{name})", prose(find(name)).purpose] for name in names]
    return markdown([["name", "what it is"], *rows])


INTRO = f"""# Schemes

`python scripts/encodings_page.py` writes this page from the schemes themselves. All of them decode with a cache and
support packed documents, left padding and grouped queries, each of which is tested. The numbers of parameters and
cache entries are for {N} query heads and {K} key heads of size {H}, in a layer of width {D}, with default options.
"Measured" gives ratios to `none` on two CPU cores: attention at T=4096, temporary memory at T=16384, a step of
decoding with 4,096 tokens in the cache, and a training step of 4 layers of width 256 ([how](performance.md)). The
interquartile range (±) is given where it exceeds a tenth.

Each picture shows a decoder of two layers: the weight that the last of 256 equal tokens gives to each distance, with a
line for each of the 4 heads of a layer. The model on the left is untrained. The one on the right was briefly trained on
rows of 64 random tokens, to predict at each token the one 5 before it. The title gives the share of correct answers
within 64 tokens and beyond, where the picture is grey (`python scripts/gallery.py --schemes`). This shows what a scheme
can point at after a few steps, and what it does at distances that it never saw. It is not a ranking."""


def page() -> str:
    """Return the whole page."""
    measured, runs, parts = Measured(), experiment(), [INTRO]
    for title in ORDER:
        told = f"**[{title}](#{title.lower()})**: {FAMILIES[title][0]}."
        parts += [told, table(of_family(title), encodings.scheme)]
    parts += [
        "**[Position transforms](#position-transforms)**: other positions than consecutive ones, for any scheme.",
        table(places.names(), places.kind),
    ]
    for title in ORDER:
        sections = (scheme_section(name, measured, runs) for name in of_family(title))
        parts += [f"## {title}", *sections]
    parts += ["## Position transforms", *map(places_section, places.names())]
    return "\n\n".join(parts) + "\n"


def with_table(readme: str) -> str:
    """Return README with an updated table of schemes."""
    rows = [
        [", ".join(f"`{name}`" for name in of_family(title)), FAMILIES[title][0]] for title in ORDER
    ]
    before, rest = readme.split("| schemes |", 1)
    _, after = rest.split("\n\n", 1)
    return before + markdown([["schemes", "what they are"], *rows]) + "\n\n" + after


def main() -> int:
    """Write page and table; return the process's exit status."""
    PAGE.write_text(page())
    README.write_text(with_table(README.read_text()))
    Console().print(f"{PAGE.relative_to(ROOT)}: {len(encodings.names())} schemes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
