"""Makes text.npz: small text models of transformers, their weights and what they return.

Run where torch and transformers are installed: python make_text.py. Weights are random, norms and
biases too, so that none can be left out unseen.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

TOKENS = np.array(
    [
        [2, 17, 33, 8, 41, 3],
        [2, 55, 3, 1, 1, 1],
        [2, 9, 9, 28, 3, 1],
        [2, 44, 12, 3, 1, 1],
    ]
)
PAD = 1
SIZES = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def models() -> dict[str, torch.nn.Module]:
    bert = {"intermediate_size": 40, "max_position_embeddings": 12, **SIZES}
    return {
        "bert": transformers.BertModel(transformers.BertConfig(pad_token_id=PAD, **bert)),
        "roberta": transformers.RobertaModel(
            transformers.RobertaConfig(
                pad_token_id=PAD, type_vocab_size=1, layer_norm_eps=1e-5, **bert
            )
        ),
        "clip": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_act="quick_gelu", eos_token_id=3, pad_token_id=PAD, **bert
            )
        ),
        "llama": transformers.LlamaModel(transformers.LlamaConfig(pad_token_id=PAD, **bert)),
    }


def main() -> None:
    torch.manual_seed(0)
    saved: dict[str, np.ndarray] = {"tokens": np.where(TOKENS == PAD, -1, TOKENS)}
    for name, model in models().items():
        model.eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        mask = torch.tensor(TOKENS != PAD)
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor(TOKENS), attention_mask=mask)
            saved[f"{name}/hidden"] = outputs.last_hidden_state.numpy()
            if "pooler_output" in outputs:
                saved[f"{name}/pooled"] = outputs.pooler_output.numpy()
        saved[f"{name}/config"] = np.array(json.dumps(model.config.to_dict()))
        for key, value in model.state_dict().items():
            saved[f"{name}/params/{key}"] = value.numpy()
    np.savez_compressed(Path(__file__).with_name("text.npz"), **saved)


if __name__ == "__main__":
    main()
