//! How much survives the way text -> vector -> text' -> vector'.
//!
//! [`metrics`] compares texts, [`bootstrap`] says how sure a score is, [`score`](fn@score) joins the two for any two
//! lists of texts. [`round_trip`](fn@round_trip) takes texts through an encoder and a decoder and scores what came
//! back; its result ([`RoundTrip`]) is described in `docs/eval-schema.md`, and [`table`](fn@table) makes it readable.
//! [`suites`] ask everything else that a decoder is judged by, with [`correlation`] and [`ranking`]; [`report`] makes pages
//! of what they find, with [`significance`]; [`json_schema`] describes results to machines. [`learning_curve`] says what
//! more compute would give. [`Spread`] lets several processes share the work.

pub mod bootstrap;
pub mod buckets;
pub mod correlation;
pub mod error;
pub mod json_schema;
pub mod learning_curve;
pub mod metrics;
pub mod ranking;
pub mod report;
pub mod result;
pub mod round_trip;
pub mod samples;
pub mod score;
pub mod searching;
pub mod significance;
pub mod spread;
mod strategy;
pub mod suites;
pub mod table;

pub use bootstrap::Bootstrap;
pub use error::{Error, Result};
pub use metrics::Metric;
pub use result::{RoundTrip, Row, Scores};
pub use round_trip::{Invert, RoundTripOptions, round_trip, round_trip_pairs, round_trip_vectors};
pub use score::{cosines, score};
pub use searching::Searching;
pub use spread::Spread;
pub use table::table;
