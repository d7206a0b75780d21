//! Splitting a text into sentences, for the word tokenizer alone: `nltk.word_tokenize` does it first, so that the
//! full stop of every sentence becomes a token, not only the last one's.
//!
//! This is NLTK's Punkt algorithm (Kiss and Strunk 2006, "Unsupervised multilingual sentence boundary detection";
//! `nltk/tokenize/punkt.py`) without its trained English model: the list of abbreviations in `abbreviations.txt` stands
//! for the model's, and the model's collocations, frequent sentence starters and orthographic contexts are empty. The
//! difference is that a sentence that ends in an abbreviation is never ended by it ("... and co. The rest") and that
//! an abbreviation which is not in the list always ends one. Both texts of a pair are treated alike.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::pattern;
use super::whitespace::trim_end;

static ABBREVIATIONS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("abbreviations.txt").lines().collect());

/// The sentences of `text`, without the white space between them.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut slices = Vec::new();
    let mut start = 0;
    for candidate in candidates(text) {
        let context = &text[candidate.word..candidate.context_end];
        if ends_sentence(context) {
            slices.push((start, candidate.stop));
            start = candidate.next;
        }
    }
    slices.push((start, trim_end(text).len()));
    realign(text, &slices)
}

/// A character that may end a sentence, in bytes of the text.
struct Candidate {
    /// Where the word before it begins.
    word: usize,
    /// The character itself.
    mark: usize,
    /// Just after the character.
    stop: usize,
    /// Where the next sentence would begin.
    next: usize,
    /// The end of what follows: one punctuation mark, or white space and a word.
    context_end: usize,
}

/// `_match_potential_end_contexts`: of several end characters in one word only the last is a candidate.
fn candidates(text: &str) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let (mut word, mut mark) = (0, 0);
    for (at, c) in text.char_indices().filter(|&(_, c)| matches!(c, '.' | '?' | '!')) {
        let stop = at + c.len_utf8();
        let Some((next, context_end)) = following(text, stop) else { continue };
        match text[mark..at].rfind([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']) {
            Some(space) if space > 0 => word = mark + space + 1,
            _ => {}
        }
        if found.last().is_some_and(|last| last.mark > word) {
            found.pop();
        }
        mark = at;
        found.push(Candidate { word, mark, stop, next, context_end });
    }
    found
}

/// What must follow a candidate: a character that cannot stand in a word, or white space and a word. Gives the start
/// of the next sentence and the end of the context.
fn following(text: &str, stop: usize) -> Option<(usize, usize)> {
    let rest = &text[stop..];
    let first = rest.chars().next()?;
    if is_non_word(first) {
        return Some((stop, stop + first.len_utf8()));
    }
    let word = rest.trim_start_matches(char::is_whitespace);
    let next = stop + (rest.len() - word.len());
    if next == stop || word.is_empty() {
        return None;
    }
    Some((next, next + word.find(char::is_whitespace).unwrap_or(word.len())))
}

fn is_non_word(c: char) -> bool {
    matches!(c, ')' | '"' | ';' | '}' | ']' | '*' | ':' | '@' | '\'' | '(' | '{' | '[')
        || matches!(c, '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '\u{ab}' | '\u{bb}' | '?' | '!')
}

/// `text_contains_sentbreak`: whether a token of the context other than the last ends a sentence.
fn ends_sentence(context: &str) -> bool {
    let lines = context.split('\n');
    let tokens: Vec<&str> = lines.flat_map(punkt_tokens).collect();
    tokens.windows(2).any(|pair| breaks(pair[0], pair[1]))
}

/// The two annotation passes for one token and the one after it.
fn breaks(token: &str, next: &str) -> bool {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^-?[.,]?\d[\d,.-]*\.?$"));
    static INITIAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\w--\d]\.$"));
    if matches!(token, "?" | "!") {
        return true;
    }
    if !token.ends_with('.') || token.ends_with("..") {
        return false;
    }
    let kind = token[..token.len() - 1].to_lowercase();
    let last_part = kind.rsplit('-').next().unwrap_or_default();
    if token != "." && (ABBREVIATIONS.contains(kind.as_str()) || ABBREVIATIONS.contains(last_part)) {
        return false;
    }
    let initial = INITIAL.is_match(token);
    if initial || NUMBER.is_match(token) {
        let no_starter = matches!(next, ";" | ":" | "," | "." | "!" | "?")
            || next.chars().next().is_some_and(char::is_lowercase);
        let capital = next.chars().next().is_some_and(char::is_uppercase);
        return !(no_starter || (initial && capital));
    }
    true
}

/// Punkt's own word tokens of one line (`PunktLanguageVars.word_tokenize`).
fn punkt_tokens(line: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = line[at..].chars().next() {
        let length = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if let Some(length) = multi_char(&line[at..]) {
            length
        } else if starts_word(c) {
            word_length(&line[at..])
        } else {
            c.len_utf8()
        };
        tokens.push(&line[at..at + length]);
        at += length;
    }
    tokens
}

fn starts_word(c: char) -> bool {
    !matches!(
        c,
        '(' | '"' | '`' | '{' | '[' | ':' | ';' | '&' | '#' | '*' | '@' | ')' | '}' | ']' | '-' | ','
    )
}

/// The length in bytes of the word that `rest` begins with, of at least one character.
fn word_length(rest: &str) -> usize {
    let ends = |at: usize, comma: bool| {
        let after = &rest[at..];
        let Some(c) = after.chars().next() else { return true };
        c.is_whitespace() || is_non_word(c) || multi_char(after).is_some() || (comma && c == ',')
    };
    for (at, c) in rest.char_indices().skip(1) {
        if ends(at, false) || (c == ',' && ends(at + 1, false)) {
            return at;
        }
    }
    rest.len()
}

/// The length of the dashes, dots or spaced dots that `rest` begins with.
fn multi_char(rest: &str) -> Option<usize> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"));
    PATTERN.find(rest).map(|found| found.end())
}

/// `_realign_boundaries`: closing quotes and brackets go to the sentence they close.
fn realign<'a>(text: &'a str, slices: &[(usize, usize)]) -> Vec<&'a str> {
    static CLOSERS: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(?m)\\A([\"')\\]}\u{2018}\u{2019}\u{201c}\u{201d}\u{ab}\u{bb}]+)(\\s+|--|$)")
    });
    let mut aligned = Vec::new();
    let mut shift = 0;
    for (i, &(start, stop)) in slices.iter().enumerate() {
        let start = start + shift;
        shift = 0;
        let mut sentence = text.get(start..stop).unwrap_or_default();
        if let Some(&(next_start, next_stop)) = slices.get(i + 1) {
            let next = text.get(next_start..next_stop).unwrap_or_default();
            if let Some(closers) = CLOSERS.captures(next) {
                let (closing, space) = (&closers[1], &closers[2]);
                sentence = &text[start..next_start + closing.len()];
                shift = closing.len() + if space == "--" { 0 } else { space.len() };
            }
        }
        if !sentence.is_empty() {
            aligned.push(sentence);
        }
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abbreviations_and_initials_do_not_end_a_sentence() {
        let text = "Dr. J. Smith paid 3.50 in 1990. \"He left!\" (Why?) Nobody knows...";
        assert_eq!(
            sentences(text),
            ["Dr. J. Smith paid 3.50 in 1990.", "\"He left!\"", "(Why?)", "Nobody knows..."]
        );
        assert!(sentences("").is_empty());
    }
}
