use super::*;
use crate::{Condition, DecoderConfig, ParamStore};
use tch::Device;

/// A random decoder whose texts end at different lengths.
fn decoder() -> Decoder {
    let config = DecoderConfig {
        dim: 8,
        hidden: 16,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        ffn: 24,
        vocab: 12,
        prefix_tokens: 2,
        projector_hidden: 12,
        max_tokens: 20,
        rope_theta: 1e4,
        rms_norm_eps: 1e-5,
        tie_embeddings: false,
        bos_token_id: 0,
        eos_token_id: 1,
        pad_token_id: 2,
        activation: Default::default(),
        input_scale: 3.0,
        input_normalization: false,
        refines: true,
        knows_noise: true,
        knows_length: true,
        guides: true,
        qkv_bias: false,
    };
    let mut store = ParamStore::train(Device::Cpu, Kind::Float, 11);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    tch::no_grad(|| {
        for param in store.params().iter().filter(|param| param.master.dim() > 1) {
            let _ = param.master.shallow_clone().g_mul_scalar_(20.0);
        }
    });
    decoder
}

#[test]
fn it_does_not_matter_when_ended_rows_leave() {
    let decoder = decoder();
    let v_BD = vectors(40, 0.9);
    let strategy =
        Strategy::Sample { temperature: 1.0, top_k: None, top_p: None, min_p: None, seed: 5, samples: 2 };
    let texts = |leave_at| {
        tch::no_grad(|| {
            let source = Source::vectors(&v_BD).check(&decoder, &GenerateOptions::default()).unwrap();
            let with = source.beginnings(&decoder, 0, 40).unwrap();
            let start = Start { with: &with, without: None, guidance: 1.0 };
            let mut sampler = Sampler::new(&strategy, 0..40);
            in_step(&decoder, &start, 2, 20, leave_at, &mut sampler).unwrap()
        })
    };
    let (at_once, never) = (texts(0.0), texts(2.0));
    let ids = |texts: &[Vec<Generated>]| texts.iter().flatten().map(|t| t.ids.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&at_once), ids(&never));
    assert_eq!(ids(&at_once), ids(&texts(0.3)));
    let lengths: std::collections::BTreeSet<usize> =
        at_once.iter().flatten().filter(|text| text.finished).map(|text| text.ids.len()).collect();
    assert!(lengths.len() > 3, "rows must end at different times for this to be a test: {lengths:?}");
}

fn vectors(count: i64, step: f64) -> Tensor {
    (Tensor::arange(count * 8, (Kind::Float, Device::Cpu)) * step).cos().view([count, 8])
}

/// Token rows of 0 to 5 tokens.
fn hypotheses(count: usize) -> Vec<Vec<u32>> {
    (0..count).map(|i| (0..(i * 7) % 6).map(|j| 3 + ((i * 5 + j * 3) % 9) as u32).collect()).collect()
}

fn strategies() -> [Strategy; 3] {
    [
        Strategy::Greedy,
        Strategy::Beam { width: 3, length_penalty: 1.0 },
        Strategy::Sample { temperature: 1.0, top_k: None, top_p: None, min_p: None, seed: 5, samples: 2 },
    ]
}

fn ids(texts: &[Vec<Generated>]) -> Vec<&[u32]> {
    texts.iter().flatten().map(|text| text.ids.as_slice()).collect()
}

