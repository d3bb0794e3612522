"""Validation of an RO-Crate without a network."""

import json
from pathlib import Path

import pytest
import requests
import rocrate
from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with the context in the rocrate library instead of the one that a crate names.

    Some terms have other addresses in the library's context; they are changed.
    """
    context = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())
    bioschemas = "https://bioschemas.org/"
    context["@context"] |= {name: bioschemas + name for name in ("ComputationalWorkflow", "FormalParameter")}
    context["@context"] |= {name: f"{bioschemas}ComputationalWorkflow#{name}" for name in ("input", "output")}

    def get(self, url: str, **_: object) -> requests.Response:
        response = requests.Response()
        response.status_code = 200 if url == "https://w3id.org/ro/crate/1.1/context" else 504
        response.headers["Content-Type"] = "application/ld+json"
        response._content = json.dumps(context).encode()
        return response

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)


def faults(crate: Path, profile: str) -> list[str]:
    """List what a profile requires and a crate lacks."""
    options = services.ValidationSettings(
        rocrate_uri=str(crate),
        profile_identifier=profile,
        requirement_severity=models.Severity.REQUIRED,
        no_cache=True,
    )
    return [issue.message for issue in services.validate(options).get_issues()]
