"""Makes the demo model: `python -m autoconvert.source.demo.train`, a quarter to half an hour on two cores.

Fetches the text, trains the tokenizer, the 5-gram baseline and the model, measures both on held-out chapters,
and writes the folder that `from_pretrained` reads.
"""

import copy
import json
import math
import random
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autoconvert.source.demo import FOLDER, ngram, text
from autoconvert.source.demo.perplexity import Score, negative_log_likelihood

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
NGRAM_ORDER = 5
LENGTHS, LENGTH_WEIGHTS = (256, 512, 1024), (4, 2, 1)
PROMPT = "In the beginning"

# A base model only continues text, so a turn is its text alone; a new turn starts a new verse.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if not loop.first and message['role'] != 'assistant' %}{{- '\\n' }}{%- endif %}"
    "{{- message['content'] }}"
    "{%- endfor %}"
)


@dataclass(frozen=True)
class Training:
    """How the model is trained: all that the result depends on beside the text."""

    seed: int = 0
    vocabulary: int = 2048
    context: int = 1024
    steps: int = 1500
    tokens_per_step: int = 4096
    matrix_rate: float = 8e-3
    vector_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 50
    validate_every: int = 100


def train_tokenizer(documents: Sequence[str], training: Training) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose tokens spell any text exactly, with a start token before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=training.vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=training.context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> list[list[int]]:
    """Documents as tokens, between the start and the end token."""
    # verbose=False: a chapter longer than the context is read in windows, which is no reason to warn.
    return [[*tokenizer(document, verbose=False).input_ids, tokenizer.eos_token_id] for document in documents]


def new_model(tokenizer: PreTrainedTokenizerFast, training: Training) -> LlamaForCausalLM:
    """A random model; what writes to the residual stream starts smaller, by depth, as in GPT-2."""
    config = LlamaConfig(
        vocab_size=training.vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=training.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.div_(math.sqrt(2 * config.num_hidden_layers))
    return model


def batches(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[int]], training: Training
) -> Iterator[Tensor]:
    """Random pieces of the text, int64 tokens [batch, length], of one of LENGTHS a batch.

    A piece starts with the start token and then a verse, as a prompt does.
    """
    stream = torch.tensor([token for document in documents for token in document])
    (newline,) = tokenizer("\n", add_special_tokens=False).input_ids
    before_verse = (stream == newline) | (stream == tokenizer.bos_token_id)
    places: list[int] = before_verse.nonzero().flatten().tolist()
    choice = random.Random(training.seed)
    while True:
        (length,) = choice.choices(LENGTHS, LENGTH_WEIGHTS)
        usable = bisect_left(places, len(stream) - length)
        starts = [places[choice.randrange(usable)] for _ in range(training.tokens_per_step // length)]
        pieces = torch.stack([stream[start : start + length] for start in starts])
        pieces[:, 0] = tokenizer.bos_token_id
        yield pieces


def measure(model: LlamaForCausalLM, documents: Sequence[Sequence[int]], size: int, training: Training) -> Score:
    """The model's score on documents that spell `size` bytes."""
    nats = sum(negative_log_likelihood(model, document, training.context) for document in documents)
    return Score(nats, sum(len(document) - 1 for document in documents), size)


def rate(step: int, training: Training) -> float:
    """The share of the full learning rate: a linear warm-up, then half a cosine to zero."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - training.warmup) / (training.steps - training.warmup))


def train_model(
    model: LlamaForCausalLM, train: Iterator[Tensor], validation: Sequence[Sequence[int]], training: Training
) -> tuple[int, float]:
    """Trains in place and ends at the weights that were best on validation: their step and perplexity."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, training.matrix_rate, weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, training.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, training)) for o in optimizers]
    best, best_step, best_state = math.inf, 0, copy.deepcopy(model.state_dict())
    started = time.monotonic()
    for step, tokens in enumerate(islice(train, training.steps), start=1):
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % training.validate_every == 0 or step == training.steps:
            perplexity = measure(model, validation, 1, training).perplexity
            if perplexity < best:
                best, best_step, best_state = perplexity, step, copy.deepcopy(model.state_dict())
            seconds = time.monotonic() - started
            typer.echo(f"step {step}: loss {loss.item():.3f}, validation {perplexity:.2f}, {seconds:.0f} s")
    model.load_state_dict(best_state)
    return best_step, best


def figures_of(score: Score) -> dict[str, float]:
    """What a score says, rounded to what it can be compared by."""
    return {"perplexity": round(score.perplexity, 4), "bits_per_byte": round(score.bits_per_byte, 5)}


def main(
    output: Annotated[Path, typer.Option(help="The folder to write.")] = FOLDER,
    source: Annotated[Path | None, typer.Option("--text", help="The text as the package has it.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the split, the first weights and the batches.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = Training.steps,
    threads: Annotated[int, typer.Option(help="Cores to use.")] = 2,
) -> None:
    """Trains the demo model and its baseline, measures both, and writes the folder."""
    training = Training(seed=seed, steps=steps)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)

    full = source.read_text(encoding="ascii") if source else text.fetch()
    parts = text.split(text.chapters(full), seed)
    tokenizer = train_tokenizer(parts.train, training)
    train, validation = encode(tokenizer, parts.train), encode(tokenizer, parts.validation)
    heldout, size = encode(tokenizer, parts.heldout), sum(len(d.encode()) for d in parts.heldout)
    typer.echo(f"{sum(map(len, train))} tokens to learn from, {sum(map(len, heldout))} held out")

    baseline_model = ngram.train(train, training.vocabulary, NGRAM_ORDER)
    nats = sum(baseline_model.negative_log_likelihood(document) for document in heldout)
    baseline = Score(nats, sum(len(document) - 1 for document in heldout), size)
    del baseline_model
    typer.echo(f"{NGRAM_ORDER}-gram: perplexity {baseline.perplexity:.3f}, {baseline.bits_per_byte:.4f} bits a byte")

    model = new_model(tokenizer, training)
    best_step, best = train_model(model, batches(tokenizer, train, training), validation, training)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    text.write_documents(output / "heldout.txt", parts.heldout)

    stored = LlamaForCausalLM.from_pretrained(output, dtype=torch.float32)
    score = measure(stored, heldout, size, training)
    greedy = stored.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=64)
    figures: dict[str, Any] = {
        "parameters": stored.num_parameters(),
        "training": asdict(training),
        "text_sha256": text.TEXT_SHA256,
        "train_tokens": sum(map(len, train)),
        "heldout_tokens": score.tokens,
        "heldout_bytes": size,
        "best_step": best_step,
        "validation_perplexity": round(best, 4),
        "model": figures_of(score),
        "ngram": {"order": NGRAM_ORDER, **figures_of(baseline)},
        "greedy": tokenizer.decode(greedy[0], skip_special_tokens=True),
    }
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures, indent=2))


if __name__ == "__main__":
    typer.run(main)
