//! The decoder's own vocabulary: what is written is read back, whatever the text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use models::vocabulary::{Vocabulary, train_bpe};
use proptest::prelude::*;
use std::sync::LazyLock;

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let texts = ["A man is playing a guitar.", "Two dogs run through the snow.", "E = mc² — naïve café"];
    train_bpe(texts.into_iter().cycle().take(300).map(str::to_owned), 400).unwrap()
});

#[test]
fn special_tokens_come_first_and_training_is_repeatable() {
    let vocabulary = &*VOCABULARY;
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.pad), (0, 1, 2));
    assert!(vocabulary.size() > 259 && vocabulary.size() <= 400);
    let text = "A man runs through the guitar.";
    assert!(vocabulary.encode(text).unwrap().len() < text.len() / 2);
    let again = {
        let texts = ["A man is playing a guitar.", "Two dogs run through the snow.", "E = mc² — naïve café"];
        train_bpe(texts.into_iter().cycle().take(300).map(str::to_owned), 400).unwrap()
    };
    assert_eq!(again.tokenizer().to_string(false).unwrap(), vocabulary.tokenizer().to_string(false).unwrap());
}

#[test]
fn saved_and_opened_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    VOCABULARY.save(&path).unwrap();
    let opened = Vocabulary::open(&path).unwrap();
    let text = "Two <pad> dogs, <eos> done";
    assert_eq!(opened.encode(text).unwrap(), VOCABULARY.encode(text).unwrap());
    assert_eq!(opened.decode(&opened.encode(text).unwrap()).unwrap(), text);
}

#[test]
fn special_ids_are_left_out_and_unknown_ids_refused() {
    let mut ids = vec![0];
    ids.extend(VOCABULARY.encode("a man").unwrap());
    ids.extend([1, 2, 2]);
    assert_eq!(VOCABULARY.decode(&ids).unwrap(), "a man");
    let error = VOCABULARY.decode(&[100_000]).unwrap_err();
    assert!(error.to_string().contains("100000"), "{error}");
}

#[test]
fn what_cannot_be_is_refused() {
    assert!(train_bpe(std::iter::empty(), 100).unwrap_err().to_string().contains("259"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs_err::write(&path, b"{\"version\": \"1.0\"").unwrap();
    let error = Vocabulary::open(&path).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json") && error.hint().is_some(), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_text_is_written_and_read_back(text in "\\PC{0,40}|(?s).{0,20}|[ a-z<>|\\n\\t]{0,40}") {
        let ids = VOCABULARY.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| (3..VOCABULARY.size() as u32).contains(&id)));
        prop_assert_eq!(VOCABULARY.decode(&ids).unwrap(), text);
    }
}
