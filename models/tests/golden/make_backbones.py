"""Makes small random sentence-transformers folders, one an architecture (backbones/NAME/), and what sentence-transformers
computes with them in f32 on the CPU (backbones/NAME.json).

usage: make_backbones.py [NAME ...]     needs torch, transformers, sentence-transformers, tokenizers, safetensors

Each text is computed alone; that padding on either side and the company of others change nothing is asserted here, as is
that vectors of different texts differ and that the attention mask matters. Attention is computed plainly ("eager").

`new` is the architecture of Alibaba-NLP/new-impl (gte-base-en-v1.5, STELLA 400M v5), which is remote code to
sentence-transformers 6.2. `new_states` is written from its published modeling.py, and from candle's stella_en_v5.rs (revision
2a13b0f) and text-embeddings-inference's gte.rs and rotary.rs (0d124dc): the three agree on the tensor names, on `up_gate_proj`
holding first up and then gate, and on the frequencies of NTK scaling, (base s)^(-2i/d) / s^(2/d), at every length. Its states
are asserted to equal those of transformers' own later port, GteModel, which reads the same tensors by another conversion and
is given those frequencies (it knows no NTK scaling).
"""

import json
import math
import pathlib
import shutil
import sys
import tempfile

import sentence_transformers
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from sentence_transformers.base.modules import Dense
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, GteModel, Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model, RobertaConfig
from transformers import RobertaModel, XLMRobertaConfig, XLMRobertaModel

import stella
import tokenizer_kinds
from folders import write_folder, write_json

HERE = pathlib.Path(__file__).resolve().parent / "backbones"
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it does so again. "
TEXTS = [
    "a",
    "Two dogs run through a field of tall grass, chasing a red ball.",
    "A red ball runs through two dogs, chasing a field of tall grass.",
    "What are some ways to reduce stress?",
    "  spaces,\ttabs \n and  lines  ",
    "na\u00efve caf\u00e9, nai\u0308ve cafe\u0301, \u00dcber Stra\u00dfen",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\u3002",
    "I \u2764\ufe0f pizza \U0001f355\U0001f600 and 3.14159",
    "https://example.org/a/b?c=d&e=f#g",
    SENTENCE * 4,
    SENTENCE * 40,
]
# whose states are written down: texts 1 and 7 for what they hold, 9 for its length
STATES = [1, 7, 9]
# without Chinese and emoji, so that there are unknown tokens
KNOWN = [text for i, text in enumerate(TEXTS) if i not in (6, 7)]


def randomize(model, std=0.3):
    """Large weights, so that mistakes show; gains that are not 1, biases that are not 0."""
    with torch.no_grad():
        for name, w in model.named_parameters():
            gain = w.dim() == 1 and name.endswith("weight")
            w.copy_(1 + 0.3 * torch.randn_like(w) if gain else torch.randn_like(w) * (0.2 if w.dim() == 1 else std))
    return model.eval()


def save(tensors, path):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def qwen_tokenizer(appended=None):
    return tokenizer_kinds.qwen([*TEXTS, *stella.PROMPTS.values()], 320, appended)


def save_heads(folder, hidden, dims):
    for dim in dims:
        save({"linear.weight": torch.randn(dim, hidden) * 0.3, "linear.bias": torch.randn(dim) * 0.3},
             folder / f"2_Dense_{dim}/model.safetensors")


def qwen2_stella():
    """STELLA 1.5B v5 in small. `is_causal` is not in its config.json, and its attention is bidirectional."""
    tokenizer = qwen_tokenizer()
    shape = dict(vocab_size=tokenizer[0].get_vocab_size() + 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2)
    config = stella.config_1_5b(tokenizer[0].token_to_id("<|endoftext|>"), **shape)
    folder, dims = HERE / "qwen2_stella", (12, 6)
    write_folder(folder, tokenizer, config, "mean_tokens", dims, prompts=stella.PROMPTS)
    save_heads(folder, config["hidden_size"], dims)
    weights = randomize(built(Qwen2Config, Qwen2Model, config)).state_dict()
    save({f"model.{name}": w for name, w in weights.items()}, folder / "model.safetensors")
    bidirectional = load(folder, is_causal=False)
    require_mask_matters(load(folder, is_causal=True), bidirectional)
    golden("qwen2_stella", bidirectional, dict(attention="bidirectional"), ["none", *stella.PROMPTS], dims)


