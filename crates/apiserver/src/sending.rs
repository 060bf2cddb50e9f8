//! How long an answer may take to be read.
//!
//! Who asks and then stops reading would keep an answer, and the connection under it, for as long as he likes. What is not long-running
//! must be read by its request's deadline. A connection of HTTP/1 ends when it waits for its reader at that time; of HTTP/2 only the
//! stream ends, as others share the connection. Either way the time is a note of the task that writes: the task of the connection, or
//! that of the stream. Source: a write of upstream's timeout handler fails after its deadline.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use ::bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::body::{BoxError, ResponseBody};

/// Of a larger answer over HTTP/2 so much is handed over at a time: what has been handed over is no longer taken back.
const PIECE_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// When what this task sends must have been read; nothing: whenever it is.
    static READ_BY: Cell<Option<Instant>>;
}

/// Notes in the task of a connection or a stream by when the answer must have been read.
pub(crate) fn must_be_read(by: Option<Instant>) {
    // Whoever calls from within the process has no such task.
    let _noted = READ_BY.try_with(|noted| noted.set(by));
}

fn due() -> Option<Instant> {
    READ_BY.try_with(Cell::get).ok().flatten()
}

/// The work of a connection, with a note.
pub(crate) async fn noting<F: Future>(connection: F) -> F::Output {
    READ_BY.scope(Cell::new(None), connection).await
}

/// Wakes a task when its answer should have been read.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Of one who waits: is it too late?
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = due() else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(context)
    }
}

/// Runs the streams of HTTP/2 connections, each as a task that ends, and resets its stream, when its answer is not read in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams;

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(noting(async move {
            let (mut stream, mut alarm) = (pin!(stream), Alarm::default());
            std::future::poll_fn(|context| match stream.as_mut().poll(context) {
                Poll::Ready(_sent) => Poll::Ready(()),
                Poll::Pending => alarm.poll(context),
            })
            .await;
        }));
    }
}

/// A connection that fails when its reader keeps it waiting too long.
#[derive(Debug)]
pub(crate) struct Link<S> {
    stream: S,
    alarm: Alarm,
}

impl<S> Link<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, alarm: Alarm::default() }
    }

    fn in_time<T>(&mut self, done: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match done {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.alarm.poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Link<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.in_time(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(shut, context)
    }
}

/// Hands a large answer over piece by piece.
pub(crate) fn in_pieces(answer: ResponseBody) -> ResponseBody {
    match answer.size_hint().exact() {
        Some(size) if size > PIECE_BYTES as u64 => Pieces { answer, rest: Bytes::new() }.boxed_unsync(),
        _ => answer,
    }
}

struct Pieces {
    answer: ResponseBody,
    /// Of the last frame.
    rest: Bytes,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.answer).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            }
        }
        let n_bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(n_bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_answer, rest) = (self.answer.size_hint(), self.rest.len() as u64);
        of_answer.exact().map_or(of_answer, |size| SizeHint::with_exact(size + rest))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{Request, Response, Version};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::http::body;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A server whose answers have `size` bytes; those for `/lasts` may be read whenever. Returns how long it served.
    async fn serve(stream: DuplexStream, size: usize) -> Duration {
        let started = Instant::now();
        noting(connection(stream, size)).await;
        started.elapsed()
    }

    async fn connection(stream: DuplexStream, size: usize) {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
            must_be_read((request.uri().path() != "/lasts").then(|| Instant::now() + LIMIT));
            let answer = body::full(vec![b'x'; size]);
            let is_shared = request.version() == Version::HTTP_2;
            Ok::<_, Infallible>(Response::new(if is_shared { in_pieces(answer) } else { answer }))
        });
        let builder = auto::Builder::new(Streams);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(Link::new(stream)), service);
        let _ended_as_it_did = pin!(served).await;
    }

    async fn ask_http1(path: &str, size: usize) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
        let (mut client, server) = duplex(1 << 10);
        let served = tokio::spawn(serve(server, size));
        client.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        (client, served)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_its_answer_is_not_read_in_time() {
        let (client, served) = ask_http1("/", 1 << 20).await;
        assert_eq!(served.await.unwrap().as_secs(), LIMIT.as_secs());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_read_whenever_it_is() {
        let (mut client, served) = ask_http1("/lasts", 1 << 20).await;
        tokio::time::sleep(100 * LIMIT).await;
        assert!(!served.is_finished());
        let mut read = vec![0; 1 << 20];
        client.read_exact(&mut read).await.unwrap();
        drop(client);
        assert_eq!(served.await.unwrap().as_secs(), 100 * LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_nobody_late() {
        let (mut client, served) = ask_http1("/", 100).await;
        let mut read = vec![0; 100];
        client.read_exact(&mut read).await.unwrap();
        tokio::time::sleep(100 * LIMIT).await;
        assert!(!served.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_reset_when_its_answer_is_not_read_in_time_and_others_go_on() {
        let (client, server) = duplex(1 << 20);
        // More than the client's window.
        const SIZE: usize = 8 << 20;
        let served = tokio::spawn(serve(server, SIZE));
        let (mut asking, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
        tokio::spawn(connection);
        let mut ask = |path: &str| {
            let request = Request::builder().uri(format!("http://a{path}"));
            asking.send_request(request.body(body::full("")).unwrap())
        };
        let (unread, lasting) = (ask("/").await.unwrap(), ask("/lasts").await.unwrap());
        tokio::time::sleep(2 * LIMIT).await;
        let error = unread.into_body().collect().await.unwrap_err();
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
        let whole = lasting.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(whole.len(), SIZE);
        let read_in_time = ask("/").await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read_in_time.len(), SIZE);
        assert!(!served.is_finished());
    }

    #[tokio::test]
    async fn pieces_are_the_whole_and_say_how_large_it_is() {
        let bytes: Bytes = (0..150_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
        let mut pieces = in_pieces(body::full(bytes.clone()));
        let mut read = Vec::new();
        while !pieces.is_end_stream() {
            assert_eq!(pieces.size_hint().exact(), Some((bytes.len() - read.len()) as u64));
            let piece = pieces.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, bytes);
    }
}
