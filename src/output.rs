//! stdout: results and nothing else.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use fs_err as fs;

use crate::failure::WorldError;

/// Writes a result to stdout. A reader that hung up (`| head`) is no error.
pub(crate) fn write(body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match body(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write the result to stdout"),
    }
}

/// Writes `value` as one line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    let line = serde_json::to_string(value).context("cannot write the result as JSON")?;
    write(|out| writeln!(out, "{line}"))
}

/// Refuses a file whose folder is not there, before the work that would fill it.
pub(crate) fn require_folder(file: &Path) -> Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(WorldError::with_hint(
            format!("{}: there is no folder {}", file.display(), folder.display()),
            "make the folder first, or choose another place",
        )
        .into()),
        _ => Ok(()),
    }
}

/// Writes `value` as indented JSON to a file, by temporary name and rename.
pub(crate) fn json_file(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
    text.push('\n');
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// A text on one line: line breaks and backslashes escaped, so that lines and vectors stay in step.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            other => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn line_breaks_are_escaped_and_can_be_told_from_backslashes() {
        assert_eq!(one_line("a\nb"), "a\\nb");
        assert_eq!(one_line("a\\nb"), "a\\\\nb");
        assert_eq!(one_line("a\r\nb"), "a\\r\\nb");
    }
}
