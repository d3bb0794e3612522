"""A small valid config, changed copies of it, and the errors of invalid ones."""

import copy

import pytest
import yaml
from conftest import ROOT

from crossdiff.config import load
from crossdiff.errors import UserError

SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]
DELETE = object()

SMALL = yaml.safe_load(f"""
pair:
  name: small
  layer: 1
  base:
    package: {{name: some-model, version: 1.0, sha256: {"a" * 64}, file: model.gguf}}
  chat:
    finetune: {{chat_template: data/markers.jinja, data: {{talk: 1000}}, learning_rate: 0.001}}
datasets:
  pages: {{kind: documents, format: text, files: [pages.txt], tokens: 4000, validation_tokens: 400}}
  talk:
    {{kind: chats, format: messages, hub: {{name: org/talk, revision: main}},
     tokens: 4000, validation_tokens: 400}}
tokens: {{context: 128, shard: 2000}}
activations: {{batch_tokens: 4096, max_norm_ratio: 10.0}}
crosscoders:
  topk:
    {{loss: batchtopk, expansion: 4, k: 8, batch: 256, tokens: 25600, threshold_start_step: 50,
     normalisation: {{kind: shared}}}}
  l1: {{loss: l1, latents: 96, l1_coefficient: 0.05, batch: 256, tokens: 25600}}
seeds: [0, 1]
latent_scaling: {{nu_error_below: 0.2, bootstrap: {{blocks: 20}}}}
classes: {{top: 10}}
examples: {{per_latent: 3, quantiles: [0.5, 1.0]}}
twins: {{cosine_above: 0.8}}
seed_agreement: {{cosine_above: 0.6}}
behaviour: {{requests: data/requests.yaml}}
causal: {{datasets: [talk], answer_tokens: 32}}
report: {{latents: 5}}
""")
SMALL["pair"]["base"]["package"]["version"] = "1.0"

NAMED_BY_THE_USER = {("datasets",), ("crosscoders",), ("pair", "chat", "finetune", "data")}


def settings_keys(values, path=()):
    """The path of every key whose name the schema gives, without ``loss``, which decides the schema."""
    for key, value in values.items():
        if path not in NAMED_BY_THE_USER and key != "loss":
            yield (*path, key)
        if isinstance(value, dict):
            yield from settings_keys(value, (*path, key))


def changed(path: str, value, values=SMALL):
    """A copy of ``values`` with the key at ``path`` set, or deleted."""
    values = copy.deepcopy(values)
    *parents, key = path.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    if value is DELETE:
        del section[key]
    else:
        section[key] = value
    return values


def refusal(values) -> list[str]:
    """Load invalid ``values``; give the lines of the error."""
    with pytest.raises(UserError) as caught:
        load(values)
    lines = str(caught.value).split("\n")
    assert all(line.startswith("config: ") for line in lines)
    return [line.removeprefix("config: ") for line in lines]


def refusal_of(path: str, value, values=SMALL) -> str:
    """Give the one line of the error for ``value`` at ``path``."""
    [line] = refusal(changed(path, value, values))
    return line
