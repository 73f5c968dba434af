//! The gateway over real sockets, in front of a small cluster in this process.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::{HTTP_BODY_BYTES_MAX, HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HOPS_MAX};
use crate::config::{Config, Durability, LocalCluster};
use crate::partition::Idle;
use crate::server::Cluster;
use crate::types::NodeId;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// Three nodes, one shard, which node 0 leads; each with a gateway.
struct Place {
    addresses: Vec<SocketAddr>,
    // In this order: the gateway ends first.
    _gateway: Gateway,
    _cluster: Cluster<Idle>,
    _data: tempfile::TempDir,
}

impl Place {
    fn open() -> Place {
        for _ in 0..100 {
            let data = tempfile::tempdir().unwrap();
            let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let flags = LocalCluster {
                shards: 1,
                durability: Durability::Memory,
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
                data: data.path().to_path_buf(),
                ..LocalCluster::default()
            };
            let ids = [0, 1, 2].map(NodeId);
            let Ok(config) = Config::local(&flags) else { continue };
            let listeners = Listeners::bind(&config, &ids).unwrap();
            let addresses = ids.map(|id| listeners.address(id).unwrap()).to_vec();
            // One of the ports may be somebody else's: then others.
            let Ok(cluster) = Cluster::start(config.clone(), |_, _| Idle) else { continue };
            cluster.wait_until_open().unwrap();
            let gateway = listeners.serve(&config, cluster.controls()).unwrap();
            let place = Place { addresses, _gateway: gateway, _cluster: cluster, _data: data };
            while (0..3).any(|node| place.ask(node, "GET /healthz", "").0 != 200) {}
            return place;
        }
        panic!("no free ports");
    }

    fn ask(&self, node: usize, line: &str, rest: &str) -> (u16, String) {
        talk(self.addresses[node], &format!("{line} HTTP/1.1\r\nhost: mako\r\n{rest}\r\n"))
    }

    fn url(&self, node: usize) -> String {
        format!("http://{}", self.addresses[node])
    }
}

/// Status and whole answer to what is sent as it is.
fn talk(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    // It may have been refused, and hung up, before all of it was sent.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer)
}

/// Scripts look at the status, people at the sentence; neither is to guess.
#[test]
fn what_cannot_be_meant_is_refused_with_its_status_and_a_sentence() {
    let place = Place::open();
    let table = [
        ("GET /", 404, "there are /healthz, /status, /move-leader"),
        ("GET /metrics", 404, "nothing at this path"),
        ("POST /status", 405, "ask with GET"),
        ("GET /move-leader?shard=0&to=n1", 405, "ask with POST"),
        ("DELETE /move-leader", 405, "ask with POST"),
        ("POST /move-leader", 400, "shard is missing; ask with shard=NUMBER&to=NODE"),
        ("POST /move-leader?shard=0", 400, "to is missing"),
        ("POST /move-leader?to=n1", 400, "shard is missing"),
        ("POST /move-leader?shard=one&to=n1", 400, "its shards are 0 to 0"),
        ("POST /move-leader?shard=1&to=n1", 400, "its shards are 0 to 0"),
        ("POST /move-leader?shard=-1&to=n1", 400, "its shards are 0 to 0"),
        ("POST /move-leader?shard=99999999999999999999&to=n1", 400, "its shards are 0 to 0"),
        ("POST /move-leader?shard=0&to=n3", 400, "name one of n0, n1, n2"),
        ("POST /move-leader?shard=0&to=", 400, "name one of n0, n1, n2"),
        ("POST /move-leader?shard=0&shard=0&to=n1", 400, "shard is there twice"),
        ("POST /move-leader?shard=0&to=n1&when=now", 400, "\"when\" is not a parameter"),
    ];
    for (line, status, sentence) in table {
        let (got, answer) = place.ask(0, line, "");
        assert_eq!(got, status, "{line}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            body.starts_with("error: ") && body.contains(sentence) && body.lines().count() == 1,
            "{body}"
        );
        assert!(body.contains("): ") && body.contains("; "), "{body}");
    }
    let (status, answer) =
        place.ask(0, "POST /move-leader?shard=0&to=n1", "origin: http://elsewhere.example\r\n");
    assert!(status == 403 && answer.contains("a page in a browser may not"), "{answer}");
    let (status, answer) = place.ask(0, "GET /status", "");
    assert!(status == 200 && answer.contains("\"leader\": \"n0\""), "nothing has happened: {answer}");
}

