"""What explanations by a language model will take, before anything is asked. Torch-free."""

from collections.abc import Iterator

from crossdiff.config import Config

TOKENS_PER_TOKEN = 1.2  # of the language model, for a token of a context: marks and escapes
INSTRUCTIONS = 150  # tokens of a question besides its contexts and its example
EXAMPLE = 16  # tokens of a context of the example; there are as many as are judged, and 3 where an explanation is asked for
EXPLANATION, VERDICT = 40, 3  # tokens of an answer


def asked(config: Config) -> tuple[int, int, float, float]:
    """Latents, requests, tokens read and tokens written, at most, of a config that names a language model."""
    settings = config.explanations
    kinds = settings.latents
    latents = kinds.chat_leaning + kinds.shared + kinds.low_nu + kinds.high_nu
    latents *= len(config.crosscoders) * len(config.seeds)
    context = TOKENS_PER_TOKEN * (config.examples.before + 1 + config.examples.after)
    positives = settings.per_quantile * len(config.examples.quantiles)
    judged = 3 * positives  # with and without the latent, and marked
    scoring = -(-2 * positives // settings.per_request) + -(-positives // settings.per_request)
    read = latents * (
        (1 + scoring) * INSTRUCTIONS + (3 + judged) * EXAMPLE + (settings.shown + judged) * context
    )
    return latents, latents * (1 + scoring), read, latents * (EXPLANATION + VERDICT * judged)


def forecast_lines(config: Config) -> Iterator[str]:
    """Requests and tokens, at most, and what they cost at the config's prices; nothing where no language model is named."""
    settings = config.explanations
    if settings is None:
        return
    latents, requests, read, written = asked(config)
    price = settings.prices
    cost = (
        f", {(price.read * read + price.written * written) / 1e6:,.2f} at the prices given" if price else ""
    )
    model = settings.model.endpoint.model if settings.model.endpoint else settings.model.folder
    yield (
        f"Explanations by {model}: at most {latents:,} latents, {requests:,} requests, "
        f"{read / 1e6:.2f} M tokens read and {written / 1e6:.2f} M written{cost}; what was asked before costs nothing."
    )
