"""Time the causal experiment.

All variants share one prefix and one encoding. Each variant repeats only the blocks above the layer. Models
and crosscoder have the default run's shapes and random weights; the cost does not depend on the weights. Run
from the repository: .venv/bin/python benchmarks/causal.py [--json]
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.device import device, fast_dtype
from crossdiff.interventions.causal_effect import Answers
from crossdiff.interventions.patching import Variant, answer_kl, conversation_batches
from crossdiff.models.forward import head_logits, resume_from_layer, run_to_layer
from crossdiff.texts.chats import CONTENT, HEADER, TURN_END
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

LAYER, D_MODEL, LATENTS, L0, VOCABULARY = 12, 576, 2304, 16, 49152
BATCH_TOKENS = 4096
VARIANTS = [Variant("none"), Variant("all"), Variant("error"), Variant("template")] + [
    Variant(f"set {number}", "subtraction", np.arange(number, LATENTS, 92))
    for number in range(6)  # 26 latents each
]


def make_model(seed: int) -> PreTrainedModel:
    """Make a model of SmolLM2-135M's shape."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).to(device(), fast_dtype()).eval()


def make_conversations(count: int, prompt: int, answer: int) -> Shard:
    """Make conversations of ``prompt`` + ``answer`` tokens. The last token of each is a turn end."""
    length = prompt + answer
    role = np.repeat([ROLES.index("user"), ROLES.index("assistant")], (prompt, answer))
    template = np.repeat([HEADER, CONTENT, TURN_END], (1, length - 2, 1))
    token = np.random.default_rng(0).integers(VOCABULARY, size=count * length)
    return Shard(
        token.astype(np.int32),
        np.repeat(np.arange(count), length),
        np.tile(np.arange(length, dtype=np.int32), count),
        np.tile(role.astype(np.int8), count),
        np.tile(template.astype(np.int8), count),
    )


def make_crosscoder(models: tuple[PreTrainedModel, PreTrainedModel], ids: torch.Tensor) -> Crosscoder:
    """Make a random crosscoder with ``L0`` latents above threshold on ``ids`` (conversation, position)."""
    crosscoder = Crosscoder(D_MODEL, LATENTS, LAYER).requires_grad_(False).to(device())
    torch.nn.init.normal_(crosscoder.encoder)
    torch.nn.init.normal_(crosscoder.decoder, std=0.04)
    x = torch.stack([run_to_layer(model, ids, LAYER).flatten(0, 1) for model in models], dim=1)
    scaled = crosscoder.preactivations(crosscoder.normalise(x)).relu() * crosscoder.code_weights()
    crosscoder.threshold.fill_(scaled.flatten().topk(L0 * len(x)).values[-1])
    return crosscoder


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--conversations", type=int, default=24)
    arguments.add_argument("--prompt", type=int, default=18, help="tokens before the answer")
    arguments.add_argument("--answer", type=int, default=19, help="tokens of the answer")
    arguments.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    arguments.add_argument("--json", action="store_true", help="print numbers only, as JSON")
    options = arguments.parse_args()

    base, chat = make_model(0), make_model(1)
    shard = make_conversations(options.conversations, options.prompt, options.answer)
    wanted = np.zeros(len(shard.token), bool)
    wanted[Answers.of(shard).row] = True
    batches = conversation_batches(shard, wanted, BATCH_TOKENS)
    crosscoder = make_crosscoder((base, chat), batches[0].ids.to(device()))
    everything = Summary(LAYER, 0, None, [1.0, 1.0], [], [], len(shard.token), 0, 0)
    hidden = [run_to_layer(chat, batch.ids.to(device()), LAYER) for batch in batches]

    def experiment(variants: list[Variant]) -> None:
        answer_kl(base, chat, crosscoder, everything, shard, wanted, variants, BATCH_TOKENS)

    def suffix() -> None:
        for batch, activations in zip(batches, hidden, strict=True):
            residual = resume_from_layer(chat, activations, batch.ids.to(device()), LAYER).flatten(0, 1)
            head_logits(chat, residual[torch.from_numpy(batch.predicting).to(device())])

    experiment(VARIANTS)  # warm-up
    times = [
        (seconds(lambda: experiment(VARIANTS[:1])), seconds(lambda: experiment(VARIANTS)), seconds(suffix))
        for _ in range(options.repeats)
    ]
    one, ten, one_suffix = (min(column) for column in zip(*times, strict=True))
    more = len(VARIANTS) - 1
    result = {
        "tokens": len(shard.token),
        "answer_tokens": int(wanted.sum()),
        "device": str(device()),
        "dtype": str(fast_dtype()),
        "one_variant_s": one,
        "ten_variants_s": ten,
        "suffix_s": one_suffix,
        "shared_cost_ratio": (ten - more * one_suffix) / one,  # <= 2: the promise
        "against_one_at_a_time": len(VARIANTS) * one / ten,
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    answers = result["answer_tokens"]
    print(f"{result['tokens']} tokens, {answers} of answers, {result['device']}, {result['dtype']}")
    print(f"{'one variant':42} {one:8.2f} s")
    print(f"{'ten variants':42} {ten:8.2f} s")
    print(f"{'one suffix pass':42} {one_suffix:8.2f} s")
    shared = "(ten variants - 9 suffix passes) / one"
    print(f"{shared:42} {result['shared_cost_ratio']:8.2f}   (promise: 2 or less)")
    print(f"{'ten times one / ten variants':42} {result['against_one_at_a_time']:8.2f}")


if __name__ == "__main__":
    main()
