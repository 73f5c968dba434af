//! Where HTTP comes in: listeners that are bound before anything starts, and connections within their bounds.
//!
//! Invariants:
//!   1. No more than `HTTP_CONNECTIONS_MAX` are served at a time; one more is told so and closed.
//!   2. Every connection ends: its request must come, and its answer go, in a bounded time.
//!   3. The thread ends with its `Gateway`, whatever connections are doing.
#![forbid(unsafe_code)]

use super::answers::{Desk, answer};
use crate::bounds::{HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX, HTTP_IO_NS_MAX, MS};
use crate::config::Config;
use crate::server::Control;
use crate::types::NodeId;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Addresses that are taken, and not served yet.
pub struct Listeners(Vec<Listener>);

struct Listener {
    node: NodeId,
    address: SocketAddr,
    socket: TcpListener,
}

/// Serves until it is dropped.
pub struct Gateway {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Printed as `WHAT (WHERE): WHY; REMEDY`.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(
        "node {node} cannot serve HTTP ({address}): {source}; \
         stop what listens there, or choose another address with --http or http = …"
    )]
    Listen { node: String, address: SocketAddr, source: io::Error },
    #[error("no thread for HTTP (this process): {0}; raise its limits, or close something else")]
    Resource(io::Error),
}

impl Listeners {
    /// Takes the HTTP addresses of these nodes, as far as they have one.
    pub fn bind(config: &Config, ids: &[NodeId]) -> Result<Listeners, HttpError> {
        let mut listeners = Vec::new();
        for (id, node) in ids.iter().map(|id| (*id, &config.nodes[usize::from(id.0)])) {
            let Some(address) = node.http else { continue };
            let bound = bind(address).map_err(|source| {
                let node = node.name.clone();
                HttpError::Listen { node, address, source }
            });
            let (socket, address) = bound?;
            listeners.push(Listener { node: id, address, socket });
        }
        Ok(Listeners(listeners))
    }

    /// Where a node serves HTTP; a port 0 has become a real one.
    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.0.iter().find(|listener| listener.node == node).map(|listener| listener.address)
    }

    /// Begins to serve, for nodes that run.
    pub fn serve(self, config: &Config, controls: Vec<Control>) -> Result<Gateway, HttpError> {
        let addresses: Arc<[Option<SocketAddr>]> = (0..)
            .map(NodeId)
            .zip(&config.nodes)
            .map(|(id, node)| self.address(id).or_else(|| reachable(node.http?, node.listen)))
            .collect();
        let desk = |control: Control| {
            let listener = self.0.iter().find(|listener| listener.node == control.node())?;
            let socket = listener.socket.try_clone();
            let desk = Arc::new(Desk { control, addresses: Arc::clone(&addresses) });
            Some(socket.map(|socket| (socket, desk)))
        };
        let places = controls.into_iter().filter_map(desk).collect::<io::Result<Vec<_>>>();
        let places = places.map_err(HttpError::Resource)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(HttpError::Resource)?;
        let (stop, stopped) = oneshot::channel();
        let work = move || runtime.block_on(serve(places, stopped));
        let thread = thread::Builder::new().name("http".to_string()).spawn(work);
        let thread = thread.map_err(HttpError::Resource)?;
        Ok(Gateway { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Where other machines find it: `None` when only the node itself knows its port.
fn reachable(http: SocketAddr, listen: SocketAddr) -> Option<SocketAddr> {
    let ip = if http.ip().is_unspecified() { listen.ip() } else { http.ip() };
    (http.port() != 0).then_some(SocketAddr::new(ip, http.port()))
}

/// Ends when nobody holds the other end of `stopped`; connections end with the runtime.
async fn serve(places: Vec<(TcpListener, Arc<Desk>)>, stopped: oneshot::Receiver<()>) {
    let connections = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    for (socket, desk) in places {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => drop(tokio::spawn(accept(socket, desk, Arc::clone(&connections)))),
            Err(error) => eprintln!("note: no HTTP: {error}"),
        }
    }
    let _ = stopped.await;
}

async fn accept(socket: tokio::net::TcpListener, desk: Arc<Desk>, connections: Arc<Semaphore>) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => match Arc::clone(&connections).try_acquire_owned() {
                Ok(permit) => drop(tokio::spawn(converse(stream, Arc::clone(&desk), permit))),
                Err(_) => turn_away(&stream),
            },
            // Out of descriptors, most likely: some become free.
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, desk: Arc<Desk>, permit: OwnedSemaphorePermit) {
    let longest = 2 * IO + desk.longest_answer();
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(answer(&desk, request).await) }
    });
    let mut protocol = http1::Builder::new();
    protocol.keep_alive(false).max_headers(HTTP_HEADERS_MAX).max_buf_size(HTTP_HEAD_BYTES_MAX);
    protocol.timer(TokioTimer::new()).header_read_timeout(IO);
    // Whoever breaks off, or is too slow, has lost interest.
    let _ = tokio::time::timeout(longest, protocol.serve_connection(TokioIo::new(stream), service)).await;
    drop(permit);
}

/// What a new connection has room for; who does not read it does not want it.
fn turn_away(stream: &TcpStream) {
    let text = format!(
        "error: HTTP (this node): {HTTP_CONNECTIONS_MAX} connections are open already; try again later\n"
    );
    let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: text/plain\r\n";
    let _ = stream.try_write(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes());
}

const IO: Duration = Duration::from_nanos(HTTP_IO_NS_MAX);
const ACCEPT_AGAIN: Duration = Duration::from_nanos(10 * MS);
