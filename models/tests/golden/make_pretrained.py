"""Makes the golden files of the warm start: a tiny random LlamaForCausalLM and a tiny random Qwen2ForCausalLM as their makers
publish them, each with a tokenizer (pretrained/llama, pretrained/qwen2), and what transformers computes with them
(pretrained/golden.json). The Llama is untied, in bf16 and in shards, without a token to fill rows; the Qwen2 is tied, in f32,
has rows without tokens and begins texts with what ends them.

usage: make_pretrained.py [FOLDER]     needs torch, transformers, tokenizers
"""
import json, pathlib, shutil, sys
import tokenizers, torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen2ForCausalLM)

here = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
here = (here if here.is_dir() else here.parent) / "pretrained"
TEXTS = ["A man finds a red ball in the garden.", "The old woman carries the wooden table near the river.",
         "One small child paints an open letter behind the house.", "My brother throws away a broken bicycle by the sea."]
UNSEEN = ["naïve café — 24 °C", "The tall teacher remembers </s> and <|endoftext|>."]


def rounded(values, digits=6):
    return [rounded(v, digits) for v in values] if isinstance(values, list) else float(f"{values:.{digits}g}")


def bpe(size, first):
    """Byte-level BPE with the special tokens `first` before all others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(
        vocab_size=size, special_tokens=first, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def llama_tokenizer():
    tokenizer = bpe(300, ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def qwen2_tokenizer():
    tokenizer = bpe(290, [])
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def make(name, seed, model, tokenizer, dtype, shard):
    torch.manual_seed(seed)
    with torch.no_grad():
        # large weights, so that every part matters; gains that are not 1, biases that are not 0
        for path, w in model.named_parameters():
            table = "embed" in path or "lm_head" in path
            w.copy_(1 + 0.3 * torch.randn_like(w) if "norm" in path else torch.randn_like(w) * (0.5 if table else 0.25))
    folder = here / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(3, len(tokenizer), (2, 7))
    with torch.no_grad():
        out = model(input_ids=tokens, output_hidden_states=True)
    texts = [dict(text=t, ids=tokenizer(t, add_special_tokens=False, split_special_tokens=True).input_ids) for t in TEXTS[:2] + UNSEEN]
    return dict(tokens=tokens.tolist(), hidden=rounded(out.hidden_states[-1].tolist()), logits=rounded(out.logits.tolist()),
                texts=texts, special=[model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id])


shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=96)
llama, qwen2 = llama_tokenizer(), qwen2_tokenizer()
assert len(llama) <= 300 and len(qwen2) <= 304
golden = dict(
    versions=dict(torch=torch.__version__, transformers=transformers.__version__, tokenizers=tokenizers.__version__),
    llama=make("llama", 1, LlamaForCausalLM(LlamaConfig(
        **shape, vocab_size=len(llama), head_dim=12, rms_norm_eps=1e-5, rope_theta=5e4, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=None)), llama, torch.bfloat16, "30KB"),
    qwen2=make("qwen2", 2, Qwen2ForCausalLM(Qwen2Config(
        **shape, vocab_size=304, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True,
        bos_token_id=qwen2.eos_token_id, eos_token_id=qwen2.eos_token_id)), qwen2, torch.float32, "1GB"))
(here / "golden.json").write_text(json.dumps(golden) + "\n")
for name in ("llama", "qwen2"):
    print(name, golden[name]["special"], [len(t["ids"]) for t in golden[name]["texts"]])
