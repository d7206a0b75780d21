//! The model card of an export: what it reads, how to use it, what was measured.

use std::fmt::Write as _;

use eval::{Metric, RoundTrip};
use models::{DecoderConfig, Prompt, Space, StartedFrom};

/// The card as Markdown. `started_from` is the pre-trained model, and `measured` the run's evaluation, where there is one.
pub(crate) fn card(
    name: &str,
    config: &DecoderConfig,
    space: &Space,
    started_from: Option<&StartedFrom>,
    measured: Option<&RoundTrip>,
) -> String {
    let family = if config.qkv_bias { "Qwen2" } else { "Llama" };
    let mut card = format!(
        "---\nlibrary_name: transformers\n{}tags:\n- embedding-inversion\n- inverse-stella\n---\n\n# {name}\n\n\
         Reads a vector of {} numbers back as text. A two-layer projector turns the vector into {} input embeddings; \
         behind them a plain {family} decoder ({} layers, hidden size {}, {} tokens) writes the text, {} tokens at most.\n\n",
        base_model(started_from),
        config.dim,
        config.prefix_tokens,
        config.layers,
        config.hidden,
        config.vocab,
        config.max_tokens
    );
    write_start(&mut card, started_from);
    write_space(&mut card, space);
    card.push_str(&USAGE.replace("MAX_TOKENS", &config.max_tokens.to_string()));
    write_results(&mut card, measured);
    card.push_str(LIMITS);
    card
}

/// The hub's key for it, where the model is of a hub.
fn base_model(started_from: Option<&StartedFrom>) -> String {
    let of_hub = started_from.filter(|from| from.model.contains('/'));
    of_hub.map(|from| format!("base_model: {}\n", from.model)).unwrap_or_default()
}

fn write_start(card: &mut String, started_from: Option<&StartedFrom>) {
    let Some(StartedFrom { model, revision, architecture, weights_digest }) = started_from else { return };
    let revision = revision.as_ref().map(|revision| format!(", revision `{revision}`")).unwrap_or_default();
    let _ = write!(
        card,
        "Its training started from the pre-trained {architecture} `{model}`{revision} (weights `{weights_digest}`), whose \
         licence holds for it too; the projector started from random numbers.\n\n"
    );
}

fn write_space(card: &mut String, space: &Space) {
    let revision = space.revision.as_deref().unwrap_or("-");
    let row = |Prompt { name, text }: &Prompt| match text.as_str() {
        "" => format!("| prompt | {name}: the text alone |\n"),
        text => format!("| prompt | {name}: `{}` |\n", format!("{text:?}").replace('|', "\\|")),
    };
    let prompts: String = space.prompts().map(row).collect();
    let several = match space.other_prompts.len() {
        0 => "",
        _ => ", made under any of its prompts",
    };
    let _ = write!(
        card,
        "## The space\n\nIt understands vectors of this space{several}, and no other (`space.json`):\n\n\
         | | |\n|---|---|\n| encoder | `{}` |\n| revision | {revision} |\n| weights | `{}` |\n{prompts}\
         | pooling | {} |\n| dense head | {} |\n| dimension | {} |\n| L2-normalised | {} |\n\n",
        space.encoder,
        space.weights_digest,
        space.pooling.name(),
        space.dense.as_deref().unwrap_or("none"),
        space.dim,
        if space.normalize { "yes" } else { "no" },
    );
}

fn write_results(card: &mut String, measured: Option<&RoundTrip>) {
    card.push_str("\n## Measured\n\n");
    let Some(result) = measured else {
        card.push_str(
            "Nothing yet: `inverse-stella eval RUN --texts FILE --out RUN/report.json` (or `--suite all … --out \
             RUN/evaluation.json`) before the export.\n",
        );
        return;
    };
    let settings = &result.settings;
    let trial = if settings.trial { ", a trial on the first texts only" } else { "" };
    let prompt = match settings.prompt.as_str() {
        "" => String::new(),
        name => format!(", prompt {name}"),
    };
    let _ = write!(
        card,
        "Round trip of {} texts ({}, {}{prompt}{trial}); 95 % bootstrap intervals.\n\n| metric | value | interval |\n|---|---|---|\n",
        result.summary.n, settings.strategy, settings.dtype
    );
    for metric in Metric::ALL {
        let Some(value) = result.summary.get(metric) else { continue };
        let interval = match result.summary.interval(metric) {
            Some([low, high]) => format!("{low:.4} to {high:.4}"),
            None => "-".to_owned(),
        };
        let _ = writeln!(card, "| {} | {value:.4} | {interval} |", metric.name());
    }
    card.push_str("\n| text | read back from its vector | cosine |\n|---|---|---|\n");
    for row in &result.samples.random {
        let cell = |text: &str| eval::report::markdown_cell(text);
        let cosine = row.cosine.map(|cosine| format!("{cosine:.3}")).unwrap_or_default();
        let _ = writeln!(card, "| {} | {} | {cosine} |", cell(&row.reference), cell(&row.hypothesis));
    }
}

