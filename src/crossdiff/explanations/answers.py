"""Answers of language models, kept in files.

A question is asked once, even if the process that asked it is killed later.
"""

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
    """A question to a language model."""

    messages: Messages
    longest: int  # most tokens of the answer


class KnownAnswers:
    """Asks a model only what it has not been asked before.

    Each answer is a file in ``folder``. Its name is a hash of the model and the question.
    """

    def __init__(self, folder: str | Path, model: LanguageModel) -> None:
        self.folder, self.model = Path(folder), model
        self.asked = 0  # number of questions that went to the model

    def path(self, question: Question) -> Path:
        """Where the answer to a question is, or will be."""
        key = hashlib.sha256(json.dumps([self.model.name, *question], sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """Answer each question. The model gets several at a time, if it allows that.

        Raises UserError if the model fails. The answers that it gave before are kept.
        """
        known = [self._known(question) for question in questions]
        found = {number: answer for number, answer in enumerate(known) if answer is not None}
        missing = [number for number in range(len(questions)) if number not in found]
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
        return [found[number] for number in range(len(questions))]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let only one process ask at a time, so that a limit on requests holds for all of them together.

        The lock ends when the process ends, however that happens.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _known(self, question: Question) -> str | None:
        try:
            answer = json.loads(self.path(question).read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, LookupError, TypeError):
            return None  # never asked, or something else has damaged the file
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
