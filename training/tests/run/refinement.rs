//! Trainings that refine their own hypotheses.

use std::collections::BTreeSet;
use std::path::Path;

use training::checkpoint::read_state;
use training::{Error, NullSink, TrainOptions, train};

use crate::small::{Small, bytes};
use crate::{resume, steps};

/// Hypotheses from step 4 on, a set of 60 every 3 steps, the newest two kept.
const REFINING: [&str; 7] = [
    "refinement.share=0.7",
    "refinement.begin=0.3",
    "refinement.refresh_every=3",
    "refinement.set_texts=60",
    "refinement.keep_sets=2",
    "encoder.dtype=f32",
    "training.checkpoint_every=2",
];

fn sets_of(run: &Path) -> BTreeSet<String> {
    let files = fs_err::read_dir(run.join("hypotheses")).unwrap();
    files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_resumed_run_refines_as_one_that_never_stopped() {
    let small = Small::encoded("bert", "none");
    let whole = steps(&small.recipe("whole", &REFINING), &TrainOptions::default(), None);
    assert_eq!(whole.len(), 12);
    let made = ["step-00000004.arrow", "step-00000007.arrow", "step-00000010.arrow"];
    // the last two checkpoints, of steps 10 and 12, and the best
    assert!(made[1..].iter().all(|name| sets_of(&small.run("whole")).contains(*name)));
    // before the first set, between two, and right behind one
    for stop in [3, 6, 7] {
        let run = format!("stopped-{stop}");
        let recipe = small.recipe(&run, &REFINING);
        let mut told = steps(&recipe, &TrainOptions::default(), Some(stop));
        told.extend(steps(&recipe, &resume(), None));
        let losses =
            |told: &[training::StepMetrics]| told.iter().map(|m| m.loss.to_bits()).collect::<Vec<_>>();
        assert_eq!(losses(&whole), losses(&told), "stopped at {stop}");
        for name in ["model.safetensors", "optimizer.safetensors", "ema.safetensors"] {
            let [one, other] = ["whole", &run].map(|run| bytes(&small.run(run), 12, name));
            assert!(one == other, "{name} after a stop at {stop}");
        }
        let of =
            |run: &str| read_state(&small.run(run).join("checkpoints/step-00000012")).unwrap().refinement;
        let (refinement, other) = (of("whole").unwrap(), of(&run).unwrap());
        assert_eq!(refinement, other);
        assert_eq!(refinement.sets.iter().map(|set| set.step).collect::<Vec<_>>(), [7, 10]);
        assert!(refinement.sets.iter().all(|set| set.shard.rows == 60));
    }
}

#[test]
fn without_its_encoder_no_refinement_is_begun() {
    let small = Small::new();
    let error =
        train(&small.recipe("blind", &REFINING), &TrainOptions::default(), &mut NullSink).unwrap_err();
    assert!(matches!(error, Error::NoEncoder), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("encoder.source")));
}

#[test]
fn a_set_that_is_missing_is_named() {
    let small = Small::encoded("bert", "none");
    let recipe = small.recipe("missing", &REFINING);
    steps(&recipe, &TrainOptions::default(), Some(8));
    let path = small.run("missing").join("hypotheses/step-00000007.arrow");
    fs_err::remove_file(&path).unwrap();
    let error = train(&recipe, &resume(), &mut NullSink).unwrap_err();
    assert!(error.to_string().contains("step-00000007.arrow"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("checkpoints/latest")));
}
