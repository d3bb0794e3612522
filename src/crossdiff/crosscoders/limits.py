"""What a loss leaves without a value, or sets itself, in words.

A loss says it once (``Loss.limits``). ``config.json`` keeps it with the crosscoder, and tables carry it on.
So every later stage can say it in place of a number, and no stage needs to know the loss.
"""

from typing import Any, NamedTuple


class Limits(NamedTuple):
    """What later stages must say of a crosscoder. A text is "" where there is nothing to say.

    Texts are clauses that can stand after a colon.
    """

    base_decoder: str = ""  # why there is none: what compares both decoders does not apply
    norms: str = ""  # what the loss itself does to the norm differences of latents
    errors: str = ""  # what the loss itself does to the errors of both models
    parts: tuple[str, ...] = ()  # parts of the partition whose norm differences the loss sets

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "Limits":
        """Read what ``saved`` gave. Raises TypeError for other keys."""
        return cls(**saved)._replace(parts=tuple(saved.get("parts", ())))

    def saved(self) -> dict[str, Any]:
        """Return the fields that say something."""
        return {name: value for name, value in self._asdict().items() if value}
