"""What fine-tuning changed in the matrices that write into the residual stream (arXiv 2508.00161)."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from crossdiff.models.parts import decoder_layers

# Names of the modules at the end of an attention or an MLP, as families have them.
OUTPUTS = {"o_proj", "out_proj", "c_proj", "dense", "down_proj", "fc2", "fc_out", "dense_4h_to_h"}
PLAIN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}  # weights that are no packed numbers
SMALLEST = 1e-6  # share of the largest eigenvalue below which one is rounding of float32 products


@torch.inference_mode()
def written_directions(base: PreTrainedModel, chat: PreTrainedModel, layer: int) -> tuple[Tensor, Tensor]:
    """The directions that fine-tuning makes the blocks up to ``layer`` write, of attentions and of MLPs.

    These are the left singular vectors of the differences chat - base of all output matrices side by side:
    rows (directions, d_model) float32 of length 1 on the CPU, the largest singular value first. The sign of
    such a vector means nothing: here its largest entry is positive. None are given if no such matrix was
    found (a fused mixture of experts, weights in few bits) or fine-tuning changed none.
    """
    attention, mlp = (_gram(base, chat, layer, of_attention) for of_attention in (True, False))
    return _vectors(attention), _vectors(mlp)


def _gram(base: PreTrainedModel, chat: PreTrainedModel, layer: int, of_attention: bool) -> Tensor:
    """The sum of D D^T over the differences D of the matrices: (d_model, d_model) float64."""
    d_model = chat.config.get_text_config().hidden_size
    total = torch.zeros(d_model, d_model, dtype=torch.float64)
    blocks = zip(decoder_layers(base), decoder_layers(chat), strict=True)
    for of_base, of_chat in list(blocks)[: layer + 1]:
        matrices = _outputs(of_base, of_attention)
        for name, matrix in _outputs(of_chat, of_attention).items():
            difference = matrix.float() - matrices[name].to(matrix.device).float()
            total += (difference @ difference.T).double().cpu()
    return total


def _outputs(block: nn.Module, of_attention: bool) -> dict[str, Tensor]:
    """Name -> matrix (d_model, inputs) of the modules of one block that write into the stream."""
    found = {}
    for name, module in block.named_modules():
        if name.rpartition(".")[2] in OUTPUTS and ("att" in name) == of_attention:
            matrix = _matrix(module)
            if matrix is not None:
                found[name] = matrix
    return found


def _matrix(module: nn.Module) -> Tensor | None:
    """The matrix (d_model, inputs) of a module with what its adapters add, or None for packed weights."""
    from peft.tuners.lora import LoraLayer

    inner = module.get_base_layer() if isinstance(module, LoraLayer) else module
    matrix = getattr(inner, "weight", None)
    if not isinstance(matrix, Tensor) or matrix.dtype not in PLAIN:
        return None
    if isinstance(module, LoraLayer):
        for adapter in module.active_adapters:
            matrix = matrix.float() + module.get_delta_weight(adapter).float()  # type: ignore[operator]
    return matrix.T if isinstance(inner, Conv1D) else matrix


def _vectors(gram: Tensor) -> Tensor:
    values, columns = torch.linalg.eigh(gram)  # ascending
    vectors = columns.T.flip(0)[values.flip(0) > SMALLEST * values[-1].clamp_min(0)]
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return (vectors * largest.sign()).float()
