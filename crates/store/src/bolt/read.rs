//! Reads a snapshot file, or a raw database file, page by page. The file is input from outside: every offset is checked, keys
//! must ascend, and a tree deeper than [`DEPTH_MAX`] is refused, so a hostile file is an error and never a panic or a loop.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::BoltError;
use super::layout::{
    BUCKET_VALUE, ELEMENT_HEADER, ELEMENT_IS_BUCKET, FLAG_BRANCH, FLAG_LEAF, MAGIC, META_LEN, META_SUMMED, PAGE_HEADER,
    TRAILER, VERSION, fnv1a,
};

/// Levels of a tree; bbolt's own trees of terabytes have fewer than ten.
const DEPTH_MAX: usize = 32;
const PAGE_SIZE_MIN: u32 = 512;
const PAGE_SIZE_MAX: u32 = 64 * 1024;

/// An open snapshot file.
#[derive(Debug)]
pub struct Reader {
    file: File,
    page_size: usize,
    pages: u64,
    /// Pages in use, free ones between them included: what etcd calls the size of the database.
    used_pages: u64,
    root: u64,
}

impl Reader {
    /// Opens a file written by `snapshot save` and checks its trailer.
    pub fn open(path: &Path) -> Result<Self, BoltError> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        if len % 512 != TRAILER as u64 {
            return Err(BoltError::NotASnapshot("the SHA-256 trailer is missing"));
        }
        let mut hash = Sha256::new();
        let mut left = len - TRAILER as u64;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact(&mut buffer[..want])?;
            hash.update(&buffer[..want]);
            left -= want as u64;
        }
        let mut trailer = [0; TRAILER];
        file.read_exact(&mut trailer)?;
        if hash.finalize().as_slice() != trailer {
            return Err(BoltError::HashMismatch);
        }
        Self::from_file(file, len - TRAILER as u64)
    }

    /// Opens a file without a trailer, or without trusting it: `member/snap/db` of a stopped etcd.
    pub fn open_unchecked(path: &Path) -> Result<Self, BoltError> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let trailer = if len % 512 == TRAILER as u64 { TRAILER as u64 } else { 0 };
        Self::from_file(file, len - trailer)
    }

    /// Opens a file with whatever trailer it has: a right one or none, but not a wrong one.
    pub fn open_any(path: &Path) -> Result<Self, BoltError> {
        let len = std::fs::metadata(path)?.len();
        if len % 512 == TRAILER as u64 { Self::open(path) } else { Self::open_unchecked(path) }
    }

    /// Size of the database without a trailer, as etcd reports it.
    pub fn size_bytes(&self) -> u64 {
        self.used_pages * self.page_size as u64
    }

    fn from_file(file: File, len: u64) -> Result<Self, BoltError> {
        // The first meta page may be torn: then the second one, at the usual page sizes, tells.
        let first = Meta::read(&file, 0);
        let second = match &first {
            Some(meta) => Meta::read(&file, u64::from(meta.page_size)),
            None => [4096, 8192, 16384, 65536, 1024, 2048].into_iter().find_map(|size| Meta::read(&file, size)),
        };
        let newest = [first, second].into_iter().flatten().max_by_key(|meta| meta.txid);
        let meta = newest.ok_or(BoltError::NotASnapshot("no valid meta page"))?;
        let pages = len / u64::from(meta.page_size);
        if meta.used_pages > pages {
            return Err(BoltError::NotASnapshot("the file is cut off before its last page"));
        }
        if meta.root >= pages {
            return Err(BoltError::NotASnapshot("the root page lies beyond the end of the file"));
        }
        let (page_size, used_pages) = (meta.page_size as usize, meta.used_pages);
        Ok(Self { file, page_size, pages, used_pages, root: meta.root })
    }

    /// Names of all top-level buckets.
    pub fn buckets(&self) -> Result<Vec<Bytes>, BoltError> {
        let mut names = Vec::new();
        let mut rows = Rows::new(self, self.root);
        while let Some(element) = rows.next_element()? {
            if element.flags & ELEMENT_IS_BUCKET != 0 {
                names.push(element.key);
            }
        }
        Ok(names)
    }

    /// Rows of a bucket in key order; `None` when there is no such bucket.
    pub fn bucket(&self, name: &str) -> Result<Option<Rows<'_>>, BoltError> {
        let mut rows = Rows::new(self, self.root);
        while let Some(element) = rows.next_element()? {
            if element.flags & ELEMENT_IS_BUCKET != 0 && element.key == name.as_bytes() {
                return self.open_bucket(&element.value).map(Some);
            }
        }
        Ok(None)
    }

    fn open_bucket(&self, value: &Bytes) -> Result<Rows<'_>, BoltError> {
        let Some(root) = u64_at(value, 0).filter(|_| value.len() >= BUCKET_VALUE) else {
            return Err(BoltError::Corrupt { page: self.root, what: "a bucket's value is too short" });
        };
        if root != 0 {
            return Ok(Rows::new(self, root));
        }
        // Small buckets lie in place, as one leaf after the bucket's own numbers.
        let mut rows = Rows { reader: self, start: None, stack: Vec::new(), last_key: None };
        rows.push(self.root, value.slice(BUCKET_VALUE..))?;
        Ok(rows)
    }

    /// A page with everything that overflows from it.
    fn page(&self, number: u64) -> Result<Bytes, BoltError> {
        let beyond = BoltError::Corrupt { page: number, what: "it lies beyond the end of the file" };
        if number < 2 || number >= self.pages {
            return Err(beyond);
        }
        let offset = number * self.page_size as u64;
        let mut header = [0; PAGE_HEADER];
        self.file.read_exact_at(&mut header, offset)?;
        let overflow = u32_at(&header, 12).unwrap_or_default();
        let run = u64::from(overflow) + 1;
        if number + run > self.pages {
            return Err(beyond);
        }
        let len = usize::try_from(run).unwrap_or(usize::MAX).saturating_mul(self.page_size);
        let mut page = vec![0; len];
        self.file.read_exact_at(&mut page, offset)?;
        Ok(page.into())
    }
}

