//! `eval --suite`: everything that a decoder is judged by.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use eval::suites::{Evaluation, Evaluator, Scored, Suite, SuitesConfig, Traveller};
use eval::{Invert, RoundTripOptions, Searching, Spread};
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions, Inverter};
use torch_ext::World;

use crate::bench::peak_resident_bytes;
use crate::failure::ArgumentError;

/// Flags of the suites.
#[derive(Debug, Args)]
#[command(next_help_heading = "Suites")]
pub(crate) struct SuiteArgs {
    /// What to judge by, instead of one round trip; `all` is every suite that has something to judge by
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = suite_names())]
    suite: Vec<String>,
    /// The sets of the suites sts, retrieval and domains (configs/eval.toml is an example)
    #[arg(long, value_name = "FILE.toml", requires = "suite")]
    config: Option<PathBuf>,
    /// A second encoder for the suite sts: one that the decoder was not made for
    #[arg(long, value_name = "DIR|HUB", requires = "suite")]
    judge: Option<String>,
    /// Prompt of the queries in the suite retrieval, where it is not that of --prompt
    #[arg(long, value_name = "NAME", requires = "suite")]
    query_prompt: Option<String>,
}

/// Every suite that has something to judge by.
const ALL: &str = "all";

fn suite_names() -> PossibleValuesParser {
    PossibleValuesParser::new(std::iter::once(ALL).chain(Suite::ALL.map(Suite::name)))
}

/// What the suites take besides their flags.
pub(crate) struct Judged<'a> {
    pub(crate) decoder: &'a dyn Invert,
    pub(crate) inverter: &'a Inverter,
    pub(crate) encoder: &'a Encoder,
    pub(crate) world: &'a World,
    pub(crate) config: &'a SuitesConfig,
    pub(crate) texts: &'a [String],
    /// Their rows in the pair set that they are of.
    pub(crate) numbers: Option<&'a [usize]>,
    pub(crate) domains: Option<&'a [String]>,
    pub(crate) options: &'a RoundTripOptions,
    pub(crate) device: DeviceChoice,
    pub(crate) encoder_dtype: Dtype,
    /// Where an interrupted evaluation is kept.
    pub(crate) kept: Option<PathBuf>,
}

impl SuiteArgs {
    /// Whether suites are asked for.
    pub(crate) fn wanted(&self) -> bool {
        !self.suite.is_empty()
    }

    /// The sets that the suites take.
    pub(crate) fn config(&self) -> Result<SuitesConfig> {
        Ok(match &self.config {
            Some(path) => SuitesConfig::read(path)?,
            None => SuitesConfig::default(),
        })
    }

    /// Refuses flags that none of the suites looks at.
    fn check(&self, suites: &[Suite]) -> Result<()> {
        let of = |flag: &str, given: bool, suite: Suite| match given && !suites.contains(&suite) {
            true => {
                let message = format!("{flag} is for the suite {}, which does not run", suite.name());
                let hint = "name the suite in --suite, and its sets in --config, or leave the flag out";
                Err(ArgumentError::with_hint(message, hint))
            }
            false => Ok(()),
        };
        of("--judge", self.judge.is_some(), Suite::Sts)?;
        Ok(of("--query-prompt", self.query_prompt.is_some(), Suite::Retrieval)?)
    }

