//! Which device a node uses, as its `nic` spells it: a PCI address, a MAC address or a virtual device.
//!
//! Never by number: that changes with what else is plugged in.
#![forbid(unsafe_code)]

use super::headers::Mac;
use std::ffi::{CStr, CString};
use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Device {
    /// On the PCI bus, with what its driver is told.
    Pci { address: String, arguments: String },
    /// Whichever has this address.
    Mac(Mac),
    /// Made by a driver, over an interface of the kernel for example.
    Virtual { name: String, arguments: String },
}

impl Device {
    /// `spelt` has passed the checks of the cluster file.
    pub fn parse(spelt: &str) -> Device {
        let (name, arguments) = spelt.split_once(',').unwrap_or((spelt, ""));
        let (name, arguments) = (name.to_string(), arguments.to_string());
        match Mac::parse(&name) {
            Some(mac) => Device::Mac(mac),
            None if name.starts_with("net_") => Device::Virtual { name, arguments },
            None => Device::Pci { address: name, arguments },
        }
    }

    /// Says how many queues are wanted, to drivers that must know when they are made, and what is known to be
    /// faster; what the cluster file says already is not said again.
    pub fn with_queues(self, queues: u16) -> Device {
        let Device::Virtual { name, mut arguments } = self else { return self };
        let wanted = if name.starts_with("net_af_xdp") {
            // A budget for the kernel to poll in makes each look at an empty queue a system call.
            vec![("queue_count", queues.to_string()), ("busy_budget", "0".to_string())]
        } else if name.starts_with("net_af_packet") {
            vec![("qpairs", queues.to_string()), ("qdisc_bypass", "1".to_string())]
        } else {
            Vec::new()
        };
        for (key, value) in wanted {
            let said = arguments.split(',').any(|argument| argument.split('=').next() == Some(key));
            if !said {
                let comma = if arguments.is_empty() { "" } else { "," };
                arguments = format!("{arguments}{comma}{key}={value}");
            }
        }
        Device::Virtual { name, arguments }
    }

    /// Bus, name and arguments, by which it is plugged in; `None` where it must be there already.
    pub fn plug(&self) -> Option<(&'static CStr, CString, CString)> {
        let text = |text: &String| CString::new(text.as_str()).expect("a device is spelt without zeros");
        match self {
            Device::Pci { address, arguments } => Some((c"pci", text(address), text(arguments))),
            Device::Virtual { name, arguments } => Some((c"vdev", text(name), text(arguments))),
            Device::Mac(_) => None,
        }
    }

    /// Whether all its mbufs must lie side by side in one piece of memory.
    ///
    /// `net_af_xdp` registers with the kernel one area: from the pool's first mbuf on, as many bytes as its mbufs
    /// take when they lie side by side. In an ordinary pool no mbuf crosses a page, so there is a gap at the end of
    /// each page (on ordinary pages one of 1.7 KiB in each 4 KiB), and the last mbufs are beyond the area. The
    /// kernel passes over a descriptor that points there, and never gives it back: each such mbuf is lost for good
    /// on its first use, and when as many are lost as the rings are long nothing goes any more.
    pub fn needs_one_piece(&self) -> bool {
        self.is_af_xdp()
    }

    /// Whether the kernel goes on calling a queue busy for some milliseconds after its last owner has ended: it
    /// takes an AF_XDP socket apart in the background.
    pub fn is_let_go_late(&self) -> bool {
        self.is_af_xdp()
    }

    /// Whether a queue that its driver refuses has to be refused once more before the port may be closed:
    /// `net_af_xdp` of DPDK 22.11 frees the umem that it had made, keeps its address, and counts down there
    /// when it closes; of one that fails before there is a umem it keeps no address.
    pub fn keeps_what_it_freed(&self) -> bool {
        self.is_af_xdp()
    }

    /// The interface of the kernel it is made over.
    pub fn interface(&self) -> Option<&str> {
        let Device::Virtual { arguments, .. } = self else { return None };
        arguments.split(',').find_map(|argument| argument.strip_prefix("iface="))
    }

    /// Whether no other port shares the program that has an interface's frames go to AF_XDP: one that leaves
    /// queues to others, or brings a program, may.
    pub fn owns_program(&self) -> bool {
        let Device::Virtual { arguments, .. } = self else { return false };
        let shares = |argument: &str| {
            let key = argument.split('=').next().unwrap_or_default();
            ["start_queue", "xdp_prog", "shared_umem"].contains(&key)
        };
        self.is_af_xdp() && !arguments.split(',').any(shares)
    }

    fn is_af_xdp(&self) -> bool {
        matches!(self, Device::Virtual { name, .. } if name.starts_with("net_af_xdp"))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Pci { address: name, .. } | Device::Virtual { name, .. } => f.write_str(name),
            Device::Mac(mac) => write!(f, "{mac}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_what_it_is_called() {
        let pci = |arguments: &str| Device::Pci {
            address: "0000:3b:00.0".to_string(),
            arguments: arguments.to_string(),
        };
        assert_eq!(Device::parse("0000:3b:00.0"), pci(""));
        assert_eq!(Device::parse("0000:3b:00.0,a=1,b=2"), pci("a=1,b=2"));
        assert_eq!(Device::parse("02:00:00:00:00:0a"), Device::Mac(Mac([2, 0, 0, 0, 0, 10])));
    }

    /// Who takes the program off an interface that is shared takes every frame from the others.
    #[test]
    fn an_interface_is_known_and_a_program_that_may_be_shared_is_not_ours() {
        let of = |spelt: &str| {
            let device = Device::parse(spelt);
            (device.interface().map(str::to_string), device.owns_program())
        };
        let eth1 = Some("eth1".to_string());
        assert_eq!(of("net_af_xdp0,iface=eth1"), (eth1.clone(), true));
        assert_eq!(of("net_af_xdp0,start_queue=2,iface=eth1"), (eth1.clone(), false));
        assert_eq!(of("net_af_xdp0,iface=eth1,xdp_prog=x.o"), (eth1.clone(), false));
        assert_eq!(of("net_af_packet0,iface=eth1"), (eth1, false));
        assert_eq!(of("net_ring0"), (None, false));
        assert_eq!(of("0000:3b:00.0"), (None, false));
    }

    #[test]
    fn a_virtual_device_is_told_how_many_queues_unless_it_was() {
        let told = |spelt: &str| match Device::parse(spelt).with_queues(3) {
            Device::Virtual { arguments, .. } => arguments,
            other => panic!("{other:?}"),
        };
        assert_eq!(told("net_af_xdp0,iface=eth1"), "iface=eth1,queue_count=3,busy_budget=0");
        let chosen = "iface=e,busy_budget=64";
        assert_eq!(told(&format!("net_af_xdp0,{chosen}")), format!("{chosen},queue_count=3"));
        assert_eq!(told("net_af_packet0,iface=e,qpairs=4"), "iface=e,qpairs=4,qdisc_bypass=1");
        assert_eq!(told("net_ring0"), "");
    }
}
