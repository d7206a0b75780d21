//! Cross-entropy of the target tokens, with the vocabulary head taken in chunks of positions.
//!
//! Scores of a whole batch in f32 would be its largest tensor by far (4096 positions times 13312 tokens: 218 MB).
//! Here a chunk's scores are made in the compute type, turned into their own gradient in place and used up: the
//! gradients of states and head leave this function, the graph of the blocks goes on from the states' gradient.
//! (Liger Kernel, arXiv 2410.10989, does the same on GPUs.)
#![allow(non_snake_case)]

use tch::{Device, Kind, Tensor};

use crate::Result;

/// How the loss is computed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LossOptions {
    /// Share of the target's probability that is spread evenly over the vocabulary (arXiv 1512.00567); 0 for none.
    pub label_smoothing: f64,
    /// Most positions in a chunk; `None` for as many as have 31 MiB of scores, and at least 1024.
    pub chunk: Option<i64>,
}

/// Sum of the loss over positions, and its gradient, multiplied by `scale`, with respect to the states.
///
/// `h_NH` are the states in the compute type, `head_VH` the head's matrix, `targets_N` i64. The gradient of the head,
/// multiplied by `scale` too, is added to `head_grad_VH` (f32). Returns (sum of the unscaled loss, f32 scalar;
/// gradient of `h_NH`, in its type). Without positions: 0 and an empty gradient. With `weights_N` (f32) the gradients, and
/// they alone, are those of the sum of each position's loss times its weight.
///
/// # Errors
/// libtorch's own.
pub fn cross_entropy_with_gradients(
    h_NH: &Tensor,
    head_VH: &Tensor,
    targets_N: &Tensor,
    weights_N: Option<&Tensor>,
    scale: f64,
    options: LossOptions,
    head_grad_VH: &mut Tensor,
) -> Result<(Tensor, Tensor)> {
    tch::no_grad(|| {
        let (h_NH, head_VH) = (h_NH.detach(), head_VH.detach());
        let mut total = Tensor::f_zeros([] as [i64; 0], (Kind::Float, h_NH.device()))?;
        let h_grad_NH = h_NH.f_empty_like()?;
        for (start, length) in chunks(
            h_NH.size()[0],
            options.chunk.unwrap_or_else(|| chunk_of(head_VH.size()[0], head_VH.kind(), head_VH.device())),
        ) {
            let h_CH = h_NH.f_narrow(0, start, length)?;
            let targets_C1 = targets_N.f_narrow(0, start, length)?.f_unsqueeze(1)?;
            let scores_CV = h_CH.f_linear(&head_VH, None::<&Tensor>)?;
            let (loss, mut gradient_CV) = into_gradient(scores_CV, &targets_C1, options.label_smoothing)?;
            if let Some(weights_N) = weights_N {
                let weights_C1 = weights_N.f_narrow(0, start, length)?.f_unsqueeze(1)?;
                gradient_CV = gradient_CV.f_mul_(&weights_C1.f_to_kind(gradient_CV.kind())?)?;
            }
            total = total.f_add(&loss)?;
            h_grad_NH
                .f_narrow(0, start, length)?
                .f_copy_(&gradient_CV.f_matmul(&head_VH)?.f_mul_scalar(scale)?)?;
            // scaling the states is cheaper than scaling the head's gradient
            let _ =
                head_grad_VH.f_add_(&gradient_CV.f_transpose(0, 1)?.f_matmul(&h_CH.f_mul_scalar(scale)?)?)?;
        }
        Ok((total, h_grad_NH))
    })
}

/// Sum of the loss over positions, f32 scalar, without gradients or smoothing.
///
/// # Errors
/// libtorch's own.
pub fn cross_entropy(h_NH: &Tensor, head_VH: &Tensor, targets_N: &Tensor, chunk: i64) -> Result<Tensor> {
    tch::no_grad(|| {
        let mut total = Tensor::f_zeros([] as [i64; 0], (Kind::Float, h_NH.device()))?;
        for (start, length) in chunks(h_NH.size()[0], chunk) {
            let scores_CV = h_NH
                .f_narrow(0, start, length)?
                .f_linear(head_VH, None::<&Tensor>)?
                .f_to_kind(Kind::Float)?;
            let targets_C1 = targets_N.f_narrow(0, start, length)?.f_unsqueeze(1)?;
            let log_sum_C = scores_CV.f_logsumexp(-1, false)?;
            let of_target_C = scores_CV.f_gather(1, &targets_C1, false)?.f_squeeze_dim(1)?;
            total = total.f_add(&log_sum_C.f_sub(&of_target_C)?.f_sum(Kind::Float)?)?;
        }
        Ok(total)
    })
}

