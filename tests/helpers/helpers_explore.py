"""A pair of tiny random models with a crosscoder, as the live page takes them, without a run."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import uvicorn
from conftest import ROOT
from helpers_activations import random_crosscoder
from helpers_models import D_MODEL, tiny_model
from helpers_turns import CHATML, IM, tokenizer_of
from transformers import PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.report.live.app import make_app
from crossdiff.report.live.session import Session
from crossdiff.results.home import PairNames
from crossdiff.results.pair import Pair

LAYER, LATENTS, DEAD = 1, 12, 3
CONTEXT = 64  # tokens that the models read at most
CROSSCODER = "topk.seed0"
TOKEN = "a-token"
HOSTILE = "<script>document.title='owned'</script>"


def tiny_pair(folder: Path, models: tuple[PreTrainedModel, PreTrainedModel] | None = None) -> Pair:
    """The pair ``folder``, whose tokenizer has a token per byte. The first token of a text does not count."""
    pair = Pair.__new__(Pair)
    pair.folder, pair.layer = folder, LAYER
    pair.names, pair._replacements, pair._check = PairNames("tiny-base", "tiny-chat"), {}, False
    zeros = [0.0] * D_MODEL
    pair.summary = Summary(LAYER, 1, None, [1.0, 1.0], [zeros, zeros], [1.0, 1.0], 100, 1, 0)
    pair.tokenizer = tokenizer_of(CHATML, IM)
    base, chat = models or (tiny_model("llama", len(pair.tokenizer), seed) for seed in (1, 2))
    pair.__dict__ |= {"base": base, "chat": chat}
    return pair


def write_crosscoder(folder: Path, tables: bool = True, seed: int = 0) -> Path:
    """A training's folder below ``folder``, with a table. The latent DEAD never fired."""
    made = folder / f"layer{LAYER}/topk/seed{seed}"
    made.mkdir(parents=True)
    crosscoder = random_crosscoder(D_MODEL, LATENTS, seed)
    crosscoder.layer = LAYER
    crosscoder.save(made / "weights.safetensors", made / "config.json", {})
    if tables:
        table = pd.DataFrame({"latent": np.arange(LATENTS), "max_activation": np.float32(2)})
        table.loc[DEAD, "max_activation"] = 0
        table = table.assign(confirmed=table.latent == 1, relative_norm_difference=0.5)
        ratios = ("nu_error", "nu_reconstruction", "mirrored_nu_error", "mirrored_nu_reconstruction")
        table = table.assign(**dict.fromkeys(ratios, 0.5))
        table["class"] = np.where(table.latent == DEAD, "dead", "shared")
        table.to_parquet(made / "betas.parquet")
        names = pd.DataFrame({"latent": [0, 1], "explanation": [HOSTILE, "the first one"]})
        names.to_parquet(made / "patterns.parquet")
    return made


def tiny_session(folder: Path, **changes: Any) -> Session:
    """A session of ``tiny_pair`` with one crosscoder."""
    write_crosscoder(folder, **changes)
    return Session(tiny_pair(folder), check=False)


@contextmanager
def served(session: Session, folder: Path) -> Iterator[str]:
    """The address of a real server."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(make_app(session, ROOT / "report", folder, TOKEN), log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
