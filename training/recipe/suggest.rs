//! The word that was probably meant.

/// The known word nearest to `word`, if one is near.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let likeness = |other: &str| strsim::jaro_winkler(&word.to_lowercase(), other);
    known
        .into_iter()
        .map(|other| (likeness(other), other))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_found() {
        let known = ["hidden", "heads", "kv_heads", "layers", "learning_rate"];
        for (typed, meant) in [
            ("hiden", "hidden"),
            ("kvheads", "kv_heads"),
            ("layer", "layers"),
            ("Learning_Rate", "learning_rate"),
        ] {
            assert_eq!(nearest(typed, known), Some(meant));
        }
        assert_eq!(nearest("zzz", known), None);
        assert_eq!(nearest("", known), None);
    }
}
