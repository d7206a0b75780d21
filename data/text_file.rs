//! Text files, compressed or not, a bounded line at a time.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::{Error, Result};

/// A line longer than this is not text: 1 MiB.
pub const MAX_LINE_BYTES: usize = 1 << 20;
const BUFFER: usize = 128 << 10;

/// Opens a file and undoes gzip, xz or Zstandard, which are known by their first bytes, whatever the file's name.
///
/// # Errors
/// The file cannot be opened or its first bytes cannot be read.
pub fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        let reason = "this is a folder, where a file is needed".into();
        return Err(Error::Layout { path: path.to_owned(), reason });
    }
    let mut magic = [0u8; 6];
    let mut n = 0;
    while n < magic.len() {
        match file.read(&mut magic[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { path: path.to_owned(), line: 0, source }),
        }
    }
    // the first bytes are put back by chaining, so that pipes work too
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(magic[..n].to_vec()).chain(file));
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => buffered(flate2::bufread::MultiGzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => buffered(liblzma::bufread::XzDecoder::new_multi_decoder(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::with_buffer(whole);
            buffered(decoder.map_err(|source| Error::Read { path: path.to_owned(), line: 0, source })?)
        }
        _ => Box::new(whole),
    })
}

fn buffered(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER, reader))
}

/// What [`Lines::next_line`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineRead {
    /// A line, in the buffer, without its line end.
    Line,
    /// A line over the limit, passed over without being held in memory.
    TooLong {
        /// Its length in bytes.
        bytes: u64,
    },
    /// The end of the file.
    End,
}

/// The lines of a file, none of which takes more memory than the limit.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    line: u64,
    max_line_bytes: usize,
}

impl Lines {
    /// Opens a file, see [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: &Path, max_line_bytes: usize) -> Result<Lines> {
        Ok(Lines { reader: open(path)?, path: path.to_owned(), line: 0, max_line_bytes })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the line that was read last, counted from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Appends the next line to `buffer`, without `\n` or `\r\n`; a byte order mark at the start of the file is left
    /// out. The limit holds for this line, not for what the buffer held before.
    ///
    /// # Errors
    /// The file cannot be read: the disk, or damaged compression.
    pub fn next_line(&mut self, buffer: &mut Vec<u8>) -> Result<LineRead> {
        let start = buffer.len();
        let mut length = 0u64;
        let mut ended = false;
        while !ended {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Read { path: self.path.clone(), line: self.line, source }),
            };
            if chunk.is_empty() {
                if length == 0 {
                    return Ok(LineRead::End);
                }
                break;
            }
            let newline = chunk.iter().position(|&byte| byte == b'\n');
            let take = newline.unwrap_or(chunk.len());
            // two bytes more than the limit, for the carriage return and to tell a line at the limit from a longer one
            let room = (self.max_line_bytes + 2).saturating_sub(buffer.len() - start);
            buffer.extend_from_slice(&chunk[..take.min(room)]);
            ended = newline.is_some();
            let used = take + usize::from(ended);
            length += used as u64;
            self.reader.consume(used);
        }
        self.line += 1;
        length -= u64::from(ended);
        if length <= self.max_line_bytes as u64 + 1 && buffer[start..].last() == Some(&b'\r') {
            buffer.pop();
            length -= 1;
        }
        if length > self.max_line_bytes as u64 {
            buffer.truncate(start);
            return Ok(LineRead::TooLong { bytes: length });
        }
        if self.line == 1 && buffer[start..].starts_with(b"\xef\xbb\xbf") {
            buffer.drain(start..start + 3);
        }
        Ok(LineRead::Line)
    }
}

