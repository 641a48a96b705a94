//! Paperboat.
fn main() {}
