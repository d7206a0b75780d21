//! Self-retrieval: is a text's own vector the nearest to that of what came back, among those of many others?
#![allow(non_snake_case)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::journey::Journey;
use super::scored::{Scored, scored};
use crate::Result;
use crate::bootstrap::Bootstrap;

/// Rows that are compared with all others at a time.
const ROWS_TOGETHER: i64 = 512;

/// Cosines that differ by less are equal: products of equal rows may differ by rounding.
const EQUAL: f64 = 1e-9;

/// How often a text finds itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelfRetrieval {
    /// Texts, each searched for among all of them.
    pub n: usize,
    /// Share that found themselves first.
    pub top_1: Scored,
    /// Mean of 1 over the rank of the text itself.
    pub mrr: Scored,
}

/// Ranks each text's own vector among all by the cosine to that of what came back; no text should be there twice. Where
/// others are as near (texts that the encoder does not tell apart), the text stands behind half of them, and is first with
/// the chance that one of them has.
///
/// # Errors
/// libtorch's own.
pub fn self_retrieval(way: &Journey, bootstrap: &Bootstrap) -> Result<SelfRetrieval> {
    let unit = |v: &Tensor| -> Result<Tensor> {
        let v = v.f_to_kind(Kind::Double)?;
        Ok(v.f_div(&v.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?)?)
    };
    let (from_ND, to_ND) = (unit(&way.from_ND)?, unit(&way.to_ND)?);
    let (count, from_DN) = (from_ND.size()[0], from_ND.f_transpose(0, 1)?);
    // how many stand above, and how many there with those that are as near, itself among them
    let mut ranks: Vec<(f64, f64)> = Vec::with_capacity(count as usize);
    for start in (0..count).step_by(ROWS_TOGETHER as usize) {
        let rows = ROWS_TOGETHER.min(count - start);
        let scores_RN = to_ND.f_narrow(0, start, rows)?.f_matmul(&from_DN)?;
        let index_R1 =
            Tensor::f_arange_start(start, start + rows, (Kind::Int64, scores_RN.device()))?.f_unsqueeze(1)?;
        let own_R1 = scores_RN.f_gather(1, &index_R1, false)?;
        let sum = |x: Tensor| x.f_sum_dim_intlist([1].as_slice(), false, Kind::Double);
        let above_R = sum(scores_RN.f_gt_tensor(&own_R1.f_add_scalar(EQUAL)?)?)?;
        let not_below_R = sum(scores_RN.f_ge_tensor(&own_R1.f_sub_scalar(EQUAL)?)?)?;
        let [above, not_below] = [above_R, not_below_R].map(Vec::<f64>::try_from);
        ranks.extend(above?.into_iter().zip(not_below?));
    }
    let of = |rows: &[usize]| {
        let mean = |number: fn((f64, f64)) -> f64| {
            rows.iter().map(|&row| number(ranks[row])).sum::<f64>() / rows.len().max(1) as f64
        };
        let first = |(above, not_below)| if above == 0.0 { 1.0 / not_below } else { 0.0 };
        [mean(first), mean(|(above, not_below)| 2.0 / (above + not_below + 1.0))]
    };
    let [top_1, mrr] = scored(ranks.len(), bootstrap, of);
    Ok(SelfRetrieval { n: ranks.len(), top_1: top_1.as_share_of(ranks.len(), bootstrap), mrr })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_where_its_vector_is_the_nearest() {
        let from_ND = Tensor::eye(4, (Kind::Float, tch::Device::Cpu));
        // the third looks like the first, the fourth like all
        let to_ND = Tensor::from_slice(&[1f32, 0., 0., 0., 0., 2., 0.1, 0., 1., 0., 0.5, 0., 1., 1., 1., 1.])
            .view([4, 4]);
        let way = Journey { from_ND, texts: vec![], to_ND, encodings: 0.0, seconds: 0.0 };
        let bootstrap = Bootstrap { resamples: 0, ..Bootstrap::default() };
        let found = self_retrieval(&way, &bootstrap).unwrap();
        assert_eq!((found.n, found.top_1.value), (4, Some((1.0 + 1.0 + 0.25) / 4.0)));
        assert!((found.mrr.value.unwrap() - (1.0 + 1.0 + 0.5 + 0.4) / 4.0).abs() < 1e-12);
    }
}