/// All lines of a text file, compressed or not, for files that fit memory; line `i` of the file is item `i - 1`.
///
/// # Errors
/// The file cannot be read; a line is no UTF-8 or longer than [`MAX_LINE_BYTES`], and is named.
pub fn read_lines(path: &Path) -> Result<Vec<String>> {
    let mut lines = Lines::open(path, MAX_LINE_BYTES)?;
    let mut texts = Vec::new();
    loop {
        let mut line = Vec::new();
        let reason = match lines.next_line(&mut line)? {
            LineRead::End => return Ok(texts),
            LineRead::TooLong { bytes } => {
                format!(
                    "the line has {bytes} bytes, more than a line of text may have ({MAX_LINE_BYTES} bytes)"
                )
            }
            LineRead::Line => match String::from_utf8(line) {
                Ok(text) => {
                    texts.push(text);
                    continue;
                }
                Err(error) => not_utf8(error.utf8_error()),
            },
        };
        return Err(Error::Line { path: path.to_owned(), line: lines.line(), reason });
    }
}

/// The reason given for a line of a corpus that is over its limit.
pub(crate) fn too_long(bytes: u64, limit: usize) -> String {
    format!("the line has {bytes} bytes, more than max_line_bytes = {limit}")
}

/// The reason given for bytes that are no UTF-8.
pub(crate) fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("invalid UTF-8 at byte {} of the line", error.valid_up_to() + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn compression_is_known_by_its_bytes() {
        let text = b"one\ntwo\r\n\nfour";
        let expected = ["one", "two", "", "four"];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(text).unwrap();
        let zst = zstd::encode_all(&text[..], 1).unwrap();
        for bytes in [text.to_vec(), gz.finish().unwrap(), xz.finish().unwrap(), zst] {
            assert_eq!(read_lines(file(&bytes).path()).unwrap(), expected);
        }
    }

    #[test]
    fn two_members_are_one_file() {
        let mut bytes = zstd::encode_all(&b"a\n"[..], 1).unwrap();
        bytes.extend(zstd::encode_all(&b"b\n"[..], 1).unwrap());
        assert_eq!(read_lines(file(&bytes).path()).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_cut_archive_is_an_error_and_not_an_end() {
        let text: String = (0..5000).map(|i| format!("line number {i}\n")).collect();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(text.as_bytes()).unwrap();
        let bytes = xz.finish().unwrap();
        let cut = file(&bytes[..bytes.len() / 2]);
        let error = read_lines(cut.path()).unwrap_err();
        assert!(matches!(&error, Error::Read { path, .. } if path == cut.path()), "{error}");
    }

    #[test]
    fn the_limit_counts_the_line_without_its_end() {
        let there = file(b"\xef\xbb\xbfab\n12345\r\n123456\n1234567890123\nx");
        let mut lines = Lines::open(there.path(), 5).unwrap();
        let mut found = Vec::new();
        loop {
            let mut line = Vec::new();
            let read = lines.next_line(&mut line).unwrap();
            if read == LineRead::End {
                break;
            }
            found.push((read, String::from_utf8(line).unwrap()));
        }
        let long = |bytes| (LineRead::TooLong { bytes }, String::new());
        let line = |text: &str| (LineRead::Line, text.to_owned());
        assert_eq!(found, [line("ab"), line("12345"), long(6), long(13), line("x")]);
    }

    #[test]
    fn a_bad_byte_is_named_with_its_line() {
        let there = file(b"good\nb\xffd\n");
        let error = read_lines(there.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.ends_with("line 2: invalid UTF-8 at byte 2 of the line"), "{message}");
        // `strict` is a word of corpora
        assert_eq!(error.hint().unwrap(), "correct the line, or take it out");
    }

    #[test]
    fn a_line_too_long_is_named_with_the_limit() {
        let mut bytes = b"good\n".to_vec();
        bytes.resize(bytes.len() + MAX_LINE_BYTES + 1, b'x');
        let error = read_lines(file(&bytes).path()).unwrap_err();
        assert!(matches!(error, Error::Line { line: 2, .. }), "{error}");
        let (message, hint) = (error.to_string(), error.hint().unwrap());
        assert!(message.contains("1048577 bytes") && message.contains("(1048576 bytes)"), "{message}");
        assert!(!message.contains("max_line_bytes") && !hint.contains("strict"), "{message}; {hint}");
    }
}
