//! Criterion benches of tidewheel, under `benches/`. Each also runs once, small, under `cargo test`.
