"""Makes the golden files of the decoder: two tiny random LlamaForCausalLM behind random projectors, saved as export folders
(decoder_tied/, decoder_untied/), and what transformers computes with them (decoder.json).

usage: make_decoder.py [FOLDER]     needs torch, transformers, safetensors
"""
import json, pathlib, sys
import torch, transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

here = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
here = here if here.is_dir() else here.parent
DIM, HIDDEN, PREFIX, MIDDLE, VOCAB, LIMIT, SCALE = 16, 32, 3, 24, 160, 12, 4.0
BOS, EOS, PAD = 0, 1, 2


def rounded(values, digits=7):
    return [rounded(v, digits) for v in values] if isinstance(values, list) else float(f"{values:.{digits}g}")


def make(tied):
    torch.manual_seed(7 if tied else 8)
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=VOCAB, max_position_embeddings=PREFIX + 1 + LIMIT, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        # large weights, so that the distributions are sharp and every part matters; gains that are not 1
        for name, w in model.named_parameters():
            w.copy_(1 + 0.3 * torch.randn_like(w) if w.dim() == 1 else torch.randn_like(w) * (0.5 if "embed" in name or "lm_head" in name else 0.25))
        # some texts end before the limit
        model.lm_head.weight[EOS] *= 1.7
    projector = {"fc1.weight": torch.randn(MIDDLE, DIM) * 0.3, "fc1.bias": torch.randn(MIDDLE) * 0.1,
                 "fc2.weight": torch.randn(PREFIX * HIDDEN, MIDDLE) * 0.3, "fc2.bias": torch.randn(PREFIX * HIDDEN) * 0.1}
    folder = here / ("decoder_tied" if tied else "decoder_untied")
    model.save_pretrained(folder)
    save_file(projector, folder / "projector.safetensors", metadata={"format": "pt"})
    spec = dict(dim=DIM, hidden=HIDDEN, prefix_tokens=PREFIX, activation="gelu", input_scale=SCALE,
                bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    (folder / "projector.json").write_text(json.dumps(spec, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(dict(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=LIMIT), indent=2) + "\n")

    vectors = torch.nn.functional.normalize(torch.randn(12, DIM), dim=-1)

    def head(v):
        x = torch.nn.functional.gelu(torch.nn.functional.linear(v * SCALE, projector["fc1.weight"], projector["fc1.bias"]))
        prefix = torch.nn.functional.linear(x, projector["fc2.weight"], projector["fc2.bias"]).view(len(v), PREFIX, HIDDEN)
        bos = model.get_input_embeddings()(torch.full((len(v), 1), BOS))
        return torch.cat([prefix, bos], 1)

    tokens = torch.randint(3, VOCAB, (2, 5))
    with torch.no_grad():
        x = torch.cat([head(vectors[:2]), model.get_input_embeddings()(tokens)], 1)
        logits = model(inputs_embeds=x).logits[:, PREFIX:]
        ids = dict(eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=LIMIT, do_sample=False)
        greedy = model.generate(inputs_embeds=head(vectors), **ids).tolist()
        beams = {}
        for width, penalty in [(4, 1.0), (3, 0.0), (4, 2.0), (1, 1.0)]:
            out = model.generate(inputs_embeds=head(vectors), num_beams=width, num_return_sequences=width, length_penalty=penalty,
                                 early_stopping=False, return_dict_in_generate=True, output_scores=True, **ids)
            scores = out.sequences_scores.tolist() if width > 1 else None
            beams[f"{width}/{penalty}"] = dict(
                ids=[[strip(s) for s in out.sequences.tolist()[i * width:(i + 1) * width]] for i in range(len(vectors))],
                scores=scores and [rounded(scores[i * width:(i + 1) * width]) for i in range(len(vectors))])
    return dict(vectors=rounded(vectors.tolist(), 9), tokens=tokens.tolist(), logits=rounded(logits.tolist(), 6),
                greedy=[strip(s) for s in greedy], beams=beams)


def strip(ids):
    """without EOS and what follows; the second value says whether EOS was there"""
    return [ids[:ids.index(EOS)], True] if EOS in ids else [ids, False]


golden = dict(versions=dict(torch=torch.__version__, transformers=transformers.__version__), tied=make(True), untied=make(False))
(here / "decoder.json").write_text(json.dumps(golden) + "\n")
for name in ("tied", "untied"):
    lengths = [len(ids) for ids, _ in golden[name]["greedy"]]
    print(name, "greedy lengths", lengths, "ended", sum(end for _, end in golden[name]["greedy"]))
