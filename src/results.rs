//! What `eval --out` has written, for the verbs that read it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use eval::suites::Evaluation;
use eval::{RoundTrip, result};
use models::files::read_json;
use serde_json::Value;

use crate::failure::WorldError;

/// Where a run's own results lie, the first that is there being the run's.
const OF_A_RUN: [&str; 2] = ["evaluation.json", "report.json"];

/// The result that stands for a run.
pub(crate) fn in_run(run: &Path) -> Option<PathBuf> {
    OF_A_RUN.into_iter().map(|name| run.join(name)).find(|file| file.is_file())
}

/// The same where there must be one.
pub(crate) fn required_in_run(run: &Path) -> Result<PathBuf> {
    in_run(run).ok_or_else(|| {
        let hint = format!(
            "inverse-stella eval {0} --texts FILE --suite all --out {0}/evaluation.json",
            run.display()
        );
        WorldError::with_hint(format!("{} holds no evaluation.json and no report.json", run.display()), hint)
            .into()
    })
}

/// An evaluation; a round trip by itself is one of a single suite.
pub(crate) fn read(file: &Path) -> Result<Evaluation> {
    let value: Value = read_json(file)?;
    match value["schema"].as_str() {
        Some(eval::suites::SCHEMA) => Ok(read_json(file)?),
        Some(result::SCHEMA) => Ok(read_json::<RoundTrip>(file)?.into()),
        found => {
            let found = found.map_or("no schema".to_owned(), |found| format!("the schema {found:?}"));
            let message = format!("{}: {found}, not that of an evaluation", file.display());
            Err(WorldError::with_hint(message, "give what `inverse-stella eval --out FILE.json` has written")
                .into())
        }
    }
}

/// The round trip of texts that a result holds.
pub(crate) fn read_round_trip(file: &Path) -> Result<RoundTrip> {
    read(file)?.reconstruction.ok_or_else(|| {
        let message = format!("{} says nothing of the suite reconstruction", file.display());
        WorldError::with_hint(message, "evaluate with --suite reconstruction too").into()
    })
}
