//! Writes a snapshot file bottom-up: the leaves of every bucket in key order, the branches above them, the leaf that names
//! the buckets. A first pass over the lengths gives every page number, so the meta pages can come first and the size is
//! known before the first byte; a second pass streams the rows. Memory is one key per page.

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::layout::{
    BUCKET_VALUE, ELEMENT_HEADER, ELEMENT_IS_BUCKET, FLAG_BRANCH, FLAG_LEAF, FLAG_META, MAGIC, META_LEN, META_SUMMED,
    NO_FREELIST, PAGE_HEADER, PAGE_SIZE, Packer, TRAILER, VERSION, fnv1a, pages,
};
use crate::background::{give_way, spawn_background};
use crate::{Snapshot, StoreError};

/// Bytes gathered before they are handed on.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that may wait for a slow receiver.
const CHUNKS_QUEUED: usize = 4;

type RowIter = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + Send>;
type LengthIter = Box<dyn Iterator<Item = Result<(usize, usize), StoreError>> + Send>;

/// One bucket: its name and its rows, sorted by key, twice (as lengths and as bytes) from the same read view.
pub struct Bucket {
    pub name: &'static str,
    /// Key and value lengths of `rows`, in the same order.
    pub lengths: LengthIter,
    pub rows: RowIter,
}

impl Bucket {
    /// A bucket that fits in memory.
    pub fn of(name: &'static str, rows: Vec<(Bytes, Bytes)>) -> Self {
        let lengths: Vec<_> = rows.iter().map(|(key, value)| Ok((key.len(), value.len()))).collect();
        Self { name, lengths: Box::new(lengths.into_iter()), rows: Box::new(rows.into_iter().map(Ok)) }
    }
}

/// A planned file, ready to be streamed.
pub struct Writer {
    buckets: Vec<(&'static str, RowIter, Tree)>,
    root: Tree,
    pages: u64,
}

/// Where a tree lies. Leaves come first, then each level of branches, the root last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tree {
    root: u64,
    /// One past the last page.
    end: u64,
}

impl Writer {
    /// The first pass: reads all lengths and places every page.
    pub fn plan(mut buckets: Vec<Bucket>) -> Result<Self, StoreError> {
        buckets.sort_by_key(|bucket| bucket.name);
        let mut next = 2;
        let mut planned: Vec<(&'static str, RowIter, Tree)> = Vec::with_capacity(buckets.len());
        for bucket in buckets {
            let tree = plan_tree(next, bucket.lengths)?;
            next = tree.end;
            planned.push((bucket.name, bucket.rows, tree));
        }
        let names: Vec<_> = planned.iter().map(|(name, ..)| Ok((name.len(), BUCKET_VALUE))).collect();
        let root = plan_tree(next, Box::new(names.into_iter()))?;
        Ok(Self { buckets: planned, root, pages: root.end })
    }

    /// Size of the file, trailer included.
    pub fn size_bytes(&self) -> u64 {
        self.pages * PAGE_SIZE as u64 + TRAILER as u64
    }

    /// The second pass: gives the file to `emit` in chunks, the trailer as the last one.
    pub fn run(self, emit: &mut dyn FnMut(Bytes) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut out =
            Output { buffer: BytesMut::with_capacity(2 * CHUNK_BYTES), hash: Sha256::new(), next_page: 0, emit };
        out.meta(0, self.root.root, self.pages)?;
        out.meta(1, self.root.root, self.pages)?;
        let mut names = Vec::with_capacity(self.buckets.len());
        for (name, rows, tree) in self.buckets {
            write_tree(&mut out, rows, tree, 0)?;
            let mut value = BytesMut::with_capacity(BUCKET_VALUE);
            value.put_u64_le(tree.root);
            value.put_u64_le(0);
            names.push(Ok((Bytes::from_static(name.as_bytes()), value.freeze())));
        }
        write_tree(&mut out, Box::new(names.into_iter()), self.root, ELEMENT_IS_BUCKET)?;
        if out.next_page != self.pages {
            return Err(changed());
        }
        out.finish()
    }

    /// Streams the file from a thread in the background. Dropping the snapshot stops it.
    pub fn into_snapshot(self) -> Snapshot {
        let size_bytes = self.size_bytes();
        let (chunks, received) = mpsc::channel(CHUNKS_QUEUED);
        let failed = chunks.clone();
        let started = spawn_background("snapshot", move || {
            let sent = self.run(&mut |chunk| chunks.blocking_send(Ok(chunk)).map_err(|_gone| StoreError::Stopped));
            if let Err(error) = sent {
                // The receiver may be gone, which is the usual reason to be here.
                let _receiver_gone = chunks.blocking_send(Err(error));
            }
        });
        if let Err(error) = started {
            // There is room for one.
            let _sent = failed.try_send(Err(error));
        }
        Snapshot { size_bytes, chunks: ReceiverStream::new(received).boxed(), hash_kv: None }
    }
}

fn changed() -> StoreError {
    StoreError::Fatal("snapshot: the rows read differ from the lengths planned".to_owned())
}

/// Places the pages of one tree from `first` on.
fn plan_tree(first: u64, lengths: LengthIter) -> Result<Tree, StoreError> {
    let mut level = PlannedLevel::new(first, Packer::leaf());
    for lengths in lengths {
        let (key, value) = lengths?;
        level.push(key, key + value);
    }
    level.finish();
    while level.first_keys.len() > 1 {
        let mut above = PlannedLevel::new(level.next, Packer::branch());
        for key in level.first_keys {
            above.push(key, key);
        }
        above.finish();
        level = above;
    }
    Ok(Tree { root: level.last, end: level.next })
}

/// One level of a tree in the first pass: page numbers and the key lengths its parent level needs.
struct PlannedLevel {
    packer: Packer,
    /// First page of the run placed last.
    last: u64,
    next: u64,
    first_keys: Vec<usize>,
}

impl PlannedLevel {
    fn new(next: u64, packer: Packer) -> Self {
        Self { packer, last: next, next, first_keys: Vec::new() }
    }

