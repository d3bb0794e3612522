"""What the settings of newer losses refuse, in one line, before anything runs."""

from typing import Any

import pytest
from helpers_config import DELETE, SMALL, changed, refusal, refusal_of

from crossdiff.config import LOSSES, load
from crossdiff.config.newer_losses import Exclusive, latents_of
from crossdiff.errors import UserError

COMMON = {"latents": 100, "batch": 256, "tokens": 25600}
TOPK = COMMON | {"k": 8, "threshold_start_step": 50}
ENTRIES: dict[str, dict[str, Any]] = {
    "dedicated": TOPK,
    "dedicated_l1": COMMON | {"l1_coefficient": 0.05},
    "designated": TOPK | {"designated": {"share": 0.3}},
    "designated_l1": COMMON | {"l1_coefficient": 0.05, "designated": {"share": 0.3}},
    "matryoshka": TOPK,
    "jumprelu": COMMON | {"l0_coefficient": 0.01, "initial_l0": 10},
    "delta": TOPK | {"shared": 0.6, "delta_k": 4},
    "bridge": TOPK | {"coupling": 0.5, "squared_error": True},
    "difference": TOPK,
}


def of(loss: str) -> dict[str, Any]:
    return changed("crosscoders.new", {"loss": loss} | ENTRIES[loss])


@pytest.mark.parametrize("loss", ENTRIES)
def test_every_newer_loss_has_settings_that_load(loss: str) -> None:
    assert type(load(of(loss)).crosscoders["new"]) is LOSSES[loss]


def test_every_newer_loss_is_tried_here() -> None:
    assert set(ENTRIES) == set(LOSSES) - {"batchtopk", "l1"}


REFUSED: dict[str, tuple[str, str, Any, str]] = {
    "share without a latent": (
        "dedicated",
        "exclusive",
        {"chat": 0.002},
        "crosscoders.new: exclusive: needs 500 latents, found 100; raise latents",
    ),
    "share without a latent, l1": (
        "dedicated_l1",
        "exclusive",
        {"base": 0.002},
        "crosscoders.new: exclusive: needs 500 latents, found 100; raise latents",
    ),
    "share of 0": (
        "dedicated",
        "exclusive",
        {"base": 0.0},
        "crosscoders.new.exclusive.base: found 0.0 (number), allowed: greater than 0",
    ),
    "no shared latent": (
        "dedicated",
        "exclusive",
        {"base": 0.5, "chat": 0.5},
        "crosscoders.new.exclusive: found base 0.5 and chat 0.5, which leave no shared latent; "
        "allowed: a sum below 1",
    ),
    "no designated latent": (
        "designated",
        "designated",
        {"share": 0.001},
        "crosscoders.new: designated: needs 1000 latents, found 100; raise latents",
    ),
    "no share": (
        "designated_l1",
        "designated",
        DELETE,
        "crosscoders.new.designated: missing",
    ),
    "no free latent": (
        "designated_l1",
        "designated",
        {"share": 0.998},
        "crosscoders.new: designated: needs 500 latents, found 100; raise latents",
    ),
    "penalty above that of others": (
        "designated",
        "designated",
        {"share": 0.3, "penalty": 1.5},
        "crosscoders.new.designated.penalty: found 1.5 (number), allowed: less than or equal to 1",
    ),
    "descending prefixes": (
        "matryoshka",
        "prefixes",
        [0.5, 0.25],
        "crosscoders.new: prefixes: found [0.5, 0.25], allowed: shares that ascend",
    ),
    "prefixes of equal size": (
        "matryoshka",
        "prefixes",
        [0.25, 0.251],
        "crosscoders.new: prefixes: needs 1000 latents, found 100; raise latents",
    ),
    "prefix of all": (
        "matryoshka",
        "prefixes",
        [1.0],
        "crosscoders.new.prefixes.0: found 1.0 (number), allowed: less than 1",
    ),
    "more at the start than there are": (
        "jumprelu",
        "initial_l0",
        101,
        "crosscoders.new: initial_l0: needs 101 latents, found 100; raise latents",
    ),
    "k above its class": (
        "delta",
        "k",
        61,
        "crosscoders.new: k: found 61, must be at most the 60 latents of its class (0.6 of 100)",
    ),
    "delta_k above its class": (
        "delta",
        "delta_k",
        41,
        "crosscoders.new: delta_k: found 41, must be at most the 40 latents of its class (0.4 of 100)",
    ),
    "unbounded loss": (
        "bridge",
        "coupling",
        -1.01,
        "crosscoders.new.coupling: found -1.01 (number), allowed: greater than or equal to -1",
    ),
    "unbounded loss at the other end": (
        "bridge",
        "coupling",
        1.01,
        "crosscoders.new.coupling: found 1.01 (number), allowed: less than or equal to 1",
    ),
    "bridge without squares": (
        "bridge",
        "squared_error",
        DELETE,
        "crosscoders.new: squared_error: found false, allowed with this loss: true",
    ),
    "difference of two scales": (
        "difference",
        "normalisation",
        {"kind": "per_model"},
        "crosscoders.new: normalisation.kind: found per_model, allowed with this loss: none, shared",
    ),
}


