//! An evaluation in a few sentences.

use crate::suites::Evaluation;

/// Scores below this are named as weak.
const WEAK: f64 = 0.5;

/// What a reader should take away: how much comes back, what it is good for, where it fails.
pub fn headline(evaluation: &Evaluation) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(result) = &evaluation.reconstruction {
        let scores = &result.summary;
        let cosine = scores.cosine.map_or(String::new(), |cosine| {
            format!(", and what comes back has a cosine of {cosine:.2} to what went in")
        });
        sentences.push(format!(
            "Of {} texts, {} come back word for word; the F1 of the words is {:.2}{cosine}.",
            scores.n,
            percent(scores.exact_match),
            scores.token_f1,
        ));
    }
    if let Some(found) = &evaluation.self_retrieval
        && let Some(first) = found.top_1.value
    {
        sentences.push(format!(
            "{} of the texts still find their own vector first among {}.",
            percent(first),
            found.n
        ));
    }
    let preserved = |name: &str, list: Vec<(String, f64)>| {
        let mean = list.iter().map(|(_, value)| value).sum::<f64>() / list.len().max(1) as f64;
        let several = list.len() > 1;
        let (worst, least) = list.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        let least = if several { format!(", least in {worst} ({})", percent(least)) } else { String::new() };
        Some(format!("{name} is preserved to {}{least}.", percent(mean)))
    };
    let sts =
        evaluation.sts.iter().filter_map(|set| Some((set.name.clone(), set.scores.preservation.value?)));
    sentences.extend(preserved("The likeness of sentences (STS)", sts.collect()));
    let retrieval = evaluation
        .retrieval
        .iter()
        .filter_map(|set| Some((set.name.clone(), set.queries.preservation.value?)));
    sentences.extend(preserved("Retrieval with queries read back", retrieval.collect()));
    sentences.extend(weakness(evaluation));
    sentences
}

fn weakness(evaluation: &Evaluation) -> Vec<String> {
    let mut sentences = Vec::new();
    if let [domain, _, ..] = evaluation.domains.as_slice()
        && let Some(cosine) = domain.scores.cosine
    {
        let count = evaluation.domains.len();
        sentences.push(format!("Of {count} domains {} is the weakest (cosine {cosine:.2}).", domain.name));
    }
    let mut weak = Vec::new();
    let edge = evaluation.edge_cases.iter().flat_map(|found| &found.categories);
    for category in edge.filter(|category| category.passed.value.is_some_and(|passed| passed < WEAK)).take(3)
    {
        let passed = category.passed.value.unwrap_or(0.0);
        weak.push(format!("{} ({} right)", category.category, percent(passed)));
    }
    if !weak.is_empty() {
        sentences.push(format!("It fails most in {}.", weak.join(", ")));
    }
    sentences
}

/// A share in percent; by rounding what is not all does not become all, nor something nothing.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent {
        99.0..100.0 => format!("{:.1} %", percent.min(99.9)),
        0.0..1.0 if percent > 0.0 => format!("{:.1} %", percent.max(0.1)),
        _ => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_is_not_all() {
        let found = [0.0, 0.0001, 0.0043, 0.126, 0.994, 0.9999, 1.0, 1.02].map(percent);
        assert_eq!(found, ["0 %", "0.1 %", "0.4 %", "13 %", "99.4 %", "99.9 %", "100 %", "102 %"]);
    }
}
