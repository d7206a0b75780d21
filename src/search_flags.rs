//! Flags about searching by encoding again, shared by `invert`, `eval` and `roundtrip`.

use anyhow::Result;
use clap::Args;
use models::{Decodes, GenerateOptions, Inverter, SearchOptions};

use crate::decoding::DecodingArgs;
use crate::failure::ArgumentError;

/// What a cosine may lack of 1 for a text to be found.
const EPSILON: f64 = 1e-4;

/// Weight of the decoder's word in the end, as tuned on texts that were neither trained on nor reported.
pub(crate) const PRIOR: f64 = 0.01;

/// How candidates are made, ranked and refined.
#[derive(Debug, Args)]
#[command(next_help_heading = "Search")]
pub(crate) struct SearchArgs {
    /// Encode the candidates (--beam, --samples) again and keep the one nearest to the vector
    #[arg(long)]
    rerank: bool,
    /// Refine the nearest candidates so many times; each round encodes what it decodes
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    refine: Option<u32>,
    /// Encode at most so many candidates a text; without --refine, as many rounds as suit the budget
    #[arg(long, value_name = "ENCODINGS", value_parser = clap::value_parser!(u32).range(1..=4000))]
    budget: Option<u32>,
    /// Candidates of a text that are refined in a round, each by --beam and --samples [default: what suits the budget, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4000))]
    parents: Option<u32>,
    /// Guess so many times a candidate at vectors beyond the target, as seen from its own; no refining decoder is needed
    /// [default: what suits the budget, else 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    beyond: Option<u32>,
    /// Guess so many times a round at vectors to which is added, each time, what the guess before left out; no refining decoder
    /// is needed [default: what suits the budget, else 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    feedback: Option<u32>,
    /// Change one token of the best candidate in so many ways a round, as the decoder would have it; no refining decoder is
    /// needed [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    neighbours: Option<u32>,
    /// Put the changes of several candidates together, so many new ones a round [default: what suits the budget, else 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=4000))]
    recombine: Option<u32>,
    /// Weigh the decoder's log-probability against distance when one of the nearest candidates is chosen in the end: nats
    /// times X against ln(1 - cosine); 0 for the nearest
    #[arg(long, value_name = "X", default_value_t = PRIOR)]
    prior: f64,
    /// A text ends when its cosine is at least 1 - X
    #[arg(long, value_name = "X", default_value_t = EPSILON)]
    epsilon: f64,
    /// A text ends when its cosine has not risen for so many rounds [default: 8 with --budget, else 2]
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    patience: Option<u32>,
}

impl SearchArgs {
    /// Whether candidates are encoded at all.
    pub(crate) fn wanted(&self) -> bool {
        let rounds = self.refine.is_some() || self.budget.is_some();
        self.rerank || rounds || self.improves()
    }

    /// Whether candidates are improved on without the decoder's having learnt it.
    fn improves(&self) -> bool {
        let counts = [self.beyond, self.feedback, self.neighbours, self.recombine];
        counts.into_iter().flatten().any(|count| count > 0)
    }

    /// Refuses flags that only a search looks at.
    fn refuse_unused(&self) -> Result<()> {
        let differs = |value: f64, usual: f64| (value - usual).abs() > f64::EPSILON;
        let flags = [
            ("--parents", self.parents.is_some()),
            ("--patience", self.patience.is_some()),
            ("--prior", differs(self.prior, PRIOR)),
            ("--epsilon", differs(self.epsilon, EPSILON)),
        ];
        match flags.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(ArgumentError::with_hint(
                format!("{flag} is for a search, and none is asked for"),
                "--budget ENCODINGS, --refine STEPS or --rerank asks for one",
            )
            .into()),
            None => Ok(()),
        }
    }

    /// The search that the flags ask for; `None` where none of them does.
    pub(crate) fn options(
        &self,
        decoding: &DecodingArgs,
        generate: &GenerateOptions,
        inverter: &Inverter,
    ) -> Result<Option<SearchOptions>> {
        if !self.wanted() {
            return self.refuse_unused().map(|()| None);
        }
        for (flag, value) in [("--epsilon", self.epsilon), ("--prior", self.prior)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(ArgumentError::new(format!("{flag} {value}: must be at least 0")).into());
            }
        }
        let refines = inverter.config.refines;
        if self.improves() && self.refine.is_none() && self.budget.is_none() {
            return Err(ArgumentError::with_hint(
                "--beyond, --feedback, --neighbours or --recombine: for how many rounds?",
                "--refine STEPS says how many, --budget ENCODINGS lets them follow from it",
            )
            .into());
        }
        if self.refine.is_some() && !refines && !self.improves() {
            return Err(ArgumentError::with_hint(
                "--refine: this decoder has learnt first guesses alone",
                "improve on candidates with --beyond, --feedback, --neighbours or --recombine, or train a decoder with [refinement] share \
                 above 0",
            )
            .into());
        }
        let budget = self.budget.map(|budget| budget as usize);
        let base = plan_of(budget, refines);
        let asked = decoding.candidates();
        let nothing = Decodes { beam: 0, samples: 0 };
        let options = SearchOptions {
            first: asked.clone().unwrap_or(base.first),
            each: if refines { asked.unwrap_or(base.each) } else { nothing },
            rounds: self.refine.map_or(base.rounds, |steps| steps as usize),
            parents: self.parents.map_or(base.parents, |parents| parents as usize),
            beyond: self.beyond.map_or(base.beyond, |count| count as usize),
            feedback: self.feedback.map_or(base.feedback, |count| count as usize),
            neighbours: self.neighbours.map_or(base.neighbours, |count| count as usize),
            recombined: self.recombine.map_or(base.recombined, |count| count as usize),
            budget,
            prior: self.prior,
            epsilon: self.epsilon,
            patience: self.patience.map_or(patience_of(budget), |rounds| rounds as usize),
            generate: generate.clone(),
            ..decoding.search_base()
        };
        Ok(Some(options))
    }
}

/// What a search does where no flag says otherwise.
pub(crate) fn plan_of(budget: Option<usize>, refines: bool) -> SearchOptions {
    let plan = match budget {
        Some(budget) => within(budget, refines),
        None => SearchOptions { parents: 4, ..SearchOptions::default() },
    };
    SearchOptions { prior: PRIOR, ..plan }
}

/// Rounds without a gain that end a text where no flag says otherwise.
pub(crate) fn patience_of(budget: Option<usize>) -> usize {
    if budget.is_some() { 8 } else { 2 }
}

/// How a budget of encodings is spent, as tuned on texts that were neither trained on nor reported: an eighth on first
/// guesses, then rounds that improve on the best candidates by refinements (where the decoder has learnt them), feedback,
/// guesses beyond the target and recombination. Rounds are small: what one finds the next can use (docs/experiments.md,
/// also for why not by neighbours).
fn within(budget: usize, refines: bool) -> SearchOptions {
    let large = budget >= 64;
    let feedback = (budget / 16).min(4);
    SearchOptions {
        first: Decodes { beam: (budget / 8).clamp(2, 16).min(budget), samples: 0 },
        rounds: budget,
        parents: if large { 2 } else { 1 },
        each: Decodes { beam: if refines { (budget / 32).clamp(1, 4) } else { 0 }, samples: 0 },
        beyond: usize::from(large || feedback == 0),
        feedback,
        recombined: (budget / 16).clamp(1, 8),
        ..SearchOptions::default()
    }
}
