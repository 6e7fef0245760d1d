//! The BPF object that the build script made.

/// The ELF object with every program and map, aligned for parsing.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bpf"));