#[test]
fn texts_in_flight_are_those_of_rows_in_step() {
    let decoder = decoder();
    assert!(Stepper::fits(&decoder));
    let (v_ND, hypothesis_ND, ids_of) = (vectors(90, 0.7), vectors(90, 0.6), hypotheses(90));
    let first = Source::vectors(&v_ND);
    let again = Source { hypotheses: Some(Hypotheses { v_ND: &hypothesis_ND, ids: &ids_of }), ..first };
    for (source, strategy) in [first, again].iter().flat_map(|s| strategies().map(move |t| (s, t))) {
        let source = source.check(&decoder, &GenerateOptions::default()).unwrap();
        let options = |batch| GenerateOptions {
            strategy: strategy.clone(),
            max_tokens: 20,
            batch,
            ..GenerateOptions::default()
        };
        let (expected, found) = tch::no_grad(|| {
            let in_flight = |batch| in_flight::decode(&decoder, &source, &options(batch), 20).unwrap();
            (in_chunks(&decoder, &source, &options(30), 20).unwrap(), [1, 7, 40, 1000].map(in_flight))
        });
        for found in found {
            assert_eq!(ids(&expected), ids(&found), "{strategy:?}");
            for (a, b) in expected.iter().flatten().zip(found.iter().flatten()) {
                assert!((a.log_prob - b.log_prob).abs() < 1e-3 && a.finished == b.finished);
            }
        }
    }
}

#[test]
fn a_refinement_reads_target_hypothesis_and_its_vector() {
    let decoder = decoder();
    let (v_ND, hypothesis_ND, ids_of) = (vectors(30, 0.7), vectors(30, 0.6), hypotheses(30));
    let other_ND = vectors(30, 0.5);
    let hypotheses = Hypotheses { v_ND: &hypothesis_ND, ids: &ids_of };
    let source = Source { hypotheses: Some(hypotheses), ..Source::vectors(&v_ND) };
    let texts = |source| generate_from(&decoder, &source, &GenerateOptions::default()).unwrap();
    let found = texts(source);
    // every one of its tokens is the most probable behind the training's layout of the row, padding and all
    let condition = Condition::refinement(&v_ND, hypothesis_ND.copy());
    let width = 20 + 5 + 1;
    let mut rows = Vec::new();
    for (before, texts) in ids_of.iter().zip(&found) {
        let mut row: Vec<i64> = before.iter().map(|&id| id.into()).chain([0]).collect();
        row.extend(texts[0].ids.iter().map(|&id| i64::from(id)));
        row.resize(width, 2);
        rows.extend(row);
    }
    let tokens_BT = Tensor::from_slice(&rows).view([30, width as i64]);
    let h_BTH = tch::no_grad(|| decoder.hidden(&condition, &tokens_BT)).unwrap();
    let best_BT = decoder.logits(&h_BTH).unwrap().argmax(-1, false);
    let mut tokens = 0;
    for (row, (before, texts)) in ids_of.iter().zip(&found).enumerate() {
        let wanted = texts[0].ids.iter().map(|&id| i64::from(id)).chain(texts[0].finished.then_some(1));
        for (at, id) in wanted.enumerate() {
            assert_eq!(best_BT.int64_value(&[row as i64, (before.len() + at) as i64]), id, "{row} {at}");
            tokens += 1;
        }
    }
    assert!(tokens > 60, "{tokens}");
    // and each part matters
    let differ = |source| ids(&texts(source)).iter().zip(ids(&found)).filter(|(a, b)| **a != *b).count();
    let reversed: Vec<Vec<u32>> = ids_of.iter().rev().cloned().collect();
    assert!(differ(Source::vectors(&v_ND)) > 5);
    assert!(differ(Source { v_ND: &other_ND, ..source }) > 5);
    assert!(differ(Source { hypotheses: Some(Hypotheses { v_ND: &other_ND, ..hypotheses }), ..source }) > 5);
    assert!(differ(Source { hypotheses: Some(Hypotheses { ids: &reversed, ..hypotheses }), ..source }) > 5);
}

#[test]
fn what_is_drawn_follows_from_the_number() {
    let (decoder, v_ND) = (decoder(), vectors(20, 0.7));
    let [_, _, strategy] = strategies();
    let options = GenerateOptions { strategy, ..GenerateOptions::default() };
    let all = generate(&decoder, &v_ND, &options).unwrap();
    let rows = [17i64, 3, 4];
    let some_ND = v_ND.index_select(0, &Tensor::from_slice(&rows));
    let numbered = Source { numbers: Some(&[17, 3, 4]), ..Source::vectors(&some_ND) };
    let some = generate_from(&decoder, &numbered, &options).unwrap();
    for (found, row) in some.iter().zip(rows) {
        assert_eq!(found.len(), all[row as usize].len());
        assert!(found.iter().zip(&all[row as usize]).all(|(a, b)| a.ids == b.ids), "{row}");
    }
}

