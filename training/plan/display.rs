//! A plan as text.

use std::fmt;

use models::Flops;

use super::texts::{Measured, refining_share};
use super::{Fit, Plan, PlanOptions};
use crate::recipe::{Recipe, TokenizerKind};

/// What the numbers of a plan rest on. `encoders` are the bytes of the encoder where the plan counts it.
pub(super) fn notes(
    recipe: &Recipe,
    options: &PlanOptions,
    measured: Option<&Measured>,
    encoders: [Option<u64>; 2],
) -> Vec<String> {
    let mut notes = Vec::new();
    if measured.is_none() {
        notes.push(format!(
            "on paper: there is no pair set at {}; vocabulary, texts and their lengths are assumed, padding is left out, \
             and memory is that of a step of the shortest texts",
            recipe.pairs.dir.display()
        ));
        if recipe.tokenizer.cut {
            notes.push(
                "on paper the cut of the tokens is not known: all of the pre-trained model's are counted"
                    .into(),
            );
        } else if recipe.tokenizer.kind == TokenizerKind::Encoder {
            notes.push(
                "on paper the encoder's own tokens are not known: their number is taken to be tokenizer.vocab".into(),
            );
        }
    }
    if options.processes > 1 {
        let state = if recipe.distributed.shard_optimizer { "a share of the" } else { "the whole" };
        notes.push(format!(
            "memory is that of one of {} processes: its share of a step, and {state} optimizer's state; time is that of one \
             GPU",
            options.processes
        ));
    }
    if encoders.contains(&None) {
        notes.push(format!(
            "the encoder {} is on the same device, and its size is not known here: its weights come on top of the memory",
            recipe.encoder.source
        ));
    }
    let refining = refining_share(recipe);
    if refining > 0.0 {
        notes.push(format!(
            "{:.0} % of the steps refine, with a prefix three times as long and a hypothesis as long as the text; the making \
             of hypotheses comes on top",
            100.0 * refining
        ));
    }
    notes.push(format!(
        "time: FLOPs / (peak of NVIDIA's data sheet, dense x {} utilization), the utilization (MFU as in arXiv \
         2204.02311, appendix B) being an assumption, not a measurement; evaluations and the making of the vectors \
         come on top",
        options.mfu
    ));
    notes.push(
        "FLOPs: 2 x matrix weights a position + 4 x heads x head_dim x visible keys a layer, backward twice the forward \
         (Kaplan et al. 2020, arXiv 2001.08361, table 1)"
            .into(),
    );
    notes.push(
        "activations: what each block keeps for its backward pass (in the manner of Korthikanti et al. 2022, arXiv \
         2205.05198), and the scores of a chunk of positions; it fits where nine tenths of the memory are enough"
            .into(),
    );
    notes
}