@pytest.mark.parametrize(("loss", "key", "value", "line"), REFUSED.values(), ids=REFUSED)
def test_refused(loss: str, key: str, value: Any, line: str) -> None:
    assert refusal_of(f"crosscoders.new.{key}", value, of(loss)) == line


@pytest.mark.parametrize("loss", ["designated", "matryoshka", "jumprelu", "delta", "difference"])
def test_decoupled_selection_is_refused_where_it_has_no_meaning(loss: str) -> None:
    line = refusal_of("crosscoders.new.code_normalisation", "decoupled", of(loss))
    assert line == (
        "crosscoders.new: code_normalisation: found decoupled, "
        "allowed with this loss: crosscoder, sae, mixed, none"
    )


@pytest.mark.parametrize(
    ("loss", "changes", "least", "line"),
    [
        (
            "dedicated",
            {"exclusive": {"base": 0.01}},
            25,
            "exclusive: needs 100 latents, expansion 4 x d_model 24 is",
        ),
        (
            "delta",
            {"shared": 0.1, "k": 8},
            20,
            "k: found more active latents than there are: expansion 4 x d_model",
        ),
        ("delta", {"delta_k": 40}, 25, "delta_k: needs 100 latents, expansion 4 x d_model 24 is 96 latents"),
        ("jumprelu", {"initial_l0": 50}, 13, "initial_l0: needs 50 latents, expansion 4 x d_model 12 is 48"),
    ],
)
def test_width_that_is_too_small(loss: str, changes: dict[str, Any], least: int, line: str) -> None:
    entry = {"loss": loss} | ENTRIES[loss] | {"expansion": 4} | changes
    del entry["latents"]
    config = load(changed("crosscoders", {"new": entry}, SMALL | {"seed_agreement": None}))
    assert config.least_width == least
    config.check_width(least)
    with pytest.raises(UserError) as caught:
        config.check_width(least - 1)
    assert str(caught.value).startswith(f"config: crosscoders.new.{line}")


def test_classes_that_settings_allow_have_latents() -> None:
    """A share of 1/n of n latents is one latent, whatever a product of floats gives."""
    for latents in range(1, 2000):
        assert latents_of(1 / latents, latents) == 1
    assert latents_of(0.29, 100) == 29
    assert not refusal(changed("crosscoders.new", {"loss": "dedicated"} | TOPK | {"latents": 19}))[
        0
    ].endswith("20")


@pytest.mark.parametrize("base", [0.01, 0.05, 0.3, 0.45, 0.475, 0.49, 0.495])
@pytest.mark.parametrize("chat", [0.01, 0.05, 0.3, 0.45, 0.475, 0.49, 0.5])
def test_every_class_of_dedicated_has_a_latent_from_the_least_number_on(base: float, chat: float) -> None:
    """Both shares may round up: .45 of 10 latents is 5, twice, and leaves no shared one."""
    least = Exclusive(base=base, chat=chat).least
    for latents in range(least, least + 300):
        exclusive = [latents_of(base, latents), latents_of(chat, latents)]
        assert min(*exclusive, latents - sum(exclusive)) > 0
