//! BLEU, equal to sacreBLEU 2: the 13a tokenizer, four orders, exponential smoothing.
//!
//! Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"; Post 2018, "A call for
//! clarity in reporting BLEU scores"; smoothing method 3 of Chen and Cherry 2014. The 13a tokenizer is mteval-v13a's
//! as `sacrebleu/tokenizers/tokenizer_13a.py` has it.
//!
//! Two scores come from the same counts. *Corpus BLEU* is `sacrebleu.corpus_bleu` with its defaults. *Sentence BLEU*
//! is the mean over the rows of `sacrebleu.sentence_bleu` with its defaults, effective order included: a text shorter
//! than four tokens is judged by the orders it has. vec2text reports a third thing under the name `bleu_score`: the
//! mean over the rows of `corpus_bleu` of one pair, without effective order, so that a hypothesis of fewer than four
//! tokens scores 0 there even when it is right. On longer texts the two means agree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::ngrams::overlap;
use super::pattern;
use super::whitespace::{trim_end, words};

/// The highest n-gram order.
const ORDERS: usize = 4;

/// Columns of BLEU's sufficient statistics.
pub(crate) const COLUMNS: usize = 2 + 2 * ORDERS;

/// Counts of one row, or their sums over many: tokens in the hypothesis, tokens in the reference, then for each order
/// the matched n-grams, then for each order the n-grams of the hypothesis. Sums of counts give corpus BLEU exactly.
pub(crate) fn statistics(reference: &str, hypothesis: &str) -> [f64; COLUMNS] {
    let (reference, hypothesis) = (tokenize_13a(reference), tokenize_13a(hypothesis));
    let mut ids = HashMap::new();
    let (reference, hypothesis) = (number(&reference, &mut ids), number(&hypothesis, &mut ids));
    let mut row = [0.0; COLUMNS];
    row[0] = hypothesis.len() as f64;
    row[1] = reference.len() as f64;
    for order in 1..=ORDERS {
        let grams = overlap(&hypothesis, &reference, order, 32);
        row[1 + order] = grams.matched as f64;
        row[1 + ORDERS + order] = grams.hypothesis as f64;
    }
    row
}

/// Each distinct token as a number.
fn number<'a>(text: &'a str, ids: &mut HashMap<&'a str, u32>) -> Vec<u32> {
    words(text)
        .map(|word| {
            let next = ids.len() as u32;
            *ids.entry(word).or_insert(next)
        })
        .collect()
}

/// BLEU, 0 to 100, from summed [`statistics`] (`BLEU.compute_bleu` of sacreBLEU).
///
/// `effective_order`: leave out the orders for which the hypothesis has no n-gram (for single sentences); without it
/// such an order makes the score 0.
pub(crate) fn bleu(sums: &[f64], effective_order: bool) -> f64 {
    let (length, reference_length) = (sums[0], sums[1]);
    let (matched, total) = (&sums[2..2 + ORDERS], &sums[2 + ORDERS..COLUMNS]);
    if matched.iter().all(|&count| count == 0.0) {
        return 0.0;
    }
    let brevity_penalty =
        if length < reference_length { (1.0 - reference_length / length).exp() } else { 1.0 };
    let mut smoothing = 1.0;
    let mut log_sum = 0.0;
    let mut orders = 0;
    for (&matched, &total) in matched.iter().zip(total) {
        if total == 0.0 {
            break;
        }
        orders += 1;
        log_sum += if matched == 0.0 {
            smoothing *= 2.0;
            (100.0 / (smoothing * total)).ln()
        } else {
            (100.0 * matched / total).ln()
        };
    }
    if orders < ORDERS && !effective_order {
        return 0.0;
    }
    brevity_penalty * (log_sum / f64::from(orders as u32)).exp()
}

/// The text with its tokens separated by single spaces or more, as sacreBLEU's tokenizer `13a` gives them.
pub(crate) fn tokenize_13a(text: &str) -> String {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        [
            // ASCII punctuation, except the apostrophe, comma, hyphen and full stop (sacreBLEU puts spaces round a space
            // too, which changes nothing)
            (pattern(r"[{-~\[-`!-&(-+:-@/]"), " $0 "),
            // a full stop or comma, unless preceded by a digit
            (pattern(r"([^0-9])([.,])"), "$1 $2 "),
            // a full stop or comma, unless followed by a digit
            (pattern(r"([.,])([^0-9])"), " $1 $2"),
            // a hyphen after a digit
            (pattern(r"([0-9])(-)"), "$1 $2 "),
        ]
    });
    let mut line = trim_end(text).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        line = line.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    line = format!(" {line} ");
    for (rule, replacement) in RULES.iter() {
        if let Cow::Owned(replaced) = rule.replace_all(&line, *replacement) {
            line = replaced;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_13a() {
        let tokens = |text| words(&tokenize_13a(text)).map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(
            tokens("It costs $3.88, 1,000-fold (or so)."),
            "It costs $ 3.88 , 1,000 - fold ( or so ) ."
        );
        assert_eq!(tokens("semi-\nautomatic &quot;x&quot; don't"), "semiautomatic \" x \" don't");
    }

    #[test]
    fn short_texts_need_effective_order() {
        let row = statistics("Two words", "Two words");
        assert_eq!(bleu(&row, false), 0.0);
        assert!((bleu(&row, true) - 100.0).abs() < 1e-9);
        assert_eq!(bleu(&statistics("", ""), true), 0.0);
    }
}