#[test]
fn guidance_goes_from_no_vector_to_beyond_the_vector() {
    let (decoder, v_ND) = (decoder(), vectors(30, 0.7));
    let texts = |guidance: f64, strategy: Strategy| {
        let options = GenerateOptions { guidance, strategy, ..GenerateOptions::default() };
        generate(&decoder, &v_ND, &options).unwrap()
    };
    for strategy in strategies() {
        // a hair beside 1 takes the way of two passes
        let (near, plain) = (texts(1.0 + 1e-9, strategy.clone()), texts(1.0, strategy.clone()));
        assert_eq!(ids(&near), ids(&plain), "{strategy:?}");
    }
    // without the vector all texts are one
    let none = texts(0.0, Strategy::Greedy);
    assert!(ids(&none).iter().all(|ids| *ids == none[0][0].ids), "{none:?}");
    let (plain, guided) = (texts(1.0, Strategy::Greedy), texts(2.0, Strategy::Greedy));
    assert_ne!(ids(&plain), ids(&guided));
    // u + g (c - u) by hand, at the first token
    let first = |withheld: bool| {
        let source = Source::vectors(&v_ND).check(&decoder, &GenerateOptions::default()).unwrap();
        let rows: Vec<usize> = (0..30).collect();
        let x_BSH = source.beginnings_of(&decoder, &rows, withheld).unwrap().stacked().unwrap();
        decoder.begin(&x_BSH, &mut decoder.cache(30, x_BSH.size()[1]).unwrap()).unwrap()
    };
    let [without_BV, with_BV] = [true, false].map(|withheld| tch::no_grad(|| first(withheld)));
    let best_B = (&without_BV + (with_BV - &without_BV) * 2.0).argmax(1, false);
    for (row, texts) in guided.iter().enumerate() {
        let expected = best_B.int64_value(&[row as i64]);
        assert_eq!(texts[0].ids.first().map_or(1, |&id| i64::from(id)), expected, "{row}");
    }
}

#[test]
fn noise_and_length_are_told_and_none_is_as_if_nothing_were_said() {
    let (decoder, v_ND) = (decoder(), vectors(30, 0.7));
    let condition = |noise: Option<f64>| {
        let noise_B = noise.map(|noise| Tensor::full([30], noise, (Kind::Float, Device::Cpu)));
        decoder.prefix(&Condition { noise_B, ..Condition::first(&v_ND) }).unwrap()
    };
    let silent = condition(None);
    assert_eq!((condition(Some(0.0)) - &silent).abs().max().double_value(&[]), 0.0);
    let [faint, loud] = [1e-4, 1e-2].map(|noise| (condition(Some(noise)) - &silent).abs().mean(Kind::Float));
    assert!(faint.double_value(&[]) > 0.0 && loud.double_value(&[]) > 2.0 * faint.double_value(&[]));
    let texts = |noise, length| {
        generate(&decoder, &v_ND, &GenerateOptions { noise, length, ..Default::default() }).unwrap()
    };
    let plain = texts(0.0, None);
    assert_ne!(ids(&plain), ids(&texts(0.03, None)));
    assert_ne!(ids(&plain), ids(&texts(0.0, Some(7))));
    let both = texts(0.03, Some(7));
    assert!(ids(&both) != ids(&texts(0.03, None)) && ids(&both) != ids(&texts(0.0, Some(7))));
}

