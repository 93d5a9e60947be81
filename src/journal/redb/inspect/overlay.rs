//! A file that redb may change as it likes, and that stays as it is: what is written to it is kept
//! in memory, over what is on the disk.
//!
//! redb writes when it opens a file: it repairs one that was not closed, and marks it as open. Who
//! only looks at a journal must not leave a trace in it, nor need a second copy on the disk. The
//! locks are those of a writer all the same, so that nobody looks while a server writes.
//!
//! Invariant: the file on the disk is only ever read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use redb::StorageBackend;
use redb::backends::FileBackend;

type BackendResult<T> = Result<T, redb::BackendError>;

/// Bytes that are copied when one of them is written: a page of redb.
const PAGE_BYTES: usize = 4096;

/// The file, and what was written.
#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// What is on the disk counts up to here: zeros follow where the file was cut and grew again.
    file_bytes: u64,
    pages: HashMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Overlay {
    /// Over the file at this path.
    pub(super) fn open(path: &Path) -> io::Result<Overlay> {
        // The lock of a writer needs a file that may be written to.
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Overlay::over(file)
    }

    fn over(file: File) -> io::Result<Overlay> {
        let len = file.metadata()?.len();
        let file = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
        let written = Mutex::new(Written { len, file_bytes: len, pages: HashMap::new() });
        Ok(Overlay { file, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().expect("no one panics while holding the lock")
    }

    /// What lies on the disk of this page, and zeros behind it.
    fn page_on_disk(&self, page: u64, file_bytes: u64) -> io::Result<Box<[u8; PAGE_BYTES]>> {
        let mut bytes = Box::new([0; PAGE_BYTES]);
        let start = page * PAGE_BYTES as u64;
        let there = file_bytes.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
        if there > 0 {
            self.file.read(start, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

/// The parts of a range of bytes that lie in one page each: the page, where in it, and how many.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + len as u64;
    std::iter::from_fn(move || {
        let start = (at % PAGE_BYTES as u64) as usize;
        let count = (end - at).min((PAGE_BYTES - start) as u64) as usize;
        let page = at / PAGE_BYTES as u64;
        at += count as u64;
        (count > 0).then_some((page, start, count))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.saturating_add(out.len() as u64) > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let is_untouched =
            pieces(offset, out.len()).all(|(page, ..)| !written.pages.contains_key(&page));
        if is_untouched && offset + out.len() as u64 <= written.file_bytes {
            return self.file.read(offset, out);
        }
        let mut done = 0;
        for (page, start, count) in pieces(offset, out.len()) {
            let piece = &mut out[done..done + count];
            if let Some(bytes) = written.pages.get(&page) {
                piece.copy_from_slice(&bytes[start..start + count]);
            } else {
                let bytes = self.page_on_disk(page, written.file_bytes)?;
                piece.copy_from_slice(&bytes[start..start + count]);
            }
            done += count;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.len {
            let whole_pages = len / PAGE_BYTES as u64;
            let kept = (len % PAGE_BYTES as u64) as usize;
            written.pages.retain(|page, _| *page <= whole_pages);
            if let Some(bytes) = written.pages.get_mut(&whole_pages) {
                bytes[kept..].fill(0);
            }
        }
        written.file_bytes = written.file_bytes.min(len);
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let file_bytes = written.file_bytes;
        let mut done = 0;
        for (page, start, count) in pieces(offset, data.len()) {
            let bytes = match written.pages.entry(page) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => free.insert(self.page_on_disk(page, file_bytes)?),
            };
            bytes[start..start + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
        written.len = written.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> BackendResult<bool> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> BackendResult<bool> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> BackendResult<()> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> BackendResult<()> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> BackendResult<()> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> BackendResult<bool> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::journal::model::seeded;

    #[test]
    fn it_reads_as_a_file_that_was_written_to_and_the_file_stays_as_it_is() {
        let mut rng = seeded();
        for _ in 0..20 {
            let mut twin: Vec<u8> =
                (0..rng.random_range(0..30_000)).map(|_| rng.random()).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &twin).unwrap();
            let before = twin.clone();
            let overlay = Overlay::open(file.path()).unwrap();
            for _ in 0..200 {
                match rng.random_range(0..4) {
                    0 => {
                        let len = rng.random_range(0..40_000);
                        twin.resize(len, 0);
                        overlay.set_len(len as u64).unwrap();
                    }
                    1 => {
                        let at = rng.random_range(0..=twin.len());
                        let data: Vec<u8> =
                            (0..rng.random_range(0..9_000)).map(|_| rng.random()).collect();
                        twin.resize(twin.len().max(at + data.len()), 0);
                        twin[at..at + data.len()].copy_from_slice(&data);
                        overlay.write(at as u64, &data).unwrap();
                    }
                    _ => {
                        let at = rng.random_range(0..=twin.len());
                        let count = rng.random_range(0..=twin.len() - at);
                        let mut read = vec![0; count];
                        overlay.read(at as u64, &mut read).unwrap();
                        assert!(read == twin[at..at + count], "{at}, {count}");
                    }
                }
                assert_eq!(overlay.len().unwrap(), twin.len() as u64);
            }
            assert!(overlay.read(twin.len() as u64, &mut [0]).is_err());
            assert!(std::fs::read(file.path()).unwrap() == before);
        }
    }
}
