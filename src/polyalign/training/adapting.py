"""What of an encoder is trained (all, low-rank adapters, the token embeddings that occur), and how it attends then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from polyalign.errors import UserError
from polyalign.training.bases import is_static
from polyalign.training.fitting import uses_bf16
from polyalign.training.vocabulary import compact_embeddings, expand_embeddings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from polyalign.training.settings import LoraSettings, TrainingSettings
    from polyalign.training.tokens import Tokens

log = logging.getLogger(__name__)


def adapt(model: SentenceTransformer, tokens: Tokens, settings: TrainingSettings, *, seed: int) -> None:
    """Prepare an encoder for training in place; `restore` undoes what a saved encoder would show.

    On a CPU, attention in bfloat16 is computed in plain matrix products: PyTorch's fused kernel is slower.

    Args:
        model: the encoder.
        tokens: of the training rows.
        settings: ``lora``, ``weight_decay`` and ``bf16`` are used.
        seed: of the adapters' initial weights.

    Raises:
        UserError: when adapters are asked for and cannot be had.
    """
    if model.device.type == "cpu" and uses_bf16(settings, model.device):
        _unfuse_attention(model)
    if settings.lora is not None:
        _add_adapters(model, settings.lora, seed)
    elif settings.weight_decay == 0:  # decay moves the embeddings of tokens that never occur as well
        compact_embeddings(model, tokens.used)


def restore(model: SentenceTransformer) -> None:
    """Merge adapters and put all token embeddings back in place, so that the encoder is of its base's form again."""
    if hasattr(model[0], "model") and hasattr(model[0].model, "merge_and_unload"):
        model[0].model = model[0].model.merge_and_unload()
    expand_embeddings(model)


def _unfuse_attention(model: SentenceTransformer) -> None:
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation("eager")


def _add_adapters(model: SentenceTransformer, lora: LoraSettings, seed: int) -> None:
    if is_static(model):
        raise UserError("a static encoder has no linear layers for adapters; leave lora out")
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("lora needs a package: pip install 'polyalign[peft]'") from error
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets)
    torch.manual_seed(seed)
    try:
        model[0].model = get_peft_model(model[0].model, config)
    except ValueError as error:  # no layer has one of the names
        raise UserError(f"lora: {str(error).splitlines()[0]}") from error
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    log.info("training %s adapter weights of rank %d", f"{trained:,}", lora.rank)
