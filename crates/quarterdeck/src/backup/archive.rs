//! The container of a backup: a header that anyone may read, then sealed frames. Pure: bytes in, bytes out.
//!
//! ```text
//! header  magic "QDBACKUP" | version u8 (1) | cipher u8 | zero u16 | manifest length u32 | salt, 32 bytes | manifest (JSON)
//! frame   length u32, of the text; the top bit marks the last frame | text, sealed | tag, 16 bytes
//! ```
//!
//! Numbers are big-endian. Cipher 1 seals with AES-256-GCM under HKDF-SHA-256(key, salt); cipher 0 does not hide the text, its
//! tag is the start of a SHA-256. In both, a frame's tag covers the header and the frame's place and whether it is the last, so
//! frames cannot be changed, dropped, swapped, cut off or moved to another archive unnoticed. (Without a key whoever changes an
//! archive on purpose can make the tags again.)
//!
//! The text is a sequence of entries, as a tar file would be:
//!
//! ```text
//! entry   name length u16 | name | size u64 | bytes
//! end     0 u16
//! ```

use std::fmt;
use std::io::{self, Read, Write};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const MAGIC: &[u8; 8] = b"QDBACKUP";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = 8 + 1 + 1 + 2 + 4 + SALT_BYTES;
const TAG_BYTES: usize = 16;
/// Text of a frame; what a reader holds in memory at a time.
const FRAME_BYTES_MAX: usize = 1 << 20;
const LAST: u32 = 1 << 31;
/// A manifest is a few hundred bytes.
const MANIFEST_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 512;
const KEY_PURPOSE: &[u8] = b"quarterdeck backup 1";

/// What an archive says of itself, readable without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub kind: ArchiveKind,
    /// When it was begun, RFC 3339.
    pub created: String,
    /// Version of Quarterdeck that wrote it.
    pub writer: String,
    /// Id of the store's cluster, hexadecimal. Revisions of different clusters have nothing to do with each other.
    pub cluster_id: String,
    /// A snapshot: holds at least everything up to this revision. A log: the last revision in it.
    pub revision: i64,
    /// A log: the first revision in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_revision: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ArchiveKind {
    Snapshot,
    Log,
}

/// The operator's key: 32 bytes, kept in a file as base64 or hexadecimal.
#[derive(Clone)]
pub(crate) struct BackupKey([u8; 32]);

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackupKey")
    }
}

impl BackupKey {
    /// Parses what a key file says.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        use base64::Engine as _;
        let text = text.trim();
        if text.len() == 64 {
            let bytes: Option<Vec<u8>> =
                (0..32).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()).collect();
            return bytes?.try_into().ok().map(Self);
        }
        base64::prelude::BASE64_STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("reading the backup: {0}")]
    Io(#[from] io::Error),
    #[error("unpacking the backup: {0}")]
    Unpack(#[source] io::Error),
    #[error("not a backup of quarterdeck")]
    NotAnArchive,
    #[error("the backup has format {0}, this version reads format {VERSION}: use a newer quarterdeck")]
    TooNew(u8),
    #[error("the backup is encrypted: give its key with --key-file")]
    NeedsKey,
    /// The first frame does not open.
    #[error("the backup does not open with this key, or its beginning was changed")]
    WrongKey,
    #[error("the backup is damaged: frame {frame} was changed")]
    Damaged { frame: u32 },
    #[error("the backup is cut off after frame {frame}")]
    Truncated { frame: u32 },
    #[error("the backup is damaged: {0}")]
    Malformed(&'static str),
}

/// Seals frames, or checks them: one end of an archive.
struct Sealer {
    header_hash: [u8; 32],
    key: Option<LessSafeKey>,
    next_frame: u32,
}

impl Sealer {
    fn new(header: &[u8], salt: &[u8; SALT_BYTES], key: Option<&BackupKey>) -> Self {
        let header_hash = Sha256::digest(header).into();
        Self { header_hash, key: key.map(|key| derive(key, salt)), next_frame: 0 }
    }

    fn nonce(&self, is_last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[7..11].copy_from_slice(&self.next_frame.to_be_bytes());
        nonce[11] = is_last.into();
        nonce
    }

    fn seal(&mut self, text: &mut [u8], is_last: bool) -> [u8; TAG_BYTES] {
        let nonce = self.nonce(is_last);
        self.next_frame += 1;
        match &self.key {
            None => plain_tag(&self.header_hash, &nonce, text),
            Some(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&self.header_hash), text);
                let tag = tag.expect("a frame is shorter than AES-GCM's limit");
                tag.as_ref().try_into().expect("a GCM tag has 16 bytes")
            }
        }
    }

    /// Opens a sealed text followed by its tag in place; false when they do not belong together.
    fn open(&mut self, sealed: &mut Vec<u8>, is_last: bool) -> bool {
        let nonce = self.nonce(is_last);
        self.next_frame += 1;
        let text_len = sealed.len() - TAG_BYTES;
        let is_genuine = match &self.key {
            None => plain_tag(&self.header_hash, &nonce, &sealed[..text_len]) == sealed[text_len..],
            Some(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(&self.header_hash), sealed).is_ok()
            }
        };
        sealed.truncate(text_len);
        is_genuine
    }
}

