"""Hostile configs: the shipped ones, small, with one to three values that nobody should give."""

import random

from relpos import config_files, encodings
from relpos.sections import flatten, to_plain
from relpos.training import run_config

# What makes each shipped config small enough for a step in a moment; hostile values come after these.
_SMALL_MODEL = {
    "batch_size": 2, "sequence_length": 16, "steps": 3,
    "model.num_layers": 2, "model.features": 16, "model.num_heads": 2,
}  # fmt: skip
_SMALL = {
    "lm": {"data.source": "files", "data.sources.files.path": "TEXT"},
    "qa": {"data.source": "babi", "data.sources.babi.train": "STORIES", "sequence_length": 64},
    "translation": {
        "data.source": "files",
        "data.sources.files.source": "LINES",
        "data.sources.files.target": "LINES",
        "data.tokenizer": "bytes",
        "sequence_length": 32,
    },
    "scan": {"sequence_length": 50},
    "algorithmic": {"eval_lengths": "10,20", "sequence_length": 12},
}
_SCHEMES = encodings.names()
_VALUES = {
    bool: ["true", "false", "2"],
    int: [
        "0", "-1", "1", "2", "3", "7", "100000", "100000000", "2147483647", "2147483648", "1e12", "1e30", "x",
    ],
    float: ["0", "-1", "1", "2.5", "1e-40", "1e38", "1e400", "-inf", "nan"],
    str: ["", "nonesuch", "ø☃", " ", "None", "...", "a,b", "rope,none", "bytes", "\x00", "3"],
    list: ["", "0", "-1", "1", "5,1", "1,2,3", "1e12,1e12", "2147483648", "100000,100000", "x,y"],
}  # fmt: skip
_VALUES[type(None)] = [*_VALUES[int], *_VALUES[str]]
# Keys that one value of _VALUES[str] in ten would do justice to.
_CHOICES = {
    "encoding": [*_SCHEMES, "rope,none", "rope,nonesuch", "learned,t5", ",", "fox,fire",
        "rope+t5", "rope:2/alibi", "rope*2,none", "rope(base=x)", "learned+rope", "rope*0", "cope+t5"],
    "decoder_encoding": [*_SCHEMES, "none,rope", ","],
    "cross_encoding": [*_SCHEMES, "rope,none", ""],
    "model.dtype": ["bfloat16", "float16", "float64", "int8", ""],
    "model.norm": ["rms", "layer", "both"],
    "model.norm_placement": ["post", "pre", "both"],
    "model.mlp": ["swiglu", "relu", "gelu", "x"],
    "model.bias": ["qkv", "qkv,out,mlp,logits", "x"],
    "model.window": ["0", "-1", "1", "8", "5:2", "none,4", "3:none*2", "5:", "4*0", "x", "2147483648", "1,2,3", "1e12"],
    "model.scale": ["0", "1.0", "-1", "nan", "1e38", "1,none", "x", ""],
    "model.softcap": ["0", "50.0", "-1", "inf", "none,5.0", "x"],
    "objective": ["masked", "causal", ""],
    "optimizer.name": ["adamw", "muon", "sgd"],
    "optimizer.schedule": ["cosine", "constant", "wsd", ""],
    "data.tokenizer": ["bytes", "words", "sentencepiece", "wordz"],
    "data.source": ["flip_flop", "lego", "addition", "scan", "cldr", "stories", "listops", "files", "nonesuch"],
}  # fmt: skip
# A set that has to be downloaded, if by mistake, is for the tests of data.
_LEFT_OUT = tuple(f"data.sources.{name}." for name in ("tfds", "library_text"))


def hostile(seed: int) -> tuple[str, dict[str, str]]:
    """Returns the name of a shipped config and what a hostile user overrides in it."""
    rng = random.Random(seed)
    name = rng.choice(sorted(_SMALL))
    defaults = flatten(to_plain(run_config.load(config_files.shipped()[name])))
    sections = {}
    for key, value in defaults.items():
        if value != {} and not key.startswith(_LEFT_OUT):
            sections.setdefault(key.partition(".")[0] if "." in key else "", []).append(key)
    chosen = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(sections[rng.choice(sorted(sections))])
        chosen[key] = rng.choice(_CHOICES.get(key) or _VALUES[type(defaults[key])])
        if key.startswith("encodings."):  # an option matters to its scheme alone, and to its source
            chosen["encoding"] = key.split(".")[1]
        if key.startswith("data.sources."):
            chosen["data.source"] = key.split(".")[2]
    return name, chosen


def small(name: str, files: dict[str, str], overrides: dict[str, str]):
    """Returns a shipped config, small but for the overrides; `files` are put for TEXT, STORIES and LINES."""
    pairs = _SMALL_MODEL | _SMALL[name] | overrides
    texts = [(key, files.get(str(value), str(value))) for key, value in pairs.items()]
    return run_config.load(config_files.shipped()[name], texts)
