"""Makes tests/it's small PEFT directories: `python adapter_golden.py OUT`, with peft, torch, transformers.

A Llama with random weights (hidden 16, 2 layers, 4 heads of 4, 2 of them for keys and values, feed-forward 24) and
adapters as PEFT itself writes them: `plain` (F32, rank 2, all projections), `half` (BF16, rank-stabilised, attention
only), `partial` (F16, one layer of two). `values.json` has, for each, the elements of some matrices and the scale that
PEFT computes with.
"""

import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model():
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=4, vocab_size=32, max_position_embeddings=64))


def main(out):
    values = {}
    for name, dtype, settings in [
        ("plain", torch.float32, dict(r=2, lora_alpha=6, target_modules=ALL)),
        ("half", torch.bfloat16, dict(r=4, lora_alpha=8, target_modules=ALL[:4], use_rslora=True)),
        ("partial", torch.float16, dict(r=2, lora_alpha=2, target_modules=["q_proj", "down_proj"], layers_to_transform=[1])),
    ]:
        peft = get_peft_model(model(), LoraConfig(task_type="CAUSAL_LM", **settings))
        for key, parameter in peft.named_parameters():
            if "lora_" in key:
                torch.manual_seed(sum(key.encode()))
                parameter.data = torch.randn(parameter.shape).to(dtype)
        peft.save_pretrained(out / name)
        (out / name / "README.md").unlink()
        layer = peft.base_model.model.model.layers[1]
        values[name] = dict(
            scale=layer.self_attn.q_proj.scaling["default"],
            q_a=layer.self_attn.q_proj.lora_A["default"].weight.float().flatten().tolist()[:5],
            q_b=layer.self_attn.q_proj.lora_B["default"].weight.float().flatten().tolist()[:5])
    (out / "values.json").write_text(json.dumps(values, indent=1) + "\n")


main(pathlib.Path(sys.argv[1]))