/// Turns scores (C, V) into the gradient of their summed loss, softmax minus the (smoothed) target distribution; also
/// returns that sum.
fn into_gradient(mut scores_CV: Tensor, targets_C1: &Tensor, smoothing: f64) -> Result<(Tensor, Tensor)> {
    if torch_ext::has_kernels(&scores_CV) {
        let targets_C = targets_C1.f_squeeze_dim(1)?;
        let losses_C = torch_ext::cross_entropy_into_gradient(&mut scores_CV, &targets_C, smoothing)?;
        return Ok((losses_C.f_sum(Kind::Float)?, scores_CV));
    }
    into_gradient_composed(&scores_CV, targets_C1, smoothing)
}

/// The same of libtorch's operations.
fn into_gradient_composed(
    scores_CV: &Tensor,
    targets_C1: &Tensor,
    smoothing: f64,
) -> Result<(Tensor, Tensor)> {
    let kind = scores_CV.kind();
    let vocab = scores_CV.size()[1] as f64;
    // the kernels sum in f32 whatever the type
    let mut p_CV = scores_CV.f_softmax(-1, kind)?;
    let p_C1 = p_CV.f_gather(1, targets_C1, false)?.f_to_kind(Kind::Float)?;
    // near 1 a bf16 probability has three digits, and what it lacks to 1 none: the sum of all others has it
    // `scatter_` goes through the whole matrix to set one entry a row
    let rows_C = Tensor::f_arange(p_CV.size()[0], (Kind::Int64, p_CV.device()))?;
    let targets_C = targets_C1.f_squeeze_dim(1)?;
    let on_target = [Some(&rows_C), Some(&targets_C)];
    let _ = p_CV.f_index_put_(&on_target, &Tensor::f_zeros([1], (kind, p_CV.device()))?, false)?;
    let others_C1 = p_CV.f_sum_dim_intlist([-1].as_slice(), true, kind)?.f_to_kind(Kind::Float)?;
    // a probability below f32's smallest would make the loss infinite; NaN stays NaN
    let log_p_C1 = p_C1.f_clamp_min(1e-38)?.f_log()?;
    let log_p_C1 = others_C1.f_neg()?.f_log1p()?.f_where_self(&others_C1.f_lt(0.5)?, &log_p_C1)?;
    let mut loss = log_p_C1.f_sum(Kind::Float)?.f_neg()?;
    let mut target_C1 = others_C1.f_neg()?;
    if smoothing > 0.0 {
        // -mean over v of log p_v = log of the sum - mean score = score of the target - log p of it - mean score
        let of_target = scores_CV.f_gather(1, targets_C1, false)?.f_sum(Kind::Float)?;
        let mean = scores_CV.f_sum(Kind::Float)?.f_div_scalar(vocab)?;
        let uniform = of_target.f_add(&loss)?.f_sub(&mean)?;
        loss = loss.f_mul_scalar(1.0 - smoothing)?.f_add(&uniform.f_mul_scalar(smoothing)?)?;
        let _ = p_CV.f_sub_scalar_(smoothing / vocab)?;
        target_C1 = target_C1.f_add_scalar(smoothing * (vocab - 1.0) / vocab)?;
    }
    let _ = p_CV.f_index_put_(&on_target, &target_C1.f_squeeze_dim(1)?.f_to_kind(kind)?, false)?;
    Ok((loss, p_CV))
}

/// Positions whose scores take 31 MiB, at least 1024: below that the head's products slow down, and from 32 MiB on
/// glibc takes fresh pages from the system for every tensor, which doubles the time of the softmax. On a GPU 512 MiB:
/// every chunk goes through the whole gradient of the head once.
pub(crate) fn chunk_of(vocab: i64, kind: Kind, device: Device) -> i64 {
    let bytes = vocab * kind.elt_size_in_bytes() as i64;
    let room: i64 = if device == Device::Cpu { 31 << 20 } else { 512 << 20 };
    (room / bytes.max(1)).max(1024)
}

