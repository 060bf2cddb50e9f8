//! Backups: everything needed to bring a cluster back, sealed with a key that only the operator holds.
//!
//! An archive (`archive`) holds a snapshot of the store with the PKI (`contents`), or the changes of a short time (`log`). Archives
//! are kept in a folder or a bucket (`target`), under names that say what can be restored (`catalog`). A running server saves them
//! on a schedule (`service`, as `settings` say); `restore` makes a data directory again, at a revision or a time.

mod archive;
mod catalog;
mod contents;
mod log;
mod metrics;
mod restore;
mod service;
mod settings;
mod target;
mod verify;

pub(crate) use archive::{ArchiveKind, ArchiveReader, ArchiveWriter, BackupKey, read_manifest};
pub(crate) use catalog::{Listed, read as read_catalog, superfluous};
pub(crate) use contents::{ServerInfo, Source};
pub(crate) use restore::{Moment, RestoreRequest, Restored, restore};
pub(crate) use service::{BackupService, BackupStatus};
pub(crate) use settings::read_key;
pub(crate) use target::{S3Options, StoredArchive, Target};
pub(crate) use verify::{drill, each_object, verify};

/// The one entry of a log archive.
const LOG_ENTRY: &str = "changes";
