"""What the files of STELLA v5 say beside its weights, for the two sizes; shapes may be made smaller."""

PROMPTS = dict(
    s2p_query="Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
    s2s_query="Instruct: Retrieve semantically similar text.\nQuery: ")

SHAPE_1_5B = dict(vocab_size=151646, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
                  num_key_value_heads=2)
SHAPE_400M = dict(vocab_size=30528, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)


def config_1_5b(end_of_text, **shape):
    """Qwen2; `is_causal` is not in it, and its remote code attends in both directions."""
    return dict(
        architectures=["Qwen2ForCausalLM"], attention_dropout=0.0,
        auto_map={"AutoModel": "modeling_qwen.Qwen2Model", "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM"},
        bos_token_id=end_of_text, eos_token_id=end_of_text, hidden_act="silu", initializer_range=0.02,
        max_position_embeddings=131072, max_window_layers=21, model_type="qwen2", rms_norm_eps=1e-6, rope_scaling=None,
        rope_theta=1000000.0, sliding_window=131072, tie_word_embeddings=False, torch_dtype="float32", use_cache=False,
        use_sliding_window=False, **shape)


def tensors_1_5b(config):
    """Names and shapes of model.safetensors."""
    h, inner = config["hidden_size"], config["intermediate_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], h)}
    for i in range(config["num_hidden_layers"]):
        parts = {
            "input_layernorm.weight": (h,), "self_attn.q_proj.weight": (h, h), "self_attn.q_proj.bias": (h,),
            "self_attn.k_proj.weight": (kv, h), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.weight": (kv, h),
            "self_attn.v_proj.bias": (kv,), "self_attn.o_proj.weight": (h, h), "post_attention_layernorm.weight": (h,),
            "mlp.gate_proj.weight": (inner, h), "mlp.up_proj.weight": (inner, h), "mlp.down_proj.weight": (h, inner)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in parts.items()}
    return shapes | {"model.norm.weight": (h,)}


def config_400m(**shape):
    """The "new" architecture of gte-large-en-v1.5. The published file asks for xformers (`use_memory_efficient_attention`,
    `unpad_inputs`), which changes no number; its card turns both off for the CPU."""
    return dict(
        architectures=["NewModel"], attention_probs_dropout_prob=0.0,
        auto_map={"AutoConfig": "configuration.NewConfig", "AutoModel": "modeling.NewModel"}, classifier_dropout=None,
        hidden_act="gelu", hidden_dropout_prob=0.1, initializer_range=0.02, layer_norm_eps=1e-12, layer_norm_type="layer_norm",
        logn_attention_clip1=False, logn_attention_scale=False, max_position_embeddings=8192, model_type="new", pack_qkv=True,
        pad_token_id=0, position_embedding_type="rope", rope_scaling={"factor": 2.0, "type": "ntk"}, rope_theta=160000,
        torch_dtype="float32", type_vocab_size=2, unpad_inputs=False, use_memory_efficient_attention=False, **shape)


def tensors_400m(config):
    """Names and shapes of model.safetensors."""
    h, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (config["vocab_size"], h), "embeddings.token_type_embeddings.weight": (2, h),
              "embeddings.LayerNorm.weight": (h,), "embeddings.LayerNorm.bias": (h,)}
    for i in range(config["num_hidden_layers"]):
        parts = {
            "attention.qkv_proj.weight": (3 * h, h), "attention.qkv_proj.bias": (3 * h,), "attention.o_proj.weight": (h, h),
            "attention.o_proj.bias": (h,), "attn_ln.weight": (h,), "attn_ln.bias": (h,), "mlp.up_gate_proj.weight": (2 * inner, h),
            "mlp.down_proj.weight": (h, inner), "mlp.down_proj.bias": (h,), "mlp_ln.weight": (h,), "mlp_ln.bias": (h,)}
        shapes |= {f"encoder.layer.{i}.{name}": shape for name, shape in parts.items()}
    return {f"new.{name}": shape for name, shape in shapes.items()}
