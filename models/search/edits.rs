//! What one text changes of another, word by word.

use similar::{Algorithm, DiffOp, capture_diff_slices};
use unicode_segmentation::UnicodeSegmentation as _;

/// Words and marks, each with the white space before it: joined they are the text.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    for (at, word) in text.split_word_bound_indices() {
        let end = at + word.len();
        if !word.chars().all(char::is_whitespace) || end == text.len() {
            pieces.push(&text[start..end]);
            start = end;
        }
    }
    pieces
}

/// Pieces `start..end` of a text give way to others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edit {
    start: usize,
    end: usize,
    by: String,
}

impl Edit {
    /// Whether two of them cannot be made together: both change one piece, or both begin at one place.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        self.start == other.start || (self.start < other.end && other.start < self.end)
    }
}

/// The edits that turn one text into another, first to last.
pub(super) fn edits(from: &[&str], to: &[&str]) -> Vec<Edit> {
    let changes = capture_diff_slices(Algorithm::Myers, from, to);
    let edit = |change: DiffOp| {
        let (old, new) = (change.old_range(), change.new_range());
        let is_edit = !matches!(change, DiffOp::Equal { .. });
        is_edit.then(|| Edit { start: old.start, end: old.end, by: to[new].concat() })
    };
    changes.into_iter().filter_map(edit).collect()
}

/// The text after edits that do not clash, in any order.
pub(super) fn apply(pieces: &[&str], edits: &[&Edit]) -> String {
    let mut ordered = edits.to_vec();
    ordered.sort();
    let (mut text, mut at) = (String::new(), 0);
    for edit in ordered {
        text.extend(pieces[at..edit.start].iter().copied());
        text += &edit.by;
        at = edit.end;
    }
    text.extend(pieces[at..].iter().copied());
    // what stood behind a first word that is gone had a space before it
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn between(from: &str, to: &str) -> Vec<Edit> {
        edits(&pieces(from), &pieces(to))
    }

    #[test]
    fn pieces_keep_every_character() {
        assert_eq!(pieces("Two men,  it's 3.5 m."), ["Two", " men", ",", "  it's", " 3.5", " m", "."]);
        assert_eq!(pieces(""), [""; 0]);
        assert_eq!(pieces(" a "), [" a", " "]);
    }

    #[test]
    fn each_change_is_an_edit_of_its_own() {
        let (from, to) = ("A man in a red hat sings.", "A tall man in a blue hat sings loudly.");
        let found = between(from, to);
        assert_eq!(found.len(), 3);
        assert_eq!(apply(&pieces(from), &[&found[1]]), "A man in a blue hat sings.");
        assert_eq!(apply(&pieces(from), &[&found[2], &found[0]]), "A tall man in a red hat sings loudly.");
        assert_eq!(apply(&pieces("A dog"), &[&Edit { start: 0, end: 1, by: String::new() }]), "dog");
    }

    #[test]
    fn edits_of_one_place_clash() {
        let from = "A man in a red hat sings.";
        let [red, blue] =
            ["A man in a blue hat sings.", "A man in a red coat sings."].map(|to| between(from, to));
        assert!(!red[0].clashes(&blue[0]));
        assert!(red[0].clashes(&red[0]));
        let [both, one] =
            ["A man in a big hat sings.", "A man in one green hat sings."].map(|to| between(from, to));
        assert!(both[0].clashes(&one[0]));
    }

    proptest! {
        #[test]
        fn all_edits_together_make_the_other_text(from in "[ab ,.]{0,12}", to in "[ab ,.]{0,12}") {
            let found = between(&from, &to);
            let all: Vec<&Edit> = found.iter().rev().collect();
            prop_assert_eq!(apply(&pieces(&from), &all), to.trim());
            let clash = found.iter().enumerate().any(|(at, one)| found[..at].iter().any(|other| one.clashes(other)));
            prop_assert!(!clash);
        }
    }
}
