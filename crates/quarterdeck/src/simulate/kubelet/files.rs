//! Files that were copied into a pod, and tar, by which `kubectl cp` copies them.

use std::collections::BTreeMap;

/// Bytes of all files of a pod.
const BYTES_MAX: usize = 8 << 20;
const BLOCK: usize = 512;

/// By absolute path.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    pub(super) fn get(&self, path: &str) -> Option<&[u8]> {
        self.0.get(&absolute("/", path)).map(Vec::as_slice)
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        let path = absolute("/", path);
        let below = format!("{}/", path.trim_end_matches('/'));
        ["/", "/tmp", "/etc", "/root", "/home", "/var"].contains(&path.as_str())
            || self.0.keys().any(|file| file.starts_with(&below))
    }

    /// Names in a directory.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let below = format!("{}/", absolute("/", path).trim_end_matches('/'));
        let names = self.0.keys().filter_map(|file| file.strip_prefix(&below)?.split('/').next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.dedup();
        names
    }

    /// Unpacks an archive into a directory. The error is tar's.
    pub(super) fn unpack(&mut self, directory: &str, archive: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while let Some(header) = archive.get(at..at + BLOCK) {
            if header.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let size = octal(&header[124..136]).ok_or("tar: invalid tar header checksum")?;
            let start = at + BLOCK;
            let content = archive.get(start..start + size).ok_or("tar: short read")?;
            // Directories and extended headers hold no file.
            if matches!(header[156], 0 | b'0') {
                let held: usize = self.0.values().map(Vec::len).sum();
                if held + size > BYTES_MAX {
                    return Err("tar: write error: No space left on device".into());
                }
                let (name, prefix) = (string(&header[..100]), string(&header[345..500]));
                let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
                self.0.insert(absolute(directory, &name), content.to_vec());
            }
            at = start + size.div_ceil(BLOCK) * BLOCK;
        }
        Ok(())
    }

    /// An archive of a file, or of all files below a directory; `None` when there is nothing.
    pub(super) fn pack(&self, path: &str) -> Option<Vec<u8>> {
        let path = absolute("/", path);
        let below = format!("{}/", path.trim_end_matches('/'));
        let mut out = Vec::new();
        for (name, content) in self.0.iter().filter(|(name, _)| **name == path || name.starts_with(&below)) {
            out.extend_from_slice(&header(name.trim_start_matches('/'), content.len()));
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        if out.is_empty() {
            return None;
        }
        out.resize(out.len() + 2 * BLOCK, 0);
        Some(out)
    }
}

/// A path without `.` and `..`, from the root.
fn absolute(directory: &str, path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    for segment in whole.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn string(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn octal(field: &[u8]) -> Option<usize> {
    usize::from_str_radix(string(field).trim(), 8).ok()
}

/// A ustar header of a regular file.
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    let name = name.as_bytes();
    put(0, &name[name.len().saturating_sub(100)..]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks_to_the_same() {
        let mut files = Files::default();
        files.0.insert("/tmp/a/b.txt".into(), vec![b'x'; 700]);
        files.0.insert("/tmp/c".into(), b"c".to_vec());
        let archive = files.pack("/tmp").expect("an archive");
        assert_eq!(archive.len() % BLOCK, 0);
        let mut other = Files::default();
        other.unpack("/home", &archive).expect("unpacked");
        assert_eq!(other.get("/home/tmp/a/b.txt").map(<[u8]>::len), Some(700));
        assert_eq!(other.get("/home/tmp/c"), Some(&b"c"[..]));
        assert_eq!(other.list("/home/tmp"), ["a", "c"]);
        assert_eq!(files.pack("/nowhere"), None);
        assert!(other.unpack("/", &archive[..600]).is_err());
    }
}
