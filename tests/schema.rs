//! The published schemas are those of the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;

use support::inverse_stella;

/// `UPDATE_SCHEMAS=1 cargo test --test schema` writes them anew.
#[test]
fn the_published_schemas_are_those_of_the_program() {
    for name in ["evaluation", "round-trip"] {
        let output = inverse_stella().args(["schema", name]).output().unwrap();
        assert!(output.status.success());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.schema.json"));
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs_err::write(&path, &output.stdout).unwrap();
        }
        let published = fs_err::read_to_string(&path).unwrap();
        // not both of them: they are long
        let same = published.as_bytes() == output.stdout;
        assert!(same, "{}: UPDATE_SCHEMAS=1 cargo test --test schema", path.display());
        let schema: serde_json::Value = serde_json::from_str(&published).unwrap();
        assert!(jsonschema::meta::is_valid(&schema));
        assert_eq!(schema["properties"]["schema"]["const"], format!("inverse-stella/{name}/1"));
    }
}
