//! A value made from files, made again when they change: certificates are renewed under a running server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

/// Makes the value from the contents of its files, in the order of their paths.
type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

/// A value and the files it comes from. Looking at it costs one `stat` for each file; a change that cannot be read or used is
/// logged once, and the value stays as it was.
pub struct FromFiles<T> {
    paths: Vec<PathBuf>,
    make: Box<Make<T>>,
    current: Mutex<Current<T>>,
}

struct Current<T> {
    value: Arc<T>,
    stamps: Vec<Stamp>,
}

/// What tells that a file is another one than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl<T> std::fmt::Debug for FromFiles<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FromFiles").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// A PEM text, or the file that holds it. A file is read again when it changes.
#[derive(Clone)]
pub enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

impl From<Vec<u8>> for Pem {
    fn from(text: Vec<u8>) -> Self {
        Self::Text(text)
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// A value that never changes.
impl<T> From<Arc<T>> for FromFiles<T> {
    fn from(value: Arc<T>) -> Self {
        let make = |_: &[Vec<u8>]| Err("made of no files".to_owned());
        Self { paths: Vec::new(), make: Box::new(make), current: Mutex::new(Current { value, stamps: Vec::new() }) }
    }
}

impl<T> FromFiles<T> {
    /// A value made from PEM texts, some of which are in files.
    pub fn of_pems(
        parts: Vec<Pem>,
        make: impl Fn(&[&[u8]]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let path = |part: &Pem| match part {
            Pem::File(path) => Some(path.clone()),
            Pem::Text(_) => None,
        };
        let paths = parts.iter().filter_map(path).collect();
        Self::new(paths, move |contents| {
            let mut contents = contents.iter();
            let texts = parts.iter().filter_map(|part| match part {
                Pem::Text(text) => Some(text.as_slice()),
                Pem::File(_) => contents.next().map(Vec::as_slice),
            });
            make(&texts.collect::<Vec<_>>())
        })
    }

    /// Reads the files for the first time, which has to succeed.
    pub fn new(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Stamps first: a change while reading is then seen the next time.
        let stamps = stamps(&paths);
        let value = Arc::new(make(&read(&paths)?)?);
        Ok(Self { paths, make: Box::new(make), current: Mutex::new(Current { value, stamps }) })
    }

    /// The value of the files as they are now, or as they last made sense.
    pub fn get(&self) -> Arc<T> {
        if self.paths.is_empty() {
            return self.current.lock().value.clone();
        }
        let stamps = stamps(&self.paths);
        let mut current = self.current.lock();
        if current.stamps != stamps {
            current.stamps = stamps;
            match read(&self.paths).and_then(|contents| (self.make)(&contents)) {
                Ok(value) => current.value = Arc::new(value),
                Err(error) => tracing::warn!(error, "changed files cannot be used; the old ones stay in use"),
            }
        }
        current.value.clone()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(file) = std::fs::metadata(path) else { return Stamp::default() };
    Stamp { modified: file.modified().ok(), bytes: file.len(), inode: file.ino() }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()));
    paths.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_gives_a_new_value_and_a_useless_one_leaves_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        // Renamed into place, as tools that renew certificates do.
        let write = |text: &str| {
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let parse = |contents: &[Vec<u8>]| {
            let text = String::from_utf8_lossy(&contents[0]);
            text.parse::<u32>().map_err(|error| error.to_string())
        };
        assert!(FromFiles::new(vec![path.clone()], parse).is_err());
        write("1");
        let number = FromFiles::new(vec![path.clone()], parse).unwrap();
        assert_eq!(*number.get(), 1);
        write("22");
        assert_eq!(*number.get(), 22);
        write("rubbish");
        assert_eq!(*number.get(), 22);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*number.get(), 22);
        write("3");
        assert_eq!(*number.get(), 3);
    }
}
