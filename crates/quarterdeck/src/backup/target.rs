//! Where backups are kept: a folder, or a bucket that speaks S3.

use std::fs::File;
use std::io::Write as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::io::AsyncWriteExt as _;

/// A request to a bucket that takes longer is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A bucket that is away for longer fails the backup; the next one tries again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
const RETRIES_MAX: usize = 6;
/// Parts of an upload; S3 wants at least 5 MiB and at most 10,000 of them (80 GiB).
const PART_BYTES: usize = 8 << 20;

/// A place for archives, by name.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    shown: String,
}

/// An archive in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredArchive {
    pub name: String,
    pub size_bytes: u64,
}

/// How a bucket is reached, beside its URL. Credentials come from the AWS_* variables or these.
#[derive(Clone, Debug, Default)]
pub(crate) struct S3Options {
    /// `https://host:port` of the service; AWS's own if not given.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// PEM of the CA that the service's certificate comes from.
    pub ca_pem: Option<Vec<u8>>,
}

impl Target {
    /// `s3://BUCKET/PREFIX`, `file:///PATH` or a path. A folder is made if it is not there.
    pub(crate) fn open(url: &str, s3: &S3Options) -> Result<Self> {
        match url.split_once("://") {
            Some(("s3", place)) => Self::bucket(url, place, s3),
            Some(("file", path)) => Self::folder(FilePath::new(path)),
            Some((scheme, _)) => bail!("{url}: scheme {scheme:?} is not supported, use s3:// or a folder"),
            None => Self::folder(FilePath::new(url)),
        }
    }

    fn folder(path: &FilePath) -> Result<Self> {
        crate::pki::create_private_dir(path)?;
        let store = LocalFileSystem::new_with_prefix(path)
            .with_context(|| format!("cannot use {}", path.display()))?
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: Path::default(), shown: path.display().to_string() })
    }

    fn bucket(url: &str, place: &str, s3: &S3Options) -> Result<Self> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            bail!("{url}: no bucket");
        }
        let mut client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT);
        if let Some(pem) = &s3.ca_pem {
            let certificates = object_store::Certificate::from_pem_bundle(pem).context("the bucket's CA")?;
            for certificate in certificates {
                client = client.with_root_certificate(certificate);
            }
        }
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIMEOUT,
        });
        if let Some(endpoint) = &s3.endpoint {
            // A service on this machine or in this network may do without TLS: archives are sealed in any case.
            builder = builder.with_endpoint(endpoint);
            client = client.with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        // The HTTP client takes the process's provider of cryptography and brings none.
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let store = builder.with_client_options(client).build().with_context(|| format!("cannot use {url}"))?;
        Ok(Self { store: Arc::new(store), prefix: Path::from(prefix), shown: url.to_owned() })
    }

    /// As the operator wrote it.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Everything that is there, by name.
    pub(crate) async fn list(&self) -> Result<Vec<StoredArchive>> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let listed = self.store.list_with_delimiter(prefix).await.with_context(|| format!("listing {}", self.shown))?;
        let named = listed.objects.into_iter().filter_map(|object| {
            Some(StoredArchive { name: object.location.filename()?.to_owned(), size_bytes: object.size })
        });
        let mut archives: Vec<_> = named.collect();
        archives.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(archives)
    }

    /// Begins an upload. Nothing is there under this name until it is finished.
    pub(crate) fn upload(&self, name: &str) -> Upload {
        let writer = BufWriter::with_capacity(Arc::clone(&self.store), self.path(name), PART_BYTES);
        Upload { writer, what: format!("{}/{name}", self.shown) }
    }

    /// Copies an archive into a file.
    pub(crate) async fn download(&self, name: &str, into: &mut File) -> Result<()> {
        let what = || format!("reading {}/{name}", self.shown);
        let mut chunks = self.store.get(&self.path(name)).await.with_context(what)?.into_stream();
        while let Some(chunk) = chunks.try_next().await.with_context(what)? {
            into.write_all(&chunk).context("writing the downloaded backup")?;
        }
        Ok(())
    }

    /// Removes archives; those that are gone already are no error.
    pub(crate) async fn delete(&self, names: &[String]) -> Result<()> {
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        let mut results = self.store.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(result) = results.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error).with_context(|| format!("deleting from {}", self.shown)),
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }
}

/// An archive on its way to a target.
#[derive(Debug)]
pub(crate) struct Upload {
    writer: BufWriter,
    what: String,
}

impl Upload {
    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.writer.put(bytes.into()).await.with_context(|| format!("writing {}", self.what))
    }

    /// Makes the archive appear, whole.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.writer.shutdown().await.with_context(|| format!("finishing {}", self.what))
    }

    /// Gives up. What was sent already is removed as far as the target lets us.
    pub(crate) async fn abort(mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::debug!(%error, what = self.what, "an unfinished upload is left to the target's own cleaning");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_shows_archives_only_when_they_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(dir.path().join("new/folder").to_str().unwrap(), &S3Options::default()).unwrap();
        let mut upload = target.upload("b.qdb");
        upload.write(vec![1; PART_BYTES + 1]).await.unwrap();
        assert_eq!(target.list().await.unwrap(), []);
        upload.finish().await.unwrap();
        let mut aborted = target.upload("a.qdb");
        aborted.write(vec![2; 2 * PART_BYTES]).await.unwrap();
        aborted.abort().await;
        let archive = StoredArchive { name: "b.qdb".into(), size_bytes: PART_BYTES as u64 + 1 };
        assert_eq!(target.list().await.unwrap(), std::slice::from_ref(&archive));
        let mut copy = tempfile::tempfile().unwrap();
        target.download("b.qdb", &mut copy).await.unwrap();
        assert_eq!(copy.metadata().unwrap().len(), archive.size_bytes);
        target.delete(&["b.qdb".into(), "never-there".into()]).await.unwrap();
        assert_eq!(target.list().await.unwrap(), []);
    }

    #[test]
    fn other_schemes_are_refused() {
        let error = Target::open("gs://bucket", &S3Options::default()).unwrap_err();
        assert_eq!(error.to_string(), "gs://bucket: scheme \"gs\" is not supported, use s3:// or a folder");
        assert!(Target::open("s3://", &S3Options::default()).is_err());
    }
}