def qwen2_causal():
    """Qwen2 as transformers itself saves it: causal, its own form of config.json, two shards, no prefix; the last token."""
    tokenizer = qwen_tokenizer()
    config = Qwen2Config(vocab_size=tokenizer[0].get_vocab_size(), hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=1, rope_theta=10000.0, max_position_embeddings=1024,
                         is_causal=True)
    folder = HERE / "qwen2_causal"
    randomize(Qwen2Model(config)).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) == 2
    write_folder(folder, tokenizer, None, "lasttoken")
    causal = load(folder)
    require_mask_matters(causal, load(folder, is_causal=False))
    golden("qwen2_causal", causal, dict(attention="causal"), ["none"])


def qwen3():
    """Qwen3-Embedding in small: norms of queries and keys, heads wider than hidden/heads, an end of text that tokenizer.json
    appends, bf16 on disk."""
    tokenizer = qwen_tokenizer("<|endoftext|>")
    shape = dict(vocab_size=tokenizer[0].get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=12)
    end = tokenizer[0].token_to_id("<|endoftext|>")
    config = dict(
        architectures=["Qwen3ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=end, eos_token_id=end,
        hidden_act="silu", initializer_range=0.02, max_position_embeddings=32768, max_window_layers=28, model_type="qwen3",
        rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000, sliding_window=None, tie_word_embeddings=True,
        torch_dtype="bfloat16", use_cache=True, use_sliding_window=False, **shape)
    model = randomize(Qwen3Model(Qwen3Config(**shape))).bfloat16()
    query = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    folder = HERE / "qwen3"
    write_folder(folder, tokenizer, config, "lasttoken", normalize=True, prompts=dict(query=query, document=""))
    save(model.state_dict(), folder / "model.safetensors")
    causal = load(folder)
    require_mask_matters(causal, load(folder, is_causal=False))
    golden("qwen3", causal, dict(attention="causal"), ["none", "query"])


BERT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


def bert_config(kind, model_type, tokenizer, **more):
    return dict(
        architectures=[kind], attention_probs_dropout_prob=0.1, hidden_act="gelu", hidden_dropout_prob=0.1,
        initializer_range=0.02, model_type=model_type, position_embedding_type="absolute", torch_dtype="float32", use_cache=True,
        vocab_size=tokenizer[0].get_vocab_size(), **BERT, **more)


def built(config_class, model_class, config):
    known = {key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype")}
    return model_class(config_class(**known))


def bert():
    tokenizer = tokenizer_kinds.wordpiece(KNOWN, 120)
    config = bert_config("BertModel", "bert", tokenizer, layer_norm_eps=1e-12, max_position_embeddings=128, pad_token_id=0,
                         type_vocab_size=2)
    folder = HERE / "bert"
    write_folder(folder, tokenizer, config, "mean_tokens", normalize=True, max_length=128)
    save(randomize(built(BertConfig, BertModel, config)).state_dict(), folder / "model.safetensors")
    # positions are counted from the row's start, so padding on the left is not BERT's
    golden("bert", load(folder), dict(attention="bidirectional"), ["none"], pad_sides=("right",), texts=[*TEXTS, ""])


def roberta():
    """Positions from padding_idx + 1, of which there are 130 for 128 tokens; names with the prefix of RobertaForMaskedLM."""
    tokenizer = tokenizer_kinds.roberta(TEXTS, 290)
    config = bert_config("RobertaModel", "roberta", tokenizer, layer_norm_eps=1e-5, max_position_embeddings=130, pad_token_id=1,
                         bos_token_id=0, eos_token_id=2, type_vocab_size=1)
    folder = HERE / "roberta"
    write_folder(folder, tokenizer, config, "mean_tokens", max_length=128)
    model = randomize(built(RobertaConfig, RobertaModel, config), std=0.5)
    save({f"roberta.{name}": w for name, w in model.state_dict().items()}, folder / "model.safetensors")
    golden("roberta", load(folder), dict(attention="bidirectional"), ["none"], texts=[*TEXTS, ""])


def xlm_roberta():
    """bge-m3's parts (the first token, Normalize) under e5's prompts."""
    tokenizer = tokenizer_kinds.unigram(KNOWN, 100)
    config = bert_config("XLMRobertaModel", "xlm-roberta", tokenizer, layer_norm_eps=1e-5, max_position_embeddings=130,
                         pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1, output_past=True)
    folder = HERE / "xlm_roberta"
    write_folder(folder, tokenizer, config, "cls_token", normalize=True, max_length=128,
                 prompts=dict(query="query: ", passage="passage: "))
    save(randomize(built(XLMRobertaConfig, XLMRobertaModel, config)).state_dict(), folder / "model.safetensors")
    golden("xlm_roberta", load(folder), dict(attention="bidirectional"), ["none", "query", "passage"], texts=[*TEXTS, ""])


def new():
    """STELLA 400M v5 in small."""
    tokenizer = tokenizer_kinds.wordpiece(KNOWN, 120)
    config = stella.config_400m(vocab_size=tokenizer[0].get_vocab_size() + 6, **BERT)
    folder, dims = HERE / "new", (12, 6)
    write_folder(folder, tokenizer, config, "mean_tokens", dims, prompts=stella.PROMPTS)
    save_heads(folder, config["hidden_size"], dims)
    holder = torch.nn.Module()
    for name, shape in stella.tensors_400m(config).items():
        # a parameter's name holds no full stops
        holder.register_parameter(name.replace(".", "/"), torch.nn.Parameter(torch.empty(shape)))
    weights = {name.replace("/", "."): w.data for name, w in randomize(holder).named_parameters()}
    save(weights, folder / "model.safetensors")
    weights = {name.removeprefix("new."): w for name, w in weights.items()}
    model = load_new_as_gte(folder, config)
    golden("new", model, dict(attention="bidirectional"), ["none", *stella.PROMPTS], dims, texts=[*TEXTS, ""])
    for text in [*TEXTS, ""]:
        ids = token_ids(model, folder, text)
        ours, theirs = new_states(weights, config, ids), states_of(model, ids)
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max(), text
        plain = new_states(weights, config | dict(rope_scaling=None), ids)
        assert len(ids) < 4 or (ours - plain).abs().max() > 0.05, "the scaling of the frequencies would not be seen"


def frequencies(config):
    """RoPE's, with NTK scaling if any."""
    d = config["hidden_size"] // config["num_attention_heads"]
    scale = (config["rope_scaling"] or {}).get("factor", 1.0)
    return (config["rope_theta"] * scale) ** (-torch.arange(0, d, 2) / d) / scale ** (2 / d)


def load_new_as_gte(folder, config):
    """sentence-transformers around GteModel, which reads the same tensors, with our frequencies."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        keys = ("hidden_act", "hidden_dropout_prob", "layer_norm_eps", "pad_token_id", "type_vocab_size", "vocab_size", *BERT)
        write_json(pathlib.Path(copy) / "config.json", dict(
            model_type="gte", rope_parameters=dict(rope_type="default", rope_theta=config["rope_theta"]),
            max_position_embeddings=config["max_position_embeddings"], **{key: config[key] for key in keys}))
        model = load(copy)
    assert isinstance(model[0].auto_model, GteModel)
    model[0].auto_model.rotary_emb.inv_freq.copy_(frequencies(config))
    return model


def new_states(w, config, ids):
    """The last hidden states [T, H] of NewModel, of one text."""
    heads, eps, length = config["num_attention_heads"], config["layer_norm_eps"], len(ids)
    angles = torch.outer(torch.arange(length), frequencies(config)).repeat(1, 2)
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)
    split = lambda x: x.view(length, heads, -1).transpose(0, 1)
    half_turn = lambda x: torch.cat([-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]], -1)
    rotate = lambda x: x * angles.cos() + half_turn(x) * angles.sin()
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{i}."
        q, k, v = map(split, F.linear(x, w[p + "attention.qkv_proj.weight"], w[p + "attention.qkv_proj.bias"]).chunk(3, -1))
        scores = rotate(q) @ rotate(k).transpose(1, 2) / math.sqrt(q.shape[-1])
        seen = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        x = norm(x + F.linear(seen, w[p + "attention.o_proj.weight"], w[p + "attention.o_proj.bias"]), p + "attn_ln")
        up, gate = F.linear(x, w[p + "mlp.up_gate_proj.weight"]).chunk(2, -1)
        x = norm(x + F.linear(F.gelu(gate) * up, w[p + "mlp.down_proj.weight"], w[p + "mlp.down_proj.bias"]), p + "mlp_ln")
    return x


def load(folder, is_causal=None):
    model = sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs=dict(attn_implementation="eager", dtype=torch.float32))
    if is_causal is not None:
        # as an argument of loading (config_kwargs) transformers 5.24 drops it without a word where config.json has no such key
        model[0].auto_model.config.is_causal = is_causal
    return model


def states_of(model, ids, mask=None):
    """[T, H] for one text, or [B, T, H] with a mask"""
    with torch.no_grad():
        if mask is None:
            return model[0].auto_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return model[0].auto_model(input_ids=ids, attention_mask=mask).last_hidden_state


def require_mask_matters(causal, bidirectional):
    """A later token must change the first state, or not, as it should; and the two kinds must be far apart."""
    ids = [5, 6, 7, 8]
    change = lambda model: (states_of(model, ids)[0] - states_of(model, ids[:3] + [9])[0]).abs().max()
    assert change(causal) == 0 and change(bidirectional) > 1e-2, (change(causal), change(bidirectional))
    text = TEXTS[1]
    cosine = torch.cosine_similarity(*[torch.tensor(model.encode([text])) for model in (causal, bidirectional)])
    assert cosine < 0.98, cosine


def token_ids(model, folder, text):
    """As sentence-transformers cuts them, which must be what tokenizer.json alone says."""
    ids = model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"]
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.enable_truncation(model.max_seq_length)
    assert ids == plain.encode(text).ids, (folder, text)
    return ids


def require_padding_is_nothing(model, all_ids, sides=("left", "right")):
    pad, longest = model.tokenizer.pad_token_id, max(map(len, all_ids))
    for side in sides:
        ids = torch.full((len(all_ids), longest), pad)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(all_ids):
            place = slice(longest - len(one), None) if side == "left" else slice(len(one))
            ids[row, place], mask[row, place] = torch.tensor(one), 1
        states = states_of(model, ids, mask)
        for row, one in enumerate(all_ids):
            alone = states_of(model, one)
            off = (states[row][mask[row] == 1] - alone).abs().max() / alone.abs().max()
            assert off < 1e-5, (side, row, off)


def rounded(tensor):
    def cut(values):
        return [cut(v) for v in values] if isinstance(values, list) else float(f"{values:.7g}")
    return cut(tensor.tolist())


def golden(name, model, about, prompts, dims=(None,), pad_sides=("left", "right"), texts=TEXTS):
    """Writes NAME.json; `dims` are the dense heads, None for none."""
    folder = HERE / name
    all_ids = [token_ids(model, folder, text) for text in texts]
    require_padding_is_nothing(model, all_ids[:9], pad_sides)
    vectors = []
    for dim in dims:
        chain = [*model]
        if dim:
            chain[2] = Dense.load(str(folder / f"2_Dense_{dim}"))
        chain = sentence_transformers.SentenceTransformer(modules=chain, device="cpu")
        for prompt in prompts:
            prefix = "" if prompt == "none" else model.prompts[prompt]
            rows = torch.cat([torch.tensor(chain.encode([text], prompt=prefix)) for text in texts])
            cosines = torch.cosine_similarity(rows[:, None], rows[None], dim=-1)
            mean = (cosines.sum() - len(texts)) / (len(texts) * (len(texts) - 1))
            # the tokens of a prompt are the same in every text
            assert mean < (0.97 if prefix else 0.9), (name, prompt, mean)
            print(f"{name:14} prompt {prompt:10} {rows.shape[1]:3} numbers, mean cosine of two texts {mean:.3f}")
            vectors.append(dict(prompt=prompt, prompt_text=prefix, dim=rows.shape[1], rows=rounded(rows)))
    states = [dict(text=i, rows=rounded(states_of(model, all_ids[i]))) for i in STATES]
    versions = {m.__name__: m.__version__ for m in (sentence_transformers, transformers, tokenizers, torch)}
    write_golden(HERE / f"{name}.json", dict(versions=versions, **about, texts=texts, token_ids=all_ids, states=states, vectors=vectors))


def write_golden(path, value):
    """A line a row: numbers are many."""
    def lines(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)}: {lines(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            return "[\n" + ",\n".join(lines(v) for v in value) + "]"
        return json.dumps(value, separators=(",", ":"))
    path.write_text(lines(value) + "\n", encoding="utf-8")


MAKERS = [qwen2_stella, qwen2_causal, qwen3, bert, roberta, xlm_roberta, new]

if __name__ == "__main__":
    torch.manual_seed(0)
    for maker in MAKERS:
        if len(sys.argv) == 1 or maker.__name__ in sys.argv[1:]:
            torch.manual_seed(sum(map(ord, maker.__name__)))
            maker()