    /// Runs the suites asked for.
    pub(crate) fn run(
        &self,
        judged: &Judged<'_>,
        tell: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Evaluation> {
        let suites = self.suites(judged.config, judged.texts)?;
        self.check(&suites)?;
        let judge = match &self.judge {
            Some(source) => {
                let (device, dtype) = (judged.device, judged.encoder_dtype);
                Some(Encoder::open(source, &EncoderOptions { device, dtype, ..EncoderOptions::default() })?)
            }
            None => None,
        };
        if judge
            .as_ref()
            .is_some_and(|judge| judge.space().weights_digest == judged.encoder.space().weights_digest)
        {
            tracing::warn!("--judge is the encoder that the decoder was made for: it is no second opinion");
        }
        let judge = judge.as_ref().map(|judge| Spread::new(judge, judged.world));
        let queries = match &self.query_prompt {
            Some(prompt) => {
                let encoder = judged.encoder.under(prompt)?;
                let whom = format!("the encoder under --query-prompt {prompt}");
                encoder.space().require_within(judged.decoder.space(), &whom, "the decoder")?;
                Some(encoder)
            }
            None => None,
        };
        // candidates for a query's vector are encoded under the query's prompt
        let query_search = match (&queries, judged.decoder.search()) {
            (Some(encoder), Some(search)) => Some(Searching::new(judged.inverter, encoder, search.clone())?),
            _ => None,
        };
        let query_decoder = query_search.as_ref().map_or(judged.decoder, |search| search as &dyn Invert);
        let query_decoder = Spread::new(query_decoder, judged.world);
        let decoder = Spread::new(judged.decoder, judged.world);
        let encoder = Spread::new(judged.encoder, judged.world);
        let queries = queries.as_ref().map(|queries| Spread::new(queries, judged.world));
        let generate = &judged.options.generate;
        let encoder_dtype = models::device::kind_name(judged.encoder.kind());
        let evaluator = Evaluator {
            traveller: Traveller { encoder: &encoder, inverter: &decoder, generate },
            queries: queries.as_ref().map(|encoder| Traveller {
                encoder,
                inverter: &query_decoder,
                generate,
            }),
            judge: judge.as_ref().map(|judge| judge as &dyn models::Embed),
            config: judged.config,
            texts: judged.texts,
            numbers: judged.numbers,
            options: judged.options,
            domains: judged.domains,
            encoder_dtype,
            world: judged.world,
        };
        let mut evaluation = evaluator.run(&suites, judged.kept.as_deref(), tell)?;
        evaluation.date = Some(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        evaluation.cost.memory_bytes = peak_resident_bytes().unwrap_or(0);
        Ok(evaluation)
    }

    fn suites(&self, config: &SuitesConfig, texts: &[String]) -> Result<Vec<Suite>> {
        if !self.suite.iter().any(|name| name == ALL) {
            let asked = |suite: &Suite| self.suite.iter().any(|name| name == suite.name());
            return Ok(Suite::ALL.into_iter().filter(asked).collect());
        }
        let has = |suite: &Suite| match suite {
            Suite::Reconstruction | Suite::SelfRetrieval | Suite::Robustness => !texts.is_empty(),
            Suite::Sts => !config.sts.is_empty(),
            Suite::Retrieval => !config.retrieval.is_empty(),
            Suite::Domains => !config.domain.is_empty(),
            Suite::EdgeCases => true,
        };
        let found: Vec<Suite> = Suite::ALL.into_iter().filter(has).collect();
        match found.as_slice() {
            [Suite::EdgeCases] => Err(ArgumentError::with_hint(
                "--suite all: there is nothing to judge by but the edge cases",
                "give texts with --texts or --pairs, and the other sets with --config",
            )
            .into()),
            _ => Ok(found),
        }
    }
}

/// An evaluation for a reader.
pub(crate) fn text(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    if evaluation.trial {
        text += "a trial: a limit left texts out\n\n";
    }
    if let Some(result) = &evaluation.reconstruction {
        text += &eval::table(result);
    }
    let mut add = |title: &str, header: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(header.to_vec());
        table.add_rows(rows);
        table.column_iter_mut().skip(1).for_each(|column| {
            column.set_cell_alignment(CellAlignment::Right);
        });
        text += &format!("\n{title}\n{}\n", table.trim_fmt());
    };
    let found = evaluation.self_retrieval.iter();
    add(
        "does a text find itself",
        &["texts", "first", "mean reciprocal rank"],
        found
            .map(|found| vec![found.n.to_string(), with_interval(found.top_1), with_interval(found.mrr)])
            .collect(),
    );
    let sts = evaluation.sts.iter().flat_map(|set| {
        let judged = set.judge.iter().map(|scores| (format!("{} (judge)", set.name), scores));
        std::iter::once((set.name.clone(), &set.scores)).chain(judged).map(move |(name, scores)| {
            let list = [
                scores.originals.spearman,
                scores.both.spearman,
                scores.one_side.spearman,
                scores.preservation,
            ];
            let numbers = list.map(with_interval).into_iter();
            [name, set.n.to_string()].into_iter().chain(numbers).chain([plain(scores.mean_change)]).collect()
        })
    });
    add(
        "are pairs of sentences as alike as before (Spearman)",
        &["set", "pairs", "originals", "both read back", "one read back", "preserved", "mean change"],
        sts.collect(),
    );
    let retrieval = evaluation.retrieval.iter().map(|set| {
        let numbers = [
            set.originals.ndcg_at_10,
            set.queries.scores.ndcg_at_10,
            set.documents_read_back.scores.ndcg_at_10,
            set.queries.preservation,
            set.queries.overlap_at_10,
        ];
        [set.name.clone(), set.n.to_string()].into_iter().chain(numbers.map(with_interval)).collect()
    });
    add(
        "are documents still found (nDCG@10)",
        &[
            "collection",
            "queries",
            "originals",
            "queries read back",
            "documents read back",
            "preserved",
            "overlap@10",
        ],
        retrieval.collect(),
    );
    let domains = evaluation.domains.iter().map(|domain| {
        let scores = &domain.scores;
        let numbers =
            [scores.bleu, scores.token_f1, 100.0 * scores.exact_match, scores.cosine.unwrap_or(0.0)];
        [domain.name.clone(), scores.n.to_string()]
            .into_iter()
            .chain(numbers.map(|x| format!("{x:.3}")))
            .collect()
    });
    add(
        "domains, the worst first",
        &["domain", "texts", "BLEU", "token F1", "exact %", "cosine"],
        domains.collect(),
    );
    let edge = evaluation.edge_cases.iter().flat_map(|found| &found.categories);
    add(
        "edge cases, the worst first",
        &["category", "cases", "passed", "cosine"],
        edge.map(|of| {
            vec![of.category.clone(), of.n.to_string(), with_interval(of.passed), plain(of.cosine)]
        })
        .collect(),
    );
    let robust = evaluation.robustness.iter().map(|found| {
        let numbers = [found.bleu, found.token_f1, found.cosine, found.cosine_to_changed].map(plain);
        [found.perturbation.to_string(), format!("{:.3}", found.kept)].into_iter().chain(numbers).collect()
    });
    add(
        "vectors that were changed",
        &["change", "cosine kept", "BLEU", "token F1", "cosine to the text's", "to the changed"],
        robust.collect(),
    );
    text
}

fn plain(scored: Scored) -> String {
    scored.value.map_or("-".to_owned(), |value| format!("{value:.3}"))
}

fn with_interval(scored: Scored) -> String {
    match (scored.value, scored.interval) {
        (Some(value), Some([low, high])) => format!("{value:.3} ({low:.3} to {high:.3})"),
        _ => plain(scored),
    }
}
