//! The commands that make a result again, from what it says of itself.

use std::fmt::Display;
use std::path::Path;

use eval::suites::{Evaluation, Suite};
use models::generate::Strategy;
use models::{Decodes, GenerateOptions, SearchOptions};

use crate::search_flags::{PRIOR, patience_of, plan_of};

/// Training and evaluation, as far as they are known: TEXTS and SETS stand for files that a result does not name.
pub(crate) fn commands(evaluation: &Evaluation, run: Option<&Path>, file: &Path) -> Vec<String> {
    let train = run.map(|run| {
        let name = run.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy());
        let (recipe, again) = (run.join("config.toml"), run.with_file_name(format!("{name}-again")));
        let again = quoted(&format!("run.dir={}", again.display()));
        format!("inverse-stella train --recipe {} --set {again}", quoted(&recipe.display().to_string()))
    });
    let suites: Vec<&str> = evaluation.suites().into_iter().map(Suite::name).collect();
    let what = match evaluation.rows.is_empty() && suites == ["reconstruction"] {
        true => " --texts TEXTS".to_owned(),
        false => format!(" --suite {} --texts TEXTS --config SETS.toml", suites.join(",")),
    };
    let path = |path: &Path| quoted(&path.display().to_string());
    let (decoder, out) = (path(&evaluation.decoder.path), path(file));
    let flags = flags_of(evaluation);
    train.into_iter().chain([format!("inverse-stella eval {decoder}{what}{flags} --out {out}")]).collect()
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Flags, each behind a space.
#[derive(Default)]
struct Flags(String);

impl Flags {
    fn add(&mut self, flag: &str, value: impl Display) {
        self.0 += &format!(" --{flag} {}", quoted(&value.to_string()));
    }

    /// Where a value is not the usual one.
    fn differing<T: Display + PartialEq>(&mut self, flag: &str, value: T, usual: T) {
        if value != usual {
            self.add(flag, value);
        }
    }
}

fn flags_of(evaluation: &Evaluation) -> String {
    let mut flags = Flags::default();
    match (&evaluation.search, &evaluation.generate) {
        (Some(search), _) => {
            add_search(&mut flags, search);
            add_told(&mut flags, &search.generate, evaluation);
        }
        (None, Some(generate)) => {
            add_strategy(&mut flags, &generate.strategy);
            add_told(&mut flags, generate, evaluation);
        }
        (None, None) => {}
    }
    let usual = &evaluation.space.prompt.name;
    let prompt = if evaluation.prompt.is_empty() { usual } else { &evaluation.prompt };
    flags.differing("prompt", prompt, usual);
    evaluation.query_prompt.iter().for_each(|prompt| flags.add("query-prompt", prompt));
    evaluation.judge.iter().for_each(|judge| flags.add("judge", &judge.encoder));
    flags.differing("dtype", evaluation.dtype.as_str(), "f32");
    let encoder_dtype = evaluation.encoder_dtype.as_str();
    flags.differing("encoder-dtype", if encoder_dtype.is_empty() { "f32" } else { encoder_dtype }, "f32");
    flags.differing("bootstrap", evaluation.bootstrap.resamples, 1000);
    evaluation.limit.iter().for_each(|limit| flags.add("limit", limit));
    flags.0
}

fn add_told(flags: &mut Flags, generate: &GenerateOptions, evaluation: &Evaluation) {
    flags.differing("guidance", generate.guidance, 1.0);
    flags.differing("noise", generate.noise, 0.0);
    generate.length.iter().for_each(|length| flags.add("length", length));
    let most = evaluation.decoder.max_tokens;
    flags.differing("max-tokens", generate.max_tokens.min(most), most);
}

