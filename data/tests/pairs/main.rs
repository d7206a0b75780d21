//! Pair sets: built, interrupted, resumed, read, damaged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod build;
mod encoder;
mod hub;
#[path = "../../../models/tests/common/hub.rs"]
mod loopback;
mod prompts;
mod ranks;
mod read;
