//! Network interfaces: whether frames pass, in one piece, and how many CPUs take them in.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;
use crate::bounds::FRAME_BYTES;

/// Those asked for, or all that stand for a device; `Err` with the names there are when one is not among them.
pub fn look(machine: &Machine, asked: Option<&str>, cpus: usize) -> Result<Section, Vec<String>> {
    let names = machine.names(NET, "");
    let chosen: Vec<&String> = match asked {
        Some(asked) => names.iter().filter(|name| *name == asked).collect(),
        None => names.iter().filter(|name| machine.has(&format!("{NET}/{name}/device"))).collect(),
    };
    if asked.is_some() && chosen.is_empty() {
        return Err(names);
    }
    let mut section = Section::new("network interfaces");
    if chosen.is_empty() {
        section.fact("none that stands for a device; name another with --nic");
    }
    chosen.into_iter().for_each(|name| look_at(machine, name, cpus, &mut section));
    Ok(section)
}

fn look_at(machine: &Machine, name: &str, cpus: usize, section: &mut Section) {
    let read = |file: &str| machine.text(&format!("{NET}/{name}/{file}"));
    let queues = |kind: &str| machine.numbered(&format!("{NET}/{name}/queues"), kind);
    let (receive, send) = (queues("rx-"), queues("tx-"));
    let driver = machine.link(&format!("{NET}/{name}/device/driver"));
    let kind = driver.clone().map_or("no device".to_string(), |driver| format!("driver {driver}"));
    let speed = read("speed").and_then(|speed| speed.parse::<u64>().ok()).filter(|speed| *speed > 0);
    let speed = speed.map_or(String::new(), |speed| format!(", {speed} Mb/s"));
    let node = read("device/numa_node").filter(|node| !node.starts_with('-'));
    let node = node.map_or(String::new(), |node| format!(", NUMA node {node}"));
    section.fact(format!(
        "{name}: {kind}, {} receive and {} send queues{speed}{node}",
        receive.len(),
        send.len()
    ));
    // An interface without a carrier of its own, as lo, does not know.
    if read("operstate").is_some_and(|state| state == "down" || state == "lowerlayerdown") {
        let costs = "no frame passes: a node that listens there is not reached";
        section.miss(
            Weight::Broken,
            format!("{name}: it is down"),
            costs,
            format!("ip link set dev {name} up"),
        );
    }
    if let Some(mtu) = read("mtu").and_then(|mtu| mtu.parse::<usize>().ok()).filter(|mtu| *mtu < MTU_WANTED) {
        let costs = "a full frame is sent in two fragments, and lost with either";
        let mend = format!("ip link set dev {name} mtu {MTU_WANTED}, if the network carries that much");
        section.miss(Weight::Slow, format!("{name}: MTU {mtu}, below {MTU_WANTED}"), costs, mend);
    }
    let steered = receive.iter().any(|queue| {
        let mask = read(&format!("queues/{queue}/rps_cpus")).unwrap_or_default();
        mask.chars().any(|digit| digit.is_ascii_hexdigit() && digit != '0')
    });
    if driver.is_some() && receive.len() == 1 && cpus > 1 && !steered {
        let costs = "all frames interrupt one CPU, and take time from the core that is pinned there";
        let mend = format!(
            "ethtool -L {name} combined {cpus}; where that is refused: echo {} > /{NET}/{name}/queues/rx-0/rps_cpus",
            mask(cpus)
        );
        section.miss(Weight::Hint, format!("{name}: one receive queue for {cpus} CPUs"), costs, mend);
    }
}

/// The first `cpus` CPUs as the kernel writes sets: groups of 32 in hexadecimal digits, the highest first.
fn mask(cpus: usize) -> String {
    let (whole, rest) = (cpus / 32, cpus % 32);
    let mut groups = vec!["ffffffff".to_string(); whole];
    if rest > 0 {
        groups.insert(0, format!("{:x}", (1u64 << rest) - 1));
    }
    groups.join(",")
}

const NET: &str = "sys/class/net";
/// The longest datagram, and the headers of IPv4 and UDP before it.
const MTU_WANTED: usize = FRAME_BYTES + 20 + 8;

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    const ETH0: &[(&str, &str)] = &[
        ("sys/class/net/eth0/device/driver", "-> ../../bus/virtio/drivers/virtio_net"),
        ("sys/class/net/eth0/device/numa_node", "-1\n"),
        ("sys/class/net/eth0/operstate", "up\n"),
        ("sys/class/net/eth0/mtu", "1500\n"),
        ("sys/class/net/eth0/speed", "-1\n"),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000\n"),
        ("sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n"),
    ];
    const LO: &[(&str, &str)] = &[
        ("sys/class/net/lo/operstate", "unknown\n"),
        ("sys/class/net/lo/mtu", "65536\n"),
        ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
    ];

    fn with(changes: &[(&'static str, &'static str)]) -> Section {
        let kept = ETH0.iter().filter(|(path, _)| !changes.iter().any(|(changed, _)| changed == path));
        let files: Vec<(&str, &str)> = kept.chain(LO).chain(changes).copied().collect();
        let (machine, _directory) = made_of(&files);
        look(&machine, None, 4).unwrap()
    }

    #[test]
    fn devices_are_looked_at_and_the_others_when_they_are_asked_for() {
        let files: Vec<(&str, &str)> = ETH0.iter().chain(LO).copied().collect();
        let (machine, _directory) = made_of(&files);
        let section = look(&machine, None, 4).unwrap();
        assert_eq!(section.facts, ["eth0: driver virtio_net, 1 receive and 1 send queues"]);
        assert_eq!(section.whats(), [(Weight::Hint, "eth0: one receive queue for 4 CPUs")]);
        assert!(
            section.findings[0].mend.ends_with("echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus"),
            "{section:?}"
        );
        let lo = look(&machine, Some("lo"), 4).unwrap();
        assert_eq!((lo.facts.len(), lo.findings.len()), (1, 0));
        assert_eq!(look(&machine, Some("eth1"), 4), Err(vec!["eth0".to_string(), "lo".to_string()]));
    }

    #[test]
    fn what_keeps_frames_from_passing_is_found() {
        let short = with(&[
            ("sys/class/net/eth0/mtu", "1420\n"),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0,3\n"),
        ]);
        assert_eq!(short.whats(), [(Weight::Slow, "eth0: MTU 1420, below 1500")]);
        let down = with(&[
            ("sys/class/net/eth0/operstate", "down\n"),
            ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0"),
        ]);
        assert_eq!(down.whats(), [(Weight::Broken, "eth0: it is down")]);
        assert_eq!(down.findings[0].mend, "ip link set dev eth0 up");
        let fast =
            with(&[("sys/class/net/eth0/speed", "25000\n"), ("sys/class/net/eth0/device/numa_node", "1\n")]);
        assert!(fast.facts[0].ends_with(", 25000 Mb/s, NUMA node 1"), "{fast:?}");
    }

    #[test]
    fn sets_of_cpus_are_written_as_the_kernel_reads_them() {
        assert_eq!(
            [1, 4, 31, 32, 33, 96].map(mask),
            ["1", "f", "7fffffff", "ffffffff", "1,ffffffff", "ffffffff,ffffffff,ffffffff"]
        );
    }
}