fn plain_tag(header_hash: &[u8; 32], nonce: &[u8; 12], text: &[u8]) -> [u8; TAG_BYTES] {
    let digest = Sha256::new().chain_update(header_hash).chain_update(nonce).chain_update(text).finalize();
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&digest[..TAG_BYTES]);
    tag
}

fn derive(key: &BackupKey, salt: &[u8; SALT_BYTES]) -> LessSafeKey {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let pseudo_random = Salt::new(HKDF_SHA256, salt).extract(&key.0);
    let mut derived = [0; 32];
    let expanded = pseudo_random.expand(&[KEY_PURPOSE], Length).and_then(|okm| okm.fill(&mut derived));
    expanded.expect("32 bytes are within HKDF's limit");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived).expect("AES-256 keys have 32 bytes"))
}

/// Makes an archive, piece by piece.
pub(crate) struct ArchiveWriter {
    sealer: Sealer,
    text: Vec<u8>,
    /// Bytes that the current entry still lacks.
    entry_left: u64,
}

impl ArchiveWriter {
    /// A writer, and the header with which the file begins. `salt` must be random.
    pub(crate) fn new(manifest: &Manifest, key: Option<&BackupKey>, salt: [u8; SALT_BYTES]) -> (Self, Vec<u8>) {
        let manifest = serde_json::to_vec(manifest).expect("a manifest is plain data");
        assert!(manifest.len() <= MANIFEST_BYTES_MAX, "a manifest has {} bytes", manifest.len());
        let mut header = Vec::with_capacity(HEADER_BYTES + manifest.len());
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[VERSION, key.is_some().into(), 0, 0]);
        header.extend_from_slice(&(manifest.len() as u32).to_be_bytes());
        header.extend_from_slice(&salt);
        header.extend_from_slice(&manifest);
        (Self { sealer: Sealer::new(&header, &salt, key), text: Vec::new(), entry_left: 0 }, header)
    }

    /// Begins an entry, of which exactly `size_bytes` must follow.
    pub(crate) fn begin_entry(&mut self, name: &str, size_bytes: u64) {
        assert_eq!(self.entry_left, 0, "the entry before {name} lacks bytes");
        assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX, "entry name {name:?}");
        self.text.extend_from_slice(&(name.len() as u16).to_be_bytes());
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(&size_bytes.to_be_bytes());
        self.entry_left = size_bytes;
    }

    /// Adds to the current entry; returns the frames that are full, to be written now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Vec<u8> {
        let len = bytes.len() as u64;
        assert!(len <= self.entry_left, "{len} bytes for an entry that lacks {}", self.entry_left);
        self.entry_left -= len;
        self.text.extend_from_slice(bytes);
        self.full_frames()
    }

    /// The rest of the file.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        assert_eq!(self.entry_left, 0, "the last entry lacks bytes");
        self.text.extend_from_slice(&0_u16.to_be_bytes());
        let mut out = self.full_frames();
        let last = std::mem::take(&mut self.text);
        self.put_frame(last, true, &mut out);
        out
    }

    /// Frames of the text so far. At least one byte is kept back: the last frame must not be empty of meaning, nor known too late.
    fn full_frames(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.text.len() > FRAME_BYTES_MAX {
            let rest = self.text.split_off(FRAME_BYTES_MAX);
            let frame = std::mem::replace(&mut self.text, rest);
            store::give_way();
            self.put_frame(frame, false, &mut out);
        }
        out
    }

    fn put_frame(&mut self, mut text: Vec<u8>, is_last: bool, out: &mut Vec<u8>) {
        let length = text.len() as u32 | if is_last { LAST } else { 0 };
        let tag = self.sealer.seal(&mut text, is_last);
        out.reserve(4 + text.len() + TAG_BYTES);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&text);
        out.extend_from_slice(&tag);
    }
}

