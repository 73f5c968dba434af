//! The NICs of a node's cores, of the kind its `nic` names.
#![forbid(unsafe_code)]

use super::StartError;
use super::node::cores_of;
use crate::config::{Config, NicKind, Node};
use crate::nic::any::AnyNic;
use crate::nic::udp::Udp;
use crate::types::{Endpoint, NodeId};
use std::net::SocketAddr;

/// One for each core, in order; and what the operator should know of them.
pub(super) fn open(config: &Config, id: NodeId) -> Result<(Vec<AnyNic>, Vec<String>), StartError> {
    let others = (0..).map(NodeId).take(config.nodes.len()).filter(|other| *other != id);
    let endpoints = others.flat_map(|node| cores_of(config, node));
    let peers: Vec<_> = endpoints.map(|peer| (peer, config.address(peer))).collect();
    let node = &config.nodes[usize::from(id.0)];
    match &node.nic {
        NicKind::Udp => {
            let bind = |me: Endpoint| {
                let address = config.address(me);
                let refuse = |source| StartError::Listen { node: node.name.clone(), address, source };
                Udp::bind(address, &peers).map(AnyNic::Udp).map_err(refuse)
            };
            Ok((cores_of(config, id).map(bind).collect::<Result<_, _>>()?, Vec::new()))
        }
        NicKind::Dpdk(device) => open_dpdk(node, device, config.cores(id), &peers),
    }
}

#[cfg(feature = "dpdk")]
fn open_dpdk(
    node: &Node,
    device: &str,
    cores: usize,
    peers: &[(Endpoint, SocketAddr)],
) -> Result<(Vec<AnyNic>, Vec<String>), StartError> {
    use crate::nic::dpdk::{Dpdk, Site};
    let (SocketAddr::V4(listen), Some(subnet)) = (node.listen, node.subnet) else {
        unreachable!("the cluster file was checked")
    };
    let cores = u16::try_from(cores).expect("cores are bounded");
    let site = Site { device, listen, cores, subnet, gateway: node.gateway, peers };
    let refuse = |source| StartError::Dpdk { node: node.name.clone(), source };
    let (nics, notices) = Dpdk::open(&site).map_err(refuse)?;
    let notices = notices.into_iter().map(|notice| format!("node {}: {notice}", node.name));
    Ok((nics.into_iter().map(|nic| AnyNic::Dpdk(Box::new(nic))).collect(), notices.collect()))
}

#[cfg(not(feature = "dpdk"))]
fn open_dpdk(
    node: &Node,
    _device: &str,
    _cores: usize,
    _peers: &[(Endpoint, SocketAddr)],
) -> Result<(Vec<AnyNic>, Vec<String>), StartError> {
    Err(StartError::NoSuchNic { node: node.name.clone(), nic: node.nic.to_string() })
}
