//! Writes an archive as the kernel unpacks it at its start: cpio, "newc".

use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    out: W,
    inode: u32,
    there: BTreeSet<PathBuf>,
}

impl Archive<BufWriter<File>> {
    /// A new one.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("write {}", path.display()))?;
        Ok(Self::new(BufWriter::new(file)))
    }
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { out, inode: 0, there: BTreeSet::new() }
    }

    /// Adds an executable file, and the directories above it. The first of a
    /// name wins.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        self.entry(path, PROGRAM, content)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.entry(path, LINK, target.as_bytes())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        self.raw("TRAILER!!!", 0, &[])?;
        self.out.flush().context("write the archive")
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        if !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(above) = path.parent().filter(|above| above.parent().is_some()) {
            self.entry(above, DIRECTORY, &[])?;
        }
        let name = path.to_string_lossy();
        self.raw(name.trim_start_matches('/'), mode, content)
    }

    fn raw(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
        let length = u32::try_from(name.len() + 1).context("a long name")?;
        // Inode, mode, owner, group, links, time, size; four device numbers; name; no checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        let header =
            fields.iter().fold("070701".to_owned(), |text, field| text + &format!("{field:08X}"));
        self.padded(&[header.as_bytes(), name.as_bytes(), &[0]])?;
        self.padded(&[content])
    }

    /// Everything begins at a multiple of four.
    fn padded(&mut self, parts: &[&[u8]]) -> Result<()> {
        for part in parts {
            self.out.write_all(part).context("write the archive")?;
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let padding = &[0; 3][..length.next_multiple_of(4) - length];
        self.out.write_all(padding).context("write the archive")
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::path::Path;

    #[test]
    fn directories_come_before_what_is_in_them() -> anyhow::Result<()> {
        let mut out = Vec::new();
        let mut archive = Archive::new(&mut out);
        archive.file(Path::new("/a/b"), b"12345")?;
        archive.file(Path::new("/a/c"), b"")?;
        archive.finish()?;
        assert_eq!(out.len() % 4, 0);
        let text = String::from_utf8(out)?;
        assert!(text.starts_with("07070100000001000041ED"));
        assert_eq!(text.matches("070701").count(), 4, "one directory, two files, the end");
        let names: Vec<&str> = text.split('\0').filter(|part| !part.is_empty()).collect();
        assert!(names[0].ends_with("0000000200000000a"), "length, no checksum, name: {names:?}");
        assert!(names[1].ends_with("0000000400000000a/b"), "{names:?}");
        assert_eq!(names[2], "12345");
        Ok(())
    }
}
