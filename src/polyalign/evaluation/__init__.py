"""Run official MTEB tasks, further ones across languages and the user's own rows, and keep what comparison needs."""

from polyalign.evaluation.evaluating import evaluate

__all__ = ["evaluate"]
