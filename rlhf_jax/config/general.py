"""What all stages share: seed, model, tokenizer, data, parents, devices, logs, checkpoints; and SFT."""

import os
from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config import optimizers
from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.names import ACCEPTABLE, DATA_FORMATS, FEEDBACK, TRACKERS
from rlhf_jax.config.rules import ANY_TEXT, BOOL, COUNT, NATURAL, NOT_NEGATIVE, OPEN_UNIT, OWN_FUNCTION, Rule, one_of


def add_defaults(c: ConfigDict) -> None:
    """Put the sections into a configuration."""
    c.seed = 0  # of parameters, data order and sampling; the same seed repeats the run exactly
    c.stages = ("sft", "reward", "ppo")  # what to run, an ordered subset of STAGES; reward_common
    #                                      trains a second reward model with no utility_by_type, segments a
    #                                      fine-grained one from marked parts of responses

    c.model = ConfigDict()
    c.model.path = ""  # a folder of safetensors or a hub name to start from (docs/models.md), from which the keys below
    #                    but dtype are then taken; empty: a fresh model
    c.model.width = 64  # size of the residual stream; divisible by heads
    c.model.depth = 2  # decoder blocks
    c.model.heads = 4  # query heads; divisible by kv_heads
    c.model.kv_heads = 2  # key and value heads; fewer than heads is grouped-query attention
    c.model.mlp_width = 128  # hidden units of each feed-forward block
    c.model.norm = "rms"  # rms, layer or rms1p (RMSNorm that multiplies by 1 + its weight)
    c.model.positions = "rotary"  # rotary or learned
    c.model.activation = "swiglu"  # swiglu, geglu, gelu, or gelu_erf (without the tanh approximation of the other two)
    c.model.tied = True  # the output matrix is the embedding matrix
    c.model.max_positions = 1024  # longest prompt + response, tokens
    c.model.dtype = "float32"  # of activations, float32 or bfloat16; parameters stay float32
    c.model.attention = "auto"  # plain, or a kernel that never holds all scores: blockwise (for CPUs), cudnn (bfloat16
    #                             on Nvidia GPUs), splash (TPUs); auto: the platform's, if it does what the model asks
    c.model.remat = "none"  # what the backward pass computes again instead of keeping it: none; full: all of a layer
    #                         but its input; dots: all but products with parameters

    c.tokenizer = ConfigDict()
    c.tokenizer.kind = "word"  # word (embedded world only), byte, bpe (trained first), pretrained
    c.tokenizer.vocab_size = 4096  # tokens of a freshly trained bpe; other kinds: unused
    c.tokenizer.path = ""  # pretrained: a local directory or a hub name, empty: model.path; other kinds: unused

    c.data = ConfigDict()
    c.data.path = ""  # a file of feedback, a prepared folder, tfds:NAME:SPLIT or hub:OWNER/NAME; empty: embedded world
    c.data.format = "auto"  # of what is at path, one of DATA_FORMATS; auto: by the fields of its first row
    c.data.template = "{prompt}"  # wrapped around bare prompts and single questions
    c.data.chat = False  # dialogues by the chat template of the tokenizer (docs/chat.md), not by data.template
    c.data.annotators = "overall"  # rows with several judgements (helpsteer3): overall, or one record for each (apart)
    c.data.max_prompt = 12  # tokens; longer prompts lose their beginning
    c.data.max_response = 20  # tokens with the end-of-sequence token; longer responses lose their end
    c.data.validation_fraction = 0.1  # held out: of a file by a hash of the prompt; of the embedded
    #                                      world its share of the demonstrations (lists have their own split)
    c.data.on_bad_row = "error"  # error: stop at the first bad row; skip: count it and go on
    c.data.task = "classic"  # embedded world: classic, or local (answers of several phrases, defects marked in each)
    c.data.ties = "broken"  # embedded world: broken (a forced total order) or kept (tiers)
    c.data.feedback = "lists"  # embedded world: lists, pairs, margins (graded pairs), ties (pairs that may be equal),
    #                            edges (lists in two piles), labels (good or bad), scores, or mixed (by record)
    c.data.noise = 0.0  # embedded world: temperature of the annotators' choices, of scores the standard deviation, both
    #                     in units of gold reward; 0: exact; lists are always exact
    c.data.judges = 1  # embedded world: annotators, up to 3: careful, hasty, careless, with 1, 2 and 4 times the noise
    c.data.tie_margin = 0.0  # scored lists of a file: scores closer than this are tied
    c.data.list_size = 8  # responses per list; of a longer list so many are kept, evenly spaced from best to worst

    c.data.gold = ""  # a true reward of your own, FILE.py:FUNCTION of prompt and response as texts, that policies are
    #                   judged by; empty: that of the embedded world, none of a file
    c.data.refinements = "none"  # of responses that somebody mended: none; sft: demonstrations too; pairs: the mended
    #                              text above the response, as lists of two; both

    c.parents = ConfigDict()  # where a stage finds checkpoints that this run does not make itself
    c.parents.sft = ""  # a run directory; empty: this one
    c.parents.reward = ""  # a run directory; empty: this one
    c.parents.reward_start = ""  # a run directory, for config.reward.init=reward

    c.parallel = ConfigDict()
    c.parallel.mode = "mesh"  # mesh: jit over a device mesh; pmap: replicated data parallel
    c.parallel.data = -1  # devices along the batch; -1: all that are left
    c.parallel.fsdp = 1  # devices over which the parameters are split (mesh only)
    c.parallel.tensor = 1  # devices over which one layer is split (mesh only)
    c.parallel.sequence = 1  # devices over which the tokens of a row are split, for long rows (mesh only)

    c.log = ConfigDict()
    c.log.every = 20  # steps between two rows of metrics; ppo and online have a row of every iteration, and so many of
    #                   them between two lines on the console
    c.log.tensorboard = True  # write TensorBoard files next to the JSON lines
    c.log.trackers = ()  # where rows of metrics go besides: wandb, trackio, or both
    c.log.project = "rlhf_jax"  # of the trackers' runs; no trackers: unused
    c.log.samples = 10  # completions shown and stored at each evaluation, 10 at least; 0: only at the end

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 100  # steps of sft and reward between checkpoints; the last step is saved too
    c.checkpoint.every_iterations = 5  # the same for PPO, whose iterations are longer
    c.checkpoint.keep = 2  # newest checkpoints kept per stage; with 1 there is none to go back to from a damaged one
    c.checkpoint.accept = ()  # what may differ from the run that made a checkpoint: config, data, tokenizer,
    #                           parents (checkpoints that the stage started from); and unfinished: a parent run that
    #                           has not ended its stage

    c.sft = ConfigDict()
    c.sft.steps = 500  # updates
    c.sft.batch_size = 16  # packed rows per update, over all devices
    c.sft.accumulate = 1  # parts in which the rows of an update are worked on, which saves memory and changes nothing;
    #                       divides the rows of each device
    c.sft.row_length = 64  # tokens per packed row; at least max_prompt + max_response
    c.sft.optimizer = optimizer(3e-3, warmup=20)
    c.sft.eval_every = 250  # steps between evaluations on held-out data


