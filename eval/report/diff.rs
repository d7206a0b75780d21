//! What came back, word by word against what went in.

use serde::Serialize;
use similar::{Algorithm, DiffTag, capture_diff_slices};
use unicode_segmentation::UnicodeSegmentation as _;

/// A piece of text: both have it, or one of them alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Piece {
    /// `same`, `lost` (what went in alone has it) or `new` (what came back alone has it).
    pub(super) kind: &'static str,
    /// The text.
    pub(super) text: String,
}

/// The pieces of both texts in reading order, what is lost before what is new in its place.
pub(super) fn pieces(reference: &str, hypothesis: &str) -> Vec<Piece> {
    let words = |text: &str| text.split_word_bounds().map(str::to_owned).collect::<Vec<String>>();
    let (from, to) = (words(reference), words(hypothesis));
    let mut pieces: Vec<Piece> = Vec::new();
    let mut add = |kind: &'static str, text: String| match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.kind == kind => last.text += &text,
        _ => pieces.push(Piece { kind, text }),
    };
    for change in capture_diff_slices(Algorithm::Myers, &from, &to) {
        let (old, new) = (from[change.old_range()].concat(), to[change.new_range()].concat());
        match change.tag() {
            DiffTag::Equal => add("same", old),
            _ => {
                add("lost", old);
                add("new", new);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_are_in_the_pieces() {
        let (from, to) = ("A man in a red hat sings.", "A tall man in a blue hat sings");
        let found = pieces(from, to);
        let of = |without: &str| -> String {
            found.iter().filter(|piece| piece.kind != without).map(|piece| piece.text.as_str()).collect()
        };
        assert_eq!(of("new"), from);
        assert_eq!(of("lost"), to);
        assert!(found.contains(&Piece { kind: "lost", text: "red".into() }));
        assert!(found.contains(&Piece { kind: "new", text: "blue".into() }));
        assert!(pieces("", "").is_empty());
    }
}
