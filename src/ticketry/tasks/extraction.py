"""Extractive question answering: a task bound to a base, as the training loop's workload."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ticketry.tasks.encoded import EncodedWorkload, check_finite, inputs_of
from ticketry.tasks.windows import Windows, best_spans, encode_windows
from ticketry.tasks.workload import Batch, Evaluation, SplitName

NO_ANSWER_ABOVE = 0.0
"""How far the score of "no answer" must lie above the best span's; no data decide it."""


class ExtractiveQA(EncodedWorkload):
    """Fine-tune a base with a head for the first and last token of an answer.

    A training example is a window of question and context (:func:`encode_windows`), so an epoch
    goes once through all windows. The answer to a question is the best span of all its windows,
    as it stands in the context; of ``extractive-qa-v2`` it is empty where the lowest score of any
    window's first token (as start and end) is above that by more than :data:`NO_ANSWER_ABOVE`.
    Of texts only questions are cut, and counted in :attr:`truncated`.

    Source: Devlin et al. 2019 (arXiv 1810.04805), sections 4.2 and 4.3. Differs: their threshold
        is chosen on the dev set, which is tested on here; padding has no share in the loss.
    """

    def _encode(self, name: str) -> Windows:
        split = getattr(self.data, name)
        return encode_windows(self.tokenizer, split, name, self.max_length, places=name != "train")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss: that of the first and of the last token, halved."""
        found = model(**inputs_of(batch))
        padded = batch["attention_mask"] == 0
        first, last = (
            cross_entropy(logits.float().masked_fill(padded, -torch.inf), labels)
            for logits, labels in zip(
                (found.start_logits, found.end_logits), batch["labels"].unbind(1), strict=True
            )
        )
        return (first + last) / 2

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Answer the questions of a split, in the recipe's precision and without dropout.

        Returns:
            Its predictions are the answers' texts.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        windows = self._splits[split]
        assert isinstance(windows, Windows)
        scores, none = np.empty(len(windows)), np.empty(len(windows))
        spans = np.zeros((len(windows), 2), dtype=np.int64)
        with self._reading(model) as device:
            for indices, inputs in self._inputs(split, device):
                found = model(**inputs)
                real = inputs["attention_mask"] == 1
                starts, ends = found.start_logits.float(), found.end_logits.float()
                check_finite(starts[real], split)
                check_finite(ends[real], split)
                places = windows.places_of(indices)
                inside = torch.zeros_like(real)
                for row, place in enumerate(places):
                    inside[row, : len(place)] = torch.from_numpy(place[:, 1] > place[:, 0])
                best, first, last = (
                    t.cpu().numpy() for t in best_spans(starts, ends, real, inside)
                )
                scores[indices] = best
                none[indices] = (starts[:, 0] + ends[:, 0]).cpu().numpy()
                for row, (index, place) in enumerate(zip(indices, places, strict=True)):
                    spans[index] = place[first[row], 0], place[last[row], 1]
        answers = self._answers(split, windows, scores, none, spans)
        labels = getattr(self.data, split).labels
        return Evaluation(float(self.metric.fn(labels, answers)), answers)

    def _answers(
        self,
        split: SplitName,
        windows: Windows,
        scores: NDArray[np.float64],
        none: NDArray[np.float64],
        spans: NDArray[np.int64],
    ) -> tuple[str, ...]:
        """Return the best answer of each question over its windows."""
        contexts = getattr(self.data, split).pairs
        may_be_none = self.data.objective == "extractive-qa-v2"
        edges = np.searchsorted(windows.example, np.arange(len(contexts) + 1))
        answers = []
        for context, start, stop in zip(contexts, edges[:-1], edges[1:], strict=True):
            best = start + int(scores[start:stop].argmax())
            empty = not np.isfinite(scores[best])
            if may_be_none:
                empty |= none[start:stop].min() - scores[best] > NO_ANSWER_ABOVE
            first, end = spans[best].tolist()
            answers.append("" if empty else context[first:end].strip())
        return tuple(answers)