/// Reads an archive from front to end. Nothing of a frame is handed out before its tag is checked.
pub(crate) struct ArchiveReader<R> {
    input: R,
    sealer: Sealer,
    manifest: Manifest,
    text: Vec<u8>,
    at: usize,
    has_last: bool,
    entry_left: u64,
}

/// The manifest at the head of an archive, unchecked: for listings.
pub(crate) fn read_manifest(input: impl Read) -> Result<(Manifest, bool), ArchiveError> {
    let header = Header::read(input)?;
    Ok((header.manifest, header.is_encrypted))
}

/// True when these are the first bytes of an archive.
pub(crate) fn is_archive(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

struct Header {
    bytes: Vec<u8>,
    salt: [u8; SALT_BYTES],
    is_encrypted: bool,
    manifest: Manifest,
}

impl Header {
    fn read(mut input: impl Read) -> Result<Self, ArchiveError> {
        let mut bytes = vec![0; HEADER_BYTES];
        input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::NotAnArchive,
            _ => ArchiveError::Io(error),
        })?;
        if !is_archive(&bytes) {
            return Err(ArchiveError::NotAnArchive);
        }
        if bytes[8] != VERSION {
            return Err(ArchiveError::TooNew(bytes[8]));
        }
        let is_encrypted = match bytes[9] {
            0 => false,
            1 => true,
            _ => return Err(ArchiveError::Malformed("unknown cipher")),
        };
        let manifest_len = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
        if manifest_len > MANIFEST_BYTES_MAX {
            return Err(ArchiveError::Malformed("the manifest is too long"));
        }
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&bytes[16..HEADER_BYTES]);
        bytes.resize(HEADER_BYTES + manifest_len, 0);
        read_whole(&mut input, &mut bytes[HEADER_BYTES..], 0)?;
        let manifest = serde_json::from_slice(&bytes[HEADER_BYTES..])
            .map_err(|_| ArchiveError::Malformed("the manifest is unreadable"))?;
        Ok(Self { bytes, salt, is_encrypted, manifest })
    }
}

