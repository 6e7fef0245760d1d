//! What a program may read and write: pieces at addresses of their own, with
//! nothing between them.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;

/// How far the pieces are apart: longer than any of them.
const APART: u64 = 1 << 32;

/// All pieces, by where they begin.
#[derive(Debug)]
pub(super) struct Memory {
    pieces: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self { pieces: BTreeMap::new(), next: APART }
    }

    /// Puts a piece somewhere; its address.
    pub(super) fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let address = self.next;
        self.pieces.insert(address, bytes);
        self.next += APART;
        address
    }

    /// These bytes, wherever they are.
    pub(super) fn at(&self, address: u64, length: usize) -> Result<&[u8]> {
        let (begin, piece) = self.pieces.range(..=address).next_back().context("no such memory")?;
        let offset = usize::try_from(address - begin)?;
        piece.get(offset..offset + length).with_context(|| outside(offset, length, piece.len()))
    }

    /// Likewise, to be written.
    pub(super) fn at_mut(&mut self, address: u64, length: usize) -> Result<&mut [u8]> {
        let range = self.pieces.range_mut(..=address);
        let (begin, piece) = range.into_iter().next_back().context("no such memory")?;
        let (offset, whole) = (usize::try_from(address - begin)?, piece.len());
        piece.get_mut(offset..offset + length).with_context(|| outside(offset, length, whole))
    }

    /// Makes the piece that begins here shorter or longer.
    pub(super) fn resize(&mut self, begin: u64, length: usize) -> Result<()> {
        self.pieces.get_mut(&begin).context("no such memory")?.resize(length, 0);
        Ok(())
    }

    /// A number of 1, 2, 4 or 8 bytes.
    pub(super) fn load(&self, address: u64, length: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        ensure!(length <= bytes.len(), "a number of {length} bytes");
        bytes[..length].copy_from_slice(self.at(address, length)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a number's low bytes.
    pub(super) fn store(&mut self, address: u64, length: usize, value: u64) -> Result<()> {
        let bytes = value.to_le_bytes();
        ensure!(length <= bytes.len(), "a number of {length} bytes");
        self.at_mut(address, length)?.copy_from_slice(&bytes[..length]);
        Ok(())
    }
}

fn outside(offset: usize, length: usize, whole: usize) -> String {
    format!("{length} bytes at {offset} of {whole}")
}