struct Meta {
    page_size: u32,
    root: u64,
    used_pages: u64,
    txid: u64,
}

impl Meta {
    fn read(file: &File, offset: u64) -> Option<Self> {
        let mut meta = [0; META_LEN];
        file.read_exact_at(&mut meta, offset + PAGE_HEADER as u64).ok()?;
        let page_size = u32_at(&meta, 8)?;
        let valid = u32_at(&meta, 0)? == MAGIC
            && u32_at(&meta, 4)? == VERSION
            && u64_at(&meta, META_SUMMED)? == fnv1a(&meta[..META_SUMMED])
            && (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size);
        let (root, used_pages, txid) = (u64_at(&meta, 16)?, u64_at(&meta, 40)?, u64_at(&meta, 48)?);
        valid.then_some(Self { page_size, root, used_pages, txid })
    }
}

/// Rows of a bucket in key order. Nested buckets, which etcd does not use, are passed over.
#[derive(Debug)]
pub struct Rows<'a> {
    reader: &'a Reader,
    /// The root page, until it has been read.
    start: Option<u64>,
    stack: Vec<Frame>,
    last_key: Option<Bytes>,
}

#[derive(Debug)]
struct Frame {
    number: u64,
    page: Bytes,
    leaf: bool,
    index: usize,
    count: usize,
}

struct Element {
    flags: u32,
    key: Bytes,
    value: Bytes,
}

impl<'a> Rows<'a> {
    fn new(reader: &'a Reader, root: u64) -> Self {
        Self { reader, start: Some(root), stack: Vec::new(), last_key: None }
    }

    fn push(&mut self, number: u64, page: Bytes) -> Result<(), BoltError> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(BoltError::Corrupt { page: number, what: "the tree is too deep" });
        }
        let flags = u16_at(&page, 8).unwrap_or_default();
        let count = usize::from(u16_at(&page, 10).unwrap_or_default());
        let leaf = match flags {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            _ => return Err(BoltError::Corrupt { page: number, what: "it is neither leaf nor branch" }),
        };
        self.stack.push(Frame { number, page, leaf, index: 0, count });
        Ok(())
    }

    fn next_element(&mut self) -> Result<Option<Element>, BoltError> {
        if let Some(root) = self.start.take() {
            self.push(root, self.reader.page(root)?)?;
        }
        loop {
            let Some(frame) = self.stack.last_mut() else { return Ok(None) };
            if frame.index == frame.count {
                self.stack.pop();
                continue;
            }
            let cut = BoltError::Corrupt { page: frame.number, what: "an element lies outside its page" };
            let at = PAGE_HEADER + ELEMENT_HEADER * frame.index;
            frame.index += 1;
            if frame.leaf {
                let element = leaf_element(&frame.page, at).ok_or(cut)?;
                if self.last_key.as_ref().is_some_and(|last| *last >= element.key) {
                    return Err(BoltError::Corrupt { page: frame.number, what: "keys are out of order" });
                }
                self.last_key = Some(element.key.clone());
                return Ok(Some(element));
            }
            let child = u64_at(&frame.page, at + 8).ok_or(cut)?;
            let page = self.reader.page(child)?;
            self.push(child, page)?;
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<(Bytes, Bytes), BoltError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_element() {
                Ok(Some(element)) if element.flags & ELEMENT_IS_BUCKET != 0 => {}
                Ok(element) => return element.map(|element| Ok((element.key, element.value))),
                Err(error) => {
                    self.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

fn leaf_element(page: &Bytes, at: usize) -> Option<Element> {
    let flags = u32_at(page, at)?;
    let key_at = at.checked_add(u32_at(page, at + 4)? as usize)?;
    let value_at = key_at.checked_add(u32_at(page, at + 8)? as usize)?;
    let end = value_at.checked_add(u32_at(page, at + 12)? as usize)?;
    (end <= page.len()).then(|| Element { flags, key: page.slice(key_at..value_at), value: page.slice(value_at..end) })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
