//! The numbers of the file format and the packing of elements into pages, shared by the writer's two passes and the reader.

pub(super) const PAGE_SIZE: usize = 4096;
pub(super) const PAGE_HEADER: usize = 16;
/// Leaf and branch elements have headers of the same size.
pub(super) const ELEMENT_HEADER: usize = 16;
pub(super) const BUCKET_VALUE: usize = 16;
pub(super) const TRAILER: usize = 32;

pub(super) const FLAG_BRANCH: u16 = 0x01;
pub(super) const FLAG_LEAF: u16 = 0x02;
pub(super) const FLAG_META: u16 = 0x04;
/// In a leaf element: the value is a bucket.
pub(super) const ELEMENT_IS_BUCKET: u32 = 1;

pub(super) const MAGIC: u32 = 0xED0C_DAED;
pub(super) const VERSION: u32 = 2;
/// The free list is not in the file; the opener finds free pages by walking the tree.
pub(super) const NO_FREELIST: u64 = u64::MAX;
/// Bytes of a meta record before its checksum.
pub(super) const META_SUMMED: usize = 56;
pub(super) const META_LEN: usize = META_SUMMED + 8;

/// FNV-1a, 64 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Pages a run of `bytes` takes.
pub(super) fn pages(bytes: usize) -> u64 {
    bytes.div_ceil(PAGE_SIZE).max(1) as u64
}

/// Decides, from lengths alone, where one page of a level ends and the next begins. Both passes ask the same packer, so what
/// was planned is what is written.
#[derive(Debug)]
pub(super) struct Packer {
    used: usize,
    count: usize,
    /// Elements a page takes before its size is looked at.
    count_min: usize,
}

impl Packer {
    pub(super) fn leaf() -> Self {
        Self { used: PAGE_HEADER, count: 0, count_min: 1 }
    }

    /// A branch holds at least two children, or the tree would never end.
    pub(super) fn branch() -> Self {
        Self { count_min: 2, ..Self::leaf() }
    }

    /// Takes an element with `payload` bytes of key and value. `Some`: a page with that many bytes was finished before it.
    pub(super) fn push(&mut self, payload: usize) -> Option<usize> {
        let element = ELEMENT_HEADER + payload;
        let full = self.used + element > PAGE_SIZE || self.count == usize::from(u16::MAX) - 1;
        let finished = if self.count >= self.count_min && full { self.finish() } else { None };
        self.used += element;
        self.count += 1;
        finished
    }

    /// Ends the level: the bytes of its last page, when it has one.
    pub(super) fn finish(&mut self) -> Option<usize> {
        let used = (self.count > 0).then_some(self.used);
        *self = Self { count_min: self.count_min, ..Self::leaf() };
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_larger_than_a_page_gets_a_run_of_its_own() {
        let mut packer = Packer::leaf();
        assert_eq!(packer.push(10), None);
        assert_eq!(packer.push(9000), Some(PAGE_HEADER + ELEMENT_HEADER + 10));
        assert_eq!(packer.push(10), Some(PAGE_HEADER + ELEMENT_HEADER + 9000));
        assert_eq!(packer.finish(), Some(PAGE_HEADER + ELEMENT_HEADER + 10));
        assert_eq!(packer.finish(), None);
        assert_eq!(pages(PAGE_HEADER + ELEMENT_HEADER + 9000), 3);
    }

    #[test]
    fn a_page_is_filled_to_the_last_byte() {
        let mut packer = Packer::leaf();
        assert_eq!(packer.push(PAGE_SIZE - PAGE_HEADER - ELEMENT_HEADER), None);
        assert_eq!(packer.push(0), Some(PAGE_SIZE));
        assert_eq!(pages(PAGE_SIZE), 1);
    }

    #[test]
    fn checksum_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
