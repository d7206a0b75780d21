//! Documentation comments of Rust source: `///`, `//!`, `/** */` and `/*! */`, Markdown made prose, one row a paragraph.

use std::collections::VecDeque;
use std::path::Path;

use super::markdown::paragraphs;
use super::{CorpusConfig, Fault, Row};
use crate::Result;
use crate::text_file::{LineRead, Lines, not_utf8, too_long};

/// The paragraphs of a source file's documentation.
pub(super) struct CommentRows {
    lines: Lines,
    limit: usize,
    comment: Option<Comment>,
    rows: VecDeque<Row>,
    ended: bool,
}

struct Comment {
    line: u64,
    style: Style,
    markdown: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `///`
    Outer,
    /// `//!`
    Inner,
    /// `/** */` or `/*! */`
    Block,
}

/// The style and the content of a line that is, or begins, a documentation comment. Four slashes or three stars begin
/// an ordinary one.
fn doc_comment(line: &str) -> Option<(Style, &str)> {
    let line = line.trim_start();
    if let Some(text) = line.strip_prefix("///") {
        return (!text.starts_with('/')).then_some((Style::Outer, text));
    }
    if let Some(text) = line.strip_prefix("//!") {
        return Some((Style::Inner, text));
    }
    let text = line.strip_prefix("/**").or_else(|| line.strip_prefix("/*!"))?;
    (!text.starts_with(['*', '/'])).then_some((Style::Block, text))
}

impl CommentRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<CommentRows> {
        let limit = config.max_line_bytes;
        let lines = Lines::open(path, limit)?;
        Ok(CommentRows { lines, limit, comment: None, rows: VecDeque::new(), ended: false })
    }

    /// Makes rows of the comment read so far.
    fn finish(&mut self) {
        let Some(Comment { line, markdown, .. }) = self.comment.take() else {
            return;
        };
        let rows = paragraphs(&unindented(&markdown)).into_iter();
        self.rows.extend(rows.map(|text| Row { line, texts: vec![text], group: None }));
    }

    fn take(&mut self, text: &str) {
        if let Some(comment) = &mut self.comment
            && comment.style == Style::Block
        {
            let (part, last) = match text.split_once("*/") {
                Some((part, _)) => (part, true),
                None => (text, false),
            };
            // a star that leads each line of a block is no list
            comment.add(part.trim_start().strip_prefix('*').unwrap_or(part), self.limit);
            if last {
                self.finish();
            }
            return;
        }
        let Some((style, content)) = doc_comment(text) else {
            return self.finish();
        };
        if self.comment.as_ref().is_some_and(|comment| comment.style != style) {
            self.finish();
        }
        let (content, one_line_block) = match content.split_once("*/") {
            Some((content, _)) if style == Style::Block => (content, true),
            _ => (content, false),
        };
        let line = self.lines.line();
        let comment = self.comment.get_or_insert_with(|| Comment { line, style, markdown: String::new() });
        comment.add(content, self.limit);
        if one_line_block {
            self.finish();
        }
    }
}

impl Comment {
    /// A comment over the limit keeps its beginning.
    fn add(&mut self, text: &str, limit: usize) {
        if self.markdown.len() + text.len() < limit {
            self.markdown.push_str(text);
            self.markdown.push('\n');
        }
    }
}

/// Takes off the white space that all lines begin with: the space after `///` must not make code of prose.
fn unindented(markdown: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    // the first line of a block stands directly after its opening
    let lines = markdown
        .lines()
        .enumerate()
        .filter(|(i, line)| !line.trim().is_empty() && (*i > 0 || line.starts_with(' ')));
    let common = lines.map(|(_, line)| indent(line)).min().unwrap_or(0);
    markdown
        .lines()
        .map(|line| line.get(common.min(indent(line))..).unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

impl Iterator for CommentRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Some(Ok(row));
            }
            if self.ended {
                return None;
            }
            buffer.clear();
            let reason = match self.lines.next_line(&mut buffer) {
                Err(error) => return Some(Err(error.into())),
                Ok(LineRead::End) => {
                    self.ended = true;
                    self.finish();
                    continue;
                }
                Ok(LineRead::TooLong { bytes }) => too_long(bytes, self.limit),
                Ok(LineRead::Line) => match std::str::from_utf8(&buffer) {
                    Ok(text) => {
                        self.take(text);
                        continue;
                    }
                    Err(error) => not_utf8(error),
                },
            };
            return Some(Err(Fault::Row { line: self.lines.line(), reason }));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::corpus::Format;

    fn rows(source: &str) -> Vec<(u64, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.rs");
        fs_err::write(&path, source).unwrap();
        let config = CorpusConfig::new("docs", &path, Format::Rustdoc);
        CommentRows::open(&path, &config)
            .unwrap()
            .map(|row| row.map(|row| (row.line, row.texts.concat())).unwrap())
            .collect()
    }

    #[test]
    fn consecutive_lines_are_one_comment() {
        let source = "//! About the\n//! crate.\n\n/// Returns one\n/// of them.\n///\n/// Second.\npub fn f() {}\n\
                      //// no\n// no\n/***/\n/** Block one. */\nstruct S;\n/**\n * Starred\n * lines.\n */\n/*** no */\n";
        let expected = [
            (1, "About the crate."),
            (4, "Returns one of them."),
            (4, "Second."),
            (12, "Block one."),
            (14, "Starred lines."),
        ];
        assert_eq!(rows(source), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn an_indented_block_is_prose_and_examples_are_not() {
        let source = "    /**\n        Four spaces or more.\n\n        And more.\n    */\n/// Example:\n///\n/// ```\n/// let x = 1;\n/// ```\n";
        let expected = [(1, "Four spaces or more."), (1, "And more."), (6, "Example:")];
        assert_eq!(rows(source), expected.map(|(line, text)| (line, text.to_owned())));
    }
}