const USAGE: &str = r#"## Use

With Hugging Face transformers alone:

```python
import json, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

folder = "."
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
weights, spec = load_file(f"{folder}/projector.safetensors"), json.load(open(f"{folder}/projector.json"))
activation = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}[spec["activation"]]

def decode(vectors):  # (rows, dim)
    if "input.mean" in weights:
        x = (vectors - weights["input.mean"]) * weights["input.scale"]
    else:
        x = vectors * spec.get("input_scale", 1.0)
    x = activation(torch.nn.functional.linear(x, weights["fc1.weight"], weights["fc1.bias"]))
    x = torch.nn.functional.linear(x, weights["fc2.weight"], weights["fc2.bias"])
    prefix = x.view(len(vectors), spec["prefix_tokens"], -1)
    start = model.get_input_embeddings()(torch.full((len(vectors), 1), spec["bos_token_id"]))
    ids = model.generate(inputs_embeds=torch.cat([prefix, start], 1), max_new_tokens=MAX_TOKENS, do_sample=False,
                         eos_token_id=spec["eos_token_id"], pad_token_id=spec["pad_token_id"])
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


```

With ours: `inverse-stella invert . --vectors vectors.npy`.
"#;

const LIMITS: &str = "
## Limits and safety

A vector that holds a text's meaning lets much of the text be read back: treat stored vectors with the care of the
texts themselves. The decoder writes fluent text for any vector, also one that no text has; the cosine of the
re-encoded text says how far to trust it. Names, numbers and negations are what it loses first.
";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_card_names_what_the_decoder_was_started_from() {
        let from = |model: &str, revision: Option<&str>| StartedFrom {
            model: model.into(),
            revision: revision.map(str::to_owned),
            architecture: "LlamaForCausalLM".into(),
            weights_digest: "blake3:77".into(),
        };
        let written = |from: Option<&StartedFrom>| {
            let mut card = base_model(from);
            write_start(&mut card, from);
            card
        };
        assert_eq!(written(None), "");
        let card = written(Some(&from("org/small", Some("0123"))));
        let named = [
            "base_model: org/small\n",
            "LlamaForCausalLM `org/small`, revision `0123` (weights `blake3:77`)",
        ];
        assert!(named.iter().all(|part| card.contains(part)), "{card}");
        let card = written(Some(&from("folder", None)));
        assert!(card.contains("`folder` (weights") && !card.contains("base_model"), "{card}");
    }

    #[test]
    fn the_card_names_every_prompt() {
        let json = serde_json::json!({
            "encoder": "e", "revision": null, "weights_digest": "blake3:0", "pooling": "mean", "dense": null, "dim": 2,
            "normalize": true, "max_tokens": 8, "prompt": {"name": "none", "text": ""},
            "other_prompts": [{"name": "s2p_query", "text": "find | this\nQuery: "}]
        });
        let mut space: Space = serde_json::from_value(json).unwrap();
        let written = |space: &Space| {
            let mut card = String::new();
            write_space(&mut card, space);
            card
        };
        let card = written(&space);
        let rows = "| prompt | none: the text alone |\n| prompt | s2p_query: `\"find \\| this\\nQuery: \"` |\n| pooling | mean |";
        assert!(card.contains(rows) && card.contains("under any of its prompts"), "{card}");
        space.other_prompts.clear();
        let card = written(&space);
        assert!(
            card.contains("| prompt | none: the text alone |\n| pooling") && !card.contains("any"),
            "{card}"
        );
    }
}
