//! What each path answers, and what it refuses.
//!
//! | status | means |
//! |---|---|
//! | 307 | another node leads the shard: ask there |
//! | 400, 403, 404, 405, 413 | the request cannot be meant so |
//! | 409 | it is understood, and the cluster is not so that it could be done; nothing has changed |
//! | 503 | who leads is not sure just now: ask again |
#![forbid(unsafe_code)]

use crate::bounds::{HAND_OVER_TIMEOUTS_MAX, HTTP_BODY_BYTES_MAX, HTTP_IO_NS_MAX, MS};
use crate::clock;
use crate::config::Config;
use crate::partition::{MoveRefusal, Moved};
use crate::reactor::NoOrder;
use crate::server::Control;
use crate::types::{Ballot, NodeId, ShardId};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, LOCATION, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What answers rest on.
pub(super) struct Desk {
    pub control: Control,
    /// By node: where its gateway is, if it has one.
    pub addresses: Arc<[Option<SocketAddr>]>,
}

pub(super) type Answer = Response<Full<Bytes>>;

impl Desk {
    fn config(&self) -> &Config {
        self.control.config()
    }

    fn name(&self, node: NodeId) -> &str {
        &self.config().nodes[usize::from(node.0)].name
    }

    /// A hand-over ends in a bounded number of election timeouts.
    pub fn longest_answer(&self) -> Duration {
        let timeouts_ns = self.config().election_timeout_ns * HAND_OVER_TIMEOUTS_MAX;
        Duration::from_nanos(timeouts_ns + HTTP_IO_NS_MAX)
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..).map(ShardId).take(self.config().shards.len())
    }
}

pub(super) async fn answer(desk: &Desk, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Some((_, method)) = PATHS.iter().find(|(known, _)| *known == path) else {
        let paths: Vec<&str> = PATHS.iter().map(|(path, _)| *path).collect();
        let why = format!("there is nothing at this path; there are {}", paths.join(", "));
        return refuse(StatusCode::NOT_FOUND, &shown(path), "this node", &why);
    };
    if head.method != *method && !(head.method == Method::HEAD && *method == Method::GET) {
        let what = format!("{} {path}", shown(head.method.as_str()));
        let why = format!("it takes another method; ask with {method}");
        let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &what, "this node", &why);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed(method)));
        return answer;
    }
    // Browsers say so when some page has them ask; no other client does.
    if *method == Method::POST && head.headers.contains_key(ORIGIN) {
        let why = "a page in a browser may not order anything; use the mako command, or curl";
        return refuse(StatusCode::FORBIDDEN, path, "this node", why);
    }
    // Nothing here needs a body; one that is short does no harm.
    if Limited::new(body, HTTP_BODY_BYTES_MAX).collect().await.is_err() {
        let why = format!("its body is not to be had, or is above {HTTP_BODY_BYTES_MAX} bytes; send none");
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, path, "this node", &why);
    }
    match path {
        "/healthz" => health(desk),
        "/status" => tell(StatusCode::OK, &status(desk)),
        _ => move_leader(desk, head.uri.query().unwrap_or_default()).await,
    }
}

/// Every path, and how it is asked.
const PATHS: [(&str, Method); 3] =
    [("/healthz", Method::GET), ("/status", Method::GET), ("/move-leader", Method::POST)];

fn allowed(method: &Method) -> &'static str {
    if *method == Method::GET { "GET, HEAD" } else { "POST" }
}

/// Well when every replica here has a leader.
fn health(desk: &Desk) -> Answer {
    let led = |shard: &ShardId| desk.control.leader(*shard).is_some();
    let orphans: Vec<String> = desk
        .shards()
        .filter(|shard| desk.control.hosts(*shard) && !led(shard))
        .map(|shard| shard.0.to_string())
        .collect();
    if orphans.is_empty() {
        return text(StatusCode::OK, "ok\n".to_string());
    }
    let why = format!("no leader is heard of shard {}; see whether its nodes run", orphans.join(", "));
    refuse(StatusCode::SERVICE_UNAVAILABLE, "not well", desk.name(desk.control.node()), &why)
}

