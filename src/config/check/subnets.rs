//! Whom a DPDK port reaches: it has an address of its own, and no routes of the kernel's.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use super::Report;
use crate::config::NicKind;
use crate::config::file::{At, File, NodeSection};

pub(super) fn check_subnets(file: &File, report: &mut Report<'_>) {
    // One that is misspelt is left out here, and was reported; what else its node lacks is not known then.
    let misspelt = ["node.nic", "node.subnet", "node.gateway"].into_iter().any(|key| report.has(key));
    for node in file.nodes.iter().filter(|_| !misspelt) {
        match node.nic.as_ref().map(|at| &at.value) {
            Some(NicKind::Dpdk(_)) => check_dpdk(file, node, report),
            Some(NicKind::Udp) | None => check_udp(node, report),
        }
    }
}

fn check_udp(node: &NodeSection, report: &mut Report<'_>) {
    let subnet = node.subnet.as_ref().map(|at| ("subnet", at.value.to_string(), at.line));
    let gateway = node.gateway.as_ref().map(|at| ("gateway", at.value.to_string(), at.line));
    for (key, value, line) in [subnet, gateway].into_iter().flatten() {
        let why = "the kernel knows by itself, and only a DPDK port does not";
        report.add(format!("node.{key} = {value:?}"), line, why, "remove it, or write nic = \"dpdk:…\"");
    }
}

fn check_dpdk(file: &File, node: &NodeSection, report: &mut Report<'_>) {
    let Some(listen) = &node.listen else { return };
    let what = format!("node.listen = {:?}", listen.value.to_string());
    let ip = match listen.value.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() => ip,
        _ => {
            let why = "a DPDK port has an IPv4 address of its own, which the kernel does not use";
            return report.add(what, listen.line, why, "choose a free address of its network");
        }
    };
    let Some(At { value: subnet, line }) = node.subnet else {
        let why = "a DPDK port has to know whom it reaches without a gateway";
        let remedy = "add subnet = \"10.0.0.0/24\", or whatever it is";
        return report.add("node.subnet is missing", node.line, why, remedy);
    };
    if !subnet.contains(ip) {
        let why = format!("the node listens on {ip}, which is not in it");
        report.add(format!("node.subnet = \"{subnet}\""), line, why, "name the subnet of that address");
        return;
    }
    if let Some(At { value: gateway, line }) = node.gateway {
        if !subnet.contains(gateway) || gateway == ip {
            let why = format!("a gateway is another machine of {subnet}");
            report.add(format!("node.gateway = \"{gateway}\""), line, why, "name the router of the subnet");
        }
    } else if let Some(far) = addresses(file).find(|ip| !subnet.contains(*ip)) {
        let why = format!("{far} is outside of {subnet}, and the node has no gateway");
        report.add(what, listen.line, why, "add gateway = …, or bring all nodes into one subnet");
    }
}

fn addresses(file: &File) -> impl Iterator<Item = Ipv4Addr> {
    file.nodes.iter().filter_map(|node| match node.listen.as_ref()?.value.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    })
}
