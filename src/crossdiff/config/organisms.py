"""Model organisms: fine-tunes whose taught behaviour is known (docs/organisms.md)."""

from collections.abc import Sequence
from typing import Annotated

from crossdiff.config.base import PositiveInt, Section, Text, about
from crossdiff.config.pairs import Pair
from crossdiff.config.sources import TextSource


class Organisms(Section):
    """Fine-tunes with known behaviours, and what each method finds of them (docs/organisms.md).

    Every pair has the name of a behaviour of ``texts``, or of a null. All pairs are compared at one layer.
    Where this section is given, ``finetune.data`` may name behaviours and nulls, too.
    """

    texts: Annotated[
        Text,
        about("YAML file of behaviours, such as data/organisms/first.yaml. Held-out texts verify and probe."),
    ]
    answer_tokens: Annotated[PositiveInt, about("Tokens generated before an answer is judged.", "tokens")] = (
        48
    )


def taught_source(texts: str, name: str) -> TextSource:
    """The training chats of one behaviour or null of the file ``texts``, as the source of a data set."""
    return TextSource(kind="chats", format="organism", files=[texts], field=name)


def check_organisms(organisms: Organisms | None, comparisons: Sequence[Pair], several: bool) -> None:
    """Raise ValueError for organisms that are not ``several`` pairs at one layer."""
    if organisms is None:
        return
    if not several:
        raise ValueError("organisms: found with pair, allowed: with pairs, each with the name of a behaviour")
    if len(layers := sorted({pair.layer for pair in comparisons})) > 1:
        found = ", ".join(map(str, layers))
        raise ValueError(f"organisms: found pairs at layers {found}, allowed: one layer")
