//! Hypotheses that nobody had to guess: other training texts, near the target.
//!
//! Guessing costs as much as training on the guesses, so that sets are small and each guess is met several times. A text
//! that lies near the target, with the vector that it has already, costs a matrix product: a wrong text in good English,
//! whose difference from the target is one of meaning.
#![allow(non_snake_case)]

use rand::seq::index;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::set::Guess;
use crate::Result;
use crate::prepare::Prepared;

/// Texts that the nearest are looked for among, drawn anew for each set.
const AMONG: usize = 1 << 15;

/// One of so many nearest is taken.
const NEAREST: usize = 4;

/// Targets whose products with all of [`AMONG`] are in memory at a time.
const TOGETHER: usize = 1024;

/// Hypotheses for `count` training texts. Which, follows from the generator.
///
/// # Errors
/// libtorch's own, and a shard that is damaged.
pub(super) fn borrow(prepared: &Prepared, count: usize, random: &mut ChaCha8Rng) -> Result<Vec<Guess>> {
    let mut guesses = Vec::new();
    if count == 0 {
        return Ok(guesses);
    }
    for prompt in prepared.pairs.space().prompts() {
        let is_own = |text: &u32| prepared.pairs.prompt(prepared.train.row(*text) as usize) == prompt.name;
        let texts: Vec<u32> = (0..prepared.train.len() as u32).filter(is_own).collect();
        let share = count * texts.len() / prepared.train.len().max(1);
        let mut drawn = |most: usize| -> Vec<u32> {
            let chosen = index::sample(random, texts.len(), most.min(texts.len()));
            chosen.into_iter().map(|at| prepared.train.row(texts[at])).collect()
        };
        let (targets, among) = (drawn(share), drawn(AMONG));
        let mut random = ChaCha8Rng::from_rng(random);
        guesses.extend(nearest(prepared, &targets, &among, &mut random)?);
    }
    Ok(guesses)
}

/// For each target row one of the nearest rows, which has another text.
fn nearest(
    prepared: &Prepared,
    targets: &[u32],
    among: &[u32],
    random: &mut ChaCha8Rng,
) -> Result<Vec<Guess>> {
    let pairs = &prepared.pairs;
    let unit = |rows: &[u32]| -> Result<Tensor> {
        let v_ND = pairs.vectors(rows);
        Ok(v_ND.f_div(&v_ND.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?)?)
    };
    let among_DN = unit(among)?.f_transpose(0, 1)?;
    // one of them may be the target itself
    let most = (NEAREST + 1).min(among.len()) as i64;
    let mut guesses = Vec::with_capacity(targets.len());
    for rows in targets.chunks(TOGETHER) {
        let (_, best_TK) = unit(rows)?.f_matmul(&among_DN)?.f_topk(most, 1, true, true)?;
        let best = Vec::<i64>::try_from(best_TK.f_contiguous()?.f_view([-1])?)?;
        for (&row, best) in rows.iter().zip(best.chunks(most.max(1) as usize)) {
            let text = pairs.text(row as usize);
            let others: Vec<u32> = best
                .iter()
                .map(|&at| among[at as usize])
                .filter(|&at| pairs.text(at as usize) != text)
                .collect();
            let Some(count) = u64::try_from(others.len().min(NEAREST)).ok().filter(|&count| count > 0) else {
                continue;
            };
            let other = others[(random.next_u64() % count) as usize];
            let mut vector = vec![0f32; pairs.dim()];
            pairs.vectors_into(&[other], &mut vector);
            guesses.push(Guess { row, text: pairs.text(other as usize).to_owned(), vector });
        }
    }
    Ok(guesses)
}