    fn push(&mut self, key: usize, payload: usize) {
        let finished = self.packer.push(payload);
        if let Some(bytes) = finished {
            self.place(bytes);
        }
        if finished.is_some() || self.first_keys.is_empty() {
            self.first_keys.push(key);
        }
    }

    /// A level without elements is one empty page.
    fn finish(&mut self) {
        let bytes = self.packer.finish().unwrap_or(PAGE_HEADER);
        self.place(bytes);
    }

    fn place(&mut self, bytes: usize) {
        self.last = self.next;
        self.next += pages(bytes);
    }
}

/// Writes the leaves, then each level of branches, as [`plan_tree`] placed them.
fn write_tree(out: &mut Output<'_>, rows: RowIter, tree: Tree, element_flags: u32) -> Result<(), StoreError> {
    let mut level = WrittenLevel::new(Packer::leaf(), FLAG_LEAF);
    let mut last_key: Option<Bytes> = None;
    for row in rows {
        let (key, value) = row?;
        if last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(StoreError::Fatal("snapshot: rows are not in key order".to_owned()));
        }
        last_key = Some(key.clone());
        let payload = key.len() + value.len();
        level.push(out, Element { key, tail: Tail::Leaf { flags: element_flags, value } }, payload)?;
    }
    level.finish(out)?;
    while level.children.len() > 1 {
        let mut above = WrittenLevel::new(Packer::branch(), FLAG_BRANCH);
        for (key, page) in level.children {
            let payload = key.len();
            above.push(out, Element { key, tail: Tail::Branch { page } }, payload)?;
        }
        above.finish(out)?;
        level = above;
    }
    if out.next_page != tree.end || level.last != tree.root {
        return Err(changed());
    }
    Ok(())
}

struct Element {
    key: Bytes,
    tail: Tail,
}

enum Tail {
    Leaf { flags: u32, value: Bytes },
    Branch { page: u64 },
}

/// One level of a tree in the second pass: the elements of the page being filled, and first key and number of those written.
struct WrittenLevel {
    packer: Packer,
    flag: u16,
    elements: Vec<Element>,
    children: Vec<(Bytes, u64)>,
    last: u64,
}

impl WrittenLevel {
    fn new(packer: Packer, flag: u16) -> Self {
        Self { packer, flag, elements: Vec::new(), children: Vec::new(), last: 0 }
    }

    fn push(&mut self, out: &mut Output<'_>, element: Element, payload: usize) -> Result<(), StoreError> {
        if let Some(bytes) = self.packer.push(payload) {
            self.write(out, bytes)?;
        }
        self.elements.push(element);
        Ok(())
    }

