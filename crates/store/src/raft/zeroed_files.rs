//! Files of the log that are zeros before they are written.
//!
//! A sync of what lies in newly allocated space has to bring the file's list of extents to the disk too, through the file
//! system's journal: more writes, and a wait for the journal's own thread. Where zeros were written before, only the data have to
//! get there. So where raft-engine would ask for the next megabytes of a file, they are written.

use std::io::{Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Permission, WriteExt};

/// Written at a time.
const ZEROS: &[u8] = &[0; 64 * 1024];

/// The default file system but for how space is allocated.
pub(super) struct ZeroedFiles;

type Writer = <DefaultFileSystem as FileSystem>::Writer;

pub(super) struct ZeroingWriter(Writer);

impl FileSystem for ZeroedFiles {
    type Handle = <DefaultFileSystem as FileSystem>::Handle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = ZeroingWriter;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Self::Handle> {
        DefaultFileSystem.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Self::Handle> {
        DefaultFileSystem.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> Result<Self::Reader> {
        DefaultFileSystem.new_reader(handle)
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> Result<Self::Writer> {
        DefaultFileSystem.new_writer(handle).map(ZeroingWriter)
    }
}

impl Write for ZeroingWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Seek for ZeroingWriter {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

impl WriteExt for ZeroingWriter {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.0.truncate(offset)
    }

    /// The engine asks for space behind the end of what it has written, which may be before the end of a file that is used again;
    /// it never asks for the same space twice.
    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        let place = self.0.stream_position()?;
        let zeroed = self.zero(offset, size);
        if zeroed.is_err() {
            // The disk is full. Half of the space would be no use, and somebody else may have one for it.
            let _stays_longer = self.0.truncate(offset);
        }
        self.0.seek(SeekFrom::Start(place))?;
        zeroed
    }
}

impl ZeroingWriter {
    fn zero(&mut self, offset: usize, size: usize) -> Result<()> {
        self.0.seek(SeekFrom::Start(offset as u64))?;
        let mut left = size;
        while left > 0 {
            let n_bytes = left.min(ZEROS.len());
            self.0.write_all(&ZEROS[..n_bytes])?;
            left -= n_bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_zeros_and_the_place_to_write_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let handle = Arc::new(ZeroedFiles.create(&path).unwrap());
        let mut writer = ZeroedFiles.new_writer(handle).unwrap();
        writer.write_all(b"abc").unwrap();
        writer.allocate(3, 100_000).unwrap();
        writer.write_all(b"def").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..6], b"abcdef");
        assert_eq!(bytes.len(), 100_003);
        assert!(bytes[6..].iter().all(|byte| *byte == 0));
    }
}
