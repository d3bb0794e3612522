"""Compare a model on one device with the same model over two devices, and partly in main memory.

    PYTHONPATH=tests/helpers python benchmarks/two_devices.py MODEL [--layer 14]

MODEL is a folder, such as results/models/smollm2-135m-instruct. A CPU plays the two devices
(tests/helpers/helpers_devices.py). As on real ones, an operation on tensors of two devices fails. The model
computes in bfloat16 where the CPU has it. Each line has the largest difference of the streams after the
first, the layer's and the last block, whether all answers are equal, the largest difference in an answer's
nats, and whether the digest of the loaded weights is the same.
"""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import dispatch_model
from helpers_devices import several_devices

from crossdiff.device import fast_dtype
from crossdiff.interventions.proof import proof_texts
from crossdiff.models import digests
from crossdiff.models.answers import answer_nats, greedy
from crossdiff.models.footprint import footprint_of
from crossdiff.models.forward import run_to_layers
from crossdiff.models.load import load_model
from crossdiff.models.parts import decoder_layers
from crossdiff.models.placement import spread
from crossdiff.models.tokenizers import load_tokenizer

ROOM = 0.6  # share of the weights that each device has room for
ANSWER = 24  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model")
    parser.add_argument("--layer", type=int, default=14, help="0-based block (default: 14)")
    arguments = parser.parse_args()
    model: Any = load_model(arguments.model, fast_dtype())
    needed = footprint_of(arguments.model, fast_dtype())
    room = needed.activations + ROOM * needed.weights
    places = spread(needed, {0: room, 1: room})
    assert places is not None
    print(f"{needed.weights / 1e9:.3f} GB, blocks: {[list(places.values()).count(gpu) for gpu in (0, 1)]}")
    texts = proof_texts(load_tokenizer(arguments.model))
    ids = torch.tensor(max(texts, key=len))[None]
    layers = [0, arguments.layer, len(decoder_layers(model)) - 1]

    def results(of: Any, where: torch.device) -> tuple[list[torch.Tensor], list[np.ndarray], np.ndarray]:
        streams = [stream.cpu().float() for stream in run_to_layers(of, ids.to(where), layers)]
        return streams, greedy(of, texts, ANSWER), answer_nats(of, texts, texts[::-1])

    streams, answers, nats = results(model, torch.device("cpu"))
    digest = digests.digest(model)
    blocks = list(needed.blocks)
    in_main_memory = places | dict.fromkeys(blocks[2 * len(blocks) // 3 :], "cpu")
    with several_devices() as devices:
        digests.ROWS[devices[0].type] = digests.ROWS["cpu"]
        for name, there in (("two devices", places), ("and main memory", in_main_memory)):
            device_map = {
                part: str(devices[place]) if isinstance(place, int) else place
                for part, place in there.items()
            }
            skip = model._skip_keys_device_placement
            other: Any = dispatch_model(deepcopy(model), device_map, skip_keys=skip)
            found, said, measured = results(other, devices[0])
            apart = max(float((a - b).abs().max()) for a, b in zip(found, streams, strict=True))
            equal = all(np.array_equal(a, b) for a, b in zip(said, answers, strict=True))
            same = digests.digest(other) == digest
            told = f"answers equal: {equal}, nats {np.abs(measured - nats).max():.2g}, digest: {same}"
            print(f"{name:<16} streams {apart:.2g}, {told}")


if __name__ == "__main__":
    main()