impl Plan {
    /// What to say where the training does not fit on the plan's GPU, and what to do about it.
    pub fn warning(&self) -> Option<String> {
        let fit = self.fits.iter().find(|fit| fit.gpu == self.cost.gpu && !fit.fits)?;
        let m = &self.memory;
        let fixed = m.total - m.activations;
        let advice = if fixed < fit.memory / 2 {
            "raise training.accumulate or lower training.batch_texts"
        } else {
            "weights, gradients and optimizer take most of it: a smaller decoder, or training.ema_decay = 0"
        };
        Some(format!(
            "the training needs {} and one {} has {}; {advice}",
            bytes(fit.needs),
            fit.gpu,
            bytes(fit.memory)
        ))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p, m, c) = (&self.parameters, &self.memory, &self.cost);
        writeln!(f, "device       {} ({})", self.device, self.compute)?;
        writeln!(f, "vectors      {} numbers", self.dim)?;
        writeln!(f, "vocabulary   {} tokens", self.vocabulary)?;
        writeln!(
            f,
            "parameters   {} = embedding {} + blocks {} + head {} + projector {}",
            p.total, p.embedding, p.blocks, p.head, p.projector
        )?;
        let parts = [
            ("weights", m.weights),
            ("gradients", m.gradients),
            ("optimizer", m.optimizer),
            ("averages", m.averages),
            ("activations", m.activations),
            ("evaluation", m.evaluation),
        ];
        let encoder = m.encoder.filter(|&count| count > 0).map(|count| ("encoder", count));
        let parts = parts.into_iter().chain(encoder).map(|(name, count)| format!("{name} {}", bytes(count)));
        writeln!(f, "memory       {} = {}", bytes(m.total), parts.collect::<Vec<_>>().join(" + "))?;
        let fits: Vec<String> = self.fits.iter().map(fit).collect();
        writeln!(f, "one GPU      {}", fits.join("; "))?;
        let Flops { blocks, attention, head, projector } = c.flops_per_token.parts;
        writeln!(
            f,
            "FLOPs/token  {} forward = blocks {} + attention {} + head {} + projector {}; {} with the backward pass",
            operations(c.flops_per_token.forward),
            operations(blocks),
            operations(attention),
            operations(head),
            operations(projector),
            operations(c.flops_per_token.training)
        )?;
        self.fmt_texts(f)?;
        writeln!(
            f,
            "time         {} for one pass over {} pairs of {:.1} tokens: {}FLOP on one {} at {} of {}FLOP/s, {:.0} tokens/s",
            duration(c.pass_seconds),
            c.pairs,
            c.tokens_per_text,
            operations(c.pass_flops),
            c.gpu,
            c.mfu,
            operations(c.peak),
            c.tokens_per_s
        )?;
        let steps = self.max_steps.map(|steps| format!("{steps} steps"));
        let minutes = self.max_minutes.map(|minutes| format!("{minutes} minutes"));
        let ends: Vec<String> = steps.into_iter().chain(minutes).collect();
        writeln!(
            f,
            "ends after   {}: on that {} {:.1} passes, {}",
            if ends.is_empty() { "never".into() } else { ends.join(" or ") },
            c.gpu,
            c.run_passes,
            duration(c.run_seconds)
        )?;
        if let Some(s) = &self.first_step {
            writeln!(
                f,
                "first step   loss {:.3}, gradient norm {:.2}, {} tokens in {:.2} s, {:.0} tokens/s",
                s.loss, s.grad_norm, s.tokens, s.seconds, s.tokens_per_s
            )?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note         {note}"))
    }
}

impl Plan {
    fn fmt_texts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(texts), Some(too_long), Some(dev)) = (self.texts, self.texts_too_long, self.dev_texts) {
            writeln!(f, "texts        {texts} for training ({too_long} too long, left out), {dev} for dev")?;
        }
        if let (Some(tokens), Some(steps), Some(padding)) =
            (self.tokens_per_epoch, self.steps_per_epoch, self.padding_percent)
        {
            writeln!(f, "epoch        {tokens} tokens in {steps} steps, {padding:.1} % padding")?;
        }
        writeln!(f, "a step       {} tokens at most, in {} parts", self.batch_tokens, self.accumulate)
    }
}

fn fit(fit: &Fit) -> String {
    let share = 100.0 * fit.needs as f64 / fit.memory as f64;
    let verdict = if fit.fits { "fits" } else { "does NOT fit" };
    format!("{verdict} on {} ({share:.0} % of {})", fit.gpu, bytes(fit.memory))
}

/// Bytes as MB or GB, powers of ten as the data sheets have them.
fn bytes(count: u64) -> String {
    match count as f64 {
        small if small < 1e9 => format!("{:.0} MB", small / 1e6),
        mid if mid < 1e11 => format!("{:.1} GB", mid / 1e9),
        large => format!("{:.0} GB", large / 1e9),
    }
}

/// A number of operations with three digits and its SI prefix: 6.45 G.
fn operations(count: f64) -> String {
    let prefixes = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, prefix) = prefixes.into_iter().find(|(unit, _)| count >= *unit).unwrap_or((1.0, ""));
    let value = count / unit;
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {prefix}")
}

/// Seconds in the unit that fits.
fn duration(seconds: f64) -> String {
    match seconds {
        short if short < 90.0 => format!("{short:.1} s"),
        minutes if minutes < 5400.0 => format!("{:.1} minutes", minutes / 60.0),
        hours if hours < 48.0 * 3600.0 => format!("{:.1} hours", hours / 3600.0),
        days => format!("{:.1} days", days / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(operations(989e12), "989 T");
        assert_eq!(operations(6.4479e9), "6.45 G");
        assert_eq!(operations(12.0), "12.0 ");
        assert_eq!(bytes(141_000_000_000), "141 GB");
        assert_eq!(bytes(8_240_000_000), "8.2 GB");
        assert_eq!(bytes(310_400_000), "310 MB");
        assert_eq!(duration(36.0 * 3600.0), "36.0 hours");
        assert_eq!(duration(1e6), "11.6 days");
        assert_eq!(duration(600.0), "10.0 minutes");
    }
}
