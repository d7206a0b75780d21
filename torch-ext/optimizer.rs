//! The fused AdamW kernel.

use crate::error::{Error, Result};
use crate::ffi;
use crate::foreach::same_shapes;
use tch::{Device, Kind, Tensor};

/// The numbers of one AdamW step (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the average of gradients.
    pub beta1: f64,
    /// Decay of the average of squared gradients.
    pub beta2: f64,
    /// Decoupled weight decay: parameters shrink by `lr * weight_decay`.
    pub weight_decay: f64,
    /// Added to the root of the second average.
    pub eps: f64,
}

impl AdamW {
    /// One step in place; the lists are those of [`fused_adamw`].
    ///
    /// # Errors
    /// Those of [`fused_adamw`].
    pub fn step(
        &self,
        params: &[Tensor],
        grads: &[Tensor],
        exp_avgs: &[Tensor],
        exp_avg_sqs: &[Tensor],
        steps: &[Tensor],
    ) -> Result<()> {
        const OP: &str = "_fused_adamw_";
        check(OP, params, grads, exp_avgs, exp_avg_sqs, steps)?;
        if params.is_empty() {
            return Ok(());
        }
        let [p, g, m, v, s] = [params, grads, exp_avgs, exp_avg_sqs, steps].map(ffi::raw_list);
        ffi::call(OP, |fault| {
            // SAFETY: `check` saw that all lists have one length and that the kernel may walk them as flat f32.
            unsafe {
                ffi::te_fused_adamw(
                    p.as_ptr(),
                    g.as_ptr(),
                    m.as_ptr(),
                    v.as_ptr(),
                    s.as_ptr(),
                    p.len(),
                    self.lr,
                    self.beta1,
                    self.beta2,
                    self.weight_decay,
                    self.eps,
                    fault,
                )
            }
        })
    }
}

/// One AdamW step of libtorch's fused kernel, in place on `params`, `exp_avgs` and `exp_avg_sqs`.
///
/// All lists have one length; all tensors are f32 and contiguous, on one device. `steps[i]` is a 0-dim f32 tensor
/// that holds the number of this step, counted from 1: the kernel reads it and the **caller** increases it before the
/// call ([`crate::foreach_add_scalar`]).
///
/// # Errors
/// [`Error::Argument`] for lists, shapes or dtypes that do not fit and for a step below 1 (checked on CPU);
/// [`Error::Torch`] when libtorch refuses.
#[allow(clippy::too_many_arguments)]
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
    lr: f64,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
    eps: f64,
) -> Result<()> {
    AdamW { lr, beta1, beta2, weight_decay, eps }.step(params, grads, exp_avgs, exp_avg_sqs, steps)
}

