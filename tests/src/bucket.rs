//! A bucket on this machine, behind a link that can break in the middle of a request.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Result, ensure};

use crate::{Process, eventually, free_port};

/// An S3 service with a bucket `backups`; needs `moto_server`.
#[derive(Debug)]
pub struct Bucket {
    _service: Process,
    pub endpoint: String,
    address: SocketAddr,
}

impl Bucket {
    pub fn start() -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let service = Process::spawn(&mut command)?;
        let made = eventually("a bucket", || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(
                b"PUT /backups HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(Some(answer))
        })?;
        ensure!(made.starts_with("HTTP/1.1 200"), "{made}");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { _service: service, endpoint: format!("http://{address}"), address })
    }

    /// Another way to the bucket.
    pub fn link(&self) -> Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let bytes_left = Arc::new(AtomicI64::new(i64::MAX));
        let (to, left) = (self.address, Arc::clone(&bytes_left));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                let Ok(service) = TcpStream::connect(to) else { continue };
                for (from, to) in [(&client, &service), (&service, &client)] {
                    let (Ok(from), Ok(to), left) = (from.try_clone(), to.try_clone(), Arc::clone(&left)) else {
                        continue;
                    };
                    std::thread::spawn(move || carry(from, to, &left));
                }
            }
        });
        Ok(Link { endpoint, bytes_left })
    }
}

/// Passes so many bytes, in both directions together, and then no more.
#[derive(Debug)]
pub struct Link {
    pub endpoint: String,
    bytes_left: Arc<AtomicI64>,
}

impl Link {
    pub fn breaks_after(&self, bytes: i64) {
        self.bytes_left.store(bytes, Ordering::Relaxed);
    }

    pub fn is_mended(&self) {
        self.breaks_after(i64::MAX);
    }

    pub fn is_broken(&self) -> bool {
        self.bytes_left.load(Ordering::Relaxed) <= 0
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, bytes_left: &AtomicI64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n_read) = from.read(&mut buffer) {
        let n = i64::try_from(n_read).unwrap_or(i64::MAX);
        if n_read == 0 || bytes_left.fetch_sub(n, Ordering::Relaxed) <= n || to.write_all(&buffer[..n_read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _already_closed = stream.shutdown(Shutdown::Both);
    }
}

pub fn with_credentials(command: &mut Command) -> &mut Command {
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env_remove("KUBECONFIG")
}
