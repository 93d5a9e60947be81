//! Benches of tidewheel's parts, under `benches/`. Each also runs once, small, under `cargo test`.

pub mod figures;