/// An entry's head; its bytes are read with [`ArchiveReader::read_entry`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    pub size_bytes: u64,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads the header. An encrypted archive needs its key; one that is not ignores the key.
    pub(crate) fn open(mut input: R, key: Option<&BackupKey>) -> Result<Self, ArchiveError> {
        let header = Header::read(&mut input)?;
        let key = match (header.is_encrypted, key) {
            (false, _) => None,
            (true, Some(key)) => Some(key),
            (true, None) => return Err(ArchiveError::NeedsKey),
        };
        let sealer = Sealer::new(&header.bytes, &header.salt, key);
        let (text, manifest) = (Vec::new(), header.manifest);
        Ok(Self { input, sealer, manifest, text, at: 0, has_last: false, entry_left: 0 })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next entry; `None` at the end, when everything has been checked. What was not read of the one before is passed over.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        while self.entry_left > 0 {
            let piece = usize::try_from(self.entry_left).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
            self.skip(piece)?;
            self.entry_left -= piece as u64;
        }
        let name_len = usize::from(u16::from_be_bytes(self.take_array()?));
        if name_len == 0 {
            let is_end = self.has_last && self.at == self.text.len();
            return if is_end { Ok(None) } else { Err(ArchiveError::Malformed("something follows the end")) };
        }
        if name_len > NAME_BYTES_MAX {
            return Err(ArchiveError::Malformed("an entry's name is too long"));
        }
        let mut name = vec![0; name_len];
        self.take(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| ArchiveError::Malformed("an entry's name is not UTF-8"))?;
        let size_bytes = u64::from_be_bytes(self.take_array()?);
        self.entry_left = size_bytes;
        Ok(Some(Entry { name, size_bytes }))
    }

    /// Bytes of the current entry; 0 at its end.
    pub(crate) fn read_entry(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let wanted = usize::try_from(self.entry_left).unwrap_or(usize::MAX).min(buffer.len());
        self.take(&mut buffer[..wanted])?;
        self.entry_left -= wanted as u64;
        Ok(wanted)
    }

    /// Copies what is left of the current entry into a file.
    pub(crate) fn copy_entry(&mut self, out: &mut impl Write) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            let n_read = self.read_entry(&mut buffer)?;
            if n_read == 0 {
                return Ok(());
            }
            out.write_all(&buffer[..n_read]).map_err(ArchiveError::Unpack)?;
        }
    }

    /// The whole current entry, refused when it has more than `bytes_max`.
    pub(crate) fn read_small_entry(&mut self, bytes_max: usize) -> Result<Vec<u8>, ArchiveError> {
        let size = usize::try_from(self.entry_left).unwrap_or(usize::MAX);
        if size > bytes_max {
            return Err(ArchiveError::Malformed("an entry is too large"));
        }
        let mut bytes = vec![0; size];
        self.take(&mut bytes)?;
        self.entry_left = 0;
        Ok(bytes)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    fn take(&mut self, out: &mut [u8]) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while filled < out.len() {
            self.fill()?;
            let piece = (out.len() - filled).min(self.text.len() - self.at);
            out[filled..filled + piece].copy_from_slice(&self.text[self.at..self.at + piece]);
            filled += piece;
            self.at += piece;
        }
        Ok(())
    }

    fn skip(&mut self, n_bytes: usize) -> Result<(), ArchiveError> {
        let mut left = n_bytes;
        while left > 0 {
            self.fill()?;
            let piece = left.min(self.text.len() - self.at);
            left -= piece;
            self.at += piece;
        }
        Ok(())
    }

    /// Makes sure that there is unread text.
    fn fill(&mut self) -> Result<(), ArchiveError> {
        while self.at == self.text.len() {
            if self.has_last {
                return Err(ArchiveError::Malformed("the entries end early"));
            }
            self.read_frame()?;
        }
        Ok(())
    }

    fn read_frame(&mut self) -> Result<(), ArchiveError> {
        let frame = self.sealer.next_frame;
        let mut length = [0; 4];
        read_whole(&mut self.input, &mut length, frame)?;
        let length = u32::from_be_bytes(length);
        let is_last = length & LAST != 0;
        let text_len = (length & !LAST) as usize;
        if text_len > FRAME_BYTES_MAX {
            return Err(ArchiveError::Damaged { frame });
        }
        self.text.resize(text_len + TAG_BYTES, 0);
        self.at = 0;
        read_whole(&mut self.input, &mut self.text, frame)?;
        if !self.sealer.open(&mut self.text, is_last) {
            let may_be_the_key = frame == 0 && self.sealer.key.is_some();
            return Err(if may_be_the_key { ArchiveError::WrongKey } else { ArchiveError::Damaged { frame } });
        }
        self.has_last = is_last;
        if is_last && self.input.read(&mut [0])? > 0 {
            return Err(ArchiveError::Malformed("something follows the last frame"));
        }
        Ok(())
    }
}

