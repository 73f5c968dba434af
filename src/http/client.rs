//! The other side of the gateway: one request, which follows its way to whoever can answer it.
#![forbid(unsafe_code)]

use crate::bounds::{
    ELECTION_TIMEOUT_NS_MAX, HAND_OVER_TIMEOUTS_MAX, HTTP_ANSWER_BYTES_MAX, HTTP_HOPS_MAX, HTTP_IO_NS_MAX,
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, LOCATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// What was answered in the end.
#[derive(Debug)]
pub struct Asked {
    pub status: u16,
    pub text: String,
}

/// Printed as `WHAT (WHERE): WHY; REMEDY`.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no HTTP address ({url}): {why}; write it like http://127.0.0.1:9180")]
    Url { url: String, why: String },
    #[error("no answer ({url}): {why}; see whether the node runs, and whether this is its http = …")]
    NoAnswer { url: String, why: String },
    #[error("no answer ({url}): it was sent on {HTTP_HOPS_MAX} times; see who leads, and ask again")]
    Hops { url: String },
    #[error("no answer (this process): {0}; raise its limits, or close something else")]
    Resource(std::io::Error),
}

/// Asks `base` and, as long as it is told to, somebody else; a bounded number of times, and in a bounded time each.
pub fn post(base: &str, path_and_query: &str) -> Result<Asked, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CallError::Resource)?.block_on(follow(base, path_and_query))
}

async fn follow(base: &str, path_and_query: &str) -> Result<Asked, CallError> {
    let mut url = format!("{}{path_and_query}", base.trim_end_matches('/'));
    for _ in 0..=HTTP_HOPS_MAX {
        let (asked, next) = match tokio::time::timeout(LONGEST, ask(&url)).await {
            Ok(asked) => asked?,
            Err(_) => return Err(CallError::NoAnswer { url, why: "it takes too long".to_string() }),
        };
        match next {
            Some(next) => url = next,
            None => return Ok(asked),
        }
    }
    Err(CallError::Hops { url })
}

/// One request; with where to ask instead, if that is the answer.
async fn ask(url: &str) -> Result<(Asked, Option<String>), CallError> {
    let bad = |why: &str| CallError::Url { url: url.to_string(), why: why.to_string() };
    let silent = |why: &dyn std::fmt::Display| {
        let url = url.to_string();
        CallError::NoAnswer { url, why: why.to_string() }
    };
    let uri: Uri = url.parse().map_err(|_| bad("that is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("it does not begin with http://"));
    }
    let authority = uri.authority().ok_or_else(|| bad("it names nobody"))?;
    let (host, port) = (authority.host(), authority.port_u16().unwrap_or(80));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = tokio::time::timeout(IO, TcpStream::connect((host, port))).await;
    let stream = stream.map_err(|_| silent(&"it takes no connection"))?.map_err(|error| silent(&error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    exchange(stream, authority.as_str(), path).await.map_err(|error| silent(&error))
}

/// The request, and what comes back; of whoever is at the other end.
async fn exchange<S>(stream: S, host: &str, path: &str) -> Result<(Asked, Option<String>), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the request.
    tokio::spawn(connection);
    let request = Request::builder().method(Method::POST).uri(path).header(HOST, host);
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, HTTP_ANSWER_BYTES_MAX).collect().await?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let place = head.headers.get(LOCATION).filter(|_| head.status == StatusCode::TEMPORARY_REDIRECT);
    let next = place.and_then(|place| Some(place.to_str().ok()?.to_string()));
    Ok((Asked { status: head.status.as_u16(), text }, next))
}

/// For fuzzers: whether these bytes are taken for an answer. They are all that ever comes.
pub(crate) fn read_answer(bytes: &[u8]) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    let answer = runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(bytes.len() + REQUEST_BYTES);
        // Nobody takes an answer before it has asked; and nobody listens on once it is not taken.
        let serve = async {
            let _ = theirs.read(&mut [0; REQUEST_BYTES]).await;
            let _ = theirs.write_all(bytes).await;
            let _ = theirs.shutdown().await;
        };
        tokio::join!(exchange(ours, "host", "/move-leader"), serve).0
    });
    let Ok((Asked { status, text }, _)) = answer else { return false };
    assert!((100..1_000).contains(&status) && text.len() <= 3 * HTTP_ANSWER_BYTES_MAX, "{status}");
    true
}

/// What stands in the way of an answer.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// More than the request of `read_answer` has.
const REQUEST_BYTES: usize = 1_024;
const IO: Duration = Duration::from_nanos(HTTP_IO_NS_MAX);
/// A node answers when the hand-over is over; we do not know its timeout.
const LONGEST: Duration =
    Duration::from_nanos(HAND_OVER_TIMEOUTS_MAX * ELECTION_TIMEOUT_NS_MAX + 3 * HTTP_IO_NS_MAX);
