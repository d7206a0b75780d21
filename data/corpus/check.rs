//! What a recipe may not say of a corpus.

use std::path::{Component, Path};

use super::config::default_max_file_bytes;
use super::{Column, CorpusConfig, Format, GroupBy};
use crate::{Error, Result};

impl CorpusConfig {
    /// Refuses settings that contradict each other or the format.
    ///
    /// # Errors
    /// The first such setting, by its key.
    pub fn validate(&self) -> Result<()> {
        self.check_place()?;
        self.check_amounts()?;
        self.check_columns()?;
        self.check_options()?;
        self.check_grouping()
    }

    fn wrong(&self, key: &str, value: impl Into<String>, reason: impl Into<String>) -> Result<()> {
        let key = format!("corpus.{}.{key}", self.name);
        Err(Error::Setting { key, value: value.into(), reason: reason.into() })
    }

    /// Its name, and where its files are.
    fn check_place(&self) -> Result<()> {
        if self.name.trim().is_empty() {
            return self.wrong("name", format!("{:?}", self.name), "a corpus needs a name");
        }
        if self.path.as_slice().is_empty() {
            return self.wrong("path", "[]", "no file is named");
        }
        if let Some(hub) = &self.hub {
            if let Some(path) = self.path.as_slice().iter().find(|path| !is_within(path)) {
                let reason =
                    "with `hub`, a path lies within the repository: no leading /, no .., no ~ and no $";
                return self.wrong("path", format!("{:?}", path.display().to_string()), reason);
            }
            if self.format == Format::Rustdoc {
                return self.wrong("hub", format!("{hub:?}"), "source trees are not read from a hub");
            }
        }
        if self.file_domains && self.domain.is_some() {
            return self.wrong("file_domains", "true", "`domain` says one for all files");
        }
        Ok(())
    }

    /// How much of them is read.
    fn check_amounts(&self) -> Result<()> {
        if let Some(share) = self.share.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return self.wrong("share", share.to_string(), "a share lies above 0 and up to 1");
        }
        if self.max_line_bytes == 0 {
            return self.wrong("max_line_bytes", "0", "no line fits into nothing");
        }
        Ok(())
    }

    /// Which columns hold text.
    fn check_columns(&self) -> Result<()> {
        let format = self.format;
        let wrong = |value: String, reason: String| self.wrong("columns", value, reason);
        if matches!(format, Format::Tsv | Format::Csv) && self.columns.is_empty() {
            let reason = "say which columns hold text, by name or by number counted from 0";
            return wrong("[]".into(), reason.into());
        }
        let has_columns = format.is_table() || format.is_keyed() || format.is_collection();
        if !(has_columns || self.columns.is_empty()) {
            return wrong(list(&self.columns), format!("the format {format} has no columns to choose from"));
        }
        let numbered = self.columns.iter().find(|column| matches!(column, Column::Number(_)));
        if let Some(column) = numbered.filter(|_| !format.is_table()) {
            return wrong(column.to_string(), format!("columns of {format} have names, not numbers"));
        }
        let known = ["title", "text", "query"].map(|name| Column::Name(name.into()));
        let unknown = self.columns.iter().find(|column| !known.contains(column));
        if let Some(column) = unknown.filter(|_| format.is_collection()) {
            return wrong(column.to_string(), format!("of {format}, there are title, text and query"));
        }
        Ok(())
    }

    /// What is said of one format alone: of another it would be passed over in silence.
    fn check_options(&self) -> Result<()> {
        let format = self.format;
        if self.paragraphs && format != Format::Text {
            let reason = format!("paragraphs are those of the format text, this is {format}");
            return self.wrong("paragraphs", "true", reason);
        }
        for (key, said) in [("header", self.header), ("quotes", self.quotes)] {
            if let Some(said) = said.filter(|_| !format.is_table()) {
                let reason = format!("it is said of tables (tsv, csv, arxiv), this is {format}");
                return self.wrong(key, said.to_string(), reason);
            }
        }
        let named = self.text_columns().iter().any(|column| matches!(column, Column::Name(_)));
        if self.header == Some(false) && named {
            return self.wrong("header", "false", "columns are asked for by name, which only a header gives");
        }
        if self.max_file_bytes != default_max_file_bytes() && format != Format::Rustdoc {
            let reason = format!("it is said of the format rustdoc, this is {format}");
            return self.wrong("max_file_bytes", self.max_file_bytes.to_string(), reason);
        }
        Ok(())
    }

    /// Which texts belong together.
    fn check_grouping(&self) -> Result<()> {
        let format = self.format;
        match &self.group_by {
            Some(GroupBy::Lines(0)) => self.wrong("group_by.lines", "0", "a group needs lines"),
            Some(GroupBy::Column(column)) if !(format.is_table() || format.is_keyed()) => {
                let reason = format!("the format {format} has no such columns");
                self.wrong("group_by.column", column.to_string(), reason)
            }
            _ => Ok(()),
        }
    }
}

/// Whether a path stays within a repository.
fn is_within(path: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let text = path.to_string_lossy();
    path.components().all(plain) && !text.starts_with('~') && !text.contains('$')
}

fn list(columns: &[Column]) -> String {
    let all: Vec<String> = columns.iter().map(Column::to_string).collect();
    format!("[{}]", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: CorpusConfig) -> String {
        config.validate().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_said_of_another_format_is_refused_by_its_key() {
        for format in [Format::Text, Format::Csv, Format::Jsonl, Format::Rustdoc] {
            let columns = if format == Format::Csv { vec![Column::Number(0)] } else { Vec::new() };
            let plain = || CorpusConfig { columns: columns.clone(), ..CorpusConfig::new("a", "b", format) };
            let said = [
                ("paragraphs", Format::Text, CorpusConfig { paragraphs: true, ..plain() }),
                ("header", Format::Csv, CorpusConfig { header: Some(true), ..plain() }),
                ("quotes", Format::Csv, CorpusConfig { quotes: Some(false), ..plain() }),
                ("max_file_bytes", Format::Rustdoc, CorpusConfig { max_file_bytes: 9, ..plain() }),
            ];
            assert_eq!(refused(plain()), "", "{format}");
            for (key, of, config) in said {
                let found = refused(config);
                let is_named = found.starts_with(&format!("corpus.a.{key} = ")) && found.contains("this is");
                assert!(if format == of { found.is_empty() } else { is_named }, "{format}, {key}: {found}");
            }
        }
    }
}
