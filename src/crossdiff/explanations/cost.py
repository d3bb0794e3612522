"""Forecast of what explanations by a language model will take.

This module needs no torch, because the Snakefile imports it.
"""

from collections.abc import Iterator

from crossdiff.config import Config

TOKENS_PER_TOKEN = 1.2  # tokens of the language model for one token of a context, with marks and escapes
INSTRUCTIONS = 150  # tokens of a question without its contexts and its example
# Tokens of one context of the example. A question for an explanation has 3 such contexts. A question for
# verdicts has as many as are judged.
EXAMPLE = 16
EXPLANATION, VERDICT = 40, 3  # tokens of an answer


def asked(config: Config) -> tuple[int, int, float, float]:
    """Upper bounds on latents, requests, tokens read and tokens written.

    All are 0 if the config names no language model.
    """
    settings = config.explanations
    if settings is None:
        return 0, 0, 0.0, 0.0
    kinds = settings.latents
    latents = kinds.confirmed + kinds.chat_leaning + kinds.shared + kinds.low_nu + kinds.high_nu
    latents *= len(config.trainings)
    context = TOKENS_PER_TOKEN * (config.examples.before + 1 + config.examples.after)
    positives = settings.per_quantile * len(config.examples.quantiles)
    judged = 3 * positives  # contexts with the latent, contexts without it, and marked contexts
    scoring = -(-2 * positives // settings.per_request) + -(-positives // settings.per_request)
    contexts = (3 + judged) * EXAMPLE + (settings.shown + judged) * context
    read = latents * ((1 + scoring) * INSTRUCTIONS + contexts)
    return latents, latents * (1 + scoring), read, latents * (EXPLANATION + VERDICT * judged)


def forecast_lines(config: Config) -> Iterator[str]:
    """Say how many requests and tokens there are at most, and what they cost at the config's prices.

    Gives no line if the config names no language model.
    """
    settings = config.explanations
    if settings is None:
        return
    latents, requests, read, written = (len(config.comparisons) * count for count in asked(config))
    price, cost = settings.prices, ""
    if price:
        cost = f", {(price.read * read + price.written * written) / 1e6:,.2f} at the prices of the config"
    model = settings.model.endpoint.model if settings.model.endpoint else settings.model.folder
    yield (
        f"Explanations by {model}: at most {latents:,} latents, {requests:,} requests, "
        f"{read / 1e6:.2f} M tokens read and {written / 1e6:.2f} M written{cost}. "
        "Questions that were asked before cost nothing."
    )