fn read_whole(input: &mut impl Read, out: &mut [u8], frame: u32) -> Result<(), ArchiveError> {
    input.read_exact(out).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated { frame },
        _ => ArchiveError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            kind: ArchiveKind::Snapshot,
            created: "2026-01-02T03:04:05Z".into(),
            writer: "0.1.0".into(),
            cluster_id: "cdf818194e3a8c32".into(),
            revision: 42,
            from_revision: None,
        }
    }

    fn key(byte: u8) -> BackupKey {
        BackupKey([byte; 32])
    }

    /// Two entries, one of several frames.
    fn archive(key: Option<&BackupKey>) -> Vec<u8> {
        let (mut writer, mut file) = ArchiveWriter::new(&manifest(), key, [7; 32]);
        writer.begin_entry("store.db", 2_500_000);
        for _ in 0..25 {
            file.extend(writer.write(&[0xab; 100_000]));
        }
        writer.begin_entry("pki/ca.key", 6);
        file.extend(writer.write(b"secret"));
        file.extend(writer.finish());
        file
    }

    fn read_all(file: &[u8], key: Option<&BackupKey>) -> Result<Vec<(String, usize)>, ArchiveError> {
        let mut reader = ArchiveReader::open(file, key)?;
        assert_eq!(reader.manifest(), &manifest());
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let bytes = reader.read_small_entry(4 << 20)?;
            found.push((entry.name, bytes.len()));
        }
        Ok(found)
    }

    #[test]
    fn what_was_written_is_read_with_and_without_a_key() {
        let wanted = vec![("store.db".to_owned(), 2_500_000), ("pki/ca.key".to_owned(), 6)];
        assert_eq!(read_all(&archive(None), None).unwrap(), wanted);
        assert_eq!(read_all(&archive(Some(&key(1))), Some(&key(1))).unwrap(), wanted);
        assert_eq!(read_manifest(&archive(Some(&key(1)))[..]).unwrap(), (manifest(), true));
    }

    #[test]
    fn an_encrypted_archive_shows_nothing_of_its_entries() {
        let file = archive(Some(&key(1)));
        assert!(!file.windows(6).any(|window| window == b"secret"));
        assert!(archive(None).windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn a_wrong_or_missing_key_is_said_so() {
        let file = archive(Some(&key(1)));
        assert!(matches!(read_all(&file, Some(&key(2))), Err(ArchiveError::WrongKey)));
        assert!(matches!(read_all(&file, None), Err(ArchiveError::NeedsKey)));
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        for key in [None, Some(key(1))] {
            let file = archive(key.as_ref());
            for at in (0..file.len()).step_by(9_973).chain([9, 17, file.len() - 1]) {
                let mut changed = file.clone();
                changed[at] ^= 1;
                let read = ArchiveReader::open(&changed[..], key.as_ref()).and_then(|mut reader| {
                    while reader.next_entry()?.is_some() {}
                    Ok(())
                });
                assert!(read.is_err(), "byte {at} was changed");
            }
            for len in (0..file.len()).step_by(9_973).chain([file.len() - 1]) {
                assert!(read_all(&file[..len], key.as_ref()).is_err(), "cut to {len} bytes");
            }
            let mut longer = file.clone();
            longer.push(0);
            assert!(read_all(&longer, key.as_ref()).is_err());
        }
    }

    #[test]
    fn entries_may_be_left_unread() {
        let file = archive(None);
        let mut reader = ArchiveReader::open(&file[..], None).unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().name, "store.db");
        assert_eq!(reader.next_entry().unwrap().unwrap().name, "pki/ca.key");
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn keys_are_base64_or_hexadecimal() {
        assert_eq!(BackupKey::parse(&"0a".repeat(32)).unwrap().0, [10; 32]);
        assert_eq!(BackupKey::parse("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n").unwrap().0, [1; 32]);
        assert!(BackupKey::parse("AQEB").is_none());
        assert!(BackupKey::parse(&"zz".repeat(32)).is_none());
        assert!(BackupKey::parse(&"é".repeat(32)).is_none());
    }
}