fn add_strategy(flags: &mut Flags, strategy: &Strategy) {
    match strategy {
        Strategy::Greedy => {}
        Strategy::Beam { width, length_penalty } => {
            flags.add("beam", width);
            flags.differing("length-penalty", *length_penalty, 1.0);
        }
        Strategy::Sample { temperature, top_k, top_p, min_p, seed, samples } => {
            flags.add("samples", samples);
            flags.differing("temperature", *temperature, 1.0);
            top_k.iter().for_each(|k| flags.add("top-k", k));
            top_p.iter().for_each(|p| flags.add("top-p", p));
            min_p.iter().for_each(|p| flags.add("min-p", p));
            flags.differing("seed", *seed, 0);
        }
    }
}

fn add_search(flags: &mut Flags, search: &SearchOptions) {
    let refines = search.each.beam + search.each.samples > 0;
    let plan = plan_of(search.budget, refines);
    match search.budget {
        Some(budget) => flags.add("budget", budget),
        None if search.rounds == 0 => flags.0 += " --rerank",
        None => {}
    }
    flags.differing("refine", search.rounds, plan.rounds);
    // what is asked for holds for first guesses and for refinements
    if search.first != plan.first || (refines && search.each != plan.each) {
        add_decodes(flags, &search.first);
    }
    flags.differing("parents", search.parents, plan.parents);
    flags.differing("beyond", search.beyond, plan.beyond);
    flags.differing("feedback", search.feedback, plan.feedback);
    flags.differing("neighbours", search.neighbours, plan.neighbours);
    flags.differing("recombine", search.recombined, plan.recombined);
    flags.differing("prior", search.prior, PRIOR);
    flags.differing("patience", search.patience, patience_of(search.budget));
    let usual = SearchOptions::default();
    flags.differing("epsilon", search.epsilon, usual.epsilon);
    flags.differing("length-penalty", search.length_penalty, usual.length_penalty);
    if search.first.samples + search.each.samples > 0 {
        // a temperature asks for samples by itself
        flags.add("temperature", search.temperature);
        search.top_k.iter().for_each(|k| flags.add("top-k", k));
        search.top_p.iter().for_each(|p| flags.add("top-p", p));
        search.min_p.iter().for_each(|p| flags.add("min-p", p));
        flags.differing("seed", search.seed, usual.seed);
    }
}

fn add_decodes(flags: &mut Flags, decodes: &Decodes) {
    flags.add("beam", decodes.beam.max(1));
    if decodes.samples > 0 {
        flags.add("samples", decodes.samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_search(search: &SearchOptions) -> String {
        let mut flags = Flags::default();
        add_search(&mut flags, search);
        flags.0
    }

    #[test]
    fn what_a_plan_says_is_not_said_again() {
        let plan = |refines| SearchOptions { budget: Some(32), patience: 8, ..plan_of(Some(32), refines) };
        assert_eq!(of_search(&plan(true)), " --budget 32");
        let other = SearchOptions { feedback: 4, beyond: 1, patience: 3, ..plan(false) };
        assert_eq!(of_search(&other), " --budget 32 --beyond 1 --feedback 4 --patience 3");
        let nearest = SearchOptions { prior: 0.0, ..plan(false) };
        assert_eq!(of_search(&nearest), " --budget 32 --prior 0");
    }

    #[test]
    fn what_refinements_are_asked_for_is_said_too() {
        let plan = SearchOptions { budget: Some(32), patience: 8, ..plan_of(Some(32), true) };
        let asked = SearchOptions { each: plan.first.clone(), ..plan };
        assert_eq!(of_search(&asked), " --budget 32 --beam 4");
    }

    #[test]
    fn a_shell_reads_what_was_meant() {
        assert_eq!(quoted("runs/a-1/x.json"), "runs/a-1/x.json");
        assert_eq!(quoted("my runs/a"), "'my runs/a'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn candidates_are_said_with_how_they_were_drawn() {
        let rerank = SearchOptions { first: Decodes { beam: 1, samples: 16 }, ..plan_of(None, false) };
        assert_eq!(of_search(&rerank), " --rerank --beam 1 --samples 16 --temperature 0.7");
        let mut flags = Flags::default();
        add_strategy(&mut flags, &Strategy::Beam { width: 4, length_penalty: 0.6 });
        assert_eq!(flags.0, " --beam 4 --length-penalty 0.6");
    }
}
