"""Whether other programs read the adapter files that `remora adapters export` writes, and compute the same with them.

    python model.py SmolLM2-135M-Instruct.Q4_1.gguf HF
    python adapter_files.py --remora target/release/remora --gguf SmolLM2-135M-Instruct.Q4_1.gguf --hf HF

PEFT makes an adapter with random weights, large enough to change every answer. Then:
- peft: exported and loaded again, PEFT must give the same logits, exactly.
- onnx: onnxruntime.AdapterFormat must read back the same matrices.
- gguf: llama.cpp (xllamacpp) must give the log-probabilities that PEFT gives. Its arithmetic is not torch's (weights stay in
  4 bits, activations are rounded to 8), so what counts is that the adapter's error is as small as the base's own, and far
  from what a wrong order of rows gives.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import onnxruntime
import torch
import xllamacpp
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The capital of France is", "Water boils at a temperature of", "def add(a, b):\n    return",
           "Once upon a time there was a"]
TOP = 20


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def llama_cpp(model, adapter, prompts):
    """For each prompt the log-probabilities of the likeliest next tokens, by token id."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 2
    params.warmup = False
    if adapter:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    server = xllamacpp.Server(params)
    found = []
    for prompt in prompts:
        answer = server.handle_completions(
            {"prompt": prompt, "max_tokens": 1, "temperature": 0.0, "logprobs": TOP, "cache_prompt": False})
        answer = json.loads(answer) if isinstance(answer, str) else answer
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found.append({entry["id"]: entry["logprob"] for entry in top})
    return found


def torch_logprobs(model, tokenizer, prompts):
    with torch.no_grad():
        return [torch.log_softmax(model(**tokenizer(p, return_tensors="pt", add_special_tokens=False)).logits[0, -1], -1)
                for p in prompts]


def reordered(peft):
    """What llama.cpp would compute if the rows of query and key had been left in Hugging Face's order."""
    for name, parameter in peft.named_parameters():
        if "lora_B" in name and ("q_proj" in name or "k_proj" in name):
            rows = parameter.data
            width = peft.config.hidden_size // peft.config.num_attention_heads
            parameter.data = rows.reshape(-1, width // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
    return peft


def difference(theirs, ours):
    """Mean absolute difference over the likeliest tokens of llama.cpp."""
    return float(np.mean([abs(logprob - float(row[token]))
                          for top, row in zip(theirs, ours) for token, logprob in top.items()]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remora", required=True)
    parser.add_argument("--gguf", required=True, type=pathlib.Path)
    parser.add_argument("--hf", required=True, type=pathlib.Path, help="the same weights, as model.py writes them")
    options = parser.parse_args()
    torch.set_num_threads(2)
    out = pathlib.Path(tempfile.mkdtemp())
    try:
        check(options, out)
    finally:
        shutil.rmtree(out)


def check(options, out):
    model, tokenizer = load(options.hf), AutoTokenizer.from_pretrained(options.hf)
    base = torch_logprobs(model, tokenizer, PROMPTS)
    torch.manual_seed(3)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            attends = "q_proj" in name or "k_proj" in name
            parameter.data = (0.2 if attends else 0.05) * torch.randn_like(parameter)
    peft.save_pretrained(out / "made")
    ours = torch_logprobs(peft, tokenizer, PROMPTS)
    made = {name: parameter.detach().numpy().copy() for name, parameter in peft.named_parameters() if "lora_" in name}

    wrong_order = torch_logprobs(reordered(peft), tokenizer, PROMPTS)
    for kind in ["peft", "onnx", "gguf"]:
        subprocess.run([options.remora, "adapters", "export", str(out / "made"), "--format", kind, "--model",
                        str(options.gguf), "--out", str(out / kind)], check=True, stdout=subprocess.DEVNULL)

    again = PeftModel.from_pretrained(load(options.hf), out / "peft")
    exact = all(torch.equal(a, b) for a, b in zip(ours, torch_logprobs(again, tokenizer, PROMPTS)))

    read = onnxruntime.AdapterFormat.read_adapter(str(out / "onnx")).get_parameters()
    wrong = 0
    for name, matrix in made.items():
        key = name.removeprefix("base_model.model.").replace(".default.", ".")
        scale = 2.0 if "lora_B" in name else 1.0
        wrong += not np.array_equal(read[key].numpy(), matrix * scale)

    plain, adapted = (llama_cpp(options.gguf, adapter, PROMPTS) for adapter in [None, out / "gguf"])
    print(json.dumps({
        "peft_logits_identical": exact,
        "onnx_matrices": len(read), "onnx_matrices_wrong": wrong,
        "gguf_error_base": difference(plain, base),
        "gguf_error_with_adapter": difference(adapted, ours),
        "gguf_error_if_rows_kept_their_order": difference(adapted, wrong_order),
        "gguf_change_by_adapter": difference(adapted, base),
    }, indent=1))
    assert difference(adapted, ours) < 0.3 * min(difference(adapted, wrong_order), difference(adapted, base))
    assert exact and wrong == 0 and len(read) == len(made)


main()
