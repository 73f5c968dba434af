//! DPDK: whether this program has it, and whether the machine could give it a device.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;

/// `nic` is the interface asked for.
pub fn look(machine: &Machine, built_in: bool, nic: Option<&str>) -> Section {
    let mut section = Section::new("DPDK");
    if built_in {
        section.fact("this mako has it");
    } else {
        let packages =
            if has_package(machine) { "" } else { "apt-get install libdpdk-dev libclang-dev pkg-config && " };
        let costs = "nic = \"dpdk:…\" is refused: frames go through the kernel, at about half the requests per second";
        let mend = format!("{packages}cargo build --release --features dpdk");
        section.miss(Weight::Hint, "this mako was built without it", costs, mend);
    }
    if let Some(nic) = nic {
        look_at_device(machine, nic, &mut section);
    }
    section
}

fn look_at_device(machine: &Machine, nic: &str, section: &mut Section) {
    let device = format!("sys/class/net/{nic}/device");
    let Some(driver) = machine.link(&format!("{device}/driver")) else {
        let way =
            format!("{nic}: no device, so over the kernel only: nic = \"dpdk:net_af_packet0,iface={nic}\"");
        return section.fact(way);
    };
    if !DRIVERS.contains(&driver.as_str()) {
        let way = format!("{nic}: no driver for {driver} is linked; nic = \"dpdk:net_af_xdp0,iface={nic}\"");
        return section.fact(way);
    }
    let address = machine.link(&device).unwrap_or_default();
    section.fact(format!("{nic}: {driver} has a driver, nic = \"dpdk:{address}\""));
    // Whose driver shares the device with the kernel needs neither.
    if SHARED.contains(&driver.as_str()) {
        return;
    }
    if machine.names("sys/kernel/iommu_groups", "").is_empty() {
        let costs =
            "a device that DPDK takes from the kernel could write anywhere in memory, and is not given away";
        let mend = "enable VT-d or AMD-Vi in the firmware and boot with intel_iommu=on iommu=pt; in a virtual machine: \
                    modprobe vfio enable_unsafe_noiommu_mode=1";
        section.miss(Weight::Hint, format!("{nic}: this machine has no IOMMU"), costs, mend);
    }
    let costs = format!("DPDK does not get {address} as long as the kernel has it");
    let mend = format!(
        "modprobe vfio-pci && ip link set dev {nic} down && dpdk-devbind.py --bind=vfio-pci {address}"
    );
    section.miss(
        Weight::Hint,
        format!("{nic}: {address} is bound to {driver}, not to vfio-pci"),
        costs,
        mend,
    );
}

/// What `pkg-config` would find.
fn has_package(machine: &Machine) -> bool {
    let under = |library: &str| {
        let machines = machine.names(library, "").into_iter();
        let places = machines.map(|name| format!("{library}/{name}/pkgconfig/libdpdk.pc"));
        places.chain([format!("{library}/pkgconfig/libdpdk.pc")]).any(|path| machine.has(&path))
    };
    ["usr/lib", "usr/local/lib", "usr/lib64", "usr/local/lib64"].into_iter().any(under)
}

/// Drivers of the kernel's for whose devices one of DPDK's is linked (`build.rs`).
const DRIVERS: [&str; 10] =
    ["mlx5_core", "ena", "i40e", "iavf", "ice", "ixgbe", "igb", "e1000", "e1000e", "vmxnet3"];
const SHARED: [&str; 1] = ["mlx5_core"];

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    #[test]
    fn a_build_without_it_says_how_to_get_it() {
        let (bare, _directory) = made_of(&[]);
        assert!(look(&bare, false, None).findings[0].mend.starts_with("apt-get install libdpdk-dev "));
        let (ready, _directory) = made_of(&[("usr/lib/x86_64-linux-gnu/pkgconfig/libdpdk.pc", "")]);
        assert_eq!(look(&ready, false, None).findings[0].mend, "cargo build --release --features dpdk");
        assert!(look(&ready, true, None).findings.is_empty());
    }

    #[test]
    fn a_device_is_given_away_by_the_command_that_does_it() {
        let files = [
            ("sys/class/net/eth1/device", "-> ../../../0000:3b:00.0"),
            ("sys/0000:3b:00.0/driver", "-> ../bus/pci/drivers/ice"),
            ("sys/class/net/eth2/device", "-> ../../../0000:3c:00.0"),
            ("sys/0000:3c:00.0/driver", "-> ../bus/pci/drivers/mlx5_core"),
            ("sys/class/net/eth3/device/driver", "-> ../../virtio_net"),
            ("sys/class/net/veth0/mtu", "1500"),
        ];
        let (machine, _directory) = made_of(&files);
        let of = |nic: &str| look(&machine, true, Some(nic));
        assert_eq!(of("eth1").facts[1], "eth1: ice has a driver, nic = \"dpdk:0000:3b:00.0\"");
        let whats =
            ["eth1: this machine has no IOMMU", "eth1: 0000:3b:00.0 is bound to ice, not to vfio-pci"];
        assert_eq!(of("eth1").whats(), whats.map(|what| (Weight::Hint, what)));
        assert!(of("eth1").findings[1].mend.ends_with("dpdk-devbind.py --bind=vfio-pci 0000:3b:00.0"));
        assert!(of("eth2").findings.is_empty() && of("eth2").facts[1].contains("dpdk:0000:3c:00.0"));
        assert!(of("eth3").facts[1].contains("net_af_xdp0,iface=eth3"));
        assert!(of("veth0").facts[1].contains("net_af_packet0,iface=veth0"));
    }
}
