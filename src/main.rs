//! inverse-stella
fn main() {}