#[test]
fn a_source_whose_parts_do_not_fit_is_refused() {
    let (decoder, v_ND, ids_of) = (decoder(), vectors(4, 0.7), hypotheses(3));
    let refused = |source: Source<'_>| {
        generate_from(&decoder, &source, &GenerateOptions::default()).unwrap_err().to_string()
    };
    let first = Source::vectors(&v_ND);
    let hypotheses = Some(Hypotheses { v_ND: &v_ND, ids: &ids_of });
    assert_eq!(refused(Source { hypotheses, ..first }), "3 hypotheses for 4 vectors");
    assert_eq!(refused(Source { numbers: Some(&[1]), ..first }), "1 numbers for 4 vectors");
    let one_ND = v_ND.narrow(0, 0, 1);
    let ids_of = [ids_of.clone(), ids_of].concat()[..4].to_vec();
    let hypotheses = Some(Hypotheses { v_ND: &one_ND, ids: &ids_of });
    assert_eq!(refused(Source { hypotheses, ..first }), "1 vectors of hypotheses for 4 vectors");
}

#[test]
fn logits_without_an_order_are_refused_whatever_the_way() {
    let (decoder, v_ND) = (decoder(), vectors(5, 0.7));
    tch::no_grad(|| {
        let _ = decoder.head_weight().get(3).fill_(f64::NAN);
    });
    let refused = |error: Error| {
        assert!(error.to_string().contains("hold NaN or infinity"), "{error}");
        assert!(error.hint().unwrap().contains("weights"), "{error}");
    };
    for (strategy, guidance) in strategies().into_iter().flat_map(|s| [1.0, 2.0].map(|g| (s.clone(), g))) {
        let options = GenerateOptions { strategy, guidance, ..GenerateOptions::default() };
        refused(generate(&decoder, &v_ND, &options).unwrap_err());
        // as a GPU does it
        let source = Source::vectors(&v_ND).check(&decoder, &options).unwrap();
        refused(tch::no_grad(|| in_chunks(&decoder, &source, &options, 20)).unwrap_err());
    }
    let mut rows = graphed::StaticRows::new(&decoder, 5, 20, false).unwrap();
    refused(rows.decode(&v_ND).unwrap_err());
}

#[test]
fn infinity_shows_in_the_chosen_token_and_one_that_is_ruled_out_does_not() {
    let logits_RV = Tensor::from_slice(&[0f32, f32::NEG_INFINITY, f32::INFINITY, 2.0]).view([2, 2]);
    for token in [0i64, 1] {
        let token_R = Tensor::from_slice(&[0, token]);
        let log_probs = host_f64(&log_probs_of(&logits_RV, &token_R).unwrap()).unwrap();
        assert!(log_probs[0].is_finite() && !log_probs[1].is_finite(), "{log_probs:?}");
    }
}

#[test]
fn beginnings_come_in_portions_of_bounded_length() {
    let repeated = |positions, texts| in_flight::portion(std::iter::repeat_n(positions, texts));
    assert_eq!((repeated(10, 5000), repeated(10, 30)), (4096, 30));
    assert_eq!(repeated(128, 5000), (1 << 18) / 128);
    assert_eq!(in_flight::portion([1 << 20, 5].into_iter()), 1);
}

#[test]
fn vectors_beyond_f32_are_refused() {
    let (decoder, v_ND) = (decoder(), vectors(4, 0.7).to_kind(Kind::Double));
    let _ = v_ND.get(2).narrow(0, 1, 1).fill_(1e300);
    let error = generate(&decoder, &v_ND, &GenerateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::VectorNotFinite { index: 2 }), "{error}");
}