/// (start, length) of chunks that cover `total` positions: as few as there can be, of like lengths.
fn chunks(total: i64, most: i64) -> impl Iterator<Item = (i64, i64)> {
    let up = |a: i64, b: i64| a.div_euclid(b) + i64::from(a % b != 0);
    let count = up(total, most.max(1));
    let chunk = up(total, count.max(1));
    (0..count).map(move |i| (i * chunk, chunk.min(total - i * chunk))).filter(|(_, length)| *length > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::Reduction;

    fn problem(kind: Kind) -> (Tensor, Tensor, Tensor) {
        tch::manual_seed(3);
        let options = (Kind::Float, Device::Cpu);
        let h = Tensor::randn([37, 8], options).to_kind(kind).set_requires_grad(true);
        let head = Tensor::randn([50, 8], options).to_kind(kind).set_requires_grad(true);
        (h, head, Tensor::randint(50, [37], (Kind::Int64, Device::Cpu)))
    }

    fn farthest(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    #[test]
    fn chunks_equal_autograd() {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.03)] {
            for label_smoothing in [0.0, 0.1] {
                for chunk in [1, 10, 37, 100] {
                    let (h, head, targets) = problem(kind);
                    let expected = h.linear(&head, None::<Tensor>).to_kind(Kind::Float).cross_entropy_loss(
                        &targets,
                        None::<Tensor>,
                        Reduction::Mean,
                        -100,
                        label_smoothing,
                    );
                    expected.backward();
                    let mut head_grad = Tensor::zeros([50, 8], (Kind::Float, Device::Cpu));
                    let options = LossOptions { label_smoothing, chunk: Some(chunk) };
                    let (loss, h_grad) = cross_entropy_with_gradients(
                        &h,
                        &head,
                        &targets,
                        None,
                        1.0 / 37.0,
                        options,
                        &mut head_grad,
                    )
                    .unwrap();
                    assert!(
                        farthest(&(loss / 37.0), &expected) < tolerance,
                        "{kind:?} {label_smoothing} {chunk}"
                    );
                    assert!(farthest(&h_grad, &h.grad()) < tolerance);
                    assert!(farthest(&head_grad, &head.grad()) < tolerance);
                }
            }
        }
    }

    #[test]
    fn weights_count_positions_in_the_gradients() {
        let (h, head, targets) = problem(Kind::Float);
        let weights = Tensor::randn([37], (Kind::Float, Device::Cpu));
        let scores = h.linear(&head, None::<Tensor>);
        let each = scores.cross_entropy_loss(&targets, None::<Tensor>, Reduction::None, -100, 0.0);
        (each * &weights).sum(Kind::Float).backward();
        let mut head_grad = Tensor::zeros([50, 8], (Kind::Float, Device::Cpu));
        let options = LossOptions { chunk: Some(10), ..LossOptions::default() };
        let (_, h_grad) =
            cross_entropy_with_gradients(&h, &head, &targets, Some(&weights), 1.0, options, &mut head_grad)
                .unwrap();
        assert!(farthest(&h_grad, &h.grad()) < 1e-5);
        assert!(farthest(&head_grad, &head.grad()) < 1e-5);
    }

    #[test]
    fn chunks_cover_all_positions_evenly() {
        let of = |total, most| chunks(total, most).collect::<Vec<_>>();
        assert_eq!(of(2048, 1220), [(0, 1024), (1024, 1024)]);
        assert_eq!(of(10, 4), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(of(9, 4), [(0, 3), (3, 3), (6, 3)]);
        assert_eq!(of(5, 4), [(0, 3), (3, 2)]);
        assert!(of(0, 4).is_empty());
        for (total, most) in [(37, 1), (100, 7), (6, 4), (1, 1)] {
            let lengths = of(total, most).iter().map(|(_, length)| *length).collect::<Vec<_>>();
            assert_eq!(lengths.iter().sum::<i64>(), total);
            assert!(lengths.iter().all(|length| (1..=most).contains(length)), "{lengths:?}");
        }
        assert_eq!(chunk_of(13_312, Kind::BFloat16, Device::Cpu), 1220);
        assert_eq!(chunk_of(100_000, Kind::BFloat16, Device::Cpu), 1024);
    }

    #[test]
    fn a_sure_target_keeps_its_gradient_in_bf16() {
        // of 64 tokens the target's is ahead by this much: p lies between 0.05 and 1 - 1e-5
        for (ahead, smoothing) in [(1.0, 0.0), (8.0, 0.0), (12.0, 0.0), (15.0, 0.0), (12.0, 0.1)] {
            let scores = Tensor::zeros([1, 64], (Kind::Double, Device::Cpu));
            let _ = scores.narrow(1, 5, 1).fill_(ahead);
            let target = Tensor::from_slice(&[5i64]).unsqueeze(1);
            let wanted = Tensor::full([1, 64], smoothing / 64.0, (Kind::Double, Device::Cpu));
            let _ = wanted.narrow(1, 5, 1).fill_(1.0 - smoothing + smoothing / 64.0);
            let expected = scores.softmax(-1, Kind::Double) - &wanted;
            let expected_loss = -(scores.log_softmax(-1, Kind::Double) * wanted).sum(Kind::Double);
            let of_kernel = into_gradient(scores.to_kind(Kind::BFloat16), &target, smoothing).unwrap();
            let composed =
                into_gradient_composed(&scores.to_kind(Kind::BFloat16), &target, smoothing).unwrap();
            for (loss, gradient) in [of_kernel, composed] {
                let (on, off) = (gradient.double_value(&[0, 5]), gradient.double_value(&[0, 6]));
                let relative = |found: f64, expected: f64| (found / expected - 1.0).abs();
                assert!(relative(on, expected.double_value(&[0, 5])) < 0.01, "{ahead} {smoothing}: {on}");
                assert!(relative(off, expected.double_value(&[0, 6])) < 0.01, "{ahead} {smoothing}: {off}");
                let (loss, expected) = (loss.double_value(&[]), expected_loss.double_value(&[]));
                assert!(relative(loss, expected) < 0.01, "{ahead} {smoothing}: {loss} {expected}");
            }
        }
    }

    #[test]
    fn the_kernel_is_nearer_to_the_truth_than_the_composition() {
        tch::manual_seed(9);
        for (rows, vocab) in [(37, 50), (1, 1), (5, 1031)] {
            for smoothing in [0.0, 0.1] {
                let scores = Tensor::randn([rows, vocab], (Kind::Float, Device::Cpu)) * 4.0;
                let targets = Tensor::randint(vocab, [rows, 1], (Kind::Int64, Device::Cpu));
                let rounded = scores.to_kind(Kind::BFloat16);
                let truth =
                    into_gradient_composed(&rounded.to_kind(Kind::Double), &targets, smoothing).unwrap();
                let composed = into_gradient_composed(&rounded.copy(), &targets, smoothing).unwrap();
                let kernel = into_gradient(rounded.copy(), &targets, smoothing).unwrap();
                let mean = |t: &Tensor| {
                    (t.to_kind(Kind::Double) - &truth.1).abs().mean(Kind::Double).double_value(&[])
                };
                assert!(mean(&kernel.1) <= 1.01 * mean(&composed.1) + 1e-9, "{rows} {vocab} {smoothing}");
                assert!(
                    farthest(&kernel.0, &truth.0) <= farthest(&composed.0, &truth.0) + 1e-4 * rows as f64
                );
                let (loss, gradient) = into_gradient(scores.copy(), &targets, smoothing).unwrap();
                let truth =
                    into_gradient_composed(&scores.to_kind(Kind::Double), &targets, smoothing).unwrap();
                assert!(farthest(&gradient, &truth.1) < 2e-6, "{rows} {vocab} {smoothing}");
                assert!(farthest(&loss, &truth.0) < 1e-4 * rows as f64);
            }
        }
    }

    #[test]
    fn a_target_outside_of_the_vocabulary_is_refused() {
        let scores = Tensor::zeros([2, 5], (Kind::Float, Device::Cpu));
        let targets = Tensor::from_slice(&[1i64, 5]).unsqueeze(1);
        assert!(into_gradient(scores, &targets, 0.0).unwrap_err().to_string().contains("5 tokens"));
    }

    /// Loss and gradients of all positions at weight 1.
    fn plain(h: &Tensor, head: &Tensor, targets: &Tensor) -> (Tensor, Tensor, Tensor) {
        let mut head_grad = Tensor::zeros([50, 8], (Kind::Float, Device::Cpu));
        let options = LossOptions::default();
        let (loss, h_grad) =
            cross_entropy_with_gradients(h, head, targets, None, 1.0, options, &mut head_grad).unwrap();
        (loss, h_grad, head_grad)
    }

    #[test]
    fn the_plain_loss_is_the_same() {
        let (h, head, targets) = problem(Kind::Float);
        let (with, _, _) = plain(&h, &head, &targets);
        assert!(farthest(&with, &cross_entropy(&h, &head, &targets, 10).unwrap()) < 1e-3);
    }

    #[test]
    fn no_positions_give_no_nan() {
        let (h, head, targets) = problem(Kind::Float);
        let (h, targets) = (h.narrow(0, 0, 0), targets.narrow(0, 0, 0));
        let (loss, h_grad, head_grad) = plain(&h, &head, &targets);
        assert_eq!(loss.double_value(&[]), 0.0);
        assert_eq!(h_grad.size(), [0, 8]);
        assert_eq!(head_grad.abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn nan_is_not_hidden() {
        let (h, head, targets) = problem(Kind::Float);
        let h = h.detach() * f64::NAN;
        let (loss, _, _) = plain(&h, &head, &targets);
        assert!(loss.double_value(&[]).is_nan());
    }
}
