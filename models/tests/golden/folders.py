"""A sentence-transformers folder but for its weights, in the form in which published repositories have it."""

import json


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(folder, tokenizer, config, pooling, dense=(), normalize=False, max_length=512, prompts=None):
    """`tokenizer` is one of tokenizer_kinds; of the dense heads, modules.json names the first. With `config` None the folder
    has its config.json already."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, tokenizer_config = tokenizer
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    if config:
        write_json(folder / "config.json", config)
    hidden = config["hidden_size"] if config else json.loads((folder / "config.json").read_text())["hidden_size"]
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    parts += [(f"2_Dense_{dense[0]}", "Dense")] if dense else []
    parts += [(f"{len(parts)}_Normalize", "Normalize")] if normalize else []
    write_json(folder / "modules.json", [
        dict(idx=i, name=str(i), path=path, type=f"sentence_transformers.models.{kind}") for i, (path, kind) in enumerate(parts)])
    write_json(folder / "sentence_bert_config.json", dict(max_seq_length=max_length, do_lower_case=False))
    write_json(folder / "config_sentence_transformers.json", dict(
        __version__=dict(sentence_transformers="2.2.0", transformers="4.42.3", pytorch="2.3.1"),
        prompts=prompts or {}, default_prompt_name=None))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    write_json(folder / "1_Pooling/config.json", dict(
        word_embedding_dimension=hidden, **{f"pooling_mode_{mode}": mode == pooling for mode in modes}, include_prompt=True))
    for dim in dense:
        (folder / f"2_Dense_{dim}").mkdir(exist_ok=True)
        write_json(folder / f"2_Dense_{dim}/config.json", dict(
            in_features=hidden, out_features=dim, bias=True, activation_function="torch.nn.modules.linear.Identity"))