#[test]
fn temperatures_that_logits_cannot_be_divided_by_are_refused() {
    let (decoder, v_ND) = (decoder(), vectors(4, 0.7));
    let with = |temperature| {
        let [_, _, strategy] = strategies();
        let Strategy::Sample { top_k, top_p, min_p, seed, samples, .. } = strategy else { panic!() };
        let strategy = Strategy::Sample { temperature, top_k, top_p, min_p, seed, samples };
        generate(&decoder, &v_ND, &GenerateOptions { strategy, ..GenerateOptions::default() })
    };
    assert!(matches!(with(1e-7), Err(Error::GenerateOption { option: "temperature", .. })));
    let greedy = generate(&decoder, &v_ND, &GenerateOptions::default()).unwrap();
    let cold = with(1e-6).unwrap();
    assert!(cold.iter().zip(&greedy).all(|(cold, greedy)| cold[0].ids == greedy[0].ids));
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let v_ND = vectors(90, 0.7);
    for strategy in strategies() {
        let with = |threads| {
            let v_ND = v_ND.copy();
            let options = GenerateOptions {
                strategy: strategy.clone(),
                max_tokens: 20,
                batch: 64,
                ..GenerateOptions::default()
            };
            // the number is a thread's own, and other tests have theirs
            let run = move || {
                tch::set_num_threads(threads);
                let texts = generate(&decoder(), &v_ND, &options).unwrap();
                assert_eq!(tch::get_num_threads(), threads);
                texts
            };
            std::thread::spawn(run).join().unwrap()
        };
        assert_eq!(ids(&with(1)), ids(&with(3)), "{strategy:?}");
    }
}

#[test]
fn reading_a_text_finds_what_generating_it_found() {
    let decoder = decoder();
    let (v_ND, hypothesis_ND, ids_of) = (vectors(30, 0.7), vectors(30, 0.6), hypotheses(30));
    let first = Source::vectors(&v_ND);
    let again = Source { hypotheses: Some(Hypotheses { v_ND: &hypothesis_ND, ids: &ids_of }), ..first };
    let options = GenerateOptions::default();
    for source in [first, again] {
        let written: Vec<Generated> =
            generate_from(&decoder, &source, &options).unwrap().into_iter().flatten().collect();
        let texts: Vec<&[u32]> = written.iter().map(|text| text.ids.as_slice()).collect();
        let readings = read(&decoder, &source, &texts, 3, &options).unwrap();
        assert!(written.iter().filter(|text| text.finished).count() > 10);
        for (text, reading) in written.iter().zip(&readings) {
            let ids: Vec<i64> = text.ids.iter().map(|&id| id.into()).chain([1]).collect();
            for (place, &id) in
                ids.iter().enumerate().filter(|(place, _)| text.finished || place + 1 < ids.len())
            {
                assert_eq!(reading.best[place].len(), 3);
                assert_eq!(reading.best[place][0].0, id, "greedy takes the most probable token");
                assert!((reading.best[place][0].1 - reading.own[place]).abs() < 1e-5);
            }
            if text.finished {
                assert!((reading.log_prob() - text.log_prob).abs() < 1e-3);
            }
        }
    }
    let wrong = read(&decoder, &Source::vectors(&v_ND), &[], 1, &options);
    assert!(matches!(wrong, Err(Error::SourceLength { what: "texts", found: 0, vectors: 30 })));
}

#[test]
fn the_next_token_in_a_place_is_that_of_the_text_without_one() {
    let decoder = decoder();
    let (v_ND, options) = (vectors(1, 0.7), GenerateOptions::default());
    let of = |ids: &[u32]| read(&decoder, &Source::vectors(&v_ND), &[ids], 0, &options).unwrap().remove(0);
    let ids = [4u32, 7, 3, 9];
    let whole = of(&ids);
    assert_eq!((whole.own.len(), whole.next.len()), (5, 4));
    for place in 0..ids.len() {
        let mut less = ids.to_vec();
        less.remove(place);
        assert!((of(&less).own[place] - whole.next[place]).abs() < 1e-3, "place {place}");
    }
    // in company of other lengths it reads the same
    let three_ND = v_ND.expand([3, -1], false);
    let together = read(&decoder, &Source::vectors(&three_ND), &[&[], &ids, &[5; 12]], 0, &options).unwrap();
    assert!(together[1].own.iter().zip(&whole.own).all(|(a, b)| (a - b).abs() < 1e-3));
    assert_eq!((together[0].own.len(), together[0].next.len()), (1, 0));
    let told = GenerateOptions { length: Some(4), ..options };
    let told = read(&decoder, &Source::vectors(&v_ND), &[&ids], 0, &told).unwrap().remove(0);
    assert!((told.log_prob() - whole.log_prob()).abs() > 1e-3, "a length that is told changes what is read");
}
