"""Crossdiff: what did fine-tuning do to a language model?

In a notebook, of a finished run::

    import crossdiff
    crosscoder = crossdiff.load("results/PAIR/layer12/batchtopk/seed0")
    pair = crossdiff.Pair("results/PAIR")
    codes = crosscoder.encode(pair.activations("How do I boil an egg?"))
    crosscoder.top(codes, n=5)

The floors, from the ground up. Imports only point down; ``lint-imports`` holds them (pyproject.toml).

1. ``config``: typed settings
2. ``provenance``: whole files, hashes, records, code digests, audit
3. ``texts``, ``models``: token shards; fetching, running, answering, fine-tuning
4. ``activations``: harvest, caches, pairs of caches in step
5. ``crosscoders``: architecture, losses, training
6. ``latents``, then ``interventions``, ``explanations``, ``planted``, ``organisms``: what latents are and do;
   then ``first_look``: what the models show before any crosscoder
7. ``results``, then ``report``, ``exchange``: finished results in a notebook; figures and pages; other
   formats
8. ``workflow``: what the Snakefile and its scripts need
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossdiff.errors import UserError
    from crossdiff.results.crosscoder import LoadedCrosscoder
    from crossdiff.results.loading import load
    from crossdiff.results.pair import Pair
    from crossdiff.results.tokens import Codes, TextActivations

__all__ = ["Codes", "LoadedCrosscoder", "Pair", "TextActivations", "UserError", "__version__", "load"]

# Imported when first asked for: torch takes seconds, and the Snakefile does not need it.
_ROOMS = {
    "Codes": "results.tokens",
    "LoadedCrosscoder": "results.crosscoder",
    "Pair": "results.pair",
    "TextActivations": "results.tokens",
    "UserError": "errors",
    "load": "results.loading",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("crossdiff")
    if name not in _ROOMS:
        raise AttributeError(f"module 'crossdiff' has no attribute {name!r}")
    return getattr(import_module(f"crossdiff.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