    fn finish(&mut self, out: &mut Output<'_>) -> Result<(), StoreError> {
        let bytes = self.packer.finish().unwrap_or(PAGE_HEADER);
        self.write(out, bytes)
    }

    fn write(&mut self, out: &mut Output<'_>, bytes: usize) -> Result<(), StoreError> {
        self.last = out.next_page;
        if let Some(first) = self.elements.first() {
            // Its own copy: a slice would keep a whole row alive.
            self.children.push((Bytes::copy_from_slice(&first.key), self.last));
        }
        out.page(self.flag, &self.elements, bytes)?;
        self.elements.clear();
        Ok(())
    }
}

/// The file being written: gathers chunks, sums them, counts pages.
struct Output<'a> {
    buffer: BytesMut,
    hash: Sha256,
    next_page: u64,
    emit: &'a mut dyn FnMut(Bytes) -> Result<(), StoreError>,
}

impl Output<'_> {
    fn header(&mut self, flag: u16, count: u16, overflow: u32) {
        self.buffer.put_u64_le(self.next_page);
        self.buffer.put_u16_le(flag);
        self.buffer.put_u16_le(count);
        self.buffer.put_u32_le(overflow);
    }

    fn meta(&mut self, txid: u64, root: u64, page_count: u64) -> Result<(), StoreError> {
        self.header(FLAG_META, 0, 0);
        let start = self.buffer.len();
        self.buffer.put_u32_le(MAGIC);
        self.buffer.put_u32_le(VERSION);
        self.buffer.put_u32_le(PAGE_SIZE as u32);
        self.buffer.put_u32_le(0);
        self.buffer.put_u64_le(root);
        self.buffer.put_u64_le(0);
        self.buffer.put_u64_le(NO_FREELIST);
        self.buffer.put_u64_le(page_count);
        self.buffer.put_u64_le(txid);
        debug_assert_eq!(self.buffer.len() - start, META_SUMMED);
        let sum = fnv1a(&self.buffer[start..]);
        self.buffer.put_u64_le(sum);
        self.pad(PAGE_HEADER + META_LEN)
    }

    /// Headers first, then keys and values in the same order; `pos` counts from each element's own header.
    fn page(&mut self, flag: u16, elements: &[Element], bytes: usize) -> Result<(), StoreError> {
        let too_large = |_| StoreError::Fatal("snapshot: a row is too large for the file format".to_owned());
        let overflow = u32::try_from(pages(bytes) - 1).map_err(too_large)?;
        self.header(flag, u16::try_from(elements.len()).map_err(too_large)?, overflow);
        let mut data = ELEMENT_HEADER * elements.len();
        for (index, element) in elements.iter().enumerate() {
            let pos = u32::try_from(data - ELEMENT_HEADER * index).map_err(too_large)?;
            let key_len = u32::try_from(element.key.len()).map_err(too_large)?;
            data += element.key.len();
            match &element.tail {
                Tail::Leaf { flags, value } => {
                    self.buffer.put_u32_le(*flags);
                    self.buffer.put_u32_le(pos);
                    self.buffer.put_u32_le(key_len);
                    self.buffer.put_u32_le(u32::try_from(value.len()).map_err(too_large)?);
                    data += value.len();
                }
                Tail::Branch { page } => {
                    self.buffer.put_u32_le(pos);
                    self.buffer.put_u32_le(key_len);
                    self.buffer.put_u64_le(*page);
                }
            }
        }
        if PAGE_HEADER + data != bytes {
            return Err(changed());
        }
        for element in elements {
            self.buffer.extend_from_slice(&element.key);
            if let Tail::Leaf { value, .. } = &element.tail {
                self.buffer.extend_from_slice(value);
            }
        }
        self.pad(bytes)
    }

    /// Fills the run of `bytes` up to whole pages and hands on what has gathered.
    fn pad(&mut self, bytes: usize) -> Result<(), StoreError> {
        let run = pages(bytes);
        self.buffer.put_bytes(0, run as usize * PAGE_SIZE - bytes);
        self.next_page += run;
        if self.buffer.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        give_way();
        let chunk = self.buffer.split().freeze();
        self.hash.update(&chunk);
        (self.emit)(chunk)
    }

    fn finish(mut self) -> Result<(), StoreError> {
        self.flush()?;
        let hash = self.hash.finalize();
        (self.emit)(Bytes::copy_from_slice(&hash))
    }
}
