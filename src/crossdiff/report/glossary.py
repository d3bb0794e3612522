"""The page's glossary: every term of the page in one sentence, and where it comes from."""

from typing import NamedTuple

PAPER = "paper, section "  # of Minder et al., arXiv 2504.02922; numbers differ between its versions
METHOD = "method "  # number in docs/method.md, for what the paper's text does not number, or for what is ours


class Entry(NamedTuple):
    """A term. ``key`` is the end of its anchor, ``#term-KEY``."""

    key: str
    term: str
    sentence: str
    source: str


GLOSSARY = (
    Entry("base", "base model", "The model before fine-tuning.", PAPER + "2.1"),
    Entry("chat", "chat model", "The model after fine-tuning, whatever it was taught.", PAPER + "2.1"),
    Entry(
        "layer", "layer", "The block whose output, the residual stream, is compared; 0 is the first.", "paper"
    ),
    Entry(
        "activation",
        "activation",
        "What a model has in the residual stream at a token, or how strongly a latent fires there.",
        PAPER + "2.1",
    ),
    Entry(
        "crosscoder",
        "crosscoder",
        "A sparse dictionary that describes the activations of both models with one set of latents.",
        PAPER + "2.1",
    ),
    Entry(
        "latent",
        "latent",
        "One entry of the dictionary, which fires on some tokens and has one direction in each model.",
        PAPER + "2.1",
    ),
    Entry(
        "loss",
        "loss",
        "What a training makes small; L1, BatchTopK and others differ in how they keep few latents active.",
        METHOD + "5",
    ),
    Entry("k", "k", "The number of active latents per token that some losses aim at.", METHOD + "6"),
    Entry(
        "seed",
        "seed",
        "The number from which a training draws its first weights; other seeds show what is chance.",
        "ours",
    ),
    Entry("decoder", "decoder", "The directions of the latents, one set for each model.", PAPER + "2.1"),
    Entry(
        "norm-difference",
        "norm difference",
        "How much longer a latent's direction is in the chat model, from 0 (base alone) over 0.5 (shared) "
        "to 1 (chat alone).",
        PAPER + "2.2",
    ),
    Entry(
        "chat-only",
        "chat-only",
        "A class of latents by norm difference alone; others are base-only, shared, or none of these.",
        PAPER + "2.2",
    ),
    Entry(
        "base-only", "base-only", "A latent whose direction is almost zero in the chat model.", METHOD + "8"
    ),
    Entry(
        "shared", "shared", "A latent whose directions are about equally long in both models.", METHOD + "8"
    ),
    Entry("other", "other", "A latent between these classes.", METHOD + "8"),
    Entry("dead", "dead", "A latent that never fires on held-out text.", METHOD + "7"),
    Entry("l0", "L0", "The number of latents that are active on a token, on average.", METHOD + "7"),
    Entry("fve", "FVE", "The fraction of a model's variance that the crosscoder explains.", METHOD + "7"),
    Entry(
        "latent-scaling",
        "latent scaling",
        "A test of how much each model uses a latent's direction where the latent fires.",
        PAPER + "2.3",
    ),
    Entry(
        "beta",
        "\u03b2",
        "The factor with which a latent's direction best explains a model's activations.",
        PAPER + "2.3",
    ),
    Entry(
        "nu-error",
        "\u03bd_error",
        "The base's \u03b2 over the chat model's, in what the crosscoder leaves over.",
        PAPER + "2.3",
    ),
    Entry(
        "nu-reconstruction",
        "\u03bd_reconstruction",
        "The base's \u03b2 over the chat model's, in what the crosscoder reconstructs.",
        PAPER + "2.3",
    ),
    Entry(
        "complete-shrinkage",
        "complete shrinkage",
        "Training shrinks the base direction to zero although the "
        "base model uses the latent, so \u03bd_error is high.",
        PAPER + "2.2",
    ),
    Entry(
        "latent-decoupling",
        "latent decoupling",
        "Other latents do the latent's work in the base model, so \u03bd_reconstruction is high.",
        PAPER + "2.2",
    ),
    Entry(
        "confirmed",
        "confirmed",
        "Both ratios of latent scaling are so low that only one model uses the latent.",
        METHOD + "9",
    ),
    Entry("twins", "twins", "A chat-only and a base-only latent of nearly one direction.", PAPER + "2.4"),
    Entry(
        "found-again",
        "found again",
        "A latent that a training from another seed has too, with nearly the same direction.",
        METHOD + "13",
    ),
    Entry(
        "group",
        "group",
        "Confirmed latents that point one way or fire in the same texts, so they stand for one concept.",
        METHOD + "23",
    ),
    Entry("context", "context", "The text around a token on which a latent fires.", METHOD + "13"),
    Entry(
        "template-tokens",
        "template token",
        "A token that the chat template adds, such as the header of a turn.",
        PAPER + "3.2",
    ),
    Entry(
        "outlier",
        "outlier",
        "A token whose activation is many times longer than the median, and is left out.",
        "ours",
    ),
    Entry("kl", "KL", "How far two predictions of the next token are apart, in nats.", PAPER + "3.2"),
    Entry(
        "patched-run",
        "patched run",
        "A run of the chat model from the layer on, which starts from changed activations of the base.",
        PAPER + "3.2",
    ),
    Entry("nats", "nats", "The unit of KL, with the natural logarithm.", "ours"),
    Entry(
        "answer-token",
        "answer token",
        "A token of the chat model's own answer, whose prediction is compared.",
        PAPER + "3.2",
    ),
    Entry(
        "steering",
        "steered",
        "A latent's direction is added to the chat model's activations, or ablated, while it answers.",
        METHOD + "13",
    ),
    Entry("ablated", "ablated", "Nothing of a latent's direction is left in the activations.", METHOD + "13"),
    Entry(
        "control",
        "controls",
        "Other directions of the same norm, which must not have the same effect.",
        METHOD + "13",
    ),
    Entry(
        "perplexity",
        "perplexity",
        "How odd the base model finds an answer; text that makes sense has a low one.",
        METHOD + "13",
    ),
    Entry(
        "promoted",
        "promoted",
        "Tokens that a direction makes more likely, if it goes through the model's last norm and head.",
        "arXiv 2510.13900",
    ),
    Entry(
        "head",
        "head",
        "The last layer of a model, which turns an activation into scores of next tokens.",
        "ours",
    ),
    Entry(
        "topic",
        "topic",
        "Tokens that the chat model makes more likely in the same places.",
        "arXiv 2608.26462",
    ),
    Entry(
        "logit",
        "logit",
        "A model's score for a next token; the softmax of all scores are the predicted probabilities.",
        "ours",
    ),
    Entry(
        "mean-difference",
        "mean difference",
        "The mean of the chat model's activations minus the base's, over tokens of one place.",
        "arXiv 2510.13900",
    ),
    Entry(
        "relative-difference",
        "relative difference",
        "The length of the difference of both models' activations at a token, over the base's activation.",
        "ours",
    ),
    Entry(
        "cosine",
        "cosine",
        "How far two directions agree, from 1 (one direction) over 0 (nothing in common) to -1 (opposite).",
        "ours",
    ),
    Entry(
        "kl-left",
        "KL left",
        "The KL that remains if the base's activations at a layer go through the rest of the chat model.",
        "ours",
    ),
    Entry(
        "detection",
        "detection score",
        "How well an explanation tells a latent's contexts from others, from 0.5 (chance) to 1.",
        METHOD + "13",
    ),
    Entry(
        "pattern",
        "pattern",
        "The words or places that best tell where a latent fires, found without a language model.",
        METHOD + "13",
    ),
    Entry(
        "held-out",
        "held-out",
        "Text that neither the crosscoder nor a fine-tune by this run has read.",
        "ours",
    ),
    Entry(
        "interval",
        "95 % interval",
        "A range that holds the true number 95 times in 100, if all is repeated with other texts.",
        "ours",
    ),
)