RULES: dict[str, Rule] = {
    "seed": Rule(lambda v: 0 <= v < 2**32, "in [0, 2^32)"),
    "model.path": ANY_TEXT,
    "model.norm": one_of("rms", "layer", "rms1p"),
    "model.positions": one_of("rotary", "learned"),
    "model.activation": one_of("swiglu", "geglu", "gelu", "gelu_erf"),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.attention": one_of("auto", "plain", "blockwise", "cudnn", "splash"),
    "model.remat": one_of("none", "full", "dots"),
    "model.tied": BOOL,
    "model.*": COUNT,
    "tokenizer.kind": one_of("word", "byte", "bpe", "pretrained"),
    "tokenizer.vocab_size": Rule(lambda v: v >= 260, "at least 260 (256 bytes and special tokens)"),
    "data.format": one_of(*DATA_FORMATS),
    "data.template": Rule(lambda v: v.count("{prompt}") == 1, "a text with {prompt} in it once"),
    "data.chat": BOOL,
    "data.annotators": one_of("overall", "apart"),
    "data.max_prompt": COUNT,
    "data.max_response": Rule(lambda v: v >= 2, "at least 2 (one token and the end of sequence)"),
    "data.validation_fraction": OPEN_UNIT,
    "data.on_bad_row": one_of("error", "skip"),
    "data.task": one_of("classic", "local"),
    "data.ties": one_of("broken", "kept"),
    "data.feedback": one_of(*FEEDBACK),
    "data.noise": NOT_NEGATIVE,
    "data.judges": Rule(lambda v: 1 <= v <= 3, "1, 2 or 3"),
    "data.tie_margin": NOT_NEGATIVE,
    "data.list_size": Rule(lambda v: v >= 2, "at least 2"),
    "data.gold": Rule(lambda v: not v or ".py:" in v, OWN_FUNCTION),
    "data.refinements": one_of("none", "sft", "pairs", "both"),
    "parallel.mode": one_of("mesh", "pmap"),
    "parallel.data": Rule(lambda v: v == -1 or v >= 1, "-1 (all devices left) or at least 1"),
    "parallel.*": COUNT,
    "log.every": COUNT,
    "log.samples": NATURAL,
    "log.trackers": Rule(
        lambda v: len(set(v)) == len(v) and set(v) <= set(TRACKERS), f"none, one or more of {', '.join(TRACKERS)}"
    ),
    "log.project": Rule(lambda v: bool(v.strip()), "a name"),
    "checkpoint.accept": Rule(
        lambda v: len(set(v)) == len(v) and set(v) <= set(ACCEPTABLE), f"none, one or more of {', '.join(ACCEPTABLE)}"
    ),
    "checkpoint.*": COUNT,
    **optimizers.RULES,
    "sft.*": COUNT,
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys and reasons of combinations that cannot be, once every value is allowed by itself."""
    m, d, stages = c.model, c.data, c.stages
    if m.heads % m.kv_heads:
        yield "model.kv_heads", f"{m.kv_heads} does not divide config.model.heads={m.heads}"
    if m.width % m.heads and not m.path:  # of a folder heads may have a size of their own
        yield "model.width", f"{m.width} is not divisible by config.model.heads={m.heads}"
    if m.positions == "rotary" and m.width // m.heads % 2 and not m.path:
        yield (
            "model.width",
            f"{m.width} / {m.heads} heads is odd; rotary positions need an even size",
        )
    longest = d.max_prompt + d.max_response
    lengths = f"config.data.max_prompt + max_response = {longest} tokens"
    if longest > m.max_positions and not m.path:  # the folder says how long
        yield "model.max_positions", f"{m.max_positions} is less than {lengths}"
    if "sft" in stages and c.sft.row_length < longest:
        yield "sft.row_length", f"{c.sft.row_length} is less than {lengths}"
    for axis in ("fsdp", "tensor", "sequence"):
        if c.parallel.mode == "pmap" and c.parallel[axis] != 1:
            yield (
                f"parallel.{axis}",
                f"{c.parallel[axis]} needs config.parallel.mode=mesh; pmap splits rows alone",
            )
    yield from _data_problems(c)


def _data_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    d, t = c.data, c.tokenizer
    if d.path and not d.path.startswith(("tfds:", "hub:")) and not os.path.exists(d.path):
        yield "data.path", f"no such file or folder: {d.path}"
    if d.path and t.kind == "word":
        yield (
            "tokenizer.kind",
            "word knows the embedded world only; with config.data.path use bpe, byte or pretrained",
        )
    if d.path and d.task != "classic":
        yield "data.task", f"{d.task} is of the embedded world; config.data.path names a file"
    if not d.path and d.format != "auto":
        yield "data.format", f"{d.format} describes a file; name it by config.data.path"
    for key, default in (("feedback", "lists"), ("noise", 0.0), ("judges", 1)):
        if d.path and d[key] != default:
            yield f"data.{key}", f"{d[key]} is of the embedded world, but config.data.path names a file"
        if d.feedback == "lists" and d[key] != default:
            yield f"data.{key}", f"{d[key]} would go unused: config.data.feedback is lists, which are exact"
    if d.path and d.ties != "broken":
        yield "data.ties", f"{d.ties} is of the embedded world, but config.data.path names a file"
    for key, default in (("annotators", "overall"), ("tie_margin", 0.0)):
        if not d.path and d[key] != default:
            yield f"data.{key}", f"{d[key]} would go unused: config.data.path names no file"
    if d.chat:
        yield from _chat_problems(c)
    if d.feedback != "lists" and d.ties != "broken":
        yield "data.ties", f"{d.ties} would go unused: config.data.feedback is {d.feedback}"
    if c.model.path and t.kind != "pretrained" and not any(c.parents.values()):
        yield "tokenizer.kind", f"{t.kind} does not give the ids of config.model.path; use pretrained"
    for stage in ("critique", "segments"):
        if c.model.path and stage in c.stages and c[stage].init == "scratch":
            yield f"{stage}.init", "scratch would leave config.model.path unread; use sft"
    if t.kind == "pretrained" and not t.path and not c.model.path:
        yield (
            "tokenizer.path",
            "empty; config.tokenizer.kind=pretrained needs a local directory or a hub name",
        )


def _chat_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    if c.data.template != "{prompt}":
        yield "data.template", f"{c.data.template!r} would go unused: config.data.chat takes the tokenizer's own"
    if c.tokenizer.kind != "pretrained" and not any(c.parents.values()):
        yield "data.chat", f"config.tokenizer.kind={c.tokenizer.kind} has no chat template; use pretrained"
    if "segments" in c.stages:
        yield "data.chat", "stage segments reads the places of marks off responses as they stand, not off rendered ones"