fn status(desk: &Desk) -> Value {
    let (config, now) = (desk.config(), clock::now());
    let shard = |id: ShardId| {
        let mark = desk.control.watermark(id);
        let replicas = config.shards[usize::from(id.0)].replicas.iter();
        let lag_ns = (mark.timestamp.0 > 0).then(|| now.since(mark.timestamp));
        json!({
            "shard": id.0,
            "leader": desk.control.leader(id).map(|ballot| desk.name(ballot.node)),
            "epoch": format!("{:?}", mark.epoch),
            "watermark": mark.timestamp.0,
            "watermark_lag_ms": lag_ns.map(|lag_ns| lag_ns as f64 / 1e6),
            "replicas": replicas.map(|node| desk.name(*node)).collect::<Vec<_>>(),
        })
    };
    let refused = desk.control.refused().map(|(node, frames)| (desk.name(node).to_string(), json!(frames)));
    json!({
        "version": 1,
        "cluster": config.name,
        "node": desk.name(desk.control.node()),
        "votes": desk.control.votes(),
        "refused_frames": refused.collect::<serde_json::Map<_, _>>(),
        "shards": desk.shards().map(shard).collect::<Vec<_>>(),
    })
}

async fn move_leader(desk: &Desk, query: &str) -> Answer {
    let (shard, to) = match asked_move(desk, query) {
        Ok(asked) => asked,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, "/move-leader", "query", &why),
    };
    let me = desk.control.node();
    let what = format!("shard {} stays where it is", shard.0);
    let Some(leader) = desk.control.leader(shard) else {
        let why = "this node hears of no leader; ask again in a moment, or ask another node";
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &what, desk.name(me), why);
    };
    if leader.node != me {
        return send_on(desk, shard, to, leader);
    }
    let mut outcome = order(desk, shard, to).await;
    // A follower may know that our reign has begun before we do.
    for _ in 0..LOOKS_MAX {
        let not_yet = outcome == Ok(Moved::Refused(MoveRefusal::NotLeading));
        if !not_yet || desk.control.leader(shard) != Some(leader) {
            break;
        }
        tokio::time::sleep(LOOK).await;
        outcome = order(desk, shard, to).await;
    }
    match outcome {
        Ok(Moved::Done { epoch }) => tell_moved(desk, shard, to, &format!("{epoch:?}")),
        Ok(Moved::Refused(why)) => {
            let sentence = format!("{why}; {}", remedy(why));
            refuse(status_of(why), &what, desk.name(me), &sentence)
        }
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &what, desk.name(me), why),
    }
}

/// Asks the core, and waits for what it says; or why it says nothing.
async fn order(desk: &Desk, shard: ShardId, to: NodeId) -> Result<Moved, &'static str> {
    let (tell, told) = oneshot::channel();
    let reply = Box::new(move |moved| {
        // Who asked may have gone.
        let _ = tell.send(moved);
    });
    match desk.control.hand_over(shard, to, reply) {
        Ok(()) => match tokio::time::timeout(desk.longest_answer(), told).await {
            Ok(Ok(moved)) => Ok(moved),
            Ok(Err(_)) => Err("the node is being stopped; ask again when it is back"),
            Err(_) => Err("its core does not answer; see what the node says"),
        },
        Err(NoOrder::Busy) => Err("too many hand-overs wait already; ask again in a moment"),
        Err(NoOrder::Ended) => Err("the node is being stopped; ask again when it is back"),
    }
}

fn tell_moved(desk: &Desk, shard: ShardId, to: NodeId, epoch: &str) -> Answer {
    tell(StatusCode::OK, &json!({ "shard": shard.0, "leader": desk.name(to), "epoch": epoch }))
}

