//! The JSON Schema of what `eval --json` writes.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::result::RoundTrip;
use crate::suites::Evaluation;

/// Schema (draft 2020-12) of an [`Evaluation`], as it is written.
pub fn evaluation() -> Value {
    of::<Evaluation>()
}

/// Schema (draft 2020-12) of a [`RoundTrip`], as it is written.
pub fn round_trip() -> Value {
    of::<RoundTrip>()
}

fn of<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}
