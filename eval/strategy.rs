//! How texts were found, in words, and what a search did on average.

use models::generate::{GenerateOptions, Strategy};
use models::inverter::Inverted;
use models::{Decodes, SearchOptions};

pub(crate) fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len().max(1) as f64;
    numbers.sum::<f64>() / count
}

/// Mean over the texts of the best cosine after each round; a text that has ended keeps its last.
pub(crate) fn course(inverted: &[Inverted]) -> Vec<f64> {
    let rounds = inverted.iter().map(|text| text.course.len()).max().unwrap_or(0);
    let after = |round: usize| {
        let of = |text: &Inverted| text.course.get(round).or(text.course.last()).copied();
        mean(inverted.iter().map(|text| of(text).unwrap_or(0.0)))
    };
    (0..rounds).map(after).collect()
}

/// How texts were searched for, in a few words.
pub(crate) fn searching(search: &SearchOptions) -> String {
    let decodes = |of: &Decodes| match (of.beam, of.samples) {
        (1, 0) => "1 greedy".to_owned(),
        (beam, 0) => format!("{beam} beams"),
        (0, samples) => format!("{samples} samples"),
        (beam, samples) => format!("{beam} beams and {samples} samples"),
    };
    let by = match search.prior > 0.0 {
        true => format!("cosine and likelihood (weight {})", search.prior),
        false => "cosine".to_owned(),
    };
    let mut text = format!("best {by} of {}", decodes(&search.first));
    if search.rounds > 0 {
        let (rounds, parents) = (search.rounds, search.parents);
        text += &match search.each.beam + search.each.samples {
            0 => format!(", {rounds} rounds from the {parents} nearest"),
            _ => format!(", {rounds} rounds of {} from each of {parents}", decodes(&search.each)),
        };
    }
    if search.beyond > 0 {
        text += &format!(", {} guesses beyond the target from each", search.beyond);
    }
    if search.feedback > 0 {
        text += &format!(", {} by feedback a round", search.feedback);
    }
    if search.neighbours > 0 {
        text += &format!(", {} a token away from the best a round", search.neighbours);
    }
    if search.recombined > 0 {
        text += &format!(", {} put together of them a round", search.recombined);
    }
    if let Some(budget) = search.budget {
        text += &format!(", at most {budget} encodings");
    }
    text
}

/// What a decoder was told beside the vectors, in a few words; nothing where that is usual.
pub(crate) fn told(generate: &GenerateOptions) -> String {
    let mut text = String::new();
    if generate.guidance != 1.0 {
        text += &format!(", guidance {}", generate.guidance);
    }
    if generate.noise != 0.0 {
        text += &format!(", told a noise of {}", generate.noise);
    }
    if let Some(length) = generate.length {
        text += &format!(", told a length of {length} tokens");
    }
    text
}

/// How tokens were chosen, in a few words.
pub(crate) fn strategy(strategy: &Strategy) -> String {
    match strategy {
        Strategy::Greedy => "greedy".to_owned(),
        Strategy::Beam { width, length_penalty } => {
            format!("beam of {width}, length penalty {length_penalty}")
        }
        Strategy::Sample { temperature, top_k, top_p, min_p, seed, samples } => {
            let mut text = format!("best of {samples} samples, temperature {temperature}, seed {seed}");
            for (name, value) in [("top-k", top_k.map(|k| k as f64)), ("top-p", *top_p), ("min-p", *min_p)] {
                if let Some(value) = value {
                    text += &format!(", {name} {value}");
                }
            }
            text
        }
    }
}