/// Only the leader can give a shard away.
fn send_on(desk: &Desk, shard: ShardId, to: NodeId, leader: Ballot) -> Answer {
    let (name, to) = (desk.name(leader.node), desk.name(to));
    let Some(address) = desk.addresses[usize::from(leader.node.0)] else {
        let what = format!("shard {} stays where it is", shard.0);
        let why = format!("{name} leads it and serves no HTTP that this node knows of; give it http = …");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &what, desk.name(desk.control.node()), &why);
    };
    let place = format!("http://{address}/move-leader?shard={}&to={to}", shard.0);
    let mut answer = text(StatusCode::TEMPORARY_REDIRECT, format!("{name} leads shard {}\n", shard.0));
    let place = HeaderValue::try_from(place).expect("names have letters and digits only");
    answer.headers_mut().insert(LOCATION, place);
    answer
}

/// The shard and its next leader, or why they cannot be meant.
fn asked_move(desk: &Desk, query: &str) -> Result<(ShardId, NodeId), String> {
    let usage = "ask with shard=NUMBER&to=NODE";
    let (mut shard, mut to) = (None, None);
    for word in query.split('&').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let place = match key {
            "shard" => &mut shard,
            "to" => &mut to,
            _ => return Err(format!("{} is not a parameter of it; {usage}", shown(key))),
        };
        if place.replace(value).is_some() {
            return Err(format!("{key} is there twice; {usage}"));
        }
    }
    let shard = shard.ok_or_else(|| format!("shard is missing; {usage}"))?;
    let to = to.ok_or_else(|| format!("to is missing; {usage}"))?;
    let config = desk.config();
    let known = shard.parse().ok().filter(|id| usize::from(*id) < config.shards.len()).map(ShardId);
    let id = known.ok_or_else(|| {
        let last = config.shards.len() - 1;
        format!("shard = {} is none of this cluster; its shards are 0 to {last}", shown(shard))
    })?;
    let replicas = &config.shards[usize::from(id.0)].replicas;
    let node = config.node(to).filter(|node| replicas.contains(node));
    let node = node.ok_or_else(|| {
        let names: Vec<&str> = replicas.iter().map(|node| desk.name(*node)).collect();
        let (to, names) = (shown(to), names.join(", "));
        format!("to = {to} is no node with a replica of shard {}; name one of {names}", id.0)
    })?;
    Ok((id, node))
}

fn status_of(why: MoveRefusal) -> StatusCode {
    match why {
        MoveRefusal::NoReplica => StatusCode::BAD_REQUEST,
        MoveRefusal::UnderWay | MoveRefusal::Unreachable | MoveRefusal::Behind => StatusCode::CONFLICT,
        MoveRefusal::NotLeading | MoveRefusal::NotTaken | MoveRefusal::Overtaken => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

fn remedy(why: MoveRefusal) -> &'static str {
    match why {
        MoveRefusal::NoReplica => "name another node",
        MoveRefusal::UnderWay => "wait until it is over",
        MoveRefusal::Unreachable => "see whether it runs, or name another node",
        MoveRefusal::Behind => "ask again when it has caught up, or name another node",
        MoveRefusal::NotLeading => "ask again in a moment",
        MoveRefusal::NotTaken | MoveRefusal::Overtaken => "see who leads now, and ask again",
    }
}

fn refuse(status: StatusCode, what: &str, place: &str, why_and_remedy: &str) -> Answer {
    text(status, format!("error: {what} ({place}): {why_and_remedy}\n"))
}

fn text(status: StatusCode, text: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", text)
}

fn tell(status: StatusCode, value: &Value) -> Answer {
    respond(status, "application/json", format!("{value:#}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// What somebody else has written, cut short.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

const SHOWN_CHARS_MAX: usize = 64;
/// How often, and for how long, a leader is waited for that is about to lead: a round trip or two.
const LOOKS_MAX: u32 = 50;
const LOOK: Duration = Duration::from_nanos(20 * MS);
