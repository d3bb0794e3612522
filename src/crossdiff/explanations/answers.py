"""Answers that are kept: a question is asked once, whatever happens to the process that asked it."""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from crossdiff.explanations.language_models import LanguageModel, Messages
from crossdiff.provenance.storage import atomic_path


class Question(NamedTuple):
    """What a language model is asked."""

    messages: Messages
    longest: int  # tokens of the answer


class KnownAnswers:
    """Asks a model what has not been asked before; each answer is a file of its own, named by model and question."""

    def __init__(self, folder: str | Path, model: LanguageModel) -> None:
        self.folder, self.model = Path(folder), model
        self.asked = 0  # questions that went to the model

    def path(self, question: Question) -> Path:
        """Where the answer lies, or will."""
        key = hashlib.sha256(json.dumps([self.model.name, *question], sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """An answer to each, several at a time where the model allows it. Raises UserError when the model fails; what it said is kept."""
        found = [self._known(question) for question in questions]
        missing = [number for number, answer in enumerate(found) if answer is None]
        if missing:
            with self._alone(), ThreadPoolExecutor(max_workers=self.model.workers) as pool:
                waiting = {pool.submit(self._ask, questions[number]): number for number in missing}
                try:
                    for future in as_completed(waiting):
                        found[waiting[future]] = future.result()
                        self.asked += 1
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process asks at a time: a limit on requests is one on all of them. The lock ends with the process, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _known(self, question: Question) -> str | None:
        try:
            answer = json.loads(self.path(question).read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, LookupError, TypeError):
            return None  # never asked, or a file that something else has damaged
        return answer if isinstance(answer, str) else None

    def _ask(self, question: Question) -> str:
        answer = self.model.answer(*question)
        with atomic_path(self.path(question)) as temporary:
            kept = {
                "model": self.model.name,
                "messages": question.messages,
                "longest": question.longest,
                "answer": answer,
            }
            temporary.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
        return answer