fn check(
    op: &'static str,
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
) -> Result<()> {
    let lists =
        [("parameter", params), ("gradient", grads), ("average", exp_avgs), ("second average", exp_avg_sqs)];
    let refuse = |message: String| Err(Error::Argument { op, message });
    for (what, list) in lists {
        if let Some(index) = list.iter().position(|t| !t.defined()) {
            return refuse(format!("{what} {index} is undefined"));
        }
        same_shapes(op, params, list)?;
        for (index, t) in list.iter().enumerate() {
            if t.kind() != Kind::Float {
                return refuse(format!("{what} {index} is {:?}, not f32", t.kind()));
            }
            if !t.is_contiguous() {
                return refuse(format!("{what} {index} is not contiguous"));
            }
        }
    }
    if steps.len() != params.len() {
        return refuse(format!("{} steps for {} parameters", steps.len(), params.len()));
    }
    for (index, step) in steps.iter().enumerate() {
        if step.kind() != Kind::Float || step.dim() != 0 {
            return refuse(format!("step {index} is not a 0-dim f32 tensor"));
        }
        // Read on the CPU only: on a GPU the host would wait for it.
        if step.device() == Device::Cpu && step.double_value(&[]) < 1.0 {
            return refuse(format!("step {index} is {}: steps count from 1", step.double_value(&[])));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const ADAMW: AdamW = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, weight_decay: 0.1, eps: 1e-8 };

    /// One step of the paper's algorithm 2, in f64, for one number.
    fn by_the_paper(x: &mut [f64; 3], gradient: f64, t: i32) {
        let AdamW { lr, beta1, beta2, weight_decay, eps } = ADAMW;
        let [p, m, v] = x;
        *p -= lr * weight_decay * *p;
        *m = beta1 * *m + (1.0 - beta1) * gradient;
        *v = beta2 * *v + (1.0 - beta2) * gradient * gradient;
        let (m_hat, v_hat) = (*m / (1.0 - beta1.powi(t)), *v / (1.0 - beta2.powi(t)));
        *p -= lr * m_hat / (v_hat.sqrt() + eps);
    }

    #[test]
    fn twenty_steps_agree_with_the_paper() {
        let f32s = |values: &[f64]| Tensor::from_slice(values).to_kind(Kind::Float);
        // Two parameters, longer than a vector register and not a multiple of one.
        let starts: [Vec<f64>; 2] =
            [(0..37).map(|i| f64::from(i).sin()).collect(), (0..6).map(|i| f64::from(i) - 2.5).collect()];
        let params = starts.each_ref().map(|s| f32s(s).set_requires_grad(true));
        let averages = starts.each_ref().map(|s| f32s(s).zeros_like());
        let second = starts.each_ref().map(|s| f32s(s).zeros_like());
        let steps = [Tensor::from(0f32), Tensor::from(0f32)];
        let mut expected = starts.each_ref().map(|s| s.iter().map(|&p| [p, 0.0, 0.0]).collect::<Vec<_>>());
        for t in 1..=20 {
            let gradients = starts.each_ref().map(|s| {
                s.iter().enumerate().map(|(i, p)| (p * f64::from(t) + i as f64).cos()).collect::<Vec<_>>()
            });
            let grads = gradients.each_ref().map(|g| f32s(g));
            crate::foreach_add_scalar(&steps, 1.0).unwrap();
            ADAMW.step(&params, &grads, &averages, &second, &steps).unwrap();
            for (tensor, gradient) in expected.iter_mut().zip(&gradients) {
                tensor.iter_mut().zip(gradient).for_each(|(x, g)| by_the_paper(x, *g, t));
            }
        }
        for (i, tensor) in expected.iter().enumerate() {
            for (what, list, part) in [("p", &params, 0), ("m", &averages, 1), ("v", &second, 2)] {
                let got = Vec::<f32>::try_from(&list[i].detach()).unwrap();
                for (got, want) in got.iter().zip(tensor) {
                    assert!(
                        (f64::from(*got) - want[part]).abs() < 2e-6,
                        "{what}: {got} is not {}",
                        want[part]
                    );
                }
            }
            assert_eq!(steps[i].double_value(&[]), 20.0);
            assert!(params[i].is_leaf(), "the step is not recorded");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let one = || [Tensor::zeros([4, 4], (Kind::Float, Device::Cpu))];
        let at = |step: f32| [Tensor::from(step)];
        let refusal = |result: Result<()>| result.unwrap_err().to_string();
        ADAMW.step(&one(), &one(), &one(), &one(), &at(1.0)).unwrap();
        assert!(refusal(ADAMW.step(&one(), &one(), &one(), &one(), &at(0.0))).contains("count from 1"));
        assert!(refusal(ADAMW.step(&one(), &[], &one(), &one(), &at(1.0))).contains("lists of 1 and 0"));
        assert!(
            refusal(ADAMW.step(&one(), &[Tensor::new()], &one(), &one(), &at(1.0))).contains("undefined")
        );
        let bf16 = one().map(|t| t.to_kind(Kind::BFloat16));
        assert!(refusal(ADAMW.step(&one(), &bf16, &one(), &one(), &at(1.0))).contains("BFloat16"));
        let turned = one().map(|t| t.transpose(0, 1));
        assert!(refusal(ADAMW.step(&one(), &turned, &one(), &one(), &at(1.0))).contains("contiguous"));
        ADAMW.step(&[], &[], &[], &[], &[]).unwrap();
    }
}
