//! A plugin's socket, and what is said over it.

use std::error::Error as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response};

use super::proto::key_management_service_client::KeyManagementServiceClient;
use super::proto::{DecryptRequest, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse};
use crate::storage::sealed::metrics::{Metrics, code_name};

/// Between two attempts to reach a plugin that is not there (yet), within a call's time.
const CONNECT_EVERY: Duration = Duration::from_millis(100);
/// Upstream names every plugin so; the socket says who it is.
const AUTHORITY: &str = "http://localhost";

/// A call that failed, as Go's gRPC library would put it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", code_name(*.code))]
pub(super) struct CallError {
    pub code: Code,
    pub message: String,
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

type Calls = KeyManagementServiceClient<Channel>;
/// Sends one request. Boxed: what tonic makes of a call is a deep type.
type Send<'a, T> = dyn Fn(Calls) -> BoxFuture<'static, Result<Response<T>, tonic::Status>> + Sync + 'a;

#[derive(Debug)]
pub(super) struct Client {
    provider: String,
    socket: PathBuf,
    /// Made with the first call.
    channel: OnceLock<Channel>,
    /// Of each call, waiting for the plugin to be there included.
    timeout: Duration,
}

impl Client {
    /// Connects when there is something to say, and again after the plugin has gone.
    pub(super) fn new(provider: &str, socket: PathBuf, timeout: Duration) -> Self {
        Self { provider: provider.to_owned(), socket, channel: OnceLock::new(), timeout }
    }

    fn channel(&self) -> Channel {
        let connect = || {
            let socket = self.socket.clone();
            let connector = tower::service_fn(move |_: http::Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            Endpoint::from_static(AUTHORITY).connect_with_connector_lazy(connector)
        };
        self.channel.get_or_init(connect).clone()
    }

    pub(super) async fn status(&self, metrics: &Metrics) -> Result<StatusResponse, CallError> {
        let send = |mut client: Calls| async move { client.status(Request::new(StatusRequest {})).await }.boxed();
        self.call(metrics, "Status", &send).await
    }

    pub(super) async fn encrypt(
        &self,
        metrics: &Metrics,
        uid: &str,
        plaintext: &[u8],
    ) -> Result<EncryptResponse, CallError> {
        let send = |mut client: Calls| {
            let request = EncryptRequest { plaintext: plaintext.to_vec(), uid: uid.to_owned() };
            async move { client.encrypt(Request::new(request)).await }.boxed()
        };
        self.call(metrics, "Encrypt", &send).await
    }

    pub(super) async fn decrypt(&self, metrics: &Metrics, request: &DecryptRequest) -> Result<Vec<u8>, CallError> {
        let send = |mut client: Calls| {
            let request = request.clone();
            async move { client.decrypt(Request::new(request)).await }.boxed()
        };
        Ok(self.call(metrics, "Decrypt", &send).await?.plaintext)
    }

    /// One call, repeated while there is nobody at the socket: what was not sent may be sent again.
    async fn call<T>(&self, metrics: &Metrics, method: &str, send: &Send<'_, T>) -> Result<T, CallError> {
        let started = Instant::now();
        let mut unreachable = None;
        let attempts = async {
            loop {
                match send(Calls::new(self.channel())).await {
                    Err(status) if was_not_sent(&status) => {
                        unreachable = Some(self.unreachable(&status));
                        tokio::time::sleep(CONNECT_EVERY).await;
                    }
                    answered => return answered,
                }
            }
        };
        let answer = match tokio::time::timeout(self.timeout, attempts).await {
            Ok(answered) => answered.map(Response::into_inner).map_err(CallError::from),
            Err(_elapsed) => {
                let message = unreachable.unwrap_or_else(|| "context deadline exceeded".to_owned());
                Err(CallError { code: Code::DeadlineExceeded, message })
            }
        };
        let code = answer.as_ref().err().map_or(Code::Ok, |error| error.code);
        metrics.called(&self.provider, method, code, started.elapsed());
        answer
    }
}

impl Client {
    /// Why nobody could be reached, in the words of Go's gRPC library.
    fn unreachable(&self, status: &tonic::Status) -> String {
        let failed = causes(status).find_map(|cause| cause.downcast_ref::<std::io::Error>());
        let reason = match failed.map(std::io::Error::kind) {
            Some(ErrorKind::NotFound) => "no such file or directory".to_owned(),
            Some(ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            Some(ErrorKind::PermissionDenied) => "permission denied".to_owned(),
            _ => failed.map(ToString::to_string).unwrap_or_default(),
        };
        let socket = self.socket.display().to_string().replace('\0', "@");
        let dialing = format!("transport: Error while dialing: dial unix {socket}: connect: {reason}");
        format!("latest balancer error: connection error: desc = {dialing:?}")
    }
}

fn causes(status: &tonic::Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

fn was_not_sent(status: &tonic::Status) -> bool {
    causes(status).any(|cause| cause.is::<tonic::ConnectError>())
}
