//! Normalised input: what is fitted, and that every decoder of a run has it.
#![allow(non_snake_case)]

use std::path::Path;

use models::export::{ExportOptions, write_export};
use models::{DeviceChoice, Dtype, GenerateOptions, Inverter};
use tch::{Kind, Tensor};
use training::batch::MicroBatch;
use training::metric_sink::Event;
use training::prepare::{Prepared, prepare};
use training::recipe::Resolved;
use training::step::loss_of;
use training::{TrainOptions, train};

use crate::small::Small;

/// All dev texts as one batch.
fn dev_part(recipe: &Resolved) -> (Prepared, MicroBatch) {
    let prepared = prepare(&recipe.recipe).unwrap();
    let all: Vec<u32> = (0..prepared.dev.len() as u32).collect();
    let part = prepared.collator(&prepared.dev).collate(&all).unwrap();
    (prepared, part)
}

#[test]
fn a_normalised_decoder_is_the_same_in_training_run_and_export() {
    let small = Small::new();
    for how in ["standard", "robust"] {
        let set = format!("decoder.input_normalization={how}");
        // enough to write other texts for other vectors
        let learns = ["training.max_steps=150", "optimizer.learning_rate=1e-2", "decoder.hidden=32"];
        let looks = ["training.eval_every=0", "training.eval_texts=9999", "eval.texts=0", &set];
        let recipe = small.recipe(how, &[learns.as_slice(), &looks].concat());
        let mut dev_loss = None;
        let mut sink = |event: &Event| {
            if let Event::Dev(metrics) = event {
                dev_loss = metrics.dev_loss;
            }
        };
        train(&recipe, &TrainOptions::default(), &mut sink).unwrap();
        let open = |path: &Path| Inverter::open(path, DeviceChoice::Cpu, Dtype::F32).unwrap();
        let (run, (prepared, part)) = (open(&small.run(how)), dev_part(&recipe));

        // the training vectors themselves come to center 0 and spread 1
        let rows: Vec<u32> = (0..prepared.train.len() as u32).map(|text| prepared.train.row(text)).collect();
        let [mean, scale] = [0, 1].map(|at| run.store.buffers()[at].1.shallow_clone());
        let x = (prepared.pairs.vectors(&rows) - mean) * scale;
        let (center, spread) = if how == "standard" {
            (x.mean_dim(0, false, Kind::Float), x.std_dim(0, false, false))
        } else {
            let at = |share: f64| x.quantile_scalar(share, 0, false, "linear");
            (at(0.5), (at(0.75) - at(0.25)) * 0.7413)
        };
        let farthest = |x: &Tensor, from: f64| (x - from).abs().max().double_value(&[]);
        assert!(farthest(&center, 0.0) < 1e-4 && farthest(&spread, 1.0) < 1e-3, "{center:?} {spread:?}");

        // the decoder that the training evaluated has them too, and so has that of the run
        let (loss, count) = loss_of(&run.decoder, &part, 1024).unwrap();
        let evaluated = dev_loss.unwrap();
        assert!((loss / count as f64 - evaluated).abs() < 1e-5, "{loss} of {count}: {evaluated}");

        let out = small.path(&format!("export-{how}"));
        let golden_ND = part.condition.v_BD.narrow(0, 0, 4);
        let options = ExportOptions { dtype: Dtype::F32, golden_ND: &golden_ND, readme: "" };
        write_export(&run, &out, &options).unwrap();
        let texts =
            |inverter: &Inverter| inverter.invert(&part.condition.v_BD, &GenerateOptions::default()).unwrap();
        let decoded = texts(&run);
        assert_eq!(decoded, texts(&open(&out)));
        assert!(decoded.iter().any(|text| text.text != decoded[0].text), "{decoded:?}");
    }
}
