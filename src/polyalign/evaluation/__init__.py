"""Run official MTEB tasks, and the user's own rows as one more, and keep what comparison needs."""

from polyalign.evaluation.evaluating import evaluate

__all__ = ["evaluate"]