/// The gateway reads what strangers send.
#[test]
fn requests_beyond_their_bounds_and_nonsense_are_refused_and_served_no_further() {
    let place = Place::open();
    let long = "x".repeat(2 * HTTP_HEAD_BYTES_MAX);
    let (status, answer) = place.ask(0, &format!("GET /{long}"), "");
    assert!(status == 414 || status == 431, "{answer}");
    let (status, answer) = place.ask(0, "GET /status", &format!("long: {long}\r\n"));
    assert_eq!(status, 431, "{answer}");
    let many = "a: b\r\n".repeat(200);
    let (status, answer) = place.ask(0, "GET /status", &many);
    assert_eq!(status, 431, "{answer}");
    let body = "x".repeat(HTTP_BODY_BYTES_MAX + 1);
    let request = format!(
        "POST /move-leader?shard=0&to=n1 HTTP/1.1\r\nhost: mako\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, answer) = talk(place.addresses[0], &request);
    assert_eq!(status, 413, "{answer}");
    let (status, answer) = talk(place.addresses[0], "nonsense\r\n\r\n");
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = place.ask(0, "GET /status", "");
    assert!(status == 200 && answer.contains("\"leader\": \"n0\""), "{answer}");
}

/// An operator asks whichever node is at hand, and the cluster does the rest.
#[test]
fn a_request_finds_its_way_to_the_leader_and_the_leader_moves() {
    let place = Place::open();
    let (status, answer) = place.ask(2, "POST /move-leader?shard=0&to=n1", "");
    let location = format!("location: {}/move-leader?shard=0&to=n1\r\n", place.url(0));
    assert!(status == 307 && answer.contains(&location), "{answer}");
    for (to, asked) in [("n1", 2), ("n1", 0), ("n2", 0), ("n0", 1)] {
        let asked = post(&place.url(asked), &format!("/move-leader?shard=0&to={to}")).unwrap();
        assert_eq!(asked.status, 200, "{}", asked.text);
        assert!(asked.text.contains(&format!("\"leader\": \"{to}\"")), "{}", asked.text);
    }
    // The others hear of it in time.
    while (0..3).any(|node| !place.ask(node, "GET /status", "").1.contains("\"leader\": \"n0\"")) {}
}

/// Whoever holds connections open keeps others out for a bounded time only, and those are told.
#[test]
fn one_connection_too_many_is_told_so_and_idle_ones_end() {
    let place = Place::open();
    let connect = |_| TcpStream::connect(place.addresses[0]).unwrap();
    let idle: Vec<TcpStream> = (0..HTTP_CONNECTIONS_MAX).map(connect).collect();
    let (status, answer) = place.ask(1, "GET /healthz", "");
    assert!(status == 503 && answer.contains("connections are open already; try again later"), "{answer}");
    for mut stream in idle {
        // Ends when the node has lost patience, with or without a word.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    while place.ask(1, "GET /healthz", "").0 != 200 {}
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let http = taken.local_addr().unwrap();
    let flags = LocalCluster { replicas: 1, http: Some(http), ..LocalCluster::default() };
    let config = Config::local(&flags).unwrap();
    let error = Listeners::bind(&config, &[NodeId(0)]).err().unwrap().to_string();
    let place = format!("node n0 cannot serve HTTP ({http}): ");
    assert!(error.starts_with(&place) && error.contains("; "), "{error}");
}

/// Two nodes that each believe the other leads must not keep a command busy for ever.
#[test]
fn a_request_that_is_sent_in_circles_ends() {
    let circle = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", circle.local_addr().unwrap());
    let place = url.clone();
    let served = thread::spawn(move || {
        for _ in 0..=HTTP_HOPS_MAX {
            let (mut stream, _) = circle.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: {place}/again\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let error = post(&url, "/move-leader").unwrap_err();
    assert!(matches!(error, CallError::Hops { .. }), "{error}");
    served.join().unwrap();
}

#[test]
fn urls_that_name_nobody_are_refused_before_anybody_is_asked() {
    for url in ["", "127.0.0.1:9180", "https://127.0.0.1:9180", "http://", "ftp://x", "http://a b"] {
        let error = post(url, "/status").unwrap_err();
        assert!(matches!(error, CallError::Url { .. }), "{url}: {error}");
    }
}
